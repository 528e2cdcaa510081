//! Memory objects: shared anonymous memory, and fixed sets of frames.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use core::ops::Range;

use rumpuser::{Frame, rumpuser_frame_alloc, rumpuser_frame_release, rumpuser_frame_retain, sync::Mutex};

use super::Pager;
use crate::{Errno, Result, mappings::Mappings};

/// Zeros that all who map the object share (MAP_SHARED with MAP_ANONYMOUS, System V shared memory).
pub struct SharedMemory {
    frames: Mutex<BTreeMap<u64, Frame>>,
    pages: u64,
    mappings: Mappings,
}

impl SharedMemory {
    /// An object of `pages` pages, none of them in memory yet.
    pub fn new(pages: u64) -> Arc<Self> {
        Arc::new(SharedMemory { frames: Mutex::new(BTreeMap::new()), pages, mappings: Mappings::new() })
    }

    /// How many pages it has.
    pub fn size(&self) -> u64 {
        self.pages
    }

    /// How many pages are in memory.
    pub fn resident_pages(&self) -> usize {
        self.frames.lock().len()
    }

    fn frame(&self, frames: &mut BTreeMap<u64, Frame>, index: u64) -> Result<Frame> {
        if index >= self.pages {
            return Err(Errno::ENXIO);
        }
        let frame = match frames.get(&index) {
            Some(&frame) => frame,
            None => {
                let frame = rumpuser_frame_alloc()?;
                frames.insert(index, frame);
                frame
            }
        };
        rumpuser_frame_retain(frame);
        Ok(frame)
    }
}

impl Pager for SharedMemory {
    fn page(&self, index: u64, _write: bool) -> Result<Frame> {
        self.frame(&mut self.frames.lock(), index)
    }

    fn pages(&self, index: u64, write: bool, frames: &mut [Frame]) -> usize {
        let mut own = self.frames.lock();
        let mut count = 0;
        for (page, slot) in (index..self.pages).zip(frames.iter_mut()) {
            // Reading makes nothing new: a reader of sparse memory gets what there is.
            if !write && !own.contains_key(&page) {
                break;
            }
            let Ok(frame) = self.frame(&mut own, page) else { break };
            *slot = frame;
            count += 1;
        }
        count
    }

    fn resident(&self, index: u64) -> bool {
        self.frames.lock().contains_key(&index)
    }

    fn discard(&self, pages: Range<u64>) -> Result<()> {
        let mut frames = self.frames.lock();
        let mut gone = frames.split_off(&pages.start);
        frames.append(&mut gone.split_off(&pages.end));
        drop(frames);
        self.mappings.revoke(pages, true);
        gone.into_values().for_each(rumpuser_frame_release);
        Ok(())
    }

    fn mappings(&self) -> Option<&Mappings> {
        Some(&self.mappings)
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        for &frame in self.frames.get_mut().values() {
            rumpuser_frame_release(frame);
        }
    }
}

/// Frames that somebody else keeps alive, or that are outside the allocator: the vDSO, the clock page.
pub struct FixedPages {
    frames: Vec<Frame>,
}

impl FixedPages {
    /// An object that consists of `frames`, whose references it takes over.
    pub fn new(frames: Vec<Frame>) -> Arc<Self> {
        Arc::new(FixedPages { frames })
    }
}

impl Pager for FixedPages {
    fn page(&self, index: u64, _write: bool) -> Result<Frame> {
        let index = usize::try_from(index).map_err(|_| Errno::ENXIO)?;
        let &frame = self.frames.get(index).ok_or(Errno::ENXIO)?;
        rumpuser_frame_retain(frame);
        Ok(frame)
    }

    fn pages(&self, index: u64, _write: bool, frames: &mut [Frame]) -> usize {
        let from = usize::try_from(index).unwrap_or(usize::MAX).min(self.frames.len());
        let count = frames.len().min(self.frames.len() - from);
        for (slot, &frame) in frames.iter_mut().zip(&self.frames[from..]) {
            rumpuser_frame_retain(frame);
            *slot = frame;
        }
        count
    }
}

impl Drop for FixedPages {
    fn drop(&mut self) {
        self.frames.drain(..).for_each(rumpuser_frame_release);
    }
}
