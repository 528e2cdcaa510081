//! Threads of userspace, as libpthread makes them: `_lwp_*` (NetBSD's `lwp.h`), with parking on the platform's own.

use alloc::{boxed::Box, collections::BTreeMap, string::String, sync::Arc, vec::Vec};
use core::{
    cell::UnsafeCell,
    ffi::{CStr, c_char, c_int, c_long, c_ulong, c_void},
    sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, AtomicUsize, Ordering},
};

use rumpuser::{
    CpuSet, NEVER, Presence, Thread, ThreadSpec, rumpuser_clock_monotonic, rumpuser_clock_realtime,
    rumpuser_park, rumpuser_set_presence, rumpuser_set_thread_pointer, rumpuser_set_trap_stack,
    rumpuser_thread_create, rumpuser_thread_current, rumpuser_yield, sync::SpinLock,
};

use super::{
    context::Stack,
    memory, process,
    rump::{self, KernelLwp},
    signal, stack,
};
use crate::{
    clock::nanoseconds,
    errno::{EAGAIN, EINVAL, ENOTSUP, ESRCH, ETIMEDOUT, Errno},
    thread::{ControlBlock, control_block, set_errno},
    weak::alias,
};

/// `LWPCTL_CPU_EXITED`.
const CPU_EXITED: c_int = -2;
/// `LWP_SUSPENDED`.
const SUSPENDED: c_ulong = 0x80;
/// `TIMER_ABSTIME`.
const ABSOLUTE: c_int = 1;
/// `CLOCK_REALTIME`.
const REALTIME: c_int = 0;
/// How many threads `_lwp_unpark_all` takes at a time.
const UNPARK_LIMIT: isize = 1024;

/// A thread of userspace.
pub struct Lwp {
    /// Its number.
    pub id: i32,
    /// `struct lwpctl`. It must be true: libpthread unlocks mutexes without a locked instruction, and counts on those who
    /// wait to watch until the owner doesn't run.
    control: Arc<Presence>,
    thread: SpinLock<Option<Thread>>,
    /// The kernel's LWP for it, until it runs.
    kernel: SpinLock<Option<KernelLwp>>,
    /// An unpark that no park has used.
    unparked: AtomicBool,
    /// It waits for `_lwp_continue` before it starts.
    suspended: AtomicBool,
    /// Signals that wait for it, a bit each.
    pub pending: [AtomicU64; 2],
    /// Signals that it holds off.
    pub blocked: [AtomicU64; 2],
    /// Whether it sleeps in the kernel so that a signal may end that ([`super::interrupt`]).
    pub sleep: AtomicU8,
    /// It is in a queue of sleepers that regards signals.
    pub catches: AtomicBool,
    /// The program that it belongs to, from 1; 0 for the thread that starts programs.
    pub program: AtomicUsize,
    /// Where to go back to when it ends.
    back: UnsafeCell<usize>,
    /// The stack for handlers of signals; of size 0 if there is none.
    pub alternate: UnsafeCell<Stack>,
}

// SAFETY: `back` and `alternate` are used by the thread itself only.
unsafe impl Sync for Lwp {}
// SAFETY: as above.
unsafe impl Send for Lwp {}

static LWPS: SpinLock<BTreeMap<i32, Arc<Lwp>>> = SpinLock::new(BTreeMap::new());
static NEXT: AtomicI32 = AtomicI32::new(1);

impl Lwp {
    fn new(program: usize, kernel: Option<KernelLwp>) -> Arc<Lwp> {
        let lwp = Arc::new(Lwp {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            control: Arc::default(),
            thread: SpinLock::new(None),
            kernel: SpinLock::new(kernel),
            unparked: AtomicBool::new(false),
            suspended: AtomicBool::new(false),
            pending: [AtomicU64::new(0), AtomicU64::new(0)],
            blocked: [AtomicU64::new(0), AtomicU64::new(0)],
            sleep: AtomicU8::new(0),
            catches: AtomicBool::new(false),
            program: AtomicUsize::new(program),
            back: UnsafeCell::new(0),
            alternate: UnsafeCell::default(),
        });
        LWPS.lock().insert(lwp.id, lwp.clone());
        lwp
    }

