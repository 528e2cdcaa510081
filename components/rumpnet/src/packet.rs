//! Packets: chains of pieces of 4 KiB pages, shared by reference between NIC, protocols and sockets.
//!
//! A page is a frame of the platform, which counts references and keeps caches per CPU; so a page can also be
//! handed to another machine (granted, or mapped from shared memory) without a copy.

use core::ops::Range;

use rumpkern::{
    Result,
    uio::{Sink, Source},
};
use rumpuser::{
    Frame, OutOfMemory, memory::PAGE_SIZE, rumpuser_frame_alloc_uninitialised, rumpuser_frame_references,
    rumpuser_frame_release, rumpuser_frame_retain,
};
use smallvec::SmallVec;

/// A run of bytes in a page, with a reference on the page.
#[derive(Debug, PartialEq, Eq)]
pub struct Fragment {
    frame: Frame,
    offset: u16,
    length: u16,
}

impl Fragment {
    /// An empty run at `offset` of a new page.
    pub fn new(offset: usize) -> core::result::Result<Self, OutOfMemory> {
        assert!(offset <= PAGE_SIZE);
        Ok(Fragment { frame: rumpuser_frame_alloc_uninitialised()?, offset: offset as u16, length: 0 })
    }

    /// A run in a page, taking over the caller's reference on it. Panics if it leaves the page.
    pub fn from_frame(frame: Frame, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= PAGE_SIZE);
        Fragment { frame, offset: range.start as u16, length: range.len() as u16 }
    }

    /// The page.
    pub fn frame(&self) -> Frame {
        self.frame
    }

    /// Where in the page it starts.
    pub fn offset(&self) -> usize {
        usize::from(self.offset)
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        usize::from(self.length)
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The physical address of its first byte.
    pub fn physical(&self) -> u64 {
        self.frame.physical() + u64::from(self.offset)
    }

    /// Bytes of the page behind it.
    pub fn room(&self) -> usize {
        PAGE_SIZE - self.offset() - self.len()
    }

    /// Whether nobody else refers to the page, so that bytes may be added.
    pub fn is_unique(&self) -> bool {
        rumpuser_frame_references(self.frame) == 1
    }

    /// The bytes. A device that misbehaves, or a user program that the page is shared with, can change them
    /// at any time: read a field once, then check it.
    #[allow(unsafe_code, reason = "reads a page")]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `self` holds a reference on the frame.
        let page = unsafe { self.frame.bytes() };
        &page[self.offset()..self.offset() + self.len()]
    }

    /// Another reference to a part of it. Panics if the part is not inside.
    pub fn slice(&self, range: Range<usize>) -> Fragment {
        assert!(range.start <= range.end && range.end <= self.len());
        rumpuser_frame_retain(self.frame);
        Fragment { frame: self.frame, offset: self.offset + range.start as u16, length: range.len() as u16 }
    }

    /// Adds a run that starts where this one ends, in the same page; gives any other back.
    pub fn join(&mut self, next: Fragment) -> core::result::Result<(), Fragment> {
        if self.frame != next.frame || self.offset + self.length != next.offset {
            return Err(next);
        }
        self.length += next.length;
        Ok(())
    }

    /// Drops `count` bytes at the front (at most all).
    pub fn advance(&mut self, count: usize) {
        let count = count.min(self.len()) as u16;
        self.offset += count;
        self.length -= count;
    }

    /// Keeps `length` bytes at the front (at most all).
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length.min(PAGE_SIZE) as u16);
    }

    /// Adds as much of `bytes` as there is room for; returns how much. Only for bytes of the page behind
    /// this run that no one else uses: the owner of a page sees to that.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        self.frame.write(self.offset() + self.len(), &bytes[..count]);
        self.length += count as u16;
        count
    }

    /// As [`Fragment::append`], at most `limit` bytes from a system call's source. May sleep. EFAULT.
    pub fn append_from(&mut self, source: &mut Source<'_>, limit: usize) -> Result<usize> {
        let count = limit.min(self.room());
        let done = source.take_frame(self.frame, self.offset() + self.len(), count)?;
        self.length += done as u16;
        Ok(done)
    }
}

impl Clone for Fragment {
    fn clone(&self) -> Self {
        self.slice(0..self.len())
    }
}

impl Drop for Fragment {
    fn drop(&mut self) {
        rumpuser_frame_release(self.frame);
    }
}

/// Bytes in order, in fragments none of which is empty.
#[derive(Debug, Default, Clone)]
pub struct Chain {
    fragments: SmallVec<[Fragment; 2]>,
    length: usize,
}

impl Chain {
    /// Without bytes.
    pub const fn new() -> Self {
        Chain { fragments: SmallVec::new_const(), length: 0 }
    }

