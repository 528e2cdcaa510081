//! The page cache of a file.
//!
//! Locks, in this order: `flushing` (a flush waits for the one before: it must not return earlier), `writing` (a
//! write from its first to its last byte), `transfer` (shared: data moves between cache and disk; exclusive:
//! blocks are taken away from the file), `state` (never while the disk works). Page faults take `transfer` and
//! `state`; so mappings are never revoked with either held.

use alloc::{collections::BTreeMap, sync::Arc, vec, vec::Vec};
use core::{ops::Range, sync::atomic::Ordering};

use rumpkern::{
    Errno, Result,
    mappings::Mappings,
    uio::{Sink, Source},
};
use rumpuser::{
    Frame,
    memory::PAGE_SIZE,
    rumpuser_frame_alloc, rumpuser_frame_references, rumpuser_frame_release, rumpuser_frame_retain,
    sync::{Mutex, RwLock},
};
use rumpvfs::vnode::{Time, now};

use crate::{Shared, disk::errno, node::Node};

const PAGE: u64 = PAGE_SIZE as u64;
/// Pages that a sequential reader gets at once.
const READ_AHEAD: u64 = 32;
/// Pages that others get at once: what lies around a fault is soon wanted.
const READ_AROUND: u64 = 4;
/// Pages that are written with one request.
const WRITE_RUN: usize = 64;

/// A page in the cache, which holds a reference on its frame.
struct Page {
    frame: Frame,
    /// Changed since it was last written.
    dirty: bool,
    /// Used since its removal was last considered.
    used: bool,
    /// Space on the disk is reserved for it.
    reserved: bool,
}

struct State {
    size: u64,
    pages: BTreeMap<u64, Page>,
    /// When the data changed, if the disk doesn't know yet.
    modified: Option<Time>,
    /// Where a sequential reader would go on.
    expected: u64,
}

/// Changed pages that follow each other, with references on their frames.
struct Run {
    first: u64,
    frames: Vec<Frame>,
}

impl Run {
    fn pages(&self) -> Range<u64> {
        self.first..self.first + self.frames.len() as u64
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        for &frame in &self.frames {
            rumpuser_frame_release(frame);
        }
    }
}

/// See the module.
pub struct Cached {
    flushing: Mutex<()>,
    writing: Mutex<()>,
    transfer: RwLock<()>,
    state: Mutex<State>,
    /// Who maps the file.
    pub mappings: Mappings,
}

impl Cached {
    /// An empty cache of a file of `size` bytes.
    pub fn new(size: u64) -> Self {
        let state = State { size, pages: BTreeMap::new(), modified: None, expected: 0 };
        Cached {
            flushing: Mutex::new(()),
            writing: Mutex::new(()),
            transfer: RwLock::new(()),
            state: Mutex::new(state),
            mappings: Mappings::new(),
        }
    }

    /// The size, and the time of a change that the disk doesn't know of.
    pub fn size(&self) -> (u64, Option<Time>) {
        let state = self.state.lock();
        (state.size, state.modified)
    }

    /// Pages in the cache; they are gone afterwards. For the end of the file's life.
    pub fn discard(&mut self, shared: &Shared) {
        let pages = core::mem::take(&mut self.state.get_mut().pages);
        for page in pages.values() {
            forget(page, shared);
        }
    }
}

/// Releases a page that left the cache.
fn forget(page: &Page, shared: &Shared) {
    rumpuser_frame_release(page.frame);
    shared.pages.fetch_sub(1, Ordering::Relaxed);
    if page.dirty {
        shared.dirty_pages.fetch_sub(1, Ordering::Relaxed);
    }
}

impl State {
    /// The page's frame, with a reference for the caller.
    fn hold(&mut self, index: u64) -> Option<Frame> {
        let page = self.pages.get_mut(&index)?;
        page.used = true;
        rumpuser_frame_retain(page.frame);
        Some(page.frame)
    }

    fn insert(&mut self, index: u64, frame: Frame, reserved: bool, shared: &Shared) {
        shared.pages.fetch_add(1, Ordering::Relaxed);
        self.pages.insert(index, Page { frame, dirty: false, used: false, reserved });
    }

