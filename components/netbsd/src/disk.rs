//! The platform's disks as the rump kernel sees them.

use alloc::sync::Arc;

use rumpdev::{
    block::{BlockDevice, SECTOR_SIZE},
    blocks::Blocks,
};

use crate::{
    errno::{EIO, EROFS, Errno},
    files::Backing,
};

/// A disk.
pub struct Disk {
    blocks: Blocks,
    durable: bool,
}

impl Disk {
    /// Over a device. `durable`: what the kernel writes synchronously leaves the disk's cache. Otherwise it may stay
    /// there until somebody flushes the device, as with NetBSD's own drivers of disks.
    pub fn new(device: Arc<dyn BlockDevice>, durable: bool) -> Self {
        Disk { blocks: Blocks::new(device), durable }
    }
}

impl Backing for Disk {
    fn size(&self) -> u64 {
        self.blocks.device().sectors().saturating_mul(SECTOR_SIZE as u64)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<usize, Errno> {
        self.blocks.read(offset, bytes).map(|()| bytes.len()).map_err(|_| EIO)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
        if self.blocks.device().read_only() {
            return Err(EROFS);
        }
        self.blocks.write(offset, bytes).map(|()| bytes.len()).map_err(|_| EIO)
    }

    fn flush(&self) -> Result<(), Errno> {
        if self.durable { self.blocks.device().flush().map_err(|_| EIO) } else { Ok(()) }
    }

    fn is_block(&self) -> bool {
        true
    }
}
