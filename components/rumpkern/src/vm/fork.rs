//! Duplicating a space: copy-on-write for private pages, the same objects for shared ones.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::{
    Limit, Space,
    entry::{Backing, EntryFlags},
};
use crate::Result;

impl Space {
    /// A copy of the space, as fork(2) makes it.
    pub fn fork(&self) -> Result<Arc<Space>> {
        // Held exclusively: no page may become writable while it is shared.
        let contents = self.map.write();
        let child = Space::with_layout(self.stack_top(), contents.map.ceiling())?;
        for limit in [Limit::AddressSpace, Limit::Data, Limit::Stack, Limit::Locked] {
            child.set_limit(limit, self.limit(limit));
        }
        if let Some(attachment) = self.attachment() {
            child.set_attachment(attachment);
        }
        let mut target = child.map.write();
        for (start, entry) in contents.map.iter() {
            if entry.flags.contains(EntryFlags::DONT_FORK) {
                continue;
            }
            let mut copy = entry.clone();
            copy.flags.remove(EntryFlags::LOCKED);
            child.register(&mut copy);
            target.map.insert(start, copy);
            // Pages that are the object's own are found again by a fault, several at a time.
            let from_object = matches!(entry.backing, Backing::Pager { .. })
                && (entry.shared() || !entry.copied.load(Ordering::Relaxed));
            if !from_object && !entry.flags.contains(EntryFlags::WIPE_ON_FORK) {
                self.pmap.share_copy_on_write(&*child.pmap, start..entry.end)?;
            }
        }
        target.heap = contents.heap.clone();
        child.note_total(&target.map);
        drop(target);
        Ok(child)
    }
}
