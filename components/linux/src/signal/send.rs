//! Sending signals: to a task, a process, a group, everybody.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use rumpkern::{Errno, Result, poll::Events};

use super::{Action, SignalInfo, SignalSet, action, number::*};
use crate::{credentials::Credentials, process::Process, registry, task::Task};

/// What the sending of a signal does at once, whoever takes it later: SIGCONT continues, SIGCONT and the stopping
/// signals cancel each other.
fn side_effects(process: &Arc<Process>, signal: u32) {
    let cancel = |set: SignalSet| {
        process.pending.lock().discard(set);
        for task in process.tasks() {
            task.signals.lock().pending.discard(set);
        }
    };
    if signal == SIGCONT {
        cancel(SignalSet::STOPPING);
        let was_stopped = {
            let mut job = process.job.lock();
            let was_stopped = job.stopped_by != 0;
            job.stopped_by = 0;
            job.stop_unreported = false;
            job.continue_unreported = was_stopped;
            was_stopped
        };
        if was_stopped {
            process.continued.wake_all();
            crate::exit::tell_parent_of_job(process, SignalInfo::CLD_CONTINUED, SIGCONT);
        }
    } else if SignalSet::STOPPING.contains(signal) {
        cancel(SignalSet::EMPTY.with(SIGCONT));
    }
}

/// Whether a signal is dropped on arrival. A blocked one never is: the action may change before it is taken.
fn dropped(process: &Process, signal: u32, blocked: bool) -> bool {
    !blocked && process.actions().ignores(signal)
}

/// Whether `task` would take `signal` now: it doesn't block it, or waits for it.
fn takes(task: &Task, signal: u32) -> bool {
    !task.dying.load(Ordering::Relaxed)
        && (!task.mask().contains(signal) || SignalSet(task.awaited.load(Ordering::SeqCst)).contains(signal))
}

/// Sends to a process as a whole: a task that doesn't block the signal takes it. False if the queue of a
/// real-time signal is full.
pub fn to_process(process: &Arc<Process>, info: SignalInfo) -> bool {
    let signal = info.signal;
    if process.is_zombie() {
        return true;
    }
    side_effects(process, signal);
    let tasks = process.tasks();
    let taker = tasks.iter().find(|task| takes(task, signal));
    if dropped(process, signal, taker.is_none_or(|task| task.mask().contains(signal))) {
        return true;
    }
    let queued = process.pending.lock().push(info);
    process.signalled.notify(Events::IN | Events::RDNORM);
    if signal == SIGKILL {
        process.continued.wake_all();
    }
    if let Some(task) = taker.or(tasks.first().filter(|_| signal == SIGKILL)) {
        task.interrupt();
    }
    queued
}

/// Sends to one task. False if the queue of a real-time signal is full.
pub fn to_task(task: &Task, info: SignalInfo) -> bool {
    let (process, signal) = (task.process(), info.signal);
    side_effects(process, signal);
    let blocked = task.mask().contains(signal);
    if dropped(process, signal, blocked) {
        return true;
    }
    let queued = task.signals.lock().pending.push(info);
    process.signalled.notify(Events::IN | Events::RDNORM);
    if signal == SIGKILL {
        process.continued.wake_all();
    }
    if takes(task, signal) || signal == SIGKILL {
        task.interrupt();
    }
    queued
}

/// Sends what the task's own instruction raised. Blocked or ignored, it kills: the task cannot go on.
pub fn force(task: &Task, info: SignalInfo) {
    let signal = info.signal;
    let actions = task.process().actions();
    let blocked = task.mask().contains(signal);
    if blocked || actions.get(signal).handler == Action::IGNORE {
        actions.set(signal, Action::default());
        task.mask.store(task.mask().without(signal).0, Ordering::Relaxed);
    }
    task.signals.lock().pending.push(info);
    task.interrupt();
}

/// Sends to all processes of a group. ESRCH if there are none.
pub fn to_group(group: i32, info: SignalInfo) -> Result<()> {
    let processes = registry::group(group);
    if processes.is_empty() {
        return Err(Errno::ESRCH);
    }
    for process in processes {
        to_process(&process, info);
    }
    Ok(())
}

/// Sends the kernel's own signal to a group: what a terminal does. Nothing if the group is gone.
pub fn kernel_to_group(group: i32, signal: u32) {
    // A group that is gone needs no signal.
    let _ = to_group(group, SignalInfo::kernel(signal));
}

/// Whether `sender` may signal `process` (kill(2)).
pub fn permitted(sender: &Task, process: &Process, signal: u32) -> bool {
    if Arc::as_ptr(sender.process()) == core::ptr::from_ref(process) {
        return true;
    }
    let from = sender.shared_credentials();
    let Some(target) = process.tasks.lock().first().map(|task| task.shared_credentials()) else {
        return true;
    };
    let same = |from: &Credentials, target: &Credentials| {
        [from.uid, from.euid].iter().any(|&id| id == target.uid || id == target.suid)
    };
    from.capable(CAP_KILL)
        || same(&from, &target)
        || signal == SIGCONT && sender.process().session() == process.session()
}

/// May send signals to anybody.
const CAP_KILL: u32 = 5;

/// Whether a stopping signal does nothing: the process's group is orphaned, nobody could continue it.
pub fn stop_is_pointless(process: &Process, signal: u32) -> bool {
    signal != SIGSTOP
        && action::default_of(signal) == action::Default::Stop
        && crate::groups::is_orphaned(process.group())
}
