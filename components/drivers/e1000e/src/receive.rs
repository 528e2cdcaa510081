//! The receive ring: extended descriptors (datasheet, section 7.1.5), a page each. Small packets are copied into a page
//! that several share; large ones take their pages along.

use alloc::vec::Vec;
use core::{
    mem::ManuallyDrop,
    sync::atomic::{Ordering, fence},
};

use rumpnet::packet::{Checksum, Fragment, Received};
use rumpuser::{
    Frame, OutOfMemory, device::DmaMemory, memory::PAGE_SIZE, rumpuser_frame_alloc_uninitialised,
    rumpuser_frame_release,
};

/// Descriptors.
pub const SIZE: usize = 256;
/// Descriptors that the driver keeps: the tail must not reach the head.
const GAP: usize = 1;
/// The largest packet that is copied, in bytes.
const COPIED: usize = 256;
const LEAST: usize = 14;
/// The largest frame is less than this many pages.
const MOST_BUFFERS: usize = 4;

/// Status and errors of a descriptor that was written back.
mod status {
    pub const DONE: u32 = 1;
    pub const END: u32 = 1 << 1;
    pub const IGNORE_CHECKSUM: u32 = 1 << 2;
    pub const CHECKED: u32 = 1 << 4 | 1 << 5;
    /// CRC, symbol, sequence, carrier extension, data.
    pub const BROKEN: u32 = 1 << 24 | 1 << 25 | 1 << 26 | 1 << 28 | 1 << 31;
    pub const WRONG_CHECKSUM: u32 = 1 << 29 | 1 << 30;
}

/// A ring and what the driver knows of it.
pub struct Receive {
    memory: DmaMemory,
    pages: Vec<Frame>,
    /// The next descriptor to look at, and the one behind the last that the device may use.
    next: usize,
    tail: usize,
    copies: Option<Fragment>,
    /// Packets that came broken, and those for which there was no memory.
    pub errors: u64,
    /// See `errors`.
    pub missed: u64,
}

impl Receive {
    /// With a page for each descriptor.
    pub fn new() -> Result<Receive, OutOfMemory> {
        let memory = DmaMemory::new(SIZE * 16)?;
        let mut receive = Receive {
            memory,
            pages: Vec::with_capacity(SIZE),
            next: 0,
            tail: 0,
            copies: None,
            errors: 0,
            missed: 0,
        };
        for index in 0..SIZE {
            receive.pages.push(rumpuser_frame_alloc_uninitialised()?);
            receive.reset(index);
        }
        receive.tail = SIZE - GAP;
        Ok(receive)
    }

    /// Where the device finds the ring.
    pub fn physical(&self) -> u64 {
        self.memory.physical()
    }

    /// The descriptor that the tail register is to name.
    pub fn tail(&self) -> u32 {
        self.tail as u32
    }

    /// Makes a descriptor ready to be used.
    fn reset(&self, index: usize) {
        let words = self.memory.words();
        words[2 * index].store(self.pages[index].physical(), Ordering::Relaxed);
        words[2 * index + 1].store(0, Ordering::Relaxed);
    }

    /// The status of a descriptor and the bytes in its page.
    fn status(&self, index: usize) -> (u32, usize) {
        let word = self.memory.words()[2 * index + 1].load(Ordering::Acquire);
        (word as u32, ((word >> 32) as usize & 0xffff).min(PAGE_SIZE))
    }

    /// Whether a packet waits.
    pub fn waits(&self) -> bool {
        self.status(self.next).0 & status::DONE != 0
    }

    /// Gives the next descriptor back to the device, at the next [`Receive::tail`].
    fn advance(&mut self) {
        self.reset(self.next);
        self.next = (self.next + 1) % SIZE;
        self.tail = (self.tail + 1) % SIZE;
    }

    /// Takes the next packet.
    pub fn next(&mut self) -> Option<Received> {
        // More than the whole ring is not looked at at a time.
        for _ in 0..SIZE {
            let mut count = 0;
            let last = loop {
                let (status, _) = self.status((self.next + count) % SIZE);
                if status & status::DONE == 0 {
                    return None;
                }
                count += 1;
                if status & status::END != 0 || count > MOST_BUFFERS {
                    break status;
                }
            };
            let broken = count > MOST_BUFFERS || last & status::BROKEN != 0;
            match self.one(count, last, broken) {
                Some(packet) => return Some(packet),
                None if broken => self.errors += 1,
                None => self.missed += 1,
            }
        }
        None
    }

