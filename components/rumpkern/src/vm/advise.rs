//! Advice about memory (madvise), writing it back (msync), locking it (mlock), and what is resident (mincore).

use alloc::{sync::Arc, vec::Vec};
use core::ops::Range;

use rumpuser::memory::PAGE_SIZE;

use super::{
    Limit, Pager, Space,
    entry::{Backing, Entry, EntryFlags},
    space::user_range,
};
use crate::{Errno, Result};

/// What madvise(2) may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// A hint that changes nothing (NORMAL, RANDOM, SEQUENTIAL, COLD, PAGEOUT, MERGEABLE and so on).
    Hint,
    /// MADV_WILLNEED.
    WillNeed,
    /// MADV_DONTNEED: private pages go back to what they were at first.
    DontNeed {
        /// Locked ones too (MADV_DONTNEED_LOCKED).
        locked: bool,
    },
    /// MADV_FREE: as DONTNEED at the system's leisure, which is now.
    Free,
    /// MADV_REMOVE: the object's pages become holes.
    Remove,
    /// MADV_POPULATE_READ or MADV_POPULATE_WRITE.
    Populate {
        /// For writing.
        write: bool,
    },
    /// MADV_HUGEPAGE and its likes: sets and clears flags.
    Flags {
        /// Flags to set.
        set: EntryFlags,
        /// Flags to clear.
        clear: EntryFlags,
    },
}

/// How to lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// mlock(2): with the pages in memory.
    Populate,
    /// mlock2(2) with MLOCK_ONFAULT.
    OnFault,
    /// munlock(2).
    Unlock,
}

impl Space {
    /// madvise(2).
    pub fn advise(&self, start: usize, length: usize, advice: Advice) -> Result<()> {
        let range = user_range(start, length, Errno::EINVAL)?;
        if range.is_empty() {
            return Ok(());
        }
        match advice {
            Advice::Hint => self.need_mapped(range),
            Advice::WillNeed => {
                let complete = self.need_mapped(range.clone());
                self.prefetch(range);
                complete
            }
            Advice::DontNeed { locked } => self.drop_pages(range, locked, false),
            Advice::Free => self.drop_pages(range, false, true),
            Advice::Remove => self.punch(range),
            Advice::Populate { write } => self.populate_by_advice(range, write),
            Advice::Flags { set, clear } => {
                let mut contents = self.map.write();
                if set.contains(EntryFlags::WIPE_ON_FORK)
                    && contents.map.overlapping(range.clone()).any(|(_, entry)| !is_private_anonymous(entry))
                {
                    return Err(Errno::EINVAL);
                }
                let complete = contents.map.covers(range.clone());
                if contents.map.is_cut(&range) {
                    self.check_room(&contents.map)?;
                }
                contents.map.update(range, |_, entry| {
                    if !entry.flags.contains(EntryFlags::SPECIAL) {
                        entry.flags = (entry.flags - clear) | set;
                    }
                });
                if complete { Ok(()) } else { Err(Errno::ENOMEM) }
            }
        }
    }

