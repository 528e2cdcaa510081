//! What a device can't do, done in software: checksums, cutting TCP, packets of too many pieces.

use alloc::vec::Vec;

use rumpuser::memory::PAGE_SIZE;

use super::{Interface, LINK_HEADER, is_plain};
use crate::{
    device::{Offloads, TransmitError},
    packet::{Chain, Checksum, Fragment, Header, Packet, Segmentation},
};

/// Whether the device does what the packet asks for.
pub(super) fn offers(offloads: Offloads, packet: &Packet) -> bool {
    if is_plain(packet) {
        return true;
    }
    let mut needed = Offloads::empty();
    needed.set(Offloads::CHECKSUM, matches!(packet.checksum, Checksum::Partial { .. }));
    if let Some(segmentation) = packet.segmentation {
        needed |= if segmentation.version6 { Offloads::SEGMENTATION_6 } else { Offloads::SEGMENTATION_4 };
        needed.set(Offloads::SEGMENTATION_ECN, segmentation.ecn);
    }
    offloads.contains(needed)
}

/// Sends a packet that is not as the device can take it.
#[cold]
pub(super) fn transmit(
    interface: &Interface,
    index: usize,
    packet: &mut Packet,
) -> Result<(), TransmitError> {
    let needs_cut = packet.segmentation.filter(|segmentation| {
        let mut probe = Packet { segmentation: Some(*segmentation), ..Packet::default() };
        probe.checksum = packet.checksum;
        !offers(interface.offloads, &probe)
    });
    let Some(segmentation) = needs_cut else {
        return send_one(interface, index, packet);
    };
    let segments = cut(packet, segmentation).ok_or(TransmitError::Refused)?;
    let mut result = Err(TransmitError::Refused);
    for mut segment in segments {
        // What comes behind a packet that was lost is still of use.
        let sent = send_one(interface, index, &mut segment);
        result = result.or(sent);
    }
    if result.is_ok() {
        packet.payload = Chain::new();
    }
    result
}

fn send_one(interface: &Interface, index: usize, packet: &mut Packet) -> Result<(), TransmitError> {
    if packet.payload.fragments().len() > interface.fragment_limit {
        packet.payload = gather(&packet.payload).ok_or(TransmitError::Refused)?;
    }
    if !offers(interface.offloads, packet) && !complete_checksum(packet) {
        return Err(TransmitError::Refused);
    }
    interface.put(index, packet)
}

/// The same bytes in as few pages as possible.
fn gather(chain: &Chain) -> Option<Chain> {
    let mut gathered = Chain::new();
    let mut page = Fragment::new(0).ok()?;
    for fragment in chain.fragments() {
        let mut bytes = fragment.bytes();
        while !bytes.is_empty() {
            let done = page.append(bytes);
            bytes = &bytes[done..];
            if page.len() == PAGE_SIZE {
                gathered.push(core::mem::replace(&mut page, Fragment::new(0).ok()?));
            }
        }
    }
    gathered.push(page);
    Some(gathered)
}

/// The internet checksum's sum (RFC 1071) over parts of which all but the last are looked at as one string of bytes.
#[derive(Default)]
pub struct Sum {
    sum: u64,
    odd: bool,
}

impl Sum {
    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        if self.odd
            && let Some((first, rest)) = bytes.split_first()
        {
            self.sum += u64::from(*first);
            self.odd = false;
            bytes = rest;
        }
        let (words, rest) = bytes.as_chunks::<8>();
        let mut sum = 0u64;
        for word in words {
            let value = u64::from_be_bytes(*word);
            let (total, carry) = sum.overflowing_add(value);
            sum = total + u64::from(carry);
        }
        // Below 2^34 each, so that many can be added.
        self.sum += (sum >> 32) + (sum & 0xffff_ffff);
        let mut pairs = rest.chunks_exact(2);
        for pair in &mut pairs {
            self.sum += u64::from(u16::from_be_bytes([pair[0], pair[1]]));
        }
        if let [last] = pairs.remainder() {
            self.sum += u64::from(*last) << 8;
            self.odd = true;
        }
    }

    /// Folded to 16 bits, not complemented.
    pub fn fold(&self) -> u16 {
        let mut sum = self.sum;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        sum as u16
    }
}

