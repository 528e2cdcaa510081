//! What several tests share is made by the first that needs it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

/// Things made once per process, each by its key. Who needs one that is being made waits for it, and for no other.
pub struct Made<K, V>(Mutex<BTreeMap<K, Arc<OnceLock<V>>>>);

impl<K: Ord, V: Clone> Made<K, V> {
    /// None yet.
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// The thing of this key, made with `make` if it isn't yet; if that panics, the next to ask tries again.
    pub fn get(&self, key: K, make: impl FnOnce() -> V) -> V {
        let thing = {
            let mut things = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(things.entry(key).or_default())
        };
        thing.get_or_init(make).clone()
    }
}

impl<K: Ord, V: Clone> Default for Made<K, V> {
    fn default() -> Self {
        Self::new()
    }
}
