//! Data of a regular file. It is in the cache of NetBSD's kernel; pages are kept here only of what programs map, and
//! stand before it as long as they are here.
//!
//! Locks, in this order: `flushing` (a flush waits for the one before), `writing` (a write from its first to its last
//! byte), `io` (the kernel's data and the pages here are brought together), `state`. Page faults take `io` and `state`;
//! so mappings are never revoked, nor user memory copied, with either held.

use alloc::{collections::BTreeMap, vec::Vec};
use core::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use rumpkern::{
    Errno, Result,
    mappings::Mappings,
    uio::{Sink, Source},
};
use rumpuser::{
    Frame, memory::PAGE_SIZE, rumpuser_frame_alloc, rumpuser_frame_references, rumpuser_frame_release,
    rumpuser_frame_retain, sync::Mutex,
};

use super::{Shared, node::Node, system};
use crate::call::{BUFFER, Caller};

const PAGE: u64 = PAGE_SIZE as u64;

/// A page, with a reference on its frame.
struct Page {
    frame: Frame,
    /// Changed since it was last given to the kernel.
    dirty: bool,
    /// The file has room for it on the disk.
    reserved: bool,
}

struct State {
    size: u64,
    pages: BTreeMap<u64, Page>,
}

/// See the module.
pub struct Content {
    flushing: Mutex<()>,
    writing: Mutex<()>,
    io: Mutex<()>,
    state: Mutex<State>,
    /// Pages that are here.
    count: AtomicUsize,
    /// Who maps the file.
    pub mappings: Mappings,
}

/// A frame with a reference of its own.
struct Held(Frame);

impl Drop for Held {
    fn drop(&mut self) {
        rumpuser_frame_release(self.0);
    }
}

impl Content {
    /// Of a file of `size` bytes.
    pub fn new(size: u64) -> Self {
        Content {
            flushing: Mutex::new(()),
            writing: Mutex::new(()),
            io: Mutex::new(()),
            state: Mutex::new(State { size, pages: BTreeMap::new() }),
            count: AtomicUsize::new(0),
            mappings: Mappings::new(),
        }
    }

    fn size(&self) -> u64 {
        self.state.lock().size
    }

    fn hold(&self, index: u64) -> Option<Held> {
        let state = self.state.lock();
        let frame = state.pages.get(&index)?.frame;
        rumpuser_frame_retain(frame);
        Some(Held(frame))
    }

    /// How many pages from an index on are not here, at most `most`.
    fn absent(&self, index: u64, most: u64) -> u64 {
        let end = index.saturating_add(most);
        let state = self.state.lock();
        state.pages.range(index..end).next().map_or(most, |(&next, _)| next - index)
    }

    fn insert(&self, index: u64, frame: Frame) {
        let old = self.state.lock().pages.insert(index, Page { frame, dirty: false, reserved: false });
        match old {
            Some(old) => rumpuser_frame_release(old.frame),
            None => _ = self.count.fetch_add(1, Ordering::Relaxed),
        }
    }

