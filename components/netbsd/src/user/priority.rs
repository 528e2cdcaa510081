//! Priorities of programs (`getpriority`, `setpriority`; libc's `nice` is made of them): shares of the CPU, of all threads of
//! a program.

use core::{ffi::c_int, sync::atomic::Ordering};

use super::{
    lwp::{self, current, failed},
    process,
};
use crate::errno::{EINVAL, ESRCH, Errno};

/// `PRIO_PROCESS`, `PRIO_PGRP`, `PRIO_USER`: the programs of an image are of one group and one user.
const PROCESS: c_int = 0;
const GROUP: c_int = 1;
const USER: c_int = 2;
/// `PRIO_MAX`, and less one the most that the platform knows.
const MOST: c_int = 20;

/// The number of the program that is meant; of several, the caller's.
fn program(which: c_int, who: c_int) -> Result<usize, Errno> {
    let own = current().map(|lwp| lwp.program.load(Ordering::Relaxed)).ok_or(ESRCH);
    match which {
        PROCESS if who == 0 || who == process::getpid_of_caller() => own,
        PROCESS => process::with_pid(who).ok_or(ESRCH),
        GROUP | USER if who == 0 => own,
        GROUP | USER => Err(ESRCH),
        _ => Err(EINVAL),
    }
}

/// The priority, -20 (most CPU) to 20; what may be -1 sets `errno` only when it fails.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn getpriority(which: c_int, who: c_int) -> c_int {
    match program(which, who) {
        Ok(number) => process::nice(number).load(Ordering::Relaxed).into(),
        Err(error) => failed(error),
    }
}

/// Sets it.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn setpriority(which: c_int, who: c_int, value: c_int) -> c_int {
    let number = match program(which, who) {
        Ok(number) => number,
        Err(error) => return failed(error),
    };
    let value = value.clamp(-MOST, MOST);
    process::nice(number).store(value as i8, Ordering::Relaxed);
    lwp::set_nice(number, value.min(MOST - 1) as i8);
    0
}
