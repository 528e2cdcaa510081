//! What mount(2) wants to know for a kind of file system, as NetBSD lays it out.

use alloc::{vec, vec::Vec};
use core::ffi::CStr;

/// The kinds that are known here.
pub const KNOWN: &str = "ffs, ext2fs, msdos, cd9660, tmpfs, kernfs, ptyfs, fdesc";
/// `struct msdosfs_args` and `struct iso_args`: their sizes, and where the first has masks and its version.
const MSDOS: usize = 168;
const MSDOS_MASK: usize = 144;
const MSDOS_VERSION: usize = 152;
const MSDOS_DIRECTORY_MASK: usize = 156;
const ISO: usize = 144;
/// `struct tmpfs_args`: its size and version, and where it has the size limit and the root's permissions.
const TMPFS: usize = 40;
const TMPFS_VERSION: u32 = 1;
const TMPFS_SIZE: usize = 16;
const TMPFS_MODE: usize = 32;

/// The kernel's name for a kind.
pub fn name(kind: &str) -> &str {
    match kind {
        "ext2" | "ext3" | "ext4" => "ext2fs",
        "ufs" => "ffs",
        "msdosfs" | "vfat" => "msdos",
        "iso9660" => "cd9660",
        other => other,
    }
}

/// The argument for a kind, on a device whose path stays; `size` limits tmpfs. `None` for unknown kinds.
pub fn make(kind: &str, device: &CStr, size: u64) -> Option<Vec<u8>> {
    let mut bytes = match kind {
        "ffs" | "ext2fs" => vec![0; 8],
        "msdos" => {
            let mut bytes = vec![0; MSDOS];
            bytes[MSDOS_MASK..MSDOS_MASK + 4].copy_from_slice(&0o755u32.to_le_bytes());
            bytes[MSDOS_VERSION..MSDOS_VERSION + 4].copy_from_slice(&3u32.to_le_bytes());
            bytes[MSDOS_DIRECTORY_MASK..MSDOS_DIRECTORY_MASK + 4].copy_from_slice(&0o755u32.to_le_bytes());
            bytes
        }
        "cd9660" => vec![0; ISO],
        "tmpfs" => {
            let mut bytes = vec![0; TMPFS];
            bytes[..4].copy_from_slice(&TMPFS_VERSION.to_le_bytes());
            bytes[TMPFS_SIZE..TMPFS_SIZE + 8].copy_from_slice(&size.to_le_bytes());
            bytes[TMPFS_MODE..TMPFS_MODE + 4].copy_from_slice(&0o1777u32.to_le_bytes());
            return Some(bytes);
        }
        "kernfs" | "ptyfs" | "fdesc" => return Some(vec![0; 8]),
        _ => return None,
    };
    // The others begin with the device's path.
    bytes[..8].copy_from_slice(&(device.as_ptr() as u64).to_le_bytes());
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_kind_has_its_structure() {
        for kind in KNOWN.split(", ") {
            let argument = make(name(kind), c"/dev/ld0d", 4096).expect("known");
            let path = c"/dev/ld0d".as_ptr() as u64;
            assert_eq!(name(kind), kind);
            let on_disk = matches!(kind, "ffs" | "ext2fs" | "msdos" | "cd9660");
            assert_eq!(u64::from_le_bytes(argument[..8].try_into().unwrap()) == path, on_disk, "{kind}");
        }
        assert_eq!(make("tmpfs", c"", 4096).unwrap()[TMPFS_SIZE..][..8], 4096u64.to_le_bytes());
        assert!(make("ntfs", c"", 0).is_none());
        assert_eq!((name("ext4"), name("vfat")), ("ext2fs", "msdos"));
    }
}