    fn need_mapped(&self, range: Range<usize>) -> Result<()> {
        if self.map.read().map.covers(range) { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Maps what the objects in `range` have at hand.
    fn prefetch(&self, range: Range<usize>) {
        let mut from = range.start;
        loop {
            let object = {
                let contents = self.map.read();
                contents
                    .map
                    .overlapping(from..range.end)
                    .find(|(_, entry)| matches!(entry.backing, Backing::Pager { .. }) && entry.shared())
                    .map(|(start, entry)| start.max(from)..entry.end.min(range.end))
            };
            let Some(object) = object.filter(|object| !object.is_empty()) else { return };
            from = object.end;
            self.populate(object, false);
        }
    }

    fn drop_pages(&self, range: Range<usize>, locked: bool, free: bool) -> Result<()> {
        let contents = self.map.write();
        let map = &contents.map;
        for (_, entry) in map.overlapping(range.clone()) {
            let refused = entry.flags.contains(EntryFlags::SPECIAL)
                || !locked && entry.flags.contains(EntryFlags::LOCKED)
                || free && !is_private_anonymous(entry);
            if refused {
                return Err(Errno::EINVAL);
            }
        }
        self.remove_pages(range.clone());
        for (_, entry) in map.overlapping(range.clone()) {
            entry.cursor.store(0, core::sync::atomic::Ordering::Relaxed);
        }
        if map.covers(range) { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    fn punch(&self, range: Range<usize>) -> Result<()> {
        let mut targets: Vec<(Arc<dyn Pager>, Range<u64>)> = Vec::new();
        {
            let contents = self.map.read();
            if !contents.map.covers(range.clone()) {
                return Err(Errno::ENOMEM);
            }
            for (start, entry) in contents.map.overlapping(range.clone()) {
                let writable = entry.maximum.contains(rumpuser::Protection::WRITE);
                if entry.flags.contains(EntryFlags::LOCKED) {
                    return Err(Errno::EINVAL);
                }
                let from = start.max(range.start);
                let Some((pager, first)) = entry.page_index(start, from) else { return Err(Errno::EINVAL) };
                if !entry.shared() || !writable {
                    return Err(Errno::EACCES);
                }
                let count = ((entry.end.min(range.end) - from) / PAGE_SIZE) as u64;
                targets.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                targets.push((pager.clone(), first..first + count));
            }
        }
        targets.into_iter().try_for_each(|(pager, pages)| pager.discard(pages))
    }

    fn populate_by_advice(&self, range: Range<usize>, write: bool) -> Result<()> {
        self.need_mapped(range.clone())?;
        for address in range.step_by(PAGE_SIZE) {
            let missing = match self.pmap.query(address) {
                Some((_, protection)) => {
                    protection.is_empty() || write && !protection.contains(rumpuser::Protection::WRITE)
                }
                None => true,
            };
            if missing {
                self.fault(address, write, false).map_err(|error| match error {
                    super::FaultError::NotMapped | super::FaultError::OutOfMemory => Errno::ENOMEM,
                    super::FaultError::Protection => Errno::EINVAL,
                    super::FaultError::BusError => Errno::EFAULT,
                })?;
            }
        }
        Ok(())
    }

    /// msync(2). `wait` is MS_SYNC, `invalidate` MS_INVALIDATE.
    pub fn sync(&self, start: usize, length: usize, wait: bool, invalidate: bool) -> Result<()> {
        let range = user_range(start, length, Errno::ENOMEM)?;
        let mut pagers: Vec<Arc<dyn Pager>> = Vec::new();
        let complete = {
            let contents = self.map.read();
            for (_, entry) in contents.map.overlapping(range.clone()) {
                if invalidate && entry.flags.contains(EntryFlags::LOCKED) {
                    return Err(Errno::EBUSY);
                }
                if let Backing::Pager { pager, .. } = &entry.backing
                    && entry.shared()
                    && !pagers.iter().any(|other| Arc::ptr_eq(other, pager))
                {
                    pagers.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                    pagers.push(pager.clone());
                }
            }
            contents.map.covers(range)
        };
        if wait {
            pagers.iter().try_for_each(|pager| pager.sync())?;
        }
        if complete { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// mlock(2), mlock2(2), munlock(2). Here `start` need not be aligned. `unlimited`: RLIMIT_MEMLOCK doesn't
    /// hold for the caller.
    pub fn lock(&self, start: usize, length: usize, how: Lock, unlimited: bool) -> Result<()> {
        let offset = start & (PAGE_SIZE - 1);
        let length = length.checked_add(offset).ok_or(Errno::EINVAL)?;
        let range = user_range(start - offset, length, Errno::ENOMEM)?;
        if range.is_empty() {
            return Ok(());
        }
        let lock = how != Lock::Unlock;
        {
            let mut contents = self.map.write();
            if !contents.map.covers(range.clone()) {
                return Err(Errno::ENOMEM);
            }
            let new: usize = contents
                .map
                .overlapping(range.clone())
                .filter(|(_, entry)| !entry.flags.contains(EntryFlags::LOCKED))
                .map(|(start, entry)| entry.end.min(range.end) - start.max(range.start))
                .sum();
            if lock && !unlimited && contents.map.locked + new > self.limit(Limit::Locked) {
                return Err(Errno::ENOMEM);
            }
            if contents.map.is_cut(&range) {
                self.check_room(&contents.map)?;
            }
            contents.map.update(range.clone(), |_, entry| set_locked(entry, lock));
        }
        if how == Lock::Populate && !self.populate(range, true) {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    /// mlockall(2): what is mapped (`current`), what will be (`future`). munlockall(2) is neither. `unlimited` as
    /// in [`Space::lock`].
    pub fn lock_all(&self, current: bool, future: bool, on_fault: bool, unlimited: bool) -> Result<()> {
        let range = 0..rumpuser::memory::USER_END;
        {
            let mut contents = self.map.write();
            if current && !unlimited && contents.map.total > self.limit(Limit::Locked) {
                return Err(Errno::ENOMEM);
            }
            contents.lock_future = future;
            contents.lock_unlimited = unlimited;
            if current || !future {
                contents.map.update(range.clone(), |_, entry| set_locked(entry, current));
            }
        }
        if current && !on_fault {
            self.populate(range, false);
        }
        Ok(())
    }

    /// mincore(2): a byte for each page, 1 if it is in memory.
    pub fn resident(&self, start: usize, length: usize) -> Result<Vec<u8>> {
        let range = user_range(start, length, Errno::ENOMEM)?;
        let contents = self.map.read();
        if !contents.map.covers(range.clone()) {
            return Err(Errno::ENOMEM);
        }
        let mut pages = alloc::vec![0; (range.end - range.start) / PAGE_SIZE];
        self.pmap.for_each(range.clone(), &mut |address, _, _| {
            if let Some(page) = pages.get_mut((address - range.start) / PAGE_SIZE) {
                *page = 1;
            }
        });
        for (start, entry) in contents.map.overlapping(range.clone()) {
            for address in (start.max(range.start)..entry.end.min(range.end)).step_by(PAGE_SIZE) {
                let page = (address - range.start) / PAGE_SIZE;
                if pages[page] == 0
                    && let Some((pager, index)) = entry.page_index(start, address)
                {
                    pages[page] = u8::from(pager.resident(index));
                }
            }
        }
        Ok(pages)
    }
}

fn is_private_anonymous(entry: &Entry) -> bool {
    !entry.shared() && matches!(entry.backing, Backing::Anonymous)
}

fn set_locked(entry: &mut Entry, lock: bool) {
    if !entry.flags.contains(EntryFlags::SPECIAL) {
        entry.flags.set(EntryFlags::LOCKED, lock);
    }
}
