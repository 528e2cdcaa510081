//! Clocks of programs, without a call of the kernel: `clock_gettime` and `gettimeofday`, and what was used of the CPU.

use core::ffi::{c_int, c_long, c_void};

use rumpuser::{rumpuser_clock_monotonic, rumpuser_clock_realtime};

use super::lwp::{TimeSpec, current, failed, sleep};
use crate::{
    clock::{self, SECOND},
    errno::{EINTR, EINVAL},
    thread::control_block,
    weak::{alias, weak},
};

weak! {
    /// The kernel's function, for clocks of threads and processes.
    fn rump___sysimpl_clock_gettime50(c_int, *mut TimeSpec) -> c_int;
}

/// `CLOCK_REALTIME`, `CLOCK_MONOTONIC`.
const REALTIME: c_int = 0;
const MONOTONIC: c_int = 3;

/// # Safety
/// `place` is one for a time.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __clock_gettime50(clock: c_int, place: *mut TimeSpec) -> c_int {
    let now = match clock {
        REALTIME => rumpuser_clock_realtime(),
        MONOTONIC => rumpuser_clock_monotonic(),
        _ => match rump___sysimpl_clock_gettime50() {
            // SAFETY: the kernel's function, with the caller's place.
            Some(get) => return unsafe { get(clock, place) },
            None => return failed(EINVAL),
        },
    };
    // SAFETY: the caller's promise.
    unsafe { *place = TimeSpec { seconds: (now / SECOND) as i64, nanoseconds: (now % SECOND) as c_long } };
    0
}

/// `nanosleep`, in front of the kernel's, which counts in ticks of its clock.
///
/// # Safety
/// `time` is a time, `left` null or a place for one.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __wrap__sys___nanosleep50(time: *const TimeSpec, left: *mut TimeSpec) -> c_int {
    let Some(lwp) = current() else { return failed(EINVAL) };
    // SAFETY: the caller's promise.
    let time = unsafe { *time };
    if time.seconds < 0 || !(0..SECOND as c_long).contains(&time.nanoseconds) {
        return failed(EINVAL);
    }
    let deadline = clock::deadline(time.seconds, time.nanoseconds);
    if !sleep(lwp, deadline) {
        return 0;
    }
    let rest = deadline.saturating_sub(rumpuser_clock_monotonic());
    if !left.is_null() {
        let rest = TimeSpec { seconds: (rest / SECOND) as i64, nanoseconds: (rest % SECOND) as c_long };
        // SAFETY: the caller's promise.
        unsafe { *left = rest };
    }
    failed(EINTR)
}

/// `struct timeval`.
#[repr(C)]
pub struct TimeValue {
    seconds: i64,
    microseconds: c_int,
}

/// # Safety
/// `place` is null or one for a time; there are no time zones.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __gettimeofday50(place: *mut TimeValue, _zone: *mut c_void) -> c_int {
    let now = rumpuser_clock_realtime();
    if !place.is_null() {
        let microseconds = (now % SECOND / 1000) as c_int;
        // SAFETY: the caller's promise.
        unsafe { *place = TimeValue { seconds: (now / SECOND) as i64, microseconds } };
    }
    0
}

/// # Safety
/// `place` is one for a `struct rusage`, of 144 bytes. Of the times, that of the calling thread is told.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __getrusage50(_who: c_int, place: *mut u8) -> c_int {
    let _ = control_block();
    let (user, system) = rumpuser::rumpuser_thread_current().cpu_time();
    // SAFETY: the caller's promise.
    unsafe {
        core::ptr::write_bytes(place, 0, 144);
        let used = user + system;
        let time =
            TimeValue { seconds: (used / SECOND) as i64, microseconds: (used % SECOND / 1000) as c_int };
        place.cast::<TimeValue>().write(time);
    }
    0
}

alias! {
    clock_gettime = __clock_gettime50;
    gettimeofday = __gettimeofday50;
}