/// Sums what [`Checksum::Partial`] leaves to the device. The header and the checksum's field must be in the
/// packet's own headers. False if they aren't.
fn complete_checksum(packet: &mut Packet) -> bool {
    let Checksum::Partial { start, offset } = packet.checksum else { return true };
    let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
    if field + 2 > packet.header.bytes().len() {
        return false;
    }
    let mut sum = Sum::default();
    sum.add(&packet.header.bytes()[start..]);
    for fragment in packet.payload.fragments() {
        sum.add(fragment.bytes());
    }
    // 0 means "no checksum" to UDP, and the same as 0xffff to the others.
    let value = match !sum.fold() {
        0 => 0xffff,
        value => value,
    };
    packet.header.bytes_mut()[field..field + 2].copy_from_slice(&value.to_be_bytes());
    packet.checksum = Checksum::Unknown;
    true
}

/// TCP's flags that only one segment keeps: FIN and PSH the last, CWR the first.
const FIN_PUSH: u8 = 0x01 | 0x08;
const CWR: u8 = 0x80;

/// Cuts a large TCP packet. Its checksum is partial, and all its headers are in `header`. `None` if it isn't so.
fn cut(packet: &Packet, segmentation: Segmentation) -> Option<Vec<Packet>> {
    let Checksum::Partial { start, offset } = packet.checksum else { return None };
    let (start, size) = (usize::from(start), usize::from(segmentation.size));
    let headers = packet.header.bytes();
    let address_length = if segmentation.version6 { 40 } else { 20 };
    if size == 0 || headers.len() < start + 20 || start < LINK_HEADER + address_length {
        return None;
    }
    let total = packet.payload.len();
    let transport = headers.len() - start;
    let sequence = u32::from_be_bytes(headers[start + 4..start + 8].try_into().ok()?);
    // The pseudo-header's sum has the length of the whole in it.
    let field = start + usize::from(offset);
    let pseudo = u16::from_be_bytes(headers.get(field..field + 2)?.try_into().ok()?);
    let identification = u16::from_be_bytes([headers[LINK_HEADER + 4], headers[LINK_HEADER + 5]]);
    let mut segments = Vec::new();
    let mut position = 0;
    while position < total || segments.is_empty() {
        let length = size.min(total - position);
        let (first, last) = (position == 0, position + length == total);
        let mut header: Header = packet.header.clone();
        let bytes = header.bytes_mut();
        if segmentation.version6 {
            let extensions = start - LINK_HEADER - address_length;
            put16(bytes, LINK_HEADER + 4, (extensions + transport + length) as u16);
        } else {
            put16(bytes, LINK_HEADER + 2, (start - LINK_HEADER + transport + length) as u16);
            put16(bytes, LINK_HEADER + 4, identification.wrapping_add(segments.len() as u16));
            put16(bytes, LINK_HEADER + 10, 0);
            let mut sum = Sum::default();
            sum.add(&bytes[LINK_HEADER..start]);
            put16(bytes, LINK_HEADER + 10, !sum.fold());
        }
        let value = sequence.wrapping_add(position as u32);
        bytes[start + 4..start + 8].copy_from_slice(&value.to_be_bytes());
        if !first {
            bytes[start + 13] &= !CWR;
        }
        if !last {
            bytes[start + 13] &= !FIN_PUSH;
        }
        let mut sum = Sum::default();
        sum.add(&pseudo.to_be_bytes());
        // The old length out (by its complement), the new one in.
        sum.add(&(!((transport + total) as u32)).to_be_bytes());
        sum.add(&((transport + length) as u32).to_be_bytes());
        put16(bytes, field, sum.fold());
        segments.push(Packet {
            header,
            payload: packet.payload.slice(position..position + length),
            checksum: packet.checksum,
            segmentation: None,
        });
        position += length;
    }
    Some(segments)
}

fn put16(bytes: &mut [u8], offset: usize, value: u16) {
    bytes[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
}
