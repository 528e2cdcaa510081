//! Clocks and sleep: `rumpuser_clock_*`, and the time counter of the kernel.

use core::ffi::{c_int, c_long, c_uint};

use rumpuser::{rumpuser_clock_monotonic, rumpuser_clock_realtime, rumpuser_park};

use crate::{
    errno::{EINVAL, Errno},
    upcall,
};

/// `RUMPUSER_CLOCK_RELWALL`: the time of day; a sleep is relative.
const WALL: c_int = 0;
/// `RUMPUSER_CLOCK_ABSMONO`: time since boot; a sleep ends at a time.
const MONOTONIC: c_int = 1;

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// A C time as nanoseconds; what is negative is 0.
pub fn nanoseconds(seconds: i64, nanoseconds: i64) -> u64 {
    let whole = u64::try_from(seconds).unwrap_or(0).saturating_mul(SECOND);
    whole.saturating_add(u64::try_from(nanoseconds).unwrap_or(0))
}

/// The monotonic time after a while.
pub fn deadline(seconds: i64, nanosecond_part: i64) -> u64 {
    rumpuser_clock_monotonic().saturating_add(nanoseconds(seconds, nanosecond_part))
}

/// Sleeps until a monotonic time.
pub fn sleep_until(deadline: u64) {
    while rumpuser_clock_monotonic() < deadline {
        rumpuser_park(deadline);
    }
}

/// # Safety
/// The pointers are to places for an `int64_t` and a `long`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_clock_gettime(
    which: c_int,
    seconds: *mut i64,
    nanoseconds: *mut c_long,
) -> Errno {
    let now = match which {
        WALL => rumpuser_clock_realtime(),
        MONOTONIC => rumpuser_clock_monotonic(),
        _ => return EINVAL,
    };
    // SAFETY: the caller's promise.
    unsafe {
        *seconds = (now / SECOND) as i64;
        *nanoseconds = (now % SECOND) as c_long;
    }
    0
}

/// Sleeps with the virtual CPU given up.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpuser_clock_sleep(which: c_int, seconds: i64, nanosecond_part: c_long) -> Errno {
    let end = match which {
        WALL => deadline(seconds, nanosecond_part),
        MONOTONIC => nanoseconds(seconds, nanosecond_part),
        _ => return EINVAL,
    };
    upcall::without_cpu(core::ptr::null_mut(), || sleep_until(end));
    0
}

/// The time counter of the kernel: nanoseconds since boot, modulo 2^32.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpcomp_bmktc_gettime() -> c_uint {
    rumpuser_clock_monotonic() as c_uint
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_bounded() {
        assert_eq!((nanoseconds(2, 5), nanoseconds(-1, -1)), (2 * SECOND + 5, 0));
        assert_eq!(nanoseconds(i64::MAX, 0), u64::MAX);
        assert_eq!(deadline(i64::MAX, i64::MAX), u64::MAX);
    }
}
