//! Virtual CPUs: which there are, and how they start (Xen, public/vcpu.h and public/hvm/hvm_vcpu.h).

use alloc::{format, vec::Vec};

use bmk::platform::CpuStart;

use crate::{
    hypercall::{self, PlainVcpu, VcpuOperation},
    memory, store,
};

/// The CPUs that the toolstack wants to run, the boot CPU first.
pub fn usable() -> Vec<u32> {
    let exists = |cpu: &u32| hypercall::vcpu_plain(*cpu, PlainVcpu::IsUp).is_ok();
    let wanted = |cpu: &u32| {
        let availability = store::PLAIN.read(&format!("cpu/{cpu}/availability"));
        *cpu == 0 || availability.map_or(true, |availability| availability == "online")
    };
    (0..bmk::cpu::MAXIMUM as u32).take_while(exists).filter(wanted).collect()
}

/// `struct vcpu_hvm_context` with 64-bit registers.
#[repr(C)]
#[derive(Default)]
struct Context {
    mode: u32,
    padding: u32,
    rax: u64,
    rcx: u64,
    rdx: u64,
    rbx: u64,
    rsp: u64,
    rbp: u64,
    rsi: u64,
    rdi: u64,
    rip: u64,
    rflags: u64,
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
}

// SAFETY: VCPUOP_initialise; the registers make the CPU run the kernel's code on a stack of its own.
unsafe impl VcpuOperation for Context {
    const COMMAND: u64 = 0;
}

const MODE_64: u32 = 1;
/// PE, MP, ET, NE, WP, PG.
const CR0: u64 = 0x8001_0033;
/// PAE, OSFXSR, OSXMMEXCPT.
const CR4: u64 = 0x620;
/// SCE, LME, LMA, NXE.
const EFER: u64 = 0xd01;
/// The bit that is always set.
const RFLAGS: u64 = 2;

/// Starts a CPU, in 64-bit mode at once.
pub fn start(cpu: u32, start: &CpuStart) {
    let context = Context {
        mode: MODE_64,
        // As after a call.
        rsp: start.stack - 8,
        rdi: start.argument,
        rip: start.entry,
        rflags: RFLAGS,
        cr0: CR0,
        cr3: start.tables,
        cr4: CR4,
        efer: EFER,
        ..Context::default()
    };
    // Whoever waits for the CPU says so if it doesn't come.
    let _ = memory::register_cpu(cpu)
        .and_then(|()| hypercall::vcpu(cpu, &context))
        .and_then(|_| hypercall::vcpu_plain(cpu, PlainVcpu::Up));
}
