//! The image kernel: one platform and one set of components, linked together.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "the entry point, the linker's symbols, the exports of the platform")]

extern crate alloc;

mod boot;
mod entry;
#[cfg(feature = "selftest")]
mod selftest;
mod string;

use bmk::platform::BootInformation;

/// Page tables of 2 MiB each with which the entry code maps the kernel; see the linker script.
const BOOT_TABLES: usize = 2;

/// How many bytes at the far end of the boot stack, which is the first CPU's idle stack now, were never written.
#[cfg(feature = "selftest")]
fn boot_stack_unused() -> usize {
    let (start, end) = (&raw const entry::boot_stack as usize, &raw const entry::boot_stack_top as usize);
    // SAFETY: reads memory of the image; what the CPU writes there meanwhile doesn't matter.
    (start..end).take_while(|&address| unsafe { core::ptr::read_volatile(address as *const u8) } == 0).count()
}

/// The drivers of this kernel, in the order in which they see a device.
static DRIVERS: &[&dyn rumpuser::device::Driver] = &[
    #[cfg(feature = "virtio")]
    &virtio::Virtio { entropy: platform_hw::add_entropy },
    #[cfg(feature = "e1000e")]
    &e1000e::E1000e,
    #[cfg(feature = "xen")]
    &xenfront::Xenfront { networks: xenfront::Networks::BUILT_IN },
];

/// The machine's platform.
fn platform(_magic: u32) -> &'static dyn bmk::platform::Platform {
    #[cfg(feature = "xen")]
    if platform_xen::detected() {
        return &platform_xen::XEN;
    }
    &platform_hw::PC
}

/// The first thread.
fn main(payload: &'static [u8], information: BootInformation) {
    platform_hw::set_drivers(DRIVERS);
    #[cfg(feature = "xen")]
    platform_xen::set_drivers(DRIVERS);
    #[cfg(feature = "virtio")]
    platform_hw::set_entropy_refill(virtio::entropy::refill);
    start_devices();
    #[cfg(feature = "selftest")]
    selftest::main(payload, &information);
    #[cfg(feature = "ext4")]
    linux::files::mount::register("ext4", ext4_vfs::make);
    match image::payload::Payload::parse(payload) {
        Ok(payload) => linux::start(payload, &information.command_line),
        Err(error) => {
            bmk::message!("{error}");
            rumpuser::rumpuser_halt(rumpuser::Halt::PowerOff(NOT_STARTED))
        }
    }
}

/// Looks for devices while the image starts; who needs a disk waits for it.
fn start_devices() {
    rumpdev::block::search_begins();
    let search = || {
        bmk::platform::platform().start_devices();
        rumpdev::block::search_ends();
    };
    let spec = rumpuser::ThreadSpec {
        name: "devices".into(),
        affinity: rumpuser::CpuSet::MAX,
        main: alloc::boxed::Box::new(search),
    };
    if rumpuser::rumpuser_thread_create(spec).is_err() {
        search();
    }
}

/// The status of an image that cannot start.
const NOT_STARTED: u8 = 125;
