//! TCP segments on the wire: RFC 9293, section 3.1; options of RFC 7323 (window scale, timestamps) and RFC 2018 (SACK).

use super::sequence::Sequence;
use crate::packet::Header;

bitflags::bitflags! {
    /// Control bits, as they are in the header.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Flags: u8 {
        /// No more data.
        const FIN = 0x01;
        /// Synchronises sequence numbers.
        const SYN = 0x02;
        /// Resets the connection.
        const RST = 0x04;
        /// Push.
        const PSH = 0x08;
        /// The acknowledgement field counts.
        const ACK = 0x10;
        /// The urgent pointer counts.
        const URG = 0x20;
        /// Congestion was experienced (RFC 3168).
        const ECE = 0x40;
        /// The congestion window was reduced.
        const CWR = 0x80;
    }
}

/// A range of sequence numbers, the end not included.
pub type Range = (Sequence, Sequence);

/// Up to four ranges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ranges {
    ranges: [Range; 4],
    count: u8,
}

impl Ranges {
    /// Adds a range if there is room.
    pub fn push(&mut self, range: Range) {
        if let Some(slot) = self.ranges.get_mut(usize::from(self.count)) {
            *slot = range;
            self.count += 1;
        }
    }

    /// The ranges.
    pub fn as_slice(&self) -> &[Range] {
        &self.ranges[..usize::from(self.count)]
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// Timestamps: value and echo reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timestamps {
    /// TSval.
    pub value: u32,
    /// TSecr.
    pub echo: u32,
}

/// The options that are understood.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
    /// Maximum segment size; in SYNs.
    pub maximum_segment: Option<u16>,
    /// Window scale; in SYNs.
    pub window_scale: Option<u8>,
    /// SACK permitted; in SYNs.
    pub sack_permitted: bool,
    /// SACK blocks.
    pub sack: Ranges,
}

/// A segment without its payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Segment {
    /// Sequence number.
    pub sequence: Sequence,
    /// Acknowledgement number.
    pub acknowledgement: Sequence,
    /// Control bits.
    pub flags: Flags,
    /// The window field, as it is on the wire.
    pub window: u16,
    /// The urgent pointer.
    pub urgent: u16,
    /// Options.
    pub options: Options,
    /// Received: marked Congestion Experienced by a router. Sent: to be marked ECN-capable.
    pub congestion: bool,
}

/// Bytes of a header without options.
pub const HEADER_LENGTH: usize = 20;
/// Bytes of timestamps with their padding.
pub const TIMESTAMPS_LENGTH: usize = 12;

const OPTION_END: u8 = 0;
const OPTION_NONE: u8 = 1;
const OPTION_MAXIMUM_SEGMENT: u8 = 2;
const OPTION_WINDOW_SCALE: u8 = 3;
const OPTION_SACK_PERMITTED: u8 = 4;
const OPTION_SACK: u8 = 5;
const OPTION_TIMESTAMPS: u8 = 8;
/// Two padding bytes, then kind and length of timestamps: how nearly everybody sends them.
const PADDED_TIMESTAMPS: [u8; 4] = [OPTION_NONE, OPTION_NONE, OPTION_TIMESTAMPS, 10];

fn word(bytes: &[u8], offset: usize) -> u32 {
    match bytes.get(offset..offset + 4) {
        Some(&[a, b, c, d]) => u32::from_be_bytes([a, b, c, d]),
        _ => 0,
    }
}

fn half(bytes: &[u8], offset: usize) -> u16 {
    match bytes.get(offset..offset + 2) {
        Some(&[a, b]) => u16::from_be_bytes([a, b]),
        _ => 0,
    }
}

/// The header's length by its data offset field, if that makes sense.
pub fn header_length(bytes: &[u8]) -> Option<usize> {
    let length = usize::from(bytes.get(12)? >> 4) * 4;
    (HEADER_LENGTH..=60).contains(&length).then_some(length)
}

/// (Source port, destination port).
pub fn ports(bytes: &[u8]) -> (u16, u16) {
    (half(bytes, 0), half(bytes, 2))
}

impl Segment {
    /// Reads a header; `bytes` must contain it whole. None if it makes no sense.
    pub fn parse(bytes: &[u8]) -> Option<Segment> {
        let length = header_length(bytes)?;
        let bytes = bytes.get(..length)?;
        let mut segment = Segment {
            sequence: Sequence(word(bytes, 4)),
            acknowledgement: Sequence(word(bytes, 8)),
            flags: Flags::from_bits_retain(bytes[13]),
            window: half(bytes, 14),
            urgent: half(bytes, 18),
            ..Segment::default()
        };
        let options = &bytes[HEADER_LENGTH..];
        if options.len() == TIMESTAMPS_LENGTH && options[..4] == PADDED_TIMESTAMPS {
            segment.options.timestamps = Some(Timestamps { value: word(options, 4), echo: word(options, 8) });
        } else if !options.is_empty() {
            segment.options = Options::parse(options);
        }
        Some(segment)
    }

    /// Bytes of the header.
    pub fn length(&self) -> usize {
        HEADER_LENGTH + self.options.length()
    }

    /// Writes the header in front of what is there, its checksum field zero.
    pub fn write(&self, source: u16, destination: u16, header: &mut Header) {
        let length = self.length();
        let bytes = header.prepend(length);
        bytes[0..2].copy_from_slice(&source.to_be_bytes());
        bytes[2..4].copy_from_slice(&destination.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.sequence.0.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.acknowledgement.0.to_be_bytes());
        bytes[12] = (length as u8 / 4) << 4;
        bytes[13] = self.flags.bits();
        bytes[14..16].copy_from_slice(&self.window.to_be_bytes());
        bytes[16..18].fill(0);
        bytes[18..20].copy_from_slice(&self.urgent.to_be_bytes());
        if length > HEADER_LENGTH {
            self.options.write(&mut bytes[HEADER_LENGTH..]);
        }
    }
}

