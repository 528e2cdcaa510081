//! The block frontend (Xen, public/io/blkif.h): queues of 32 requests of 11 pages, or more where the backend takes lists of
//! segments in pages of their own, by threads that sleep until the event. The disk outlives its backend: requests wait
//! for one that comes in its place.

mod connect;
pub mod queue;

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rumpdev::{
    block::{BlockDevice, SECTOR_SIZE},
    bounce,
};
use rumpkern::{Errno, Result};
use rumpuser::{
    Frame,
    device::{DmaMemory, GrantReference, XenbusDevice},
    memory::PAGE_SIZE,
    rumpuser_cpu, rumpuser_frame_retain,
};

pub use connect::attach;
use queue::{Outcome, Queue, REQUEST, Words};

const READ: u8 = 0;
const WRITE: u8 = 1;
const FLUSH: u8 = 3;
const DISCARD: u8 = 5;
/// A request whose segments are in pages of their own.
const INDIRECT: u32 = 6;
const OK: i16 = 0;
const UNSUPPORTED: i16 = -2;
/// The pages of a request without such.
const SEGMENTS: usize = 11;
/// The most pages of a request: of those that a page of segments could name, as many as grants on the stack are cheap.
const MOST_SEGMENTS: usize = 64;

/// A disk.
struct Disk {
    device: Arc<dyn XenbusDevice>,
    queues: Vec<Arc<Queue>>,
    /// How many of the queues the backend has.
    used: AtomicUsize,
    /// Pages in a request.
    segments: AtomicUsize,
    handle: u16,
    sectors: u64,
    block_size: usize,
    read_only: bool,
    can_flush: AtomicBool,
    can_discard: AtomicBool,
    /// The backend was told that the disk is given up.
    closed: AtomicBool,
}

/// What a request is about.
struct Work<'a> {
    kind: u8,
    sector: u64,
    /// Pages and the bytes of them, the last perhaps not whole.
    pages: &'a [Frame],
    bytes: usize,
    /// For [`DISCARD`].
    count: u64,
}

/// The granted pages of a request.
type Grants = [GrantReference; MOST_SEGMENTS];

/// The segments of a request, two words each.
fn segments<'a>(work: &'a Work<'_>, grants: &'a Grants) -> impl Iterator<Item = [u32; 2]> + 'a {
    grants.iter().take(work.pages.len()).enumerate().map(|(index, reference)| {
        let length = work.bytes.saturating_sub(index * PAGE_SIZE).min(PAGE_SIZE);
        let last = (length / SECTOR_SIZE).saturating_sub(1) as u32;
        [*reference, last << 8]
    })
}

impl Disk {
    /// The words of a request whose segments are in it, but for its identifier.
    fn direct(&self, work: &Work<'_>, grants: &Grants) -> Words {
        let mut words = [0; REQUEST / 4];
        words[0] = u32::from(work.kind) | (work.pages.len() as u32) << 8 | u32::from(self.handle) << 16;
        words[4] = work.sector as u32;
        words[5] = (work.sector >> 32) as u32;
        if work.kind == DISCARD {
            words[6] = work.count as u32;
            words[7] = (work.count >> 32) as u32;
        }
        for (place, segment) in words[6..].chunks_exact_mut(2).zip(segments(work, grants)) {
            place.copy_from_slice(&segment);
        }
        words
    }

    /// The words of a request whose segments are in a page.
    fn indirect(
        &self,
        work: &Work<'_>,
        grants: &Grants,
        page: &DmaMemory,
        reference: GrantReference,
    ) -> Words {
        let registers = page.registers();
        for (index, [first, second]) in segments(work, grants).enumerate() {
            registers.write32(8 * index, first);
            registers.write32(8 * index + 4, second);
        }
        let mut words = [0; REQUEST / 4];
        words[0] = INDIRECT | u32::from(work.kind) << 8 | (work.pages.len() as u32) << 16;
        words[4] = work.sector as u32;
        words[5] = (work.sector >> 32) as u32;
        words[6] = u32::from(self.handle);
        words[7] = reference;
        words
    }

    fn queue(&self) -> &Queue {
        let used = self.used.load(Ordering::Relaxed).clamp(1, self.queues.len());
        &self.queues[rumpuser_cpu() % used]
    }

    /// Ends a grant; a page that the backend keeps is nobody else's any more.
    fn end(&self, reference: GrantReference, frame: Frame) {
        if !self.device.end_grant(reference) {
            rumpuser_frame_retain(frame);
            self.queues.iter().for_each(|queue| queue.fail());
        }
    }

    fn request(&self, work: &Work<'_>) -> Result<()> {
        loop {
            let mut grants: Grants = [0; MOST_SEGMENTS];
            let mut granted = 0;
            for (place, frame) in grants.iter_mut().zip(work.pages) {
                match self.device.grant(*frame, work.kind == READ) {
                    Some(reference) => *place = reference,
                    None => break,
                }
                granted += 1;
            }
            let whole = granted == work.pages.len();
            let outcome = if whole { self.perform(work, &grants) } else { Err(Errno::ENOMEM) };
            for (reference, frame) in grants.iter().zip(work.pages).take(granted) {
                self.end(*reference, *frame);
            }
            return match outcome? {
                Outcome::Lost => continue,
                Outcome::Answered(OK) => Ok(()),
                Outcome::Answered(UNSUPPORTED) => Err(Errno::EOPNOTSUPP),
                _ => Err(Errno::EIO),
            };
        }
    }

