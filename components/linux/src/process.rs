//! A process: what its tasks share, and its place among the others.

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use rumpkern::wait::WaitQueue;
use rumpuser::sync::{Mutex, SpinLock};
use rumpvfs::mount::Location;

use crate::{
    limits::{Limits, Resource},
    signal::{Actions, queue::Pending},
    space::Space,
    task::Task,
    timers::Timers,
};

/// CPU time and the like, of those that have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nanoseconds in user mode.
    pub user: u64,
    /// Nanoseconds in the kernel.
    pub system: u64,
    /// The largest resident set, in pages.
    pub resident: u64,
    /// Page faults without I/O.
    pub minor_faults: u64,
}

/// Stopped, or about to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobState {
    /// The signal that stopped the process; 0: it runs.
    pub stopped_by: u32,
    /// A stop that the parent has not waited for.
    pub stop_unreported: bool,
    /// A continuation that the parent has not waited for.
    pub continue_unreported: bool,
}

/// See the module.
pub struct Process {
    /// Its identifier.
    pid: i32,
    /// Process group and session.
    pub(crate) group: AtomicI32,
    /// See `group`.
    pub(crate) session: AtomicI32,
    pub(crate) parent: SpinLock<Weak<Process>>,
    pub(crate) children: Mutex<Vec<Arc<Process>>>,
    /// Tasks that have not ended. The lock also orders clone against exit.
    pub(crate) tasks: Mutex<Vec<Arc<Task>>>,
    space: SpinLock<Option<Arc<Space>>>,
    actions: SpinLock<Arc<Actions>>,
    /// Signals sent to the process as a whole.
    pub(crate) pending: SpinLock<Pending>,
    pub(crate) job: SpinLock<JobState>,
    /// Where stopped tasks wait.
    pub(crate) continued: WaitQueue,
    /// Where parents wait for children (of this process) to change.
    pub(crate) child_changed: WaitQueue,
    limits: SpinLock<Limits>,
    /// Set once by whoever ends the process first: exit_group, a fatal signal.
    pub(crate) exiting: AtomicBool,
    /// The wait status, valid once `exiting`.
    pub(crate) status: AtomicU32,
    /// No task is left; the parent may reap it.
    pub(crate) zombie: AtomicBool,
    /// Told of the end; what pidfds and vfork wait for.
    pub(crate) ended: WaitQueue,
    /// Sent to the parent when the process ends; 0 is none.
    pub(crate) exit_signal: AtomicU32,
    /// Of the tasks that have ended.
    pub(crate) usage: SpinLock<Usage>,
    /// Of the children that were waited for.
    pub(crate) children_usage: SpinLock<Usage>,
    /// Monotonic time when it started.
    pub started: u64,
    /// Where the program is (/proc/self/exe).
    executable: SpinLock<Option<Location>>,
    /// It called execve since it was forked (setpgid refuses then).
    pub(crate) executed: AtomicBool,
    /// Orphans are given to it (prctl PR_SET_CHILD_SUBREAPER).
    pub(crate) subreaper: AtomicBool,
    /// prctl PR_SET_DUMPABLE.
    pub(crate) dumpable: AtomicU32,
    /// prctl PR_SET_THP_DISABLE.
    pub(crate) huge_pages_disabled: AtomicBool,
    /// Page faults so far.
    pub(crate) faults: AtomicU64,
    /// What identifies its private futexes: its address space.
    space_identity: AtomicUsize,
    /// Told when a signal arrives; what signalfd waits for.
    pub(crate) signalled: WaitQueue,
    /// Told when a task has ended; what execve waits for.
    pub(crate) task_left: WaitQueue,
    /// The real user, for SIGCHLD.
    pub(crate) uid: AtomicU32,
    /// Somebody waited for the zombie.
    pub(crate) reaped: AtomicBool,
    /// The image's init started it and waits for it.
    pub(crate) supervised: AtomicBool,
    /// Interval timers and POSIX timers.
    pub(crate) timers: Timers,
}

/// What a new process starts from.
pub struct ProcessSpec {
    /// Its identifier.
    pub pid: i32,
    /// Its parent; none for the first.
    pub parent: Weak<Process>,
    /// Its group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// Its memory.
    pub space: Arc<Space>,
    /// Its signal actions.
    pub actions: Arc<Actions>,
    /// Its limits.
    pub limits: Limits,
    /// Where the program is.
    pub executable: Option<Location>,
    /// Sent to the parent when it ends.
    pub exit_signal: u32,
}

