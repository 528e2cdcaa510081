//! Address spaces: mapping, unmapping, protection, the heap's break.

use alloc::sync::{Arc, Weak};
use core::{
    any::Any,
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use rumpuser::{
    Pmap, Protection,
    memory::{LARGE_PAGE_SIZE, PAGE_SIZE, USER_END},
    rumpuser_getrandom, rumpuser_memory_statistics, rumpuser_pmap_create,
    sync::{Mutex, RwLock, SpinLock},
};

use super::{
    ENTRIES_MAX, Pager, SharedMemory,
    entry::{Backing, Entry, EntryFlags, Name},
    map::{LOWEST, Map, Taken},
};
use crate::{Errno, Result};

/// What setrlimit(2) limits in a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// RLIMIT_AS.
    AddressSpace,
    /// RLIMIT_DATA.
    Data,
    /// RLIMIT_STACK.
    Stack,
    /// RLIMIT_MEMLOCK.
    Locked,
}

/// Where a mapping goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Wherever there is room.
    Anywhere,
    /// There if it is free, otherwise anywhere.
    Hint(usize),
    /// There, replacing what is mapped.
    Fixed(usize),
    /// There, or EEXIST.
    FixedNoReplace(usize),
    /// Wherever there is room below this address.
    Below(usize),
}

/// What to map.
pub struct Request {
    /// Bytes; rounded up to pages.
    pub length: usize,
    /// Where.
    pub placement: Placement,
    /// What the program may do.
    pub protection: Protection,
    /// What mprotect may allow later.
    pub maximum: Protection,
    /// How it behaves.
    pub flags: EntryFlags,
    /// What it shows.
    pub backing: Backing,
    /// Its name.
    pub name: Option<Arc<Name>>,
}

impl Request {
    /// Private zeros, anywhere.
    pub fn anonymous(length: usize, protection: Protection) -> Self {
        Request {
            length,
            placement: Placement::Anywhere,
            protection,
            maximum: Protection::all(),
            flags: EntryFlags::empty(),
            backing: Backing::Anonymous,
            name: None,
        }
    }
}

/// The locks that order faults on the same pages; see [`Space::stripe`].
const STRIPES: usize = 16;

/// An address space.
///
/// `map` is held shared by faults, though not while a pager reads from a disk, and exclusively by changes, so
/// that no fault enters a page of an entry that is gone. Two faults on one page are ordered by a stripe.
pub struct Space {
    pub(super) this: Weak<Space>,
    pub(super) pmap: Arc<dyn Pmap>,
    pub(super) map: RwLock<Contents>,
    stripes: [Mutex<()>; STRIPES],
    limits: [AtomicUsize; 4],
    stack_top: usize,
    pub(super) peak_total: AtomicUsize,
    pub(super) peak_resident: AtomicUsize,
    attachment: SpinLock<Option<Attachment>>,
}

/// Something that a personality keeps with a space.
pub type Attachment = Arc<dyn Any + Send + Sync>;

/// What the lock of a space guards.
pub(super) struct Contents {
    pub map: Map,
    /// The heap that brk(2) moves the end of; not page-aligned at the end.
    pub heap: Range<usize>,
    /// New mappings are locked (mlockall with MCL_FUTURE).
    pub lock_future: bool,
    /// RLIMIT_MEMLOCK doesn't hold for them.
    pub lock_unlimited: bool,
    /// Counts what pagers take back: what they gave before may not be entered any more.
    pub generation: u64,
}

/// Rounds up to pages; `None` if that is beyond the address space.
pub(super) fn page_up(length: usize) -> Option<usize> {
    let rounded = length.checked_add(PAGE_SIZE - 1)? & !(PAGE_SIZE - 1);
    (rounded <= USER_END).then_some(rounded)
}