    /// Removes pages.
    fn remove(&mut self, range: Range<u64>, shared: &Shared) {
        if range.is_empty() {
            return;
        }
        let gone: Vec<u64> = self.pages.range(range).map(|(&index, _)| index).collect();
        for index in gone {
            if let Some(page) = self.pages.remove(&index) {
                forget(&page, shared);
            }
        }
    }
}

impl Node {
    /// The frame of a page inside the file, with a reference for the caller. Read from the disk if need be,
    /// with some of those behind it.
    pub(crate) fn page(&self, index: u64) -> Result<Frame> {
        let shared = self.shared();
        let cached = self.cached();
        if let Some(frame) = cached.state.lock().hold(index) {
            return Ok(frame);
        }
        let _transfer = cached.transfer.read();
        let wanted = {
            let mut state = cached.state.lock();
            if let Some(frame) = state.hold(index) {
                return Ok(frame);
            }
            let end = state.size.div_ceil(PAGE);
            if index >= end {
                return Err(Errno::ENXIO);
            }
            let most = if index == state.expected { READ_AHEAD } else { READ_AROUND };
            let absent = (index..end.min(index + most)).take_while(|at| !state.pages.contains_key(at));
            let count = absent.count() as u64;
            state.expected = index + count;
            count
        };
        let mut bytes = vec![0; wanted as usize * PAGE_SIZE];
        // What the disk doesn't have yet, or never had, is zeros.
        shared.ext4.read(self.inode(), index * PAGE, &mut bytes).map_err(errno)?;
        let mut frames = Vec::new();
        for part in bytes.chunks(PAGE_SIZE) {
            match rumpuser_frame_alloc() {
                Ok(frame) => {
                    frame.write(0, part);
                    frames.push(frame);
                }
                Err(error) if frames.is_empty() => return Err(error.into()),
                Err(_) => break,
            }
        }
        let mut added = Vec::new();
        let result = {
            let mut state = cached.state.lock();
            for (frame, at) in frames.into_iter().zip(index..) {
                if state.pages.contains_key(&at) {
                    rumpuser_frame_release(frame);
                } else {
                    state.insert(at, frame, false, shared);
                    added.push(at);
                }
            }
            state.hold(index).ok_or(Errno::EIO)
        };
        drop(_transfer);
        shared.cached(&self.this()?, &added);
        result
    }

