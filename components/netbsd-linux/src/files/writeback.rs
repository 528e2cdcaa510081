//! Giving changed pages of mapped files to NetBSD's kernel, which writes them to the disk.

use alloc::{
    boxed::Box,
    string::String,
    sync::{Arc, Weak},
};
use core::sync::atomic::Ordering;

use rumpkern::{Result, wait::WaitError};
use rumpuser::{NEVER, OutOfMemory, ThreadSpec, rumpuser_clock_monotonic, rumpuser_thread_create};

use super::{Shared, node::Node};

/// A crash takes at most what was done in so many nanoseconds.
const INTERVAL: u64 = 5_000_000_000;
/// Changed pages that are not waited for.
const MANY: usize = 4096;

/// Starts the thread, which ends with the file system.
pub fn start(shared: &Arc<Shared>) -> core::result::Result<(), OutOfMemory> {
    let weak = Arc::downgrade(shared);
    let main = Box::new(move || run(&weak));
    rumpuser_thread_create(ThreadSpec { name: String::from("writeback"), affinity: u64::MAX, main })?;
    Ok(())
}

fn run(weak: &Weak<Shared>) {
    while let Some(shared) = weak.upgrade() {
        let stopped = || shared.stopped.load(Ordering::Acquire);
        let changed = || shared.dirty_pages.load(Ordering::Relaxed);
        // Nothing is to be done while nothing changes: an idle machine sleeps.
        shared.work.wait_uninterruptible(|| (stopped() || changed() > 0).then_some(()));
        let deadline = rumpuser_clock_monotonic().saturating_add(INTERVAL).min(NEVER - 1);
        let woken = shared.work.wait(deadline, || (stopped() || changed() > MANY).then_some(()));
        if stopped() {
            return;
        }
        if woken == Err(WaitError::Interrupted) {
            rumpuser::rumpuser_clear_interrupt();
        }
        if let Err(error) = shared.write_all() {
            *shared.failure.lock() = Some(error);
        }
    }
}

impl Shared {
    /// Notes that a file has changed pages.
    pub(super) fn add_dirty(&self, node: &Arc<Node>) {
        let old = self.dirty.lock().insert(node.inode(), node.clone());
        drop(old);
        let count = self.dirty_pages.load(Ordering::Relaxed);
        if count == 1 || count > MANY {
            self.work.wake_one();
        }
    }

    /// Gives the changed pages of all files to the kernel.
    pub(super) fn write_all(&self) -> Result<()> {
        let nodes = core::mem::take(&mut *self.dirty.lock());
        let mut outcome = Ok(());
        for (inode, node) in nodes {
            if let Err(error) = node.flush() {
                outcome = outcome.and(Err(error));
                // Another try, later.
                self.dirty.lock().entry(inode).or_insert(node);
            }
        }
        outcome
    }
}
