//! Who watches a file or a directory (inotify(7)), and what they are told.

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use rumpuser::sync::Mutex;

use crate::{
    dentry::Dentry,
    vnode::{Kind, Vnode},
};

/// The events, with the values of `IN_*`.
#[allow(missing_docs, reason = "as in inotify(7)")]
pub mod event {
    pub const ACCESS: u32 = 0x1;
    pub const MODIFY: u32 = 0x2;
    pub const ATTRIB: u32 = 0x4;
    pub const CLOSE_WRITE: u32 = 0x8;
    pub const CLOSE_NOWRITE: u32 = 0x10;
    pub const OPEN: u32 = 0x20;
    pub const MOVED_FROM: u32 = 0x40;
    pub const MOVED_TO: u32 = 0x80;
    pub const CREATE: u32 = 0x100;
    pub const DELETE: u32 = 0x200;
    pub const DELETE_SELF: u32 = 0x400;
    pub const MOVE_SELF: u32 = 0x800;
    pub const ALL: u32 = 0xfff;
    pub const Q_OVERFLOW: u32 = 0x4000;
    pub const IGNORED: u32 = 0x8000;
    pub const ISDIR: u32 = 0x4000_0000;
}

/// Hears what happens to a file, or to a name in a directory. Called in thread context, with locks held: it must
/// only record.
pub trait Watcher: Send + Sync {
    /// `cookie` ties the two events of a rename together; `name` is empty for what happens to the file itself.
    fn event(&self, mask: u32, cookie: u32, name: &[u8]);
}

type Key = (u64, u64);

static WATCHED: Mutex<BTreeMap<Key, Vec<Weak<dyn Watcher>>>> = Mutex::new(BTreeMap::new());
/// Files watched: while there are none, an event costs one load.
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn key(vnode: &Arc<dyn Vnode>) -> Option<Key> {
    vnode.attributes().ok().map(|attributes| (attributes.device, attributes.inode))
}

/// Begins to watch a file.
pub fn watch(vnode: &Arc<dyn Vnode>, watcher: &Arc<dyn Watcher>) {
    let Some(key) = key(vnode) else { return };
    let mut watched = WATCHED.lock();
    watched.entry(key).or_default().push(Arc::downgrade(watcher));
    COUNT.store(watched.len(), Ordering::Release);
}

/// Forgets watchers that are gone.
pub fn tidy() {
    let mut watched = WATCHED.lock();
    watched.retain(|_, watchers| {
        watchers.retain(|watcher| watcher.strong_count() > 0);
        !watchers.is_empty()
    });
    COUNT.store(watched.len(), Ordering::Release);
}

/// Whether anything is watched.
#[inline]
pub fn is_active() -> bool {
    COUNT.load(Ordering::Acquire) > 0
}

/// Tells the watchers of a file.
pub fn tell(vnode: &Arc<dyn Vnode>, mask: u32, cookie: u32, name: &[u8]) {
    if !is_active() {
        return;
    }
    let Some(key) = key(vnode) else { return };
    let watchers: Vec<_> = WATCHED
        .lock()
        .get(&key)
        .map(|list| list.iter().filter_map(Weak::upgrade).collect())
        .unwrap_or_default();
    for watcher in watchers {
        watcher.event(mask, cookie, name);
    }
}

fn directory_bit(vnode: &Arc<dyn Vnode>) -> u32 {
    if vnode.kind() == Kind::Directory { event::ISDIR } else { 0 }
}

/// Something happened to an open file: its own watchers hear of it, and those of its directory.
#[inline]
pub fn tell_entry(entry: &Arc<Dentry>, mask: u32) {
    if is_active() {
        tell_both(entry, mask);
    }
}

#[cold]
fn tell_both(entry: &Arc<Dentry>, mask: u32) {
    let mask = mask | directory_bit(entry.vnode());
    if let Some(parent) = entry.parent()
        && !entry.removed()
    {
        tell(parent.vnode(), mask, 0, &entry.name());
    }
    tell(entry.vnode(), mask, 0, b"");
}

/// A name came into a directory.
pub(crate) fn created(directory: &Arc<Dentry>, name: &[u8], vnode: &Arc<dyn Vnode>) {
    if is_active() {
        tell(directory.vnode(), event::CREATE | directory_bit(vnode), 0, name);
    }
}

/// A name left a directory.
pub(crate) fn removed(directory: &Arc<Dentry>, name: &[u8], vnode: &Arc<dyn Vnode>) {
    if !is_active() {
        return;
    }
    let last = vnode.attributes().is_ok_and(|attributes| attributes.links == 0);
    let own = if last { event::DELETE_SELF } else { event::ATTRIB };
    tell(vnode, own, 0, b"");
    tell(directory.vnode(), event::DELETE | directory_bit(vnode), 0, name);
}

/// A name moved.
pub(crate) fn renamed(
    (from, old): (&Arc<Dentry>, &[u8]),
    (to, new): (&Arc<Dentry>, &[u8]),
    vnode: &Arc<dyn Vnode>,
) {
    static COOKIE: AtomicU32 = AtomicU32::new(1);
    if !is_active() {
        return;
    }
    let cookie = COOKIE.fetch_add(1, Ordering::Relaxed);
    let directory = directory_bit(vnode);
    tell(from.vnode(), event::MOVED_FROM | directory, cookie, old);
    tell(to.vnode(), event::MOVED_TO | directory, cookie, new);
    tell(vnode, event::MOVE_SELF, 0, b"");
}
