//! The receive ring (Xen, public/io/netif.h): a granted page in every slot. The backend copies packets there, and answers in
//! order. Small packets are copied into a page that several share; large ones take their pages along.

use alloc::{sync::Arc, vec::Vec};
use core::mem::ManuallyDrop;

use rumpnet::packet::{Checksum, Fragment, Received};
use rumpuser::{
    device::{GrantReference, XenbusDevice},
    memory::PAGE_SIZE,
    rumpuser_frame_retain,
};

use crate::{
    Refused,
    page::Page,
    ring::{ANSWER, Ring, Violation},
};

/// Bytes of a request, and of an answer.
const REQUEST: usize = 8;
/// The largest packet that is copied, in bytes.
const COPIED: usize = 256;
const LEAST: usize = 14;
/// Slots of a packet: 64 KiB of data, with a page that isn't full at either end, and what is said beside it.
const MOST_SLOTS: u32 = 20;

mod flag {
    pub const DATA_VALIDATED: u16 = 1;
    pub const CHECKSUM_BLANK: u16 = 2;
    pub const MORE_DATA: u16 = 4;
    pub const EXTRA: u16 = 8;
}
const EXTRA_SEGMENTATION: u8 = 1;
const EXTRA_MORE: u8 = 1;

/// An answer of the backend's.
#[derive(Clone, Copy)]
struct Answer {
    offset: usize,
    flags: u16,
    status: i16,
}

impl Answer {
    fn parse(bytes: [u8; ANSWER]) -> Answer {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Answer { offset: word(2).into(), flags: word(4), status: word(6).cast_signed() }
    }
}

/// A ring and what the driver knows of it.
pub struct Receive {
    device: Arc<dyn XenbusDevice>,
    ring: Ring,
    reference: GrantReference,
    /// By slot. `None` where there was no memory.
    pages: Vec<Page>,
    copies: Option<Fragment>,
    failed: bool,
    /// Packets that came broken, and those for which there was no memory.
    pub errors: u64,
    /// See `errors`.
    pub missed: u64,
}

impl Receive {
    /// With a page in every slot, and the reference of the ring's page.
    pub fn new(device: Arc<dyn XenbusDevice>) -> Result<(Receive, GrantReference), Refused> {
        let ring = Ring::new(REQUEST).map_err(|_| Refused)?;
        let reference = device.grant(ring.frame(), true).ok_or(Refused)?;
        let pages = Vec::with_capacity(ring.size());
        let mut receive =
            Receive { device, ring, reference, pages, copies: None, failed: false, errors: 0, missed: 0 };
        for _ in 0..receive.ring.size() {
            let page = Page::new(&*receive.device).ok_or(Refused)?;
            receive.pages.push(page);
            receive.post();
        }
        Ok((receive, reference))
    }

    /// Gives the backend the page of the next slot.
    fn post(&mut self) {
        let slot = self.ring.next_slot();
        if let Some(page) = self.pages.get(slot) {
            self.ring.make(&[slot as u32, page.reference]);
        }
    }

    /// Shows the backend the pages; returns whether it wants to be told.
    pub fn show(&mut self) -> bool {
        self.ring.show()
    }

    /// Wants an event for the next packet; returns whether there is one.
    pub fn arm(&self) -> Result<bool, Violation> {
        if self.failed { Err(Violation) } else { self.ring.arm(1) }
    }

    /// Takes the next packet. An error means that the backend is not to be trusted any more.
    pub fn next(&mut self) -> Result<Option<Received>, Violation> {
        if self.failed {
            return Err(Violation);
        }
        let result = self.next_good();
        self.failed = result.is_err();
        result
    }

    fn next_good(&mut self) -> Result<Option<Received>, Violation> {
        // Not more than the whole ring at a time.
        for _ in 0..self.ring.size() {
            let Some(slots) = self.whole_packet()? else { return Ok(None) };
            if let Some(packet) = self.one(slots)? {
                return Ok(Some(packet));
            }
        }
        Ok(None)
    }

