//! How a pager reaches the address spaces that map it.

use alloc::sync::{Arc, Weak};
use core::{ops::Range, sync::atomic::Ordering};

use rumpuser::{Protection, memory::PAGE_SIZE, rumpuser_frame_references};

use super::{
    Space,
    entry::{Backing, Entry},
};
use crate::mappings::Mapping;

/// Pages looked at together.
const BATCH: usize = 64;

/// That a space maps an object: held by the entries, entered in the object's list.
pub(super) struct Registration {
    space: Weak<Space>,
    identity: usize,
}

impl Mapping for Registration {
    fn revoke(&self, pages: Range<u64>, keep_copies: bool) {
        if let Some(space) = self.space.upgrade() {
            space.revoke(self.identity, pages, keep_copies);
        }
    }

    fn write_protect(&self, pages: Range<u64>) {
        if let Some(space) = self.space.upgrade() {
            space.write_protect(self.identity, pages);
        }
    }

    fn may_write(&self) -> bool {
        let Some(space) = self.space.upgrade() else { return false };
        let contents = space.map.read();
        contents.map.iter().any(|(start, entry)| {
            entry.shared()
                && entry.maximum.contains(Protection::WRITE)
                && entry.addresses_of(start, self.identity, &(0..u64::MAX)).is_some()
        })
    }
}

impl Space {
    /// Tells the pager of an entry that this space maps its pages.
    pub(super) fn register(&self, entry: &mut Entry) {
        if let Backing::Pager { pager, .. } = &entry.backing
            && let Some(mappings) = pager.mappings()
        {
            let registration =
                Arc::new(Registration { space: self.this.clone(), identity: pager.identity() });
            let mapping: Arc<dyn Mapping> = registration.clone();
            mappings.add(&mapping);
            entry.registration = Some(registration);
        }
    }

    /// Unmaps what shows `pages` of the object `identity`. A fault that is under way asks the pager again.
    fn revoke(&self, identity: usize, pages: Range<u64>, keep_copies: bool) {
        let mut contents = self.map.write();
        contents.generation += 1;
        for (start, entry) in contents.map.iter() {
            let Some(range) = entry.addresses_of(start, identity, &pages) else { continue };
            if entry.shared() || !keep_copies || !entry.copied.load(Ordering::Relaxed) {
                self.remove_pages(range);
                continue;
            }
            // Which pages are copies is not recorded, but those outside the allocator are not; old contents of
            // others may stay in a private mapping.
            let mut from = range.start;
            while from < range.end {
                let part = from..range.end.min(from + BATCH * PAGE_SIZE);
                from = part.end;
                let mut originals = 0u64;
                self.pmap.for_each(part.clone(), &mut |address, frame, _| {
                    if rumpuser_frame_references(frame) == u32::MAX {
                        originals |= 1 << ((address - part.start) / PAGE_SIZE);
                    }
                });
                for page in (0..BATCH).filter(|page| originals >> page & 1 == 1) {
                    let address = part.start + page * PAGE_SIZE;
                    self.remove_pages(address..address + PAGE_SIZE);
                }
            }
        }
    }

    fn write_protect(&self, identity: usize, pages: Range<u64>) {
        let mut contents = self.map.write();
        contents.generation += 1;
        for (start, entry) in contents.map.iter() {
            if entry.shared()
                && entry.protection.contains(Protection::WRITE)
                && let Some(range) = entry.addresses_of(start, identity, &pages)
            {
                self.pmap.protect(range, entry.access() - Protection::WRITE);
            }
        }
    }
}
