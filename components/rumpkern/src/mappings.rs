//! Who maps an object: how a pager takes pages back from the address spaces that map them (a file was
//! truncated, or a page of the baked image was replaced by the file's own).

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use rumpuser::sync::SpinLock;

/// An address space that maps an object, as the object sees it.
pub trait Mapping: Send + Sync {
    /// Unmaps whatever shows the object's pages `pages` (4 KiB each); the next access faults and asks the pager.
    /// Pages that the program has privately copied stay if `keep_copies`. Called in thread context without
    /// locks of the pager.
    fn revoke(&self, pages: Range<u64>, keep_copies: bool);

    /// Makes the next write to `pages` through a shared mapping ask the pager again, which marks them dirty.
    fn write_protect(&self, pages: Range<u64>);

    /// Whether a shared mapping is writable, or may be made so.
    fn may_write(&self) -> bool;
}

/// The address spaces that map one object. A pager that can lose pages owns one.
#[derive(Default)]
pub struct Mappings {
    list: SpinLock<Vec<Weak<dyn Mapping>>>,
    count: AtomicUsize,
}

impl Mappings {
    /// Nobody yet.
    pub const fn new() -> Self {
        Mappings { list: SpinLock::new(Vec::new()), count: AtomicUsize::new(0) }
    }

    /// Adds a mapping; once per range mapped, or once per address space, as the caller likes.
    pub fn add(&self, mapping: &Arc<dyn Mapping>) {
        let weak = Arc::downgrade(mapping);
        let mut list = self.list.lock();
        list.retain(|other| other.strong_count() > 0);
        list.push(weak);
        self.count.store(list.len(), Ordering::SeqCst);
    }

    /// Removes one addition of a mapping.
    pub fn remove(&self, mapping: &Arc<dyn Mapping>) {
        let mut list = self.list.lock();
        let found = list.iter().position(|other| core::ptr::addr_eq(other.as_ptr(), Arc::as_ptr(mapping)));
        if let Some(index) = found {
            list.swap_remove(index);
        }
        self.count.store(list.len(), Ordering::SeqCst);
    }

    /// Whether anybody maps the object. One load.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    fn live(&self) -> Vec<Arc<dyn Mapping>> {
        if self.is_empty() { Vec::new() } else { self.list.lock().iter().filter_map(Weak::upgrade).collect() }
    }

    /// Revokes `pages` everywhere. To be called after the pager has changed its mind about them.
    pub fn revoke(&self, pages: Range<u64>, keep_copies: bool) {
        for mapping in self.live() {
            mapping.revoke(pages.clone(), keep_copies);
        }
    }

    /// Whether the object may be written through a mapping that exists.
    pub fn may_write(&self) -> bool {
        self.live().iter().any(|mapping| mapping.may_write())
    }

    /// Makes the next write to `pages` through any shared mapping ask the pager again. For a pager that writes
    /// dirty pages out: first mark them clean, then call this, then write.
    pub fn write_protect(&self, pages: Range<u64>) {
        for mapping in self.live() {
            mapping.write_protect(pages.clone());
        }
    }
}
