//! The transmit ring. Every descriptor has a piece of memory for headers, into which small packets are copied whole: one
//! descriptor, and their pages are free at once. Of larger ones, the payload's pages follow.
//!
//! What was sent is taken back when the ring is needed again; only a full ring wants an interrupt.

use alloc::{vec, vec::Vec};
use core::mem::take;

use rumpnet::{
    device::TransmitError,
    packet::{Chain, Packet},
};
use rumpuser::OutOfMemory;

use super::{
    header,
    receive::Broken,
    ring::{INDIRECT, NEXT, Pieces, Ring},
};
use crate::features::Features;

/// Bytes of a descriptor's piece: headers, or a packet up to this size.
const PIECE: usize = 512;
/// Pieces of payload in a packet: 64 KiB in pages that are not aligned.
pub const MOST_FRAGMENTS: usize = 17;
/// Tables for packets of many pieces, when descriptors become rare.
const TABLES: usize = 32;
const TABLE_BYTES: usize = 512;
const NO_TABLE: u8 = u8::MAX;

/// What the driver knows of a descriptor.
#[derive(Clone, Copy)]
struct Slot {
    /// The one after it, in its chain or in the free list.
    next: u16,
    /// If it starts a chain that the device has: the descriptors in it. Otherwise 0.
    descriptors: u8,
    /// The chain's table.
    table: u8,
}

/// The driver's side of the ring.
pub struct Transmit {
    slots: Vec<Slot>,
    /// For each descriptor that starts a chain under way, its payload.
    payloads: Vec<Chain>,
    pieces: Pieces,
    tables: Option<Pieces>,
    /// A bit for each free table.
    free_tables: u32,
    free_head: u16,
    free: u16,
    available: u16,
    notified: u16,
    used: u16,
    header_length: usize,
}

impl Transmit {
    /// For a ring.
    pub fn new(ring: &Ring, features: Features, header_length: usize) -> Result<Transmit, OutOfMemory> {
        let size = ring.size();
        let indirect = features.contains(Features::INDIRECT);
        ring.want_none(0);
        Ok(Transmit {
            slots: (1..=size).map(|next| Slot { next, descriptors: 0, table: NO_TABLE }).collect(),
            payloads: vec![Chain::new(); size.into()],
            pieces: Pieces::new(size.into(), PIECE)?,
            tables: if indirect { Some(Pieces::new(TABLES, TABLE_BYTES)?) } else { None },
            free_tables: if indirect { u32::MAX } else { 0 },
            free_head: 0,
            free: size,
            available: 0,
            notified: 0,
            used: 0,
            header_length,
        })
    }

    /// Puts a packet on the ring, and takes its payload.
    pub fn add(&mut self, ring: &Ring, packet: &mut Packet) -> Result<(), TransmitError> {
        let headers = packet.header.bytes();
        let room = PIECE - self.header_length;
        if headers.len() > room {
            return Err(TransmitError::Refused);
        }
        let small = headers.len() + packet.payload.len() <= room;
        let fragments = packet.payload.fragments().len();
        if fragments > MOST_FRAGMENTS {
            return Err(TransmitError::Refused);
        }
        let direct = if small { 1 } else { 1 + fragments as u16 };
        // A table costs the device more, so it is for when descriptors become rare.
        let table = direct > 2 && self.free < ring.size() / 4 && self.free_tables != 0;
        let needed = if table { 1 } else { direct };
        if needed > self.free {
            return Err(TransmitError::Full);
        }
        let head = self.free_head;
        let piece = self.pieces.bytes(head);
        let start = self.header_length;
        piece[..start].copy_from_slice(&header::of(packet)[..start]);
        let mut length = start + headers.len();
        piece[start..length].copy_from_slice(headers);
        if small {
            for fragment in packet.payload.fragments() {
                let bytes = fragment.bytes();
                piece[length..length + bytes.len()].copy_from_slice(bytes);
                length += bytes.len();
            }
        }
        let first = (self.pieces.physical(head), length as u32);
        let slot = &mut self.slots[usize::from(head)];
        slot.descriptors = needed as u8;
        let mut next = slot.next;
        if small {
            ring.descriptor(head).set(first.0, first.1, 0, 0);
            packet.payload = Chain::new();
        } else if table {
            self.fill_table(ring, head, first, packet);
        } else {
            ring.descriptor(head).set(first.0, first.1, if direct > 1 { NEXT } else { 0 }, next);
            for (index, fragment) in packet.payload.fragments().iter().enumerate() {
                let current = next;
                next = self.slots[usize::from(current)].next;
                let flags = if index + 1 < fragments { NEXT } else { 0 };
                ring.descriptor(current).set(fragment.physical(), fragment.len() as u32, flags, next);
            }
        }
        if !small {
            self.payloads[usize::from(head)] = take(&mut packet.payload);
        }
        self.free_head = next;
        self.free -= needed;
        ring.offer(self.available, head);
        self.available = self.available.wrapping_add(1);
        ring.publish(self.available);
        Ok(())
    }

