//! Signals that the kernel sends to programs, and those that end a sleep in it or a call of it.

use core::{
    ffi::{c_int, c_long, c_void},
    sync::atomic::Ordering,
};

use super::{
    lwp::{Lwp, current},
    process,
    sender::Sender,
    signal,
};
use crate::{
    errno::{EINTR, ENOSYS, ERESTART, ESRCH, Errno},
    weak::weak,
};

weak! {
    /// A system call of the rump kernel's.
    fn __real_rump_syscall(c_int, *mut c_void, usize, *mut c_long) -> c_int;
    /// Sleeps in the kernel.
    fn __real_rumpns_cv_wait_sig(*mut c_void, *mut c_void) -> c_int;
    /// As above, for a number of ticks at most.
    fn __real_rumpns_cv_timedwait_sig(*mut c_void, *mut c_void, c_int) -> c_int;
    /// As above, without regard to signals.
    fn __real_rumpns_cv_timedwait(*mut c_void, *mut c_void, c_int) -> c_int;
    /// Sleeps in the kernel for a number of ticks at most, with regard to signals if the other says so.
    fn __real_rumpns_sleepq_block(c_int, bool) -> c_int;
}

/// States of [`Lwp::sleep`]: a signal may end the sleep; one has.
const NO: u8 = 0;
const INTERRUPTIBLE: u8 = 1;
const INTERRUPTED: u8 = 2;
/// `SIGSYS`, `SIGPIPE`, `SIGXFSZ`: a call fails beside.
const UNSENT: [c_int; 3] = [12, 13, 25];

/// Whether a signal of the kernel isn't sent on: who made the call sees that it fails.
pub fn stays_in_kernel(signal: c_int) -> bool {
    UNSENT.contains(&signal)
}

/// A signal of the kernel to a process of its. The kernel may hold locks: no handler runs here.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpuser_kill(process: i64, signal: c_int) -> Errno {
    if stays_in_kernel(signal) {
        return 0;
    }
    let program = c_int::try_from(process).ok().filter(|&pid| pid > 0).and_then(process::with_pid);
    program.map_or(ESRCH, |program| signal::send_to_program(program, signal, Sender::KERNEL))
}

/// The calling thread, if a signal may end the sleep that it is about to begin.
pub fn sleeper() -> Option<&'static Lwp> {
    current().filter(|lwp| lwp.sleep.load(Ordering::Relaxed) == INTERRUPTIBLE)
}

/// Whether a signal ends the sleep of the calling thread.
pub fn is_due(lwp: &Lwp) -> bool {
    signal::interruption(lwp).is_some()
}

/// The sleep has ended before somebody woke the calling thread: if for a signal, this is what it says.
pub fn note(lwp: &Lwp) {
    if is_due(lwp) {
        lwp.sleep.store(INTERRUPTED, Ordering::Relaxed);
    }
}

/// Sleeps until woken, or for a signal: then fails with `EINTR`, or `ERESTART` if its action says so.
fn interruptibly(sleep: impl FnOnce() -> c_int) -> c_int {
    let Some(lwp) = current() else { return sleep() };
    lwp.sleep.store(INTERRUPTIBLE, Ordering::Relaxed);
    let error = sleep();
    match lwp.sleep.swap(NO, Ordering::Relaxed) {
        INTERRUPTED => signal::interruption(lwp).unwrap_or(EINTR),
        _ => error,
    }
}

/// # Safety
/// As the kernel's `cv_wait_sig`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __wrap_rumpns_cv_wait_sig(condition: *mut c_void, mutex: *mut c_void) -> c_int {
    let Some(wait) = __real_rumpns_cv_wait_sig() else { return ENOSYS };
    // SAFETY: the caller's promise.
    interruptibly(|| unsafe { wait(condition, mutex) })
}

/// # Safety
/// As the kernel's `cv_timedwait_sig`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __wrap_rumpns_cv_timedwait_sig(
    condition: *mut c_void,
    mutex: *mut c_void,
    ticks: c_int,
) -> c_int {
    let Some(wait) = __real_rumpns_cv_timedwait_sig() else { return ENOSYS };
    // SAFETY: the caller's promise.
    interruptibly(|| unsafe { wait(condition, mutex, ticks) })
}

/// # Safety
/// As the kernel's `cv_timedwait`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __wrap_rumpns_cv_timedwait(
    condition: *mut c_void,
    mutex: *mut c_void,
    ticks: c_int,
) -> c_int {
    let Some(wait) = __real_rumpns_cv_timedwait() else { return ENOSYS };
    // SAFETY: the caller's promise.
    let sleep = || unsafe { wait(condition, mutex, ticks) };
    match current() {
        // What sleeps in a queue looks for this error alone.
        Some(lwp) if lwp.catches.load(Ordering::Relaxed) => match interruptibly(sleep) {
            ERESTART => EINTR,
            error => error,
        },
        _ => sleep(),
    }
}

/// # Safety
/// As the kernel's `sleepq_block`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __wrap_rumpns_sleepq_block(ticks: c_int, catch: bool) -> c_int {
    let Some(block) = __real_rumpns_sleepq_block() else { return ENOSYS };
    // SAFETY: the caller's promise.
    let sleep = || unsafe { block(ticks, catch) };
    let Some(lwp) = current().filter(|_| catch) else { return sleep() };
    lwp.catches.store(true, Ordering::Relaxed);
    let error = sleep();
    lwp.catches.store(false, Ordering::Relaxed);
    if error == EINTR { signal::interruption(lwp).unwrap_or(EINTR) } else { error }
}

/// A system call: handlers of signals that have come run before it returns, or is made again.
///
/// # Safety
/// As the kernel's `rump_syscall`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __wrap_rump_syscall(
    number: c_int,
    arguments: *mut c_void,
    length: usize,
    values: *mut c_long,
) -> c_int {
    let Some(call) = __real_rump_syscall() else { return ENOSYS };
    loop {
        // SAFETY: the caller's promise.
        let error = unsafe { call(number, arguments, length, values) };
        let Some(lwp) = current() else { return error };
        signal::deliver(lwp);
        if error != ERESTART {
            return error;
        }
    }
}
