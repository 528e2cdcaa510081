//! The kernel for programs of Linux: the personality, NetBSD's network with the tree's drivers, and the project's own
//! drivers for all other devices.

use alloc::{boxed::Box, sync::Arc};

use bmk::platform::BootInformation;
use image::{command_line::CommandLine, config::Configuration, payload::Payload, rootfs::RootFs};
use rumpuser::{
    Halt,
    device::{Driver, PciDevice},
};

use crate::{COLLECTOR, XENFRONT};

/// The class of network controllers (PCI Code and ID Assignment Specification, section 1.3).
const NETWORK: u8 = 2;
/// Between two looks for the files, in nanoseconds.
const PAUSE: u64 = 1_000_000;
/// The status of an image that cannot start.
const NOT_STARTED: u8 = 125;

/// Leaves network controllers to the tree's drivers.
struct NetworkOnly;

impl Driver for NetworkOnly {
    fn name(&self) -> &'static str {
        "netbsd"
    }

    fn attach_pci(&self, device: &Arc<dyn PciDevice>) -> bool {
        device.class().0 == NETWORK && COLLECTOR.attach_pci(device)
    }
}

static DRIVERS: &[&dyn Driver] =
    &[&NetworkOnly, &virtio::Virtio { entropy: platform_hw::add_entropy }, &XENFRONT];

/// The first thread.
pub fn main(payload: &'static [u8], information: BootInformation) {
    platform_hw::set_drivers(DRIVERS);
    platform_xen::set_drivers(DRIVERS);
    platform_hw::set_entropy_refill(virtio::entropy::refill);
    linux::files::mount::register("ext4", ext4_vfs::make);
    for (kind, make) in netbsd_linux::files::MAKERS {
        linux::files::mount::register(kind, make);
    }
    let payload = match Payload::parse(payload) {
        Ok(payload) => payload,
        Err(error) => {
            bmk::message!("{error}");
            rumpuser::rumpuser_halt(Halt::PowerOff(NOT_STARTED))
        }
    };
    // The personality says what is wrong with them.
    if let Ok(root) = RootFs::parse(payload.rootfs()) {
        netbsd::files::set_root(root);
    }
    let mut configuration: Configuration = postcard::from_bytes(payload.configuration()).unwrap_or_default();
    CommandLine::parse(information.command_line.as_bytes()).apply(&mut configuration);
    start_devices(configuration);
    linux::start(payload, &information.command_line)
}

/// Writes `/etc/resolv.conf`, once there are files.
fn resolver_changed(text: &str) {
    while linux::rc::root().is_none() {
        rumpuser::rumpuser_park(rumpuser::rumpuser_clock_monotonic() + PAUSE);
    }
    linux::rc::resolver_changed(text);
}

/// Looks for devices, and starts NetBSD's kernel with those of the network, while the image starts.
fn start_devices(configuration: Configuration) {
    rumpdev::block::search_begins();
    let search = move || {
        bmk::platform::platform().start_devices();
        rumpdev::block::search_ends();
        netbsd_linux::start(configuration, resolver_changed);
    };
    let spec = rumpuser::ThreadSpec {
        name: "devices".into(),
        affinity: rumpuser::CpuSet::MAX,
        main: Box::new(search),
    };
    if rumpuser::rumpuser_thread_create(spec).is_err() {
        bmk::message!("too little memory");
        rumpuser::rumpuser_halt(Halt::PowerOff(NOT_STARTED))
    }
}