/// The page-aligned range that the caller of a system call means.
pub(super) fn user_range(start: usize, length: usize, invalid: Errno) -> Result<Range<usize>> {
    if start & (PAGE_SIZE - 1) != 0 {
        return Err(Errno::EINVAL);
    }
    let length = page_up(length).ok_or(invalid)?;
    match start.checked_add(length) {
        Some(end) if end <= USER_END => Ok(start..end),
        _ => Err(invalid),
    }
}

/// Room kept between the stack's top and the mappings below it, at the least.
const STACK_ROOM: usize = 128 << 20;

impl Space {
    /// An empty space, with room for a stack of `stack_limit` bytes. Where things go is lightly randomised.
    pub fn new(stack_limit: usize) -> Result<Arc<Space>> {
        let mut random = [0u8; 8];
        rumpuser_getrandom(&mut random);
        let random = usize::from_le_bytes(random);
        // 16 MiB of shift for the stack, 1 GiB for the mappings.
        let stack_top = USER_END - (random & 0xfff) * PAGE_SIZE;
        let room = stack_limit.clamp(STACK_ROOM, USER_END / 6 * 5) & !(PAGE_SIZE - 1);
        let ceiling = stack_top - room - 2 * super::map::GUARD_GAP - (random >> 12 & 0x3_ffff) * PAGE_SIZE;
        let space = Self::with_layout(stack_top, ceiling)?;
        space.set_limit(Limit::Stack, stack_limit);
        Ok(space)
    }

    pub(super) fn with_layout(stack_top: usize, ceiling: usize) -> Result<Arc<Space>> {
        let pmap = rumpuser_pmap_create()?;
        Ok(Arc::new_cyclic(|this| Space {
            this: this.clone(),
            pmap,
            map: RwLock::new(Contents {
                map: Map::new(ceiling),
                heap: 0..0,
                lock_future: false,
                lock_unlimited: false,
                generation: 0,
            }),
            stripes: [const { Mutex::new(()) }; STRIPES],
            limits: [const { AtomicUsize::new(usize::MAX) }; 4],
            stack_top,
            peak_total: AtomicUsize::new(0),
            peak_resident: AtomicUsize::new(0),
            attachment: SpinLock::new(None),
        }))
    }

    /// The page table, for `rumpuser_pmap_activate`.
    pub fn pmap(&self) -> &Arc<dyn Pmap> {
        &self.pmap
    }

    /// Where the main stack ends.
    pub fn stack_top(&self) -> usize {
        self.stack_top
    }

    /// What the personality keeps with the space; a fork inherits it.
    pub fn attachment(&self) -> Option<Attachment> {
        self.attachment.lock().clone()
    }

    /// Sets [`Space::attachment`].
    pub fn set_attachment(&self, attachment: Attachment) {
        let old = self.attachment.lock().replace(attachment);
        drop(old);
    }

    /// Sets a limit, in bytes; `usize::MAX` is none.
    pub fn set_limit(&self, limit: Limit, bytes: usize) {
        self.limits[limit as usize].store(bytes, Ordering::Relaxed);
    }

    /// A limit, in bytes.
    pub fn limit(&self, limit: Limit) -> usize {
        self.limits[limit as usize].load(Ordering::Relaxed)
    }

    /// The lock that a fault holds while it looks at a page and enters another. All pages of an aligned
    /// 2 MiB share one.
    pub(super) fn stripe(&self, address: usize) -> &Mutex<()> {
        &self.stripes[address / LARGE_PAGE_SIZE % STRIPES]
    }

    /// Unmaps pages from the page table. The caller holds the map exclusively.
    pub(super) fn remove_pages(&self, range: Range<usize>) {
        self.peak_resident.fetch_max(self.pmap.resident(), Ordering::Relaxed);
        self.pmap.remove(range);
    }

    pub(super) fn note_total(&self, map: &Map) {
        self.peak_total.fetch_max(map.total, Ordering::Relaxed);
    }

