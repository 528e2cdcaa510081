//! The block frontend (Xen, public/io/blkif.h): queues of 32 requests of 11 pages, or more where the backend takes lists of
//! segments in pages of their own, by threads that sleep until the event. The disk outlives its backend: requests wait
//! for one that comes in its place.

mod connect;
mod pool;
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
    device::{GrantReference, XenbusDevice},
    memory::PAGE_SIZE,
    rumpuser_cpu, rumpuser_frame_alloc_uninitialised, rumpuser_frame_release, rumpuser_frame_retain,
};

pub use connect::attach;
use pool::Pool;
use queue::{Outcome, Queue, REQUEST, Words};

use crate::page::Page;

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
    /// The backend keeps what it has mapped: data goes by way of the pool's pages.
    persistent: AtomicBool,
    pool: Pool,
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
#[derive(Clone, Copy)]
struct Work<'a> {
    kind: u8,
    sector: u64,
    /// Pages and the bytes of them, the last perhaps not whole.
    pages: &'a [Frame],
    bytes: usize,
    /// For [`DISCARD`].
    count: u64,
}

impl Work<'_> {
    /// The bytes of a page, by its index.
    fn length(&self, index: usize) -> usize {
        self.bytes.saturating_sub(index * PAGE_SIZE).min(PAGE_SIZE)
    }

    /// The same in requests of [`SEGMENTS`] pages.
    fn pieces(&self) -> impl Iterator<Item = Work<'_>> {
        self.pages.chunks(SEGMENTS).enumerate().map(|(index, pages)| {
            let begin = index * SEGMENTS * PAGE_SIZE;
            let bytes = self.bytes.saturating_sub(begin).min(pages.len() * PAGE_SIZE);
            Work { sector: self.sector + (begin / SECTOR_SIZE) as u64, pages, bytes, ..*self }
        })
    }
}

/// The granted pages of a request.
type Grants = [GrantReference; MOST_SEGMENTS];

/// What a request's grants are made for.
#[derive(Clone, Copy)]
struct Target<'a> {
    queue: &'a Queue,
    /// Of the queue, when nothing was granted yet.
    epoch: u32,
    /// A page for segments, where there are too many for the request itself.
    list: Option<&'a Page>,
}

/// The segments of a request, two words each.
fn segments<'a>(work: &'a Work<'_>, grants: &'a Grants) -> impl Iterator<Item = [u32; 2]> + 'a {
    grants.iter().take(work.pages.len()).enumerate().map(|(index, reference)| {
        let last = (work.length(index) / SECTOR_SIZE).saturating_sub(1) as u32;
        [*reference, last << 8]
    })
}

