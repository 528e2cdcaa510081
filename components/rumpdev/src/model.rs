//! A disk in memory, for tests.

use alloc::vec::Vec;

use rumpkern::{Errno, Result};
use rumpuser::{Frame, sync::Mutex};

use crate::block::{BlockDevice, SECTOR_SIZE};

/// A disk with blocks of 4096 bytes.
pub struct Memory(Mutex<Vec<u8>>);

impl Memory {
    /// With these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Memory(Mutex::new(bytes))
    }
}

impl BlockDevice for Memory {
    fn sectors(&self) -> u64 {
        (self.0.lock().len() / SECTOR_SIZE) as u64
    }

    fn block_size(&self) -> usize {
        4096
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<()> {
        assert!(buffer.len().is_multiple_of(4096) && sector.is_multiple_of(8));
        let start = sector as usize * SECTOR_SIZE;
        buffer.copy_from_slice(&self.0.lock()[start..start + buffer.len()]);
        Ok(())
    }

    fn write(&self, sector: u64, buffer: &[u8]) -> Result<()> {
        assert!(buffer.len().is_multiple_of(4096) && sector.is_multiple_of(8));
        let start = sector as usize * SECTOR_SIZE;
        self.0.lock()[start..start + buffer.len()].copy_from_slice(buffer);
        Ok(())
    }

    fn read_frames(&self, _sector: u64, _frames: &[Frame]) -> Result<()> {
        Err(Errno::EIO)
    }

    fn write_frames(&self, _sector: u64, _frames: &[Frame]) -> Result<()> {
        Err(Errno::EIO)
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn discard(&self, _sector: u64, _sectors: u64) -> Result<()> {
        Ok(())
    }
}
