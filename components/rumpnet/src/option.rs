//! Values of socket options, as programs read and write them (getsockopt(2), setsockopt(2)).

use rumpkern::{Errno, Result};
use smallvec::SmallVec;

/// Levels of options, with Linux's numbers.
pub mod level {
    #![allow(missing_docs, reason = "the names are Linux's")]
    pub const IP: i32 = 0;
    pub const SOCKET: i32 = 1;
    pub const TCP: i32 = 6;
    pub const UDP: i32 = 17;
    pub const IPV6: i32 = 41;
    pub const ICMPV6: i32 = 58;
    pub const RAW: i32 = 255;
    pub const PACKET: i32 = 263;
    pub const NETLINK: i32 = 270;
}

/// The value of an option that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value(SmallVec<[u8; 16]>);

impl Value {
    /// An `int`.
    pub fn int(value: i32) -> Self {
        Value(SmallVec::from_slice(&value.to_ne_bytes()))
    }

    /// A switch.
    pub fn switch(on: bool) -> Self {
        Value::int(i32::from(on))
    }

    /// A size, as an `int` that may be too small for it.
    pub fn size(value: usize) -> Self {
        Value::int(i32::try_from(value).unwrap_or(i32::MAX))
    }

    /// A structure or a string.
    pub fn bytes(bytes: &[u8]) -> Self {
        Value(SmallVec::from_slice(bytes))
    }

    /// Several 32-bit words.
    pub fn words(words: &[u32]) -> Self {
        Value(words.iter().flat_map(|word| word.to_ne_bytes()).collect())
    }

    /// A `struct timeval` of so many nanoseconds.
    pub fn time(nanoseconds: u64) -> Self {
        let mut bytes = SmallVec::new();
        bytes.extend_from_slice(&(nanoseconds / 1_000_000_000).to_ne_bytes());
        bytes.extend_from_slice(&(nanoseconds % 1_000_000_000 / 1000).to_ne_bytes());
        Value(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A value's `int`. EINVAL if it is too short.
pub fn int(value: &[u8]) -> Result<i32> {
    word(value, 0).map(|word| word as i32).ok_or(Errno::EINVAL)
}

/// A value's `int`, which options of IP also take as a single byte.
pub fn int_or_byte(value: &[u8]) -> Result<i32> {
    match value {
        [_, _, _, _, ..] => int(value),
        [byte, ..] => Ok(i32::from(*byte)),
        [] => Err(Errno::EINVAL),
    }
}

/// A 32-bit word of a structure.
pub fn word(value: &[u8], offset: usize) -> Option<u32> {
    value.get(offset..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// A value's `struct timeval`, in nanoseconds. A negative time is none at all, 1 ns. EDOM, EINVAL.
pub fn time(value: &[u8]) -> Result<u64> {
    let (seconds, rest) = value.split_first_chunk().ok_or(Errno::EINVAL)?;
    let microseconds = rest.first_chunk().ok_or(Errno::EINVAL)?;
    let (seconds, microseconds) = (i64::from_ne_bytes(*seconds), i64::from_ne_bytes(*microseconds));
    if !(0..1_000_000).contains(&microseconds) {
        return Err(Errno::EDOM);
    }
    let Ok(seconds) = u64::try_from(seconds) else { return Ok(1) };
    Ok(seconds.saturating_mul(1_000_000_000).saturating_add(microseconds as u64 * 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_went() {
        assert_eq!(int(Value::int(-5).as_bytes()), Ok(-5));
        assert_eq!(int(&[1, 2, 3]), Err(Errno::EINVAL));
        assert_eq!(int_or_byte(&[200]), Ok(200));
        assert_eq!(time(Value::time(3_000_007_000).as_bytes()), Ok(3_000_007_000));
        assert_eq!(time(&[0; 12]), Err(Errno::EINVAL));
        assert_eq!(time(&[0xff; 16]), Err(Errno::EDOM));
        assert_eq!(word(&[0, 1, 0, 0, 0], 1), Some(1));
        assert_eq!(word(&[0; 5], 2), None);
    }
}
