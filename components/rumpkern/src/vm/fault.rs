//! Page faults: the pages that a program touches are found, made, or copied here.
//!
//! What makes it fast: a program that touches anonymous memory in order gets ever larger runs of zeroed
//! pages, then large pages; files that lie in memory are mapped a window at a time; a page that nobody else
//! refers to is made writable in place, its neighbours along with it.

use alloc::sync::Arc;
use core::{ops::Range, sync::atomic::Ordering};

use rumpuser::{
    Frame, Protection,
    memory::{LARGE_PAGE_SIZE, PAGE_SIZE, USER_END},
    rumpuser_frame_alloc, rumpuser_frame_alloc_uninitialised, rumpuser_frame_references,
    rumpuser_frame_release, rumpuser_frame_retain, rumpuser_frames_alloc, rumpuser_memory_statistics,
    sync::{Mutex, RwLockReadGuard},
};

use super::{
    Limit, Pager, Space,
    entry::{Backing, Entry, EntryFlags},
    map::GUARD_GAP,
    space::Contents,
};
use crate::Errno;

/// Why an access cannot be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultError {
    /// Nothing is mapped there: SIGSEGV with SEGV_MAPERR.
    NotMapped,
    /// The mapping forbids it: SIGSEGV with SEGV_ACCERR.
    Protection,
    /// The object has no such page, or it could not be read: SIGBUS with BUS_ADRERR.
    BusError,
    /// There is no memory left.
    OutOfMemory,
}

impl From<Errno> for FaultError {
    fn from(error: Errno) -> Self {
        if error == Errno::ENOMEM { FaultError::OutOfMemory } else { FaultError::BusError }
    }
}

impl From<rumpuser::OutOfMemory> for FaultError {
    fn from(_: rumpuser::OutOfMemory) -> Self {
        FaultError::OutOfMemory
    }
}

impl From<FaultError> for Errno {
    fn from(error: FaultError) -> Self {
        if error == FaultError::OutOfMemory { Errno::ENOMEM } else { Errno::EFAULT }
    }
}

type Result<T> = core::result::Result<T, FaultError>;

/// Why a fault is not resolved yet.
enum Unresolved {
    /// It cannot be.
    Error(FaultError),
    /// The object has to be asked for a page, without the lock on the map: it may take long, and may revoke.
    Ask(Question),
}

impl<E: Into<FaultError>> From<E> for Unresolved {
    fn from(error: E) -> Self {
        Unresolved::Error(error.into())
    }
}

type Step = core::result::Result<(), Unresolved>;

/// A page of an object that a fault needs.
struct Question {
    pager: Arc<dyn Pager>,
    index: u64,
    write: bool,
    generation: u64,
}

/// What the object gave. It holds for as long as nothing is revoked.
struct Answer {
    question: Question,
    frame: Frame,
}

impl Drop for Answer {
    fn drop(&mut self) {
        rumpuser_frame_release(self.frame);
    }
}

/// The most pages mapped around a fault on a file (a power of two).
const FILE_WINDOW: usize = 32;
/// The largest run of zeroed pages, as a power of two.
const RUN_ORDER: u32 = 6;
/// Pages made writable along with the one that was written.
const UPGRADE_WINDOW: usize = 32;
const FRAMES_PER_LARGE_PAGE: usize = LARGE_PAGE_SIZE / PAGE_SIZE;

/// The frame of zeros that stands for anonymous pages which were only read.
fn zero_frame() -> Result<Frame> {
    static ZERO: Mutex<Option<Frame>> = Mutex::new(None);
    static NUMBER: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(u64::MAX);
    let number = NUMBER.load(Ordering::Acquire);
    if number != u64::MAX {
        return Ok(Frame(number));
    }
    let mut zero = ZERO.lock();
    let frame = match *zero {
        Some(frame) => frame,
        None => rumpuser_frame_alloc()?,
    };
    *zero = Some(frame);
    NUMBER.store(frame.0, Ordering::Release);
    Ok(frame)
}