    fn perform(&self, work: &Work<'_>, grants: &Grants) -> Result<Outcome> {
        if work.pages.len() <= SEGMENTS {
            return Ok(self.queue().perform(&mut self.direct(work, grants)));
        }
        if work.pages.len() > self.segments.load(Ordering::Relaxed) {
            // Another backend, which takes less.
            let mut sector = work.sector;
            for (index, pages) in work.pages.chunks(SEGMENTS).enumerate() {
                let bytes =
                    work.bytes.saturating_sub(index * SEGMENTS * PAGE_SIZE).min(pages.len() * PAGE_SIZE);
                let mut part: Grants = [0; MOST_SEGMENTS];
                part.iter_mut().zip(&grants[index * SEGMENTS..]).for_each(|(to, from)| *to = *from);
                let piece = Work { kind: work.kind, sector, pages, bytes, count: 0 };
                match self.perform(&piece, &part)? {
                    Outcome::Answered(OK) => sector += (bytes / SECTOR_SIZE) as u64,
                    other => return Ok(other),
                }
            }
            return Ok(Outcome::Answered(OK));
        }
        let page = DmaMemory::new(PAGE_SIZE).map_err(|_| Errno::ENOMEM)?;
        let frame = Frame(page.physical() / PAGE_SIZE as u64);
        let reference = self.device.grant(frame, false).ok_or(Errno::ENOMEM)?;
        let outcome = self.queue().perform(&mut self.indirect(work, grants, &page, reference));
        self.end(reference, frame);
        Ok(outcome)
    }

    /// Checks that a transfer is aligned and inside the device.
    fn check(&self, sector: u64, bytes: usize) -> Result<()> {
        let blocks = (self.block_size / SECTOR_SIZE) as u64;
        if !bytes.is_multiple_of(self.block_size) || !sector.is_multiple_of(blocks) {
            return Err(Errno::EINVAL);
        }
        let end = sector.checked_add((bytes / SECTOR_SIZE) as u64);
        if end.is_some_and(|end| end <= self.sectors) { Ok(()) } else { Err(Errno::ENXIO) }
    }

    fn most(&self) -> usize {
        self.segments.load(Ordering::Relaxed).clamp(SEGMENTS, MOST_SEGMENTS)
    }

    fn transfer(&self, kind: u8, mut sector: u64, frames: &[Frame], bytes: usize) -> Result<()> {
        if kind == WRITE && self.read_only {
            return Err(Errno::EROFS);
        }
        self.check(sector, bytes)?;
        let mut rest = bytes;
        for pages in frames.chunks(self.most()) {
            let length = rest.min(pages.len() * PAGE_SIZE);
            self.request(&Work { kind, sector, pages, bytes: length, count: 0 })?;
            rest -= length;
            sector += (length / SECTOR_SIZE) as u64;
        }
        Ok(())
    }
}

impl BlockDevice for Disk {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn block_size(&self) -> usize {
        self.block_size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<()> {
        self.check(sector, buffer.len())?;
        bounce::read(sector, buffer, self.most(), &|sector, frames, bytes| {
            self.transfer(READ, sector, frames, bytes)
        })
    }

    fn write(&self, sector: u64, buffer: &[u8]) -> Result<()> {
        self.check(sector, buffer.len())?;
        bounce::write(sector, buffer, self.most(), &|sector, frames, bytes| {
            self.transfer(WRITE, sector, frames, bytes)
        })
    }

    fn read_frames(&self, sector: u64, frames: &[Frame]) -> Result<()> {
        self.transfer(READ, sector, frames, frames.len() * PAGE_SIZE)
    }

    fn write_frames(&self, sector: u64, frames: &[Frame]) -> Result<()> {
        self.transfer(WRITE, sector, frames, frames.len() * PAGE_SIZE)
    }

    fn flush(&self) -> Result<()> {
        // Without the request, the backend has no volatile cache: what it completed is durable.
        let work = Work { kind: FLUSH, sector: 0, pages: &[], bytes: 0, count: 0 };
        if self.can_flush.load(Ordering::Relaxed) { self.request(&work) } else { Ok(()) }
    }

    fn discard(&self, sector: u64, sectors: u64) -> Result<()> {
        if self.read_only {
            return Err(Errno::EROFS);
        }
        if sector.checked_add(sectors).is_none_or(|end| end > self.sectors) {
            return Err(Errno::ENXIO);
        }
        if !self.can_discard.load(Ordering::Relaxed) || sectors == 0 {
            return Ok(());
        }
        self.request(&Work { kind: DISCARD, sector, pages: &[], bytes: 0, count: sectors })
    }
}

#[cfg(test)]
mod tests;
