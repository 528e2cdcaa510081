//! Which file system a disk has, by the marks of the formats.

use alloc::{format, string::String};
use core::ops::Range;

use crate::kernel;

/// A format: the kernel's name, where its mark is in bytes, and the mark.
struct Format {
    name: &'static str,
    offset: i64,
    place: Range<usize>,
    mark: &'static [u8],
}

/// Bytes of a sector, as devices are read.
const SECTOR: usize = 2048;
/// The formats, those with surer marks first.
const FORMATS: [Format; 6] = [
    // The superblock at 1024 bytes, `e2fs_magic`.
    Format { name: "ext2fs", offset: 0, place: 1080..1082, mark: &[0x53, 0xef] },
    // Superblocks at 64 KiB (UFS2) and 8 KiB (UFS1), `fs_magic` at 1372.
    Format { name: "ffs", offset: 65536, place: 1372..1376, mark: &[0x19, 0x01, 0x54, 0x19] },
    Format { name: "ffs", offset: 8192, place: 1372..1376, mark: &[0x54, 0x19, 0x01, 0x00] },
    // The first volume descriptor, ECMA-119 section 8.1.
    Format { name: "cd9660", offset: 32768, place: 1..6, mark: b"CD001" },
    // The file system type in the boot sector, for FAT12 and FAT16, and for FAT32.
    Format { name: "msdos", offset: 0, place: 54..57, mark: b"FAT" },
    Format { name: "msdos", offset: 0, place: 82..85, mark: b"FAT" },
];

/// The kernel's name of what is on a device.
pub fn kind(device: &str) -> Result<&'static str, String> {
    let path = kernel::path(device.as_bytes()).map_err(|_| "a zero")?;
    let mut sector = [0; SECTOR];
    for format in &FORMATS {
        let length = match super::read_at(&path, format.offset, &mut sector) {
            Ok(length) => length,
            // Beyond its end.
            Err(_) if format.offset > 0 => 0,
            Err(_) => return Err(format!("there is no disk {device}")),
        };
        if is(format, &sector[..length]) {
            return Ok(format.name);
        }
    }
    Err(format!("{device} has no file system that is known"))
}

fn is(format: &Format, sector: &[u8]) -> bool {
    sector.get(format.place.clone()) == Some(format.mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_looked_for_where_they_are() {
        for format in &FORMATS {
            let mut sector = [0; SECTOR];
            assert!(!is(format, &sector) && !is(format, &[]));
            sector[format.place.clone()].copy_from_slice(format.mark);
            assert!(is(format, &sector));
            assert!(!is(format, &sector[..format.place.end - 1]));
        }
    }
}
