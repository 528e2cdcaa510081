//! PCI for the tree's drivers: `rumpcomp_pci_*`. The platform's driver interface collects the functions; their pins
//! interrupt threads.

use alloc::{boxed::Box, string::String, sync::Arc, vec::Vec};
use core::{
    alloc::Layout,
    ffi::{c_int, c_uint, c_ulong, c_void},
    sync::atomic::{AtomicBool, Ordering},
};

use rumpuser::{
    CpuSet, NEVER, Thread,
    device::{Driver, PciDevice},
    memory::PAGE_SIZE,
    rumpuser_frame_of, rumpuser_park,
    sync::{InterruptLock, SpinLock},
};

use crate::{
    errno::{EINVAL, ENOMEM, ENXIO, Errno},
    thread, upcall,
    user::memory,
};

/// Maps device registers at a physical address, uncached and for ever; returns where.
pub type Map = fn(physical: u64, length: usize) -> usize;

/// Takes every function, for the tree's drivers to look at.
pub struct Collector {
    /// How registers are mapped.
    pub map: Map,
}

static FUNCTIONS: SpinLock<Vec<Arc<dyn PciDevice>>> = SpinLock::new(Vec::new());
static MAP: SpinLock<Option<Map>> = SpinLock::new(None);
/// Functions by the cookie that the kernel gave for their interrupt.
static INTERRUPTS: SpinLock<Vec<(c_uint, Arc<dyn PciDevice>)>> = SpinLock::new(Vec::new());

impl Driver for Collector {
    fn name(&self) -> &'static str {
        "netbsd"
    }

    fn attach_pci(&self, device: &Arc<dyn PciDevice>) -> bool {
        *MAP.lock() = Some(self.map);
        FUNCTIONS.lock().push(device.clone());
        true
    }
}

fn find(bus: c_uint, device: c_uint, function: c_uint) -> Option<Arc<dyn PciDevice>> {
    let place = (u8::try_from(bus).ok()?, u8::try_from(device).ok()?, u8::try_from(function).ok()?);
    let functions = FUNCTIONS.lock();
    let found = functions.iter().find(|candidate| {
        let (segment, bus, device, function) = candidate.location();
        segment == 0 && (bus, device, function) == place
    });
    found.cloned()
}

/// I/O ports are there.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpcomp_pci_iospace_init() -> Errno {
    0
}

/// # Safety
/// `value` is a place for a word.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpcomp_pci_confread(
    bus: c_uint,
    device: c_uint,
    function: c_uint,
    register: c_int,
    value: *mut c_uint,
) -> Errno {
    let found = find(bus, device, function).zip(u16::try_from(register).ok());
    // What isn't there reads as ones.
    let read = found.map_or(c_uint::MAX, |(found, register)| found.config_read(register & !3, 4));
    // SAFETY: the caller's promise.
    unsafe { *value = read };
    0
}

/// Writes a word of configuration space.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpcomp_pci_confwrite(
    bus: c_uint,
    device: c_uint,
    function: c_uint,
    register: c_int,
    value: c_uint,
) -> Errno {
    match find(bus, device, function).zip(u16::try_from(register).ok()) {
        Some((found, register)) => {
            found.config_write(register & !3, 4, value);
            0
        }
        None => ENXIO,
    }
}

/// Notes which function an interrupt cookie stands for.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpcomp_pci_irq_map(
    bus: c_uint,
    device: c_uint,
    function: c_uint,
    _line: c_int,
    cookie: c_uint,
) -> Errno {
    match find(bus, device, function) {
        Some(found) => {
            INTERRUPTS.lock().push((cookie, found));
            0
        }
        None => ENXIO,
    }
}

/// The command register, and its bit that turns the pin off.
const COMMAND: u16 = 4;
const PIN_OFF: u32 = 1 << 10;

/// What a function's interrupt thread and its handler share.
struct Line {
    device: Arc<dyn PciDevice>,
    thread: InterruptLock<Option<Thread>>,
    raised: AtomicBool,
}

impl Line {
    /// The pin stays off until the thread has looked: it signals by level.
    fn interrupt(&self) {
        self.set_pin(false);
        self.raised.store(true, Ordering::SeqCst);
        let thread = self.thread.lock().clone();
        if let Some(thread) = thread {
            thread.unpark();
        }
    }

    fn set_pin(&self, on: bool) {
        let command = self.device.config_read(COMMAND, 2);
        let changed = if on { command & !PIN_OFF } else { command | PIN_OFF };
        self.device.config_write(COMMAND, 2, changed);
    }
}