    /// Refuses what the machine plainly cannot hold (Linux: overcommit_memory 0).
    pub(super) fn check_overcommit(
        &self,
        length: usize,
        entry_flags: EntryFlags,
        protection: Protection,
    ) -> Result<()> {
        let counted = protection.contains(Protection::WRITE)
            && !entry_flags.intersects(EntryFlags::SHARED | EntryFlags::NO_RESERVE);
        if counted && length as u64 > rumpuser_memory_statistics().total {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    /// Maps, and returns where. With MCL_FUTURE in force the pages are populated too.
    pub fn map(&self, request: Request) -> Result<usize> {
        if request.length == 0 {
            return Err(Errno::EINVAL);
        }
        let length = page_up(request.length).ok_or(Errno::ENOMEM)?;
        if let Placement::Fixed(start) | Placement::FixedNoReplace(start) = request.placement {
            user_range(start, length, Errno::ENOMEM)?;
            if start < LOWEST {
                return Err(Errno::EPERM);
            }
        }
        self.check_overcommit(length, request.flags, request.protection)?;
        let backing = match request.backing {
            Backing::Anonymous if request.flags.contains(EntryFlags::SHARED) => {
                Backing::Pager { pager: SharedMemory::new((length / PAGE_SIZE) as u64), first: 0 }
            }
            backing => backing,
        };
        if let Backing::Pager { first, .. } = &backing
            && first.checked_add((length / PAGE_SIZE) as u64).is_none()
        {
            return Err(Errno::EOVERFLOW);
        }
        let phase = match &backing {
            Backing::Pager { pager, first } if length >= LARGE_PAGE_SIZE => {
                large_page_phase(&**pager, *first)
            }
            _ => None,
        };
        let mut entry = Entry {
            end: 0,
            protection: request.protection,
            maximum: request.maximum,
            flags: request.flags,
            backing,
            name: request.name,
            cursor: AtomicUsize::new(0),
            copied: Default::default(),
            registration: None,
        };
        let mut contents = self.map.write();
        let lock = contents.lock_future && !entry.flags.contains(EntryFlags::SPECIAL);
        if lock {
            if !contents.lock_unlimited
                && contents.map.locked.saturating_add(length) > self.limit(Limit::Locked)
            {
                return Err(Errno::EAGAIN);
            }
            entry.flags |= EntryFlags::LOCKED;
        }
        let start = self.place(&mut contents.map, length, request.placement, phase)?;
        let range = start..start + length;
        entry.end = range.end;
        let replaced = self.insert(&mut contents.map, range.clone(), entry)?;
        drop(contents);
        drop(replaced);
        if lock {
            self.populate(range, false);
        }
        Ok(start)
    }

    fn place(
        &self,
        map: &mut Map,
        length: usize,
        placement: Placement,
        phase: Option<usize>,
    ) -> Result<usize> {
        match placement {
            Placement::Fixed(start) => return Ok(start),
            Placement::FixedNoReplace(start) => {
                return if map.is_free(start..start + length) { Ok(start) } else { Err(Errno::EEXIST) };
            }
            Placement::Hint(hint) => {
                let start = hint & !(PAGE_SIZE - 1);
                let end = start.checked_add(length).filter(|&end| end <= USER_END);
                if let Some(end) = end
                    && start >= LOWEST
                    && map.is_free(start..end)
                    && map.above(end - 1).is_none_or(|(_, entry)| {
                        !entry.flags.contains(EntryFlags::GROWS_DOWN)
                            || map.is_free(end..end + super::map::GUARD_GAP)
                    })
                {
                    return Ok(start);
                }
            }
            Placement::Below(limit) => {
                return map.find_gap(length, PAGE_SIZE, 0, Some(limit)).ok_or(Errno::ENOMEM);
            }
            Placement::Anywhere => {}
        }
        phase
            .and_then(|phase| map.find_gap(length, LARGE_PAGE_SIZE, phase, None))
            .or_else(|| map.find_gap(length, PAGE_SIZE, 0, None))
            .ok_or(Errno::ENOMEM)
    }

    /// Puts an entry at `range`, in place of what is there, which is returned to be dropped without the lock.
    pub(super) fn insert(&self, map: &mut Map, range: Range<usize>, mut entry: Entry) -> Result<Taken> {
        let overlap: usize = map
            .overlapping(range.clone())
            .map(|(start, old)| old.end.min(range.end) - start.max(range.start))
            .sum();
        let length = range.end - range.start;
        if map.total - overlap + length > self.limit(Limit::AddressSpace) || map.len() + 2 > ENTRIES_MAX {
            return Err(Errno::ENOMEM);
        }
        if entry.is_data()
            && map.data.saturating_add(length).saturating_sub(overlap) > self.limit(Limit::Data)
        {
            return Err(Errno::ENOMEM);
        }
        let replaced = map.take(range.clone());
        if !replaced.is_empty() {
            self.remove_pages(range.clone());
        }
        self.register(&mut entry);
        map.insert(range.start, entry);
        self.note_total(map);
        Ok(replaced)
    }

    /// ENOMEM if the map should have no more entries: it has too many, or the kernel's last memory is needed for
    /// programs that give some back.
    pub(super) fn check_room(&self, map: &Map) -> Result<()> {
        let memory = rumpuser_memory_statistics();
        let scarce = memory.free < (memory.total / 64).clamp(128 << 10, 4 << 20);
        if scarce || map.len() + 2 > ENTRIES_MAX { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// munmap(2).
    pub fn unmap(&self, start: usize, length: usize) -> Result<()> {
        if length == 0 {
            return Err(Errno::EINVAL);
        }
        let range = user_range(start, length, Errno::EINVAL)?;
        let mut contents = self.map.write();
        let map = &mut contents.map;
        if map.is_inside(&range) {
            self.check_room(map)?;
        }
        let removed = map.take(range.clone());
        if !removed.is_empty() {
            self.remove_pages(range);
        }
        drop(contents);
        drop(removed);
        Ok(())
    }

    /// mprotect(2). `from_entry_start` is PROT_GROWSDOWN.
    pub fn protect(
        &self,
        start: usize,
        length: usize,
        protection: Protection,
        from_entry_start: bool,
    ) -> Result<()> {
        let mut range = user_range(start, length, Errno::ENOMEM)?;
        if range.is_empty() {
            return Ok(());
        }
        let mut contents = self.map.write();
        let map = &mut contents.map;
        if from_entry_start {
            let (start, entry) = map.find(range.start).ok_or(Errno::ENOMEM)?;
            if !entry.flags.contains(EntryFlags::GROWS_DOWN) {
                return Err(Errno::EINVAL);
            }
            range.start = start;
        }
        let mut reached = range.start;
        let mut becomes_data = 0;
        for (start, entry) in map.overlapping(range.clone()) {
            if start > reached {
                break;
            }
            if !entry.maximum.contains(protection) {
                return Err(Errno::EACCES);
            }
            let part = entry.end.min(range.end) - start.max(range.start);
            if protection.contains(Protection::WRITE) && !entry.protection.contains(Protection::WRITE) {
                self.check_overcommit(part, entry.flags, protection)?;
                if !entry.flags.intersects(EntryFlags::SHARED | EntryFlags::GROWS_DOWN) {
                    becomes_data += part;
                }
            }
            reached = entry.end.min(range.end);
        }
        if becomes_data > 0 && map.data.saturating_add(becomes_data) > self.limit(Limit::Data)
            || map.len() + 2 > ENTRIES_MAX
        {
            return Err(Errno::ENOMEM);
        }
        let complete = reached >= range.end;
        let range = range.start..reached;
        if !range.is_empty() {
            let mut changed = false;
            map.update(range.clone(), |_, entry| {
                changed |= entry.protection != protection;
                entry.protection = protection;
            });
            if changed {
                // Writes fault once more: only a fault knows whether a page is to be copied or marked dirty.
                let access = if protection.is_empty() { protection } else { protection | Protection::READ };
                self.pmap.protect(range, access - Protection::WRITE);
            }
        }
        if complete { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Says where the heap begins; it is empty at first.
    pub fn set_heap(&self, start: usize) {
        self.map.write().heap = start..start;
    }

    /// brk(2): moves the heap's end if that can be, and returns where it then is.
    pub fn set_break(&self, end: usize) -> usize {
        let mut contents = self.map.write();
        let heap = contents.heap.clone();
        if end < heap.start || heap.start == 0 {
            return heap.end;
        }
        let (Some(old), Some(new)) = (page_up(heap.end), page_up(end)) else { return heap.end };
        let mut removed = Taken::new();
        if new < old {
            removed = contents.map.take(new..old);
            self.remove_pages(new..old);
        } else if new > old {
            let room = contents.map.above(old).is_none_or(|(start, _)| new + PAGE_SIZE <= start);
            let flags = if contents.lock_future { EntryFlags::LOCKED } else { EntryFlags::empty() };
            let protection = Protection::READ | Protection::WRITE;
            if !room
                || !contents.map.is_free(old..new)
                || end - heap.start > self.limit(Limit::Data)
                || self.check_overcommit(new - old, flags, protection).is_err()
            {
                return heap.end;
            }
            let entry = Entry {
                end: new,
                protection,
                maximum: Protection::all(),
                flags,
                backing: Backing::Anonymous,
                name: Some(Arc::new(Name { path: b"[heap]".to_vec(), ..Name::default() })),
                cursor: AtomicUsize::new(0),
                copied: Default::default(),
                registration: None,
            };
            if self.insert(&mut contents.map, old..new, entry).is_err() {
                return heap.end;
            }
        }
        contents.heap.end = end;
        drop(contents);
        drop(removed);
        end
    }

    /// The object mapped at `address`, which of its pages that is, and whether writes reach it.
    pub fn find_pager(&self, address: usize) -> Option<(Arc<dyn Pager>, u64, bool)> {
        let contents = self.map.read();
        let (start, entry) = contents.map.find(address)?;
        let (pager, index) = entry.page_index(start, address)?;
        Some((pager.clone(), index, entry.shared()))
    }

    /// Unmaps what is left of a mapping of an object that began at `start` with the object's first page (shmdt).
    /// EINVAL if there is none.
    pub fn unmap_object(&self, start: usize) -> Result<()> {
        let mut removed = Taken::new();
        {
            let mut contents = self.map.write();
            let begins = |address: usize, entry: &Entry| match entry.page_index(address, address) {
                Some((pager, first)) if address.checked_sub(first as usize * PAGE_SIZE) == Some(start) => {
                    Some(pager.identity())
                }
                _ => None,
            };
            let identity = contents
                .map
                .find(start)
                .and_then(|(address, entry)| begins(address, entry))
                .ok_or(Errno::EINVAL)?;
            let part = |map: &Map, from: usize| {
                map.iter_from(from)
                    .find(|&(address, entry)| begins(address, entry) == Some(identity))
                    .map(|(address, entry)| address..entry.end)
            };
            let mut from = start;
            while let Some(part) = part(&contents.map, from) {
                from = part.end;
                removed.append(&mut contents.map.take(part.clone()));
                self.remove_pages(part);
            }
        }
        drop(removed);
        Ok(())
    }

    /// Whether `address` is mapped at all.
    pub fn is_mapped(&self, address: usize) -> bool {
        self.map.read().map.find(address).is_some()
    }
}

/// Where in a large page a mapping should start so that the object's frames can be mapped by large pages.
fn large_page_phase(pager: &dyn Pager, first: u64) -> Option<usize> {
    const FRAMES: u64 = (LARGE_PAGE_SIZE / PAGE_SIZE) as u64;
    if pager.contiguous(first) < FRAMES {
        return None;
    }
    let frame = pager.page(first, false).ok()?;
    rumpuser::rumpuser_frame_release(frame);
    Some((frame.0 % FRAMES) as usize * PAGE_SIZE)
}
