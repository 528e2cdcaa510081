//! Threads of the rump kernel: `rumpuser_thread_*`, the current LWP, and what hangs on a thread's pointer register.

use alloc::{boxed::Box, string::String, sync::Arc};
use core::{
    ffi::{CStr, c_char, c_int, c_void},
    ptr::null_mut,
    sync::atomic::{AtomicBool, Ordering},
};

use rumpuser::{
    CpuSet, NEVER, OutOfMemory, Thread, ThreadSpec, rumpuser_set_curlwp, rumpuser_set_thread_pointer,
    rumpuser_thread_create as create, rumpuser_thread_exit as exit,
};

use crate::{
    errno::{EAGAIN, Errno},
    upcall,
    user::lwp::Lwp,
    wait::WaitList,
};

/// What FS points to: NetBSD's `struct tls_tcb` (variant II of thread-local storage), and what this crate adds.
#[repr(C)]
pub struct ControlBlock {
    /// Points to itself.
    this: *mut ControlBlock,
    dtv: *mut c_void,
    pthread: *mut c_void,
    /// The thread's `errno`.
    pub errno: c_int,
    /// The thread's LWP of userspace; null for threads of the kernel.
    pub lwp: *const Lwp,
    /// The thread of the kernel; null for those of userspace.
    kernel: *const KernelThread,
}

impl ControlBlock {
    /// Without a thread.
    const fn new() -> Self {
        ControlBlock {
            this: null_mut(),
            dtv: null_mut(),
            pthread: null_mut(),
            errno: 0,
            lwp: core::ptr::null(),
            kernel: core::ptr::null(),
        }
    }

    /// Writes a fresh one to a place that it keeps.
    ///
    /// # Safety
    /// The place is of this type's size and alignment, and the caller's.
    pub unsafe fn write(place: *mut ControlBlock) {
        // SAFETY: the caller's promise.
        unsafe {
            place.write(ControlBlock::new());
            (*place).this = place;
        }
    }
}

/// The calling thread's block.
#[inline]
pub fn control_block() -> *mut ControlBlock {
    let block: *mut ControlBlock;
    // SAFETY: every thread that comes here has a block, whose first word is its address.
    unsafe {
        core::arch::asm!("mov {}, fs:[0]", out(reg) block, options(nostack, preserves_flags, readonly))
    };
    block
}

/// A thread of the rump kernel, as those see it who join it.
pub struct KernelThread {
    ended: AtomicBool,
    joiners: WaitList,
}

/// Starts a thread that has a control block of its own and nothing of userspace.
pub fn spawn(name: String, affinity: CpuSet, main: Box<dyn FnOnce() + Send>) -> Result<Thread, OutOfMemory> {
    create(ThreadSpec {
        name,
        affinity,
        main: Box::new(move || {
            crate::user::memory::enter_address_space();
            let block = Box::into_raw(Box::new(ControlBlock::new()));
            // SAFETY: just allocated.
            unsafe { ControlBlock::write(block) };
            rumpuser_set_thread_pointer(block as usize);
            main();
            leave();
        }),
    })
}

/// Gives up what `spawn` set up.
fn leave() {
    let block = control_block();
    rumpuser_set_thread_pointer(0);
    // SAFETY: allocated by `spawn`; nothing points to it any more.
    drop(unsafe { Box::from_raw(block) });
}

struct Start {
    function: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
    argument: *mut c_void,
    thread: Arc<KernelThread>,
}

// SAFETY: the function and its argument are meant for the new thread.
unsafe impl Send for Start {}

impl Start {
    fn run(self) {
        // SAFETY: the block is the thread's own; the reference lasts until `end`.
        unsafe { (*control_block()).kernel = Arc::into_raw(self.thread) };
        // SAFETY: as the rump kernel said.
        unsafe { (self.function)(self.argument) };
        end();
    }
}

/// Tells the joiners.
fn end() {
    // SAFETY: the thread's own block.
    let pointer = core::mem::replace(unsafe { &mut (*control_block()).kernel }, core::ptr::null());
    if !pointer.is_null() {
        // SAFETY: from `Arc::into_raw` in `run`.
        let thread = unsafe { Arc::from_raw(pointer) };
        thread.ended.store(true, Ordering::Release);
        thread.joiners.wake_all();
    }
}

/// # Safety
/// `name` is null or a C string; `place` is one for a pointer, if the thread is to be joined.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_thread_create(
    function: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
    argument: *mut c_void,
    name: *const c_char,
    joinable: c_int,
    _priority: c_int,
    _cpu: c_int,
    place: *mut *mut c_void,
) -> Errno {
    // SAFETY: the caller's promise.
    let name = if name.is_null() { c"rump" } else { unsafe { CStr::from_ptr(name) } };
    let thread = Arc::new(KernelThread { ended: AtomicBool::new(false), joiners: WaitList::new() });
    let start = Start { function, argument, thread: thread.clone() };
    let name = String::from_utf8_lossy(name.to_bytes()).into_owned();
    if spawn(name, CpuSet::MAX, Box::new(move || start.run())).is_err() {
        return EAGAIN;
    }
    if joinable != 0 && !place.is_null() {
        // SAFETY: the caller's promise. The reference is `rumpuser_thread_join`'s.
        unsafe { *place = Arc::into_raw(thread).cast_mut().cast() };
    }
    0
}

/// Ends the calling thread.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpuser_thread_exit() -> ! {
    end();
    leave();
    exit()
}

/// # Safety
/// The thread was created joinable, and is joined once.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_thread_join(thread: *mut c_void) -> Errno {
    // SAFETY: the caller's promise.
    let thread = unsafe { Arc::from_raw(thread.cast_const().cast::<KernelThread>()) };
    upcall::without_cpu(null_mut(), || {
        while !thread.ended.load(Ordering::Acquire) {
            thread.joiners.wait(NEVER, || !thread.ended.load(Ordering::Acquire));
        }
    });
    0
}

/// `RUMPUSER_LWP_SET`; creation and destruction need nothing here.
const SET: c_int = 2;
/// `RUMPUSER_LWP_CLEAR`.
const CLEAR: c_int = 3;

/// Sets or clears the calling thread's LWP of the kernel.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpuser_curlwpop(operation: c_int, lwp: *mut c_void) {
    match operation {
        SET => rumpuser_set_curlwp(lwp.cast()),
        CLEAR => rumpuser_set_curlwp(null_mut()),
        _ => {}
    }
}

/// The calling thread's LWP of the kernel.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpuser_curlwp() -> *mut c_void {
    rumpuser::rumpuser_curlwp().cast()
}

/// Sets the calling thread's `errno`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpuser_seterrno(error: c_int) {
    set_errno(error);
}

/// The calling thread's `errno`.
pub fn errno() -> Errno {
    // SAFETY: the thread's own block.
    unsafe { (*control_block()).errno }
}

/// Sets the calling thread's `errno`.
pub fn set_errno(error: Errno) {
    // SAFETY: the thread's own block.
    unsafe { (*control_block()).errno = error };
}

/// Where the calling thread's `errno` is; what the macro `errno` stands for.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn __errno() -> *mut c_int {
    // SAFETY: the thread's own block, which lives as long as it does.
    unsafe { &raw mut (*control_block()).errno }
}
