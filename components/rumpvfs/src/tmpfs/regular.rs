//! Regular files: pages of their own, over those of the image that haven't been changed.

use core::ops::Range;

use image::rootfs::Data;
use rumpkern::{
    Errno, Result,
    mappings::Mappings,
    uio::{Sink, Source},
};
use rumpuser::{
    Frame,
    memory::PAGE_SIZE,
    rumpuser_frame_alloc, rumpuser_frame_alloc_uninitialised, rumpuser_frame_of, rumpuser_frame_release,
    rumpuser_frame_retain,
    sync::{Mutex, RwLock},
};

use super::{
    Shared,
    baked::Baked,
    pages::{Pages, Slot},
};

/// Largest file, as on Linux.
pub const MAX_SIZE: u64 = i64::MAX as u64;
const PAGE: u64 = PAGE_SIZE as u64;

/// Seals of memory files (F_ADD_SEALS).
pub mod seal {
    /// No more seals.
    pub const SEAL: u32 = 1;
    /// The size can't shrink.
    pub const SHRINK: u32 = 2;
    /// The size can't grow.
    pub const GROW: u32 = 4;
    /// Nothing can be written.
    pub const WRITE: u32 = 8;
    /// Nothing can be written but through mappings that exist.
    pub const FUTURE_WRITE: u32 = 16;
    /// The execute permission can't change.
    pub const EXECUTE: u32 = 32;
    /// Any of them.
    pub const ALL: u32 = 63;
}

/// The data of a regular file.
pub struct Regular {
    /// Held by a write from its first to its last byte. Never taken by page faults.
    writing: Mutex<()>,
    content: RwLock<Content>,
    /// Who maps it.
    pub mappings: Mappings,
}

struct Content {
    size: u64,
    pages: Pages,
    /// What the image has, from the start.
    image: Baked,
    seals: u32,
}

/// Where the bytes of a page are.
enum Bytes {
    Frame(Frame),
    Image(&'static [u8]),
    /// In the image, compressed.
    Compressed,
    Zeros,
}

impl Content {
    /// What the image has from page `index` on.
    fn image_from(&self, index: u64) -> Option<Bytes> {
        let start = usize::try_from(index).ok()?.checked_mul(PAGE_SIZE)?;
        match &self.image {
            Baked::Plain(bytes) => bytes.get(start..).filter(|bytes| !bytes.is_empty()).map(Bytes::Image),
            Baked::Compressed { length, .. } => ((start as u64) < *length).then_some(Bytes::Compressed),
        }
    }

    /// Makes what the image has compressed at page `index` a page of the file.
    fn load(&mut self, index: u64, shared: &Shared) -> Result<()> {
        // Another may have been faster.
        if let Bytes::Compressed = self.page(index) {
            self.image.load(index, &mut self.pages, shared)?;
        }
        Ok(())
    }

    fn page(&self, index: u64) -> Bytes {
        match self.pages.get(index) {
            Slot::Page(frame) => Bytes::Frame(frame),
            Slot::Hole => Bytes::Zeros,
            Slot::Absent => self.image_from(index).unwrap_or(Bytes::Zeros),
        }
    }

    /// The file's own page, made if need be from the image's or from zeros. Tells whether it took the place of
    /// a page of the image, which may be mapped somewhere.
    fn own_page(&mut self, index: u64, shared: &Shared) -> Result<(Frame, bool)> {
        self.load(index, shared)?;
        match self.page(index) {
            Bytes::Frame(frame) => Ok((frame, false)),
            Bytes::Compressed => Err(Errno::EIO),
            Bytes::Zeros => {
                shared.reserve(1)?;
                let frame = rumpuser_frame_alloc().inspect_err(|_| shared.unreserve(1))?;
                self.pages.insert(index, frame);
                Ok((frame, false))
            }
            Bytes::Image(bytes) => {
                shared.reserve(1)?;
                let frame = rumpuser_frame_alloc_uninitialised().inspect_err(|_| shared.unreserve(1))?;
                let length = bytes.len().min(PAGE_SIZE);
                frame.write(0, &bytes[..length]);
                frame.fill(length, PAGE_SIZE - length, 0);
                self.pages.insert(index, frame);
                Ok((frame, true))
            }
        }
    }
}

impl Regular {
    /// A file with the image's data, or an empty one.
    pub fn new(image: Data<'static>, seals: u32) -> Self {
        let image = Baked::new(image);
        Regular {
            writing: Mutex::new(()),
            content: RwLock::new(Content { size: image.length(), pages: Pages::default(), image, seals }),
            mappings: Mappings::new(),
        }
    }

