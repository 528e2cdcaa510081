//! The Xen platform: PVH domains of a stock Xen, and HVM domains. `bmk` calls it through [`bmk::platform::Platform`]; the kernel chooses
//! [`XEN`] where [`detected`] says so.
//!
//! Interrupts are event channels: no local APIC, no firmware table is used.
#![cfg_attr(not(any(test, feature = "host")), no_std)]
#![allow(unsafe_code, reason = "this crate talks to a hypervisor")]

extern crate alloc;

mod balloon;
mod clock;
mod console;
mod control;
mod cpus;
mod events;
#[cfg(any(test, feature = "host"))]
pub mod fuzz;
mod grant;
mod hvm;
mod hypercall;
mod memory;
mod ring;
mod runstate;
mod shutdown;
pub mod store;
mod suspend;
mod sysrq;
mod xenbus;

use alloc::{string::String, vec::Vec};
use core::sync::atomic::{AtomicBool, Ordering};

use bmk::platform::{BootInformation, CpuStart, HardwareCpu, Platform, WAKE_VECTOR};
use image::machine::Status;
use rumpuser::Halt;

pub use xenbus::set_drivers;

/// Xen.
pub struct Xen;

/// The platform to register with `bmk`.
pub static XEN: Xen = Xen;

/// Whether this is a domain of Xen's. Works from the first instruction on.
pub fn detected() -> bool {
    const HYPERVISOR: u32 = 1 << 31;
    if bmk::machine::cpuid(1, 0)[2] & HYPERVISOR == 0 {
        return false;
    }
    // Another hypervisor's interface may come first.
    (0x4000_0000..0x4001_0000).step_by(0x100).any(|leaf| {
        let [_, b, c, d] = bmk::machine::cpuid(leaf, 0);
        [b, c, d].map(u32::to_le_bytes).as_flattened() == b"XenVMMXenVMM"
    })
}

/// The calling CPU's number to the hypervisor; its callers can't move to another CPU.
fn current_vcpu() -> u32 {
    bmk::cpu::hardware_of(bmk::cpu::number())
}

/// The kernel panicked.
static PANICKED: AtomicBool = AtomicBool::new(false);

fn need<T, E>(result: Result<T, E>, what: &str) {
    if result.is_err() {
        bmk::boot::refuse(format_args!("this Xen gives no {what}"));
    }
}

impl Platform for Xen {
    fn console_write(&self, bytes: &[u8]) {
        console::write(bytes);
    }

    fn discover(&self, boot: &BootInformation) {
        hypercall::initialise();
        hvm::discover(boot);
        need(memory::initialise(), "shared page");
        need(memory::register_cpu(0), "place for a CPU's information");
        need(events::initialise(&boot.command_line), "events");
        console::initialise();
        store::initialise();
    }

    fn tsc_frequency(&self) -> u64 {
        clock::tsc_frequency().unwrap_or(1_000_000_000)
    }

    fn realtime(&self) -> u64 {
        clock::realtime().unwrap_or(0)
    }

    fn cpus(&self) -> Vec<HardwareCpu> {
        cpus::all()
    }

    fn cpu_wanted(&self, cpu: HardwareCpu) -> bool {
        cpus::wanted(cpu)
    }

    fn initialise_cpu(&self) {
        need(events::initialise_cpu(current_vcpu()), "interrupts between CPUs");
        runstate::register(current_vcpu());
        platform_hw::guest::initialise_cpu();
    }

    fn start_cpu(&self, cpu: HardwareCpu, start: &CpuStart) {
        cpus::start(cpu, start);
    }

    fn rest_cpu(&self) {
        cpus::rest(current_vcpu());
    }

    fn relax(&self) {
        hypercall::yield_cpu();
    }

    fn look_before_halt(&self) -> bool {
        events::take_lost()
    }

    fn cpu_rests(&self, cpu: HardwareCpu) -> bool {
        cpus::rests(cpu)
    }

    fn starts_in_real_mode(&self) -> bool {
        false
    }

    fn send_interrupt(&self, cpu: HardwareCpu, vector: u8) {
        debug_assert_eq!(vector, WAKE_VECTOR);
        events::wake(cpu);
    }

    /// The hypervisor takes the upcall's flag for it.
    fn end_of_interrupt(&self) {}

    fn set_timer(&self, tsc: u64) {
        clock::set_timer(tsc);
    }

    fn stolen_time(&self, cpu: HardwareCpu) -> u64 {
        runstate::stolen(cpu)
    }

    fn command_line(&self) -> Option<String> {
        None
    }

    fn start_devices(&self) {
        control::start();
        balloon::start();
        cpus::follow();
        xenbus::start();
        hvm::start();
    }

    fn entropy(&self, bytes: &mut [u8]) -> usize {
        platform_hw::PC.entropy(bytes)
    }

    fn console_listens(&self) {
        console::start_input();
        shutdown::report(Status::Ready);
    }

    fn console_room(&self) {
        console::resume_input();
    }

    fn panicked(&self) {
        PANICKED.store(true, Ordering::SeqCst);
    }

    fn halt(&self, how: Halt) -> ! {
        if PANICKED.load(Ordering::SeqCst) {
            shutdown::crash();
        }
        shutdown::halt(how)
    }
}
