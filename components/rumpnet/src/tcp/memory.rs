//! How much memory the buffers of all connections may take.
//!
//! Connections report in steps of [`STEP`], so that most segments change nothing here.

use core::sync::atomic::{AtomicUsize, Ordering};

use rumpuser::rumpuser_memory_statistics;

/// A connection reports changes of this many bytes.
pub const STEP: usize = 32 << 10;

static USED: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(0);

/// A quarter of the machine's memory.
pub fn limit() -> usize {
    match LIMIT.load(Ordering::Relaxed) {
        0 => {
            let limit = (rumpuser_memory_statistics().total / 4).max(1 << 20) as usize;
            LIMIT.store(limit, Ordering::Relaxed);
            limit
        }
        limit => limit,
    }
}

/// Bytes in use, as reported.
pub fn used() -> usize {
    USED.load(Ordering::Relaxed)
}

/// Whether buffers should stop growing.
pub fn is_tight() -> bool {
    used() > limit() / 4 * 3
}

/// Whether nothing more should be queued.
pub fn is_exhausted() -> bool {
    used() > limit()
}

static ORPHANS: AtomicUsize = AtomicUsize::new(0);

/// A connection that its socket let go, as long as it is not through.
#[derive(Debug)]
pub struct Orphan(());

impl Orphan {
    /// One more.
    pub fn new() -> Self {
        ORPHANS.fetch_add(1, Ordering::Relaxed);
        Orphan(())
    }
}

impl Default for Orphan {
    fn default() -> Self {
        Orphan::new()
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        ORPHANS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many there are.
pub fn orphans() -> usize {
    ORPHANS.load(Ordering::Relaxed)
}

/// How many there may be: one for every 8 KiB that buffers may take.
pub fn orphan_limit() -> usize {
    limit() >> 13
}

/// What one connection reported.
#[derive(Debug, Default)]
pub struct Share {
    reported: usize,
}

impl Share {
    /// Reports what the connection uses now, if that changed enough.
    #[inline]
    pub fn update(&mut self, bytes: usize) {
        if bytes > self.reported + STEP
            || bytes + 2 * STEP < self.reported
            || (bytes == 0 && self.reported > 0)
        {
            self.report(bytes);
        }
    }

    #[cold]
    fn report(&mut self, bytes: usize) {
        USED.fetch_add(bytes, Ordering::Relaxed);
        USED.fetch_sub(self.reported, Ordering::Relaxed);
        self.reported = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        USED.fetch_sub(self.reported, Ordering::Relaxed);
    }
}
