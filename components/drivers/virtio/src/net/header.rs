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

/// Reads the header of a received packet, all or nothing of it.
pub fn parse(bytes: &[u8]) -> Parsed {
    let Some(&[flags, kind, _, _, s0, s1, c0, c1, o0, o1]) = bytes.first_chunk::<LEGACY_LENGTH>() else {
        return Parsed { checksum: Checksum::Unknown, segment_size: 0, buffers: 0 };
    };
    let checksum = if flags & NEEDS_CHECKSUM != 0 {
        Checksum::Partial { start: u16::from_le_bytes([c0, c1]), offset: u16::from_le_bytes([o0, o1]) }
    } else if flags & DATA_VALID != 0 {
        Checksum::Verified
    } else {
        Checksum::Unknown
    };
    let segment_size = if matches!(kind & !ECN, TCP4 | TCP6) { u16::from_le_bytes([s0, s1]) } else { 0 };
    let buffers = bytes[LEGACY_LENGTH..].first_chunk().map_or(0, |buffers| u16::from_le_bytes(*buffers));
    Parsed { checksum, segment_size, buffers }
}
