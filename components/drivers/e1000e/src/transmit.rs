//! The transmit ring (datasheet, section 7.2): data descriptors, and context descriptors that say what to do about
//! checksums and segmentation. Small packets are copied whole beside their headers, so that their pages are free
//! at once.

use alloc::{vec, vec::Vec};
use core::sync::atomic::{Ordering, fence};

use rumpnet::{
    device::TransmitError,
    interface::LINK_HEADER,
    packet::{Chain, Checksum, Packet, Segmentation},
};
use rumpuser::{OutOfMemory, device::DmaMemory};

/// Descriptors.
pub const SIZE: usize = 256;
/// Bytes for the headers of a packet, or a packet up to this size.
const PIECE: usize = 512;
/// Pieces of payload in a packet.
pub const MOST_FRAGMENTS: usize = 20;
/// Without segmentation, no packet is longer.
pub const LONGEST: usize = 9234;

/// Fields of descriptors.
mod field {
    /// Which kind it is.
    pub const DATA: u64 = 1 << 20;
    /// Commands, of both kinds.
    pub const SEGMENT: u64 = 1 << 26;
    pub const REPORT: u64 = 1 << 27;
    pub const EXTENDED: u64 = 1 << 29;
    /// Commands of data descriptors.
    pub const END: u64 = 1 << 24;
    pub const CRC: u64 = 1 << 25;
    /// Commands of context descriptors.
    pub const TCP: u64 = 1 << 24;
    pub const VERSION_4: u64 = 1 << 25;
    /// It was sent.
    pub const DONE: u64 = 1 << 32;
    /// Insert the IP header's checksum, and TCP's or UDP's.
    pub const IP_CHECKSUM: u64 = 1 << 40;
    pub const CHECKSUM: u64 = 1 << 41;
}

/// A ring and what the driver knows of it.
pub struct Transmit {
    memory: DmaMemory,
    /// A piece for each descriptor.
    pieces: DmaMemory,
    /// For the first descriptor of each packet under way: the last one, and the payload.
    ends: Vec<u16>,
    payloads: Vec<Chain>,
    /// The first packet under way; the next descriptor to use.
    oldest: usize,
    next: usize,
    told: usize,
    /// The context that the device has.
    context: (u64, u64),
}

impl Transmit {
    /// An empty ring.
    pub fn new() -> Result<Transmit, OutOfMemory> {
        Ok(Transmit {
            memory: DmaMemory::new(SIZE * 16)?,
            pieces: DmaMemory::new(SIZE * PIECE)?,
            ends: vec![0; SIZE],
            payloads: vec![Chain::new(); SIZE],
            oldest: 0,
            next: 0,
            told: 0,
            context: (0, 0),
        })
    }

    /// Where the device finds the ring.
    pub fn physical(&self) -> u64 {
        self.memory.physical()
    }

    /// Descriptors that can be used.
    fn free(&self) -> usize {
        (self.oldest + SIZE - self.next - 1) % SIZE
    }

    /// Whether descriptors become rare.
    pub fn is_low(&self) -> bool {
        self.free() < SIZE / 2
    }

    fn set(&mut self, low: u64, high: u64) {
        let words = self.memory.words();
        words[2 * self.next].store(low, Ordering::Relaxed);
        words[2 * self.next + 1].store(high, Ordering::Relaxed);
        self.next = (self.next + 1) % SIZE;
    }

