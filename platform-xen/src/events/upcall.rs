//! How the hypervisor raises the upcall: by each CPU's local APIC, as one more interrupt source of that CPU, or else by the
//! vector of the whole domain (Xen, public/hvm/hvm_op.h and public/hvm/params.h; x2APIC registers: SDM volume 3, table 11-6).
//!
//! The domain's vector stays raised until the upcall has taken the CPU's flag back, so that the hypervisor asks for the next
//! moment with interrupts enabled with every upcall, a second exit. Under QEMU's software emulation (at least 7.2 to 10.0) that
//! is also when an interrupt of the host can be lost halfway, and the upcall delivered twice, over its own frame.

use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use bmk::machine;

use crate::{
    hypercall::{self, Hypercall, Operation},
    memory,
};

/// `HVM_PARAM_CALLBACK_IRQ`, and its type for a vector.
const CALLBACK: u32 = 0;
const CALLBACK_BY_VECTOR: u64 = 2 << 56;

const APIC_BASE: u32 = 0x1b;
const APIC_BASE_ENABLE: u64 = 1 << 11;
const APIC_BASE_X2APIC: u64 = 1 << 10;
const END_OF_INTERRUPT: u32 = 0x80b;
const SPURIOUS_INTERRUPT: u32 = 0x80f;
const SOFTWARE_ENABLE: u64 = 1 << 8;

#[repr(C)]
struct SetUpcallVector {
    cpu: u32,
    vector: u8,
    padding: [u8; 3],
}

// SAFETY: `struct xen_hvm_evtchn_upcall_vector` with HVMOP_set_evtchn_upcall_vector, which only reads it.
unsafe impl Operation for SetUpcallVector {
    const HYPERCALL: Hypercall = Hypercall::Hvm;
    const COMMAND: u64 = 23;
}

static VECTOR: AtomicU8 = AtomicU8::new(0);
/// The upcall comes by the CPUs' local APICs.
static BY_LOCAL_APIC: AtomicBool = AtomicBool::new(false);

/// Chooses the way, on the boot CPU.
pub fn initialise(vector: u8) -> Result<(), i64> {
    VECTOR.store(vector, Ordering::Relaxed);
    let by_local_apic = has_local_apic() && set_up_cpu(0).is_ok();
    BY_LOCAL_APIC.store(by_local_apic, Ordering::Relaxed);
    if by_local_apic {
        // The toolstack takes a domain without this for one that can't be told that its suspension was called off.
        let _ = memory::set_parameter(CALLBACK, 1);
        return Ok(());
    }
    memory::set_parameter(CALLBACK, CALLBACK_BY_VECTOR | u64::from(vector))
}

/// Chooses again for a domain that was restored, perhaps by another hypervisor, on the boot CPU.
pub fn resume() -> Result<(), i64> {
    initialise(VECTOR.load(Ordering::Relaxed))
}

/// Has the upcall come to the calling CPU; the boot CPU's does already.
pub fn initialise_cpu(cpu: u32) -> Result<(), i64> {
    if cpu != 0 && BY_LOCAL_APIC.load(Ordering::Relaxed) { set_up_cpu(cpu) } else { Ok(()) }
}

/// A domain has a local APIC unless the toolstack says otherwise.
fn has_local_apic() -> bool {
    let [_, _, c, d] = machine::cpuid(1, 0);
    c & 1 << 21 != 0 && d & 1 << 9 != 0
}

fn set_up_cpu(cpu: u32) -> Result<(), i64> {
    // SAFETY: the registers exist, as CPUID says; nothing but the upcall is delivered by this local APIC.
    unsafe {
        machine::wrmsr(APIC_BASE, machine::rdmsr(APIC_BASE) | APIC_BASE_ENABLE | APIC_BASE_X2APIC);
        machine::wrmsr(SPURIOUS_INTERRUPT, SOFTWARE_ENABLE | u64::from(bmk::platform::SPURIOUS_VECTOR));
    }
    let vector = VECTOR.load(Ordering::Relaxed);
    hypercall::perform(&mut SetUpcallVector { cpu, vector, padding: [0; 3] }).map(drop)
}

/// The upcall has come: the next may.
pub fn taken() {
    if BY_LOCAL_APIC.load(Ordering::Relaxed) {
        // SAFETY: `set_up_cpu` has put the local APIC into the mode that has this register.
        unsafe { machine::wrmsr(END_OF_INTERRUPT, 0) };
    }
}
