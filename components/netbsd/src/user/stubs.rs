//! What can't be in one address space: each call is named once on the console, and fails.

use core::{
    ffi::c_int,
    sync::atomic::{AtomicBool, Ordering},
};

use super::lwp::failed;
use crate::{errno::ENOSYS, host};

fn absent(name: &str, named: &AtomicBool) -> c_int {
    if !named.swap(true, Ordering::Relaxed) {
        host::console(alloc::format!("{name}: not possible in an image\n").as_bytes());
    }
    failed(ENOSYS)
}

macro_rules! absent {
    ($($name:ident)*) => { $(
        /// Fails with `ENOSYS`.
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub extern "C" fn $name() -> c_int {
            static NAMED: AtomicBool = AtomicBool::new(false);
            absent(stringify!($name), &NAMED)
        }
    )* };
}

absent! {
    __fork
    __vfork14
    execve
    _sys_mq_send
    _sys_mq_receive
    _sys___mq_timedsend50
    _sys___mq_timedreceive50
    _sys_msgrcv
    _sys_msgsnd
    _sys___wait450
}

/// `posix_spawn` returns its error.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn posix_spawn() -> c_int {
    static NAMED: AtomicBool = AtomicBool::new(false);
    absent("posix_spawn", &NAMED);
    ENOSYS
}

macro_rules! accepted {
    ($($name:ident)*) => { $(
        /// Changes nothing, and succeeds.
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub extern "C" fn $name() -> c_int {
            0
        }
    )* };
}

accepted! {
    _sched_protect
    _sched_setaffinity
    _sched_getaffinity
    _sched_setparam
    _sched_getparam
}

/// There are no restartable atomic sequences; libpthread does without where there are several CPUs.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rasctl() -> c_int {
    failed(ENOSYS)
}
