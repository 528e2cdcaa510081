//! The platform's clock as the kernel's time counter (`sys/timetc.h`): without one, the kernel knows the time by its ticks,
//! to 10 or 20 ms.

use core::{
    cell::UnsafeCell,
    ffi::{CStr, c_char, c_int, c_long, c_uint, c_void},
    ptr::null_mut,
};

use rumpuser::rumpuser_clock_realtime;

use crate::{
    clock::{SECOND, rumpcomp_bmktc_gettime},
    upcall,
    user::lwp::TimeSpec,
    weak::weak,
};

weak! {
    /// Registers a counter, which is used if it is the best.
    fn rumpns_tc_init(*mut TimeCounter);
    /// Sets a clock.
    fn rump___sysimpl_clock_settime50(c_int, *const TimeSpec) -> c_int;
}

/// Better than the tick's, which has 0.
const QUALITY: c_int = 100;
const NAME: &CStr = c"platform";
/// `CLOCK_REALTIME`.
const REALTIME: c_int = 0;

/// `struct timecounter`.
#[repr(C)]
pub struct TimeCounter {
    get: extern "C" fn(*mut TimeCounter) -> c_uint,
    poll: *mut c_void,
    mask: c_uint,
    frequency: u64,
    name: *const c_char,
    quality: c_int,
    private: *mut c_void,
    next: *mut TimeCounter,
}

extern "C" fn get(_counter: *mut TimeCounter) -> c_uint {
    rumpcomp_bmktc_gettime()
}

/// A counter that is the kernel's once it is registered.
struct Registered(UnsafeCell<TimeCounter>);

// SAFETY: only the kernel looks at it and links it, under its own lock.
unsafe impl Sync for Registered {}

static COUNTER: Registered = Registered(UnsafeCell::new(TimeCounter {
    get,
    poll: null_mut(),
    mask: c_uint::MAX,
    frequency: SECOND,
    name: NAME.as_ptr(),
    quality: QUALITY,
    private: null_mut(),
    next: null_mut(),
}));

/// Gives the kernel the counter, and the time, which it had read before it started. Called once, after that.
pub fn register() {
    if let Some(register) = rumpns_tc_init() {
        // SAFETY: the kernel's function, with a structure that stays.
        upcall::with_cpu(|| unsafe { register(COUNTER.0.get()) });
    }
    if let Some(set) = rump___sysimpl_clock_settime50() {
        let now = rumpuser_clock_realtime();
        let time = TimeSpec { seconds: (now / SECOND) as i64, nanoseconds: (now % SECOND) as c_long };
        // SAFETY: the kernel's function, with a time.
        unsafe { set(REALTIME, &time) };
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn the_structure_has_its_layout() {
        let offsets = [
            offset_of!(TimeCounter, mask),
            offset_of!(TimeCounter, frequency),
            offset_of!(TimeCounter, quality),
            offset_of!(TimeCounter, next),
        ];
        assert_eq!((offsets, size_of::<TimeCounter>()), ([16, 24, 40, 56], 64));
    }
}
