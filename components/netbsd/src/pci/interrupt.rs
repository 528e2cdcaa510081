//! Interrupts of PCI functions: a thread each, on the CPU that the interrupt arrives on.
//!
//! A function whose driver asks for vectors of MSI-X signals by them ([`super::messages`]). Another with the MSI capability
//! signals by one message, whatever its driver thinks; others by their pin.
//!
//! Handlers hold the kernel's giant lock, as on other machines that NetBSD runs on, unless their drivers say that they need none:
//! most have no other against a sender on another CPU.

use alloc::{boxed::Box, string::String, sync::Arc, vec::Vec};
use core::{
    ffi::{c_int, c_uint, c_void},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use rumpuser::{
    CpuSet, NEVER, Thread, rumpuser_cpu, rumpuser_park, rumpuser_thread_current,
    sync::{InterruptLock, SpinLock},
};

use super::{
    bus::{self, Function},
    messages,
};
use crate::{
    errno::{ENODEV, ENXIO, Errno},
    thread, upcall,
    wait::WaitList,
    weak::weak,
};

/// `PCI_INTR_MPSAFE`, of the attributes of an interrupt.
const NEEDS_NO_LOCK: c_int = 1;

weak! {
    /// Takes the giant lock so often.
    fn rumpns__kernel_lock(c_int);
    /// Lets it go so often; the count before goes to a place, if that isn't null.
    fn rumpns__kernel_unlock(c_int, *mut c_int);
}

/// Cookies of interrupts whose handlers need no lock.
static UNLOCKED: SpinLock<Vec<c_uint>> = SpinLock::new(Vec::new());

/// `pci_intr_setattr(9)` in the place of the kernel's own, which heeds nothing.
///
/// # Safety
/// `handle` is an interrupt's.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __wrap_rumpns_pci_intr_setattr(
    _chipset: *mut c_void,
    handle: *const u64,
    attribute: c_int,
    value: u64,
) -> Errno {
    if attribute != NEEDS_NO_LOCK {
        return ENODEV;
    }
    // SAFETY: the caller's promise; the handle is the cookie.
    let cookie = unsafe { *handle } as c_uint;
    let mut unlocked = UNLOCKED.lock();
    unlocked.retain(|&other| other != cookie);
    if value != 0 {
        unlocked.push(cookie);
    }
    0
}

/// Functions by the cookie that the kernel gave for their interrupt.
static COOKIES: SpinLock<Vec<(c_uint, Arc<Function>)>> = SpinLock::new(Vec::new());

/// The lines that drivers have handlers for.
static ESTABLISHED: SpinLock<Vec<Arc<Line>>> = SpinLock::new(Vec::new());

/// Notes which function an interrupt cookie stands for.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpcomp_pci_irq_map(
    bus: c_uint,
    device: c_uint,
    function: c_uint,
    _line: c_int,
    cookie: c_uint,
) -> Errno {
    match bus::find(bus, device, function) {
        Some(found) => {
            COOKIES.lock().push((cookie, found));
            0
        }
        None => ENXIO,
    }
}

/// The function that a cookie stands for.
pub fn function(cookie: c_uint) -> Option<Arc<Function>> {
    COOKIES.lock().iter().find(|(known, _)| *known == cookie).map(|(_, found)| found.clone())
}

/// What a function's interrupt thread and its handler share.
pub struct Line {
    function: Arc<Function>,
    thread: InterruptLock<Option<Thread>>,
    raised: AtomicBool,
    /// The CPU that the last interrupt arrived on.
    cpu: AtomicUsize,
    /// It signals by level, until the driver's handler has quieted the function.
    is_pin: AtomicBool,
    /// The driver wants no more of it.
    closed: AtomicBool,
    /// The thread has ended.
    ended: AtomicBool,
    closers: WaitList,
}

impl Line {
    /// One without a thread: its interrupts are remembered until it has one.
    pub fn new(function: Arc<Function>) -> Arc<Self> {
        Arc::new(Line {
            function,
            thread: InterruptLock::new(None),
            raised: AtomicBool::new(false),
            cpu: AtomicUsize::new(rumpuser_cpu()),
            is_pin: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            closers: WaitList::new(),
        })
    }

    /// Has the line's thread call the driver's handler. Interrupts are disabled.
    pub fn interrupt(&self) {
        if self.is_pin.load(Ordering::Relaxed) {
            self.function.set_pin(false);
        }
        self.cpu.store(rumpuser_cpu(), Ordering::Relaxed);
        self.raised.store(true, Ordering::SeqCst);
        let thread = self.thread.lock().clone();
        if let Some(thread) = thread {
            thread.unpark();
        }
    }

