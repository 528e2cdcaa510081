//! Physical frames: the buddy allocator behind per-CPU caches, and a reference count for each frame.

use core::{
    cell::Cell,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
};

use rumpuser::{Frame, MemoryStatistics, OutOfMemory, memory::PAGE_SIZE};

use super::{buddy::Buddy, layout::direct};
use crate::{cpu, lock::IrqLock, machine};

static BUDDY: IrqLock<Buddy> = IrqLock::new(Buddy::empty());
/// The reference counts: address and number of the array of [`AtomicU32`].
static REFERENCES: AtomicUsize = AtomicUsize::new(0);
static FRAMES: AtomicUsize = AtomicUsize::new(0);
static TOTAL: AtomicUsize = AtomicUsize::new(0);
/// Frames that only the kernel gets.
static RESERVE: AtomicUsize = AtomicUsize::new(0);
/// How many frames a CPU keeps at most.
static CACHE_LIMIT: AtomicUsize = AtomicUsize::new(0);

/// The count of a frame that the allocator doesn't own.
const UNMANAGED: u32 = u32::MAX;
/// Size of a CPU's cache.
const CACHE: usize = 64;

/// Frames kept by a CPU, so that most allocations take no lock. Used with interrupts disabled.
pub struct FrameCache {
    count: Cell<usize>,
    frames: [Cell<u32>; CACHE],
}

impl FrameCache {
    /// Without frames.
    pub const fn new() -> Self {
        FrameCache { count: Cell::new(0), frames: [const { Cell::new(0) }; CACHE] }
    }
}

impl Default for FrameCache {
    fn default() -> Self {
        Self::new()
    }
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// User memory: refused when only the reserve is left.
    User,
    /// The kernel itself.
    Kernel,
}

/// Hands the memory `ranges` (frames: start, count) to the allocator. `metadata` is zeroed memory of
/// [`metadata_bytes`]; `limit` is the end of the highest range.
///
/// # Safety
/// The ranges must be unused memory in the direct map, and `metadata` unused and not in them. Once, at boot.
pub unsafe fn initialise(metadata: usize, limit: usize, ranges: &[(u64, u64)]) {
    // SAFETY: the caller gave us the memory; u32 first, so alignment is right.
    let (references, orders) = unsafe {
        (
            core::slice::from_raw_parts_mut(metadata as *mut u32, limit),
            core::slice::from_raw_parts_mut((metadata + 4 * limit) as *mut u8, limit),
        )
    };
    references.fill(UNMANAGED);
    // SAFETY: the frames are in the direct map and ours.
    let mut buddy = unsafe { Buddy::new(super::layout::DIRECT_MAP, orders) };
    for &(start, count) in ranges {
        references[start as usize..(start + count) as usize].fill(0);
        buddy.free_range(start, count);
    }
    let total = buddy.free_frames();
    *BUDDY.lock() = buddy;
    REFERENCES.store(metadata, Ordering::Relaxed);
    FRAMES.store(limit, Ordering::Relaxed);
    TOTAL.store(total, Ordering::Relaxed);
    RESERVE.store((total / 32).clamp(64, 2048), Ordering::Relaxed);
    CACHE_LIMIT.store((total / 1024).clamp(4, CACHE), Ordering::Relaxed);
}

/// Bytes that [`initialise`] needs for `limit` frames.
pub fn metadata_bytes(limit: usize) -> usize {
    5 * limit
}

fn references(frame: u64) -> Option<&'static AtomicU32> {
    // SAFETY: the array has `FRAMES` counts and lives for ever.
    (frame < FRAMES.load(Ordering::Relaxed) as u64)
        .then(|| unsafe { &*((REFERENCES.load(Ordering::Relaxed) + 4 * frame as usize) as *const AtomicU32) })
}

/// Whether `frames` more can go to users without touching the kernel's reserve.
pub fn available(frames: usize) -> bool {
    BUDDY.lock().free_frames() >= RESERVE.load(Ordering::Relaxed) + frames
}

/// Takes `1 << order` frames, each with one reference, contents undefined.
pub fn allocate(order: usize, purpose: For) -> Result<Frame, OutOfMemory> {
    let state = machine::interrupts_disable();
    let first = if order == 0 { allocate_cached(purpose) } else { allocate_block(order, purpose) };
    if let Some(first) = first {
        for frame in first..first + (1 << order) {
            if let Some(count) = references(frame) {
                count.store(1, Ordering::Relaxed);
            }
        }
    }
    rumpuser::rumpuser_interrupts_restore(state);
    first.map(Frame).ok_or(OutOfMemory)
}

