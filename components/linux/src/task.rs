//! A task: one thread of a process, as Linux schedules it.
#![allow(
    unsafe_code,
    reason = "the platform keeps the current task as a raw pointer; registers are the thread's own"
)]

use alloc::{
    string::String,
    sync::{Arc, Weak},
};
use core::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, AtomicI8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

use rumpuser::{
    NEVER, Thread, UserContext, rumpuser_clock_monotonic, rumpuser_curlwp, rumpuser_set_curlwp,
    sync::SpinLock,
};

use crate::{
    credentials::Credentials,
    files::{DescriptorTable, FsContext},
    futex::bucket::Waiter,
    owned::Owned,
    process::Process,
    signal::{SignalSet, queue::Pending},
};

/// Bytes in a task's name, its NUL included.
pub const NAME_LENGTH: usize = 16;

/// The alternate signal stack, as sigaltstack(2) has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlternateStack {
    /// Lowest address.
    pub base: usize,
    /// Bytes.
    pub size: usize,
    /// `SS_*`.
    pub flags: i32,
}

/// What a task keeps for itself about signals; changed by its own thread.
pub struct SignalState {
    /// Sent to this task alone.
    pub pending: Pending,
    /// See sigaltstack(2).
    pub stack: AlternateStack,
    /// The mask to go back to after the handler that interrupted sigsuspend, ppoll and the like.
    pub saved_mask: Option<SignalSet>,
}

/// See the module.
pub struct Task {
    /// Its identifier; the first task of a process has the process's.
    tid: AtomicU32,
    myself: Weak<Task>,
    process: Arc<Process>,
    thread: SpinLock<Option<Thread>>,
    context: UnsafeCell<UserContext>,
    files: Owned<Option<Arc<DescriptorTable>>>,
    filesystem: Owned<Option<Arc<FsContext>>>,
    credentials: Owned<Arc<Credentials>>,
    name: SpinLock<[u8; NAME_LENGTH]>,
    /// Blocked signals.
    pub(crate) mask: AtomicU64,
    /// The rest of the signal state.
    pub(crate) signals: SpinLock<SignalState>,
    /// The task must end: its process exits or executes another program.
    pub(crate) dying: AtomicBool,
    /// Where to write 0 and wake a futex when the task ends.
    pub(crate) clear_child_tid: AtomicUsize,
    /// The robust futex list's head; 0 is none.
    pub(crate) robust_list: AtomicUsize,
    /// The deadline of the call that runs, kept when it is restarted; [`NEVER`] if none was asked for.
    restart_deadline: AtomicU64,
    /// The call that runs is a restart.
    pub(crate) restarting: AtomicBool,
    /// Signals that rt_sigtimedwait waits for now.
    pub(crate) awaited: AtomicU64,
    /// Where to write the tid when the task starts; 0 is nowhere.
    pub(crate) set_child_tid: AtomicUsize,
    /// A vfork parent waits until the task executes a program or ends.
    pub(crate) holds_parent: AtomicBool,
    /// prctl PR_SET_NO_NEW_PRIVS.
    pub(crate) no_new_privileges: AtomicBool,
    /// prctl PR_SET_KEEPCAPS.
    pub(crate) keep_capabilities: AtomicBool,
    /// Its nice value.
    pub(crate) nice: AtomicI8,
    /// What it waits with for futexes.
    futex_waiter: SpinLock<Option<Arc<Waiter>>>,
    /// Scheduling policy and priority, and I/O priority, as they were set.
    pub(crate) policy: SpinLock<Policy>,
    /// Timer slack in nanoseconds (prctl PR_SET_TIMERSLACK).
    pub(crate) timer_slack: AtomicU64,
    /// The signal to get when the parent task ends (prctl PR_SET_PDEATHSIG); 0 is none.
    pub(crate) parent_death_signal: AtomicU32,
}

// SAFETY: everything but `context` is Sync by itself; `context` is used by the task's own thread only, which
// `with_context` checks.
unsafe impl Sync for Task {}
// SAFETY: nothing in it is bound to a thread.
unsafe impl Send for Task {}

/// What sched_setscheduler and ioprio_set keep; the scheduler itself is fair to all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// `SCHED_*`.
    pub policy: i32,
    /// Real-time priority.
    pub priority: i32,
    /// Children start with the default policy.
    pub reset_on_fork: bool,
    /// I/O class and level.
    pub io: i32,
}

/// What a new task starts from.
pub struct TaskSpec {
    /// Its identifier.
    pub tid: i32,
    /// Its process.
    pub process: Arc<Process>,
    /// Its registers.
    pub context: UserContext,
    /// Its descriptors.
    pub files: Arc<DescriptorTable>,
    /// Its file system context.
    pub filesystem: Arc<FsContext>,
    /// Who it is.
    pub credentials: Arc<Credentials>,
    /// Its name.
    pub name: [u8; NAME_LENGTH],
    /// Its blocked signals.
    pub mask: SignalSet,
    /// Its alternate signal stack.
    pub stack: AlternateStack,
}