    /// Makes its park return.
    pub fn unpark(&self) {
        self.unparked.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Has it look whether its sleep is over.
    fn wake(&self) {
        let thread = self.thread.lock().clone();
        if let Some(thread) = thread {
            thread.unpark();
        }
    }

    /// Has it look for signals, whatever it does.
    pub fn interrupt(&self) {
        let thread = self.thread.lock().clone();
        if let Some(thread) = thread {
            thread.interrupt();
        }
    }
}

/// Whether the programs are NetBSD's: then all threads that come here have control blocks. Those of Linux programs don't.
static HAS_PROGRAMS: AtomicBool = AtomicBool::new(false);

/// The calling thread; `None` for threads that aren't of userspace.
pub fn current() -> Option<&'static Lwp> {
    if !HAS_PROGRAMS.load(Ordering::Relaxed) {
        return None;
    }
    // SAFETY: the block is the thread's own; its LWP lives as long as the thread does.
    unsafe { (*control_block()).lwp.as_ref() }
}

/// The thread with a number; 0 is the caller's own.
pub fn find(id: i32) -> Option<Arc<Lwp>> {
    let id = if id == 0 { current()?.id } else { id };
    LWPS.lock().get(&id).cloned()
}

/// Has all threads of a program look for signals.
pub fn interrupt_program(program: usize) {
    let all: Vec<_> = LWPS.lock().values().cloned().collect();
    for lwp in all.iter().filter(|lwp| lwp.program.load(Ordering::Relaxed) == program) {
        lwp.interrupt();
    }
}

/// Sets the share of the CPU of a program's threads.
pub fn set_nice(program: usize, value: i8) {
    let all: Vec<_> = LWPS.lock().values().cloned().collect();
    for lwp in all.iter().filter(|lwp| lwp.program.load(Ordering::Relaxed) == program) {
        if let Some(thread) = &*lwp.thread.lock() {
            thread.set_nice(value);
        }
    }
}

/// Gives the calling thread, the first, its LWP. It needs a control block.
pub fn initialise_first() {
    let lwp = Lwp::new(0, None);
    *lwp.thread.lock() = Some(rumpuser_thread_current());
    rumpuser_set_presence(Some(lwp.control.clone()));
    // SAFETY: the thread's own block; the reference is never given up, as the thread never ends.
    unsafe { (*control_block()).lwp = Arc::into_raw(lwp) };
    HAS_PROGRAMS.store(true, Ordering::Relaxed);
}

/// What a new thread runs, and on what.
struct Start {
    function: unsafe extern "C" fn(*mut c_void),
    argument: *mut c_void,
    block: *mut ControlBlock,
    stack_top: usize,
    lwp: Arc<Lwp>,
}

// SAFETY: all of it is meant for the new thread.
unsafe impl Send for Start {}

impl Start {
    fn run(self) {
        memory::enter_address_space();
        let lwp = self.lwp;
        // SAFETY: the block was made for this thread.
        unsafe { (*self.block).lwp = Arc::as_ptr(&lwp) };
        rumpuser_set_thread_pointer(self.block as usize);
        rumpuser_set_presence(Some(lwp.control.clone()));
        while lwp.suspended.load(Ordering::SeqCst) {
            rumpuser_park(NEVER);
        }
        let kernel = lwp.kernel.lock().take();
        if let Some(kernel) = kernel {
            kernel.enter();
        }
        // SAFETY: the stack is the new thread's own; `back` is used by this thread only.
        unsafe { stack::call(self.function, self.argument, self.stack_top & !15, lwp.back.get()) };
        rumpuser_set_trap_stack(0);
        // The program's stack and storage aren't used from here on: others may take them once the number is gone.
        rumpuser_set_thread_pointer(0);
        rumpuser_set_presence(None);
        lwp.control.cpu.store(CPU_EXITED, Ordering::SeqCst);
        LWPS.lock().remove(&lwp.id);
    }
}

