//! Netlink messages (netlink(7), RFC 3549): reading requests and building answers. Numbers are in the machine's byte
//! order.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rumpkern::{Errno, Result};

/// Bytes of `struct nlmsghdr`.
pub const HEADER: usize = 16;
/// An answer to a request was carried out, or not (NLMSG_ERROR).
pub const ERROR: u16 = 2;
/// The end of a dump (NLMSG_DONE).
pub const DONE: u16 = 3;
/// Flags of messages (`NLM_F_*`).
pub mod flag {
    #![allow(missing_docs, reason = "the names are Linux's")]
    pub const REQUEST: u16 = 1;
    pub const MULTI: u16 = 2;
    pub const ACK: u16 = 4;
    pub const DUMP: u16 = 0x300;
    pub const REPLACE: u16 = 0x100;
    pub const EXCL: u16 = 0x200;
    pub const CREATE: u16 = 0x400;
}

/// A message of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// What it is.
    pub kind: u16,
    /// [`flag`].
    pub flags: u16,
    /// The asker's number for it.
    pub sequence: u32,
    /// The sender.
    pub port: u32,
    /// What follows the header.
    pub payload: &'a [u8],
    /// All of it.
    pub whole: &'a [u8],
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

/// The messages of a request, up to the first that is malformed.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    core::iter::from_fn(move || {
        let length = word(bytes, 0)? as usize;
        if length < HEADER || length > bytes.len() {
            return None;
        }
        let message = Message {
            kind: half(bytes, 4)?,
            flags: half(bytes, 6)?,
            sequence: word(bytes, 8)?,
            port: word(bytes, 12)?,
            payload: &bytes[HEADER..length],
            whole: &bytes[..length],
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes behind a family's header: (type, value). Nesting and byte order flags are taken off.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    core::iter::from_fn(move || {
        let length = usize::from(half(bytes, 0)?);
        if length < 4 || length > bytes.len() {
            return None;
        }
        let attribute = (half(bytes, 2)? & 0x3fff, &bytes[4..length]);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(attribute)
    })
}

/// The value of an attribute.
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|&(other, _)| other == kind).map(|(_, value)| value)
}

/// A 32-bit attribute.
pub fn find_word(bytes: &[u8], kind: u16) -> Option<u32> {
    word(find(bytes, kind)?, 0)
}

/// An address attribute, of either version by its length.
pub fn find_address(bytes: &[u8], kind: u16) -> Result<Option<IpAddr>> {
    match find(bytes, kind) {
        None => Ok(None),
        Some(value) => match (<[u8; 4]>::try_from(value), <[u8; 16]>::try_from(value)) {
            (Ok(four), _) => Ok(Some(Ipv4Addr::from(four).into())),
            (_, Ok(six)) => Ok(Some(Ipv6Addr::from(six).into())),
            _ => Err(Errno::EINVAL),
        },
    }
}

/// A name attribute.
pub fn find_name(bytes: &[u8], kind: u16) -> Option<&str> {
    let value = find(bytes, kind)?;
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    core::str::from_utf8(&value[..end]).ok()
}

/// Messages that are being built, one after the other.
#[derive(Default)]
pub struct Builder {
    bytes: Vec<u8>,
    start: usize,
}

impl Builder {
    /// Begins a message, with the family's header.
    pub fn begin(&mut self, kind: u16, flags: u16, (port, sequence): (u32, u32), family_header: &[u8]) {
        self.start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&port.to_ne_bytes());
        self.bytes.extend_from_slice(family_header);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// Adds a number.
    pub fn word(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Adds a name with its NUL.
    pub fn name(&mut self, kind: u16, name: &str) {
        let mut value = name.as_bytes().to_vec();
        value.push(0);
        self.attribute(kind, &value);
    }

    /// Adds an address.
    pub fn address(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(four) => self.attribute(kind, &four.octets()),
            IpAddr::V6(six) => self.attribute(kind, &six.octets()),
        }
    }

    /// Begins an attribute that holds others; [`Builder::end_nested`] gets what this returns.
    pub fn begin_nested(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.attribute(kind, &[]);
        start
    }

    /// Ends a nested attribute.
    pub fn end_nested(&mut self, start: usize) {
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Ends the message.
    pub fn end(&mut self) {
        let length = (self.bytes.len() - self.start) as u32;
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Adds the answer to a message that got none yet: the error, or that it was carried out.
    pub fn acknowledge(&mut self, message: &Message<'_>, result: Result<()>, header_only: bool) {
        let code = result.err().map_or(0, |error| -error.code());
        let quoted = if code == 0 || header_only { &message.whole[..HEADER] } else { message.whole };
        let mut payload = code.to_ne_bytes().to_vec();
        payload.extend_from_slice(quoted);
        let capped = if header_only || code == 0 { 0x100 } else { 0 };
        self.begin(ERROR, capped, (message.port, message.sequence), &payload);
        self.end();
    }

    /// Adds the end of a dump.
    pub fn done(&mut self, id: (u32, u32)) {
        self.begin(DONE, flag::MULTI, id, &0i32.to_ne_bytes());
        self.end();
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The messages.
    pub fn take(&mut self) -> Vec<u8> {
        self.start = 0;
        core::mem::take(&mut self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn what_is_built_is_read_again() {
        let mut builder = Builder::default();
        builder.begin(16, flag::MULTI, (7, 9), &[1, 2, 3, 4]);
        builder.name(3, "eth0");
        builder.address(1, "10.0.0.1".parse().unwrap());
        let nested = builder.begin_nested(8);
        builder.word(2, 1500);
        builder.end_nested(nested);
        builder.end();
        builder.done((7, 9));
        let bytes = builder.take();
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].kind, all[0].port, all[0].sequence), (16, 7, 9));
        let attributes = &all[0].payload[4..];
        assert_eq!(find_name(attributes, 3), Some("eth0"));
        assert_eq!(find_address(attributes, 1), Ok(Some("10.0.0.1".parse().unwrap())));
        assert_eq!(find_word(find(attributes, 8).unwrap(), 2), Some(1500));
        assert_eq!(all[1].kind, DONE);
    }

    #[test]
    fn malformed_messages_end_the_reading() {
        for bytes in [&[][..], &[1, 2, 3], &[16, 0, 0, 0], &[15; 16], &[255; 20], &[0; 64]] {
            assert_eq!(messages(bytes).count(), 0);
            assert!(attributes(bytes).count() < 20);
        }
        // A length that is right, and one that leads behind the end.
        let mut two = Vec::from([20, 0, 0, 0, 18, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]);
        two.extend([200, 0, 0, 0, 18, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(messages(&two).count(), 1);
        assert_eq!(find_address(&[7, 0, 1, 0, 1, 2, 3, 0], 1), Err(Errno::EINVAL));
    }

    #[test]
    fn an_answer_quotes_what_failed() {
        let request = [20, 0, 0, 0, 99, 0, 5, 0, 4, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3, 4];
        let message = messages(&request).next().unwrap();
        let mut builder = Builder::default();
        builder.acknowledge(&message, Err(Errno::EOPNOTSUPP), false);
        builder.acknowledge(&message, Ok(()), false);
        let bytes = builder.take();
        let answers: Vec<_> = messages(&bytes).collect();
        assert_eq!(answers[0].payload[..4], (-95i32).to_ne_bytes());
        assert_eq!(answers[0].payload[4..], request);
        assert_eq!(answers[1].payload[..4], [0; 4]);
        assert_eq!(answers[1].payload.len(), 4 + HEADER);
    }
}