    /// Without bytes, with room for so many pieces.
    pub fn with_capacity(fragments: usize) -> Self {
        Chain { fragments: SmallVec::with_capacity(fragments), length: 0 }
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> core::result::Result<Self, OutOfMemory> {
        let mut chain = Chain::new();
        for piece in bytes.chunks(PAGE_SIZE) {
            let mut fragment = Fragment::new(0)?;
            fragment.append(piece);
            chain.push(fragment);
        }
        Ok(chain)
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Its pieces.
    pub fn fragments(&self) -> &[Fragment] {
        &self.fragments
    }

    /// Its pieces, for someone who takes them over.
    pub fn into_fragments(self) -> SmallVec<[Fragment; 2]> {
        self.fragments
    }

    /// The bytes of the first piece.
    pub fn first(&self) -> &[u8] {
        self.fragments.first().map_or(&[], Fragment::bytes)
    }

    /// Adds a piece at the end.
    pub fn push(&mut self, fragment: Fragment) {
        if !fragment.is_empty() {
            self.length += fragment.len();
            self.fragments.push(fragment);
        }
    }

    /// Moves the pieces of `other` to the end.
    pub fn append(&mut self, other: Chain) {
        self.length += other.length;
        self.fragments.extend(other.fragments);
    }

    /// Drops `count` bytes at the front (at most all).
    pub fn advance(&mut self, count: usize) {
        let mut count = count.min(self.length);
        self.length -= count;
        let mut gone = 0;
        for fragment in &mut self.fragments {
            if count < fragment.len() {
                fragment.advance(count);
                break;
            }
            count -= fragment.len();
            gone += 1;
        }
        if gone > 0 {
            self.fragments.drain(..gone);
        }
    }

    /// Keeps `length` bytes at the front (at most all).
    pub fn truncate(&mut self, length: usize) {
        if length >= self.length {
            return;
        }
        let mut rest = length;
        let mut kept = 0;
        for fragment in &mut self.fragments {
            if rest == 0 {
                break;
            }
            fragment.truncate(rest);
            rest -= fragment.len();
            kept += 1;
        }
        self.fragments.truncate(kept);
        self.length = length;
    }

    /// References to the bytes of `range`. Panics if it is not inside.
    pub fn slice(&self, range: Range<usize>) -> Chain {
        assert!(range.start <= range.end && range.end <= self.length);
        let mut part = Chain::new();
        let mut skip = range.start;
        let mut rest = range.len();
        for fragment in &self.fragments {
            if rest == 0 {
                break;
            }
            if skip >= fragment.len() {
                skip -= fragment.len();
                continue;
            }
            let count = rest.min(fragment.len() - skip);
            part.push(fragment.slice(skip..skip + count));
            rest -= count;
            skip = 0;
        }
        part
    }

    /// Makes the first `count` bytes contiguous, copying them if they aren't. False if there are fewer,
    /// more than a page, or no memory.
    pub fn pull_up(&mut self, count: usize) -> bool {
        if self.first().len() >= count {
            return true;
        }
        if count > self.length || count > PAGE_SIZE {
            return false;
        }
        let Ok(mut head) = Fragment::new(0) else { return false };
        for fragment in &self.fragments {
            head.append(&fragment.bytes()[..fragment.len().min(count - head.len())]);
        }
        self.advance(count);
        self.length += count;
        self.fragments.insert(0, head);
        true
    }

    /// Copies bytes from `offset` on into `bytes`; returns how many there were.
    pub fn copy_to(&self, mut offset: usize, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        for fragment in &self.fragments {
            if offset >= fragment.len() {
                offset -= fragment.len();
                continue;
            }
            let piece = &fragment.bytes()[offset..];
            let count = piece.len().min(bytes.len() - done);
            bytes[done..done + count].copy_from_slice(&piece[..count]);
            done += count;
            offset = 0;
            if done == bytes.len() {
                break;
            }
        }
        done
    }

    /// Copies as much as the sink takes; returns how much. May sleep. EFAULT if it took nothing.
    pub fn copy_out(&self, sink: &mut Sink<'_>) -> Result<usize> {
        let mut done = 0;
        for fragment in &self.fragments {
            if sink.remaining() == 0 {
                break;
            }
            match sink.put(fragment.bytes()) {
                Ok(count) => {
                    done += count;
                    if count < fragment.len() {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }
}

/// Room for all headers of a packet that is sent: link, IPv4 or IPv6 with options, TCP with options.
pub const HEADER_ROOM: usize = 160;

/// Headers, written from the last to the first.
#[derive(Debug, Clone)]
pub struct Header {
    bytes: [u8; HEADER_ROOM],
    start: u8,
}

impl Default for Header {
    fn default() -> Self {
        Header { bytes: [0; HEADER_ROOM], start: HEADER_ROOM as u8 }
    }
}

impl Header {
    /// The bytes, outermost header first.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[usize::from(self.start)..]
    }

    /// The bytes, to change them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[usize::from(self.start)..]
    }

    /// Makes room for `length` bytes in front and returns them. Panics without room: headers have bounds.
    pub fn prepend(&mut self, length: usize) -> &mut [u8] {
        let start = usize::from(self.start).checked_sub(length).expect("headers fit");
        self.start = start as u8;
        &mut self.bytes[start..start + length]
    }

    /// Takes `length` bytes away in front, to send the rest again with other headers.
    pub fn strip(&mut self, length: usize) {
        self.start = (usize::from(self.start) + length).min(HEADER_ROOM) as u8;
    }
}

/// What is known of a checksum inside a packet (IP's own header checksum is always complete).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Sent: it is complete. Received: nothing is known, check it.
    #[default]
    Unknown,
    /// Received: the device found it right, or the packet never left the machine.
    Verified,
    /// The field at `start + offset` holds the pseudo-header's sum; whoever puts the packet on a wire sums
    /// from `start` to the end. Offsets from the packet's first byte. Received so from a virtual device, it
    /// counts as verified.
    Partial {
        /// Where the sum starts (the transport header).
        start: u16,
        /// Where the field is, from `start`.
        offset: u16,
    },
}

/// A packet larger than the link's, to be cut by the device (TSO).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segmentation {
    /// Payload bytes of each segment but the last.
    pub size: u16,
    /// Whether it is TCP over IPv6, not IPv4.
    pub version6: bool,
    /// CWR is set: only the first segment gets it.
    pub ecn: bool,
}

/// A packet to send: headers, then payload.
#[derive(Debug, Default)]
pub struct Packet {
    /// The headers.
    pub header: Header,
    /// The payload.
    pub payload: Chain,
    /// What the device is to do about the transport checksum.
    pub checksum: Checksum,
    /// Whether the device is to cut it.
    pub segmentation: Option<Segmentation>,
}

impl Packet {
    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.header.bytes().len() + self.payload.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything as one chain, the headers copied: for a receiver in this machine. The offsets of a partial
    /// checksum stay right.
    pub fn into_chain(mut self) -> core::result::Result<Chain, OutOfMemory> {
        let mut head = Fragment::new(0)?;
        head.append(self.header.bytes());
        let mut chain = Chain::new();
        chain.push(head);
        chain.append(core::mem::take(&mut self.payload));
        Ok(chain)
    }
}

/// A packet that a device received: from the link header on.
#[derive(Debug, Default)]
pub struct Received {
    /// The bytes. The first piece has the headers, as a rule: [`Chain::pull_up`] makes sure.
    pub data: Chain,
    /// What the device says of the transport checksum.
    pub checksum: Checksum,
    /// The device joined several segments of this payload size (LRO, or a virtual device's TSO); 0 if not.
    pub segment_size: u16,
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{vec, vec::Vec};

    use super::*;

    fn bytes(chain: &Chain) -> Vec<u8> {
        let mut all = vec![0; chain.len()];
        assert_eq!(chain.copy_to(0, &mut all), chain.len());
        all
    }

    fn chain(pieces: &[&[u8]]) -> Chain {
        let mut chain = Chain::new();
        for piece in pieces {
            chain.append(Chain::copy_of(piece).unwrap());
        }
        chain
    }

    #[test]
    fn chains_are_cut_and_joined() {
        let mut one = chain(&[b"abc", b"", b"defgh", b"i"]);
        assert_eq!((one.len(), one.fragments().len()), (9, 3));
        assert_eq!(bytes(&one.slice(2..8)), b"cdefgh");
        assert_eq!(bytes(&one.slice(3..3)), b"");
        one.advance(4);
        one.truncate(4);
        assert_eq!(bytes(&one), b"efgh");
        one.append(chain(&[b"xyz"]));
        assert!(one.pull_up(5));
        assert_eq!(&one.first()[..5], b"efghx");
        assert_eq!(bytes(&one), b"efghxyz");
        assert!(!one.pull_up(8));
        one.advance(100);
        assert!(one.is_empty() && one.fragments().is_empty());
    }

    #[test]
    fn pages_live_as_long_as_their_last_reference() {
        let whole = chain(&[b"hello"]);
        assert!(whole.fragments()[0].is_unique());
        let part = whole.slice(1..3);
        assert!(!whole.fragments()[0].is_unique());
        drop(whole);
        assert!(part.fragments()[0].is_unique());
        assert_eq!(bytes(&part), b"el");
    }

    #[test]
    fn a_chain_goes_to_a_sink_as_far_as_there_is_room() {
        let mut buffer = [0; 4];
        assert_eq!(chain(&[b"abc", b"def"]).copy_out(&mut Sink::kernel(&mut buffer)), Ok(4));
        assert_eq!(&buffer, b"abcd");
        assert_eq!(chain(&[b"abc"]).copy_out(&mut Sink::user(0x10, 3)), Err(rumpkern::Errno::EFAULT));
    }

    #[test]
    fn headers_are_written_from_the_last_to_the_first() {
        let mut packet = Packet { payload: chain(&[b"data"]), ..Packet::default() };
        packet.header.prepend(3).copy_from_slice(b"tcp");
        packet.header.prepend(2).copy_from_slice(b"ip");
        assert_eq!((packet.header.bytes(), packet.len()), (&b"iptcp"[..], 9));
        packet.header.strip(2);
        assert_eq!(bytes(&packet.into_chain().unwrap()), b"tcpdata");
    }
}
