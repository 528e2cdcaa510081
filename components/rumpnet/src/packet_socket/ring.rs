//! The receive ring of a packet socket (TPACKET_V2): memory that the kernel fills and the program maps.

use alloc::{sync::Arc, vec::Vec};

use rumpkern::{Errno, Result, vm::Pager};
use rumpuser::{
    Frame, memory::PAGE_SIZE, rumpuser_frame_alloc, rumpuser_frame_release, rumpuser_frame_retain,
    sync::SpinLock,
};

use crate::packet::Chain;

/// The largest ring, in bytes.
const LIMIT: usize = 64 << 20;
/// Bytes of `struct tpacket2_hdr` and `struct sockaddr_ll` behind it.
pub const HEADER: usize = 52;
/// The kernel may fill the frame; the program may read it (TP_STATUS_USER).
const KERNEL: u32 = 0;
const USER: u32 = 1;

/// A packet's place in its frame, and what is told of it.
pub struct Entry<'a> {
    /// The header without its status, with the address.
    pub header: [u8; HEADER],
    /// Where the data goes.
    pub at: usize,
    /// The data.
    pub data: &'a Chain,
}

/// See the module.
pub struct Ring {
    pages: Vec<Frame>,
    block: usize,
    frame: usize,
    frames: usize,
    next: SpinLock<usize>,
}

impl Ring {
    /// A ring as `struct tpacket_req` describes it. EINVAL, ENOMEM.
    pub fn new(block: usize, blocks: usize, frame: usize, frames: usize) -> Result<Arc<Self>> {
        let whole =
            block.checked_mul(blocks).filter(|&size| size > 0 && size <= LIMIT).ok_or(Errno::EINVAL)?;
        let fits = block.is_multiple_of(PAGE_SIZE)
            && frame.is_multiple_of(16)
            && frame > HEADER + 64
            && frame <= block
            && (block / frame).checked_mul(blocks) == Some(frames);
        if !fits {
            return Err(Errno::EINVAL);
        }
        let mut ring = Ring { pages: Vec::new(), block, frame, frames, next: SpinLock::new(0) };
        ring.pages.try_reserve_exact(whole / PAGE_SIZE).map_err(|_| Errno::ENOMEM)?;
        for _ in 0..whole / PAGE_SIZE {
            ring.pages.push(rumpuser_frame_alloc()?);
        }
        Ok(Arc::new(ring))
    }

    /// Bytes of a frame.
    pub fn frame_size(&self) -> usize {
        self.frame
    }

    fn start(&self, index: usize) -> usize {
        let each = self.block / self.frame;
        index / each * self.block + index % each * self.frame
    }

    fn write(&self, mut at: usize, mut bytes: &[u8]) {
        while let Some(page) = self.pages.get(at / PAGE_SIZE).filter(|_| !bytes.is_empty()) {
            let offset = at % PAGE_SIZE;
            let count = bytes.len().min(PAGE_SIZE - offset);
            page.write(offset, &bytes[..count]);
            at += count;
            bytes = &bytes[count..];
        }
    }

    fn status(&self, index: usize) -> u32 {
        let at = self.start(index);
        let mut bytes = [0; 4];
        if let Some(page) = self.pages.get(at / PAGE_SIZE) {
            page.read(at % PAGE_SIZE, &mut bytes);
        }
        u32::from_ne_bytes(bytes)
    }

    /// Fills the next frame. False if the program has not read what is there.
    pub fn put(&self, entry: &Entry<'_>) -> bool {
        let mut next = self.next.lock();
        if self.status(*next) != KERNEL {
            return false;
        }
        let start = self.start(*next);
        let mut at = start + entry.at;
        for piece in entry.data.fragments() {
            let room = (start + self.frame).saturating_sub(at);
            let bytes = &piece.bytes()[..piece.len().min(room)];
            self.write(at, bytes);
            at += bytes.len();
        }
        self.write(start + 4, &entry.header[4..]);
        // The status last: with it, the frame is the program's.
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        self.write(start, &USER.to_ne_bytes());
        *next = (*next + 1) % self.frames;
        true
    }

    /// Whether the program has something to read.
    pub fn is_readable(&self) -> bool {
        let next = *self.next.lock();
        self.status((next + self.frames - 1) % self.frames) != KERNEL
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.pages.iter().for_each(|&page| rumpuser_frame_release(page));
    }
}

impl Pager for Ring {
    fn page(&self, index: u64, _write: bool) -> Result<Frame> {
        let page = usize::try_from(index).ok().and_then(|index| self.pages.get(index)).ok_or(Errno::ENXIO)?;
        rumpuser_frame_retain(*page);
        Ok(*page)
    }
}