/// Whether there is room for a run of pages of which some may never be used. Asked only where the run is long.
fn memory_for_run(order: u32) -> bool {
    order < 4 || rumpuser_memory_statistics().free >= (PAGE_SIZE << (order + 4)) as u64
}

/// Whether memory is so ample that large pages may be spent on a guess.
fn memory_ample() -> bool {
    let memory = rumpuser_memory_statistics();
    memory.free > memory.total / 4 && memory.free > 64 << 20
}

#[allow(unsafe_code, reason = "copies one page to another")]
fn copy_frame(from: Frame, to: Frame) {
    // SAFETY: the caller holds references on both; `to` is new, so nobody else refers to its bytes, and the
    // bytes of `from` are only copied.
    unsafe { to.bytes_mut().copy_from_slice(from.bytes()) }
}

/// A fault on one page, with the map held.
struct Fault<'a> {
    space: &'a Space,
    entry: &'a Entry,
    start: usize,
    page: usize,
    write: bool,
    generation: u64,
    answer: Option<&'a Answer>,
}

impl Space {
    /// Resolves a page fault, or says why the access is not allowed. `write` and `execute` as the CPU says.
    pub fn fault(&self, address: usize, write: bool, execute: bool) -> Result<()> {
        if address >= USER_END {
            return Err(FaultError::NotMapped);
        }
        let page = address & !(PAGE_SIZE - 1);
        let mut answer: Option<Answer> = None;
        loop {
            let mut contents = self.map.read();
            if contents.map.find(address).is_none() {
                contents = self.grow_stack(contents, address)?;
            }
            let (start, entry) = contents.map.find(address).ok_or(FaultError::NotMapped)?;
            let allowed = if write {
                entry.protection.contains(Protection::WRITE)
            } else if execute {
                entry.protection.contains(Protection::EXECUTE)
            } else {
                !entry.protection.is_empty()
            };
            if !allowed {
                return Err(FaultError::Protection);
            }
            let generation = contents.generation;
            let fault = Fault { space: self, entry, start, page, write, generation, answer: answer.as_ref() };
            let question = match fault.resolve() {
                Ok(()) => return Ok(()),
                Err(Unresolved::Error(error)) => return Err(error),
                Err(Unresolved::Ask(question)) => question,
            };
            drop(contents);
            let frame = question.pager.page(question.index, question.write)?;
            answer = Some(Answer { question, frame });
        }
    }

    /// Faults in all of `range` that is mapped and accessible, for writing where that makes a private page.
    /// Stops at the first page that cannot be had; returns whether all could.
    pub fn populate(&self, range: Range<usize>, stop_at_holes: bool) -> bool {
        let mut address = range.start;
        while address < range.end {
            let (part, write) = {
                let contents = self.map.read();
                let found = contents.map.find(address).or_else(|| contents.map.above(address));
                let Some((start, entry)) = found.filter(|&(start, _)| start < range.end) else {
                    return !stop_at_holes;
                };
                if stop_at_holes && (start > address || entry.protection.is_empty()) {
                    return false;
                }
                let write = entry.protection.contains(Protection::WRITE) && !entry.shared();
                let part = address.max(start)..entry.end.min(range.end);
                if entry.protection.is_empty() {
                    address = part.end;
                    continue;
                }
                (part, write)
            };
            for page in part.clone().step_by(PAGE_SIZE) {
                let missing = match self.pmap.query(page) {
                    Some((_, protection)) => write && !protection.contains(Protection::WRITE),
                    None => true,
                };
                if missing && self.fault(page, write, false).is_err() {
                    return false;
                }
            }
            address = part.end;
        }
        true
    }

