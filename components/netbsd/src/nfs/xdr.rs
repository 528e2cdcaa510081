//! External data representation (RFC 4506), as far as RPC, the port mapper and mount protocols use it: words, and bytes
//! with their length, padded to words.

use alloc::vec::Vec;

/// Bytes of a word.
const WORD: usize = 4;

/// A message that is read; every part is `None` once there is too little left.
#[derive(Clone)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from the start.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// What wasn't read.
    #[cfg(test)]
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// An unsigned integer.
    pub fn word(&mut self) -> Option<u32> {
        self.take(WORD)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// Bytes of variable length, at most `limit`.
    pub fn bytes(&mut self, limit: usize) -> Option<&'a [u8]> {
        let length = usize::try_from(self.word()?).ok().filter(|&length| length <= limit)?;
        self.take(length.next_multiple_of(WORD))?.get(..length)
    }
}

/// A message that is written.
#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// Appends unsigned integers.
    pub fn words(&mut self, words: &[u32]) -> &mut Self {
        words.iter().for_each(|word| self.0.extend(word.to_be_bytes()));
        self
    }

    /// Appends bytes of variable length.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.words(&[bytes.len() as u32]);
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(WORD), 0);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read_and_not_more() {
        let mut writer = Writer::default();
        writer.words(&[1, u32::MAX]).bytes(b"abcde").bytes(b"");
        assert_eq!(writer.0.len(), 8 + 4 + 8 + 4);
        let mut reader = Reader::new(&writer.0);
        assert_eq!((reader.word(), reader.word()), (Some(1), Some(u32::MAX)));
        assert_eq!(reader.clone().bytes(4), None);
        assert_eq!(
            (reader.bytes(5), reader.bytes(5), reader.word()),
            (Some(&b"abcde"[..]), Some(&b""[..]), None)
        );
        // Cut in the padding.
        assert_eq!(Reader::new(&writer.0[8..19]).bytes(5), None);
        assert_eq!(Reader::new(&[0xff; 8]).bytes(usize::MAX), None);
    }
}