/// A driver's handler.
struct Handler {
    function: unsafe extern "C" fn(*mut c_void) -> c_int,
    argument: *mut c_void,
}

// SAFETY: the function and its argument are meant for the interrupt's thread.
unsafe impl Send for Handler {}

impl Handler {
    /// The interrupt's thread.
    fn serve(self, line: &Line) {
        upcall::become_kernel_thread();
        loop {
            while !line.raised.swap(false, Ordering::SeqCst) {
                rumpuser_park(NEVER);
            }
            // SAFETY: the driver's function and argument.
            upcall::with_cpu(|| unsafe { (self.function)(self.argument) });
            line.set_pin(true);
        }
    }
}

/// Connects a driver's handler to the function of a cookie: it runs in a thread of its own. Null if that fails.
///
/// # Safety
/// The handler may be called with its argument from now on.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpcomp_pci_irq_establish(
    cookie: c_uint,
    function: unsafe extern "C" fn(*mut c_void) -> c_int,
    argument: *mut c_void,
) -> *mut c_void {
    let device =
        INTERRUPTS.lock().iter().find(|(known, _)| *known == cookie).map(|(_, device)| device.clone());
    let Some(device) = device else { return core::ptr::null_mut() };
    let line = Arc::new(Line { device, thread: InterruptLock::new(None), raised: AtomicBool::new(false) });
    let (served, handler) = (line.clone(), Handler { function, argument });
    let Ok(thread) =
        thread::spawn(String::from("interrupt"), CpuSet::MAX, Box::new(move || handler.serve(&served)))
    else {
        return core::ptr::null_mut();
    };
    *line.thread.lock() = Some(thread);
    let raised = line.clone();
    if !line.device.establish_pin_interrupt(Box::new(move || raised.interrupt())) {
        return core::ptr::null_mut();
    }
    // For ever, as the thread.
    Arc::into_raw(line).cast_mut().cast()
}

/// Maps registers; null without PCI.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpcomp_pci_map(address: c_ulong, length: c_ulong) -> *mut c_void {
    let map = *MAP.lock();
    map.map_or(core::ptr::null_mut(), |map| map(address, length as usize) as *mut c_void)
}

/// Physically contiguous memory: whole pages, aligned.
fn layout(size: usize, alignment: usize) -> Option<Layout> {
    let size = size.max(1).checked_next_multiple_of(PAGE_SIZE)?;
    Layout::from_size_align(size, alignment.max(PAGE_SIZE)).ok()
}

/// # Safety
/// The pointers are to places for words.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpcomp_pci_dmalloc(
    size: usize,
    alignment: usize,
    physical: *mut c_ulong,
    address: *mut c_ulong,
) -> Errno {
    let Some(layout) = layout(size, alignment) else { return EINVAL };
    // SAFETY: the layout has a size; the places are the caller's promise. The heap's frames are contiguous.
    unsafe {
        let block = alloc::alloc::alloc_zeroed(layout);
        if block.is_null() {
            return ENOMEM;
        }
        *physical = rumpcomp_pci_virt_to_mach(block.cast());
        *address = block as c_ulong;
    }
    0
}

/// # Safety
/// The memory came from [`rumpcomp_pci_dmalloc`] with this size.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpcomp_pci_dmafree(address: c_ulong, size: usize) {
    if let Some(layout) = layout(size, PAGE_SIZE) {
        // SAFETY: whole frames are freed one by one, whatever their alignment was.
        unsafe { alloc::alloc::dealloc(address as *mut u8, layout) };
    }
}

/// `struct rumpcomp_pci_dmaseg`.
#[repr(C)]
pub struct Segment {
    physical: c_ulong,
    length: c_ulong,
    address: c_ulong,
}

/// All segments in one piece: possible where there is one.
///
/// # Safety
/// There are `count` segments; `place` is one for a pointer.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpcomp_pci_dmamem_map(
    segments: *const Segment,
    count: usize,
    _total: usize,
    place: *mut *mut c_void,
) -> Errno {
    if count != 1 {
        return ENOMEM;
    }
    // SAFETY: the caller's promise.
    unsafe { *place = (*segments).address as *mut c_void };
    0
}

/// The physical address of memory of the kernel or of a program.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpcomp_pci_virt_to_mach(address: *mut c_void) -> c_ulong {
    let offset = (address as usize % PAGE_SIZE) as c_ulong;
    memory::frame_at(address as usize).unwrap_or_else(|| rumpuser_frame_of(address.cast())).physical()
        + offset
}
