//! Block devices: what a disk offers, and the registry of the disks there are (`vda`, `vdb`, ...).

use alloc::{format, string::String, sync::Arc, vec::Vec};
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

static DEVICES: SpinLock<Vec<(String, Arc<dyn BlockDevice>)>> = SpinLock::new(Vec::new());

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

/// Adds a disk, with a node in every /dev there is; returns its name. Thread context.
pub fn register(device: Arc<dyn BlockDevice>) -> String {
    let mut devices = DEVICES.lock();
    let index = devices.len();
    let name = name(index);
    devices.push((name.clone(), device));
    drop(devices);
    CHANGED.wake_all();
    nodes::announce(name.as_bytes(), index);
    name
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
        let found = DEVICES.lock().iter().find(|entry| entry.0 == name).map(|entry| entry.1.clone());
        (found.is_some() || !searching).then_some(found)
    })
}

/// Every disk with its name, in the order of their registration. Waits until all have been found.
pub fn all() -> Vec<(String, Arc<dyn BlockDevice>)> {
    wait_for_search();
    DEVICES.lock().clone()
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
