//! The name cache: which vnode a name in a directory leads to, and the names by which open files were reached.
//!
//! An entry knows its parent and its name, so the path of any open file can be told; rename moves the entry,
//! so paths stay right. An entry that somebody holds stays in the cache until its name is removed, hence there
//! is at most one for a name; unused ones are dropped when a part of the cache is full.

use alloc::{sync::Arc, vec::Vec};
use core::{
    hash::{Hash, Hasher},
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use hashbrown::{Equivalent, HashMap};
use rumpkern::Result;
use rumpuser::sync::{Mutex, SpinLock};

use crate::vnode::Vnode;

/// A name in a directory (or a root), and the vnode it leads to.
pub struct Dentry {
    id: u64,
    vnode: Arc<dyn Vnode>,
    /// Number of the file system instance, and whether its names come and go by themselves.
    file_system: u64,
    volatile: bool,
    place: SpinLock<Place>,
    removed: AtomicBool,
    /// Mounts on top of it, in whichever mount it is seen.
    mounts: AtomicU32,
    /// Bumped whenever a name in this directory changes.
    generation: AtomicU64,
    /// Held while names in this directory change.
    pub(crate) guard: Mutex<()>,
}

struct Place {
    parent: Option<Arc<Dentry>>,
    name: Arc<[u8]>,
}

struct Key {
    parent: u64,
    name: Arc<[u8]>,
}

struct Borrowed<'a> {
    parent: u64,
    name: &'a [u8],
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parent.hash(state);
        self.name.hash(state);
    }
}

impl Hash for Borrowed<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parent.hash(state);
        self.name.hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.parent == other.parent && self.name == other.name
    }
}

impl Eq for Key {}

impl Equivalent<Key> for Borrowed<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.parent == key.parent && self.name == &*key.name
    }
}

/// Parts of the cache, each with its own lock.
const SHARDS: usize = 16;
/// Entries in a shard before unused ones are dropped.
const SHARD_LIMIT: usize = 1024;

struct Shard {
    map: Option<HashMap<Key, Arc<Dentry>>>,
    limit: usize,
}

static CACHE: [Mutex<Shard>; SHARDS] =
    [const { Mutex::new(Shard { map: None, limit: SHARD_LIMIT }) }; SHARDS];
static NEXT: AtomicU64 = AtomicU64::new(1);

fn shard(parent: u64, name: &[u8]) -> &'static Mutex<Shard> {
    let last = name.last().copied().unwrap_or_default();
    let mixed = parent.wrapping_mul(31).wrapping_add(u64::from(last)).wrapping_add(name.len() as u64);
    &CACHE[(mixed % SHARDS as u64) as usize]
}

impl Shard {
    fn get(&self, parent: u64, name: &[u8]) -> Option<&Arc<Dentry>> {
        self.map.as_ref()?.get(&Borrowed { parent, name })
    }

    /// Adds an entry; returns unused ones that have to make room, for the caller to drop without the lock.
    fn insert(&mut self, parent: u64, entry: &Arc<Dentry>) -> Vec<Arc<Dentry>> {
        let map = self.map.get_or_insert_default();
        let mut dropped = Vec::new();
        if map.len() >= self.limit {
            dropped.extend(map.extract_if(|_, entry| Arc::strong_count(entry) == 1).map(|(_, entry)| entry));
            self.limit = SHARD_LIMIT.max(map.len() * 2);
        }
        let name = entry.place.lock().name.clone();
        map.insert(Key { parent, name }, entry.clone());
        dropped
    }
}

impl Dentry {
    fn new(
        vnode: Arc<dyn Vnode>,
        parent: Option<Arc<Dentry>>,
        name: &[u8],
        file_system: u64,
        volatile: bool,
    ) -> Self {
        Dentry {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            vnode,
            file_system,
            volatile,
            place: SpinLock::new(Place { parent, name: Arc::from(name) }),
            removed: AtomicBool::new(false),
            mounts: AtomicU32::new(0),
            generation: AtomicU64::new(0),
            guard: Mutex::new(()),
        }
    }

