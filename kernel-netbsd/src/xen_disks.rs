//! The disks of a domain of Xen's, which the tree has no driver for: block devices of the hypercalls (`rumpuser_bio`).

use alloc::{format, sync::Arc};

use netbsd::{disk::Disk, files};
use rumpdev::block;

/// Makes the disks that were found known as `/dev/vda` and so on.
pub fn register() {
    for disk in block::all() {
        files::register_device(&format!("/dev/{}", disk.name), Arc::new(Disk::new(disk.device, true)));
    }
}