/// Makes a thread that runs `function(argument)` on `stack`, with FS at `block`.
///
/// # Safety
/// The stack and the block are for the new thread alone; `place` is one for its number.
pub unsafe fn create(
    function: unsafe extern "C" fn(*mut c_void),
    argument: *mut c_void,
    block: *mut ControlBlock,
    stack: *mut c_void,
    stack_size: usize,
    flags: c_ulong,
    place: *mut c_int,
) -> Result<(), Errno> {
    // The kernel runs on it, too.
    let stack_top = stack as usize + stack_size;
    memory::touch(stack as usize..stack_top).map_err(|_| EAGAIN)?;
    let program = current().map_or(0, |lwp| lwp.program.load(Ordering::Relaxed));
    let lwp = Lwp::new(program, Some(KernelLwp::new()?));
    lwp.suspended.store(flags & SUSPENDED != 0, Ordering::SeqCst);
    if let Some(parent) = current() {
        signal::inherit(parent, &lwp);
    }
    let id = lwp.id;
    // SAFETY: the caller's promise. It must be known before the thread runs.
    unsafe { *place = id };
    let start = Start { function, argument, block, stack_top, lwp: lwp.clone() };
    // The thread is ready to be found by the time it runs.
    let mut slot = lwp.thread.lock();
    let spec =
        ThreadSpec { name: String::from("lwp"), affinity: CpuSet::MAX, main: Box::new(move || start.run()) };
    let Ok(thread) = rumpuser_thread_create(spec) else {
        drop(slot);
        LWPS.lock().remove(&id);
        return Err(EAGAIN);
    };
    thread.set_nice(process::nice(program).load(Ordering::Relaxed).min(19));
    *slot = Some(thread);
    Ok(())
}

/// What `_lwp_makecontext` leaves for `_lwp_create` in a `ucontext_t`, which nobody else reads.
#[repr(C)]
struct Context {
    function: unsafe extern "C" fn(*mut c_void),
    argument: *mut c_void,
    block: *mut ControlBlock,
    stack: *mut c_void,
    stack_size: usize,
}

/// # Safety
/// `context` is a `ucontext_t`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn _lwp_makecontext(
    context: *mut c_void,
    function: unsafe extern "C" fn(*mut c_void),
    argument: *mut c_void,
    block: *mut c_void,
    stack: *mut c_void,
    stack_size: usize,
) {
    let made = Context { function, argument, block: block.cast(), stack, stack_size };
    // SAFETY: a `ucontext_t` is larger, and aligned to 8 at least.
    unsafe { context.cast::<Context>().write(made) };
}

/// # Safety
/// `context` was filled by [`_lwp_makecontext`]; `place` is one for a number.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn _lwp_create(context: *const c_void, flags: c_ulong, place: *mut c_int) -> c_int {
    // SAFETY: the caller's promise.
    let created = unsafe {
        let made = context.cast::<Context>().read();
        create(made.function, made.argument, made.block, made.stack, made.stack_size, flags, place)
    };
    created.map_or_else(failed, |()| 0)
}

/// Ends the calling thread.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn _lwp_exit() -> c_int {
    if let Some(release) = rump::rump_pub_lwproc_releaselwp() {
        // SAFETY: the thread's own LWP of the kernel.
        unsafe { release() };
    }
    match current() {
        // SAFETY: `back` is from the call that runs this thread; nothing on its stack is needed any more.
        Some(lwp) if unsafe { *lwp.back.get() } != 0 => unsafe { stack::leave(*lwp.back.get()) },
        // The first thread: everything else goes on without it.
        _ => loop {
            rumpuser_park(NEVER);
        },
    }
}

/// The calling thread's number.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn _lwp_self() -> c_int {
    current().map_or(1, |lwp| lwp.id)
}

/// # Safety
/// `place` is one for a pointer.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn _lwp_ctl(_features: c_int, place: *mut *const Presence) -> c_int {
    let Some(lwp) = current() else { return failed(EINVAL) };
    // SAFETY: the caller's promise; the structure lives as long as the thread.
    unsafe { *place = Arc::as_ptr(&lwp.control) };
    0
}

/// Sets `errno` for a call that fails with -1.
pub fn failed(error: Errno) -> c_int {
    set_errno(error);
    -1
}

/// `struct timespec`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TimeSpec {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds, less than a second.
    pub nanoseconds: c_long,
}

/// The monotonic time that a park's time means.
pub fn monotonic_deadline(clock: c_int, absolute: bool, time: TimeSpec) -> u64 {
    let time = nanoseconds(time.seconds, time.nanoseconds);
    let now = rumpuser_clock_monotonic();
    match (absolute, clock) {
        (false, _) => now.saturating_add(time),
        (true, REALTIME) => now.saturating_add(time.saturating_sub(rumpuser_clock_realtime())),
        (true, _) => time,
    }
}

