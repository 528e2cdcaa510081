//! The end of tasks and processes, and what their parents hear of it.

use alloc::sync::{Arc, Weak};
use core::sync::atomic::Ordering;

use rumpkern::{Result, poll::Events};
use rumpuser::rumpuser_pmap_activate;

use crate::{
    console, futex,
    process::Process,
    registry, run,
    signal::{self, Action, SignalInfo, deliver, number::*, send},
    task::Task,
    user::UserPtr,
};

/// Wait statuses, as wait(2) reports them.
pub mod status {
    /// Ended by exit.
    pub fn exited(code: u32) -> u32 {
        (code & 0xff) << 8
    }

    /// Killed by a signal.
    pub fn killed(signal: u32, core: bool) -> u32 {
        signal | if core { 0x80 } else { 0 }
    }

    /// Stopped by a signal.
    pub fn stopped(signal: u32) -> u32 {
        signal << 8 | 0x7f
    }

    /// Continued.
    pub const CONTINUED: u32 = 0xffff;

    /// The signal that killed, or 0.
    pub fn signal(status: u32) -> u32 {
        status & 0x7f
    }

    /// The code of exit.
    pub fn code(status: u32) -> u32 {
        status >> 8 & 0xff
    }
}

/// exit(2): ends the calling task.
pub fn exit(task: &Task, code: u32) -> Result<usize> {
    if task.tid() == task.process().pid() {
        task.process().status.store(status::exited(code), Ordering::Relaxed);
    }
    Err(run::end(task))
}

/// exit_group(2): ends the calling process.
pub fn exit_group(task: &Task, code: u32) -> Result<usize> {
    end_process(task.process(), status::exited(code));
    Err(run::end(task))
}

/// Makes all tasks of a process end. The first caller's status counts.
pub fn end_process(process: &Arc<Process>, status: u32) {
    let tasks = process.tasks.lock();
    if !process.exiting.swap(true, Ordering::SeqCst) {
        process.status.store(status, Ordering::Relaxed);
    }
    for task in tasks.iter() {
        task.dying.store(true, Ordering::Release);
        task.interrupt();
    }
    drop(tasks);
    process.continued.wake_all();
}

/// A signal ends the process.
pub fn killed(task: &Task, info: &SignalInfo, core: bool) {
    let process = task.process();
    let news = crate::rc::is_supervised(process) && !crate::rc::is_stopping();
    if news && !process.exiting.load(Ordering::Relaxed) {
        report(task, info);
    }
    end_process(process, status::killed(info.signal, core));
    task.dying.store(true, Ordering::Release);
}

/// Says on the console what killed a program that the image started.
fn report(task: &Task, info: &SignalInfo) {
    let rip = task.with_context(|context| context.registers.rip) as usize;
    let name = signal::name(info.signal);
    let place = crate::rc::place(task.process(), rip);
    if matches!(info.signal, SIGSEGV | SIGBUS) && info.code > 0 && info.code < SignalInfo::SI_KERNEL {
        let address = info.address();
        console::message(format_args!(
            "{}: killed by {name} at address {address:#x}, rip {rip:#x}{place}",
            task.name()
        ));
    } else if matches!(info.signal, SIGSEGV | SIGBUS | SIGILL | SIGFPE | SIGTRAP | SIGABRT | SIGSYS) {
        console::message(format_args!("{}: killed by {name}, rip {rip:#x}{place}", task.name()));
    } else if info.code != SignalInfo::SI_KERNEL {
        // The kernel's own say why themselves: an orderly stop, a terminal's key, memory that is used up.
        console::message(format_args!("{}: killed by {name}", task.name()));
    }
}

/// Takes a task out of its process; the last one ends the process. By the task's own thread, which runs no user
/// code any more.
pub fn task_ends(task: &Arc<Task>) {
    let process = task.process();
    leave_memory(task);
    crate::clone::release_parent(task);
    task.release_files();
    let (user, system) = task.thread().map_or((0, 0), |thread| thread.cpu_time());
    {
        let mut usage = process.usage.lock();
        usage.user += user;
        usage.system += system;
    }
    let last = {
        let mut tasks = process.tasks.lock();
        tasks.retain(|other| !Arc::ptr_eq(other, task));
        tasks.is_empty()
    };
    registry::remove_task(task.tid());
    // Signals it was to take go to others; those that wait for it alone at execve go on.
    deliver::retarget(task);
    process.task_left.wake_all();
    if last {
        process_ends(process);
    }
}

/// The task leaves its address space: what waits for that in memory is told.
pub fn leave_memory(task: &Task) {
    futex::task_ends(task);
    let address = task.clear_child_tid.swap(0, Ordering::Relaxed);
    if address != 0 && UserPtr::new(address).write(&0u32).is_ok() {
        futex::wake_address(task, address);
    }
}