    /// Keeps the calling thread, the interrupt's, on the interrupt's CPU.
    fn follow(&self, here: &mut Option<usize>) {
        let cpu = self.cpu.load(Ordering::Relaxed);
        if *here != Some(cpu) {
            rumpuser_thread_current().set_affinity(1 << cpu);
            *here = Some(cpu);
        }
    }
}

/// A driver's handler.
struct Handler {
    function: unsafe extern "C" fn(*mut c_void) -> c_int,
    argument: *mut c_void,
    locked: bool,
}

// SAFETY: the function and its argument are meant for the interrupt's thread.
unsafe impl Send for Handler {}

impl Handler {
    fn call(&self) {
        let lock = rumpns__kernel_lock().zip(rumpns__kernel_unlock()).filter(|_| self.locked);
        // SAFETY: the kernel's functions, and the driver's with its argument.
        unsafe {
            if let Some((take, _)) = lock {
                take(1);
            }
            (self.function)(self.argument);
            if let Some((_, release)) = lock {
                release(1, core::ptr::null_mut());
            }
        }
    }

    /// The interrupt's thread.
    fn serve(self, line: &Line) {
        upcall::become_kernel_thread();
        let mut here = None;
        loop {
            while !line.raised.swap(false, Ordering::SeqCst) && !line.closed.load(Ordering::SeqCst) {
                rumpuser_park(NEVER);
            }
            if line.closed.load(Ordering::SeqCst) {
                break;
            }
            line.follow(&mut here);
            upcall::with_cpu(|| self.call());
            if line.is_pin.load(Ordering::Relaxed) && !line.closed.load(Ordering::SeqCst) {
                line.function.set_pin(true);
            }
        }
        upcall::with_cpu(upcall::proxy::release);
        line.ended.store(true, Ordering::SeqCst);
        line.closers.wake_all();
    }
}

/// Connects a driver's handler to the function of a cookie: it runs in a thread of its own. Null if that fails.
///
/// # Safety
/// The handler may be called with its argument from now on.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpcomp_pci_irq_establish(
    cookie: c_uint,
    handler: unsafe extern "C" fn(*mut c_void) -> c_int,
    argument: *mut c_void,
) -> *mut c_void {
    let locked = !UNLOCKED.lock().contains(&cookie);
    establish(cookie, Handler { function: handler, argument, locked }).map_or(core::ptr::null_mut(), |line| {
        let place = Arc::as_ptr(&line);
        ESTABLISHED.lock().push(line);
        place.cast_mut().cast()
    })
}

fn establish(cookie: c_uint, handler: Handler) -> Option<Arc<Line>> {
    let vector = messages::find(cookie);
    let is_vector = vector.is_some();
    let line = vector.or_else(|| function(cookie).map(Line::new))?;
    // A vector may have been given up before.
    line.closed.store(false, Ordering::SeqCst);
    line.ended.store(false, Ordering::SeqCst);
    let served = line.clone();
    let serve = Box::new(move || handler.serve(&served));
    let thread = thread::spawn(String::from("interrupt"), CpuSet::MAX, serve).ok()?;
    *line.thread.lock() = Some(thread.clone());
    if is_vector {
        // It may have been raised before it had a thread.
        thread.unpark();
        return Some(line);
    }
    line.function.enable_bus_master();
    let raised = line.clone();
    if !line.function.device.establish_message_interrupt(Box::new(move || raised.interrupt())) {
        line.is_pin.store(true, Ordering::Relaxed);
        let raised = line.clone();
        if !line.function.device.establish_pin_interrupt(Box::new(move || raised.interrupt())) {
            close(&line);
            return None;
        }
        line.function.set_pin(true);
    }
    Some(line)
}

/// `pci_intr_disestablish(9)` in the place of the kernel's own, which panics: the handler has ended, and isn't called again. Nothing if
/// `handle` is none: drivers that fail half-way give what they never set.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn __wrap_rumpns_pci_intr_disestablish(_chipset: *mut c_void, handle: *const c_void) {
    let mut established = ESTABLISHED.lock();
    let place = established.iter().position(|line| core::ptr::eq(Arc::as_ptr(line).cast(), handle));
    let line = place.map(|place| established.swap_remove(place));
    drop(established);
    if let Some(line) = line {
        close(&line);
    }
}

/// Ends a line's thread, and waits for that.
fn close(line: &Line) {
    line.closed.store(true, Ordering::SeqCst);
    let thread = line.thread.lock().take();
    let Some(thread) = thread else { return };
    thread.unpark();
    // The handler may want the virtual CPU.
    upcall::without_cpu(core::ptr::null_mut(), || {
        while !line.ended.load(Ordering::SeqCst) {
            line.closers.wait(NEVER, || !line.ended.load(Ordering::SeqCst));
        }
    });
    if line.is_pin.load(Ordering::Relaxed) {
        line.function.set_pin(false);
    }
}
