//! Disks of the platform's own drivers: block devices of the hypercalls, by the names that the registry gives them. Those that
//! come while the image runs are known to its programs then. One that has gone keeps its name, as the kernel keeps its device.

use alloc::{format, string::String, sync::Arc};
use core::sync::atomic::{AtomicBool, Ordering};

use rumpdev::block;

use super::register;
use crate::{disk::Disk, event::Event, files, network::say};

/// Disks have come or gone.
static CHANGED: Event = Event::new();
static EXPECTED: AtomicBool = AtomicBool::new(false);

/// Has disks of the platform's drivers looked for, and makes those known that there are, before the kernel starts.
pub fn expect() {
    EXPECTED.store(true, Ordering::SeqCst);
    block::watch(|| CHANGED.raise());
    find();
}

fn find() {
    for disk in block::all() {
        let path = path(&disk.name);
        if !files::is_device(&path) {
            files::register_device(&path, Arc::new(Disk::new(disk.device, true)));
        }
    }
}

fn path(name: &str) -> String {
    format!("/dev/{name}")
}

/// Has the kernel know the disks, and from now on those that come.
pub fn follow() {
    if !EXPECTED.load(Ordering::SeqCst) {
        return;
    }
    look();
    CHANGED.follow("disks", look);
}

fn look() {
    find();
    for disk in block::all() {
        if let Err(reason) = register(path(&disk.name)) {
            say(&disk.name, &format!("programs can't use it: {reason}"));
        }
    }
}
