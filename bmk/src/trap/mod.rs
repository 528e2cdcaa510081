//! Interrupts and exceptions: the IDT, who handles which vector, and what the kernel does with its own traps.

pub mod constant;
pub mod entry;
pub mod extended;
pub mod frame;
mod own;
pub mod user;

use alloc::boxed::Box;
use core::{
    cell::UnsafeCell,
    sync::atomic::{AtomicPtr, Ordering},
};

use rumpuser::{UserContext, device::InterruptHandler};

use crate::{
    cpu::{self, DescriptorTable},
    lock::IrqLock,
    machine,
    memory::{access, shootdown, stack},
    panic,
    platform::{DEVICE_VECTORS, SPURIOUS_VECTOR, TIMER_VECTOR, WAKE_VECTOR, platform},
    schedule,
};
use frame::KernelFrame;

const PROTECTION_FAULT: u64 = 13;
const PAGE_FAULT: u64 = 14;
const SIMD_EXCEPTION: u64 = 19;

/// An IDT gate (SDM volume 3, section 6.14.1).
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    low: u64,
    high: u64,
}

struct Table(UnsafeCell<[Gate; 256]>);

// SAFETY: written once, by the boot CPU before others run.
unsafe impl Sync for Table {}

static IDT: Table = Table(UnsafeCell::new([Gate { low: 0, high: 0 }; 256]));

unsafe extern "C" {
    static bmk_trap_stubs: u8;
}

/// The IST number of a vector (1 interrupts, 2 NMI, 3 double fault, 4 machine check, 5 debug, 6 all other exceptions): what
/// was interrupted may use memory below its stack pointer, or have none there.
fn stack_of(vector: usize) -> u64 {
    match vector {
        1 => 5,
        2 => 2,
        8 => 3,
        18 => 4,
        32.. => 1,
        _ => 6,
    }
}

/// Fills the table, once.
pub fn initialise() {
    let stubs = (&raw const bmk_trap_stubs) as u64;
    for vector in 0..256 {
        let address = stubs + 16 * vector as u64;
        // #BP and #OF may be raised by user instructions.
        let privilege = if vector == 3 || vector == 4 { 3 } else { 0 };
        let low = address & 0xffff
            | u64::from(cpu::KERNEL_CODE) << 16
            | stack_of(vector) << 32
            | (0x8e | privilege << 5) << 40
            | (address >> 16 & 0xffff) << 48;
        // SAFETY: boot, one CPU; the table isn't loaded yet.
        unsafe { (*IDT.0.get())[vector] = Gate { low, high: address >> 32 } };
    }
}

/// Loads the calling CPU's table register and prepares `syscall`.
pub fn load() {
    let pointer = DescriptorTable { limit: 256 * 16 - 1, base: IDT.0.get() as u64 };
    // SAFETY: the table is complete and static; the registers exist on every x86-64 CPU.
    unsafe {
        core::arch::asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack));
        machine::wrmsr(
            machine::MSR_STAR,
            u64::from(cpu::KERNEL_CODE) << 32 | u64::from(cpu::USER_BASE) << 48,
        );
        machine::wrmsr(machine::MSR_LSTAR, entry::system_call as *const () as u64);
        // All but the reserved bit 1: interrupts off, no single step, forward direction, no alignment checks.
        machine::wrmsr(machine::MSR_SFMASK, 0x0025_7fd5 & !2);
    }
}

static HANDLERS: [AtomicPtr<InterruptHandler>; 256] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 256];
static ALLOCATE: IrqLock<()> = IrqLock::new(());

/// Gives a device interrupt handler a vector of its own, the same on all CPUs; `None` if all are taken.
pub fn allocate_vector(handler: InterruptHandler) -> Option<u8> {
    let handler = Box::into_raw(Box::new(handler));
    let _guard = ALLOCATE.lock();
    let free = DEVICE_VECTORS
        .into_iter()
        .find(|&vector| HANDLERS[vector as usize].load(Ordering::Acquire).is_null());
    match free {
        Some(vector) => HANDLERS[vector as usize].store(handler, Ordering::Release),
        // SAFETY: nobody else has seen the pointer.
        None => drop(unsafe { Box::from_raw(handler) }),
    }
    free
}

