//! What an HVM domain has of a PC. The toolstack's emulator takes its disks and interfaces out when asked to (Xen,
//! docs/misc/hvm-emulated-unplug.pandoc), as Xen's own take their place; PCI devices that are passed through are used. A PVH
//! domain has nothing of it, and reads ones from these ports.

use core::sync::atomic::{AtomicBool, Ordering};

use alloc::{boxed::Box, format};

use bmk::platform::BootInformation;
use platform_hw::{guest, port};
use rumpuser::{CpuSet, ThreadSpec, sync::Mutex};

use crate::store::{self, PLAIN, Watch};

/// The ports, and what the first one reads where there is somebody to ask.
const COMMAND: u16 = 0x10;
const VERSION: u16 = 0x12;
const MAGIC: u16 = 0x49d2;
/// A product that is in no list.
const PRODUCT: u16 = 0xffff;
/// Hard disks, and interfaces.
const DEVICES: u16 = 0b11;

/// What the toolstack tells of passed devices.
const PCI: &str = "device/pci";

/// The emulator's own devices are out, so that all others are passed through.
static CLEAR: AtomicBool = AtomicBool::new(false);

/// Prepares the domain's PCI devices, on the boot CPU.
pub fn discover(boot: &BootInformation) {
    if port::read16(COMMAND) != MAGIC {
        return;
    }
    platform_hw::mask_8259();
    if unplug() {
        guest::prepare(boot);
        CLEAR.store(true, Ordering::Relaxed);
    }
}

/// Takes out what would be there twice. Returns whether it is.
pub fn unplug() -> bool {
    if port::read16(COMMAND) != MAGIC {
        return false;
    }
    if port::read8(VERSION) >= 1 {
        port::write16(VERSION, PRODUCT);
        port::write32(COMMAND, 0);
        // The product may be refused.
        if port::read16(COMMAND) != MAGIC {
            bmk::message!("Xen's emulator keeps its devices");
            return false;
        }
    }
    port::write16(COMMAND, DEVICES);
    true
}

/// Finds the devices there are, and those that come.
pub fn start() {
    if CLEAR.load(Ordering::Relaxed) {
        guest::start();
        // The node has a first device's backend, whose count changes with the others.
        static NODE: Mutex<Option<Watch>> = Mutex::new(None);
        *NODE.lock() = store::watch(PCI, |_| aside(follow)).ok();
    }
}

fn follow() {
    static COUNT: Mutex<Option<Watch>> = Mutex::new(None);
    let mut count = COUNT.lock();
    *count = None;
    let Ok(backend) = PLAIN.read(&format!("{PCI}/0/backend")) else { return };
    *count = store::watch(&format!("{backend}/num_devs"), |_| aside(guest::start)).ok();
}

/// In a thread of its own: drivers wait.
fn aside(work: fn()) {
    let spec = ThreadSpec { name: "pci".into(), affinity: CpuSet::MAX, main: Box::new(work) };
    let _ = rumpuser::rumpuser_thread_create(spec);
}
