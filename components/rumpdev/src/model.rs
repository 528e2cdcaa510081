//! A disk in memory, for tests.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use rumpkern::{Errno, Result};
use rumpuser::{Frame, sync::Mutex};

use crate::block::{BlockDevice, SECTOR_SIZE};

/// A disk that is read and written in whole blocks.
pub struct Memory {
    /// What it holds.
    pub bytes: Mutex<Vec<u8>>,
    block_size: usize,
    failing: AtomicBool,
}

impl Memory {
    /// With these bytes.
    pub fn new(bytes: Vec<u8>, block_size: usize) -> Self {
        Memory { bytes: Mutex::new(bytes), block_size, failing: AtomicBool::new(false) }
    }

    /// What a power cut leaves, if every write reached the disk.
    pub fn copy(&self) -> Self {
        Memory::new(self.bytes.lock().clone(), self.block_size)
    }

    /// Has writes fail from now on.
    pub fn fail(&self) {
        self.failing.store(true, Ordering::Relaxed);
    }

    /// Where a transfer of whole blocks starts.
    fn start(&self, sector: u64, length: usize) -> usize {
        let start = sector as usize * SECTOR_SIZE;
        assert!(length.is_multiple_of(self.block_size) && start.is_multiple_of(self.block_size));
        start
    }
}

impl BlockDevice for Memory {
    fn sectors(&self) -> u64 {
        (self.bytes.lock().len() / SECTOR_SIZE) as u64
    }

    fn block_size(&self) -> usize {
        self.block_size
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<()> {
        let start = self.start(sector, buffer.len());
        buffer.copy_from_slice(&self.bytes.lock()[start..start + buffer.len()]);
        Ok(())
    }

    fn write(&self, sector: u64, buffer: &[u8]) -> Result<()> {
        if self.failing.load(Ordering::Relaxed) {
            return Err(Errno::EIO);
        }
        let start = self.start(sector, buffer.len());
        self.bytes.lock()[start..start + buffer.len()].copy_from_slice(buffer);
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