    /// Takes a packet of `count` descriptors; nothing without memory, or if it is broken.
    fn one(&mut self, count: usize, last: u32, broken: bool) -> Option<Received> {
        let mut packet = Received::default();
        let mut complete = !broken;
        for _ in 0..count {
            let (_, length) = self.status(self.next);
            if complete {
                match self.take(count, length) {
                    Some(fragment) => packet.data.push(fragment),
                    None => complete = false,
                }
            }
            self.advance();
        }
        if !complete || packet.data.len() < LEAST {
            return None;
        }
        let checked = last & status::IGNORE_CHECKSUM == 0
            && last & status::CHECKED != 0
            && last & status::WRONG_CHECKSUM == 0;
        packet.checksum = if checked { Checksum::Verified } else { Checksum::Unknown };
        Some(packet)
    }

    /// The bytes of the next descriptor: a copy, or its page, for which there is another one then.
    fn take(&mut self, count: usize, length: usize) -> Option<Fragment> {
        let page = self.pages[self.next];
        if count == 1 && length <= COPIED {
            let view = ManuallyDrop::new(Fragment::from_frame(page, 0..length));
            if self.copies.as_ref().is_none_or(|copies| copies.room() < length) {
                self.copies = Some(Fragment::new(0).ok()?);
            }
            let copies = self.copies.as_mut()?;
            copies.advance(copies.len());
            copies.append(view.bytes());
            return Some(copies.clone());
        }
        let new = rumpuser_frame_alloc_uninitialised().ok()?;
        self.pages[self.next] = new;
        Some(Fragment::from_frame(page, 0..length))
    }

    /// Before the tail is written: the descriptors come first.
    pub fn publish(&self) {
        fence(Ordering::Release);
    }
}

impl Drop for Receive {
    fn drop(&mut self) {
        // The device was reset before.
        for frame in &self.pages {
            rumpuser_frame_release(*frame);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    /// Writes a packet as the device does.
    fn arrive(receive: &Receive, index: usize, pieces: &[&[u8]], flags: u32) {
        for (number, piece) in pieces.iter().enumerate() {
            let index = (index + number) % SIZE;
            let words = receive.memory.words();
            let address = words[2 * index].load(Ordering::Relaxed);
            Frame(address / PAGE_SIZE as u64).write(0, piece);
            let end = if number + 1 == pieces.len() { status::END } else { 0 };
            let word = u64::from(status::DONE | end | flags) | (piece.len() as u64) << 32;
            words[2 * index + 1].store(word, Ordering::Release);
        }
    }

    fn bytes(packet: &Received) -> Vec<u8> {
        let mut bytes = std::vec![0; packet.data.len()];
        packet.data.copy_to(0, &mut bytes);
        bytes
    }

    #[test]
    fn packets_come_whole_and_descriptors_go_round() {
        let mut receive = Receive::new().unwrap();
        let mut at = 0;
        for round in 0..1000_usize {
            let length = [14, 60, 256, 257, 1514][round % 5];
            let packet: Vec<u8> = (0..length).map(|byte| (byte + round) as u8).collect();
            assert!(!receive.waits() && receive.next().is_none());
            arrive(&receive, at, &[&packet], status::CHECKED);
            assert!(receive.waits());
            let received = receive.next().unwrap();
            assert_eq!((bytes(&received), received.checksum), (packet, Checksum::Verified));
            at = (at + 1) % SIZE;
            assert_eq!(receive.tail() as usize, (at + SIZE - GAP) % SIZE);
        }
    }

    #[test]
    fn large_packets_are_of_several_pages() {
        let mut receive = Receive::new().unwrap();
        let pages = [[1; 4096], [2; 4096]];
        arrive(&receive, 0, &[&pages[0], &pages[1], &[3; 808]], 0);
        let received = receive.next().unwrap();
        assert_eq!((received.data.len(), received.checksum), (9000, Checksum::Unknown));
        assert_eq!(bytes(&received)[8192..], [3; 808]);
        // The last piece is not there yet.
        let words = receive.memory.words();
        words[2 * 3 + 1].store(u64::from(status::DONE) | 4096 << 32, Ordering::Release);
        assert!(receive.next().is_none());
    }

    #[test]
    fn broken_packets_are_counted_and_their_descriptors_used_again() {
        let mut receive = Receive::new().unwrap();
        arrive(&receive, 0, &[&[0; 60]], 1 << 24);
        arrive(&receive, 1, &[&[0; 60]], status::CHECKED | 1 << 29);
        assert_eq!(receive.next().unwrap().checksum, Checksum::Unknown);
        // A packet without end.
        for index in 2..2 + 5 {
            let words = receive.memory.words();
            words[2 * index + 1].store(u64::from(status::DONE) | 4096 << 32, Ordering::Release);
        }
        arrive(&receive, 7, &[&[9; 60]], 0);
        assert_eq!(bytes(&receive.next().unwrap()), [9; 60]);
        assert_eq!((receive.errors, receive.missed), (2, 0));
    }
}
