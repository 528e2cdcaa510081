//! The pages of a file: a sparse map from page numbers to frames.

use alloc::{boxed::Box, collections::BTreeMap};
use core::ops::Range;

use rumpuser::{Frame, rumpuser_frame_release};

/// Pages in one piece of the map.
const CHUNK: u64 = 32;
/// Nothing here.
const ABSENT: u64 = u64::MAX;
/// Zeros, whatever the image has here.
const HOLE: u64 = u64::MAX - 1;

/// What the map has for a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Nothing: the image's page, if there is an image.
    Absent,
    /// Zeros.
    Hole,
    /// This frame; the map holds a reference.
    Page(Frame),
}

/// See the module.
#[derive(Default)]
pub struct Pages {
    chunks: BTreeMap<u64, Box<[u64; CHUNK as usize]>>,
    /// Frames in the map.
    count: u64,
}

impl Pages {
    /// How many frames it has.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether it says nothing about any page.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// What it has for a page.
    pub fn get(&self, index: u64) -> Slot {
        match self.chunks.get(&(index / CHUNK)) {
            None => Slot::Absent,
            Some(chunk) => match chunk[(index % CHUNK) as usize] {
                ABSENT => Slot::Absent,
                HOLE => Slot::Hole,
                frame => Slot::Page(Frame(frame)),
            },
        }
    }

    fn replace(&mut self, index: u64, value: u64) {
        let chunk = self.chunks.entry(index / CHUNK).or_insert_with(|| Box::new([ABSENT; CHUNK as usize]));
        let slot = &mut chunk[(index % CHUNK) as usize];
        let old = core::mem::replace(slot, value);
        if old < HOLE {
            rumpuser_frame_release(Frame(old));
            self.count -= 1;
        }
        if value < HOLE {
            self.count += 1;
        }
    }

    /// Puts a frame in, taking over the caller's reference.
    pub fn insert(&mut self, index: u64, frame: Frame) {
        self.replace(index, frame.0);
    }

    /// Makes a page zeros, over the image's.
    pub fn punch(&mut self, index: u64) {
        self.replace(index, HOLE);
    }

    /// Forgets what it has for `range`; returns how many frames that released.
    pub fn remove(&mut self, range: Range<u64>) -> u64 {
        let before = self.count;
        if range.is_empty() {
            return 0;
        }
        let (first, last) = (range.start / CHUNK, (range.end - 1) / CHUNK);
        let mut next = first;
        while next <= last
            && let Some((&number, chunk)) = self.chunks.range_mut(next..=last).next()
        {
            let base = number * CHUNK;
            for (slot, index) in chunk.iter_mut().zip(base..) {
                if range.contains(&index) {
                    let old = core::mem::replace(slot, ABSENT);
                    if old < HOLE {
                        rumpuser_frame_release(Frame(old));
                        self.count -= 1;
                    }
                }
            }
            if chunk.iter().all(|&slot| slot == ABSENT) {
                self.chunks.remove(&number);
            }
            next = number + 1;
        }
        before - self.count
    }

    /// The first page at or behind `index` with a frame.
    pub fn next_page(&self, index: u64) -> Option<u64> {
        for (&number, chunk) in self.chunks.range(index / CHUNK..) {
            for (&slot, at) in chunk.iter().zip(number * CHUNK..) {
                if at >= index && slot < HOLE {
                    return Some(at);
                }
            }
        }
        None
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.remove(0..u64::MAX);
    }
}
