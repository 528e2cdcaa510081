//! Extended processor state: x87, MXCSR, AVX and AVX-512 of user threads.
//!
//! XMM0-15 are saved at every entry to the kernel; the rest stays in the CPU, which kernel code leaves alone,
//! until another thread runs. Format: the standard form of XSAVE (SDM volume 1, section 13.4).

use core::{
    alloc::Layout,
    arch::asm,
    cell::Cell,
    ptr::null_mut,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

use rumpuser::{OutOfMemory, UserContext};

use crate::{cpu, machine, schedule::thread::Thread};

/// x87, SSE, AVX, AVX-512 (opmask and both ZMM halves): XCR0 bits.
const COMPONENTS: u64 = 0xe7;
const SSE: u64 = 2;
const AVX: u64 = 4;
/// The legacy area and the header.
const MINIMUM: usize = 576;
const MXCSR: usize = 24;
const XMM: usize = 160;
const HEADER: usize = 512;

/// What XCR0 holds; 0 without XSAVE.
static ENABLED: AtomicU64 = AtomicU64::new(0);
/// What a switch saves: not XMM0-15, which are in the user context, where AVX brings MXCSR along.
static SWITCHED: AtomicU64 = AtomicU64::new(0);
static SIZE: AtomicUsize = AtomicUsize::new(MINIMUM);
static OPTIMISED: AtomicBool = AtomicBool::new(false);
static MXCSR_MASK: AtomicU32 = AtomicU32::new(0xffbf);

/// A thread's saved state.
pub struct Extended {
    /// Null for a thread that never runs user code.
    area: Cell<*mut u8>,
    /// The CPU that loaded the area last.
    cpu: Cell<usize>,
}

impl Extended {
    /// For threads that never run user code.
    pub const fn none() -> Self {
        Extended { area: Cell::new(null_mut()), cpu: Cell::new(usize::MAX) }
    }

    /// The initial state.
    pub fn new() -> Result<Self, OutOfMemory> {
        // SAFETY: the layout has a size.
        let area = unsafe { alloc::alloc::alloc_zeroed(layout()) };
        if area.is_null() {
            return Err(OutOfMemory);
        }
        // SAFETY: just allocated, with this length.
        set_initial(unsafe { core::slice::from_raw_parts_mut(area, layout().size()) });
        Ok(Extended { area: Cell::new(area), cpu: Cell::new(usize::MAX) })
    }
}

fn layout() -> Layout {
    Layout::from_size_align(SIZE.load(Ordering::Relaxed), 64).unwrap_or(Layout::new::<[u128; 36]>())
}

impl Drop for Extended {
    fn drop(&mut self) {
        if !self.area.get().is_null() {
            // SAFETY: allocated with this layout by `area`.
            unsafe { alloc::alloc::dealloc(self.area.get(), layout()) };
        }
    }
}

/// Floating-point control and status, which code keeps over calls: MXCSR, and x87's control and status words.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FloatControl {
    mxcsr: u32,
    control: u16,
    status: u16,
}

impl FloatControl {
    /// Every exception masked, none noted, round to nearest.
    pub const INITIAL: FloatControl = FloatControl { mxcsr: 0x1f80, control: 0x037f, status: 0 };

    fn read() -> Self {
        let (mut mxcsr, mut control, mut status) = (0u32, 0u16, 0u16);
        // SAFETY: stores to the three places; nothing waits for x87.
        unsafe {
            asm!("stmxcsr [{}]", "fnstcw [{}]", "fnstsw [{}]", in(reg) &raw mut mxcsr, in(reg) &raw mut control, in(reg) &raw mut status, options(nostack, preserves_flags));
        }
        // Exceptions and their summary: registers of x87 are empty between calls.
        FloatControl { mxcsr, control, status: status & 0x80ff }
    }

    fn load(self) {
        let mut environment = [0u32; 7];
        // SAFETY: the environment (SDM volume 1, section 8.1.10) has 28 bytes; `fnstenv` and `fldenv` raise nothing, and
        // reserved bits of MXCSR were never set.
        unsafe {
            asm!("fnstenv [{}]", in(reg) environment.as_mut_ptr(), options(nostack, preserves_flags));
            environment[0] = environment[0] & 0xffff_0000 | u32::from(self.control);
            environment[1] = environment[1] & 0xffff_7f00 | u32::from(self.status);
            asm!("fldenv [{}]", "ldmxcsr [{}]", in(reg) environment.as_ptr(), in(reg) &raw const self.mxcsr, options(nostack, preserves_flags));
        }
    }
}

/// The calling thread begins to run components in C. Interrupts are disabled.
pub fn begin_control() {
    if FloatControl::read() != FloatControl::INITIAL {
        disown();
        FloatControl::INITIAL.load();
    }
}