    /// Size in bytes and 512-byte blocks.
    pub fn size(&self) -> (u64, u64) {
        let content = self.content.read();
        let counts = content.pages.is_empty() || matches!(content.image, Baked::Compressed { .. });
        let image = if counts { content.image.length().div_ceil(PAGE) } else { 0 };
        (content.size, content.pages.count().max(image) * (PAGE / 512))
    }

    /// The seals.
    pub fn seals(&self) -> u32 {
        self.content.read().seals
    }

    /// Adds seals.
    pub fn add_seals(&self, seals: u32) -> Result<()> {
        if seals & !seal::ALL != 0 {
            return Err(Errno::EINVAL);
        }
        let _writing = self.writing.lock();
        if self.seals() & seal::SEAL != 0 {
            return Err(Errno::EPERM);
        }
        if seals & seal::WRITE != 0 && self.mappings.may_write() {
            return Err(Errno::EBUSY);
        }
        let mut content = self.content.write();
        content.seals |= seals;
        drop(content);
        if seals & seal::WRITE != 0 {
            self.mappings.revoke(0..u64::MAX, true);
        }
        Ok(())
    }

    /// Reads.
    pub fn read(&self, mut offset: u64, sink: &mut Sink<'_>, shared: &Shared) -> Result<usize> {
        let mut done = 0;
        while sink.remaining() > 0 {
            // Nothing is locked while the data is copied: the copy may fault, and the fault may want this file.
            let (bytes, within, length) = {
                let content = self.content.read();
                if offset >= content.size {
                    break;
                }
                let within = (offset % PAGE) as usize;
                let left = usize::try_from(content.size - offset).unwrap_or(usize::MAX);
                let bytes = content.page(offset / PAGE);
                if let Bytes::Frame(frame) = bytes {
                    rumpuser_frame_retain(frame);
                }
                // An unmodified file of the image is one piece.
                let whole = matches!(bytes, Bytes::Image(_)) && content.pages.is_empty();
                let piece = if whole { usize::MAX } else { PAGE_SIZE - within };
                (bytes, within, left.min(piece).min(sink.remaining()))
            };
            let result = match bytes {
                Bytes::Frame(frame) => {
                    let result = sink.put_frame(frame, within, length);
                    rumpuser_frame_release(frame);
                    result
                }
                Bytes::Image(image) => {
                    let end = image.len().min(within + length);
                    match image.get(within..end) {
                        Some(part) if !part.is_empty() => sink.put(part),
                        _ => sink.put_zeros(length),
                    }
                }
                Bytes::Zeros => sink.put_zeros(length),
                Bytes::Compressed => match self.content.write().load(offset / PAGE, shared) {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                },
            };
            match result {
                Ok(taken) => {
                    done += taken;
                    offset += taken as u64;
                }
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Writes at `offset`, or at the end; returns the bytes written and the position behind them.
    pub fn write(
        &self,
        offset: Option<u64>,
        source: &mut Source<'_>,
        shared: &Shared,
    ) -> Result<(usize, u64)> {
        let _writing = self.writing.lock();
        let (size, seals) = {
            let content = self.content.read();
            (content.size, content.seals)
        };
        let start = offset.unwrap_or(size);
        if source.remaining() == 0 {
            return Ok((0, start));
        }
        if seals & (seal::WRITE | seal::FUTURE_WRITE) != 0 {
            return Err(Errno::EPERM);
        }
        let limit = if seals & seal::GROW != 0 { size } else { MAX_SIZE };
        if start >= limit {
            return Err(if seals & seal::GROW != 0 { Errno::EPERM } else { Errno::EFBIG });
        }
        let mut position = start;
        let mut failure = None;
        while source.remaining() > 0 && position < limit {
            let (index, within) = (position / PAGE, (position % PAGE) as usize);
            let room = usize::try_from(limit - position).unwrap_or(usize::MAX);
            let length = (PAGE_SIZE - within).min(source.remaining()).min(room);
            let page = self.page_for_change(index, shared);
            let result = page.and_then(|frame| {
                let result = source.take_frame(frame, within, length);
                rumpuser_frame_release(frame);
                result
            });
            match result {
                Ok(taken) => position += taken as u64,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        if position > start {
            let mut content = self.content.write();
            content.size = content.size.max(position);
            return Ok(((position - start) as usize, position));
        }
        Err(match failure {
            Some(Errno::ENOMEM) => Errno::ENOSPC,
            Some(error) => error,
            None => Errno::EFBIG,
        })
    }

    /// The file's own page, with a reference for the caller.
    fn page_for_change(&self, index: u64, shared: &Shared) -> Result<Frame> {
        if let Slot::Page(frame) = {
            let content = self.content.read();
            let slot = content.pages.get(index);
            if let Slot::Page(frame) = slot {
                rumpuser_frame_retain(frame);
            }
            slot
        } {
            return Ok(frame);
        }
        let (frame, replaced) = {
            let mut content = self.content.write();
            let (frame, replaced) = content.own_page(index, shared)?;
            rumpuser_frame_retain(frame);
            (frame, replaced)
        };
        if replaced {
            self.mappings.revoke(index..index + 1, true);
        }
        Ok(frame)
    }

    /// As [`rumpkern::vm::Pager::page`].
    pub fn fault(&self, index: u64, write: bool, shared: &Shared) -> Result<Frame> {
        {
            let content = self.content.read();
            if index >= content.size.div_ceil(PAGE) {
                return Err(Errno::ENXIO);
            }
            if write && content.seals & seal::WRITE != 0 {
                return Err(Errno::EPERM);
            }
            match content.page(index) {
                Bytes::Frame(frame) => {
                    rumpuser_frame_retain(frame);
                    return Ok(frame);
                }
                Bytes::Image(bytes) if !write => return Ok(rumpuser_frame_of(bytes.as_ptr())),
                _ => {}
            }
        }
        self.page_for_change(index, shared)
    }

    /// As [`rumpkern::vm::Pager::contiguous`].
    pub fn contiguous(&self, index: u64) -> u64 {
        /// A large page; more brings nothing.
        const MOST: u64 = 512;
        let content = self.content.read();
        match content.page(index) {
            Bytes::Image(bytes) => {
                let pages = (bytes.len() as u64).div_ceil(PAGE);
                if content.pages.is_empty() {
                    return pages;
                }
                let own = |at: &u64| content.pages.get(index + at) != Slot::Absent;
                (1..pages.min(MOST)).find(own).unwrap_or(pages.min(MOST))
            }
            Bytes::Frame(first) => {
                let other = |at: &u64| content.pages.get(index + at) != Slot::Page(Frame(first.0 + at));
                (1..MOST).find(other).unwrap_or(MOST)
            }
            Bytes::Zeros | Bytes::Compressed => 1,
        }
    }

    /// Changes the size; what is cut off reads as zeros if the file grows again.
    pub fn resize(&self, size: u64, shared: &Shared) -> Result<()> {
        if size > MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        let _writing = self.writing.lock();
        let mut content = self.content.write();
        let old = content.size;
        if size < old && content.seals & seal::SHRINK != 0 || size > old && content.seals & seal::GROW != 0 {
            return Err(Errno::EPERM);
        }
        if size < old {
            let within = (size % PAGE) as usize;
            if within > 0 {
                let has_data = !matches!(content.page(size / PAGE), Bytes::Zeros);
                if has_data {
                    let (frame, _) = content.own_page(size / PAGE, shared)?;
                    frame.fill(within, PAGE_SIZE - within, 0);
                }
            }
            let kept = size / PAGE * PAGE;
            content.image.truncate(kept);
            let freed = content.pages.remove(size.div_ceil(PAGE)..u64::MAX);
            shared.unreserve(freed);
        }
        content.size = size;
        drop(content);
        if size < old {
            // The page that was cut in the middle may have been the image's.
            self.mappings.revoke(size / PAGE..size.div_ceil(PAGE), true);
            self.mappings.revoke(size.div_ceil(PAGE)..u64::MAX, false);
        }
        Ok(())
    }

    /// fallocate(2).
    pub fn allocate(
        &self,
        offset: u64,
        length: u64,
        punch: bool,
        keep_size: bool,
        shared: &Shared,
    ) -> Result<()> {
        let end = offset.checked_add(length).filter(|&end| end <= MAX_SIZE).ok_or(Errno::EFBIG)?;
        if length == 0 {
            return Err(Errno::EINVAL);
        }
        let _writing = self.writing.lock();
        if punch { self.punch(offset..end, shared) } else { self.reserve(offset..end, keep_size, shared) }
    }

    fn punch(&self, range: Range<u64>, shared: &Shared) -> Result<()> {
        let mut content = self.content.write();
        if content.seals & (seal::WRITE | seal::FUTURE_WRITE) != 0 {
            return Err(Errno::EPERM);
        }
        let end = range.end.min(content.size.next_multiple_of(PAGE));
        if range.start >= end {
            return Ok(());
        }
        let (first, last) = (range.start / PAGE, (end - 1) / PAGE);
        let (whole_first, whole_end) = (range.start.div_ceil(PAGE), end / PAGE);
        // The pages at the ends lose a part only.
        for index in [first, last] {
            let from = range.start.max(index * PAGE);
            let to = end.min((index + 1) * PAGE);
            let partial = to - from < PAGE;
            if partial && !matches!(content.page(index), Bytes::Zeros) {
                let (frame, _) = content.own_page(index, shared)?;
                frame.fill((from % PAGE) as usize, (to - from) as usize, 0);
            }
        }
        if whole_first < whole_end {
            let freed = content.pages.remove(whole_first..whole_end);
            shared.unreserve(freed);
            let image_end = content.image.length().div_ceil(PAGE).min(whole_end);
            for index in whole_first..image_end {
                content.pages.punch(index);
            }
        }
        drop(content);
        self.mappings.revoke(first..last + 1, true);
        Ok(())
    }

    fn reserve(&self, range: Range<u64>, keep_size: bool, shared: &Shared) -> Result<()> {
        let size = {
            let content = self.content.read();
            if content.seals & seal::GROW != 0 && range.end > content.size && !keep_size {
                return Err(Errno::EPERM);
            }
            content.size
        };
        let (first, end) = (range.start / PAGE, range.end.div_ceil(PAGE));
        shared.can_reserve(end - first)?;
        for index in first..end {
            let mut content = self.content.write();
            if matches!(content.page(index), Bytes::Zeros)
                && let Err(error) = content.own_page(index, shared)
            {
                // What was added behind the end goes again; inside, zeros stay zeros.
                let freed = content.pages.remove(first.max(size.div_ceil(PAGE))..end);
                shared.unreserve(freed);
                return Err(if error == Errno::ENOMEM { Errno::ENOSPC } else { error });
            }
        }
        if !keep_size {
            let mut content = self.content.write();
            content.size = content.size.max(range.end);
        }
        Ok(())
    }

    /// As [`crate::vnode::Vnode::seek_data`].
    pub fn seek(&self, offset: u64, hole: bool) -> Result<u64> {
        let content = self.content.read();
        if offset >= content.size {
            return Err(Errno::ENXIO);
        }
        let image_pages = content.image.length().div_ceil(PAGE);
        let mut index = offset / PAGE;
        loop {
            if index.saturating_mul(PAGE) >= content.size {
                return if hole { Ok(content.size) } else { Err(Errno::ENXIO) };
            }
            let is_hole = matches!(content.page(index), Bytes::Zeros);
            if is_hole == hole {
                return Ok(offset.max(index * PAGE));
            }
            index = if is_hole && index >= image_pages {
                content.pages.next_page(index).unwrap_or(u64::MAX / PAGE)
            } else {
                index + 1
            };
        }
    }

    /// Frames of its own, which go with it.
    pub fn frames(&self) -> u64 {
        self.content.read().pages.count()
    }
}