    fn forget(&self, page: &Page, shared: &Shared) {
        rumpuser_frame_release(page.frame);
        self.count.fetch_sub(1, Ordering::Relaxed);
        if page.dirty {
            shared.dirty_pages.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// All pages go. For the end of the file's life.
    pub fn discard(&self, shared: &Shared) {
        let pages = core::mem::take(&mut self.state.lock().pages);
        pages.values().for_each(|page| self.forget(page, shared));
    }

    /// Pages that nobody maps, and that the kernel has as well, go; returns how many.
    pub fn shrink(&self, shared: &Shared, most: usize) -> usize {
        if self.count.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let mut gone = Vec::new();
        // Who holds it may be waiting for memory.
        let Some(mut state) = self.state.try_lock() else { return 0 };
        state.pages.retain(|_, page| {
            let needed = page.dirty || rumpuser_frame_references(page.frame) > 1 || gone.len() >= most;
            if !needed {
                gone.push(page.frame);
            }
            needed
        });
        drop(state);
        for &frame in &gone {
            self.forget(&Page { frame, dirty: false, reserved: false }, shared);
        }
        gone.len()
    }
}

impl Node {
    /// Reads.
    pub(super) fn read_content(&self, mut offset: u64, sink: &mut Sink<'_>) -> Result<usize> {
        let mut total = 0;
        while sink.remaining() > 0 {
            let mut size = self.content.size();
            if offset >= size {
                size = self.follow()?;
            }
            if offset >= size {
                break;
            }
            let left = usize::try_from(size - offset).unwrap_or(usize::MAX).min(sink.remaining());
            match self.read_some(offset, left, sink) {
                Ok(0) => break,
                Ok(taken) => {
                    total += taken;
                    offset += taken as u64;
                }
                Err(_) if total > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }

    /// Reads a part that is all here or all not here.
    fn read_some(&self, offset: u64, left: usize, sink: &mut Sink<'_>) -> Result<usize> {
        let (index, within) = (offset / PAGE, (offset % PAGE) as usize);
        let mut length = left.min(BUFFER);
        if self.content.count.load(Ordering::Acquire) > 0 {
            if let Some(page) = self.content.hold(index) {
                return sink.put_frame(page.0, within, (PAGE_SIZE - within).min(left));
            }
            let pages = (BUFFER / PAGE_SIZE) as u64;
            length = length.min(self.content.absent(index, pages) as usize * PAGE_SIZE - within);
        }
        let mut caller = Caller::borrow()?;
        let count =
            self.with_descriptor(|descriptor| system::read(&mut caller, descriptor, length, offset))?;
        if count == 0 { Ok(0) } else { sink.put(&caller.buffer()[..count]) }
    }

    /// Writes at `offset`, or at the end; returns the bytes written and the position behind them.
    pub(super) fn write_content(&self, offset: Option<u64>, source: &mut Source<'_>) -> Result<(usize, u64)> {
        let content = &self.content;
        let _writing = content.writing.lock();
        let start = match offset {
            Some(offset) => offset,
            None => self.follow()?,
        };
        let mut position = start;
        while source.remaining() > 0 {
            let mut caller = Caller::borrow()?;
            let step = source.take(caller.buffer()).and_then(|length| {
                let _io = content.io.lock();
                let count = self
                    .with_descriptor(|descriptor| system::write(&mut caller, descriptor, length, position))?;
                self.written(position, &caller.buffer()[..count]);
                Ok((length, count))
            });
            match step {
                Ok((length, count)) => {
                    position += count as u64;
                    if count < length {
                        break;
                    }
                }
                Err(_) if position > start => break,
                Err(error) => return Err(error),
            }
        }
        Ok(((position - start) as usize, position))
    }

    /// The kernel has new data: so have the pages.
    fn written(&self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        let mut state = self.content.state.lock();
        state.size = state.size.max(end);
        for (&index, page) in state.pages.range(offset / PAGE..end.div_ceil(PAGE)) {
            let from = offset.max(index * PAGE);
            let to = end.min((index + 1) * PAGE);
            page.frame
                .write((from % PAGE) as usize, &bytes[(from - offset) as usize..(to - offset) as usize]);
        }
    }

    /// As [`rumpkern::vm::Pager::page`].
    pub(super) fn fault(&self, index: u64, write: bool) -> Result<Frame> {
        let content = &self.content;
        if index >= content.size().div_ceil(PAGE) && index >= self.follow()?.div_ceil(PAGE) {
            return Err(Errno::ENXIO);
        }
        let page = match content.hold(index) {
            Some(page) => page,
            None => {
                let _io = content.io.lock();
                match content.hold(index) {
                    Some(page) => page,
                    None => self.bring(index)?,
                }
            }
        };
        if write {
            self.prepare_change(index)?;
        }
        let frame = page.0;
        core::mem::forget(page);
        Ok(frame)
    }

    /// Brings a page from the kernel, and some behind it. `io` is held.
    fn bring(&self, index: u64) -> Result<Held> {
        let content = &self.content;
        let end = content.size().div_ceil(PAGE);
        if index >= end {
            return Err(Errno::ENXIO);
        }
        let wanted = content.absent(index, ((BUFFER / PAGE_SIZE) as u64).min(end - index)) as usize;
        let mut caller = Caller::borrow()?;
        let length = wanted * PAGE_SIZE;
        let count =
            self.with_descriptor(|descriptor| system::read(&mut caller, descriptor, length, index * PAGE))?;
        caller.buffer()[count..length].fill(0);
        for (at, bytes) in (index..).zip(caller.buffer()[..length].chunks(PAGE_SIZE)) {
            match rumpuser_frame_alloc() {
                Ok(frame) => {
                    frame.write(0, bytes);
                    content.insert(at, frame);
                }
                Err(error) if at == index => return Err(error.into()),
                Err(_) => break,
            }
        }
        content.hold(index).ok_or(Errno::EIO)
    }

    /// A page is about to be changed by a program that maps it: the disk must have room for it, and it is to be written.
    fn prepare_change(&self, index: u64) -> Result<()> {
        let content = &self.content;
        let _io = content.io.lock();
        let (reserved, size) = {
            let state = content.state.lock();
            (state.pages.get(&index).is_none_or(|page| page.reserved), state.size)
        };
        if !reserved {
            self.write_pages(index..index + 1, size)?;
        }
        let mut state = content.state.lock();
        // Cut off meanwhile: the program has the frame for itself.
        let Some(page) = state.pages.get_mut(&index) else { return Ok(()) };
        page.reserved = true;
        if !core::mem::replace(&mut page.dirty, true) {
            self.shared().dirty_pages.fetch_add(1, Ordering::Relaxed);
            drop(state);
            self.shared().add_dirty(&self.this()?);
        }
        Ok(())
    }

    /// Gives pages to the kernel, as far as they are here and inside the file. `io` is held.
    fn write_pages(&self, pages: Range<u64>, size: u64) -> Result<()> {
        let mut caller = Caller::borrow()?;
        for index in pages {
            let Some(page) = self.content.hold(index) else { continue };
            let offset = index * PAGE;
            let length = usize::try_from(size.saturating_sub(offset)).unwrap_or(PAGE_SIZE).min(PAGE_SIZE);
            page.0.read(0, &mut caller.buffer()[..length]);
            let done =
                self.with_descriptor(|descriptor| system::write(&mut caller, descriptor, length, offset))?;
            if done < length {
                return Err(Errno::ENOSPC);
            }
        }
        Ok(())
    }

    /// Gives all changed pages to the kernel.
    pub(super) fn flush(&self) -> Result<()> {
        let content = &self.content;
        if content.count.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        let _flushing = content.flushing.lock();
        let mut outcome = Ok(());
        // Held, so that none is given up before it is written.
        let (changed, _held) = self.take_dirty();
        for pages in changed {
            // Programs that write to mapped pages must fault again, so that what they write from now on counts.
            content.mappings.write_protect(pages.clone());
            let result = {
                let _io = content.io.lock();
                let size = content.size();
                self.write_pages(pages.clone(), size)
            };
            if result.is_err() {
                self.mark_dirty(pages);
                outcome = outcome.and(result);
            }
        }
        outcome
    }

    /// The changed pages, which count as unchanged from now on.
    fn take_dirty(&self) -> (Vec<Range<u64>>, Vec<Held>) {
        let (mut found, mut held): (Vec<Range<u64>>, Vec<Held>) = Default::default();
        let mut state = self.content.state.lock();
        for (&index, page) in state.pages.iter_mut().filter(|(_, page)| page.dirty) {
            page.dirty = false;
            self.shared().dirty_pages.fetch_sub(1, Ordering::Relaxed);
            rumpuser_frame_retain(page.frame);
            held.push(Held(page.frame));
            match found.last_mut() {
                Some(last) if last.end == index => last.end += 1,
                _ => found.push(index..index + 1),
            }
        }
        (found, held)
    }

    fn mark_dirty(&self, pages: Range<u64>) {
        let mut state = self.content.state.lock();
        for (_, page) in state.pages.range_mut(pages).filter(|(_, page)| !page.dirty) {
            page.dirty = true;
            self.shared().dirty_pages.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Follows what other machines did to the file; returns its size. Pages that this machine didn't change, and that
    /// others may have, are read anew when they are used.
    pub(super) fn follow(&self) -> Result<u64> {
        let content = &self.content;
        if !self.shared().is_remote() {
            return Ok(content.size());
        }
        content.shrink(self.shared(), usize::MAX);
        let (size, changed) = {
            let _io = content.io.lock();
            let stat = self.with_descriptor(system::stat)?;
            let size = u64::try_from(stat.size).unwrap_or(0);
            let mut state = content.state.lock();
            let (from, end) = (size.min(state.size) / PAGE, size.div_ceil(PAGE));
            if size == state.size {
                return Ok(size);
            }
            state.size = size;
            let beyond = state.pages.split_off(&from);
            let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
                beyond.into_iter().partition(|(index, page)| page.dirty && *index < end);
            state.pages.extend(kept);
            drop(state);
            gone.values().for_each(|page| content.forget(page, self.shared()));
            (size, from)
        };
        content.mappings.revoke(changed..u64::MAX, true);
        Ok(size)
    }

    /// truncate(2).
    pub(super) fn resize(&self, size: u64) -> Result<()> {
        let content = &self.content;
        let _writing = content.writing.lock();
        let end = size.div_ceil(PAGE);
        {
            let _io = content.io.lock();
            self.with_descriptor(|descriptor| system::truncate(descriptor, size))?;
            let mut state = content.state.lock();
            let gone = state.pages.split_off(&end);
            // What is beyond the new end, or was beyond the old one, reads as zeros.
            let border = size.min(state.size);
            let within = (border % PAGE) as usize;
            if within > 0
                && let Some(page) = state.pages.get(&(border / PAGE))
            {
                page.frame.fill(within, PAGE_SIZE - within, 0);
            }
            state.size = size;
            drop(state);
            gone.values().for_each(|page| content.forget(page, self.shared()));
        }
        content.mappings.revoke(end..u64::MAX, false);
        Ok(())
    }
}
