//! Pages that are shared with the hypervisor: the shared information page, CPUs' information, and the domain's
//! parameters (Xen, public/xen.h, public/memory.h and public/hvm/params.h).

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

use once_cell::race::OnceBox;
use rumpuser::{OutOfMemory, device::DmaMemory, memory::PAGE_SIZE};

use crate::hypercall::{self, Hypercall, Operation, SELF, VcpuOperation};

/// The time of a virtual CPU (`struct vcpu_time_info`).
#[repr(C)]
pub struct TimeInformation {
    /// Odd while the hypervisor writes.
    pub version: AtomicU32,
    padding: u32,
    /// The time-stamp counter at `system_time`.
    pub tsc: AtomicU64,
    /// Nanoseconds since the host's start.
    pub system_time: AtomicU64,
    /// Nanoseconds per tick, 0.32 fixed point, after the shift.
    pub multiplier: AtomicU32,
    /// By how much ticks are shifted left; right if negative.
    pub shift: AtomicU8,
    flags: AtomicU8,
    padding2: [u8; 2],
}

/// What the hypervisor shows a virtual CPU (`struct vcpu_info`).
#[repr(C)]
pub struct VcpuInformation {
    /// An event waits.
    pub upcall_pending: AtomicU8,
    upcall_mask: AtomicU8,
    padding: [u8; 6],
    /// Words of [`SharedInformation::pending`] with waiting events (2-level ABI).
    pub pending_selector: AtomicU64,
    fault_address: AtomicU64,
    padding2: u64,
    /// Its time.
    pub time: TimeInformation,
}
const _: () = assert!(size_of::<VcpuInformation>() == 64);

/// The first CPUs' information is in the shared page.
const LEGACY_CPUS: usize = 32;

/// The shared information page (`struct shared_info`), as far as it matters here.
#[repr(C)]
pub struct SharedInformation {
    cpus: [VcpuInformation; LEGACY_CPUS],
    /// Waiting events (2-level ABI).
    pub pending: [AtomicU64; 64],
    /// Masked events (2-level ABI).
    pub mask: [AtomicU64; 64],
    /// Odd while the hypervisor writes.
    pub wall_version: AtomicU32,
    /// Time of day at the host's start: seconds since 1970, low half.
    pub wall_seconds: AtomicU32,
    /// Nanoseconds.
    pub wall_nanoseconds: AtomicU32,
    /// Seconds, high half.
    pub wall_seconds_high: AtomicU32,
}
const _: () = assert!(size_of::<SharedInformation>() <= PAGE_SIZE);

/// Memory shared with the hypervisor, for ever.
pub struct Page(DmaMemory);

impl Page {
    /// Some pages, zeroed.
    pub fn new(bytes: usize) -> Result<Page, OutOfMemory> {
        DmaMemory::new(bytes).map(Page)
    }

    /// The number of the frame at an offset.
    pub fn frame(&self, offset: usize) -> u64 {
        (self.0.physical() + offset as u64) / PAGE_SIZE as u64
    }

    /// The memory as an array of structures.
    ///
    /// # Safety
    /// Every bit pattern of `T` must be valid, and all that the hypervisor changes in it must be atomic.
    pub unsafe fn leak<T>(self) -> &'static [T] {
        let words = Box::leak(Box::new(self)).0.words();
        // SAFETY: page-aligned memory of this length that is never freed; the rest is the caller's promise.
        unsafe { core::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words) / size_of::<T>()) }
    }
}

#[repr(C)]
struct AddToPhysmap {
    domain: u16,
    size: u16,
    space: u32,
    index: u64,
    frame: u64,
}

// SAFETY: `struct xen_add_to_physmap` with XENMEM_add_to_physmap. It replaces the frame, which callers give up.
unsafe impl Operation for AddToPhysmap {
    const HYPERCALL: Hypercall = Hypercall::Memory;
    const COMMAND: u64 = 7;
}

/// What can be put in the place of a frame.
#[derive(Debug, Clone, Copy)]
pub enum Space {
    /// The shared information page.
    SharedInformation = 0,
    /// A page of the grant table.
    GrantTable = 1,
}

