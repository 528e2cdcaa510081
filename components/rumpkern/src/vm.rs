//! Virtual memory: what can be mapped.

use rumpuser::Frame;

use crate::{Result, mappings::Mappings};

/// Something whose pages can be mapped: a file, a shared memory object.
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

    /// Where address spaces that map the object enter themselves, so that the pager can take pages back
    /// (truncation). `None`: pages, once given, stay right for good.
    fn mappings(&self) -> Option<&Mappings> {
        None
    }

    /// Makes what was written durable (msync).
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}
