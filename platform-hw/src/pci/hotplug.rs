//! Taking devices out while the machine runs, as QEMU's i440FX machine offers it (QEMU: docs/specs/acpi_pci_hotplug): a
//! general-purpose event says that somebody wants a slot empty; its driver lets go, and a register ejects the device.
//!
//! Elsewhere the registers are named only in byte code, and a device can only vanish.

use alloc::{boxed::Box, string::String, sync::Arc, vec::Vec};

use rumpuser::{
    CpuSet, NEVER, ThreadSpec, rumpuser_clock_monotonic, rumpuser_park, rumpuser_thread_create,
    sync::{InterruptLock, Mutex},
};

use super::port_read;
use crate::{button, fw_cfg, guest, machine, port};

/// The power management function of the chipset.
const PIIX4: u32 = 0x7113_8086;
/// The general-purpose event of the slots.
const EVENT: u16 = 1 << 1;
/// Registers: slots to be emptied, ejecting, the bus they are about.
const DOWN: u16 = 0xae04;
const EJECT: u16 = 0xae08;
const BUS: u16 = 0xae10;
/// How often the registers are read where there is no event, in nanoseconds.
const INTERVAL: u64 = 1_000_000_000;
/// The root bus.
const ROOT: u32 = 0;

/// Called before a device goes, in thread context; afterwards its driver doesn't touch it.
pub type RemovalHandler = Box<dyn Fn() + Send + Sync>;

/// The devices on the root bus whose drivers can let go: slot and handler.
static DEVICES: Mutex<Vec<(u8, Arc<RemovalHandler>)>> = Mutex::new(Vec::new());
static THREAD: InterruptLock<Option<rumpuser::Thread>> = InterruptLock::new(None);

/// Remembers how the driver of a device lets go.
pub fn register(bus: u8, slot: u8, handler: RemovalHandler) {
    if bus == 0 {
        DEVICES.lock().push((slot, Arc::new(handler)));
        start();
    }
}

/// Listens to the event, from the first device on.
fn start() {
    if THREAD.lock().is_some() || !present() {
        return;
    }
    let spec = ThreadSpec { name: String::from("hotplug"), affinity: CpuSet::MAX, main: Box::new(serve) };
    if guest::target().is_some() {
        *THREAD.lock() = rumpuser_thread_create(spec).ok();
        return;
    }
    let Some((status, enable)) = machine::get().and_then(|machine| machine.power.general_events) else {
        return;
    };
    let Ok(thread) = rumpuser_thread_create(spec) else { return };
    *THREAD.lock() = Some(thread);
    let handler = move || {
        let events = status.read16();
        if events & EVENT != 0 {
            // Written back, it is cleared.
            status.write16(EVENT);
            if let Some(thread) = &*THREAD.lock() {
                thread.unpark();
            }
        }
    };
    if button::establish(Box::new(handler)) {
        status.write16(EVENT);
        enable.write16(enable.read16() | EVENT);
    }
}

/// Whether this is the machine that has the registers.
fn present() -> bool {
    let chipset = (0..32).any(|slot| (0..8).any(|function| port_read((0, slot, function), 0, 4) == PIIX4));
    chipset && (fw_cfg::present() || guest::target().is_some())
}

/// The thread: empties the slots that are to be empty.
fn serve() {
    loop {
        port::write32(BUS, ROOT);
        let wanted = port::read32(DOWN);
        for slot in (0..32).filter(|slot| wanted & 1 << slot != 0) {
            let mut handlers = Vec::new();
            DEVICES.lock().retain(|(place, handler)| {
                if *place == slot {
                    handlers.push(handler.clone());
                }
                *place != slot
            });
            // A device whose driver can't let go stays.
            if !handlers.is_empty() {
                handlers.iter().for_each(|handler| handler());
                guest::forget(|(bus, device, _)| (bus, device) == (0, slot));
                port::write32(EJECT, 1 << slot);
            }
        }
        rumpuser_park(match guest::target() {
            // The event's interrupt isn't set up there.
            Some(_) => rumpuser_clock_monotonic() + INTERVAL,
            None => NEVER,
        });
    }
}
