//! The entries of an address space: ranges that are mapped alike.

use alloc::{sync::Arc, vec::Vec};
use core::{
    ops::Range,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use rumpuser::{Protection, memory::PAGE_SIZE};

use super::{Pager, registration::Registration};

bitflags::bitflags! {
    /// How an entry behaves.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct EntryFlags: u16 {
        /// Changes are seen by everybody who maps the object.
        const SHARED = 1;
        /// Grows towards lower addresses when touched below (stacks).
        const GROWS_DOWN = 1 << 1;
        /// Pages stay in memory (they always do; mlock is accounted).
        const LOCKED = 1 << 2;
        /// Not counted against the memory there is.
        const NO_RESERVE = 1 << 3;
        /// fork leaves it out.
        const DONT_FORK = 1 << 4;
        /// fork gives the child zeros.
        const WIPE_ON_FORK = 1 << 5;
        /// Large pages are wanted.
        const HUGE = 1 << 6;
        /// Large pages are not wanted.
        const NO_HUGE = 1 << 7;
        /// Left out of core dumps.
        const DONT_DUMP = 1 << 8;
        /// Belongs to the system (the vDSO): not to be merged, moved or grown.
        const SPECIAL = 1 << 9;
    }
}

/// What an entry is called in /proc/self/maps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Name {
    /// A path, or a label in brackets.
    pub path: Vec<u8>,
    /// The device of the file.
    pub device: u64,
    /// The inode number of the file.
    pub inode: u64,
}

/// Where the pages of an entry come from.
#[derive(Clone)]
pub enum Backing {
    /// Zeros.
    Anonymous,
    /// An object, from its page `first` on.
    Pager {
        /// The object.
        pager: Arc<dyn Pager>,
        /// The page at the entry's start.
        first: u64,
    },
}

/// A range of an address space (its start is the key in the map).
pub struct Entry {
    /// Behind the last byte.
    pub end: usize,
    /// What the program may do.
    pub protection: Protection,
    /// What mprotect may allow.
    pub maximum: Protection,
    /// How it behaves.
    pub flags: EntryFlags,
    /// Where its pages come from.
    pub backing: Backing,
    /// Its name.
    pub name: Option<Arc<Name>>,
    /// Where a sequential toucher would fault next, and in the low bits, how many pages (as a power of two)
    /// the last fault mapped.
    pub(super) cursor: AtomicUsize,
    /// Whether private copies of the pager's pages were made.
    pub(super) copied: AtomicBool,
    /// What the pager knows this space by.
    pub(super) registration: Option<Arc<Registration>>,
}

impl Clone for Entry {
    fn clone(&self) -> Self {
        Entry {
            end: self.end,
            protection: self.protection,
            maximum: self.maximum,
            flags: self.flags,
            backing: self.backing.clone(),
            name: self.name.clone(),
            cursor: AtomicUsize::new(self.cursor.load(Ordering::Relaxed)),
            copied: AtomicBool::new(self.copied.load(Ordering::Relaxed)),
            registration: self.registration.clone(),
        }
    }
}

impl Entry {
    /// Whether changes are seen by others.
    pub fn shared(&self) -> bool {
        self.flags.contains(EntryFlags::SHARED)
    }

    /// Whether it counts as data (RLIMIT_DATA): private, writable, not a stack.
    pub(super) fn is_data(&self) -> bool {
        self.protection.contains(Protection::WRITE)
            && !self.flags.intersects(EntryFlags::SHARED | EntryFlags::GROWS_DOWN)
    }

    /// What the page table is told for a page that may be written. What may be written or executed may be read
    /// too, on this architecture.
    pub(super) fn access(&self) -> Protection {
        if self.protection.is_empty() { self.protection } else { self.protection | Protection::READ }
    }

    /// The page of the object at `address`, for an entry that starts at `start`.
    pub(super) fn page_index(&self, start: usize, address: usize) -> Option<(&Arc<dyn Pager>, u64)> {
        match &self.backing {
            Backing::Anonymous => None,
            Backing::Pager { pager, first } => Some((pager, first + ((address - start) / PAGE_SIZE) as u64)),
        }
    }

    /// The addresses of `pages` of the object `identity` in an entry that starts at `start`.
    pub(super) fn addresses_of(
        &self,
        start: usize,
        identity: usize,
        pages: &Range<u64>,
    ) -> Option<Range<usize>> {
        let Backing::Pager { pager, first } = &self.backing else { return None };
        if pager.identity() != identity {
            return None;
        }
        let count = ((self.end - start) / PAGE_SIZE) as u64;
        let from = pages.start.max(*first);
        let to = pages.end.min(first.saturating_add(count));
        (from < to)
            .then(|| start + (from - first) as usize * PAGE_SIZE..start + (to - first) as usize * PAGE_SIZE)
    }

    /// Cuts off and returns the part from `address` on.
    pub(super) fn split(&mut self, start: usize, address: usize) -> Entry {
        let mut upper = self.clone();
        if let Backing::Pager { first, .. } = &mut upper.backing {
            *first += ((address - start) / PAGE_SIZE) as u64;
        }
        self.end = address;
        upper
    }

    /// Whether `upper`, which starts where this one ends, can become a part of it.
    pub(super) fn continues_with(&self, start: usize, upper: &Entry) -> bool {
        self.protection == upper.protection
            && self.flags == upper.flags
            && self.maximum == upper.maximum
            && !self.flags.contains(EntryFlags::SPECIAL)
            && match (&self.name, &upper.name) {
                (None, None) => true,
                (Some(name), Some(other)) => Arc::ptr_eq(name, other) || name == other,
                _ => false,
            }
            && match (&self.backing, &upper.backing) {
                (Backing::Anonymous, Backing::Anonymous) => true,
                (Backing::Pager { pager, first }, Backing::Pager { pager: other, first: next }) => {
                    Arc::ptr_eq(pager, other) && first + ((self.end - start) / PAGE_SIZE) as u64 == *next
                }
                _ => false,
            }
    }

    /// Takes `upper` in, after [`Entry::continues_with`].
    pub(super) fn absorb(&mut self, upper: Entry) {
        self.end = upper.end;
        if upper.copied.load(Ordering::Relaxed) {
            self.copied.store(true, Ordering::Relaxed);
        }
        if self.cursor.load(Ordering::Relaxed) == 0 {
            self.cursor = upper.cursor;
        }
    }
}
