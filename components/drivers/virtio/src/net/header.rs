//! The header in front of every packet (virtio 1.2, section 5.1.6).

use rumpnet::packet::{Checksum, Packet};

/// Bytes of the header with the count of buffers, and of the legacy one without.
pub const LENGTH: usize = 12;
/// See [`LENGTH`].
pub const LEGACY_LENGTH: usize = 10;

/// Flags.
const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;
/// Kinds of segmentation.
const TCP4: u8 = 1;
const TCP6: u8 = 4;
const ECN: u8 = 0x80;

/// The header of a packet to send. The buffers' count is for receiving, so it is 0.
pub fn of(packet: &Packet) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let mut put = |offset: usize, value: u16| bytes[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
    if let Checksum::Partial { start, offset } = packet.checksum {
        put(6, start);
        put(8, offset);
    }
    if let Some(segmentation) = packet.segmentation {
        put(2, packet.header.bytes().len() as u16);
        put(4, segmentation.size);
        bytes[1] = if segmentation.version6 { TCP6 } else { TCP4 } | if segmentation.ecn { ECN } else { 0 };
    }
    bytes[0] = if matches!(packet.checksum, Checksum::Partial { .. }) { NEEDS_CHECKSUM } else { 0 };
    bytes
}

/// What the header of a received packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parsed {
    /// Of the checksum; the offsets are not checked.
    pub checksum: Checksum,
    /// The payload of each of the segments that were joined; 0 if none were.
    pub segment_size: u16,
    /// In how many buffers the packet is; only if they can be merged.
    pub buffers: u16,
}

/// Reads the header of a received packet; what is missing of it counts as zeros.
pub fn parse(bytes: &[u8]) -> Parsed {
    let byte = |offset: usize| bytes.get(offset).copied().unwrap_or(0);
    let word = |offset: usize| u16::from_le_bytes([byte(offset), byte(offset + 1)]);
    let checksum = match byte(0) {
        flags if flags & NEEDS_CHECKSUM != 0 => Checksum::Partial { start: word(6), offset: word(8) },
        flags if flags & DATA_VALID != 0 => Checksum::Verified,
        _ => Checksum::Unknown,
    };
    let segment_size = if matches!(byte(1) & !ECN, TCP4 | TCP6) { word(4) } else { 0 };
    Parsed { checksum, segment_size, buffers: word(10) }
}
