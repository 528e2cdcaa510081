//! What the image's configuration mounts: on virtio disks by the tree's driver, on Xen's disks and files of the image by
//! the hypercalls for block devices, on files of what is mounted, what needs no device, and what NFS servers have.

mod arguments;
pub mod attached;
mod file_disk;
mod probe;
mod remote;

use alloc::{format, string::String, sync::Arc, vec::Vec};
use core::ffi::{CStr, c_int};

use image::config::Mount;
use rumpuser::sync::Mutex;

use crate::{
    errno::{EINVAL, ENODEV, ENOENT, ENOSYS, ENXIO, EROFS, Errno},
    files,
    kernel::{self, Descriptor},
    ram_disk::RamDisk,
    user::rump,
};

/// `MNT_RDONLY`.
const READ_ONLY: c_int = 1;
/// `RUMP_ETFS_BLK`.
const BLOCK: c_int = 1;
/// `EEXIST`.
const EXISTS: Errno = 17;
/// The partition that is the whole disk (`RAW_PART`).
const WHOLE: char = 'd';
/// Permissions of a directory that is made.
const DIRECTORY: c_int = 0o755;

/// The kind that is reached by the network.
pub const REMOTE: &str = "nfs";

/// Mounts what is in the machine; the first that fails ends it, with what is to be said.
pub fn mount_local(mounts: &[Mount]) -> Result<(), String> {
    mount_all(mounts, |mount| mount.kind != REMOTE)
}

/// Mounts what is reached by the network, which is there by now.
pub fn mount_remote(mounts: &[Mount]) -> Result<(), String> {
    mount_all(mounts, |mount| mount.kind == REMOTE)
}

fn mount_all(mounts: &[Mount], wanted: impl Fn(&Mount) -> bool) -> Result<(), String> {
    for (number, mount) in mounts.iter().enumerate().filter(|(_, mount)| wanted(mount)) {
        mount_one(number, mount).map_err(|reason| {
            let target = String::from_utf8_lossy(&mount.target);
            format!("{} cannot be mounted at {target}: {reason}", mount.kind)
        })?;
    }
    Ok(())
}

/// Mounts one; `number` tells the devices of files of the image apart.
pub fn mount_one(number: usize, mount: &Mount) -> Result<(), String> {
    make_directories(&mount.target)?;
    if mount.kind == REMOTE {
        let remote = remote::Remote::find(mount)?;
        return call(REMOTE, mount, &mut remote.arguments()).map_err(|error| explain(error, REMOTE, mount));
    }
    let device = if needs_device(&mount.kind) { Some(device(number, mount)?) } else { None };
    let kind = match (mount.kind.as_str(), &device) {
        // The built-in components' word for a disk's file system.
        ("ext4", Some(device)) => probe::kind(device)?,
        (kind, _) => arguments::name(kind),
    };
    let path = kernel::path(device.as_deref().unwrap_or_default().as_bytes())
        .map_err(|_| "its source has a zero in it")?;
    let mut argument = arguments::make(kind, &path, mount.size)
        .ok_or_else(|| format!("no file system of that name is known; known are {}", arguments::KNOWN))?;
    call(kind, mount, &mut argument[..]).map_err(|error| explain(error, kind, mount))
}

/// Whether a file system is on a disk.
fn needs_device(kind: &str) -> bool {
    !matches!(kind, "tmpfs" | "kernfs" | "ptyfs" | "fdesc")
}

fn call<T: ?Sized>(name: &str, mount: &Mount, argument: &mut T) -> Result<(), Errno> {
    let function = rump::rump___sysimpl_mount50().ok_or(ENOSYS)?;
    let kind = kernel::path(name.as_bytes())?;
    let target = kernel::path(&mount.target)?;
    // CDs can't be written, whatever is asked.
    let flags = if mount.read_only || name == "cd9660" { READ_ONLY } else { 0 };
    let length = size_of_val(argument);
    // SAFETY: the kernel's function; the argument is the structure of the file system, and what it points to is there.
    let result =
        unsafe { function(kind.as_ptr(), target.as_ptr(), flags, (&raw mut *argument).cast(), length) };
    kernel::checked(result as isize).map(|_| ())
}

