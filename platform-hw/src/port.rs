//! I/O ports, model-specific registers, CPUID and the time-stamp counter.

use core::arch::asm;

/// Reads a byte.
pub fn read8(port: u16) -> u8 {
    let value: u8;
    // SAFETY: reading a port touches no memory; devices that react do so in ways this crate expects.
    unsafe { asm!("in al, dx", out("al") value, in("dx") port, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads two bytes.
pub fn read16(port: u16) -> u16 {
    let value: u16;
    // SAFETY: as in `read8`.
    unsafe { asm!("in ax, dx", out("ax") value, in("dx") port, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads four bytes.
pub fn read32(port: u16) -> u32 {
    let value: u32;
    // SAFETY: as in `read8`.
    unsafe { asm!("in eax, dx", out("eax") value, in("dx") port, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes a byte.
pub fn write8(port: u16, value: u8) {
    // SAFETY: the ports this crate writes belong to devices that it drives; none is told to write memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) };
}

/// Writes two bytes.
pub fn write16(port: u16, value: u16) {
    // SAFETY: as in `write8`.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags)) };
}

/// Writes four bytes.
pub fn write32(port: u16, value: u32) {
    // SAFETY: as in `write8`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) };
}

/// Reads the same port into every byte of the slice: one instruction, which hypervisors handle at once.
pub fn read_bytes(port: u16, bytes: &mut [u8]) {
    // SAFETY: the instruction writes `bytes.len()` bytes from the slice's start on, no more.
    unsafe {
        asm!("rep insb", in("dx") port, inout("rdi") bytes.as_mut_ptr() => _, inout("rcx") bytes.len() => _,
            options(nostack, preserves_flags));
    }
}

/// Writes the bytes to the same port, in one instruction.
pub fn write_bytes(port: u16, bytes: &[u8]) {
    // SAFETY: the instruction reads `bytes.len()` bytes from the slice's start on, no more.
    unsafe {
        asm!("rep outsb", in("dx") port, inout("rsi") bytes.as_ptr() => _, inout("rcx") bytes.len() => _,
            options(nostack, preserves_flags, readonly));
    }
}

/// Reads a model-specific register. It must exist on this CPU.
pub fn read_msr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading an existing register has no effect on memory.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register. It must exist on this CPU and take the value.
pub fn write_msr(register: u32, value: u64) {
    // SAFETY: this crate writes the registers of the local APIC and of paravirtual clocks, with memory of its own.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

/// Waits until earlier memory writes are visible to other CPUs; an MSR write alone doesn't order them.
pub fn fence() {
    // SAFETY: fences have no other effect.
    unsafe { asm!("mfence", "lfence", options(nostack, preserves_flags)) };
}

/// The time-stamp counter, read after the instructions before it.
pub fn tsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: it reads a counter.
    unsafe {
        asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// CPUID: `[eax, ebx, ecx, edx]`.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let result = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [result.eax, result.ebx, result.ecx, result.edx]
}

/// CPUID of a basic leaf; zeros if the CPU doesn't have it.
pub fn basic_cpuid(leaf: u32) -> [u32; 4] {
    if cpuid(0, 0)[0] >= leaf { cpuid(leaf, 0) } else { [0; 4] }
}

/// CPUID of a hypervisor's leaf; zeros without a hypervisor or without the leaf.
pub fn hypervisor_cpuid(leaf: u32) -> [u32; 4] {
    const HYPERVISOR: u32 = 1 << 31;
    if cpuid(1, 0)[2] & HYPERVISOR == 0 {
        return [0; 4];
    }
    // KVM once reported a highest leaf of 0 and meant 0x40000001.
    let highest = cpuid(0x4000_0000, 0)[0].max(0x4000_0001);
    if (0x4000_0000..=highest).contains(&leaf) { cpuid(leaf, 0) } else { [0; 4] }
}

/// Whether interrupts are enabled on this CPU.
pub fn interrupts_enabled() -> bool {
    let flags: u64;
    // SAFETY: it reads the flags by way of the stack; the kernel has no red zone.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) };
    flags & 1 << 9 != 0
}

/// Spins for at least `ticks` of the time-stamp counter.
pub fn delay(ticks: u64) {
    let start = tsc();
    while tsc().wrapping_sub(start) < ticks {
        core::hint::spin_loop();
    }
}
