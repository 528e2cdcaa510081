//! The machine's disks as the rump kernel sees them.

use alloc::sync::Arc;

use netbsd::{
    errno::{EIO, EROFS, Errno},
    files::Backing,
};
use rumpdev::block::{BlockDevice, SECTOR_SIZE};
use rumpkern::Errno as LinuxErrno;

use super::blocks::Blocks;

/// A disk.
pub struct Disk(Blocks);

impl Disk {
    /// Over a device.
    pub fn new(device: Arc<dyn BlockDevice>) -> Self {
        Disk(Blocks::new(device))
    }
}

fn failed(error: LinuxErrno) -> Errno {
    if error == LinuxErrno::EROFS { EROFS } else { EIO }
}

impl Backing for Disk {
    fn size(&self) -> u64 {
        self.0.device().sectors().saturating_mul(SECTOR_SIZE as u64)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<usize, Errno> {
        self.0.read(offset, bytes).map(|()| bytes.len()).map_err(failed)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
        self.0.write(offset, bytes).map(|()| bytes.len()).map_err(failed)
    }

    /// Nothing: as with NetBSD's drivers of disks, what is written may be in the disk's cache, until a file or the
    /// file system is made durable.
    fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn is_block(&self) -> bool {
        true
    }
}