impl AlternateStack {
    /// None.
    pub const DISABLED: AlternateStack = AlternateStack { base: 0, size: 0, flags: 2 };
}

impl Task {
    /// A task without a thread yet.
    pub fn new(spec: TaskSpec) -> Arc<Task> {
        Arc::new_cyclic(|myself| Task {
            tid: AtomicU32::new(spec.tid as u32),
            myself: myself.clone(),
            process: spec.process,
            thread: SpinLock::new(None),
            context: UnsafeCell::new(spec.context),
            files: Owned::new(Some(spec.files)),
            filesystem: Owned::new(Some(spec.filesystem)),
            credentials: Owned::new(spec.credentials),
            name: SpinLock::new(spec.name),
            mask: AtomicU64::new(spec.mask.0),
            signals: SpinLock::new(SignalState {
                pending: Pending::default(),
                stack: spec.stack,
                saved_mask: None,
            }),
            dying: AtomicBool::new(false),
            clear_child_tid: AtomicUsize::new(0),
            robust_list: AtomicUsize::new(0),
            restart_deadline: AtomicU64::new(NEVER),
            restarting: AtomicBool::new(false),
            awaited: AtomicU64::new(0),
            set_child_tid: AtomicUsize::new(0),
            holds_parent: AtomicBool::new(false),
            no_new_privileges: AtomicBool::new(false),
            keep_capabilities: AtomicBool::new(false),
            nice: AtomicI8::new(0),
            futex_waiter: SpinLock::new(None),
            policy: SpinLock::new(Policy::default()),
            timer_slack: AtomicU64::new(50_000),
            parent_death_signal: AtomicU32::new(0),
        })
    }

    /// Calls `f` with the task that the calling thread runs; `None` in a kernel thread.
    #[inline]
    pub fn with_current<T>(f: impl FnOnce(Option<&Task>) -> T) -> T {
        let pointer = rumpuser_curlwp().cast::<Task>();
        // SAFETY: the pointer is set by `bind`, whose task stays alive until `unbind`, in this same thread.
        f(unsafe { pointer.as_ref() })
    }

    /// The task that the calling thread runs; `None` in a kernel thread.
    pub fn current() -> Option<Arc<Task>> {
        Task::with_current(|task| task.map(Task::arc))
    }

    /// Whether the calling thread runs this task.
    #[inline]
    pub fn is_current(&self) -> bool {
        core::ptr::eq(rumpuser_curlwp().cast::<Task>(), self)
    }

    /// Makes the calling thread run this task.
    ///
    /// # Safety
    /// The caller keeps the task alive until it calls [`Task::unbind`], and no other thread runs it.
    pub(crate) unsafe fn bind(&self, thread: Thread) {
        *self.futex_waiter.lock() = Some(Waiter::new(thread.clone()));
        *self.thread.lock() = Some(thread);
        rumpuser_set_curlwp(core::ptr::from_ref(self).cast_mut().cast());
    }

    /// Ends [`Task::bind`].
    pub(crate) fn unbind(&self) {
        rumpuser_set_curlwp(core::ptr::null_mut());
        *self.thread.lock() = None;
        *self.futex_waiter.lock() = None;
    }

    /// What the task waits with for futexes.
    pub(crate) fn futex_waiter(&self) -> Arc<Waiter> {
        let waiter = self.futex_waiter.lock().clone();
        waiter.unwrap_or_else(|| Waiter::new(rumpuser::rumpuser_thread_current()))
    }

    /// CPU time used: (in user mode, in the kernel).
    pub fn cpu_time(&self) -> (u64, u64) {
        self.thread().map_or((0, 0), |thread| thread.cpu_time())
    }

    /// Gives up descriptors and file system context at the task's end. By its own thread, which serves no call.
    pub(crate) fn release_files(&self) {
        // SAFETY: the task's run loop has ended, so that no call holds references into the task.
        let (files, context) = unsafe { (self.replace_files(None), self.replace_filesystem(None)) };
        if let Some(files) = files.and_then(Arc::into_inner) {
            files.close_all();
        }
        drop(context);
    }

    /// A counted reference to this task.
    pub fn arc(&self) -> Arc<Task> {
        self.myself.upgrade().expect("a task in use is alive")
    }

    /// The identifier (gettid).
    #[inline]
    pub fn tid(&self) -> i32 {
        self.tid.load(Ordering::Relaxed) as i32
    }

    /// Takes over another identifier: the task that executes a program becomes its process's first.
    pub(crate) fn set_tid(&self, tid: i32) {
        self.tid.store(tid as u32, Ordering::Relaxed);
    }

    /// The process it belongs to.
    #[inline]
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// The platform's thread, once it runs and until it ends.
    pub fn thread(&self) -> Option<Thread> {
        self.thread.lock().clone()
    }