impl Options {
    #[cold]
    fn parse(mut bytes: &[u8]) -> Options {
        let mut options = Options::default();
        while let Some(&kind) = bytes.first() {
            match kind {
                OPTION_END => break,
                OPTION_NONE => {
                    bytes = &bytes[1..];
                    continue;
                }
                _ => {}
            }
            let length = bytes.get(1).map_or(0, |&length| usize::from(length));
            if length < 2 {
                break;
            }
            let Some(value) = bytes.get(2..length) else { break };
            match (kind, value.len()) {
                (OPTION_MAXIMUM_SEGMENT, 2) => options.maximum_segment = Some(half(value, 0)),
                (OPTION_WINDOW_SCALE, 1) => options.window_scale = Some(value[0].min(14)),
                (OPTION_SACK_PERMITTED, 0) => options.sack_permitted = true,
                (OPTION_TIMESTAMPS, 8) => {
                    options.timestamps = Some(Timestamps { value: word(value, 0), echo: word(value, 4) });
                }
                (OPTION_SACK, _) => {
                    for block in value.chunks_exact(8) {
                        options.sack.push((Sequence(word(block, 0)), Sequence(word(block, 4))));
                    }
                }
                _ => {}
            }
            bytes = &bytes[length..];
        }
        options
    }

    /// Bytes they take.
    pub fn length(&self) -> usize {
        let mut length = 0;
        if self.maximum_segment.is_some() {
            length += 4;
        }
        if self.window_scale.is_some() {
            length += 4;
        }
        if self.timestamps.is_some() {
            length += TIMESTAMPS_LENGTH;
        } else if self.sack_permitted {
            length += 4;
        }
        if !self.sack.is_empty() {
            length += 4 + 8 * self.sack.as_slice().len();
        }
        length
    }

    fn write(&self, bytes: &mut [u8]) {
        let mut at = 0;
        let mut put = |piece: &[u8]| {
            bytes[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        };
        if let Some(size) = self.maximum_segment {
            put(&[OPTION_MAXIMUM_SEGMENT, 4]);
            put(&size.to_be_bytes());
        }
        if let Some(timestamps) = self.timestamps {
            if self.sack_permitted {
                put(&[OPTION_SACK_PERMITTED, 2, OPTION_TIMESTAMPS, 10]);
            } else {
                put(&PADDED_TIMESTAMPS);
            }
            put(&timestamps.value.to_be_bytes());
            put(&timestamps.echo.to_be_bytes());
        } else if self.sack_permitted {
            put(&[OPTION_NONE, OPTION_NONE, OPTION_SACK_PERMITTED, 2]);
        }
        if let Some(scale) = self.window_scale {
            put(&[OPTION_NONE, OPTION_WINDOW_SCALE, 3, scale]);
        }
        if !self.sack.is_empty() {
            let ranges = self.sack.as_slice();
            put(&[OPTION_NONE, OPTION_NONE, OPTION_SACK, 2 + 8 * ranges.len() as u8]);
            for (start, end) in ranges {
                put(&start.0.to_be_bytes());
                put(&end.0.to_be_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(segment: &Segment) {
        let mut header = Header::default();
        segment.write(80, 4000, &mut header);
        let bytes = header.bytes();
        assert_eq!((bytes.len(), bytes.len() % 4), (segment.length(), 0));
        assert_eq!(ports(bytes), (80, 4000));
        assert_eq!(Segment::parse(bytes).as_ref(), Some(segment));
    }

    #[test]
    fn what_is_written_is_read() {
        let mut segment = Segment {
            sequence: Sequence(0x0102_0304),
            acknowledgement: Sequence(0xfffe_fdfc),
            flags: Flags::ACK | Flags::PSH,
            window: 500,
            urgent: 3,
            ..Segment::default()
        };
        round_trip(&segment);
        segment.options.timestamps = Some(Timestamps { value: 7, echo: 9 });
        round_trip(&segment);
        segment.options.sack.push((Sequence(1), Sequence(5)));
        segment.options.sack.push((Sequence(9), Sequence(12)));
        segment.options.sack.push((Sequence(20), Sequence(22)));
        round_trip(&segment);
        segment.options = Options {
            maximum_segment: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            ..Options::default()
        };
        round_trip(&segment);
        segment.options.timestamps = Some(Timestamps { value: 1, echo: 0 });
        round_trip(&segment);
        assert!(segment.length() <= 60);
    }

    #[test]
    fn nonsense_is_not_followed() {
        assert_eq!(Segment::parse(&[0; 19]), None);
        assert_eq!(Segment::parse(&[0; 20]), None, "the header is shorter than a header");
        let mut bytes = [0; 60];
        bytes[12] = 0xf0;
        assert_eq!(Segment::parse(&bytes[..59]), None);
        // An option of no length, one that is cut, and a window scale that is too large.
        for tail in [&[8, 0][..], &[2, 40], &[5, 10, 1], &[8]] {
            bytes[20..].fill(1);
            bytes[60 - tail.len()..].copy_from_slice(tail);
            assert_eq!(Segment::parse(&bytes).unwrap().options, Options::default());
        }
        bytes[20..23].copy_from_slice(&[3, 3, 200]);
        assert_eq!(Segment::parse(&bytes).unwrap().options.window_scale, Some(14));
    }
}
