//! Rings of bytes in memory that is shared with another domain: the console's and xenstore's. What the other side writes
//! is checked on every look.

use core::sync::atomic::{AtomicU8, AtomicU32, Ordering, fence};

/// One direction of a ring: its bytes and the two free-running indices.
#[derive(Clone, Copy)]
pub struct ByteRing<'a> {
    bytes: &'a [AtomicU8],
    consumer: &'a AtomicU32,
    producer: &'a AtomicU32,
}

/// The indices make no sense: the other side is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonsense;

impl<'a> ByteRing<'a> {
    /// A ring of `bytes`, a power of two of them.
    pub fn new(bytes: &'a [AtomicU8], consumer: &'a AtomicU32, producer: &'a AtomicU32) -> Self {
        assert!(bytes.len().is_power_of_two(), "a ring's size");
        ByteRing { bytes, consumer, producer }
    }

    /// How many bytes are in it.
    pub fn used(&self) -> Result<usize, Nonsense> {
        let consumer = self.consumer.load(Ordering::Acquire);
        let used = self.producer.load(Ordering::Acquire).wrapping_sub(consumer) as usize;
        if used <= self.bytes.len() { Ok(used) } else { Err(Nonsense) }
    }

    fn at(&self, index: u32) -> &AtomicU8 {
        &self.bytes[index as usize & (self.bytes.len() - 1)]
    }

    /// Puts in as many bytes as there is room for; returns how many. For the producer alone.
    pub fn send(&self, data: &[u8]) -> Result<usize, Nonsense> {
        let count = data.len().min(self.bytes.len() - self.used()?);
        let mut index = self.producer.load(Ordering::Relaxed);
        for byte in &data[..count] {
            self.at(index).store(*byte, Ordering::Relaxed);
            index = index.wrapping_add(1);
        }
        self.producer.store(index, Ordering::Release);
        // The other side sees the index before this one looks whether it sleeps.
        fence(Ordering::SeqCst);
        Ok(count)
    }

    /// Takes out as many bytes as there are and fit; returns how many. For the consumer alone.
    pub fn receive(&self, data: &mut [u8]) -> Result<usize, Nonsense> {
        let count = data.len().min(self.used()?);
        let mut index = self.consumer.load(Ordering::Relaxed);
        for byte in &mut data[..count] {
            *byte = self.at(index).load(Ordering::Relaxed);
            index = index.wrapping_add(1);
        }
        self.consumer.store(index, Ordering::Release);
        fence(Ordering::SeqCst);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(size: usize, start: u32) -> (Vec<AtomicU8>, AtomicU32, AtomicU32) {
        ((0..size).map(|_| AtomicU8::new(0)).collect(), AtomicU32::new(start), AtomicU32::new(start))
    }

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let (bytes, consumer, producer) = ring(16, u32::MAX - 5);
        let ring = ByteRing::new(&bytes, &consumer, &producer);
        let mut out = [0; 32];
        assert_eq!(ring.send(b"0123456789"), Ok(10));
        assert_eq!(ring.receive(&mut out[..4]), Ok(4));
        assert_eq!(ring.send(b"abcdefghijklm"), Ok(10));
        assert_eq!((ring.used(), ring.send(b"x")), (Ok(16), Ok(0)));
        assert_eq!(ring.receive(&mut out[4..]), Ok(16));
        assert_eq!(&out[..20], b"0123456789abcdefghij");
        assert_eq!(ring.receive(&mut out), Ok(0));
    }

    #[test]
    fn foreign_indices_are_checked() {
        let (bytes, consumer, producer) = ring(16, 0);
        let ring = ByteRing::new(&bytes, &consumer, &producer);
        for index in [17, 1 << 31, u32::MAX] {
            producer.store(index, Ordering::Relaxed);
            assert_eq!((ring.used(), ring.receive(&mut [0; 64])), (Err(Nonsense), Err(Nonsense)));
            assert_eq!(ring.send(b"x"), Err(Nonsense));
        }
    }
}
