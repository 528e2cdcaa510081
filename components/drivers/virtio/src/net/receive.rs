//! The receive ring: every descriptor has a page. A small packet is copied behind the last one into a page that several
//! share, so that it neither costs a page nor pins one; a large one takes its pages along, and the ring gets new ones.

use alloc::vec::Vec;
use core::{mem::ManuallyDrop, ops::Range};

use rumpnet::packet::{Checksum, Fragment, Received};
use rumpuser::{
    Frame, OutOfMemory, memory::PAGE_SIZE, rumpuser_frame_alloc_uninitialised, rumpuser_frame_release,
};

use super::{
    header,
    ring::{Ring, WRITABLE},
};
use crate::features::Features;

/// The largest packet that is copied, in bytes with its header.
const COPIED: usize = 256;
/// The smallest packet: an Ethernet header.
const LEAST: usize = 14;
/// Linux joins up to 64 KiB, in buffers of 4 KiB.
const MOST_BUFFERS: u16 = 17;

/// What the driver knows of the ring.
pub struct Receive {
    /// The page of each descriptor.
    pages: Vec<Frame>,
    available: u16,
    notified: u16,
    used: u16,
    /// How far the device was when we last looked.
    seen: u16,
    /// The end of the page for copies.
    copies: Option<Fragment>,
    header_length: usize,
    merged: bool,
    /// Packets that came broken, and those for which there was no memory.
    pub errors: u64,
    /// See `errors`.
    pub missed: u64,
}

/// The device claims what cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

impl Receive {
    /// Fills a ring with at most `pages` pages.
    pub fn new(
        ring: &Ring,
        pages: usize,
        features: Features,
        header_length: usize,
    ) -> Result<Receive, OutOfMemory> {
        let count = pages.clamp(1, ring.size().into());
        let mut receive = Receive {
            pages: Vec::with_capacity(count),
            available: 0,
            notified: 0,
            used: 0,
            seen: 0,
            copies: None,
            header_length,
            merged: features.contains(Features::NET_MERGED_BUFFERS),
            errors: 0,
            missed: 0,
        };
        for index in 0..count as u16 {
            let frame = rumpuser_frame_alloc_uninitialised()?;
            receive.pages.push(frame);
            ring.descriptor(index).set(frame.physical(), PAGE_SIZE as u32, WRITABLE, 0);
            receive.give(ring, index);
        }
        ring.publish(receive.available);
        Ok(receive)
    }

    /// Makes a descriptor the device's again.
    #[inline]
    fn give(&mut self, ring: &Ring, index: u16) {
        ring.offer(self.available, index);
        self.available = self.available.wrapping_add(1);
    }

    /// Whether a packet waits.
    pub fn waits(&self, ring: &Ring) -> bool {
        ring.used_index() != self.used
    }

    /// Where the device's index is after what was taken.
    pub fn used(&self) -> u16 {
        self.used
    }

    /// Takes the next packet. `Ok(None)` if there is none.
    pub fn next(&mut self, ring: &Ring) -> Result<Option<Received>, Broken> {
        loop {
            if self.used == self.seen {
                self.seen = ring.used_index();
                let waiting = self.seen.wrapping_sub(self.used);
                if waiting == 0 {
                    return Ok(None);
                }
                if usize::from(waiting) > self.pages.len() {
                    return Err(Broken);
                }
            }
            match self.one(ring) {
                Some(packet) => return Ok(Some(packet)),
                None => continue,
            }
        }
    }

    /// The page of the next used descriptor, and how many bytes of it were written.
    #[inline]
    fn take(&mut self, ring: &Ring) -> Option<(u16, usize)> {
        let (identifier, length) = ring.used(self.used);
        self.used = self.used.wrapping_add(1);
        // An identifier that is no descriptor's has no page to give back.
        let index = u16::try_from(identifier).ok().filter(|index| usize::from(*index) < self.pages.len())?;
        Some((index, (length as usize).min(PAGE_SIZE)))
    }