fn allocate_block(order: usize, purpose: For) -> Option<u64> {
    if order >= super::buddy::ORDERS {
        return None;
    }
    let mut buddy = BUDDY.lock();
    if purpose == For::User && buddy.free_frames() < RESERVE.load(Ordering::Relaxed) + (1 << order) {
        return None;
    }
    buddy.allocate(order)
}

fn allocate_cached(purpose: For) -> Option<u64> {
    let cache = &cpu::current().frame_cache;
    let mut count = cache.count.get();
    if count == 0 {
        let mut buddy = BUDDY.lock();
        if purpose == For::User && buddy.free_frames() <= RESERVE.load(Ordering::Relaxed) {
            return None;
        }
        while count < CACHE_LIMIT.load(Ordering::Relaxed).div_ceil(2)
            && let Some(frame) = buddy.allocate(0)
        {
            cache.frames[count].set(frame as u32);
            count += 1;
        }
    }
    count = count.checked_sub(1)?;
    cache.count.set(count);
    Some(u64::from(cache.frames[count].get()))
}

fn free_cached(frame: u64) {
    let cache = &cpu::current().frame_cache;
    let mut count = cache.count.get();
    let limit = CACHE_LIMIT.load(Ordering::Relaxed);
    if count >= limit {
        let mut buddy = BUDDY.lock();
        while count > limit / 2 {
            count -= 1;
            buddy.free(u64::from(cache.frames[count].get()), 0);
        }
    }
    cache.frames[count].set(frame as u32);
    cache.count.set(count + 1);
}

/// Gives back the frames that the calling CPU keeps. Interrupts are disabled.
pub fn drain_cache() {
    let cache = &cpu::current().frame_cache;
    let mut buddy = BUDDY.lock();
    for frame in &cache.frames[..cache.count.replace(0)] {
        buddy.free(u64::from(frame.get()), 0);
    }
}

/// Gives back frames whose references are gone or don't matter (the heap's).
pub fn free_range(first: u64, frames: u64) {
    for frame in first..first + frames {
        if let Some(count) = references(frame) {
            count.store(0, Ordering::Relaxed);
        }
    }
    let state = machine::interrupts_disable();
    if frames == 1 {
        free_cached(first);
    } else {
        BUDDY.lock().free_range(first, frames);
    }
    rumpuser::rumpuser_interrupts_restore(state);
}

/// Fills frames with zeroes.
pub fn zero(frame: Frame, frames: usize) {
    // SAFETY: the caller has just allocated them.
    unsafe { core::ptr::write_bytes(direct(frame.physical()) as *mut u8, 0, frames * PAGE_SIZE) };
}

/// Adds a reference; nothing for unmanaged frames.
pub fn retain(frame: Frame) {
    if let Some(count) = references(frame.0)
        && count.load(Ordering::Relaxed) != UNMANAGED
    {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Drops a reference, and frees the frame with the last one.
pub fn release(frame: Frame) {
    let Some(count) = references(frame.0) else { return };
    match count.load(Ordering::Acquire) {
        UNMANAGED => return,
        // The only reference is the caller's: nobody can add one meanwhile.
        1 => count.store(0, Ordering::Relaxed),
        _ if count.fetch_sub(1, Ordering::AcqRel) != 1 => return,
        _ => {}
    }
    let state = machine::interrupts_disable();
    free_cached(frame.0);
    rumpuser::rumpuser_interrupts_restore(state);
}

/// How many references a frame has.
pub fn count(frame: Frame) -> u32 {
    references(frame.0).map_or(UNMANAGED, |count| count.load(Ordering::Acquire))
}

/// Notes that a number of allocated frames have no memory for the time being.
pub fn lend(frames: usize) {
    TOTAL.fetch_sub(frames, Ordering::Relaxed);
}

/// Notes that frames have memory again.
pub fn take_back(frames: usize) {
    TOTAL.fetch_add(frames, Ordering::Relaxed);
}

/// Total and free memory.
pub fn statistics() -> MemoryStatistics {
    let cached: usize = cpu::all().map(|cpu| cpu.frame_cache.count.get()).sum();
    let free = BUDDY.lock().free_frames() + cached;
    MemoryStatistics {
        total: (TOTAL.load(Ordering::Relaxed) * PAGE_SIZE) as u64,
        free: (free * PAGE_SIZE) as u64,
    }
}