impl Process {
    /// A process without tasks.
    pub fn new(spec: ProcessSpec) -> Arc<Process> {
        Arc::new(Process {
            pid: spec.pid,
            group: AtomicI32::new(spec.group),
            session: AtomicI32::new(spec.session),
            parent: SpinLock::new(spec.parent),
            children: Mutex::new(Vec::new()),
            tasks: Mutex::new(Vec::new()),
            space: SpinLock::new(Some(spec.space.clone())),
            actions: SpinLock::new(spec.actions),
            pending: SpinLock::new(Pending::default()),
            job: SpinLock::new(JobState::default()),
            continued: WaitQueue::new(),
            child_changed: WaitQueue::new(),
            limits: SpinLock::new(spec.limits),
            exiting: AtomicBool::new(false),
            status: AtomicU32::new(0),
            zombie: AtomicBool::new(false),
            ended: WaitQueue::new(),
            exit_signal: AtomicU32::new(spec.exit_signal),
            usage: SpinLock::new(Usage::default()),
            children_usage: SpinLock::new(Usage::default()),
            started: rumpuser::rumpuser_clock_monotonic(),
            executable: SpinLock::new(spec.executable),
            executed: AtomicBool::new(false),
            subreaper: AtomicBool::new(false),
            dumpable: AtomicU32::new(1),
            huge_pages_disabled: AtomicBool::new(false),
            faults: AtomicU64::new(0),
            space_identity: AtomicUsize::new(Arc::as_ptr(&spec.space) as usize),
            signalled: WaitQueue::new(),
            task_left: WaitQueue::new(),
            uid: AtomicU32::new(0),
            reaped: AtomicBool::new(false),
            supervised: AtomicBool::new(false),
            timers: Timers::default(),
        })
    }

    /// The identifier (getpid).
    #[inline]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The process group.
    pub fn group(&self) -> i32 {
        self.group.load(Ordering::Relaxed)
    }

    /// The session.
    pub fn session(&self) -> i32 {
        self.session.load(Ordering::Relaxed)
    }

    /// The parent, if it lives.
    pub fn parent(&self) -> Option<Arc<Process>> {
        self.parent.lock().upgrade()
    }

    /// The parent's identifier; 0 for the first process.
    pub fn parent_pid(&self) -> i32 {
        self.parent().map_or(0, |parent| parent.pid)
    }

    /// The address space; `None` once the process has ended.
    pub fn space(&self) -> Option<Arc<Space>> {
        self.space.lock().clone()
    }

    /// Replaces the address space (execve; `None` at the end); returns the old one.
    pub(crate) fn replace_space(&self, space: Option<Arc<Space>>) -> Option<Arc<Space>> {
        let identity = space.as_ref().map_or(0, |space| Arc::as_ptr(space) as usize);
        let old = core::mem::replace(&mut *self.space.lock(), space);
        self.space_identity.store(identity, Ordering::Relaxed);
        old
    }

    /// What identifies the address space among those that exist.
    #[inline]
    pub(crate) fn space_identity(&self) -> usize {
        self.space_identity.load(Ordering::Relaxed)
    }

    /// The signal actions.
    pub fn actions(&self) -> Arc<Actions> {
        self.actions.lock().clone()
    }

    /// Replaces the actions (execve unshares them).
    pub(crate) fn replace_actions(&self, actions: Arc<Actions>) {
        *self.actions.lock() = actions;
    }

    /// All limits.
    pub fn limits(&self) -> Limits {
        *self.limits.lock()
    }

    /// The limit in force for a resource.
    pub fn limit(&self, resource: Resource) -> u64 {
        self.limits.lock().soft(resource)
    }

    /// Changes the limits.
    pub(crate) fn with_limits<T>(&self, change: impl FnOnce(&mut Limits) -> T) -> T {
        change(&mut self.limits.lock())
    }

    /// The tasks that have not ended.
    pub fn tasks(&self) -> Vec<Arc<Task>> {
        self.tasks.lock().clone()
    }

    /// Where the program that runs is; none for the image's init.
    pub fn executable(&self) -> Option<Location> {
        self.executable.lock().clone()
    }

    /// Sets it.
    pub(crate) fn set_executable(&self, location: Option<Location>) {
        let old = core::mem::replace(&mut *self.executable.lock(), location);
        drop(old);
    }

    /// Whether it has ended and waits to be reaped.
    pub fn is_zombie(&self) -> bool {
        self.zombie.load(Ordering::Acquire)
    }
}
