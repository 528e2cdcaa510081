//! The rump kernel's own functions that hypercalls call (`struct rumpuser_hyperup`), and `rumpuser_init`.

use core::{
    cell::UnsafeCell,
    ffi::{c_char, c_int, c_long, c_void},
    sync::atomic::{AtomicBool, Ordering},
};

use crate::errno::{EINVAL, Errno};

/// The version of the interface that is implemented (`RUMPUSER_VERSION`).
const VERSION: c_int = 17;

/// `struct rumpuser_hyperup`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Upcalls {
    schedule: Option<unsafe extern "C" fn()>,
    unschedule: Option<unsafe extern "C" fn()>,
    backend_unschedule: Option<unsafe extern "C" fn(c_int, *mut c_int, *mut c_void)>,
    backend_schedule: Option<unsafe extern "C" fn(c_int, *mut c_void)>,
    lwproc_switch: Option<unsafe extern "C" fn(*mut c_void)>,
    lwproc_release: Option<unsafe extern "C" fn()>,
    lwproc_rfork: Option<unsafe extern "C" fn(*mut c_void, c_int, *const c_char) -> c_int>,
    lwproc_newlwp: Option<unsafe extern "C" fn(c_int) -> c_int>,
    lwproc_curlwp: Option<unsafe extern "C" fn() -> *mut c_void>,
    syscall: Option<unsafe extern "C" fn(c_int, *mut c_void, *mut c_long) -> c_int>,
    lwpexit: Option<unsafe extern "C" fn()>,
    execnotify: Option<unsafe extern "C" fn(*const c_char)>,
    getpid: Option<unsafe extern "C" fn() -> c_int>,
    extra: [*mut c_void; 8],
}

struct Registered {
    upcalls: UnsafeCell<Upcalls>,
    set: AtomicBool,
}

// SAFETY: written once, before `set` is; read only after that.
unsafe impl Sync for Registered {}

static REGISTERED: Registered = Registered {
    upcalls: UnsafeCell::new(Upcalls {
        schedule: None,
        unschedule: None,
        backend_unschedule: None,
        backend_schedule: None,
        lwproc_switch: None,
        lwproc_release: None,
        lwproc_rfork: None,
        lwproc_newlwp: None,
        lwproc_curlwp: None,
        syscall: None,
        lwpexit: None,
        execnotify: None,
        getpid: None,
        extra: [core::ptr::null_mut(); 8],
    }),
    set: AtomicBool::new(false),
};

fn upcalls() -> Option<&'static Upcalls> {
    // SAFETY: not written any more once `set` is seen.
    REGISTERED.set.load(Ordering::Acquire).then(|| unsafe { &*REGISTERED.upcalls.get() })
}

/// Takes the rump kernel's functions.
///
/// # Safety
/// `upcalls` points to a `struct rumpuser_hyperup`; the first call comes before there are other threads.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_init(version: c_int, upcalls: *const Upcalls) -> Errno {
    if version != VERSION || upcalls.is_null() || REGISTERED.set.load(Ordering::Acquire) {
        return EINVAL;
    }
    // SAFETY: the caller's promise; nobody reads before `set`.
    unsafe { *REGISTERED.upcalls.get() = *upcalls };
    REGISTERED.set.store(true, Ordering::Release);
    0
}

/// Gives the virtual CPU of the calling thread up while `sleep` runs, and takes one again. `interlock` is the
/// mutex that the thread sleeps with, or null.
pub(crate) fn without_cpu<R>(interlock: *mut c_void, sleep: impl FnOnce() -> R) -> R {
    let locks = unschedule(interlock);
    let result = sleep();
    schedule(locks, interlock);
    result
}

/// Gives the virtual CPU up; returns how often the giant lock was held.
pub(crate) fn unschedule(interlock: *mut c_void) -> c_int {
    let mut locks = 0;
    if let Some(function) = upcalls().and_then(|upcalls| upcalls.backend_unschedule) {
        // SAFETY: the rump kernel's function, with a place for the count.
        unsafe { function(0, &mut locks, interlock) };
    }
    locks
}

