//! Devices that other domains offer: found in xenstore below `device`, handed to the drivers. A frontend and what becomes of
//! its backend is in [`device`].

mod device;

use alloc::{
    boxed::Box,
    format,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};

use rumpuser::{
    CpuSet, ThreadSpec,
    device::{Driver, XenbusDevice},
    sync::{InterruptLock, Mutex},
};

use crate::store::{self, Error, PLAIN, Watch};
use device::Device;

const DEVICES: &str = "device";

static DRIVERS: InterruptLock<&[&dyn Driver]> = InterruptLock::new(&[]);

/// Names the drivers, in the order in which they see a device. Before the devices start.
pub fn set_drivers(drivers: &'static [&'static dyn Driver]) {
    *DRIVERS.lock() = drivers;
}

/// The frontends that were found.
static FOUND: Mutex<Vec<Arc<Device>>> = Mutex::new(Vec::new());
static WATCH: Mutex<Option<Watch>> = Mutex::new(None);
/// Held while devices are looked for.
static SCANS: Mutex<()> = Mutex::new(());

/// Finds the devices there are, and those that come.
pub fn start() {
    scan();
    *WATCH.lock() = store::watch(DEVICES, |_| scan_aside()).ok();
}

/// Looks again in a thread of its own: drivers wait for changes that the caller's thread hands on.
fn scan_aside() {
    let main = Box::new(scan);
    let _ =
        rumpuser::rumpuser_thread_create(ThreadSpec { name: "xenbus".into(), affinity: CpuSet::MAX, main });
}

/// Calls `work` while no device is being attached; if it returns true, all have new backends.
pub fn pause(work: impl FnOnce() -> bool) {
    let one = SCANS.lock();
    let found = FOUND.lock().clone();
    // What the watches tell of backends of before is of no interest.
    found.iter().for_each(|device| device.hold());
    let restored = work();
    for device in found {
        if !restored {
            device.release();
        } else if !device.resume() {
            device.end();
            forget(&device);
        }
    }
    drop(one);
    scan();
}

/// The names below a node; none if there is no such node, an error if xenstore doesn't tell.
fn names(path: &str) -> store::Result<Vec<String>> {
    match PLAIN.list(path) {
        Err(Error::Refused(name)) if name == "ENOENT" => Ok(Vec::new()),
        names => names,
    }
}

/// The frontends in xenstore.
fn frontends() -> store::Result<Vec<(String, u32)>> {
    let mut frontends = Vec::new();
    for kind in names(DEVICES)? {
        let mut numbers: Vec<u32> =
            names(&format!("{DEVICES}/{kind}"))?.iter().filter_map(|number| number.parse().ok()).collect();
        numbers.sort_unstable();
        frontends.extend(numbers.into_iter().map(|number| (kind.clone(), number)));
    }
    Ok(frontends)
}

fn scan() {
    let _one = SCANS.lock();
    let Ok(frontends) = frontends() else { return };
    let found = FOUND.lock().clone();
    for device in found {
        let is = |(kind, number): &(String, u32)| *kind == device.kind() && *number == device.number();
        if !frontends.iter().any(is) {
            device.end();
            forget(&device);
        }
    }
    for (kind, number) in frontends {
        attach(&kind, number);
    }
}

/// Offers a frontend to the drivers, once. One whose backend has been replaced goes on with the new one.
fn attach(kind: &str, number: u32) {
    let path = format!("{DEVICES}/{kind}/{number}");
    let Some((backend, domain)) = backend_of(&path) else { return };
    let known = FOUND.lock().iter().find(|known| known.path == path).cloned();
    if let Some(known) = known {
        if !known.begins_with(&backend) || known.is_waiting() && known.resume() {
            return;
        }
        known.end();
        forget(&known);
    }
    let Some(device) = Device::new(kind, number, path, backend, domain) else { return };
    FOUND.lock().push(device.clone());
    if !device.is_offered() {
        return;
    }
    let drivers = *DRIVERS.lock();
    let device: Arc<dyn XenbusDevice> = device;
    let _taken = drivers.iter().any(|driver| driver.attach_xenbus(&device));
}

fn forget(device: &Device) {
    let mut found = FOUND.lock();
    let gone =
        found.iter().position(|known| core::ptr::eq(&**known, device)).map(|place| found.remove(place));
    drop(found);
    drop(gone);
}

/// The node and the domain of a frontend's backend.
fn backend_of(path: &str) -> Option<(String, u16)> {
    let backend = PLAIN.read(&format!("{path}/backend")).ok()?;
    Some((backend.to_string(), PLAIN.read(&format!("{path}/backend-id")).ok()?.parse().ok()?))
}