    fn fill_table(&mut self, ring: &Ring, head: u16, first: (u64, u32), packet: &Packet) {
        let Some(tables) = &self.tables else { return };
        let number = self.free_tables.trailing_zeros() as u16;
        self.free_tables &= !(1 << number);
        self.slots[usize::from(head)].table = number as u8;
        let table = tables.table(number);
        table[0].set(first.0, first.1, NEXT, 1);
        let fragments = packet.payload.fragments();
        for (index, fragment) in (1..).zip(fragments) {
            let flags = if usize::from(index) < fragments.len() { NEXT } else { 0 };
            table[usize::from(index)].set(fragment.physical(), fragment.len() as u32, flags, index + 1);
        }
        let bytes = (fragments.len() + 1) * size_of::<super::ring::Descriptor>();
        ring.descriptor(head).set(tables.physical(number), bytes as u32, INDIRECT, 0);
    }

    /// Takes back what the device has sent.
    pub fn reclaim(&mut self, ring: &Ring) -> Result<(), Broken> {
        let used = ring.used_index();
        if used.wrapping_sub(self.used) > ring.size() {
            return Err(Broken);
        }
        while self.used != used {
            let (head, _) = ring.used(self.used);
            self.used = self.used.wrapping_add(1);
            let Some(slot) = self.slots.get_mut(head as usize).filter(|slot| slot.descriptors > 0) else {
                // No chain under way: the device has lost its way, but did no harm.
                continue;
            };
            let descriptors = take(&mut slot.descriptors);
            let table = core::mem::replace(&mut slot.table, NO_TABLE);
            if table != NO_TABLE {
                self.free_tables |= 1 << table;
            }
            let mut last = head as u16;
            for _ in 1..descriptors {
                last = self.slots[usize::from(last)].next;
            }
            self.slots[usize::from(last)].next = self.free_head;
            self.free_head = head as u16;
            self.free += u16::from(descriptors);
            let payload = &mut self.payloads[head as usize];
            if !payload.is_empty() {
                *payload = Chain::new();
            }
        }
        ring.want_none(self.used);
        Ok(())
    }

    /// Whether descriptors become rare.
    pub fn is_low(&self, ring: &Ring) -> bool {
        self.free < ring.size() / 2
    }

    /// Wants an interrupt when a part of what is under way was sent. True if it was already: reclaim again.
    pub fn want_room(&mut self, ring: &Ring) -> bool {
        let under_way = self.available.wrapping_sub(self.used);
        let target = self.used.wrapping_add(under_way / 2);
        ring.want_interrupt(target);
        ring.used_index().wrapping_sub(self.used) > under_way / 2
    }

    /// Whether the device wants to hear of what was added since the last call.
    pub fn wants_notification(&mut self, ring: &Ring) -> bool {
        if self.notified == self.available {
            return false;
        }
        let wants = ring.wants_notification(self.notified, self.available);
        self.notified = self.available;
        wants
    }
}
