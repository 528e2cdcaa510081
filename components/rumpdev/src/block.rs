//! Block devices: what a disk offers, and the registry of the disks there are (`vda`, `vdb`, ...).

use alloc::{
    format,
    string::String,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicBool, Ordering};

use rumpkern::{Result, wait::WaitQueue};
use rumpuser::{Frame, sync::SpinLock};

use crate::nodes;

/// Bytes in a sector, the unit of positions and sizes, whatever the device's own block size is.
pub const SECTOR_SIZE: usize = 512;

/// A disk. Calls return when the device has done the work; any number of threads may call at once, and what they
/// ask is done in any order. Thread context.
///
/// Positions and lengths are multiples of [`BlockDevice::block_size`] (EINVAL otherwise) and inside the device
/// (ENXIO otherwise); a failing device gives EIO, a write to a read-only one EROFS.
pub trait BlockDevice: Send + Sync {
    /// The capacity in sectors.
    fn sectors(&self) -> u64;

    /// The smallest unit of a transfer in bytes: a power of two, 512 to 4096.
    fn block_size(&self) -> usize;

    /// Whether writes are refused.
    fn read_only(&self) -> bool;

    /// Reads from `sector` on into any kernel memory.
    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<()>;

    /// Writes from `sector` on. Durable only after [`BlockDevice::flush`].
    fn write(&self, sector: u64, buffer: &[u8]) -> Result<()>;

    /// Reads whole frames, without a copy. The caller keeps its references on them.
    fn read_frames(&self, sector: u64, frames: &[Frame]) -> Result<()>;

    /// Writes whole frames, without a copy. The caller keeps its references on them.
    fn write_frames(&self, sector: u64, frames: &[Frame]) -> Result<()>;

    /// Returns when every write that returned before this call is on stable storage.
    fn flush(&self) -> Result<()>;

    /// Tells the device that the contents of `sectors` sectors are no longer needed. A hint: what they read as
    /// afterwards is undefined, and a device that can't does nothing.
    fn discard(&self, sector: u64, sectors: u64) -> Result<()>;
}

/// A disk that there is.
#[derive(Clone)]
pub struct Registered {
    /// Its place among all that there are or were, of which its device number is made.
    pub index: usize,
    /// `vda` and on.
    pub name: String,
    /// The disk.
    pub device: Arc<dyn BlockDevice>,
}

/// A name.
enum Place {
    Taken(Arc<dyn BlockDevice>),
    /// Its disk is gone, but perhaps still mounted or open.
    Left(Weak<dyn BlockDevice>),
}

static DEVICES: SpinLock<Vec<Place>> = SpinLock::new(Vec::new());

/// The name of the disk with this index: `vda` to `vdz`, then `vdaa` and on.
fn name(mut index: usize) -> String {
    let mut letters = String::new();
    loop {
        letters.insert(0, char::from(b'a' + (index % 26) as u8));
        if index < 26 {
            return format!("vd{letters}");
        }
        index = index / 26 - 1;
    }
}

/// Adds a disk, with a node in every /dev there is; returns its name, the first that none has or still uses. Thread context.
pub fn register(device: Arc<dyn BlockDevice>) -> String {
    let mut devices = DEVICES.lock();
    let is_free = |place: &Place| matches!(place, Place::Left(device) if device.strong_count() == 0);
    let index = devices.iter().position(is_free).unwrap_or(devices.len());
    if index < devices.len() {
        devices[index] = Place::Taken(device);
    } else {
        devices.push(Place::Taken(device));
    }
    drop(devices);
    let name = name(index);
    CHANGED.wake_all();
    nodes::announce(name.as_bytes(), index);
    tell();
    name
}

/// Takes a disk that is gone out, and its nodes. Who has it open or mounted keeps it. Thread context.
pub fn unregister(device: &dyn BlockDevice) {
    let mut devices = DEVICES.lock();
    let is = |place: &Place| matches!(place, Place::Taken(taken) if core::ptr::addr_eq(&raw const **taken, device));
    let Some(index) = devices.iter().position(is) else { return };
    let left = match &devices[index] {
        Place::Taken(device) => Place::Left(Arc::downgrade(device)),
        Place::Left(_) => return,
    };
    let taken = core::mem::replace(&mut devices[index], left);
    drop(devices);
    nodes::retract(name(index).as_bytes(), index);
    drop(taken);
    tell();
}

static WATCHER: SpinLock<Option<fn()>> = SpinLock::new(None);

/// Has a function called after each change of what disks there are. Thread context.
pub fn watch(changed: fn()) {
    *WATCHER.lock() = Some(changed);
}

fn tell() {
    let changed = *WATCHER.lock();
    if let Some(changed) = changed {
        changed();
    }
}

fn registered() -> Vec<Registered> {
    let devices = DEVICES.lock();
    let taken = devices.iter().enumerate().filter_map(|(index, place)| match place {
        Place::Taken(device) => Some(Registered { index, name: name(index), device: device.clone() }),
        Place::Left(_) => None,
    });
    taken.collect()
}

/// Whether devices are still being looked for: the machine starts programs meanwhile.
static SEARCHING: AtomicBool = AtomicBool::new(false);
static CHANGED: WaitQueue = WaitQueue::new();

/// Says that disks are being looked for, until [`search_ends`].
pub fn search_begins() {
    SEARCHING.store(true, Ordering::SeqCst);
}

/// Says that every disk there is has registered.
pub fn search_ends() {
    SEARCHING.store(false, Ordering::SeqCst);
    CHANGED.wake_all();
}

/// Waits until every disk there is has registered.
pub fn wait_for_search() {
    CHANGED.wait_uninterruptible(|| (!SEARCHING.load(Ordering::SeqCst)).then_some(()));
}

/// The disk of that name. Waits while it may still be found.
pub fn find(name: &str) -> Option<Arc<dyn BlockDevice>> {
    CHANGED.wait_uninterruptible(|| {
        // In this order: the search may end, and leave the disk, in between.
        let searching = SEARCHING.load(Ordering::SeqCst);
        let found = registered().into_iter().find(|disk| disk.name == name).map(|disk| disk.device);
        (found.is_some() || !searching).then_some(found)
    })
}

/// Every disk, in the order of their names. Waits until all have been found.
pub fn all() -> Vec<Registered> {
    wait_for_search();
    registered()
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn names_go_on_after_z() {
        assert_eq!(
            ["vda", "vdz", "vdaa", "vdaz", "vdba"],
            [0, 25, 26, 51, 52].map(name).each_ref().map(|name| &name[..])
        );
    }
}
