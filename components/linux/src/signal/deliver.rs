//! Taking signals: what a task does with those pending when it is about to return to its program.

use core::sync::atomic::Ordering;

use rumpkern::wait::WaitError;
use rumpuser::{NEVER, rumpuser_clear_interrupt};

use super::{
    Action, SignalInfo, SignalSet,
    action::{self, default_of},
    frame::{self, Delivery, TrapDetails},
    number::*,
    send,
};
use crate::{
    exit,
    restart::{self, Interrupted},
    task::{AlternateStack, Task},
};

/// Takes a signal of `wanted` that is pending for the task or its process.
pub fn take(task: &Task, wanted: SignalSet) -> Option<SignalInfo> {
    let synchronous = wanted.and(SignalSet::SYNCHRONOUS);
    let own = {
        let mut signals = task.signals.lock();
        signals.pending.take(synchronous).or_else(|| signals.pending.take(wanted))
    };
    let mut info = own.or_else(|| task.process().pending.lock().take(wanted))?;
    if info.code == SignalInfo::SI_TIMER {
        crate::timers::signal_taken(task.process(), &mut info);
    }
    Some(info)
}

/// The signals pending for the task or its process.
pub fn pending(task: &Task) -> SignalSet {
    let own = task.signals.lock().pending.set();
    own.or(task.process().pending.lock().set())
}

/// Whether [`serve`] has something to do.
pub fn has_work(task: &Task) -> bool {
    task.dying.load(Ordering::Acquire) || is_stopped(task) || !pending(task).minus(task.mask()).is_empty()
}

/// Serves the task's signals until none is left to take. `interrupted` is the system call whose result is to
/// be replaced or which is to be restarted. Returns whether the task goes on; otherwise it must end.
pub fn serve(task: &Task, mut interrupted: Option<Interrupted>, trap: TrapDetails) -> bool {
    let mut disturbed = false;
    loop {
        rumpuser_clear_interrupt();
        if task.dying.load(Ordering::Acquire) {
            return false;
        }
        if is_stopped(task) {
            disturbed = true;
            wait_for_continuation(task);
            continue;
        }
        let Some(info) = take(task, SignalSet(u64::MAX).minus(task.mask())) else { break };
        disturbed = true;
        let action = task.process().actions().get(info.signal);
        match action.handler {
            Action::IGNORE => {}
            Action::DEFAULT => match default_of(info.signal) {
                action::Default::Ignore | action::Default::Continue => {}
                action::Default::Stop => stop(task, info.signal),
                kind @ (action::Default::Terminate | action::Default::Core) => {
                    exit::killed(task, &info, kind == action::Default::Core);
                    return false;
                }
            },
            _ => {
                if let Some(call) = interrupted.take() {
                    restart::before_handler(task, call, &action);
                }
                handle(task, &info, action, trap);
            }
        }
    }
    if let Some(call) = interrupted {
        restart::without_handler(task, call, disturbed);
    }
    // No handler ran for sigsuspend's temporary mask, or the handler's frame has the old one.
    let saved = task.signals.lock().saved_mask.take();
    if let Some(mask) = saved {
        set_mask(task, mask);
    }
    true
}

/// Makes the program run its handler. A frame that cannot be written kills by SIGSEGV.
fn handle(task: &Task, info: &SignalInfo, action: Action, trap: TrapDetails) {
    if action.flags & Action::RESETHAND != 0 {
        let actions = task.process().actions();
        actions.set(info.signal, Action { handler: Action::DEFAULT, ..action });
    }
    let (stack, saved) = {
        let mut signals = task.signals.lock();
        (signals.stack, signals.saved_mask.take())
    };
    let mask = saved.unwrap_or(task.mask());
    let delivery = Delivery { info, action: &action, mask, stack: &stack, trap };
    if task.with_context(|context| frame::enter(context, &delivery)).is_err() {
        if info.signal == SIGSEGV {
            task.process().actions().set(SIGSEGV, Action::default());
        }
        send::force(task, SignalInfo::kernel(SIGSEGV));
        return;
    }
    if stack.flags & frame::SS_AUTODISARM != 0 {
        task.signals.lock().stack = AlternateStack::DISABLED;
    }
    let mut blocked = task.mask().or(action.mask);
    if action.flags & Action::NODEFER == 0 {
        blocked = blocked.with(info.signal);
    }
    set_mask(task, blocked);
}

/// Sets the task's mask. What became unblocked and is pending is served before the program goes on; what became
/// blocked is offered to other tasks.
pub fn set_mask(task: &Task, mask: SignalSet) {
    let mask = mask.minus(SignalSet::UNBLOCKABLE);
    let old = SignalSet(task.mask.swap(mask.0, Ordering::SeqCst));
    let waiting = pending(task);
    if waiting.is_empty() {
        return;
    }
    if !waiting.minus(mask).is_empty() {
        task.interrupt();
    }
    if !mask.minus(old).is_empty() {
        retarget(task);
    }
}

/// Offers the process's pending signals to tasks that take them.
pub fn retarget(task: &Task) {
    let process = task.process();
    let waiting = process.pending.lock().set();
    if waiting.is_empty() {
        return;
    }
    for other in process.tasks() {
        if !waiting.minus(other.mask()).is_empty() && !other.dying.load(Ordering::Relaxed) {
            other.interrupt();
        }
    }
}

fn is_stopped(task: &Task) -> bool {
    task.process().job.lock().stopped_by != 0
}

/// Stops the whole process and tells the parent.
fn stop(task: &Task, signal: u32) {
    let process = task.process();
    if send::stop_is_pointless(process, signal) {
        return;
    }
    {
        let mut job = process.job.lock();
        if job.stopped_by != 0 {
            return;
        }
        job.stopped_by = signal;
        job.stop_unreported = true;
        job.continue_unreported = false;
    }
    for other in process.tasks() {
        if other.tid() != task.tid() {
            other.interrupt();
        }
    }
    exit::tell_parent_of_job(process, SignalInfo::CLD_STOPPED, signal);
}

fn wait_for_continuation(task: &Task) {
    let process = task.process();
    let kill = SignalSet::EMPTY.with(SIGKILL);
    let ready = || {
        let killed = task.dying.load(Ordering::Acquire) || !pending(task).and(kill).is_empty();
        if killed {
            process.job.lock().stopped_by = 0;
        }
        (killed || !is_stopped(task)).then_some(())
    };
    // An interruption is looked at by the caller, who comes back while the process is stopped.
    if let Err(WaitError::TimedOut | WaitError::Interrupted) = process.continued.wait(NEVER, ready) {
        rumpuser_clear_interrupt();
    }
}