    /// Puts a packet on the ring and takes its payload.
    pub fn add(&mut self, packet: &mut Packet) -> Result<(), TransmitError> {
        let header_length = packet.header.bytes().len();
        let length = header_length + packet.payload.len();
        let small = length <= PIECE;
        let fragments = if small { 0 } else { packet.payload.fragments().len() };
        let too_long = packet.segmentation.is_none() && length > LONGEST;
        if fragments > MOST_FRAGMENTS || header_length > PIECE || too_long || length > 0xf_ffff {
            return Err(TransmitError::Refused);
        }
        let context = context_of(packet);
        let needed = fragments + 2;
        if needed > self.free() {
            return Err(TransmitError::Full);
        }
        if let Some(segmentation) = packet.segmentation {
            prepare(packet, segmentation);
        }
        let start = self.next;
        if let Some(context) = context
            && (context != self.context || packet.segmentation.is_some())
        {
            self.context = context;
            self.set(context.0, context.1);
        }
        let options = match (packet.checksum, packet.segmentation) {
            (_, Some(Segmentation { version6: false, .. })) => field::CHECKSUM | field::IP_CHECKSUM,
            (Checksum::Partial { .. }, _) => field::CHECKSUM,
            _ => 0,
        };
        let segment = if packet.segmentation.is_some() { field::SEGMENT } else { 0 };
        let command = field::DATA | field::EXTENDED | field::CRC | segment | options;
        let last = command | field::END | field::REPORT;
        let piece = self.next * PIECE;
        self.pieces.write(piece, packet.header.bytes());
        let mut in_piece = header_length;
        if small {
            for fragment in packet.payload.fragments() {
                self.pieces.write(piece + in_piece, fragment.bytes());
                in_piece += fragment.len();
            }
        }
        let address = self.pieces.physical() + piece as u64;
        self.set(address, if fragments == 0 { last } else { command } | in_piece as u64);
        for index in 0..fragments {
            let fragment = &packet.payload.fragments()[index];
            let (address, length) = (fragment.physical(), fragment.len() as u64);
            self.set(address, if index + 1 == fragments { last } else { command } | length);
        }
        self.ends[start] = ((self.next + SIZE - 1) % SIZE) as u16;
        let payload = core::mem::take(&mut packet.payload);
        if !small {
            self.payloads[start] = payload;
        }
        Ok(())
    }

    /// Takes back what the device has sent.
    pub fn reclaim(&mut self) {
        while self.oldest != self.next {
            let end = usize::from(self.ends[self.oldest]);
            if self.memory.words()[2 * end + 1].load(Ordering::Acquire) & field::DONE == 0 {
                break;
            }
            self.payloads[self.oldest] = Chain::new();
            self.oldest = (end + 1) % SIZE;
        }
    }

    /// Whether the oldest packet was sent.
    pub fn has_room(&self) -> bool {
        let end = usize::from(self.ends[self.oldest]);
        self.oldest != self.next
            && self.memory.words()[2 * end + 1].load(Ordering::Acquire) & field::DONE != 0
    }

    /// What the tail register is to say, if it doesn't say so.
    pub fn tail(&mut self) -> Option<u32> {
        if self.told == self.next {
            return None;
        }
        fence(Ordering::Release);
        self.told = self.next;
        Some(self.next as u32)
    }
}

/// The context descriptor for a packet, if it needs one.
fn context_of(packet: &Packet) -> Option<(u64, u64)> {
    let Checksum::Partial { start, offset } = packet.checksum else { return None };
    let (start, field) = (u64::from(start), u64::from(start) + u64::from(offset));
    let link = LINK_HEADER as u64;
    let mut low = start << 32 | field << 40;
    let mut high = field::EXTENDED;
    if let Some(segmentation) = packet.segmentation {
        let headers = packet.header.bytes().len() as u64;
        high |= packet.payload.len() as u64 | field::SEGMENT | field::TCP;
        high |= headers << 40 | u64::from(segmentation.size) << 48;
        if segmentation.version6 {
            low |= link;
        } else {
            // The IP header: where it starts, its checksum's place, where it ends.
            low |= link | (link + 10) << 8 | (start - 1) << 16;
            high |= field::VERSION_4;
        }
    } else {
        low |= link;
    }
    Some((low, high))
}

