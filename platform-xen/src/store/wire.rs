//! Xenstore's messages (Xen, public/io/xs_wire.h and docs/misc/xenstore.txt).

use alloc::{string::String, vec::Vec};

/// Bytes of a message's head.
pub const HEAD: usize = 16;
/// The longest payload.
pub const PAYLOAD: usize = 4096;

/// What a message asks for, or brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// The names below a node.
    Directory = 1,
    /// A node's value.
    Read = 2,
    /// Tells of changes at and below a node.
    Watch = 4,
    /// Ends a watch.
    Unwatch = 5,
    /// Begins a transaction.
    TransactionStart = 6,
    /// Ends a transaction.
    TransactionEnd = 7,
    /// Sets a node's value.
    Write = 11,
    /// Removes a node and all below it.
    Remove = 13,
}

/// The kind of a message that tells of a change.
pub const WATCH_EVENT: u32 = 15;
/// The kind of an answer that tells of an error.
pub const ERROR: u32 = 16;

/// A message that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its kind.
    pub kind: u32,
    /// The request that it answers.
    pub request: u32,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// A message to send.
pub fn encode(kind: Kind, request: u32, transaction: u32, payload: &[u8]) -> Vec<u8> {
    let head = [kind as u32, request, transaction, payload.len() as u32];
    head.iter().flat_map(|word| word.to_le_bytes()).chain(payload.iter().copied()).collect()
}

/// The other side doesn't keep to the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation;

/// How many more bytes the message needs that begins with `bytes`; 0 if it is whole.
pub fn missing(bytes: &[u8]) -> Result<usize, Violation> {
    let Some(length) = bytes.get(12..HEAD).and_then(|word| word.try_into().ok()) else {
        return Ok(HEAD - bytes.len());
    };
    let length = u32::from_le_bytes(length) as usize;
    if length > PAYLOAD { Err(Violation) } else { Ok((HEAD + length).saturating_sub(bytes.len())) }
}

/// Reads a whole message.
pub fn decode(bytes: &[u8]) -> Option<Message> {
    let word = |index: usize| {
        let bytes = bytes.get(4 * index..4 * index + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    Some(Message { kind: word(0)?, request: word(1)?, payload: bytes.get(HEAD..)?.into() })
}

/// The strings of a payload, each of which ends with a zero byte (the last one may lack it).
pub fn strings(payload: &[u8]) -> Vec<String> {
    let payload = payload.strip_suffix(&[0]).unwrap_or(payload);
    if payload.is_empty() {
        return Vec::new();
    }
    payload.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back() {
        let bytes = encode(Kind::Read, 7, 9, b"path\0");
        assert_eq!((missing(&bytes[..3]), missing(&bytes[..16]), missing(&bytes)), (Ok(13), Ok(5), Ok(0)));
        let message = decode(&bytes).expect("a message");
        assert_eq!((message.kind, message.request, message.payload.as_slice()), (2, 7, &b"path\0"[..]));
        assert_eq!(strings(b"a\0bc\0"), ["a", "bc"]);
        assert_eq!(strings(b"a\0\0"), ["a", ""]);
        assert!(strings(b"").is_empty() && strings(b"\0").is_empty());
    }

    #[test]
    fn lengths_are_checked() {
        let mut bytes = encode(Kind::Write, 0, 0, b"");
        bytes[12..16].copy_from_slice(&4097_u32.to_le_bytes());
        assert_eq!(missing(&bytes), Err(Violation));
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(missing(&bytes), Err(Violation));
        assert_eq!(decode(&bytes[..10]), None);
    }
}
