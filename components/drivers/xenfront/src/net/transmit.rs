//! The transmit ring (Xen, public/io/netif.h): a request for the headers, one for each piece of payload, and one that says how
//! to cut the packet. Headers, and small packets whole, are copied into pages that stay granted.

use alloc::{sync::Arc, vec::Vec};

use rumpnet::{
    device::TransmitError,
    packet::{Checksum, Fragment, Packet},
};
use rumpuser::{
    Frame, OutOfMemory,
    device::{DmaMemory, GrantReference, XenbusDevice},
    memory::PAGE_SIZE,
    rumpuser_frame_retain,
};

use crate::{
    Refused,
    ring::{Ring, Violation},
};

/// Bytes of a request.
const REQUEST: usize = 12;
/// Bytes for the headers of a packet, or a packet up to this size. They divide a page.
const PIECE: usize = 512;
/// Pieces of payload in a packet: every backend takes 18 requests for one, of which one has the headers.
pub const MOST_FRAGMENTS: usize = 16;
/// A packet's size has 16 bits.
const LONGEST: usize = 65535;

/// Flags of a request.
mod flag {
    pub const CHECKSUM_BLANK: u16 = 1;
    pub const DATA_VALIDATED: u16 = 2;
    pub const MORE_DATA: u16 = 4;
    pub const EXTRA: u16 = 8;
}
/// The kind of an extra request that says how to cut, and what is cut.
const EXTRA_SEGMENTATION: u32 = 1;
const TCP_4: u32 = 1;
const TCP_6: u32 = 2;
/// The answer to an extra request, which says nothing.
const NOTHING: i16 = 1;

/// A request under way, by its identifier.
#[derive(Default)]
enum Slot {
    #[default]
    Free,
    /// Headers, in the slot's own piece.
    Piece,
    /// Payload in a granted page.
    Payload(Fragment, GrantReference),
}

/// A ring and what the driver knows of it.
pub struct Transmit {
    device: Arc<dyn XenbusDevice>,
    ring: Ring,
    reference: GrantReference,
    /// A piece for each identifier, and the references of their pages.
    pieces: DmaMemory,
    references: Vec<GrantReference>,
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// Requests with identifiers of their own need a place in the ring, and so do extra ones.
    failed: bool,
    /// Packets that the backend did not send.
    pub errors: u64,
}

impl Transmit {
    /// An empty ring, and the reference of its page.
    pub fn new(device: Arc<dyn XenbusDevice>) -> Result<(Transmit, GrantReference), Refused> {
        let make = || -> Result<(Ring, DmaMemory), OutOfMemory> {
            let ring = Ring::new(REQUEST)?;
            let pieces = DmaMemory::new(ring.size() * PIECE)?;
            Ok((ring, pieces))
        };
        let (ring, pieces) = make().map_err(|_| Refused)?;
        let first = pieces.physical() / PAGE_SIZE as u64;
        let pages = (pieces.len() / PAGE_SIZE) as u64;
        let references = (first..first + pages).map(|frame| device.grant(Frame(frame), false));
        let references = references.collect::<Option<_>>().ok_or(Refused)?;
        let reference = device.grant(ring.frame(), true).ok_or(Refused)?;
        let mut slots = Vec::new();
        slots.resize_with(ring.size(), Slot::default);
        let free = (0..ring.size() as u16).rev().collect();
        Ok((
            Transmit { device, ring, reference, pieces, references, slots, free, failed: false, errors: 0 },
            reference,
        ))
    }

    /// Whether places become rare.
    pub fn is_low(&self) -> bool {
        self.room() < self.ring.size() / 2
    }

    fn room(&self) -> usize {
        self.ring.free().min(self.free.len())
    }