fn explain(error: Errno, kind: &str, mount: &Mount) -> String {
    let source = String::from_utf8_lossy(&mount.source);
    match error {
        ENODEV => format!("the image has no component for {kind}: bake with --components rumpfs_{kind}"),
        ENOENT | ENXIO => format!("there is no disk {source}"),
        _ if kind == REMOTE => kernel::explain(error),
        EINVAL => format!("{source} has no {kind} on it, or one that NetBSD can't read"),
        EROFS => format!("{source} can't be written: mount it read-only"),
        other => kernel::explain(other),
    }
}

/// Makes a directory, and those above it.
fn make_directories(target: &[u8]) -> Result<(), String> {
    let make = rump::rump___sysimpl_mkdir().ok_or("the image has no component for files")?;
    let ends = target.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
    for end in ends.chain([target.len()]) {
        let Ok(path) = kernel::path(&target[..end]) else { return Err("its path has a zero in it".into()) };
        // SAFETY: the kernel's function.
        match kernel::checked(unsafe { make(path.as_ptr(), DIRECTORY) } as isize) {
            Ok(_) | Err(EXISTS | EROFS) => {}
            Err(error) => return Err(kernel::explain(error)),
        }
    }
    Ok(())
}

/// The kernel's device for a source.
fn device(number: usize, mount: &Mount) -> Result<String, String> {
    let source = core::str::from_utf8(&mount.source).map_err(|_| "the source isn't text")?;
    // A disk that the platform drives.
    if files::is_device(source) {
        return register(source.into());
    }
    if let Some(device) = disk(source) {
        return Ok(device);
    }
    if source.starts_with("/dev/") {
        return Ok(source.into());
    }
    // A file of the image: a disk in memory, which begins as the file is.
    let Some(file) = files::baked(source.as_bytes()) else { return file_disk::attach(mount, source) };
    let device = format!("/dev/image{number}");
    files::register_device(&device, Arc::new(RamDisk::new(file)));
    register(device)
}

/// Has the kernel know a block device of the hypercalls by its path there; once, since the kernel would lose it by a
/// second time.
fn register(device: String) -> Result<String, String> {
    static KNOWN: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock();
    if known.contains(&device) {
        return Ok(device);
    }
    let register = rump::rump_pub_etfs_register().ok_or("the image has no component for block devices")?;
    let path = kernel::path(device.as_bytes()).map_err(|_| "a zero")?;
    // SAFETY: the kernel's function; `rumpuser_open` knows the device by the same path.
    match unsafe { register(path.as_ptr(), path.as_ptr(), BLOCK) } {
        0 => {
            known.push(device.clone());
            Ok(device)
        }
        error => Err(kernel::explain(error)),
    }
}

/// The kernel's virtio disk for `/dev/vda` and so on, which name them as on Linux.
fn disk(source: &str) -> Option<String> {
    let letter = source.strip_prefix("/dev/vd")?;
    let &[letter] = letter.as_bytes() else { return None };
    letter.is_ascii_lowercase().then(|| format!("/dev/ld{}{WHOLE}", letter - b'a'))
}

/// What a device has at an offset.
fn read_at(device: &CStr, offset: i64, bytes: &mut [u8]) -> Result<usize, Errno> {
    Descriptor::open(device, 0)?.read_at(offset, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_have_linux_names() {
        assert_eq!(disk("/dev/vda").as_deref(), Some("/dev/ld0d"));
        assert_eq!(disk("/dev/vdc").as_deref(), Some("/dev/ld2d"));
        assert!(disk("/dev/vda1").is_none() && disk("/dev/vd").is_none() && disk("/dev/ld0a").is_none());
    }
}
