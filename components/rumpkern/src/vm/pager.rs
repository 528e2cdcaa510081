//! Something whose pages can be mapped.

use core::ops::Range;

use rumpuser::{Frame, rumpuser_frame_retain};

use crate::{Errno, Result, mappings::Mappings};

/// Something whose pages can be mapped: a file, a shared memory object.
///
/// Its methods are called by page faults, also by those that copyin and copyout take: they must not need a
/// lock that is held across copyin or copyout, nor one that is held while [`Mappings`] is told of a change.
/// [`Pager::page`] gives the same frame for a page each time, until [`Mappings::revoke`]; a hole in a file is
/// therefore filled when it is first mapped.
pub trait Pager: Send + Sync {
    /// The frame that holds page `index` (4 KiB each), with one reference for the caller. With `write`, the
    /// caller is about to change it (the object's own page, seen by all): the pager marks it dirty. ENXIO
    /// beyond the end (the program gets SIGBUS), ENOMEM, EIO.
    fn page(&self, index: u64, write: bool) -> Result<Frame>;

    /// How many pages from `index` on are physically contiguous with it and present, so that they can be mapped
    /// at once. At least 1 where [`Pager::page`] would succeed.
    fn contiguous(&self, index: u64) -> u64 {
        let _ = index;
        1
    }

    /// The frames of the pages from `index` on that can be had at once, for mapping more than was asked for:
    /// fills `frames` from the start, each with one reference, and returns how many. 0 is always right. It must
    /// neither wait for long nor revoke anything, as [`Pager::page`] may.
    fn pages(&self, index: u64, write: bool, frames: &mut [Frame]) -> usize {
        if write {
            return 0;
        }
        let count = self.contiguous(index).min(frames.len() as u64);
        if count < 2 {
            return 0;
        }
        let Ok(first) = self.page(index, false) else { return 0 };
        for (page, frame) in frames[..count as usize].iter_mut().enumerate() {
            *frame = Frame(first.0 + page as u64);
            if page > 0 {
                rumpuser_frame_retain(*frame);
            }
        }
        count as usize
    }

    /// Whether page `index` is in memory (mincore). Where that is unknown, true.
    fn resident(&self, index: u64) -> bool {
        let _ = index;
        true
    }

    /// Frees pages, which read as zeros afterwards (MADV_REMOVE).
    fn discard(&self, pages: Range<u64>) -> Result<()> {
        let _ = pages;
        Err(Errno::EOPNOTSUPP)
    }

    /// Makes what was written durable (msync).
    fn sync(&self) -> Result<()> {
        Ok(())
    }

    /// A number that no other live object has; the same through every handle on the object.
    fn identity(&self) -> usize {
        core::ptr::from_ref(self).cast::<()>() as usize
    }

    /// Where address spaces that map the object enter themselves, so that the pager can take pages back
    /// (truncation). `None`: pages, once given, stay right for good.
    fn mappings(&self) -> Option<&Mappings> {
        None
    }
}
