//! Single instructions of the processor (Intel SDM volume 2), as functions.

use core::arch::asm;

/// FS segment base.
pub const MSR_FS_BASE: u32 = 0xc000_0100;
/// GS segment base.
pub const MSR_GS_BASE: u32 = 0xc000_0101;
/// What `swapgs` exchanges with the GS base.
pub const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;
/// Extended features.
pub const MSR_EFER: u32 = 0xc000_0080;
/// Selectors for `syscall` and `sysret`.
pub const MSR_STAR: u32 = 0xc000_0081;
/// Entry of `syscall`.
pub const MSR_LSTAR: u32 = 0xc000_0082;
/// Flags that `syscall` clears.
pub const MSR_SFMASK: u32 = 0xc000_0084;
/// What `rdtscp` puts in ECX.
pub const MSR_TSC_AUX: u32 = 0xc000_0103;

/// The interrupt flag in RFLAGS.
pub const FLAG_INTERRUPT: u64 = 1 << 9;

macro_rules! control_register {
    ($read:ident $write:ident $name:literal) => {
        #[doc = concat!("Reads ", $name, ".")]
        #[inline]
        pub fn $read() -> u64 {
            let value;
            // SAFETY: reading a control register has no effect.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) };
            value
        }
        #[doc = concat!("Writes ", $name, ".")]
        ///
        /// # Safety
        /// The value must keep the machine running the code that follows.
        #[inline]
        pub unsafe fn $write(value: u64) {
            // SAFETY: as above.
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags)) };
        }
    };
}
control_register!(cr0 set_cr0 "cr0");
control_register!(cr2 set_cr2 "cr2");
control_register!(cr3 set_cr3 "cr3");
control_register!(cr4 set_cr4 "cr4");

/// Reads a model-specific register.
///
/// # Safety
/// The register must exist.
pub unsafe fn rdmsr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: as above.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    };
    u64::from(low) | u64::from(high) << 32
}

/// Writes a model-specific register.
///
/// # Safety
/// The register must exist and the value must be valid for it.
#[inline]
pub unsafe fn wrmsr(register: u32, value: u64) {
    // SAFETY: as above.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags))
    };
}

/// The time-stamp counter.
#[inline]
pub fn rdtsc() -> u64 {
    // SAFETY: every x86-64 CPU has it, and CR4.TSD is clear.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// CPUID leaf and subleaf: (eax, ebx, ecx, edx).
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let result = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [result.eax, result.ebx, result.ecx, result.edx]
}

/// Whether the CPU has `rdtscp`, and with it [`MSR_TSC_AUX`].
pub fn has_rdtscp() -> bool {
    cpuid(0x8000_0000, 0)[0] >= 0x8000_0001 && cpuid(0x8000_0001, 0)[3] & 1 << 27 != 0
}

/// Disables interrupts; returns the flags before.
#[inline]
pub fn interrupts_disable() -> usize {
    let flags: usize;
    // SAFETY: only clears the interrupt flag.
    unsafe { asm!("pushfq", "pop {}", "cli", out(reg) flags, options(preserves_flags)) };
    flags
}

/// Enables interrupts.
#[inline]
pub fn interrupts_enable() {
    // SAFETY: only sets the interrupt flag; handlers preserve every register.
    unsafe { asm!("sti", options(nostack, preserves_flags)) };
}

/// Disables interrupts.
#[inline]
pub fn cli() {
    // SAFETY: only clears the interrupt flag.
    unsafe { asm!("cli", options(nostack, preserves_flags)) };
}

/// Whether interrupts are enabled.
#[inline]
pub fn interrupts_enabled() -> bool {
    let flags: u64;
    // SAFETY: reads the flags.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) };
    flags & FLAG_INTERRUPT != 0
}

/// Enables interrupts and waits for one, without a gap between.
#[inline]
pub fn wait_for_interrupt() {
    // SAFETY: `sti` takes effect after the `hlt` begins, so no interrupt is lost.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// Stops this CPU for good.
pub fn stop() -> ! {
    loop {
        // SAFETY: halting is the point.
        unsafe { asm!("cli", "hlt", options(nostack)) };
    }
}

/// Forgets the translation of one page.
#[inline]
pub fn invlpg(address: usize) {
    // SAFETY: flushing a translation is always allowed.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
}

/// Forgets all translations that are not global.
#[inline]
pub fn flush_tlb() {
    // SAFETY: loads the same page table again.
    unsafe { set_cr3(cr3()) };
}

/// Forgets all translations, global ones too.
pub fn flush_tlb_global() {
    let value = cr4();
    // SAFETY: CR4.PGE off and on again (SDM volume 3, section 4.10.4.1).
    unsafe {
        set_cr4(value & !(1 << 7));
        set_cr4(value);
    }
}
