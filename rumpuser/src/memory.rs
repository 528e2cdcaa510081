//! Physical frames and user address spaces (NetBSD's word: pmap).

use core::ops::Range;

use crate::{OutOfMemory, rumpuser_frame_address, rumpuser_frame_release};

/// Bytes in a page, and in a frame.
pub const PAGE_SIZE: usize = 4096;
/// Bytes in a large page.
pub const LARGE_PAGE_SIZE: usize = 2 << 20;
/// The end of the user half of the address space (exclusive), as on Linux with 4-level paging.
pub const USER_END: usize = 0x7fff_ffff_f000;

/// A 4 KiB physical frame, by number (physical address / 4096). Plain data: references are counted by
/// hand with `rumpuser_frame_retain` and `rumpuser_frame_release`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame(pub u64);

impl Frame {
    /// The physical address.
    pub fn physical(self) -> u64 {
        self.0 * PAGE_SIZE as u64
    }

    /// Copies out of the frame. Panics if the range leaves it.
    pub fn read(self, offset: usize, bytes: &mut [u8]) {
        assert!(offset + bytes.len() <= PAGE_SIZE);
        let address = rumpuser_frame_address(self);
        // SAFETY: the range is inside the frame, which is mapped; frames hold plain bytes. Races with user
        // code that writes the page can only garble those bytes.
        unsafe { core::ptr::copy_nonoverlapping(address.add(offset), bytes.as_mut_ptr(), bytes.len()) }
    }

    /// Copies into the frame. Panics if the range leaves it.
    pub fn write(self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= PAGE_SIZE);
        let address = rumpuser_frame_address(self);
        // SAFETY: as in `read`.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), address.add(offset), bytes.len()) }
    }

    /// Copies the beginning of another frame to its own. Panics if that is longer than a frame.
    pub fn copy_from(self, other: Frame, length: usize) {
        assert!(length <= PAGE_SIZE);
        let (to, from) = (rumpuser_frame_address(self), rumpuser_frame_address(other));
        // SAFETY: as in `read`; a copy of a frame to itself is one of a range to itself.
        unsafe { core::ptr::copy(from, to, length) }
    }

    /// Fills a part of the frame. Panics if the range leaves it.
    pub fn fill(self, offset: usize, length: usize, value: u8) {
        assert!(offset + length <= PAGE_SIZE);
        let address = rumpuser_frame_address(self);
        // SAFETY: as in `read`.
        unsafe { core::ptr::write_bytes(address.add(offset), value, length) }
    }

    /// The frame's contents, for handing to `rumpuser_copyout` and devices without a copy.
    ///
    /// # Safety
    /// The caller holds a reference on the frame for as long as the slice lives. User code may change
    /// the bytes meanwhile: treat them as volatile data, never as a validated structure.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        // SAFETY: frames are mapped, 4096 bytes long, and the caller keeps this one alive.
        unsafe { core::slice::from_raw_parts(rumpuser_frame_address(self), PAGE_SIZE) }
    }

    /// As [`Frame::bytes`], writable.
    ///
    /// # Safety
    /// As [`Frame::bytes`], and no other kernel reference to the same bytes may be in use.
    pub unsafe fn bytes_mut<'a>(self) -> &'a mut [u8] {
        // SAFETY: as above.
        unsafe { core::slice::from_raw_parts_mut(rumpuser_frame_address(self), PAGE_SIZE) }
    }
}

/// Memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryStatistics {
    /// What the machine gave us, less what the image occupies.
    pub total: u64,
    /// What can be allocated now.
    pub free: u64,
}

bitflags::bitflags! {
    /// What user code may do with a page. Present pages are always readable.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Protection: u8 {
        /// May be read.
        const READ = 1;
        /// May be written.
        const WRITE = 2;
        /// May be executed.
        const EXECUTE = 4;
    }
}

/// A user address space: a page table that holds one reference on each frame it maps. All methods may
/// be called from any CPU; they flush every CPU that needs it before they return. Ranges are page-aligned
/// and inside [`USER_END`]; unmapped pages in a range are skipped.
///
/// A page with an empty protection (`PROT_NONE`) keeps its frame, counts as mapped, and faults on any access.
pub trait Pmap: Send + Sync {
    /// Maps `frame` at `address`, taking over the caller's reference (also when it fails). What was mapped
    /// there is released, after the flush.
    fn enter(&self, address: usize, frame: Frame, protection: Protection) -> Result<(), OutOfMemory>;
    /// As [`Pmap::enter`] for a naturally aligned run of 512 frames: one 2 MiB page, split when a part of it
    /// is changed. Takes over one reference on each of the 512 frames (also when it fails).
    fn enter_large(&self, address: usize, frame: Frame, protection: Protection) -> Result<(), OutOfMemory>;
    /// Maps `frames` at consecutive pages from `address` on, taking over one reference on each. Pages that
    /// are mapped already stay as they are, and their new frames are released; so are all those that are
    /// left when memory runs out.
    fn enter_absent(
        &self,
        address: usize,
        frames: &[Frame],
        protection: Protection,
    ) -> Result<(), OutOfMemory> {
        let mut result = Ok(());
        for (page, &frame) in frames.iter().enumerate() {
            let address = address + page * PAGE_SIZE;
            if result.is_err() || self.query(address).is_some() {
                rumpuser_frame_release(frame);
            } else {
                result = self.enter(address, frame, protection);
            }
        }
        result
    }
    /// What is mapped at the page of `address`.
    fn query(&self, address: usize) -> Option<(Frame, Protection)>;
    /// Unmaps, and releases the frames after the flush.
    fn remove(&self, range: Range<usize>);
    /// Changes the protection of the pages that are mapped.
    fn protect(&self, range: Range<usize>, protection: Protection);
    /// Copy-on-write duplication: maps what `range` maps here into `destination` too (retaining the
    /// frames), and takes WRITE away on both sides.
    fn share_copy_on_write(&self, destination: &dyn Pmap, range: Range<usize>) -> Result<(), OutOfMemory>;
    /// Moves what is mapped in `range` to `destination`, where nothing is mapped. The ranges don't overlap.
    fn relocate(&self, range: Range<usize>, destination: usize) -> Result<(), OutOfMemory>;
    /// Calls `visit(address, frame, protection)` for every mapped page in order.
    fn for_each(&self, range: Range<usize>, visit: &mut dyn FnMut(usize, Frame, Protection));
    /// How many pages are mapped (the resident set).
    fn resident(&self) -> usize;
    /// For the implementation's `share_copy_on_write`: the concrete type.
    fn as_any(&self) -> &dyn core::any::Any;
}