/// Makes headers a prototype for the segments: the device fills in lengths, so they are in no sum.
fn prepare(packet: &mut Packet, segmentation: Segmentation) {
    let Checksum::Partial { start, offset } = packet.checksum else { return };
    let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
    let transport = packet.header.bytes().len().saturating_sub(start) + packet.payload.len();
    let bytes = packet.header.bytes_mut();
    let Some(sum) = bytes.get(field..field + 2).map(|sum| u16::from_be_bytes([sum[0], sum[1]])) else {
        return;
    };
    // The sum without the length: its complement is added.
    let mut total = u32::from(sum) + u32::from(!(transport as u16)) + u32::from(!((transport >> 16) as u16));
    while total > 0xffff {
        total = (total >> 16) + (total & 0xffff);
    }
    bytes[field..field + 2].copy_from_slice(&(total as u16).to_be_bytes());
    let zeros = if segmentation.version6 {
        [LINK_HEADER + 4, LINK_HEADER + 4]
    } else {
        [LINK_HEADER + 2, LINK_HEADER + 10]
    };
    for offset in zeros {
        if let Some(place) = bytes.get_mut(offset..offset + 2) {
            place.fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    fn packet(header: usize, payload: usize) -> Packet {
        let mut packet =
            Packet { payload: Chain::copy_of(&std::vec![7; payload]).unwrap(), ..Packet::default() };
        packet.header.prepend(header).fill(1);
        packet
    }

    fn descriptor(transmit: &Transmit, index: usize) -> (u64, u64) {
        let words = transmit.memory.words();
        (words[2 * index].load(Ordering::Relaxed), words[2 * index + 1].load(Ordering::Relaxed))
    }

    fn finish(transmit: &Transmit, index: usize) {
        transmit.memory.words()[2 * index + 1].fetch_or(field::DONE, Ordering::Relaxed);
    }

    #[test]
    fn small_packets_take_a_descriptor_and_large_ones_their_pages() {
        let mut transmit = Transmit::new().unwrap();
        transmit.add(&mut packet(54, 100)).unwrap();
        let (address, word) = descriptor(&transmit, 0);
        assert_eq!((address, word as u32 & 0xf_ffff), (transmit.pieces.physical(), 154));
        assert_eq!(word & (field::END | field::REPORT), field::END | field::REPORT);
        let mut large = packet(54, 5000);
        let page = large.payload.fragments()[1].physical();
        transmit.add(&mut large).unwrap();
        assert!(large.payload.is_empty());
        assert_eq!(descriptor(&transmit, 1).1 & field::END, 0);
        let (address, word) = descriptor(&transmit, 3);
        assert_eq!((address, word as u32 & 0xf_ffff), (page, 904));
        assert_eq!((transmit.tail(), transmit.tail()), (Some(4), None));
    }

    #[test]
    fn a_context_comes_before_what_needs_another_one() {
        let mut transmit = Transmit::new().unwrap();
        for _ in 0..3 {
            let mut packet = packet(54, 10);
            packet.checksum = Checksum::Partial { start: 34, offset: 16 };
            transmit.add(&mut packet).unwrap();
        }
        // One context for all three.
        assert_eq!(transmit.next, 4);
        assert_eq!(descriptor(&transmit, 0), (14 | 34 << 32 | 50 << 40, field::EXTENDED));
        assert!(descriptor(&transmit, 3).1 & field::CHECKSUM != 0);
        let mut large = packet(54, 9000);
        large.checksum = Checksum::Partial { start: 34, offset: 16 };
        large.segmentation = Some(Segmentation { size: 1448, version6: false, ecn: false });
        transmit.add(&mut large).unwrap();
        let (low, high) = descriptor(&transmit, 4);
        assert_eq!(low, 14 | 24 << 8 | 33 << 16 | 34 << 32 | 50 << 40);
        assert_eq!((high & 0xf_ffff, high >> 40 & 0xff, high >> 48), (9000, 54, 1448));
        assert_eq!(large.header.bytes()[16..18], [0, 0]);
    }

    #[test]
    fn a_full_ring_refuses_until_something_was_sent() {
        let mut transmit = Transmit::new().unwrap();
        let mut count = 0;
        while transmit.add(&mut packet(54, 3000)).is_ok() {
            count += 1;
        }
        assert_eq!(count, 127);
        transmit.reclaim();
        assert!(!transmit.has_room() && transmit.add(&mut packet(54, 3000)).is_err());
        let mut refused = packet(54, 3000);
        assert_eq!(transmit.add(&mut refused), Err(TransmitError::Full));
        assert_eq!(refused.payload.len(), 3000);
        // Each packet took two descriptors.
        finish(&transmit, 3);
        assert!(!transmit.has_room());
        finish(&transmit, 1);
        assert!(transmit.has_room());
        transmit.reclaim();
        assert_eq!(transmit.free(), 5);
        for _ in 0..1000 {
            let (oldest, next) = (transmit.oldest, transmit.next);
            (0..SIZE)
                .filter(|index| (index + SIZE - oldest) % SIZE < (next + SIZE - oldest) % SIZE)
                .for_each(|index| finish(&transmit, index));
            transmit.reclaim();
            assert_eq!(transmit.free(), SIZE - 1);
            transmit.add(&mut packet(54, 30)).unwrap();
        }
    }
}
