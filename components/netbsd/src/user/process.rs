//! The programs of an image as processes: what runs them, and how they end.

use alloc::{sync::Arc, vec::Vec};
use core::{
    ffi::{c_char, c_int},
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
};

use rumpuser::{NEVER, sync::SpinLock};

use super::{
    lwp::{_lwp_exit, current},
    rump,
};
use crate::{host, wait::WaitList, weak::weak};

weak! {
    /// Runs what was registered with `atexit`, and calls [`_exit`].
    fn exit(c_int);
}

/// A program that runs or has run.
pub struct Program {
    name: alloc::string::String,
    ended: AtomicBool,
    status: AtomicU8,
    waiters: WaitList,
}

impl Program {
    /// Waits for its end; returns its status.
    pub fn wait(&self) -> u8 {
        while !self.ended.load(Ordering::Acquire) {
            self.waiters.wait(NEVER, || !self.ended.load(Ordering::Acquire));
        }
        self.status.load(Ordering::Relaxed)
    }

    fn end(&self, status: u8) {
        // The first thread of a program that ends it says how.
        if !self.ended.load(Ordering::Acquire) {
            self.status.store(status, Ordering::Relaxed);
            self.ended.store(true, Ordering::Release);
            self.waiters.wake_all();
        }
    }
}

/// Programs that were started; a thread's number counts from 1.
static PROGRAMS: SpinLock<Vec<Arc<Program>>> = SpinLock::new(Vec::new());

/// Notes a program that is about to run; returns it and its number.
pub fn add(name: &str) -> (Arc<Program>, usize) {
    let program = Arc::new(Program {
        name: name.into(),
        ended: AtomicBool::new(false),
        status: AtomicU8::new(0),
        waiters: WaitList::new(),
    });
    let mut programs = PROGRAMS.lock();
    programs.push(program.clone());
    (program, programs.len())
}

fn of_caller() -> Option<Arc<Program>> {
    let number = current()?.program.load(Ordering::Relaxed);
    PROGRAMS.lock().get(number.checked_sub(1)?).cloned()
}

/// Ends the calling program as `exit(status)` does.
pub fn exit_program(status: c_int) -> ! {
    if let Some(exit) = exit() {
        // SAFETY: libc's function.
        unsafe { exit(status) };
    }
    _exit(status)
}

/// Ends the calling program: the calling thread ends, and the image doesn't wait for others of the program.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn _exit(status: c_int) -> ! {
    match of_caller() {
        Some(program) => {
            program.end(status as u8);
            _lwp_exit();
        }
        // Before there are programs: nothing will start any more.
        None => shut_down(if status == 0 { 1 } else { status as u8 }),
    }
    loop {
        rumpuser::rumpuser_park(NEVER);
    }
}

/// Ends the calling program as a signal does that isn't caught.
pub fn end_by_signal(number: u8) -> ! {
    if let Some(program) = of_caller() {
        host::console(alloc::format!("{}: ended by signal {number}\n", program.name).as_bytes());
    }
    _exit(128 + c_int::from(number))
}

/// Shuts the kernel down, which ends the machine with `status`.
pub fn shut_down(status: u8) -> ! {
    host::set_status(status);
    if let Some(reboot) = rump::rump___sysimpl_reboot() {
        // SAFETY: the kernel's function; no string goes with it.
        unsafe { reboot(0, core::ptr::null_mut::<c_char>()) };
    }
    host::rumpuser_exit(0)
}

/// The number of the caller's process.
pub fn getpid_of_caller() -> c_int {
    // SAFETY: the kernel's function.
    rump::rump___sysimpl_getpid().map_or(1, |getpid| unsafe { getpid() })
}
