//! The disks of a domain of Xen's, which the tree has no driver for: block devices of the hypercalls (`rumpuser_bio`).

use alloc::{format, sync::Arc};

use netbsd::{
    errno::{EIO, EROFS, Errno},
    files::{self, Backing},
};
use rumpdev::block::{self, BlockDevice, SECTOR_SIZE};

/// A disk; transfers are of whole sectors.
struct Disk(Arc<dyn BlockDevice>);

impl Disk {
    /// The sector of an offset, and how many of the bytes from there on are on the disk.
    fn place(&self, offset: u64, length: usize) -> Result<(u64, usize), Errno> {
        let unit = self.0.block_size();
        let rest = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = length.min(rest);
        match offset.is_multiple_of(unit as u64) && length.is_multiple_of(unit) {
            true => Ok((offset / SECTOR_SIZE as u64, length)),
            false => Err(EIO),
        }
    }
}

impl Backing for Disk {
    fn size(&self) -> u64 {
        self.0.sectors().saturating_mul(SECTOR_SIZE as u64)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<usize, Errno> {
        let (sector, length) = self.place(offset, bytes.len())?;
        self.0.read(sector, &mut bytes[..length]).map_err(|_| EIO)?;
        Ok(length)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
        if self.0.read_only() {
            return Err(EROFS);
        }
        let (sector, length) = self.place(offset, bytes.len())?;
        self.0.write(sector, &bytes[..length]).map_err(|_| EIO)?;
        if length == 0 && !bytes.is_empty() { Err(EIO) } else { Ok(length) }
    }

    fn flush(&self) -> Result<(), Errno> {
        self.0.flush().map_err(|_| EIO)
    }

    fn is_block(&self) -> bool {
        true
    }
}

/// Makes the disks that were found known as `/dev/vda` and so on.
pub fn register() {
    for (name, disk) in block::all() {
        files::register_device(&format!("/dev/{name}"), Arc::new(Disk(disk)));
    }
}
