//! System calls: clone, clone3, fork, vfork.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use linux_raw_sys::general::*;
use rumpkern::{Errno, Result};
use rumpuser::{memory::USER_END, rumpuser_clear_interrupt, rumpuser_memory_statistics};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    exit,
    limits::{INFINITY, Resource},
    process::{Process, ProcessSpec},
    registry, run,
    signal::{
        frame::extended_state,
        number::{SIGCHLD, SIGRTMAX},
    },
    task::{AlternateStack, Task, TaskSpec},
    user::{UserPtr, read_bytes},
};

/// The flags that are understood.
const KNOWN: u64 = (CLONE_VM
    | CLONE_FS
    | CLONE_FILES
    | CLONE_SIGHAND
    | CLONE_PIDFD
    | CLONE_PTRACE
    | CLONE_VFORK
    | CLONE_PARENT
    | CLONE_THREAD
    | CLONE_SYSVSEM
    | CLONE_SETTLS
    | CLONE_PARENT_SETTID
    | CLONE_CHILD_CLEARTID
    | CLONE_DETACHED
    | CLONE_UNTRACED
    | CLONE_CHILD_SETTID
    | CLONE_IO) as u64
    | CLONE_CLEAR_SIGHAND;

/// `struct clone_args`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Arguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

impl Arguments {
    fn has(&self, flag: u32) -> bool {
        self.flags & u64::from(flag) != 0
    }
}

/// clone(2).
pub fn clone(
    task: &Task,
    flags: u64,
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
) -> Result<usize> {
    let flags = flags & 0xffff_ffff;
    let arguments = Arguments {
        flags: flags & !0xff,
        pidfd: parent_tid,
        child_tid,
        parent_tid,
        exit_signal: flags & 0xff,
        stack,
        tls,
        ..Default::default()
    };
    if arguments.has(CLONE_PIDFD) && arguments.has(CLONE_PARENT_SETTID) {
        return Err(Errno::EINVAL);
    }
    start(task, &arguments)
}

/// clone3(2).
pub fn clone3(task: &Task, arguments: usize, size: usize) -> Result<usize> {
    const FIRST_VERSION: usize = 64;
    if size > rumpuser::memory::PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    if size < FIRST_VERSION {
        return Err(Errno::EINVAL);
    }
    let mut parsed = Arguments::default();
    let known = size.min(size_of::<Arguments>());
    read_bytes(arguments, &mut parsed.as_mut_bytes()[..known])?;
    let mut rest = alloc::vec![0u8; size - known];
    read_bytes(arguments.wrapping_add(known), &mut rest)?;
    if rest.iter().any(|&byte| byte != 0) {
        return Err(Errno::E2BIG);
    }
    let exclusive = CLONE_DETACHED | 0xff;
    if parsed.flags & u64::from(exclusive) != 0
        || parsed.exit_signal > u64::from(SIGRTMAX)
        || (parsed.stack == 0) != (parsed.stack_size == 0)
        || parsed.set_tid_size != 0
        || parsed.has(CLONE_THREAD) && parsed.exit_signal != 0
    {
        return Err(Errno::EINVAL);
    }
    parsed.stack = parsed.stack.checked_add(parsed.stack_size).ok_or(Errno::EINVAL)?;
    start(task, &parsed)
}

/// fork(2).
pub fn fork(task: &Task) -> Result<usize> {
    start(task, &Arguments { exit_signal: u64::from(SIGCHLD), ..Default::default() })
}

/// vfork(2).
pub fn vfork(task: &Task) -> Result<usize> {
    let flags = u64::from(CLONE_VFORK | CLONE_VM);
    start(task, &Arguments { flags, exit_signal: u64::from(SIGCHLD), ..Default::default() })
}

