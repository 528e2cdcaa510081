//! A file on a mounted file system as a disk (vnd(4)).

use alloc::string::String;
use core::{
    ffi::c_ulong,
    sync::atomic::{AtomicBool, Ordering},
};

use image::config::Mount;

use crate::{
    errno::{ENOENT, ENXIO},
    kernel::{self, Descriptor, READ_WRITE},
};

/// The raw device that is told which file, and the disk.
const CONTROL: &core::ffi::CStr = c"/dev/rvnd0d";
const DISK: &str = "/dev/vnd0d";
/// `VNDIOCSET`, the size of `struct vnd_ioctl`, and where in it the flags are.
const SET: c_ulong = 0xc028_4600;
const ARGUMENT: usize = 40;
const FLAGS: usize = 8;
/// `VNDIOF_READONLY`.
const READ_ONLY: u8 = 2;

/// Whether the disk, of which the kernel's component makes one, is taken.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The kernel's device for the file of a mount.
pub fn attach(mount: &Mount, source: &str) -> Result<String, String> {
    let path = kernel::path(&mount.source).map_err(|_| "its source has a zero in it")?;
    let control = match Descriptor::open(CONTROL, READ_WRITE) {
        Ok(control) => control,
        Err(ENOENT | ENXIO) => return Err(alloc::format!("the image has no file {source}")),
        Err(error) => return Err(kernel::explain(error)),
    };
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err("only one file of a disk can be mounted".into());
    }
    let mut argument = [0; ARGUMENT];
    argument[..8].copy_from_slice(&(path.as_ptr() as u64).to_le_bytes());
    argument[FLAGS] = if mount.read_only { READ_ONLY } else { 0 };
    match control.ask(SET, &mut argument) {
        Ok(()) => Ok(DISK.into()),
        Err(ENOENT) => Err(alloc::format!("there is no file {source}")),
        Err(error) => Err(alloc::format!("{source} can't be a disk: {}", kernel::explain(error))),
    }
}
