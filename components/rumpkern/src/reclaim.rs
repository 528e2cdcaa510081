//! Memory that is kept only because it may be useful: caches enter themselves here and give it back when others
//! need it.

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};

use rumpuser::sync::SpinLock;

/// A cache.
pub trait Reclaim: Send + Sync {
    /// Frees about `pages` pages (4 KiB each); returns how many it freed. Called in thread context, perhaps by a
    /// thread that holds an address space's lock.
    fn reclaim(&self, pages: usize) -> usize;
}

static CACHES: SpinLock<Vec<Weak<dyn Reclaim>>> = SpinLock::new(Vec::new());

/// Enters a cache, for as long as it lives.
pub fn register(cache: &Arc<dyn Reclaim>) {
    let weak = Arc::downgrade(cache);
    let mut caches = CACHES.lock();
    caches.retain(|cache| cache.strong_count() > 0);
    caches.push(weak);
}

/// Takes memory back from the caches; returns how many pages that freed.
pub fn reclaim(pages: usize) -> usize {
    let caches: Vec<_> = CACHES.lock().iter().filter_map(Weak::upgrade).collect();
    let mut freed = 0;
    for cache in caches {
        if freed >= pages {
            break;
        }
        freed += cache.reclaim(pages - freed);
    }
    freed
}
