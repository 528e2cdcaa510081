//! The PC platform: consoles, ACPI tables, interrupt controllers, clocks, PCI and virtio-mmio buses, power-off.
//!
//! `bmk` calls it through [`bmk::platform::Platform`]; the kernel hands [`PC`] over and names the drivers with
//! [`set_drivers`]. Nothing here relies on one emulator: every device is probed, every table may be missing.
#![no_std]
#![allow(unsafe_code, reason = "this crate talks to hardware")]

extern crate alloc;

mod aml;
mod bus;
mod button;
mod entropy;
mod fw_cfg;
pub mod guest;
mod interrupts;
mod io_apic;
mod kvm_clock;
mod local_apic;
mod machine;
mod mmio;
mod mp_table;
mod once;
mod pci;
pub mod port;
mod power;
mod register;
mod rtc;
mod serial;
mod tables;
mod tsc;

use alloc::{string::String, vec::Vec};

use bmk::platform::{BootInformation, CpuStart, HardwareCpu, Platform};
use image::machine::{STATUS_PRESENT, Status, TRACE_PORT};
use rumpuser::{Halt, device::Registers};

pub use bus::set_drivers;
pub use entropy::{add as add_entropy, set_refill as set_entropy_refill};
pub use io_apic::mask_8259;

/// The PC.
pub struct Pc;

/// The platform to register with `bmk`.
pub static PC: Pc = Pc;

/// Maps a device's registers; the address need not be page-aligned.
fn map_address(physical: u64, length: usize) -> usize {
    bmk::memory::map_device(physical, length)
}

fn map(physical: u64, length: usize) -> Registers {
    // SAFETY: just mapped, uncached and for good.
    unsafe { Registers::new(map_address(physical, length), length) }
}

impl Platform for Pc {
    fn console_write(&self, bytes: &[u8]) {
        serial::write(bytes);
    }

    fn trace_write(&self, bytes: &[u8]) -> bool {
        let listens = port::read8(TRACE_PORT) == STATUS_PRESENT;
        if listens {
            port::write_bytes(TRACE_PORT, bytes);
        }
        listens
    }

    fn discover(&self, boot: &BootInformation) {
        let mut machine = tables::read(boot);
        io_apic::mask_8259();
        local_apic::discover(machine.local_apic);
        tables::order_cpus(&mut machine);
        for (address, first) in &machine.io_apics {
            io_apic::add(*address, *first);
        }
        bus::keep(boot);
        machine::set(machine);
    }

    fn command_line(&self) -> Option<String> {
        fw_cfg::command_line()
    }

    fn tsc_frequency(&self) -> u64 {
        tsc::frequency()
    }

    fn realtime(&self) -> u64 {
        kvm_clock::realtime().or_else(rtc::realtime).unwrap_or(0)
    }

    fn cpus(&self) -> Vec<HardwareCpu> {
        machine::get().map_or_else(|| Vec::from([local_apic::identifier()]), |machine| machine.cpus.clone())
    }

    fn initialise_cpu(&self) {
        local_apic::initialise_cpu();
    }

    fn start_cpu(&self, cpu: HardwareCpu, start: &CpuStart) {
        if let Some(page) = start.page {
            local_apic::start_cpu(cpu, page, tsc::per_microsecond());
        }
    }

    fn send_interrupt(&self, cpu: HardwareCpu, vector: u8) {
        local_apic::send_interrupt(cpu, vector);
    }

    fn end_of_interrupt(&self) {
        local_apic::end_of_interrupt();
    }

    fn set_timer(&self, tsc: u64) {
        local_apic::set_timer(tsc);
    }

    fn start_devices(&self) {
        button::start();
        bus::start();
    }

    fn entropy(&self, bytes: &mut [u8]) -> usize {
        entropy::fill(bytes)
    }

    fn console_listens(&self) {
        // Before anyone hears of it: turning them on drops what has come until then.
        serial::start_input();
        button::start();
        power::report(Status::Ready);
    }

    fn console_room(&self) {
        serial::resume_input();
    }

    fn panicked(&self) {
        power::report(Status::Panic);
    }

    fn halt(&self, how: Halt) -> ! {
        power::halt(how)
    }
}
