//! The platform for components of a NetBSD tree. The baker links it with the tree's archives and the programs.
#![no_std]
#![allow(unsafe_code, reason = "the entry point, the linker's symbols, the exports of the platform")]

extern crate alloc;

#[path = "../../kernel/src/boot.rs"]
mod boot;
#[path = "../../kernel/src/entry.rs"]
mod entry;
#[cfg(feature = "linux")]
mod linux_programs;
#[path = "../../kernel/src/string.rs"]
mod string;

#[cfg(not(feature = "linux"))]
use bmk::platform::BootInformation;

/// Page tables of 2 MiB each with which the entry code maps the image's code and data; see the linker script.
const BOOT_TABLES: usize = 32;

/// Takes the devices for the tree's drivers.
static COLLECTOR: netbsd::pci::Collector =
    netbsd::pci::Collector { map: bmk::memory::kernel_map::map_device };

/// Its interfaces are the tree's.
static XENFRONT: xenfront::Xenfront = xenfront::Xenfront {
    networks: xenfront::Networks { attach: netbsd::virtual_interface::attach, offloads: false },
};

#[cfg(not(feature = "linux"))]
static DRIVERS: &[&dyn rumpuser::device::Driver] = &[&COLLECTOR, &XENFRONT];

#[cfg(feature = "linux")]
use linux_programs::main;

/// The machine's platform.
fn platform(_magic: u32) -> &'static dyn bmk::platform::Platform {
    if platform_xen::detected() {
        netbsd::virtual_interface::expect_devices();
        return &platform_xen::XEN;
    }
    &platform_hw::PC
}

/// The first thread.
#[cfg(not(feature = "linux"))]
fn main(payload: &'static [u8], information: BootInformation) {
    platform_hw::set_drivers(DRIVERS);
    platform_xen::set_drivers(DRIVERS);
    bmk::platform::platform().start_devices();
    netbsd::mounts::attached::expect();
    netbsd::start(payload, &information.command_line)
}