/// At a switch between threads: those that run components in C keep their floating-point control. Interrupts are disabled.
pub fn switch_control(previous: &Thread, next: &Thread) {
    let (leaves, comes) = (previous.thread_pointer.get() != 0, next.thread_pointer.get() != 0);
    if !leaves && !comes {
        return;
    }
    let now = FloatControl::read();
    if leaves {
        previous.float_control.set(now);
    }
    if comes && next.float_control.get() != now {
        disown();
        next.float_control.get().load();
    }
}

/// Turns the calling CPU's units on.
pub fn initialise() {
    let [_, _, features, _] = machine::cpuid(1, 0);
    // SAFETY: the features are there; kernel code keeps to SSE.
    unsafe {
        machine::set_cr0(machine::cr0() & !(1 << 2 | 1 << 3) | 1 << 1 | 1 << 5);
        if features & 1 << 26 != 0 {
            machine::set_cr4(machine::cr4() | 1 << 18);
            let [low, _, _, high] = machine::cpuid(13, 0);
            let enabled = (u64::from(low) | u64::from(high) << 32) & COMPONENTS;
            // AVX-512's three components come together, and with AVX.
            let enabled = if enabled & 0xe4 == 0xe4 { enabled } else { enabled & 7 };
            asm!("xsetbv", in("ecx") 0, in("eax") enabled as u32, in("edx") 0, options(nostack));
            ENABLED.store(enabled, Ordering::Relaxed);
            let switched = if enabled & AVX != 0 { enabled & !SSE } else { enabled };
            SWITCHED.store(switched, Ordering::Relaxed);
            let [_, size, ..] = machine::cpuid(13, 0);
            SIZE.store((size as usize).max(MINIMUM), Ordering::Relaxed);
            OPTIMISED.store(machine::cpuid(13, 1)[0] & 1 != 0, Ordering::Relaxed);
        }
    }
    let mut legacy = Legacy([0; 512]);
    // SAFETY: the area is aligned and of the right size.
    unsafe { asm!("fxsave64 [{}]", in(reg) &raw mut legacy, options(nostack)) };
    let mask = u32::from_le_bytes([legacy.0[28], legacy.0[29], legacy.0[30], legacy.0[31]]);
    if mask != 0 {
        MXCSR_MASK.store(mask, Ordering::Relaxed);
    }
}

#[repr(C, align(64))]
struct Legacy([u8; 512]);

/// The area of the calling thread.
#[allow(clippy::mut_from_ref, reason = "the area belongs to the thread that asks")]
fn area(thread: &Thread) -> &mut [u8] {
    // SAFETY: allocated with this length; only the thread itself, or its CPU with it stopped, uses it.
    unsafe { core::slice::from_raw_parts_mut(thread.extended.area.get(), layout().size()) }
}

fn set_initial(area: &mut [u8]) {
    area.fill(0);
    area[..2].copy_from_slice(&0x037fu16.to_le_bytes());
    area[MXCSR..MXCSR + 4].copy_from_slice(&0x1f80u32.to_le_bytes());
    // The x87 and SSE parts are as written here, everything else initial.
    area[HEADER..HEADER + 8].copy_from_slice(&3u64.to_le_bytes());
}

