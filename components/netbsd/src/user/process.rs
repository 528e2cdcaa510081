//! The programs of an image as processes: what runs them, and how they end.

use alloc::{format, string::String, sync::Arc, vec::Vec};
use core::{
    ffi::{c_char, c_int, c_void},
    num::NonZero,
    sync::atomic::{AtomicBool, AtomicI8, AtomicI32, AtomicU8, Ordering},
};

use rumpuser::{MachineTrap, NEVER, sync::SpinLock};

use super::{
    lwp::{_lwp_exit, current},
    rump,
    start::{Finaliser, NOT_STARTED},
};
use crate::{
    host,
    wait::WaitList,
    weak::{weak, weak_data},
};

weak! {
    /// Registers a function for the end of a shared object, which here is a program.
    fn __real___cxa_atexit(unsafe extern "C" fn(*mut c_void), *mut c_void, *mut c_void) -> c_int;
    /// Runs what was registered for a shared object, or everything.
    fn __cxa_finalize(*mut c_void);
}

weak_data! {
    /// Writes out the buffers of streams, once there are some.
    static __cleanup: Option<unsafe extern "C" fn()>;
}

/// How many timers a process has: those of `setitimer` (4) and of `timer_create` (`TIMER_MAX`).
const TIMERS: c_int = 36;

/// The vector of page faults.
const PAGE_FAULT: u8 = 14;

/// A program that runs or has run.
pub struct Program {
    name: String,
    /// The number of its process, once it runs.
    pid: AtomicI32,
    ended: AtomicBool,
    status: AtomicU8,
    waiters: WaitList,
    finalisers: &'static [Finaliser],
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

/// What programs set as their priority, by their numbers. Programs after the last share its place.
static NICE: [AtomicI8; 16] = [const { AtomicI8::new(0) }; 16];

/// The priority of a program.
pub fn nice(program: usize) -> &'static AtomicI8 {
    &NICE[program.min(NICE.len() - 1)]
}

/// Programs that were started; a thread's number counts from 1.
static PROGRAMS: SpinLock<Vec<Arc<Program>>> = SpinLock::new(Vec::new());

/// Notes a program that is about to run; returns it and its number.
pub fn add(name: &str, finalisers: &'static [Finaliser]) -> (Arc<Program>, usize) {
    let program = Arc::new(Program {
        name: name.into(),
        pid: AtomicI32::new(0),
        ended: AtomicBool::new(false),
        status: AtomicU8::new(0),
        waiters: WaitList::new(),
        finalisers,
    });
    let mut programs = PROGRAMS.lock();
    programs.push(program.clone());
    (program, programs.len())
}

fn of_caller() -> Option<Arc<Program>> {
    PROGRAMS.lock().get(number_of_caller().checked_sub(1)?).cloned()
}

/// Notes the process of the calling program, whose first thread has entered it.
pub fn note_pid() {
    if let Some(program) = of_caller() {
        program.pid.store(getpid_of_caller(), Ordering::Relaxed);
    }
}

/// The number of the program that runs as a process.
pub fn with_pid(pid: c_int) -> Option<usize> {
    let runs = |program: &Arc<Program>| {
        program.pid.load(Ordering::Relaxed) == pid && !program.ended.load(Ordering::Acquire)
    };
    PROGRAMS.lock().iter().position(runs).map(|place| place + 1)
}

/// Stops the timers of the calling program, which the kernel would keep longer than its process.
fn stop_timers() {
    if let Some(delete) = rump::rump___sysimpl_timer_delete() {
        for timer in 0..TIMERS {
            // SAFETY: the kernel's function; it looks the timer up.
            unsafe { delete(timer) };
        }
    }
}

/// The number of the caller's program, from 1; 0 outside of programs. It stands for the program where C has shared
/// objects ([`__wrap___cxa_atexit`]).
fn number_of_caller() -> usize {
    current().map_or(0, |lwp| lwp.program.load(Ordering::Relaxed))
}

/// Ends the calling program: what it registered runs, of others' nothing.
#[cfg_attr(not(test), unsafe(export_name = "__wrap_exit"))]
pub extern "C" fn exit_program(status: c_int) -> ! {
    if let Some(program) = of_caller() {
        finish(NonZero::new(number_of_caller()), program.finalisers);
    }
    _exit(status)
}

/// Runs what was registered for the end of a program, or of all, and writes out the buffers of streams.
pub fn finish(program: Option<NonZero<usize>>, finalisers: &[Finaliser]) {
    // SAFETY: libc's functions, and functions of the image that are made to run now.
    unsafe {
        if let Some(finalize) = __cxa_finalize() {
            finalize(program.map_or(0, NonZero::get) as *mut c_void);
        }
        // In reverse (System V gABI, "Initialization and Termination Functions").
        for function in finalisers.iter().rev() {
            function();
        }
        if let Some(cleanup) = __cleanup().as_ref().copied().flatten() {
            cleanup();
        }
    }
}

/// Registers a function for the end of the calling program.
///
/// # Safety
/// The function may be called with its argument at that time.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __wrap___cxa_atexit(
    function: unsafe extern "C" fn(*mut c_void),
    argument: *mut c_void,
    _object: *mut c_void,
) -> c_int {
    // SAFETY: libc's function; the number is only compared.
    __real___cxa_atexit()
        .map_or(-1, |register| unsafe { register(function, argument, number_of_caller() as *mut c_void) })
}

/// As above; the function doesn't look at its argument.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn __wrap_atexit(function: unsafe extern "C" fn(*mut c_void)) -> c_int {
    // SAFETY: the function takes any argument.
    unsafe { __wrap___cxa_atexit(function, core::ptr::null_mut(), core::ptr::null_mut()) }
}

/// Ends the calling program: the calling thread ends, and the image doesn't wait for others of the program.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn _exit(status: c_int) -> ! {
    match of_caller() {
        Some(program) => {
            stop_timers();
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
    end_with(number, "")
}

/// Ends the calling program at a trap that it doesn't handle.
pub fn end_by_trap(number: u8, what: &str, trap: &MachineTrap) -> ! {
    let instruction = trap.context.registers.rip;
    let mut reason = format!(": {what} at {instruction:#x}");
    if trap.address != 0 || trap.vector == PAGE_FAULT {
        reason.push_str(&format!(", address {:#x}", trap.address));
    }
    end_with(number, &reason)
}

fn end_with(number: u8, reason: &str) -> ! {
    let program = of_caller();
    let (name, status) = match &program {
        Some(program) => (program.name.as_str(), 128 + c_int::from(number)),
        None => ("cannot start", NOT_STARTED.into()),
    };
    host::console(format!("{name}: ended by signal {number}{reason}\n").as_bytes());
    _exit(status)
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
