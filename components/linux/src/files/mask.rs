//! The temporary signal mask of ppoll, pselect and epoll_pwait.

use core::sync::atomic::Ordering;

use rumpkern::{Errno, Result};

use crate::{
    signal::{SignalInfo, SignalSet},
    task::Task,
    user::UserPtr,
};

/// Runs a wait with the signal mask at `address` (0: the task's own). When a signal interrupts it, the mask in
/// force before comes back behind the handler; otherwise at once.
pub(super) fn with_mask(
    task: &Task,
    address: usize,
    size: usize,
    wait: impl FnOnce() -> Result<usize>,
) -> Result<usize> {
    if address == 0 {
        return wait();
    }
    if size != size_of::<SignalSet>() {
        return Err(Errno::EINVAL);
    }
    let mask = UserPtr::<SignalSet>::new(address).read()?;
    let old = task.mask();
    set_mask(task, mask);
    let result = wait();
    if result == Err(Errno::EINTR) {
        task.signals.lock().saved_mask = Some(old);
    } else {
        set_mask(task, old);
    }
    result
}

fn set_mask(task: &Task, mask: SignalSet) {
    let mask = mask.minus(SignalSet::UNBLOCKABLE);
    task.mask.store(mask.0, Ordering::SeqCst);
    let own = task.signals.lock().pending.set();
    let waiting = own.or(task.process().pending.lock().set());
    if !waiting.minus(mask).is_empty() {
        task.interrupt();
    }
}

/// Sends a signal to the task itself (SIGPIPE, SIGXFSZ).
pub(super) fn raise(task: &Task, signal: u32) {
    if task.process().actions().ignores(signal) && !task.mask().contains(signal) {
        return;
    }
    task.signals.lock().pending.push(SignalInfo::kernel(signal));
    task.interrupt();
}
