//! The temporary signal mask of ppoll, pselect and epoll_pwait.

use rumpkern::{Errno, Result};

use crate::{
    signal::{
        SignalInfo, SignalSet,
        calls::{end_temporary_mask, set_temporary_mask},
        send,
    },
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
    set_temporary_mask(task, mask);
    let result = wait();
    if result != Err(Errno::EINTR) {
        end_temporary_mask(task);
    }
    result
}

/// Sends a signal to the task itself (SIGPIPE, SIGXFSZ).
pub(super) fn raise(task: &Task, signal: u32) {
    let from = task.credentials().uid;
    send::to_task(task, SignalInfo::user(signal, SignalInfo::SI_USER, task.process().pid(), from));
}