    /// Puts a packet on the ring and takes its payload.
    pub fn add(&mut self, packet: &mut Packet) -> Result<(), TransmitError> {
        let headers = packet.header.bytes().len();
        let length = headers + packet.payload.len();
        let small = length <= PIECE;
        let fragments = if small { 0 } else { packet.payload.fragments().len() };
        if self.failed || fragments > MOST_FRAGMENTS || headers > PIECE || length > LONGEST || headers == 0 {
            return Err(TransmitError::Refused);
        }
        if fragments + 2 > self.room() {
            return Err(TransmitError::Full);
        }
        // All pages are granted before anything stands on the ring.
        let payload = if small { Vec::new() } else { self.lend(packet)? };
        let Some(identifier) = self.free.pop() else { return Err(TransmitError::Full) };
        let piece = usize::from(identifier) * PIECE;
        self.pieces.write(piece, packet.header.bytes());
        let mut in_piece = headers;
        if small {
            for fragment in packet.payload.fragments() {
                self.pieces.write(piece + in_piece, fragment.bytes());
                in_piece += fragment.len();
            }
        }
        let mut flags = 0;
        if matches!(packet.checksum, Checksum::Partial { .. }) {
            flags |= flag::CHECKSUM_BLANK | flag::DATA_VALIDATED;
        }
        if packet.segmentation.is_some() {
            flags |= flag::EXTRA;
        }
        let more = |is: bool| if is { flag::MORE_DATA } else { 0 };
        self.slots[usize::from(identifier)] = Slot::Piece;
        let reference = self.references[piece / PAGE_SIZE];
        // The first request has the size of the whole packet.
        self.request(reference, piece % PAGE_SIZE, flags | more(!payload.is_empty()), identifier, length);
        if let Some(segmentation) = packet.segmentation {
            let kind = if segmentation.version6 { TCP_6 } else { TCP_4 };
            self.ring.make(&[EXTRA_SEGMENTATION | u32::from(segmentation.size) << 16, kind, 0]);
        }
        let last = payload.len().saturating_sub(1);
        for (index, (fragment, reference)) in payload.into_iter().enumerate() {
            // There is one for every place, which was looked for.
            let Some(identifier) = self.free.pop() else { break };
            self.request(reference, fragment.offset(), more(index < last), identifier, fragment.len());
            self.slots[usize::from(identifier)] = Slot::Payload(fragment, reference);
        }
        packet.payload = Default::default();
        Ok(())
    }

    /// Grants the pages of a payload.
    fn lend(&self, packet: &Packet) -> Result<Vec<(Fragment, GrantReference)>, TransmitError> {
        let mut lent = Vec::with_capacity(packet.payload.fragments().len());
        for fragment in packet.payload.fragments() {
            let Some(reference) = self.device.grant(fragment.frame(), false) else {
                for (_, reference) in lent {
                    // The backend has not heard of it.
                    self.device.end_grant(reference);
                }
                return Err(TransmitError::Refused);
            };
            lent.push((fragment.clone(), reference));
        }
        Ok(lent)
    }

    fn request(
        &mut self,
        reference: GrantReference,
        offset: usize,
        flags: u16,
        identifier: u16,
        size: usize,
    ) {
        let second = offset as u32 | u32::from(flags) << 16;
        self.ring.make(&[reference, second, u32::from(identifier) | (size as u32) << 16]);
    }

    /// Shows the backend what was added; returns whether it wants to be told.
    pub fn show(&mut self) -> bool {
        self.ring.show()
    }

    /// Takes back what the backend has sent. An error means that it is not to be trusted any more.
    pub fn reclaim(&mut self) -> Result<(), Violation> {
        if self.failed {
            return Err(Violation);
        }
        let result = self.take_answers();
        self.failed = result.is_err();
        result
    }

    fn take_answers(&mut self) -> Result<(), Violation> {
        for _ in 0..self.ring.waiting()? {
            let answer = self.ring.take();
            let status = i16::from_le_bytes([answer[2], answer[3]]);
            if status == NOTHING {
                continue;
            }
            let identifier = u16::from_le_bytes([answer[0], answer[1]]);
            let slot = self.slots.get_mut(usize::from(identifier)).ok_or(Violation)?;
            match core::mem::take(slot) {
                Slot::Free => return Err(Violation),
                Slot::Piece => {}
                Slot::Payload(fragment, reference) => {
                    if !self.device.end_grant(reference) {
                        // The backend still has the page, whatever it says: nobody else may get it.
                        rumpuser_frame_retain(fragment.frame());
                        return Err(Violation);
                    }
                }
            }
            self.errors += u64::from(status < 0);
            self.free.push(identifier);
        }
        Ok(())
    }

    /// Wants an event when a part of what is under way was sent; returns whether some waits already.
    pub fn arm(&self) -> Result<bool, Violation> {
        let under_way = self.ring.size() - self.ring.free();
        self.ring.arm((under_way as u32 / 4).max(1))
    }
}

impl Drop for Transmit {
    fn drop(&mut self) {
        let first = self.pieces.physical() / PAGE_SIZE as u64;
        let pieces = (first..).map(Frame).zip(&self.references);
        for (frame, reference) in pieces.chain([(self.ring.frame(), &self.reference)]) {
            if !self.device.end_grant(*reference) {
                // The backend may go on reading or writing there.
                rumpuser_frame_retain(frame);
            }
        }
        for slot in &self.slots {
            if let Slot::Payload(fragment, reference) = slot
                && !self.device.end_grant(*reference)
            {
                rumpuser_frame_retain(fragment.frame());
            }
        }
    }
}