fn store(area: *mut u8) {
    let enabled = SWITCHED.load(Ordering::Relaxed);
    let (low, high) = (enabled as u32, (enabled >> 32) as u32);
    // SAFETY: the area is of the enabled components' size and aligned to 64.
    unsafe {
        if enabled == 0 {
            asm!("fxsave64 [{}]", in(reg) area, options(nostack));
        } else if OPTIMISED.load(Ordering::Relaxed) {
            asm!("xsaveopt64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack));
        } else {
            asm!("xsave64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack));
        }
        // AVX brings it along, but not on QEMU's own processor.
        asm!("stmxcsr [{}]", in(reg) area.add(MXCSR), options(nostack, preserves_flags));
    }
}

/// Loads what [`store`] saved, except for XMM0-15.
fn restore(area: *const u8) {
    let enabled = SWITCHED.load(Ordering::Relaxed);
    // SAFETY: the area was saved by `store` or sanitised by `load`, so the CPU accepts it. The XMM registers that this may
    // change are loaded again before they are used; the compiler is told.
    unsafe {
        if enabled == 0 {
            asm!("fxrstor64 [{}]", in(reg) area, options(nostack), clobber_abi("sysv64"));
        } else {
            asm!("xrstor64 [{}]", in(reg) area, in("eax") enabled as u32, in("edx") (enabled >> 32) as u32, options(nostack), lateout("rax") _, clobber_abi("sysv64"));
        }
        // As in `store`.
        asm!("ldmxcsr [{}]", in(reg) area.add(MXCSR), options(nostack, preserves_flags, readonly));
    }
}

/// Whether the CPU holds the thread's state. Both sides must say so: a CPU may remember a thread that has loaded
/// its state elsewhere since, or one that is gone and whose memory another thread has now.
#[inline]
fn holds(cpu: &cpu::Cpu, thread: &Thread) -> bool {
    core::ptr::eq(cpu.extended_owner.get(), thread) && thread.extended.cpu.get() == cpu.number
}

/// Saves the state of a thread that leaves this CPU, if the CPU holds it. Interrupts are disabled.
#[inline]
pub fn save_at_switch(cpu: &cpu::Cpu, thread: &Thread) {
    if holds(cpu, thread) {
        store(thread.extended.area.get());
    }
}

/// Makes the CPU hold the calling thread's state, before user mode. Interrupts are disabled.
#[inline]
pub fn load_for_user(cpu: &cpu::Cpu, thread: &Thread) {
    if holds(cpu, thread) {
        return;
    }
    restore(area(thread).as_ptr());
    cpu.extended_owner.set(thread);
    thread.extended.cpu.set(cpu.number);
}

/// The calling CPU holds the state of no thread that goes to user mode any more: one that left it was saved, and has to be
/// loaded again. Interrupts are disabled.
pub fn disown() {
    cpu::current().extended_owner.set(core::ptr::null());
}

/// Saves what an interrupt entry doesn't of a thread that computes in the kernel, and leaves the initial state.
#[cold]
pub fn save_preempted(thread: &Thread) {
    let standard = 0x1f80u32;
    store(thread.extended.area.get());
    disown();
    // SAFETY: the initial state, as the calling convention wants it at a call.
    unsafe { asm!("fninit", "ldmxcsr [{}]", in(reg) &raw const standard, options(nostack)) };
}

/// Undoes [`save_preempted`].
pub fn load_preempted(thread: &Thread) {
    disown();
    restore(thread.extended.area.get());
}

/// See `rumpuser_trap_state_save`.
pub fn save_trapped(context: &UserContext, destination: &mut [u8]) -> usize {
    let length = SIZE.load(Ordering::Relaxed);
    if destination.len() < length {
        return length;
    }
    let state = machine::interrupts_disable();
    let thread = cpu::current_thread();
    save_preempted(thread);
    copy_out(context, area(thread), &mut destination[..length]);
    rumpuser::rumpuser_interrupts_restore(state);
    length
}

/// Loads what [`save_trapped`] wrote, for [`super::resume`]; the context gets the XMM registers. Interrupts are disabled.
pub fn load_trapped(context: &mut UserContext, source: &[u8]) {
    load(context, source);
    load_preempted(cpu::current_thread());
}

/// See `rumpuser_extended_state_save`.
pub fn save(context: &UserContext, destination: &mut [u8]) -> usize {
    let length = SIZE.load(Ordering::Relaxed);
    if destination.len() < length {
        return length;
    }
    let state = machine::interrupts_disable();
    let thread = cpu::current_thread();
    let cpu = cpu::current();
    let area = area(thread);
    if holds(cpu, thread) {
        store(area.as_mut_ptr());
    }
    rumpuser::rumpuser_interrupts_restore(state);
    copy_out(context, area, &mut destination[..length]);
    length
}

/// Copies an area, with the XMM registers of the context.
fn copy_out(context: &UserContext, area: &[u8], destination: &mut [u8]) {
    destination.copy_from_slice(area);
    for (register, bytes) in context.vectors.0.iter().zip(destination[XMM..XMM + 256].chunks_exact_mut(16)) {
        bytes.copy_from_slice(&register.to_le_bytes());
    }
    let components = if ENABLED.load(Ordering::Relaxed) == 0 { 3 } else { word(destination) | SSE };
    destination[HEADER..HEADER + 8].copy_from_slice(&components.to_le_bytes());
}

fn word(area: &[u8]) -> u64 {
    u64::from_le_bytes(area[HEADER..HEADER + 8].try_into().unwrap_or_default())
}

/// See `rumpuser_extended_state_load`.
pub fn load(context: &mut UserContext, source: &[u8]) {
    let thread = cpu::current_thread();
    // Whatever a CPU holds is void from here on; the area is loaded before user mode.
    thread.extended.cpu.set(usize::MAX);
    let area = area(thread);
    set_initial(area);
    context.vectors.0 = [0; 16];
    if source.len() < HEADER {
        return;
    }
    let length = source.len().min(area.len());
    area[..length].copy_from_slice(&source[..length]);
    // Only components that are enabled and were there; the legacy form has x87 and SSE.
    let enabled = ENABLED.load(Ordering::Relaxed);
    let components = match source.len() {
        length if length >= area.len() && enabled != 0 => word(area) & enabled,
        _ => 3,
    };
    area[HEADER..HEADER + 64].fill(0);
    area[HEADER..HEADER + 8].copy_from_slice(&components.to_le_bytes());
    let mxcsr = u32::from_le_bytes(area[MXCSR..MXCSR + 4].try_into().unwrap_or_default());
    let mxcsr = mxcsr & MXCSR_MASK.load(Ordering::Relaxed);
    area[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr.to_le_bytes());
    if components & SSE != 0 {
        for (register, bytes) in context.vectors.0.iter_mut().zip(area[XMM..XMM + 256].chunks_exact(16)) {
            *register = u128::from_le_bytes(bytes.try_into().unwrap_or_default());
        }
    }
}