/// The last task is gone.
fn process_ends(process: &Arc<Process>) {
    rumpuser_pmap_activate(None);
    if let Some(space) = process.space() {
        let pages = space.pmap().resident() as u64;
        let mut usage = process.usage.lock();
        usage.resident = usage.resident.max(pages);
        usage.minor_faults = process.faults.load(Ordering::Relaxed);
    }
    crate::timers::process_ends(process);
    crate::ipc::semaphore::process_ends(process);
    drop(process.replace_space(None));
    crate::groups::process_ends(process);
    give_children_away(process);
    let status = process.status.load(Ordering::Relaxed);
    let parent = process.parent();
    process.zombie.store(true, Ordering::Release);
    process.ended.notify(Events::IN | Events::RDNORM);
    let Some(parent) = parent else { return };
    let action = parent.actions().get(SIGCHLD);
    let signal = process.exit_signal.load(Ordering::Relaxed);
    let unwanted = action.handler == Action::IGNORE || action.flags & Action::NOCLDWAIT != 0;
    if signal == SIGCHLD && unwanted && !crate::rc::is_supervised(process) {
        reap(&parent, process);
        if action.handler != Action::IGNORE {
            send::to_process(&parent, child_info(process, status));
        }
    } else if signal != 0 {
        send::to_process(&parent, SignalInfo { signal, ..child_info(process, status) });
    }
    parent.child_changed.wake_all();
}

/// What SIGCHLD and waitid tell of a process that ended.
pub fn child_info(process: &Process, status: u32) -> SignalInfo {
    let signal = status::signal(status);
    let (code, value) = if signal == 0 {
        (SignalInfo::CLD_EXITED, status::code(status))
    } else if status & 0x80 != 0 {
        (SignalInfo::CLD_DUMPED, signal)
    } else {
        (SignalInfo::CLD_KILLED, signal)
    };
    let usage = *process.usage.lock();
    job_info(process, code, value as i32, usage.user, usage.system)
}

/// What SIGCHLD and waitid tell of a process; times in nanoseconds.
pub fn job_info(process: &Process, code: i32, value: i32, user: u64, system: u64) -> SignalInfo {
    const TICK: u64 = 10_000_000;
    let uid = process.uid.load(Ordering::Relaxed);
    SignalInfo::child(code, process.pid(), uid, value, user / TICK, system / TICK)
}

/// A process stopped or continued: its parent hears of it.
pub fn tell_parent_of_job(process: &Arc<Process>, code: i32, signal: u32) {
    let Some(parent) = process.parent() else { return };
    if parent.actions().get(SIGCHLD).flags & Action::NOCLDSTOP == 0 {
        send::to_process(&parent, job_info(process, code, signal as i32, 0, 0));
    }
    parent.child_changed.wake_all();
}

/// Orphans go to the nearest subreaper, or to the first process.
fn give_children_away(process: &Arc<Process>) {
    let children = core::mem::take(&mut *process.children.lock());
    if children.is_empty() {
        return;
    }
    let mut heir = process.parent();
    while let Some(candidate) = &heir {
        if candidate.subreaper.load(Ordering::Relaxed) && !candidate.exiting.load(Ordering::Relaxed) {
            break;
        }
        heir = candidate.parent();
    }
    let heir = heir.or_else(|| registry::process(1));
    for child in children {
        let Some(heir) = &heir else {
            *child.parent.lock() = Weak::new();
            continue;
        };
        if Arc::ptr_eq(heir, process) {
            continue;
        }
        *child.parent.lock() = Arc::downgrade(heir);
        heir.children.lock().push(child.clone());
        for task in child.tasks() {
            let signal = task.parent_death_signal.load(Ordering::Relaxed);
            if signal != 0 {
                send::to_task(&task, SignalInfo::user(signal, SignalInfo::SI_USER, process.pid(), 0));
            }
        }
        if child.is_zombie() {
            heir.child_changed.wake_all();
        }
    }
    if let Some(heir) = heir {
        heir.child_changed.wake_all();
    }
}

/// Removes a zombie for good and adds its usage to its parent's.
pub fn reap(parent: &Process, child: &Arc<Process>) {
    let mut children = parent.children.lock();
    let before = children.len();
    children.retain(|other| !Arc::ptr_eq(other, child));
    if children.len() == before {
        return;
    }
    drop(children);
    registry::remove_process(child.pid());
    let (own, inherited) = (*child.usage.lock(), *child.children_usage.lock());
    let mut usage = parent.children_usage.lock();
    usage.user += own.user + inherited.user;
    usage.system += own.system + inherited.system;
    usage.resident = usage.resident.max(own.resident).max(inherited.resident);
    usage.minor_faults += own.minor_faults + inherited.minor_faults;
}

#[cfg(test)]
mod tests {
    use super::status;

    #[test]
    fn statuses_are_those_of_wait_2() {
        assert_eq!(status::exited(3), 0x300);
        assert_eq!(status::exited(0x1ff), 0xff00);
        assert_eq!(status::killed(11, true), 0x8b);
        assert_eq!(status::killed(9, false), 9);
        assert_eq!(status::stopped(19), 0x137f);
        assert_eq!((status::signal(0x8b), status::code(0x300)), (11, 3));
    }
}