fn check(arguments: &Arguments) -> Result<()> {
    let unknown = arguments.flags & !KNOWN;
    if unknown != 0 {
        // Namespaces and control groups: there is only one of each.
        return Err(Errno::EINVAL);
    }
    if arguments.has(CLONE_SIGHAND) && !arguments.has(CLONE_VM)
        || arguments.has(CLONE_THREAD) && !arguments.has(CLONE_SIGHAND)
        || arguments.has(CLONE_SIGHAND) && arguments.flags & CLONE_CLEAR_SIGHAND != 0
        || arguments.has(CLONE_THREAD) && arguments.has(CLONE_PIDFD)
        || arguments.exit_signal > u64::from(SIGRTMAX)
    {
        return Err(Errno::EINVAL);
    }
    if arguments.has(CLONE_SETTLS) && arguments.tls as usize >= USER_END {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// Refuses when there are too many tasks or too little memory: what stops a fork bomb.
fn admit(task: &Task, new_process: bool) -> Result<()> {
    let memory = rumpuser_memory_statistics();
    let reserve = memory.total / if new_process { 16 } else { 64 };
    if registry::task_count() >= registry::most_tasks() || memory.free < reserve {
        return Err(Errno::EAGAIN);
    }
    let credentials = task.credentials();
    let limit = task.process().limit(Resource::Processes);
    const CAP_SYS_ADMIN: u32 = 21;
    const CAP_SYS_RESOURCE: u32 = 24;
    let exempt =
        credentials.uid == 0 || credentials.capable(CAP_SYS_ADMIN) || credentials.capable(CAP_SYS_RESOURCE);
    if !exempt && limit != INFINITY && registry::count_of_user(credentials.uid) as u64 >= limit {
        return Err(Errno::EAGAIN);
    }
    Ok(())
}

fn start(task: &Task, arguments: &Arguments) -> Result<usize> {
    check(arguments)?;
    let thread = arguments.has(CLONE_THREAD);
    admit(task, !thread)?;
    let (context, state) = task.with_context(|context| {
        let state = extended_state(context);
        let mut child = context.clone();
        child.registers.rax = 0;
        if arguments.stack != 0 {
            child.registers.rsp = arguments.stack;
        }
        if arguments.has(CLONE_SETTLS) {
            child.registers.fs_base = arguments.tls;
        }
        (child, state)
    });
    let tid = registry::allocate()?;
    let process = if thread { task.process().clone() } else { new_process(task, arguments, tid)? };
    let keeps_stack = !arguments.has(CLONE_VM) || arguments.has(CLONE_VFORK);
    let stack = if keeps_stack { task.signals.lock().stack } else { AlternateStack::DISABLED };
    let child = Task::new(TaskSpec {
        tid,
        process: process.clone(),
        context,
        files: if arguments.has(CLONE_FILES) { task.files().clone() } else { task.files().fork() },
        filesystem: if arguments.has(CLONE_FS) {
            task.filesystem().clone()
        } else {
            task.filesystem().fork()
        },
        credentials: task.shared_credentials(),
        name: task.name_bytes(),
        mask: task.mask(),
        stack,
    });
    if arguments.has(CLONE_CHILD_SETTID) {
        child.set_child_tid.store(arguments.child_tid as usize, Ordering::Relaxed);
    }
    if arguments.has(CLONE_CHILD_CLEARTID) {
        child.clear_child_tid.store(arguments.child_tid as usize, Ordering::Relaxed);
    }
    if arguments.has(CLONE_VFORK) {
        child.holds_parent.store(true, Ordering::Relaxed);
    }
    child.no_new_privileges.store(task.no_new_privileges.load(Ordering::Relaxed), Ordering::Relaxed);
    if arguments.has(CLONE_PARENT_SETTID) {
        UserPtr::new(arguments.parent_tid as usize).write(&tid)?;
    }
    if arguments.has(CLONE_PIDFD) {
        let descriptor = crate::pidfd::install(task, &process, 0)?;
        UserPtr::new(arguments.pidfd as usize).write(&(descriptor as i32))?;
    }
    publish(task, &child, thread, arguments)?;
    let thread_of = task.thread();
    let affinity = thread_of.as_ref().map_or(u64::MAX, |thread| thread.affinity());
    let nice = task.nice.load(Ordering::Relaxed);
    child.nice.store(nice, Ordering::Relaxed);
    if let Err(error) = run::start(child.clone(), affinity, nice, state) {
        withdraw(&child, thread);
        return Err(if error == Errno::ENOMEM { Errno::EAGAIN } else { error });
    }
    if arguments.has(CLONE_VFORK) {
        wait_for_release(task, &child);
    }
    Ok(tid as usize)
}

fn new_process(task: &Task, arguments: &Arguments, pid: i32) -> Result<Arc<Process>> {
    let process = task.process();
    let space = process.space().ok_or(Errno::ESRCH)?;
    let space = if arguments.has(CLONE_VM) { space } else { space.fork()? };
    let actions = process.actions();
    let actions = if arguments.has(CLONE_SIGHAND) { actions } else { Arc::new(actions.duplicate()) };
    if arguments.flags & CLONE_CLEAR_SIGHAND != 0 {
        actions.reset_handlers();
    }
    let parent = if arguments.has(CLONE_PARENT) { process.parent() } else { Some(process.clone()) };
    let exit_signal = if arguments.has(CLONE_PARENT) {
        process.exit_signal.load(Ordering::Relaxed)
    } else {
        arguments.exit_signal as u32
    };
    let child = Process::new(ProcessSpec {
        pid,
        parent: parent.as_ref().map(Arc::downgrade).unwrap_or_default(),
        group: process.group(),
        session: process.session(),
        space,
        actions,
        limits: process.limits(),
        executable: process.executable(),
        exit_signal,
    });
    child.uid.store(process.uid.load(Ordering::Relaxed), Ordering::Relaxed);
    crate::timers::limit_cpu(&child);
    child.dumpable.store(process.dumpable.load(Ordering::Relaxed), Ordering::Relaxed);
    Ok(child)
}

/// Makes the child known. EINTR if the process is ending (the caller ends too).
fn publish(task: &Task, child: &Arc<Task>, thread: bool, arguments: &Arguments) -> Result<()> {
    let process = child.process();
    if thread {
        let mut tasks = process.tasks.lock();
        if process.exiting.load(Ordering::SeqCst) || task.dying.load(Ordering::Acquire) {
            return Err(Errno::EINTR);
        }
        tasks.push(child.clone());
    } else {
        process.tasks.lock().push(child.clone());
        let own = task.process();
        let parent = if arguments.has(CLONE_PARENT) { own.parent() } else { Some(own.clone()) };
        registry::add_process(process);
        if let Some(parent) = parent {
            parent.children.lock().push(process.clone());
        }
    }
    registry::add_task(child);
    Ok(())
}

/// Undoes [`publish`].
fn withdraw(child: &Arc<Task>, thread: bool) {
    let process = child.process();
    process.tasks.lock().retain(|other| !Arc::ptr_eq(other, child));
    registry::remove_task(child.tid());
    if !thread {
        if let Some(parent) = process.parent() {
            exit::reap(&parent, process);
        }
        registry::remove_process(process.pid());
    }
}

/// The new task's first act, in its own thread and address space.
pub fn announce(task: &Task) {
    let address = task.set_child_tid.swap(0, Ordering::Relaxed);
    if address != 0 {
        // A bad address is the program's own affair, as in Linux.
        let _ = UserPtr::new(address).write(&task.tid());
    }
}

/// vfork: the parent sleeps until the child executes a program or ends; only its own end comes sooner.
fn wait_for_release(task: &Task, child: &Arc<Task>) {
    let process = child.process();
    let mut interrupted = false;
    loop {
        let released = || (!child.holds_parent.load(Ordering::Acquire)).then_some(());
        match process.ended.wait(rumpuser::NEVER, released) {
            Ok(()) => break,
            Err(_) if task.dying.load(Ordering::Acquire) || crate::oom::is_killed(task) => {
                interrupted = true;
                break;
            }
            Err(_) => {
                interrupted = true;
                rumpuser_clear_interrupt();
            }
        }
    }
    if interrupted {
        task.interrupt();
    }
}

/// The task needs its vfork parent's memory no more.
pub fn release_parent(task: &Task) {
    if task.holds_parent.swap(false, Ordering::AcqRel) {
        task.process().ended.wake_all();
    }
}

/// set_tid_address(2).
pub fn set_tid_address(task: &Task, address: usize) -> Result<usize> {
    task.clear_child_tid.store(address, Ordering::Relaxed);
    Ok(task.tid() as usize)
}
