//! What system call proxies and their clients send each other: frames of a header and a body, in the byte order and the
//! types of x86-64, as librumpclient and librumpuser of NetBSD have them (protocol 0.4).

use alloc::vec::Vec;

use super::Malformed;

/// The protocol that the banner names.
pub const PROTOCOL: &str = "0.4";
/// Bytes of a header.
pub const HEADER: usize = 24;
/// Bytes of a banner, at most.
pub const BANNER: usize = 95;
/// Bytes that are copied from or to a client at a time, and that a frame's body can have.
pub const PIECE: usize = 64 << 10;
/// Words of a system call's arguments: the most that a call of NetBSD takes (`SYS_MAXSYSARGS`, padded), and room for
/// what calls of 64-bit arguments align.
pub const ARGUMENTS: usize = 16;
/// Bytes of a client's name, at most.
pub const NAME: usize = 128;
/// Words of 32 bits of the secret by which a forked client is known.
pub const SECRET: usize = 4;
/// Bytes of a forked client's greeting: the secret, and whether it gives up.
pub const FORK: usize = 4 * SECRET + 4;

/// What a frame is (`rsp_class`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Asks for something.
    Request = 0,
    /// Answers a request.
    Response = 1,
    /// Refuses a request.
    Error = 2,
}

/// What is asked (`rsp_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By the client: who it is.
    Handshake = 0,
    /// By the client: a system call.
    SystemCall = 1,
    /// By the server: bytes of the client's memory.
    CopyIn = 2,
    /// By the server: a string in the client's memory.
    CopyInString = 3,
    /// By the server: bytes for the client's memory. 5 would be a string; it goes as bytes.
    CopyOut = 4,
    /// By the server: new memory in the client.
    Map = 6,
    /// By the client: a process for one that it is about to fork.
    Prefork = 7,
    /// By the server: a signal.
    Raise = 8,
}

/// Kinds of handshakes (`rsp_handshake`).
pub mod handshake {
    /// A new client.
    pub const GUEST: u32 = 0;
    /// A client that was forked.
    pub const FORK: u32 = 2;
    /// A client that runs another program from now on.
    pub const EXECUTE: u32 = 3;
}

/// Why a request is refused (`rsp_error`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no room for it now.
    TryAgain = 1,
    /// The client has not said who it is.
    Unknown = 2,
    /// There is no process for this forked client.
    NoPrefork = 3,
    /// No process could be made.
    ForkFailed = 4,
    /// Another program is being started.
    InExecute = 5,
    /// It makes no sense.
    Malformed = 7,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the body.
    pub length: usize,
    /// The request's number, which its answer has, too.
    pub request: u64,
    /// The [`Class`], as a number.
    pub class: u16,
    /// The [`Kind`], as a number.
    pub kind: u16,
    /// A system call's number, a kind of handshake, an error or a signal.
    pub value: u32,
}

impl Header {
    /// Reads a header. Bodies have at most `limit` bytes.
    pub fn parse(bytes: &[u8; HEADER], limit: usize) -> Result<Self, Malformed> {
        let word = |at: usize| u64::from_le_bytes(core::array::from_fn(|index| bytes[at + index]));
        let (words, last) = (word(0), word(16));
        let length = usize::try_from(words).map_err(|_| Malformed)?.checked_sub(HEADER).ok_or(Malformed)?;
        if length > limit {
            return Err(Malformed);
        }
        let (class, kind, value) = (last as u16, (last >> 16) as u16, (last >> 32) as u32);
        Ok(Header { length, request: word(8), class, kind, value })
    }
}

/// A frame. The body's length is that of `parts` together.
pub fn frame(class: Class, kind: Kind, request: u64, value: u32, parts: &[&[u8]]) -> Vec<u8> {
    let length = HEADER + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend((length as u64).to_le_bytes());
    bytes.extend(request.to_le_bytes());
    bytes.extend((class as u16).to_le_bytes());
    bytes.extend((kind as u16).to_le_bytes());
    bytes.extend(value.to_le_bytes());
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes
}

/// The answer to a system call: an error number (0 for none) and the two values.
pub fn system_call_answer(request: u64, error: i32, values: [i64; 2]) -> Vec<u8> {
    let error = i64::from(error).to_le_bytes();
    let values = values.map(i64::to_le_bytes);
    frame(Class::Response, Kind::SystemCall, request, 0, &[&error, &values[0], &values[1]])
}

/// The answer to a handshake that succeeds.
pub fn welcome(request: u64) -> Vec<u8> {
    frame(Class::Response, Kind::Handshake, request, 0, &[&[0; 4]])
}

/// The refusal of a request.
pub fn refusal(request: u64, why: Refusal) -> Vec<u8> {
    frame(Class::Error, Kind::Handshake, request, why as u32, &[])
}

/// What a request to copy says: how much, and the address in the client.
pub fn copy_request(length: usize, address: usize) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(length as u64).to_le_bytes());
    bytes[8..].copy_from_slice(&(address as u64).to_le_bytes());
    bytes
}

/// The arguments of a system call, as many as were sent, and zeros.
pub fn arguments(body: &[u8]) -> Result<[u64; ARGUMENTS], Malformed> {
    if body.len() > ARGUMENTS * 8 {
        return Err(Malformed);
    }
    let mut words = [0; ARGUMENTS];
    for (word, bytes) in words.iter_mut().zip(body.chunks(8)) {
        *word = bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_back_and_lengths_are_checked() {
        let bytes = frame(Class::Request, Kind::SystemCall, 7, 20, &[b"abc", b"de"]);
        assert_eq!(bytes.len(), HEADER + 5);
        let mut header: [u8; HEADER] = bytes[..HEADER].try_into().expect("a header");
        let expected = Header { length: 5, request: 7, class: 0, kind: 1, value: 20 };
        assert_eq!(Header::parse(&header, 5), Ok(expected));
        assert_eq!(Header::parse(&header, 4), Err(Malformed));
        for length in [0, HEADER as u64 - 1, u64::MAX, 1 << 63] {
            header[..8].copy_from_slice(&length.to_le_bytes());
            assert_eq!(Header::parse(&header, 1 << 62), Err(Malformed), "{length}");
        }
    }

    #[test]
    fn arguments_that_are_missing_are_zero() {
        let words = arguments(&[1, 0, 0, 0, 0, 0, 0, 0, 2]).expect("arguments");
        assert_eq!((words[0], words[1], words[2]), (1, 2, 0));
        assert_eq!(arguments(&[0xff; ARGUMENTS * 8 + 1]), Err(Malformed));
        assert_eq!(arguments(&[]), Ok([0; ARGUMENTS]));
    }
}
