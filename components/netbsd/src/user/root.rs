//! The baked files in the rump kernel's root file system: directories, links and small files are copied, large files
//! stay in the image and are read from there (`rump_etfs_register`).

use alloc::{ffi::CString, vec::Vec};
use core::ffi::CStr;

use image::rootfs::{self, Data, RootFs};

use super::rump;

/// The largest file that is copied, in bytes.
const COPIED: usize = 64 << 10;
/// `O_WRONLY | O_CREAT | O_TRUNC`.
const CREATE: i32 = 0x1 | 0x200 | 0x400;
/// The inode of the root directory.
const ROOT: u32 = 0;
/// `RUMP_ETFS_REG`.
const REGULAR: i32 = 0;

/// Makes the baked files known to the kernel, as far as it has a file system.
pub fn fill(root: &RootFs<'_>) {
    if rump::rump___sysimpl_mkdir().is_some() {
        directory(root, ROOT, &mut Vec::new());
    }
}

/// The path as C wants it; `None` if it has a zero in it.
fn with_path(path: &[u8], work: impl FnOnce(&CStr)) {
    if let Ok(path) = CString::new(path) {
        work(&path);
    }
}

fn directory(root: &RootFs<'_>, number: u32, path: &mut Vec<u8>) {
    let Some(inode) = root.inode(number) else { return };
    for entry in root.entries(inode) {
        let length = path.len();
        path.push(b'/');
        path.extend_from_slice(root.name(entry));
        let number = entry.inode.get();
        if let Some(inode) = root.inode(number) {
            let mode = inode.mode.get();
            match mode & rootfs::MODE_TYPE {
                rootfs::MODE_DIRECTORY => {
                    with_path(path, |path| {
                        if let Some(make) = rump::rump___sysimpl_mkdir() {
                            // SAFETY: the kernel's function; what is there already stays.
                            unsafe { make(path.as_ptr(), (mode & 0o7777) as i32) };
                        }
                    });
                    directory(root, number, path);
                }
                rootfs::MODE_SYMLINK => with_path(root.target(inode).unwrap_or_default(), |target| {
                    with_path(path, |path| {
                        if let Some(link) = rump::rump___sysimpl_symlink() {
                            // SAFETY: the kernel's function.
                            unsafe { link(target.as_ptr(), path.as_ptr()) };
                        }
                    });
                }),
                rootfs::MODE_REGULAR => {
                    let data = root.data(inode).and_then(Data::plain).unwrap_or_default();
                    with_path(path, |path| file(path, mode, data));
                }
                _ => {}
            }
        }
        path.truncate(length);
    }
}

fn file(path: &CStr, mode: u32, data: &[u8]) {
    if data.len() > COPIED {
        if let Some(register) = rump::rump_pub_etfs_register() {
            // SAFETY: the kernel's function; `rumpuser_open` knows the file by the same path.
            unsafe { register(path.as_ptr(), path.as_ptr(), REGULAR) };
        }
        return;
    }
    let (Some(open), Some(write), Some(close)) =
        (rump::rump___sysimpl_open(), rump::rump___sysimpl_write(), rump::rump___sysimpl_close())
    else {
        return;
    };
    // SAFETY: the kernel's functions, with the file's bytes.
    unsafe {
        let descriptor = open(path.as_ptr(), CREATE, (mode & 0o7777) as i32);
        if descriptor >= 0 {
            write(descriptor, data.as_ptr().cast(), data.len());
            close(descriptor);
        }
    }
}
