//! Bytes of a disk: file systems write in sectors of 512 bytes; a disk with larger blocks has them read and written again.

use alloc::{sync::Arc, vec};

use rumpkern::{Errno, Result};
use rumpuser::sync::Mutex;

use crate::block::{BlockDevice, SECTOR_SIZE};

/// A disk.
pub struct Blocks {
    device: Arc<dyn BlockDevice>,
    /// Held while a block is changed in part.
    changing: Mutex<()>,
}

/// The whole blocks around a range: the first sector, their bytes, and where in them the range begins.
struct Around {
    sector: u64,
    length: usize,
    within: usize,
}

impl Blocks {
    /// Over a device.
    pub fn new(device: Arc<dyn BlockDevice>) -> Self {
        Blocks { device, changing: Mutex::new(()) }
    }

    /// The device.
    pub fn device(&self) -> &dyn BlockDevice {
        &*self.device
    }

    /// EIO beyond the end.
    fn around(&self, offset: u64, length: usize) -> Result<Around> {
        let block = self.device.block_size() as u64;
        let size = self.device.sectors().saturating_mul(SECTOR_SIZE as u64);
        let end = offset.checked_add(length as u64).filter(|&end| end <= size).ok_or(Errno::EIO)?;
        let start = offset - offset % block;
        let length = usize::try_from(end.next_multiple_of(block) - start).map_err(|_| Errno::EIO)?;
        Ok(Around { sector: start / SECTOR_SIZE as u64, length, within: (offset - start) as usize })
    }

    /// Reads all of `bytes`.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let around = self.around(offset, bytes.len())?;
        if around.length == bytes.len() {
            return self.device.read(around.sector, bytes);
        }
        let mut whole = vec![0; around.length];
        self.device.read(around.sector, &mut whole)?;
        bytes.copy_from_slice(&whole[around.within..around.within + bytes.len()]);
        Ok(())
    }

    /// Writes all of `bytes`.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let around = self.around(offset, bytes.len())?;
        if around.length == bytes.len() {
            return self.device.write(around.sector, bytes);
        }
        let _changing = self.changing.lock();
        let mut whole = vec![0; around.length];
        self.device.read(around.sector, &mut whole)?;
        whole[around.within..around.within + bytes.len()].copy_from_slice(bytes);
        self.device.write(around.sector, &whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Memory;

    #[test]
    fn sectors_are_changed_inside_of_larger_blocks() {
        let disk = Blocks::new(Arc::new(Memory::new(vec![7; 16384], 4096)));
        assert_eq!(disk.write(3584, &[1; 1024]), Ok(()));
        assert_eq!(disk.write(8192, &[2; 4096]), Ok(()));
        let mut bytes = vec![0; 16384];
        assert_eq!(disk.read(0, &mut bytes), Ok(()));
        let expected = [vec![7; 3584], vec![1; 1024], vec![7; 3584], vec![2; 4096], vec![7; 4096]].concat();
        assert!(bytes == expected);
        let mut part = [0; 512];
        assert_eq!((disk.read(4096, &mut part), part), (Ok(()), [1; 512]));
        assert_eq!(disk.read(16384 - 256, &mut part), Err(Errno::EIO));
        assert_eq!(disk.write(u64::MAX, &part), Err(Errno::EIO));
    }
}