    /// The root of a file system.
    pub(crate) fn root(vnode: Arc<dyn Vnode>, volatile: bool) -> Arc<Self> {
        let file_system = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Dentry::new(vnode, None, b"", file_system, volatile))
    }

    /// An entry that no directory has: a file without a name, or one that is reached through /proc.
    pub(crate) fn detached(vnode: Arc<dyn Vnode>, parent: Option<Arc<Dentry>>, name: &[u8]) -> Arc<Self> {
        let file_system = parent.as_ref().map_or(0, |parent| parent.file_system);
        let entry = Dentry::new(vnode, parent, name, file_system, false);
        entry.removed.store(true, Ordering::Relaxed);
        Arc::new(entry)
    }

    /// The vnode.
    pub fn vnode(&self) -> &Arc<dyn Vnode> {
        &self.vnode
    }

    /// The directory it is in; a root has none.
    pub fn parent(&self) -> Option<Arc<Dentry>> {
        self.place.lock().parent.clone()
    }

    /// Its name.
    pub fn name(&self) -> Arc<[u8]> {
        self.place.lock().name.clone()
    }

    /// Whether the name has been removed.
    pub fn removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    pub(crate) fn file_system(&self) -> u64 {
        self.file_system
    }

    /// Locks are taken in the order of this number.
    pub(crate) fn order(&self) -> u64 {
        self.id
    }

    pub(crate) fn has_mounts(&self) -> bool {
        self.mounts.load(Ordering::Acquire) > 0
    }

    pub(crate) fn add_mount(self: &Arc<Self>) {
        self.mounts.fetch_add(1, Ordering::AcqRel);
        // A mount point must be found again even where names aren't kept.
        let Place { parent: Some(parent), name } = &*self.place.lock() else { return };
        let (parent, name) = (parent.id, name.clone());
        let mut shard = shard(parent, &name).lock();
        shard.map.get_or_insert_default().insert(Key { parent, name }, self.clone());
    }

    pub(crate) fn remove_mount(&self) {
        self.mounts.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether `other` is this directory or something below it.
    pub(crate) fn contains(&self, other: &Arc<Dentry>) -> bool {
        let mut at = Some(other.clone());
        while let Some(entry) = at {
            if entry.id == self.id {
                return true;
            }
            at = entry.parent();
        }
        false
    }

    /// Finds a name in this directory. Neither "." nor "..".
    pub fn lookup(self: &Arc<Self>, name: &[u8]) -> Result<Arc<Dentry>> {
        let shard = shard(self.id, name);
        if let Some(entry) = shard.lock().get(self.id, name)
            && (!self.volatile || entry.has_mounts())
        {
            return Ok(entry.clone());
        }
        loop {
            let generation = self.generation.load(Ordering::Acquire);
            let vnode = self.vnode.lookup(name)?;
            let entry =
                Arc::new(Dentry::new(vnode, Some(self.clone()), name, self.file_system, self.volatile));
            if self.volatile {
                return Ok(entry);
            }
            let mut locked = shard.lock();
            if let Some(other) = locked.get(self.id, name) {
                return Ok(other.clone());
            }
            // A name that changed while the file system looked must not enter the cache.
            if self.generation.load(Ordering::Acquire) == generation {
                let dropped = locked.insert(self.id, &entry);
                drop(locked);
                drop(dropped);
                return Ok(entry);
            }
        }
    }

    /// Enters a new name; the guard is held.
    pub(crate) fn created(self: &Arc<Self>, name: &[u8], vnode: Arc<dyn Vnode>) -> Arc<Dentry> {
        let entry = Arc::new(Dentry::new(vnode, Some(self.clone()), name, self.file_system, self.volatile));
        self.changed(name, Some(&entry));
        entry
    }

    /// Forgets a name that was removed; the guard is held.
    pub(crate) fn forget(self: &Arc<Self>, name: &[u8]) {
        self.changed(name, None);
    }

    /// Replaces what the cache has for a name.
    fn changed(self: &Arc<Self>, name: &[u8], now: Option<&Arc<Dentry>>) {
        let mut locked = shard(self.id, name).lock();
        self.generation.fetch_add(1, Ordering::AcqRel);
        let old = locked.map.as_mut().and_then(|map| map.remove(&Borrowed { parent: self.id, name }));
        if let Some(old) = &old {
            old.removed.store(true, Ordering::Release);
        }
        let dropped = match now {
            Some(entry) if !self.volatile => locked.insert(self.id, entry),
            _ => Vec::new(),
        };
        drop(locked);
        drop((old, dropped));
    }

    /// Takes a name out of the cache without calling it removed.
    fn take(self: &Arc<Self>, name: &[u8]) {
        let mut locked = shard(self.id, name).lock();
        self.generation.fetch_add(1, Ordering::AcqRel);
        let old = locked.map.as_mut().and_then(|map| map.remove(&Borrowed { parent: self.id, name }));
        drop(locked);
        drop(old);
    }

    fn place_at(&self, parent: &Arc<Dentry>, name: &[u8]) {
        let new = Place { parent: Some(parent.clone()), name: Arc::from(name) };
        let old = core::mem::replace(&mut *self.place.lock(), new);
        drop(old);
    }

    /// Moves this entry after a rename; both guards are held.
    pub(crate) fn renamed(self: &Arc<Self>, from: &Arc<Dentry>, old: &[u8], to: &Arc<Dentry>, new: &[u8]) {
        from.take(old);
        self.place_at(to, new);
        to.changed(new, Some(self));
    }

    /// Swaps two entries after a rename; both guards are held.
    pub(crate) fn exchanged(
        one: &Arc<Dentry>,
        other: &Arc<Dentry>,
        (from, old): (&Arc<Dentry>, &[u8]),
        (to, new): (&Arc<Dentry>, &[u8]),
    ) {
        from.take(old);
        to.take(new);
        one.place_at(to, new);
        other.place_at(from, old);
        to.changed(new, Some(one));
        from.changed(old, Some(other));
    }
}

impl Drop for Dentry {
    /// Drops the parents one by one: a path may be deeper than the stack.
    fn drop(&mut self) {
        let mut next = self.place.get_mut().parent.take();
        while let Some(mut parent) = next.and_then(Arc::into_inner) {
            next = parent.place.get_mut().parent.take();
        }
    }
}

/// Forgets a name that was removed from a directory behind the cache's back.
pub fn forget(directory: &Arc<dyn Vnode>, name: &[u8]) {
    for shard in &CACHE {
        let mut locked = shard.lock();
        let Some(map) = &mut locked.map else { continue };
        let is = |entry: &Dentry| {
            let place = entry.place.lock();
            let parent = place.parent.as_ref();
            *place.name == *name && parent.is_some_and(|parent| Arc::ptr_eq(&parent.vnode, directory))
        };
        let dropped: Vec<_> = map.extract_if(|_, entry| is(entry)).collect();
        dropped.iter().for_each(|(_, entry)| entry.removed.store(true, Ordering::Release));
        drop(locked);
        drop(dropped);
    }
}

/// Drops everything that the cache has of a file system.
pub(crate) fn purge(file_system: u64) {
    for shard in &CACHE {
        let mut locked = shard.lock();
        let Some(map) = &mut locked.map else { continue };
        let dropped: Vec<_> = map.extract_if(|_, entry| entry.file_system == file_system).collect();
        drop(locked);
        drop(dropped);
    }
}
