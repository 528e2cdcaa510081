//! Copies of a caller's buffer in whole frames, for devices that reach frames alone.

use alloc::vec::Vec;

use rumpkern::{Errno, Result};
use rumpuser::{Frame, memory::PAGE_SIZE, rumpuser_frame_alloc_uninitialised, rumpuser_frame_release};

use crate::block::SECTOR_SIZE;

/// What moves a number of bytes between a sector and frames.
pub type Transfer<'a> = &'a dyn Fn(u64, &[Frame], usize) -> Result<()>;

struct Bounce(Vec<Frame>);

impl Bounce {
    fn new(bytes: usize) -> Result<Bounce> {
        let mut bounce = Bounce(Vec::new());
        for _ in 0..bytes.div_ceil(PAGE_SIZE) {
            bounce.0.push(rumpuser_frame_alloc_uninitialised().map_err(|_| Errno::ENOMEM)?);
        }
        Ok(bounce)
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        for frame in &self.0 {
            rumpuser_frame_release(*frame);
        }
    }
}

/// Reads from `sector` on, at most `most` frames at once. ENOMEM without frames; else what `transfer` gives.
pub fn read(mut sector: u64, buffer: &mut [u8], most: usize, transfer: Transfer<'_>) -> Result<()> {
    for part in buffer.chunks_mut(most * PAGE_SIZE) {
        let bounce = Bounce::new(part.len())?;
        transfer(sector, &bounce.0, part.len())?;
        for (frame, piece) in bounce.0.iter().zip(part.chunks_mut(PAGE_SIZE)) {
            frame.read(0, piece);
        }
        sector += (part.len() / SECTOR_SIZE) as u64;
    }
    Ok(())
}

/// Writes from `sector` on; otherwise as [`read`].
pub fn write(mut sector: u64, buffer: &[u8], most: usize, transfer: Transfer<'_>) -> Result<()> {
    for part in buffer.chunks(most * PAGE_SIZE) {
        let bounce = Bounce::new(part.len())?;
        for (frame, piece) in bounce.0.iter().zip(part.chunks(PAGE_SIZE)) {
            frame.write(0, piece);
        }
        transfer(sector, &bounce.0, part.len())?;
        sector += (part.len() / SECTOR_SIZE) as u64;
    }
    Ok(())
}