/// Sleeps until unparked, until `deadline`, or for a signal; returns 0 or an error number.
pub fn park(lwp: &Lwp, deadline: u64) -> Errno {
    loop {
        if lwp.unparked.swap(false, Ordering::SeqCst) {
            return 0;
        }
        if signal::deliver(lwp) {
            return crate::errno::EINTR;
        }
        if rumpuser_clock_monotonic() >= deadline {
            return ETIMEDOUT;
        }
        rumpuser_park(deadline);
    }
}

/// Sleeps until `deadline`; returns whether a signal ended the sleep. An unpark is kept for the next park.
pub fn sleep(lwp: &Lwp, deadline: u64) -> bool {
    while rumpuser_clock_monotonic() < deadline {
        if signal::deliver(lwp) {
            return true;
        }
        rumpuser_park(deadline);
    }
    false
}

/// # Safety
/// `time` is null or a time.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn ___lwp_park60(
    clock: c_int,
    flags: c_int,
    time: *const TimeSpec,
    unpark: c_int,
    hint: *const c_void,
    _unpark_hint: *const c_void,
) -> c_int {
    if unpark != 0 {
        _lwp_unpark(unpark, hint);
    }
    let Some(lwp) = current() else { return failed(EINVAL) };
    // SAFETY: the caller's promise.
    let deadline = unsafe { time.as_ref() }
        .map_or(NEVER, |time| monotonic_deadline(clock, flags & ABSOLUTE != 0, *time));
    // A time that has passed comes before an unpark, which is kept for the next park: libpthread's timed waits tell their
    // callers of the time then, though a signal of the condition has come.
    if deadline <= rumpuser_clock_monotonic() {
        return failed(ETIMEDOUT);
    }
    match park(lwp, deadline) {
        0 => 0,
        error => failed(error),
    }
}

/// Unparks a thread, now or when it parks next.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn _lwp_unpark(id: c_int, _hint: *const c_void) -> c_int {
    match find(id) {
        Some(lwp) => {
            lwp.unpark();
            0
        }
        None => failed(ESRCH),
    }
}

/// # Safety
/// `targets` is null or has `count` numbers.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn _lwp_unpark_all(targets: *const c_int, count: usize, hint: *const c_void) -> isize {
    if targets.is_null() {
        return UNPARK_LIMIT;
    }
    // SAFETY: the caller's promise.
    let targets = unsafe { core::slice::from_raw_parts(targets, count) };
    targets.iter().filter(|&&id| _lwp_unpark(id, hint) == 0).count() as isize
}

/// Lets a thread go on that was created suspended.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn _lwp_continue(id: c_int) -> c_int {
    let Some(lwp) = find(id) else { return failed(ESRCH) };
    lwp.suspended.store(false, Ordering::SeqCst);
    if let Some(thread) = &*lwp.thread.lock() {
        thread.unpark();
    }
    0
}

/// A thread can't be stopped from outside.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn _lwp_suspend(id: c_int) -> c_int {
    failed(if find(id).is_some() { ENOTSUP } else { ESRCH })
}

/// Ends a thread's sleep.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn _lwp_wakeup(id: c_int) -> c_int {
    _lwp_unpark(id, core::ptr::null())
}

/// Threads aren't waited for by number; libpthread keeps its own accounts.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn _lwp_detach(id: c_int) -> c_int {
    if find(id).is_some() { 0 } else { failed(ESRCH) }
}

/// Sends a signal to a thread; signal 0 asks whether it is there.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn _lwp_kill(id: c_int, signal: c_int) -> c_int {
    let Some(lwp) = find(id) else { return failed(ESRCH) };
    match signal::send(&lwp, signal) {
        0 => 0,
        error => failed(error),
    }
}

/// Names aren't kept.
///
/// # Safety
/// `name` is a C string.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn _lwp_setname(id: c_int, name: *const c_char) -> c_int {
    // SAFETY: the caller's promise.
    let _ = unsafe { CStr::from_ptr(name) };
    if find(id).is_some() { 0 } else { failed(ESRCH) }
}

/// Lets other threads run.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn _sys_sched_yield() -> c_int {
    rumpuser_yield();
    0
}

alias! {
    sched_yield = _sys_sched_yield;
}