    /// Makes the task look at its signals soon, whatever it does.
    pub fn interrupt(&self) {
        if let Some(thread) = self.thread() {
            thread.interrupt();
        }
    }

    /// Calls `f` with the user registers. Panics unless the calling thread runs this task.
    #[inline]
    pub fn with_context<T>(&self, f: impl FnOnce(&mut UserContext) -> T) -> T {
        assert!(self.is_current());
        // SAFETY: only the task's own thread comes here, and `f` is never given the task's run loop to call.
        f(unsafe { &mut *self.context.get() })
    }

    /// The descriptor table, for the task's own thread.
    #[inline]
    pub fn files(&self) -> &Arc<DescriptorTable> {
        self.files.get(self).as_ref().expect("a running task has descriptors")
    }

    /// The descriptor table, for any thread; `None` once the task has ended.
    pub fn shared_files(&self) -> Option<Arc<DescriptorTable>> {
        self.files.clone_value()
    }

    /// Replaces the descriptor table; returns the old one.
    ///
    /// # Safety
    /// As [`Owned::replace`]: by the task's own thread, which holds no result of [`Task::files`].
    pub(crate) unsafe fn replace_files(
        &self,
        files: Option<Arc<DescriptorTable>>,
    ) -> Option<Arc<DescriptorTable>> {
        // SAFETY: the caller's promise.
        unsafe { self.files.replace(files) }
    }

    /// Root, working directory and umask, for the task's own thread.
    #[inline]
    pub fn filesystem(&self) -> &Arc<FsContext> {
        self.filesystem.get(self).as_ref().expect("a running task has a file system context")
    }

    /// The same for any thread; `None` once the task has ended.
    pub fn shared_filesystem(&self) -> Option<Arc<FsContext>> {
        self.filesystem.clone_value()
    }

    /// Replaces the file system context; returns the old one.
    ///
    /// # Safety
    /// As [`Owned::replace`]: by the task's own thread, which holds no result of [`Task::filesystem`].
    pub(crate) unsafe fn replace_filesystem(
        &self,
        context: Option<Arc<FsContext>>,
    ) -> Option<Arc<FsContext>> {
        // SAFETY: the caller's promise.
        unsafe { self.filesystem.replace(context) }
    }

    /// Gives the task a root, working directory and umask of its own (unshare CLONE_FS). By its own thread.
    pub(crate) fn unshare_filesystem(&self) {
        let copy = self.filesystem().fork();
        // SAFETY: the reference above has ended, and callers hold none.
        drop(unsafe { self.replace_filesystem(Some(copy)) });
    }

    /// Who the task is, for its own thread.
    #[inline]
    pub fn credentials(&self) -> &Credentials {
        self.credentials.get(self)
    }

    /// Who the task is, for any thread.
    pub fn shared_credentials(&self) -> Arc<Credentials> {
        self.credentials.clone_value()
    }

    /// Changes who the task is. By its own thread, which holds no result of [`Task::credentials`].
    pub(crate) fn publish_credentials(&self, credentials: Credentials) {
        assert!(self.is_current());
        // SAFETY: the callers, the calls that change credentials, work on copies: they hold no reference.
        drop(unsafe { self.credentials.replace(Arc::new(credentials)) });
    }

    /// The name (comm) as bytes with its NUL.
    pub fn name_bytes(&self) -> [u8; NAME_LENGTH] {
        *self.name.lock()
    }

    /// The name, for messages and /proc.
    pub fn name(&self) -> String {
        let bytes = self.name_bytes();
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }

    /// Sets the name: cut at 15 bytes.
    pub fn set_name(&self, name: &[u8]) {
        *self.name.lock() = name_from(name);
    }

    /// The blocked signals.
    pub fn mask(&self) -> SignalSet {
        SignalSet(self.mask.load(Ordering::Relaxed))
    }

    /// The monotonic deadline `nanoseconds` from now, or the same as before if the call that runs is being
    /// restarted after a signal that ran no handler: a relative timeout must not start anew.
    pub fn deadline_after(&self, nanoseconds: u64) -> u64 {
        if self.restarting.swap(false, Ordering::Relaxed) {
            let deadline = self.restart_deadline.load(Ordering::Relaxed);
            if deadline != NEVER {
                return deadline;
            }
        }
        let deadline = rumpuser_clock_monotonic().saturating_add(nanoseconds).min(NEVER - 1);
        self.restart_deadline.store(deadline, Ordering::Relaxed);
        deadline
    }
}

/// A task's name from any bytes.
pub fn name_from(name: &[u8]) -> [u8; NAME_LENGTH] {
    let mut bytes = [0; NAME_LENGTH];
    let length = name.iter().position(|&byte| byte == 0).unwrap_or(name.len()).min(NAME_LENGTH - 1);
    bytes[..length].copy_from_slice(&name[..length]);
    bytes
}