    /// Takes the page of a descriptor away and puts a new one there; without memory, the old one stays.
    fn exchange(&mut self, ring: &Ring, index: u16) -> Option<Frame> {
        let new = rumpuser_frame_alloc_uninitialised().ok()?;
        ring.descriptor(index).set(new.physical(), PAGE_SIZE as u32, WRITABLE, 0);
        Some(core::mem::replace(&mut self.pages[usize::from(index)], new))
    }

    /// A reference to the first bytes of a descriptor's page.
    #[inline]
    fn look(&self, index: u16, length: usize) -> PageView {
        PageView(ManuallyDrop::new(Fragment::from_frame(self.pages[usize::from(index)], 0..length)))
    }

    /// Takes a packet, or counts it as broken or missed.
    fn one(&mut self, ring: &Ring) -> Option<Received> {
        let Some((index, length)) = self.take(ring) else {
            self.errors += 1;
            return None;
        };
        let view = self.look(index, length);
        let parsed = header::parse(&view.0.bytes()[..length.min(self.header_length)]);
        let buffers = if self.merged { parsed.buffers } else { 1 };
        let waiting = self.seen.wrapping_sub(self.used);
        if length < self.header_length + LEAST
            || buffers == 0
            || buffers > MOST_BUFFERS
            || buffers - 1 > waiting
        {
            self.errors += 1;
            self.give(ring, index);
            return None;
        }
        let mut packet = Received { segment_size: parsed.segment_size, ..Received::default() };
        if buffers == 1 && length - self.header_length <= COPIED {
            let copied = self.copy(&view.0.bytes()[self.header_length..]);
            self.give(ring, index);
            match copied {
                Some(fragment) => packet.data.push(fragment),
                None => {
                    self.missed += 1;
                    return None;
                }
            }
        } else {
            let mut complete = self.add(ring, index, self.header_length..length, &mut packet);
            for _ in 1..buffers {
                match self.take(ring) {
                    Some((index, length)) => complete &= self.add(ring, index, 0..length, &mut packet),
                    None => {
                        self.errors += 1;
                        complete = false;
                    }
                }
            }
            if !complete {
                self.missed += 1;
                return None;
            }
        }
        packet.checksum = match parsed.checksum {
            Checksum::Partial { start, offset }
                if usize::from(start) + usize::from(offset) + 2 > packet.data.len() =>
            {
                Checksum::Unknown
            }
            checksum => checksum,
        };
        Some(packet)
    }

    /// Adds a descriptor's page to a packet. False without memory for a new one.
    fn add(&mut self, ring: &Ring, index: u16, range: Range<usize>, packet: &mut Received) -> bool {
        let page = self.exchange(ring, index);
        self.give(ring, index);
        match page {
            Some(frame) => {
                packet.data.push(Fragment::from_frame(frame, range));
                true
            }
            None => false,
        }
    }

    /// A copy of a small packet, behind the last one.
    fn copy(&mut self, bytes: &[u8]) -> Option<Fragment> {
        if self.copies.as_ref().is_none_or(|copies| copies.room() < bytes.len()) {
            self.copies = Some(Fragment::new(0).ok()?);
        }
        let copies = self.copies.as_mut()?;
        copies.advance(copies.len());
        copies.append(bytes);
        Some(copies.clone())
    }

    /// Shows the device the descriptors that were given back; returns whether it wants to hear of it.
    pub fn publish(&mut self, ring: &Ring) -> bool {
        if self.notified == self.available {
            return false;
        }
        ring.publish(self.available);
        let wants = ring.wants_notification(self.notified, self.available);
        self.notified = self.available;
        wants
    }
}

impl Drop for Receive {
    fn drop(&mut self) {
        // The device was reset before.
        for frame in &self.pages {
            rumpuser_frame_release(*frame);
        }
    }
}

/// A look at a page whose reference stays with the ring.
struct PageView(ManuallyDrop<Fragment>);
