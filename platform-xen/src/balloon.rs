//! Memory that the toolstack wants back, or gives (Xen, public/memory.h; docs/misc/xenstore-paths, `memory/target`): free
//! frames whose memory goes to the host, and comes again. A thread goes after the target; while the image needs its memory,
//! it takes what is left over and tries again.

use alloc::{boxed::Box, vec::Vec};

use bmk::memory::frames;
use rumpuser::{Thread, ThreadSpec, sync::InterruptLock};

use crate::{
    hypercall::{self, Hypercall, Operation, SELF},
    store::{self, PLAIN, Watch},
};

const TARGET: &str = "memory/target";
const MOST: &str = "memory/static-max";
/// Memory of the emulated screen of an HVM domain, which isn't counted in the target.
const VIDEO: &str = "memory/videoram";
/// Frames in one hypercall.
const BATCH: usize = 256;
/// KiB in a frame.
const FRAME: u64 = 4;
/// How long to wait when nothing more can be had. Nanoseconds.
const PAUSE: u64 = 1_000_000_000;

/// `struct xen_memory_reservation`.
#[repr(C)]
struct Reservation {
    frames: *const u64,
    count: u64,
    order: u32,
    flags: u32,
    domain: u16,
}

impl Reservation {
    fn new(frames: &[u64]) -> Reservation {
        Reservation { frames: frames.as_ptr(), count: frames.len() as u64, order: 0, flags: 0, domain: SELF }
    }
}

#[repr(C)]
struct Decrease(Reservation);

// SAFETY: XENMEM_decrease_reservation, which takes memory away that the caller owns and leaves alone.
unsafe impl Operation for Decrease {
    const HYPERCALL: Hypercall = Hypercall::Memory;
    const COMMAND: u64 = 1;
}

#[repr(C)]
struct Populate(Reservation);

// SAFETY: XENMEM_populate_physmap, which gives memory to frames that have none.
unsafe impl Operation for Populate {
    const HYPERCALL: Hypercall = Hypercall::Memory;
    const COMMAND: u64 = 6;
}

static THREAD: InterruptLock<Option<Thread>> = InterruptLock::new(None);
static WATCH: InterruptLock<Option<Watch>> = InterruptLock::new(None);

/// Starts to follow the target.
pub fn start() {
    let spec = ThreadSpec { name: "balloon".into(), affinity: rumpuser::CpuSet::MAX, main: Box::new(follow) };
    let Ok(thread) = rumpuser::rumpuser_thread_create(spec) else { return };
    *THREAD.lock() = Some(thread);
    let changed = |_: &str| {
        if let Some(thread) = &*THREAD.lock() {
            thread.unpark();
        }
    };
    if let Ok(watch) = store::watch(TARGET, changed) {
        *WATCH.lock() = Some(watch);
    }
}

fn kibibytes(node: &str) -> Option<u64> {
    PLAIN.read(node).ok()?.trim().parse().ok()
}

fn follow() {
    let mut away = Vec::new();
    loop {
        let wanted = kibibytes(MOST).zip(kibibytes(TARGET));
        let wanted = wanted.map_or(away.len() as u64, |(most, target)| {
            most.saturating_sub(kibibytes(VIDEO).unwrap_or(0)).saturating_sub(target) / FRAME
        });
        let moved = step(&mut away, usize::try_from(wanted).unwrap_or(0));
        let deadline = match moved {
            _ if away.len() as u64 == wanted => rumpuser::NEVER,
            true => continue,
            false => rumpuser::rumpuser_clock_monotonic().saturating_add(PAUSE),
        };
        rumpuser::rumpuser_park(deadline);
    }
}

/// Goes a step towards so many frames away; returns whether any was moved.
fn step(away: &mut Vec<u64>, wanted: usize) -> bool {
    if away.len() < wanted {
        let count = (wanted - away.len()).min(BATCH);
        let mut batch = Vec::with_capacity(count);
        while batch.len() < count
            && let Ok(frame) = frames::allocate(0, frames::For::User)
        {
            batch.push(frame.0);
        }
        let taken = hypercall::perform(&mut Decrease(Reservation::new(&batch))).unwrap_or(0);
        let taken = usize::try_from(taken).unwrap_or(0).min(batch.len());
        batch.drain(taken..).for_each(|frame| frames::release(rumpuser::Frame(frame)));
        frames::lend(taken);
        away.append(&mut batch);
        taken > 0
    } else {
        let count = (away.len() - wanted).min(BATCH);
        let batch = away.split_off(away.len() - count);
        let filled = hypercall::perform(&mut Populate(Reservation::new(&batch))).unwrap_or(0);
        let filled = usize::try_from(filled).unwrap_or(0).min(batch.len());
        frames::take_back(filled);
        let (back, rest) = batch.split_at(filled);
        back.iter().for_each(|frame| frames::release(rumpuser::Frame(*frame)));
        away.extend(rest);
        filled > 0
    }
}