/// Puts a page of the hypervisor's in the place of a frame, whose own memory goes back to the host.
pub fn map(space: Space, index: u64, frame: u64) -> Result<(), i64> {
    let mut operation = AddToPhysmap { domain: SELF, size: 0, space: space as u32, index, frame };
    hypercall::perform(&mut operation).map(drop)
}

#[repr(C)]
struct GetParameter {
    domain: u16,
    padding: u16,
    index: u32,
    value: u64,
}

// SAFETY: `struct xen_hvm_param` with HVMOP_get_param.
unsafe impl Operation for GetParameter {
    const HYPERCALL: Hypercall = Hypercall::Hvm;
    const COMMAND: u64 = 1;
}

#[repr(C)]
struct SetParameter(GetParameter);

// SAFETY: `struct xen_hvm_param` with HVMOP_set_param.
unsafe impl Operation for SetParameter {
    const HYPERCALL: Hypercall = Hypercall::Hvm;
    const COMMAND: u64 = 0;
}

/// A parameter of the domain; `None` if it isn't set.
pub fn parameter(index: u32) -> Option<u64> {
    let mut operation = GetParameter { domain: SELF, padding: 0, index, value: 0 };
    hypercall::perform(&mut operation).ok()?;
    Some(operation.value).filter(|value| *value != 0 && *value != u64::MAX)
}

/// Sets a parameter of the domain.
pub fn set_parameter(index: u32, value: u64) -> Result<(), i64> {
    hypercall::perform(&mut SetParameter(GetParameter { domain: SELF, padding: 0, index, value })).map(drop)
}

#[repr(C)]
struct RegisterVcpuInformation {
    frame: u64,
    offset: u32,
    reserved: u32,
}

// SAFETY: `struct vcpu_register_vcpu_info` with VCPUOP_register_vcpu_info; the memory is the hypervisor's from then on.
unsafe impl VcpuOperation for RegisterVcpuInformation {
    const COMMAND: u64 = 10;
}

/// The pages.
pub struct Shared {
    /// The shared information page.
    pub information: &'static SharedInformation,
    /// The CPUs' information, by number.
    pub cpus: &'static [VcpuInformation],
    information_frame: u64,
    cpus_frame: u64,
}

static SHARED: OnceBox<Shared> = OnceBox::new();

/// The pages, once they are set up.
pub fn shared() -> Option<&'static Shared> {
    SHARED.get()
}

/// Sets the pages up.
pub fn initialise() -> Result<(), OutOfMemory> {
    let information = Page::new(PAGE_SIZE)?;
    let cpus = Page::new(size_of::<VcpuInformation>() * bmk::cpu::MAXIMUM)?;
    let (information_frame, cpus_frame) = (information.frame(0), cpus.frame(0));
    map(Space::SharedInformation, 0, information_frame).map_err(|_| OutOfMemory)?;
    // SAFETY: both structures are made of atomics, and integers that nothing reads.
    let (information, cpus) = unsafe { (information.leak::<SharedInformation>(), cpus.leak()) };
    let information = information.first().ok_or(OutOfMemory)?;
    let shared = Shared { information, cpus, information_frame, cpus_frame };
    let _ = SHARED.set(Box::new(shared));
    Ok(())
}

/// Puts the shared information page of a restored domain in its place.
pub fn resume() -> Result<(), i64> {
    shared().map_or(Err(-1), |shared| map(Space::SharedInformation, 0, shared.information_frame))
}

/// Tells the hypervisor where a CPU's information is. Once for each CPU; one that runs says so itself.
pub fn register_cpu(cpu: u32) -> Result<(), i64> {
    let Some(shared) = shared() else { return Err(-1) };
    let offset = cpu as usize * size_of::<VcpuInformation>();
    let operation = RegisterVcpuInformation {
        frame: shared.cpus_frame + (offset / PAGE_SIZE) as u64,
        offset: (offset % PAGE_SIZE) as u32,
        reserved: 0,
    };
    hypercall::vcpu(cpu, &operation).map(drop)
}

/// A CPU's information.
pub fn cpu(cpu: u32) -> Option<&'static VcpuInformation> {
    shared()?.cpus.get(cpu as usize)
}
