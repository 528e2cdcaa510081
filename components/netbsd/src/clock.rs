//! Clocks and sleep: `rumpuser_clock_*`, and the time counter of the kernel.

use core::ffi::{c_int, c_long, c_uint};

use rumpuser::{
    CpuSet, rumpuser_clock_monotonic, rumpuser_clock_realtime, rumpuser_cpu_count, rumpuser_cpu_times,
    rumpuser_park, rumpuser_thread_current, sync::SpinLock,
};

use crate::{
    errno::{EINVAL, Errno},
    upcall,
};

/// `RUMPUSER_CLOCK_RELWALL`: the time of day; a sleep is relative.
const WALL: c_int = 0;
/// `RUMPUSER_CLOCK_ABSMONO`: time since boot; a sleep ends at a time.
const MONOTONIC: c_int = 1;

/// Where the kernel's clocks tick.
const FIRST_CPU: CpuSet = 1;
/// A tick of the kernel's clocks, in nanoseconds (`HZ` is 100).
const TICK: u64 = 10_000_000;
/// How many ticks an idle machine's clocks take at a time.
const IDLE_TICKS: u64 = 4;

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

/// The first tick that isn't before a time.
fn tick_at(time: u64, tick: u64) -> u64 {
    time.checked_next_multiple_of(tick).unwrap_or(time)
}

/// Whether the CPUs have done next to nothing since somebody asked and a tick had passed.
fn is_idle() -> bool {
    /// When it was asked, how long the CPUs had been busy, and what the answer was.
    static LAST: SpinLock<(u64, u64, bool)> = SpinLock::new((0, 0, false));
    let now = rumpuser_clock_monotonic();
    let mut last = LAST.lock();
    let passed = now.saturating_sub(last.0);
    if passed >= TICK / 2 {
        let busy = (0..rumpuser_cpu_count()).fold(0u64, |sum, cpu| {
            let (user, system, _) = rumpuser_cpu_times(cpu);
            sum.saturating_add(user).saturating_add(system)
        });
        *last = (now, busy, busy.saturating_sub(last.1) < passed / 16);
    }
    last.2
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
///
/// Times since boot are those of the virtual CPUs' clocks, a thread each. They tick together on the first CPU, so that an
/// idle machine is woken once for all; and for several ticks at a time, which the clocks make up for.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpuser_clock_sleep(which: c_int, seconds: i64, nanosecond_part: c_long) -> Errno {
    let end = match which {
        WALL => deadline(seconds, nanosecond_part),
        MONOTONIC => {
            let thread = rumpuser_thread_current();
            if thread.affinity() != FIRST_CPU {
                thread.set_affinity(FIRST_CPU);
            }
            tick_at(nanoseconds(seconds, nanosecond_part), if is_idle() { IDLE_TICKS * TICK } else { TICK })
        }
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
        assert_eq!((tick_at(1, TICK), tick_at(3 * TICK, TICK)), (TICK, 3 * TICK));
        assert_eq!((tick_at(TICK + 1, 2 * TICK), tick_at(u64::MAX, TICK)), (2 * TICK, u64::MAX));
    }
}