/// Handles an interrupt, with interrupts disabled, on the interrupted thread's stack.
pub fn interrupt(vector: u8) {
    let count = &cpu::current().interrupts[usize::from(vector)];
    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    match vector {
        TIMER_VECTOR => {
            platform().end_of_interrupt();
            schedule::timer_interrupt();
        }
        WAKE_VECTOR => {
            platform().end_of_interrupt();
            panic::stop_if_asked();
            shootdown::serve(cpu::current());
        }
        SPURIOUS_VECTOR => {}
        _ => {
            // SAFETY: a handler, once set, stays for ever.
            if let Some(handler) = unsafe { HANDLERS[vector as usize].load(Ordering::Acquire).as_ref() } {
                handler();
            }
            platform().end_of_interrupt();
        }
    }
}

/// A trap in kernel mode.
pub(crate) extern "sysv64" fn kernel_trap(frame: &mut KernelFrame) {
    match frame.vector {
        vector @ 32.. => {
            interrupt(vector as u8);
            schedule::preempt_from_interrupt();
            own::interrupted(frame);
        }
        PAGE_FAULT => {
            let address = machine::cr2() as usize;
            if own::handles(frame, address) {
                return;
            }
            let Some(fixup) = access::fixup(frame) else { fatal_trap(frame) };
            let may_sleep = frame.rflags & machine::FLAG_INTERRUPT != 0 && schedule::may_sleep();
            // A reserved bit or a protection key would not go away; nor does an instruction fetch happen there.
            let resolved = may_sleep && {
                machine::interrupts_enable();
                let resolved = access::resolve(address, frame.error & 2 != 0);
                machine::cli();
                resolved
            };
            if !resolved {
                frame.rip = fixup;
            }
        }
        _ => exception(frame),
    }
}

/// An exception in kernel mode that isn't a page fault.
fn exception(frame: &mut KernelFrame) {
    // A pointer that is none at all.
    if frame.vector == PROTECTION_FAULT
        && let Some(fixup) = access::fixup(frame)
    {
        frame.rip = fixup;
        return;
    }
    if own::handles(frame, 0) {
        return;
    }
    match frame.vector {
        // The user may have unmasked exceptions that the kernel's own arithmetic then meets.
        SIMD_EXCEPTION => {
            let standard = 0x1f80u32;
            // SAFETY: the standard value masks every exception.
            unsafe {
                core::arch::asm!("ldmxcsr [{}]", in(reg) &raw const standard, options(nostack, readonly))
            };
        }
        _ => fatal_trap(frame),
    }
}

/// An exception in kernel mode, on the CPU's stack for those: returns the frame with which it goes on, on a stack of the
/// thread's; of what can't be gone on from, it tells at once.
pub(crate) extern "sysv64" fn kernel_exception(frame: &mut KernelFrame) -> *mut KernelFrame {
    let goes_on = match frame.vector {
        8 | 18 => false,
        SIMD_EXCEPTION => true,
        PAGE_FAULT | PROTECTION_FAULT if access::fixup(frame).is_some() => true,
        _ => own::may_handle(),
    };
    let place = own::place(frame);
    if !goes_on || stack::is_guard(place) {
        fatal_trap(frame);
    }
    let place = place as *mut KernelFrame;
    // SAFETY: the place is below what the thread uses of its stack.
    unsafe { place.copy_from_nonoverlapping(frame, 1) };
    place
}

/// See `rumpuser_resume`.
pub fn resume(context: &UserContext, area: &[u8]) -> ! {
    machine::cli();
    let mut context = context.clone();
    extended::load_trapped(&mut context, area);
    let mut frame = own::frame(&context);
    // SAFETY: the frame is complete, and its registers are fit for kernel mode.
    unsafe { entry::resume(&mut frame) }
}

/// A trap that the kernel cannot go on from.
pub(crate) extern "sysv64" fn fatal_trap(frame: &KernelFrame) -> ! {
    let address = machine::cr2() as usize;
    let overflow = matches!(frame.vector, 8 | PAGE_FAULT)
        && (stack::is_guard(address) || stack::is_guard(frame.rsp as usize));
    let what = match frame.vector {
        _ if overflow => "kernel stack overflow",
        0 => "divide error",
        6 => "invalid opcode",
        8 => "double fault",
        13 => "general protection fault",
        14 => "page fault",
        18 => "machine check",
        _ => "exception",
    };
    panic::trap(
        frame,
        format_args!("{what} (vector {}, error {:#x}, address {address:#x})", frame.vector, frame.error),
    )
}
