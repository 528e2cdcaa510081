//! What an HVM domain has of a PC, which Xen's own interfaces replace: the toolstack's emulator takes its disks and interfaces out
//! when asked to (Xen, docs/misc/hvm-emulated-unplug.pandoc), and the interrupt controllers are silenced. A PVH domain has nothing of
//! it, and reads ones from these ports.

use platform_hw::{mask_8259, port};

/// The ports, and what the first one reads where there is somebody to ask.
const COMMAND: u16 = 0x10;
const VERSION: u16 = 0x12;
const MAGIC: u16 = 0x49d2;
/// A product that is in no list.
const PRODUCT: u16 = 0xffff;
/// Hard disks, and interfaces.
const DEVICES: u16 = 0b11;

/// Takes out what would be there twice.
pub fn unplug() {
    if port::read16(COMMAND) != MAGIC {
        return;
    }
    mask_8259();
    if port::read8(VERSION) >= 1 {
        port::write16(VERSION, PRODUCT);
        port::write32(COMMAND, 0);
        // The product may be refused.
        if port::read16(COMMAND) != MAGIC {
            bmk::message!("Xen's emulator keeps its devices");
            return;
        }
    }
    port::write16(COMMAND, DEVICES);
}
