//! The split queue (virtio 1.2, section 2.7), driver side.
//!
//! What the driver needs to know about its own descriptors it keeps in memory of its own; from the memory that the
//! device can write, it reads only the used ring, and checks that.

use alloc::{vec, vec::Vec};
use core::sync::atomic::{Ordering, fence};

use rumpuser::{
    OutOfMemory,
    device::{DmaMemory, Registers},
};

use crate::{
    features::Features,
    transport::{LEGACY_ALIGNMENT, QueueAddresses},
};

/// The largest queue that is made; devices may offer fewer.
pub const LARGEST: u16 = 64;
/// Descriptors in an indirect table.
const TABLE_ENTRIES: usize = 64;

const DESCRIPTOR: usize = 16;
/// Flags of a descriptor.
const NEXT: u16 = 1;
const WRITABLE: u16 = 2;
const INDIRECT: u16 = 4;
/// Flag of either ring: don't tell me (without event indices).
const NO_NOTIFY: u16 = 1;

/// A piece of memory for the device: physical address and length.
pub type Segment = (u64, u32);

/// A split queue.
pub struct Queue {
    memory: DmaMemory,
    ring: Registers,
    /// A table for each descriptor, if the device takes tables.
    tables: Option<DmaMemory>,
    size: u16,
    available: usize,
    used: usize,
    event_index: bool,
    /// For each descriptor the one after it, in its chain or in the free list.
    next: Vec<u16>,
    free_head: u16,
    free_count: u16,
    /// For each descriptor that starts a chain under way: its length, and the caller's token.
    chains: Vec<Option<Chain>>,
    /// Our next index in the available ring, the next used index to look at, the index last notified.
    available_index: u16,
    used_index: u16,
    notified_index: u16,
}

#[derive(Clone, Copy)]
struct Chain {
    descriptors: u16,
    writable: u32,
    token: u16,
}

/// A chain that the device is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The token given to [`Queue::add`].
    pub token: u16,
    /// How many bytes the device says it wrote, at most what it could.
    pub written: u32,
}

impl Queue {
    /// A queue as large as the device's `limit` and [`LARGEST`] allow; `limit` is at least 1.
    pub fn new(limit: u16, features: Features) -> Result<Queue, OutOfMemory> {
        let limit = limit.clamp(1, LARGEST);
        // The largest power of two.
        let size = 1 << limit.ilog2();
        let count = usize::from(size);
        let available = count * DESCRIPTOR;
        // flags, index, ring, event index
        let used = (available + 6 + 2 * count).next_multiple_of(LEGACY_ALIGNMENT);
        let memory = DmaMemory::new(used + 6 + 8 * count)?;
        let indirect = features.contains(Features::INDIRECT);
        let tables = if indirect { Some(DmaMemory::new(count * TABLE_ENTRIES * DESCRIPTOR)?) } else { None };
        Ok(Queue {
            ring: memory.registers(),
            memory,
            tables,
            size,
            available,
            used,
            event_index: features.contains(Features::EVENT_INDEX),
            next: (1..=size).collect(),
            free_head: 0,
            free_count: size,
            chains: vec![None; count],
            available_index: 0,
            used_index: 0,
            notified_index: 0,
        })
    }

    /// Where the device finds it.
    pub fn addresses(&self) -> QueueAddresses {
        let base = self.memory.physical();
        QueueAddresses {
            size: self.size,
            descriptors: base,
            available: base + self.available as u64,
            used: base + self.used as u64,
        }
    }

    /// The most segments that a chain can have.
    pub fn segment_limit(&self) -> usize {
        if self.tables.is_some() { TABLE_ENTRIES } else { usize::from(self.size) }
    }

    fn write_descriptor(table: Registers, index: usize, (address, length): Segment, flags: u16, next: u16) {
        let offset = index * DESCRIPTOR;
        table.write64(offset, address);
        table.write32(offset + 8, length);
        table.write16(offset + 12, flags);
        table.write16(offset + 14, next);
    }