/// Takes a virtual CPU again.
pub(crate) fn schedule(locks: c_int, interlock: *mut c_void) {
    if let Some(function) = upcalls().and_then(|upcalls| upcalls.backend_schedule) {
        // SAFETY: the rump kernel's function, with the count that it gave.
        unsafe { function(locks, interlock) };
    }
}

/// Gives the calling thread, which isn't the rump kernel's, an LWP of the kernel's own process.
pub(crate) fn become_kernel_thread() {
    if let Some(new) = upcalls().and_then(|upcalls| upcalls.lwproc_newlwp) {
        // SAFETY: the rump kernel's function; process 0 is the kernel.
        with_cpu(|| unsafe { new(0) });
    }
}

/// Runs `work` with a virtual CPU, for threads that aren't the rump kernel's.
pub(crate) fn with_cpu<R>(work: impl FnOnce() -> R) -> R {
    if let Some(function) = upcalls().and_then(|upcalls| upcalls.schedule) {
        // SAFETY: the rump kernel's function.
        unsafe { function() };
    }
    let result = work();
    if let Some(function) = upcalls().and_then(|upcalls| upcalls.unschedule) {
        // SAFETY: as above.
        unsafe { function() };
    }
    result
}

/// The functions for processes of remote clients. All want a virtual CPU; without a kernel they fail with `ENOSYS`.
pub(crate) mod proxy {
    use core::ffi::{c_char, c_int, c_long, c_void};

    use super::upcalls;
    use crate::errno::{ENOSYS, Errno};

    /// Makes an LWP the caller's.
    pub fn switch(lwp: *mut c_void) {
        if let Some(function) = upcalls().and_then(|upcalls| upcalls.lwproc_switch) {
            // SAFETY: the rump kernel's function, with an LWP of its that runs nowhere.
            unsafe { function(lwp) };
        }
    }

    /// Gives the caller's LWP up, which goes when the caller leaves it.
    pub fn release() {
        if let Some(function) = upcalls().and_then(|upcalls| upcalls.lwproc_release) {
            // SAFETY: the rump kernel's function; the LWP was made for this thread.
            unsafe { function() };
        }
    }

    /// A new LWP in a process, which becomes the caller's.
    pub fn new_lwp(process: c_int) -> Errno {
        // SAFETY: the rump kernel's function; it looks the process up.
        upcalls().and_then(|upcalls| upcalls.lwproc_newlwp).map_or(ENOSYS, |new| unsafe { new(process) })
    }

    /// A new process, whose LWP becomes the caller's. The kernel gives `private` with each request for the client.
    pub fn fork(private: *mut c_void, flags: c_int, name: *const c_char) -> Errno {
        let function = upcalls().and_then(|upcalls| upcalls.lwproc_rfork);
        // SAFETY: the rump kernel's function; the name is null or a C string, which is copied.
        function.map_or(ENOSYS, |fork| unsafe { fork(private, flags, name) })
    }

    /// The number of the caller's process.
    pub fn process() -> c_int {
        // SAFETY: the rump kernel's function.
        upcalls().and_then(|upcalls| upcalls.getpid).map_or(0, |getpid| unsafe { getpid() })
    }

    /// Tells the other LWPs of the caller's process to end what they wait for.
    pub fn end_others() {
        if let Some(function) = upcalls().and_then(|upcalls| upcalls.lwpexit) {
            // SAFETY: the rump kernel's function.
            unsafe { function() };
        }
    }

    /// The caller's process runs another program.
    pub fn executed(name: *const c_char) {
        if let Some(function) = upcalls().and_then(|upcalls| upcalls.execnotify) {
            // SAFETY: the rump kernel's function, with a C string, which is copied.
            unsafe { function(name) };
        }
    }

    /// A system call of the caller's process.
    pub fn system_call(number: c_int, arguments: *mut c_void, values: &mut [c_long; 2]) -> Errno {
        let function = upcalls().and_then(|upcalls| upcalls.syscall);
        // SAFETY: the rump kernel's function; the arguments have as many words as any call of its takes.
        function.map_or(ENOSYS, |call| unsafe { call(number, arguments, values.as_mut_ptr()) })
    }
}