    /// Lets the stack above `address` grow down to it.
    fn grow_stack<'a>(
        &'a self,
        contents: RwLockReadGuard<'a, Contents>,
        address: usize,
    ) -> Result<RwLockReadGuard<'a, Contents>> {
        let grows = |contents: &Contents| {
            contents.map.above(address).is_some_and(|(_, entry)| entry.flags.contains(EntryFlags::GROWS_DOWN))
        };
        if !grows(&contents) {
            return Err(FaultError::NotMapped);
        }
        drop(contents);
        let mut exclusive = self.map.write();
        let map = &mut exclusive.map;
        // Another thread may have been here meanwhile.
        if map.find(address).is_none() {
            let (start, entry) = map.above(address).ok_or(FaultError::NotMapped)?;
            let page = address & !(PAGE_SIZE - 1);
            let lowest = entry.end.saturating_sub(self.limit(Limit::Stack)).max(super::map::LOWEST);
            let floor = match map.below(start) {
                // Guard pages made by the program itself may be close.
                Some((_, below)) if below.protection.is_empty() => below.end,
                Some((_, below)) => below.end.saturating_add(GUARD_GAP),
                None => 0,
            };
            if !entry.flags.contains(EntryFlags::GROWS_DOWN) || page < lowest.max(floor) {
                return Err(FaultError::NotMapped);
            }
            // A few pages more than asked for, so that this happens less often.
            let target =
                (page & !(16 * PAGE_SIZE - 1)).max(lowest.next_multiple_of(PAGE_SIZE)).max(floor).min(page);
            if map.total + (start - target) > self.limit(Limit::AddressSpace) {
                return Err(FaultError::NotMapped);
            }
            map.grow_down(start, target);
            self.note_total(map);
        }
        drop(exclusive);
        Ok(self.map.read())
    }
}