    /// Puts a chain into the queue: what the device reads, then what it writes. False if there is no room for it
    /// now, or ever. The device sees it, but is not told; see [`Queue::should_notify`].
    pub fn add(&mut self, readable: &[Segment], writable: &[Segment], token: u16) -> bool {
        let total = readable.len() + writable.len();
        let indirect = self.tables.is_some() && total > 1;
        let needed = if indirect { 1 } else { total };
        if total == 0 || total > self.segment_limit() || needed > usize::from(self.free_count) {
            return false;
        }
        let head = self.free_head;
        let segments = readable
            .iter()
            .map(|segment| (*segment, 0))
            .chain(writable.iter().map(|segment| (*segment, WRITABLE)));
        if let Some(tables) = self.tables.as_ref().filter(|_| indirect) {
            let offset = usize::from(head) * TABLE_ENTRIES * DESCRIPTOR;
            let bytes = total * DESCRIPTOR;
            let Some(table) = tables.registers().part(offset, bytes) else { return false };
            for (index, (segment, flags)) in segments.enumerate() {
                let last = index + 1 == total;
                Self::write_descriptor(
                    table,
                    index,
                    segment,
                    if last { flags } else { flags | NEXT },
                    if last { 0 } else { index as u16 + 1 },
                );
            }
            let address = tables.physical() + offset as u64;
            Self::write_descriptor(self.ring, usize::from(head), (address, bytes as u32), INDIRECT, 0);
            self.free_head = self.next[usize::from(head)];
        } else {
            let mut current = head;
            for (index, (segment, flags)) in segments.enumerate() {
                let next = self.next[usize::from(current)];
                let last = index + 1 == total;
                Self::write_descriptor(
                    self.ring,
                    usize::from(current),
                    segment,
                    if last { flags } else { flags | NEXT },
                    if last { 0 } else { next },
                );
                current = next;
            }
            self.free_head = current;
        }
        self.free_count -= needed as u16;
        let capacity = writable.iter().fold(0_u32, |sum, segment| sum.saturating_add(segment.1));
        self.chains[usize::from(head)] =
            Some(Chain { descriptors: needed as u16, writable: capacity, token });

        let slot = self.available_index % self.size;
        self.ring.write16(self.available + 4 + 2 * usize::from(slot), head);
        self.available_index = self.available_index.wrapping_add(1);
        // The chain is complete before its index says so.
        fence(Ordering::Release);
        self.ring.write16(self.available + 2, self.available_index);
        true
    }

    /// Whether the device wants to be told of what was added since the last call.
    pub fn should_notify(&mut self) -> bool {
        // The device looks at the index, then says what it wants to hear; we do it the other way round.
        fence(Ordering::SeqCst);
        let (old, new) = (self.notified_index, self.available_index);
        self.notified_index = new;
        if self.event_index {
            let event = self.ring.read16(self.used + 4 + 8 * usize::from(self.size));
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            old != new && self.ring.read16(self.used) & NO_NOTIFY == 0
        }
    }

    /// Takes the next chain that the device is done with. Entries that name no chain under way are skipped.
    pub fn take(&mut self) -> Option<Completion> {
        // A device that claims more than a queue's worth is wrong; what it says is looked at once.
        for _ in 0..self.size {
            if self.ring.read16(self.used + 2) == self.used_index {
                return None;
            }
            fence(Ordering::Acquire);
            let entry = self.used + 4 + 8 * usize::from(self.used_index % self.size);
            let head = self.ring.read32(entry) as usize;
            let written = self.ring.read32(entry + 4);
            self.used_index = self.used_index.wrapping_add(1);
            if let Some(chain) = self.chains.get_mut(head).and_then(Option::take) {
                self.release(head as u16, chain.descriptors);
                return Some(Completion { token: chain.token, written: written.min(chain.writable) });
            }
        }
        None
    }

    /// Gives a chain's descriptors back. The links are ours, so they lead where they should.
    fn release(&mut self, head: u16, descriptors: u16) {
        let mut last = head;
        for _ in 1..descriptors {
            last = self.next[usize::from(last)];
        }
        self.next[usize::from(last)] = self.free_head;
        self.free_head = head;
        self.free_count += descriptors;
    }

    /// Asks for an interrupt with the next completion. Returns whether there is one already: then look again.
    pub fn arm(&mut self) -> bool {
        if self.event_index {
            self.ring.write16(self.available + 4 + 2 * usize::from(self.size), self.used_index);
        }
        fence(Ordering::SeqCst);
        self.ring.read16(self.used + 2) != self.used_index
    }
}

#[cfg(test)]
mod tests;
