//! PCI functions of a domain of Xen's that has a PC's: those that the hypervisor passes through. Everything else of the machine is
//! the other platform's, which takes a vector for its own interrupts and ends them itself.

use core::sync::atomic::{AtomicU32, Ordering};

use alloc::{boxed::Box, vec::Vec};

use bmk::{cpu, platform::BootInformation};
use rumpuser::{
    device::{InterruptHandler, Registers},
    sync::InterruptLock,
};

use crate::{bus, io_apic, local_apic, pci::interrupts};

/// The local APIC of the CPU that always runs. [`NONE`] on a PC.
static TARGET: AtomicU32 = AtomicU32::new(NONE);
const NONE: u32 = u32::MAX;
/// Those of the CPUs that have run.
static LOCAL_APICS: [AtomicU32; cpu::MAXIMUM] = [const { AtomicU32::new(NONE) }; cpu::MAXIMUM];

/// A message that follows a CPU.
struct Message {
    /// Bus, device and function.
    place: (u8, u8, u8),
    /// Its entry in the function's table.
    entry: Registers,
    cpu: usize,
}

static MESSAGES: InterruptLock<Vec<Message>> = InterruptLock::new(Vec::new());

/// Prepares for [`start`], on the boot CPU.
pub fn prepare(boot: &BootInformation) {
    local_apic::discover(LOCAL_APIC);
    TARGET.store(local_apic::identifier(), Ordering::Relaxed);
    io_apic::add(IO_APIC, 0);
    bus::keep(boot);
}

/// The calling CPU can take messages.
pub fn initialise_cpu() {
    if target().is_some()
        && let Some(place) = LOCAL_APICS.get(cpu::number())
    {
        local_apic::accept();
        place.store(local_apic::identifier(), Ordering::Relaxed);
    }
}

/// Has the messages for a CPU that goes sent to the one that always runs. It may stand still, as all others.
pub fn cpu_goes(cpu: usize) {
    send_messages(cpu, target());
}

/// Has a CPU that runs again get its messages.
pub fn cpu_came(cpu: usize) {
    send_messages(cpu, target_of(cpu));
}

fn send_messages(cpu: usize, target: Option<u32>) {
    let Some(target) = target else { return };
    for message in MESSAGES.lock().iter().filter(|message| message.cpu == cpu) {
        interrupts::send_to(message.entry, target);
    }
}

/// Where the registers are, unless they are MSRs.
const LOCAL_APIC: u64 = 0xfee0_0000;
/// Those of the I/O APIC, which has all global interrupts (Xen, public/arch-x86/hvm/save.h and xen/arch/x86/hvm/vioapic.c).
const IO_APIC: u64 = 0xfec0_0000;

/// The global interrupt of a pin, by how Xen wires the first bus of such a domain: each pin of its 32 devices to one of 32 inputs
/// after those of ISA (`hvm_pci_intx_gsi` of xen/include/asm-x86/hvm/irq.h).
pub(crate) fn pin_interrupt(device: u8, pin: u32) -> u32 {
    let device = u32::from(device);
    16 + ((device << 2) + (device >> 3) + pin) % 32
}

/// Finds the functions that are there, or have come since, and offers them to the drivers. Thread context.
pub fn start() {
    bus::start_pci();
}

/// The local APIC that messages go to, in such a domain.
pub(crate) fn target() -> Option<u32> {
    Some(TARGET.load(Ordering::Relaxed)).filter(|target| *target != NONE)
}

/// The local APIC that messages for a CPU go to, in such a domain.
pub(crate) fn target_of(cpu: usize) -> Option<u32> {
    let first = target()?;
    let runs = cpu::online() & 1 << (cpu % cpu::MAXIMUM) != 0;
    let known = LOCAL_APICS.get(cpu).map(|place| place.load(Ordering::Relaxed));
    Some(known.filter(|known| runs && *known <= interrupts::HIGHEST).unwrap_or(first))
}

/// Remembers for which CPU the message of a table's entry is.
pub(crate) fn follow(place: (u8, u8, u8), entry: Registers, cpu: usize) {
    if target().is_some() {
        MESSAGES.lock().push(Message { place, entry, cpu });
    }
}

/// Forgets the messages of functions that send none any more.
pub(crate) fn forget(ended: impl Fn((u8, u8, u8)) -> bool) {
    MESSAGES.lock().retain(|message| !ended(message.place));
}

/// A vector for a handler.
pub(crate) fn allocate_vector(handler: InterruptHandler) -> Option<u8> {
    if target().is_none() {
        return bmk::trap::allocate_vector(handler);
    }
    bmk::trap::allocate_vector(Box::new(move || {
        handler();
        local_apic::end_of_interrupt();
    }))
}
