//! Writing back what changed, and keeping the cache small.

use alloc::{
    boxed::Box,
    collections::VecDeque,
    string::String,
    sync::{Arc, Weak},
};
use core::sync::atomic::Ordering;

use rumpkern::{Result, reclaim::Reclaim, wait::WaitError};
use rumpuser::{
    NEVER, OutOfMemory, ThreadSpec, rumpuser_clock_monotonic, rumpuser_memory_statistics,
    rumpuser_thread_create,
};

use crate::{Shared, cache::GiveUp, node::Node};

/// A crash takes at most what was done in so many nanoseconds.
const INTERVAL: u64 = 5_000_000_000;

/// Starts the thread that writes back every few seconds; it ends with the file system.
pub fn start(shared: &Arc<Shared>) -> core::result::Result<(), OutOfMemory> {
    let weak = Arc::downgrade(shared);
    let main = move || run(&weak);
    let name = String::from("ext4-writeback");
    rumpuser_thread_create(ThreadSpec { name, affinity: u64::MAX, main: Box::new(main) })?;
    Ok(())
}

fn run(weak: &Weak<Shared>) {
    while let Some(shared) = weak.upgrade() {
        let stopped = || shared.stop.load(Ordering::Acquire);
        // Nothing is to be done while nothing changes: an idle machine sleeps.
        shared.work.wait_uninterruptible(|| (stopped() || shared.is_changed()).then_some(()));
        if stopped() {
            return;
        }
        let deadline = rumpuser_clock_monotonic().saturating_add(INTERVAL).min(NEVER - 1);
        let woken: core::result::Result<(), WaitError> = shared.work.wait(deadline, || {
            (stopped() || shared.dirty_pages.load(Ordering::Relaxed) > shared.limit / 4).then_some(())
        });
        if stopped() {
            return;
        }
        shared.keep_failure(shared.sync());
        if woken == Err(WaitError::Interrupted) {
            rumpuser::rumpuser_clear_interrupt();
        }
    }
}

impl Shared {
    fn is_changed(&self) -> bool {
        self.changed.load(Ordering::Acquire) || self.dirty_pages.load(Ordering::Relaxed) > 0
    }

    /// Keeps an error for the next sync.
    pub(crate) fn keep_failure(&self, result: Result<()>) {
        if let Err(error) = result {
            *self.failure.lock() = Some(error);
        }
    }

    /// Notes that a file has changed pages.
    pub(crate) fn add_dirty(&self, node: &Arc<Node>) {
        let old = self.dirty.lock().insert(node.inode(), node.clone());
        drop(old);
        self.note_change();
    }

    /// Writes the changed pages of all files.
    pub(crate) fn write_all(&self) -> Result<()> {
        let nodes = core::mem::take(&mut *self.dirty.lock());
        let mut result = Ok(());
        for (inode, node) in nodes {
            // A file that has no name and no other user goes with its data.
            if node.is_unlinked() && Arc::strong_count(&node) == 1 {
                continue;
            }
            if let Err(error) = node.flush(true) {
                result = result.and(Err(error));
                // It stays in the cache for another try, unless the disk is gone for good.
                self.dirty.lock().entry(inode).or_insert(node);
            }
        }
        result
    }

    /// Notes pages that came into the cache, and removes others if there are too many.
    pub(crate) fn cached(&self, node: &Arc<Node>, pages: &[u64]) {
        if pages.is_empty() {
            return;
        }
        {
            let mut clock = self.clock.lock();
            clock.extend(pages.iter().map(|&index| (Arc::downgrade(node), index)));
            if clock.len() > 2 * self.pages.load(Ordering::Relaxed) + 1024 {
                clock.retain(|(node, _)| node.strong_count() > 0);
            }
        }
        let memory = rumpuser_memory_statistics();
        let scarce = memory.free < memory.total / 16;
        if scarce || self.pages.load(Ordering::Relaxed) > self.limit {
            self.shrink(2 * pages.len().max(16));
        }
    }

    /// Removes about so many pages that nobody needs; returns how many went.
    pub(crate) fn shrink(&self, wanted: usize) -> usize {
        let before = self.pages.load(Ordering::Relaxed);
        let mut kept: VecDeque<(Weak<Node>, u64)> = VecDeque::new();
        let mut gone = 0;
        // Every page is looked at twice at most: the first look takes its "used" away.
        for _ in 0..4 * wanted + 64 {
            if gone >= wanted {
                break;
            }
            let Some((weak, index)) = self.clock.lock().pop_front() else { break };
            let Some(node) = weak.upgrade() else { continue };
            match node.give_up(index) {
                GiveUp::Gone => gone += 1,
                GiveUp::Kept => kept.push_back((weak, index)),
            }
        }
        self.clock.lock().append(&mut kept);
        before.saturating_sub(self.pages.load(Ordering::Relaxed))
    }
}

impl Reclaim for Shared {
    fn reclaim(&self, pages: usize) -> usize {
        self.shrink(pages)
    }
}