    /// Reads.
    pub(crate) fn read_cached(&self, mut offset: u64, sink: &mut Sink<'_>) -> Result<usize> {
        let mut done = 0;
        while sink.remaining() > 0 {
            let size = self.cached().state.lock().size;
            if offset >= size {
                break;
            }
            let within = (offset % PAGE) as usize;
            let left = usize::try_from(size - offset).unwrap_or(usize::MAX);
            let length = (PAGE_SIZE - within).min(left).min(sink.remaining());
            let frame = match self.page(offset / PAGE) {
                Ok(frame) => frame,
                // Cut off meanwhile.
                Err(Errno::ENXIO) => break,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            };
            let result = sink.put_frame(frame, within, length);
            rumpuser_frame_release(frame);
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

    /// Makes sure that the disk has room for pages.
    fn reserve(&self, pages: Range<u64>) -> Result<()> {
        {
            let state = self.cached().state.lock();
            if pages.clone().all(|index| state.pages.get(&index).is_some_and(|page| page.reserved)) {
                return Ok(());
            }
        }
        let _transfer = self.cached().transfer.read();
        let (offset, length) = (pages.start * PAGE, (pages.end - pages.start) * PAGE);
        self.shared().ext4.allocate(self.inode(), offset, length, true).map_err(errno)
    }

    /// Notes that a page changed. It is in the cache unless it was cut off meanwhile.
    fn mark_dirty(&self, index: u64) {
        let shared = self.shared();
        let mut state = self.cached().state.lock();
        let Some(page) = state.pages.get_mut(&index) else { return };
        page.reserved = true;
        page.used = true;
        if !page.dirty {
            page.dirty = true;
            shared.dirty_pages.fetch_add(1, Ordering::Relaxed);
        }
        state.modified = Some(now());
    }

    /// Writes at `offset`, or at the end; returns the bytes written and the position behind them.
    pub(crate) fn write_cached(&self, offset: Option<u64>, source: &mut Source<'_>) -> Result<(usize, u64)> {
        let shared = self.shared();
        let cached = self.cached();
        let writing = cached.writing.lock();
        let start = offset.unwrap_or_else(|| cached.state.lock().size);
        let wanted = source.remaining() as u64;
        if wanted == 0 {
            return Ok((0, start));
        }
        let end = start.checked_add(wanted).ok_or(Errno::EFBIG)?;
        // All at once if it fits; a full disk takes what it can, page by page.
        let together = match self.reserve(start / PAGE..end.div_ceil(PAGE)) {
            Ok(()) => true,
            Err(Errno::ENOSPC) => false,
            Err(error) => return Err(error),
        };
        let mut position = start;
        let mut failure = None;
        while source.remaining() > 0 {
            let (index, within) = (position / PAGE, (position % PAGE) as usize);
            let length = (PAGE_SIZE - within).min(source.remaining());
            let reserved = if together { Ok(()) } else { self.reserve(index..index + 1) };
            match reserved.and_then(|()| self.write_page(index, within, length, source)) {
                Ok(taken) => position += taken as u64,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        drop(writing);
        if position > start {
            shared.add_dirty(&self.this()?);
            self.throttle();
            return Ok(((position - start) as usize, position));
        }
        Err(failure.unwrap_or(Errno::EIO))
    }

    /// Writes a part of a page.
    fn write_page(&self, index: u64, within: usize, length: usize, source: &mut Source<'_>) -> Result<usize> {
        let cached = self.cached();
        let fresh = {
            let state = cached.state.lock();
            // Behind the end there is nothing to read.
            !state.pages.contains_key(&index) && index * PAGE >= state.size
        };
        let (frame, taken) = if fresh || length == PAGE_SIZE {
            // A whole page is put together aside, so that a source that fails leaves the old one.
            let new = rumpuser_frame_alloc()?;
            let taken = match source.take_frame(new, within, length) {
                Ok(taken) => taken,
                Err(error) => {
                    rumpuser_frame_release(new);
                    return Err(error);
                }
            };
            let held = {
                let mut state = cached.state.lock();
                if (fresh || taken == PAGE_SIZE) && !state.pages.contains_key(&index) {
                    state.insert(index, new, true, self.shared());
                    state.hold(index)
                } else {
                    None
                }
            };
            match held {
                Some(frame) => {
                    self.shared().cached(&self.this()?, &[index]);
                    (frame, taken)
                }
                None => {
                    let result = self.page_for_change(index).inspect(|frame| {
                        let mut bytes = [0; PAGE_SIZE];
                        new.read(0, &mut bytes);
                        frame.write(within, &bytes[within..within + taken]);
                    });
                    rumpuser_frame_release(new);
                    (result?, taken)
                }
            }
        } else {
            let frame = self.page_for_change(index)?;
            let taken = source.take_frame(frame, within, length);
            if taken.is_err() {
                rumpuser_frame_release(frame);
            }
            (frame, taken?)
        };
        {
            let mut state = cached.state.lock();
            state.size = state.size.max(index * PAGE + (within + taken) as u64);
        }
        self.mark_dirty(index);
        rumpuser_frame_release(frame);
        Ok(taken)
    }

    /// The page's frame, for a write that may reach behind the end of the file.
    fn page_for_change(&self, index: u64) -> Result<Frame> {
        match self.page(index) {
            Err(Errno::ENXIO) => {}
            result => return result,
        }
        let new = rumpuser_frame_alloc()?;
        let mut state = self.cached().state.lock();
        if !state.pages.contains_key(&index) {
            state.insert(index, new, true, self.shared());
        } else {
            rumpuser_frame_release(new);
        }
        let frame = state.hold(index).ok_or(Errno::EIO);
        drop(state);
        self.shared().cached(&self.this()?, &[index]);
        frame
    }

    /// As [`rumpkern::vm::Pager::page`].
    pub(crate) fn fault(&self, index: u64, write: bool) -> Result<Frame> {
        if index >= self.cached().state.lock().size.div_ceil(PAGE) {
            return Err(Errno::ENXIO);
        }
        let frame = self.page(index)?;
        if write {
            if let Err(error) = self.reserve(index..index + 1) {
                rumpuser_frame_release(frame);
                return Err(error);
            }
            self.mark_dirty(index);
            self.shared().add_dirty(&self.this()?);
        }
        Ok(frame)
    }

    /// Writes the changed pages to the disk (not yet durable), and with `times` the time of the change.
    pub(crate) fn flush(&self, times: bool) -> Result<()> {
        let cached = self.cached();
        let _flushing = cached.flushing.lock();
        let mut next = 0;
        while let Some(run) = self.next_run(next..u64::MAX, true) {
            // Programs that write to mapped pages must fault again, so that what they write from now on counts.
            // Without a lock: a fault that holds its address space may wait for this file.
            cached.mappings.write_protect(run.pages());
            let result = {
                let _transfer = cached.transfer.read();
                self.write_run(&run)
            };
            match result {
                Ok(end) => {
                    // What is left of a run that a truncation cut is looked at again.
                    for index in end..run.pages().end {
                        self.mark_dirty_again(index);
                    }
                    next = end.max(run.first + 1);
                }
                Err(error) => {
                    for index in run.pages() {
                        self.mark_dirty_again(index);
                    }
                    return Err(error);
                }
            }
        }
        if !times {
            return Ok(());
        }
        let modified = cached.state.lock().modified.take();
        modified.map_or(Ok(()), |modified| self.store_modified(modified))
    }

    /// Writes the changed pages of a range while `transfer` is held exclusively. They count as changed still:
    /// programs may be writing to them.
    fn write_out(&self, range: Range<u64>) -> Result<()> {
        let mut next = range.start;
        while let Some(run) = self.next_run(next..range.end, false) {
            next = self.write_run(&run)?.max(run.first + 1);
        }
        Ok(())
    }

    /// The next changed pages that follow each other.
    fn next_run(&self, range: Range<u64>, clean: bool) -> Option<Run> {
        let mut run = Run { first: range.start, frames: Vec::new() };
        if range.is_empty() {
            return None;
        }
        let mut state = self.cached().state.lock();
        for (&index, page) in state.pages.range_mut(range) {
            if run.frames.is_empty() {
                if !page.dirty {
                    continue;
                }
                run.first = index;
            } else if !page.dirty || index != run.pages().end || run.frames.len() == WRITE_RUN {
                break;
            }
            if clean {
                page.dirty = false;
                self.shared().dirty_pages.fetch_sub(1, Ordering::Relaxed);
            }
            rumpuser_frame_retain(page.frame);
            run.frames.push(page.frame);
        }
        drop(state);
        (!run.frames.is_empty()).then_some(run)
    }

    /// Writes pages, up to the first that has left the cache (it was cut off); returns where it stopped.
    /// `transfer` is held.
    fn write_run(&self, run: &Run) -> Result<u64> {
        let (count, size) = {
            let state = self.cached().state.lock();
            let still_there = run.frames.iter().zip(run.first..).take_while(|(frame, index)| {
                state.pages.get(index).is_some_and(|page| page.frame == **frame)
            });
            (still_there.count(), state.size)
        };
        let end = run.first + count as u64;
        let length = size.saturating_sub(run.first * PAGE).min(count as u64 * PAGE) as usize;
        if length == 0 {
            return Ok(end);
        }
        let mut bytes = vec![0; count * PAGE_SIZE];
        for (frame, part) in run.frames.iter().zip(bytes.chunks_mut(PAGE_SIZE)) {
            frame.read(0, part);
        }
        let done = self.shared().ext4.write_back(self.inode(), run.first * PAGE, &bytes[..length]);
        if done.map_err(errno)? == length { Ok(end) } else { Err(Errno::ENOSPC) }
    }

    fn mark_dirty_again(&self, index: u64) {
        let mut state = self.cached().state.lock();
        if let Some(page) = state.pages.get_mut(&index)
            && !page.dirty
        {
            page.dirty = true;
            self.shared().dirty_pages.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// truncate(2).
    pub(crate) fn resize(&self, size: u64) -> Result<()> {
        let shared = self.shared();
        let cached = self.cached();
        let _writing = cached.writing.lock();
        let old = {
            let _transfer = cached.transfer.write();
            let old = cached.state.lock().size;
            if size < old {
                // What is cut off needs not be written; the page in the middle is.
                let mut state = cached.state.lock();
                state.remove(size.div_ceil(PAGE)..u64::MAX, shared);
                let within = (size % PAGE) as usize;
                if within > 0
                    && let Some(page) = state.pages.get(&(size / PAGE))
                {
                    page.frame.fill(within, PAGE_SIZE - within, 0);
                }
                state.size = size;
            }
            shared.ext4.truncate(self.inode(), size).map_err(errno)?;
            let mut state = cached.state.lock();
            state.size = size;
            state.modified = None;
            old
        };
        shared.note_change();
        if size < old {
            cached.mappings.revoke(size.div_ceil(PAGE)..u64::MAX, false);
        }
        Ok(())
    }

    /// fallocate(2).
    pub(crate) fn allocate_space(
        &self,
        offset: u64,
        length: u64,
        punch: bool,
        keep_size: bool,
    ) -> Result<()> {
        let shared = self.shared();
        let cached = self.cached();
        let end = offset.checked_add(length).ok_or(Errno::EFBIG)?;
        let _writing = cached.writing.lock();
        let pages = offset / PAGE..end.div_ceil(PAGE);
        if punch {
            cached.mappings.revoke(pages.clone(), true);
            {
                let _transfer = cached.transfer.write();
                self.write_out(pages.clone())?;
                shared.ext4.punch_hole(self.inode(), offset, length).map_err(errno)?;
                cached.state.lock().remove(pages.clone(), shared);
            }
            cached.mappings.revoke(pages, true);
        } else {
            // The disk must know the size that it had, so that the space behind it counts as unused.
            let _transfer = cached.transfer.write();
            self.write_out(0..u64::MAX)?;
            let size = cached.state.lock().size;
            shared.ext4.allocate(self.inode(), offset, length, keep_size || end <= size).map_err(errno)?;
            if !keep_size {
                let mut state = cached.state.lock();
                state.size = state.size.max(end);
            }
        }
        shared.note_change();
        Ok(())
    }

    /// lseek(2) with SEEK_DATA or SEEK_HOLE.
    pub(crate) fn seek_cached(&self, offset: u64, hole: bool) -> Result<u64> {
        let cached = self.cached();
        let _transfer = cached.transfer.write();
        self.write_out(0..u64::MAX)?;
        let ext4 = &self.shared().ext4;
        let found =
            if hole { ext4.seek_hole(self.inode(), offset) } else { ext4.seek_data(self.inode(), offset) };
        found.map_err(errno)?.ok_or(Errno::ENXIO)
    }

    /// Takes a page out of the cache if nobody needs it. What to do if it stays: try again later, or never.
    pub(crate) fn give_up(&self, index: u64) -> GiveUp {
        let mut state = self.cached().state.lock();
        let Some(page) = state.pages.get_mut(&index) else { return GiveUp::Gone };
        if page.used {
            page.used = false;
            return GiveUp::Kept;
        }
        // A frame that is mapped, or that a copy is under way to, has more references than the cache's.
        if page.dirty || rumpuser_frame_references(page.frame) > 1 {
            return GiveUp::Kept;
        }
        if let Some(page) = state.pages.remove(&index) {
            forget(&page, self.shared());
        }
        GiveUp::Gone
    }
}

/// What became of a page that was to leave the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GiveUp {
    /// It is not in the cache any more.
    Gone,
    /// It is needed.
    Kept,
}

impl Node {
    /// Makes a writer wait while too much waits to be written.
    fn throttle(&self) {
        let shared: &Arc<Shared> = self.shared();
        if shared.dirty_pages.load(Ordering::Relaxed) > shared.limit / 2 {
            shared.keep_failure(self.flush(true));
        }
    }
}