/// Does one after the other, until one fails.
fn in_turn<'a>(
    pieces: impl Iterator<Item = Work<'a>>,
    mut perform: impl FnMut(Work<'a>) -> Result<Outcome>,
) -> Result<Outcome> {
    for piece in pieces {
        match perform(piece)? {
            Outcome::Answered(OK) => {}
            other => return Ok(other),
        }
    }
    Ok(Outcome::Answered(OK))
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
    fn indirect(&self, work: &Work<'_>, grants: &Grants, list: &Page) -> Words {
        let mut bytes = [0; 8 * MOST_SEGMENTS];
        for (place, [first, second]) in bytes.chunks_exact_mut(8).zip(segments(work, grants)) {
            place[..4].copy_from_slice(&first.to_le_bytes());
            place[4..].copy_from_slice(&second.to_le_bytes());
        }
        list.frame.write(0, &bytes);
        let mut words = [0; REQUEST / 4];
        words[0] = INDIRECT | u32::from(work.kind) << 8 | (work.pages.len() as u32) << 16;
        words[4] = work.sector as u32;
        words[5] = (work.sector >> 32) as u32;
        words[6] = u32::from(self.handle);
        words[7] = list.reference;
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
            let queue = self.queue();
            let target = Target { queue, epoch: queue.epoch(), list: None };
            let persistent = self.persistent.load(Ordering::SeqCst);
            let outcome = if persistent { self.copied(target, work) } else { self.lent(target, work) };
            return match outcome? {
                Outcome::Lost => continue,
                Outcome::Answered(OK) => Ok(()),
                Outcome::Answered(UNSUPPORTED) => Err(Errno::EOPNOTSUPP),
                _ => Err(Errno::EIO),
            };
        }
    }

    /// A request of pages that are the backend's already.
    fn copied(&self, target: Target<'_>, work: &Work<'_>) -> Result<Outcome> {
        let count = work.pages.len();
        let lease = match self.pool.lease(count + usize::from(count > SEGMENTS)) {
            Err(_) if count > SEGMENTS => return in_turn(work.pieces(), |piece| self.copied(target, &piece)),
            lease => lease?,
        };
        let mut grants: Grants = [0; MOST_SEGMENTS];
        for (index, (page, frame)) in lease.pages.iter().zip(work.pages).enumerate() {
            grants[index] = page.reference;
            if work.kind == WRITE {
                page.frame.copy_from(*frame, work.length(index));
            }
        }
        let outcome = self.perform(Target { list: lease.pages.get(count), ..target }, work, &grants);
        if work.kind == READ && outcome == Outcome::Answered(OK) {
            for (index, (page, frame)) in lease.pages.iter().zip(work.pages).enumerate() {
                frame.copy_from(page.frame, work.length(index));
            }
        }
        self.pool.give_back(lease);
        Ok(outcome)
    }

    /// A request whose own pages the backend gets for as long as it takes.
    fn lent(&self, target: Target<'_>, work: &Work<'_>) -> Result<Outcome> {
        let mut grants: Grants = [0; MOST_SEGMENTS];
        let mut granted = 0;
        for (place, frame) in grants.iter_mut().zip(work.pages) {
            match self.device.grant(*frame, work.kind == READ) {
                Some(reference) => *place = reference,
                None => break,
            }
            granted += 1;
        }
        let outcome = if granted < work.pages.len() {
            Err(Errno::ENOMEM)
        } else if granted > SEGMENTS {
            self.with_list(|list| self.perform(Target { list: Some(list), ..target }, work, &grants))
        } else {
            Ok(self.perform(target, work, &grants))
        };
        for (reference, frame) in grants.iter().zip(work.pages).take(granted) {
            self.end(*reference, *frame);
        }
        outcome
    }

    /// Lends the backend a page for segments.
    fn with_list(&self, perform: impl FnOnce(&Page) -> Outcome) -> Result<Outcome> {
        let frame = rumpuser_frame_alloc_uninitialised().map_err(|_| Errno::ENOMEM)?;
        let outcome = self.device.grant(frame, false).map(|reference| {
            let outcome = perform(&Page { frame, reference });
            self.end(reference, frame);
            outcome
        });
        rumpuser_frame_release(frame);
        outcome.ok_or(Errno::ENOMEM)
    }

    fn perform(&self, target: Target<'_>, work: &Work<'_>, grants: &Grants) -> Outcome {
        let Target { queue, epoch, list } = target;
        if work.pages.len() <= SEGMENTS {
            return queue.perform(&mut self.direct(work, grants), epoch);
        }
        if let Some(list) = list.filter(|_| work.pages.len() <= self.segments.load(Ordering::Relaxed)) {
            return queue.perform(&mut self.indirect(work, grants, list), epoch);
        }
        // Another backend, which takes less.
        let mut grants = grants.chunks(SEGMENTS);
        let outcome = in_turn(work.pieces(), |piece| {
            let mut part: Grants = [0; MOST_SEGMENTS];
            part.iter_mut().zip(grants.next().unwrap_or_default()).for_each(|(to, from)| *to = *from);
            Ok(self.perform(target, &piece, &part))
        });
        outcome.unwrap_or(Outcome::Failed)
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