    /// The slots of the next packet; `None` if it hasn't come to its end.
    fn whole_packet(&self) -> Result<Option<u32>, Violation> {
        let waiting = self.ring.waiting()?;
        let mut slots = 0;
        loop {
            if slots >= waiting {
                return Ok(None);
            }
            let answer = Answer::parse(self.ring.look(slots));
            slots += 1;
            let mut extra = answer.flags & flag::EXTRA != 0;
            while extra {
                if slots >= waiting {
                    return Ok(None);
                }
                extra = self.ring.look(slots)[1] & EXTRA_MORE != 0;
                slots += 1;
                if slots > MOST_SLOTS {
                    return Err(Violation);
                }
            }
            if answer.flags & flag::MORE_DATA == 0 {
                return Ok(Some(slots));
            }
            if slots >= MOST_SLOTS {
                return Err(Violation);
            }
        }
    }

    /// Takes a packet of so many slots; `None` if it is broken, or without memory.
    fn one(&mut self, slots: u32) -> Result<Option<Received>, Violation> {
        let mut packet = Received::default();
        let mut broken = false;
        let mut complete = true;
        let mut left = slots;
        let mut first = true;
        while left > 0 {
            let slot = self.ring.answer_slot();
            let answer = Answer::parse(self.ring.take());
            left -= 1;
            let length = usize::try_from(answer.status).unwrap_or(0);
            broken |= answer.status <= 0 || answer.offset + length > PAGE_SIZE;
            let fragment = if broken || !complete {
                None
            } else {
                let alone = slots == 1;
                let taken = self.take(slot, answer.offset, length, alone)?;
                complete = taken.is_some();
                taken
            };
            self.post();
            packet.data.push_some(fragment);
            // The backend may have changed its mind since the packet was measured: the measure holds.
            let mut extra = first && answer.flags & flag::EXTRA != 0;
            while extra && left > 0 {
                let bytes = self.ring.take();
                self.post();
                left -= 1;
                extra = bytes[1] & EXTRA_MORE != 0;
                if bytes[0] == EXTRA_SEGMENTATION {
                    packet.segment_size = u16::from_le_bytes([bytes[2], bytes[3]]);
                }
            }
            if first {
                packet.checksum = checksum(answer.flags);
                first = false;
            }
        }
        if broken || packet.data.len() < LEAST {
            self.errors += u64::from(broken || complete);
            self.missed += u64::from(!broken && !complete);
            return Ok(None);
        }
        self.missed += u64::from(!complete);
        Ok(complete.then_some(packet))
    }

    /// The bytes in a slot's page: a copy, or the page, for which there is another one then.
    fn take(
        &mut self,
        slot: usize,
        offset: usize,
        length: usize,
        alone: bool,
    ) -> Result<Option<Fragment>, Violation> {
        let page = self.pages.get_mut(slot).ok_or(Violation)?;
        if alone && length <= COPIED {
            let view = ManuallyDrop::new(Fragment::from_frame(page.frame, offset..offset + length));
            return Ok(self.copy(view.bytes()));
        }
        let old = page.exchange(&*self.device)?;
        Ok(old.map(|frame| Fragment::from_frame(frame, offset..offset + length)))
    }

    fn copy(&mut self, bytes: &[u8]) -> Option<Fragment> {
        if self.copies.as_ref().is_none_or(|copies| copies.room() < bytes.len()) {
            self.copies = Some(Fragment::new(0).ok()?);
        }
        let copies = self.copies.as_mut()?;
        copies.advance(copies.len());
        copies.append(bytes);
        Some(copies.clone())
    }
}

fn checksum(flags: u16) -> Checksum {
    // A sum that was never made is as good as one that was checked: the packet came from this machine.
    if flags & (flag::DATA_VALIDATED | flag::CHECKSUM_BLANK) != 0 {
        Checksum::Verified
    } else {
        Checksum::Unknown
    }
}

/// [`rumpnet::packet::Chain::push`] for what may be missing.
trait PushSome {
    fn push_some(&mut self, fragment: Option<Fragment>);
}

impl PushSome for rumpnet::packet::Chain {
    fn push_some(&mut self, fragment: Option<Fragment>) {
        if let Some(fragment) = fragment {
            self.push(fragment);
        }
    }
}

impl Drop for Receive {
    fn drop(&mut self) {
        if !self.device.end_grant(self.reference) {
            rumpuser_frame_retain(self.ring.frame());
        }
        for page in self.pages.drain(..) {
            page.end(&*self.device);
        }
    }
}