impl Fault<'_> {
    fn resolve(&self) -> Step {
        match &self.entry.backing {
            Backing::Anonymous => self.anonymous(),
            Backing::Pager { pager, .. } => {
                let index = self.index_of(self.page);
                if !self.write {
                    self.read_object(pager)
                } else if self.entry.shared() {
                    self.write_shared(pager, index)
                } else {
                    self.write_private(pager, index)
                }
            }
        }
    }

    fn index_of(&self, address: usize) -> u64 {
        self.entry.page_index(self.start, address).map_or(0, |(_, index)| index)
    }

    /// The frame of the object's page `index`, if the object was asked for it already.
    fn ask(
        &self,
        pager: &Arc<dyn Pager>,
        index: u64,
        write: bool,
    ) -> core::result::Result<Frame, Unresolved> {
        match self.answer {
            Some(Answer { question, frame })
                if question.generation == self.generation
                    && (question.index, question.write) == (index, write)
                    && Arc::ptr_eq(&question.pager, pager) =>
            {
                rumpuser_frame_retain(*frame);
                Ok(*frame)
            }
            _ => {
                let (pager, generation) = (pager.clone(), self.generation);
                Err(Unresolved::Ask(Question { pager, index, write, generation }))
            }
        }
    }

    fn read_only(&self) -> Protection {
        self.entry.access() - Protection::WRITE
    }

    /// The 2 MiB around the page, as far as the entry reaches.
    fn region(&self) -> Range<usize> {
        let start = self.page & !(LARGE_PAGE_SIZE - 1);
        start.max(self.start)..(start + LARGE_PAGE_SIZE).min(self.entry.end)
    }

    /// The aligned 2 MiB around the page, if the entry has all of it and nothing of it is mapped.
    fn vacant_large_page(&self) -> Option<usize> {
        let region = self.region();
        if region.end - region.start < LARGE_PAGE_SIZE {
            return None;
        }
        let mut vacant = true;
        self.space.pmap.for_each(region.clone(), &mut |_, _, _| vacant = false);
        vacant.then_some(region.start)
    }

    fn anonymous(&self) -> Step {
        let pmap = &self.space.pmap;
        let _stripe = self.space.stripe(self.page).lock();
        if let Some((frame, present)) = pmap.query(self.page) {
            return self.present(frame, present);
        }
        if !self.write {
            let zero = zero_frame()?;
            rumpuser_frame_retain(zero);
            return Ok(pmap.enter(self.page, zero, self.read_only())?);
        }
        let order = self.run_order();
        let huge = self.entry.flags.contains(EntryFlags::HUGE);
        if (huge || order >= RUN_ORDER)
            && !self.entry.flags.contains(EntryFlags::NO_HUGE)
            && memory_ample()
            && let Some(start) = self.vacant_large_page()
            && let Ok(frame) = rumpuser_frames_alloc(FRAMES_PER_LARGE_PAGE.trailing_zeros())
        {
            self.entry.cursor.store((start + LARGE_PAGE_SIZE) | RUN_ORDER as usize, Ordering::Relaxed);
            return Ok(pmap.enter_large(start, frame, self.entry.access())?);
        }
        self.zeroed_run(order)
    }

    /// How many pages (as a power of two) to map: doubled each time that faults come in order.
    fn run_order(&self) -> u32 {
        let cursor = self.entry.cursor.load(Ordering::Relaxed);
        let (next, order) = (cursor & !(PAGE_SIZE - 1), (cursor & (PAGE_SIZE - 1)) as u32);
        if next == self.page {
            (order + 1).min(RUN_ORDER)
        } else if self.page == self.start {
            2
        } else {
            0
        }
    }

    /// Maps zeroed pages from the faulting one on.
    fn zeroed_run(&self, pace: u32) -> Step {
        let pmap = &self.space.pmap;
        let room = (self.region().end - self.page) / PAGE_SIZE;
        let mut order = pace.min(room.ilog2());
        if !memory_for_run(order) {
            order = 0;
        }
        let run = if order > 0 { rumpuser_frames_alloc(order).ok() } else { None };
        let mut frames = [Frame(0); 1 << RUN_ORDER];
        let count = match run {
            Some(first) => {
                let count = 1usize << order;
                for (page, frame) in frames[..count].iter_mut().enumerate() {
                    *frame = Frame(first.0 + page as u64);
                }
                count
            }
            None => {
                frames[0] = rumpuser_frame_alloc()?;
                1
            }
        };
        self.entry.cursor.store((self.page + count * PAGE_SIZE) | pace as usize, Ordering::Relaxed);
        if count == 1 {
            return Ok(pmap.enter(self.page, frames[0], self.entry.access())?);
        }
        Ok(pmap.enter_absent(self.page, &frames[..count], self.entry.access())?)
    }

    /// The page is mapped, but not for this access. The stripe is held.
    fn present(&self, frame: Frame, present: Protection) -> Step {
        let pmap = &self.space.pmap;
        let page = self.page..self.page + PAGE_SIZE;
        if !self.write {
            let wanted = self.read_only() | (present & self.entry.access());
            if present != wanted {
                pmap.protect(page, wanted);
            }
            return Ok(());
        }
        if present.contains(Protection::WRITE) {
            return Ok(());
        }
        if rumpuser_frame_references(frame) == 1 {
            self.upgrade();
            return Ok(());
        }
        let zero = zero_frame()? == frame;
        let copy = if zero { rumpuser_frame_alloc()? } else { rumpuser_frame_alloc_uninitialised()? };
        if !zero {
            copy_frame(frame, copy);
        }
        self.entry.copied.store(true, Ordering::Relaxed);
        Ok(pmap.enter(self.page, copy, self.entry.access())?)
    }

    /// Makes the page writable, and those behind it that are likewise nobody else's.
    fn upgrade(&self) {
        let pmap = &self.space.pmap;
        let until = (self.page + UPGRADE_WINDOW * PAGE_SIZE).min(self.region().end);
        let mut end = self.page + PAGE_SIZE;
        if matches!(self.entry.backing, Backing::Anonymous) {
            pmap.for_each(end..until, &mut |address, frame, _| {
                if address == end && rumpuser_frame_references(frame) == 1 {
                    end += PAGE_SIZE;
                }
            });
        }
        pmap.protect(self.page..end, self.entry.access());
    }

    /// A read of an object's page: maps what lies around it too, if it is at hand.
    fn read_object(&self, pager: &Arc<dyn Pager>) -> Step {
        let pmap = &self.space.pmap;
        {
            let _stripe = self.space.stripe(self.page).lock();
            if let Some((frame, present)) = pmap.query(self.page) {
                return self.present(frame, present);
            }
            if self.large_from_object(&**pager)? {
                return Ok(());
            }
        }
        let region = self.region();
        let window = (self.page & !(FILE_WINDOW * PAGE_SIZE - 1)).max(region.start);
        let window = window..(window + FILE_WINDOW * PAGE_SIZE).min(region.end);
        let mut frames = [Frame(0); FILE_WINDOW];
        let lead = (self.page - window.start) / PAGE_SIZE;
        let length = (window.end - window.start) / PAGE_SIZE;
        let mut from = window.start;
        let mut count = pager.pages(self.index_of(from), false, &mut frames[..length]);
        if count <= lead {
            frames[..count].iter().copied().for_each(rumpuser_frame_release);
            from = self.page;
            count = if lead > 0 {
                pager.pages(self.index_of(from), false, &mut frames[..length - lead])
            } else {
                0
            };
        }
        if count == 0 {
            frames[0] = self.ask(pager, self.index_of(self.page), false)?;
            count = 1;
        }
        let _stripe = self.space.stripe(self.page).lock();
        Ok(pmap.enter_absent(from, &frames[..count], self.read_only())?)
    }

    /// Maps a large page where the object is contiguous in memory and the addresses agree.
    fn large_from_object(&self, pager: &dyn Pager) -> Result<bool> {
        let large = self.region();
        if large.end - large.start < LARGE_PAGE_SIZE {
            return Ok(false);
        }
        let index = self.index_of(large.start);
        if pager.contiguous(index) < FRAMES_PER_LARGE_PAGE as u64 {
            return Ok(false);
        }
        let first = pager.page(index, false)?;
        if !first.0.is_multiple_of(FRAMES_PER_LARGE_PAGE as u64) || self.vacant_large_page().is_none() {
            rumpuser_frame_release(first);
            return Ok(false);
        }
        if rumpuser_frame_references(first) != u32::MAX {
            (1..FRAMES_PER_LARGE_PAGE as u64).for_each(|page| rumpuser_frame_retain(Frame(first.0 + page)));
        }
        self.space.pmap.enter_large(large.start, first, self.read_only())?;
        Ok(true)
    }

    /// A write to a private mapping of an object: the page becomes a copy.
    fn write_private(&self, pager: &Arc<dyn Pager>, index: u64) -> Step {
        let pmap = &self.space.pmap;
        {
            let _stripe = self.space.stripe(self.page).lock();
            if let Some((frame, present)) = pmap.query(self.page) {
                return self.present(frame, present);
            }
        }
        let original = self.ask(pager, index, false)?;
        let copy = match rumpuser_frame_alloc_uninitialised() {
            Ok(copy) => copy,
            Err(error) => {
                rumpuser_frame_release(original);
                return Err(error.into());
            }
        };
        copy_frame(original, copy);
        rumpuser_frame_release(original);
        self.entry.copied.store(true, Ordering::Relaxed);
        let _stripe = self.space.stripe(self.page).lock();
        Ok(pmap.enter_absent(self.page, &[copy], self.entry.access())?)
    }

    /// A write to a shared mapping: the object's own page.
    fn write_shared(&self, pager: &Arc<dyn Pager>, index: u64) -> Step {
        let pmap = &self.space.pmap;
        let pace = self.run_order();
        let room = (self.region().end - self.page) / PAGE_SIZE;
        let order = pace.min(room.ilog2());
        let mut frames = [Frame(0); 1 << RUN_ORDER];
        let mut count = 0;
        if order > 0 && memory_for_run(order) {
            count = pager.pages(index, true, &mut frames[..1 << order]);
        }
        if count == 0 {
            frames[0] = self.ask(pager, index, true)?;
            count = 1;
        }
        self.entry.cursor.store((self.page + count * PAGE_SIZE) | pace as usize, Ordering::Relaxed);
        let _stripe = self.space.stripe(self.page).lock();
        let first = pmap.enter(self.page, frames[0], self.entry.access());
        if first.is_err() {
            frames[1..count].iter().copied().for_each(rumpuser_frame_release);
        }
        first?;
        if count > 1 {
            pmap.enter_absent(self.page + PAGE_SIZE, &frames[1..count], self.entry.access())?;
        }
        Ok(())
    }
}
