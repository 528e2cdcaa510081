//! Hypercalls (Xen, public/xen.h): by `vmcall` or `vmmcall`, whichever the CPU has, with the arguments in registers.

use core::{
    arch::asm,
    sync::atomic::{AtomicBool, Ordering},
};

const MEMORY_OP: u64 = 12;
const GRANT_TABLE_OP: u64 = 20;
const VCPU_OP: u64 = 24;
const SCHED_OP: u64 = 29;
const EVENT_CHANNEL_OP: u64 = 32;
const HVM_OP: u64 = 34;

/// The calling domain.
pub const SELF: u16 = 0x7ff0;

/// Whether the CPU is one of those that have `vmmcall`.
static VMMCALL: AtomicBool = AtomicBool::new(false);

/// Finds out how hypercalls are made.
pub fn initialise() {
    let [_, b, c, d] = bmk::machine::cpuid(0, 0);
    let vendor = [b, d, c].map(u32::to_le_bytes);
    let amd = matches!(vendor.as_flattened(), b"AuthenticAMD" | b"HygonGenuine");
    VMMCALL.store(amd, Ordering::Relaxed);
}

/// A hypercall with up to three arguments.
///
/// # Safety
/// Pointers among the arguments must point to what the hypercall reads or writes, and what it does to the domain must
/// leave the kernel's memory as the compiler knows it.
unsafe fn call(number: u64, arguments: [u64; 3]) -> i64 {
    let result: i64;
    let [first, second, third] = arguments;
    if VMMCALL.load(Ordering::Relaxed) {
        // SAFETY: as above; the hypervisor keeps the other registers.
        unsafe {
            asm!("vmmcall", inout("rax") number => result, inout("rdi") first => _, inout("rsi") second => _,
                inout("rdx") third => _, options(nostack));
        }
    } else {
        // SAFETY: as above.
        unsafe {
            asm!("vmcall", inout("rax") number => result, inout("rdi") first => _, inout("rsi") second => _,
                inout("rdx") third => _, options(nostack));
        }
    }
    result
}

/// An operation that a hypercall takes: a structure of Xen's ABI, read and written in place.
///
/// # Safety
/// The type must have the layout of the structure that `HYPERCALL` takes with `COMMAND`, hold no pointers but to memory
/// that the operation may use, and the operation must not change other memory of the kernel.
pub unsafe trait Operation {
    /// The hypercall.
    const HYPERCALL: Hypercall;
    /// Its command.
    const COMMAND: u64;
}

/// The hypercalls that take a command and a structure.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
pub enum Hypercall {
    /// `HYPERVISOR_memory_op`.
    Memory = MEMORY_OP,
    /// `HYPERVISOR_sched_op`.
    Schedule = SCHED_OP,
    /// `HYPERVISOR_event_channel_op`.
    EventChannel = EVENT_CHANNEL_OP,
    /// `HYPERVISOR_hvm_op`.
    Hvm = HVM_OP,
}

/// Performs an operation; negative results are Xen's error numbers.
pub fn perform<T: Operation>(operation: &mut T) -> Result<i64, i64> {
    // SAFETY: the trait's contract.
    checked(unsafe { call(T::HYPERCALL as u64, [T::COMMAND, core::ptr::from_mut(operation) as u64, 0]) })
}

fn checked(result: i64) -> Result<i64, i64> {
    if result < 0 { Err(result) } else { Ok(result) }
}

/// An operation on a virtual CPU; see [`Operation`].
///
/// # Safety
/// The type must have the layout of the structure that `HYPERVISOR_vcpu_op` takes with `COMMAND`, and the operation must
/// not change memory of the kernel that the type doesn't name.
pub unsafe trait VcpuOperation {
    /// The command.
    const COMMAND: u64;
}

/// Performs an operation on a virtual CPU.
pub fn vcpu<T: VcpuOperation>(cpu: u32, operation: &T) -> Result<i64, i64> {
    // SAFETY: the trait's contract; these operations only read the structure.
    checked(unsafe { call(VCPU_OP, [T::COMMAND, u64::from(cpu), core::ptr::from_ref(operation) as u64]) })
}

/// Operations on a virtual CPU that take nothing.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
pub enum PlainVcpu {
    /// Makes it run.
    Up = 1,
    /// Makes it rest; the calling one at once, until it is made to run.
    Down = 2,
    /// 1 if it runs, an error if there is no such CPU.
    IsUp = 3,
    /// Disarms its single-shot timer.
    StopTimer = 9,
}

/// Performs one of [`PlainVcpu`].
pub fn vcpu_plain(cpu: u32, operation: PlainVcpu) -> Result<i64, i64> {
    // SAFETY: the operation takes no pointer.
    checked(unsafe { call(VCPU_OP, [operation as u64, u64::from(cpu), 0]) })
}

/// Lets other virtual CPUs run.
pub fn yield_cpu() {
    // SAFETY: takes no pointer.
    unsafe { call(SCHED_OP, [0; 3]) };
}

/// An operation on the grant table.
///
/// # Safety
/// As for [`Operation`], with `HYPERVISOR_grant_table_op`.
pub unsafe trait GrantOperation {
    /// The command.
    const COMMAND: u64;
}

/// Performs a single operation on the grant table.
pub fn grant<T: GrantOperation>(operation: &mut T) -> Result<i64, i64> {
    // SAFETY: the trait's contract.
    checked(unsafe { call(GRANT_TABLE_OP, [T::COMMAND, core::ptr::from_mut(operation) as u64, 1]) })
}
