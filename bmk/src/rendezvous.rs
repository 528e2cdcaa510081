//! A meeting of all CPUs: while one works, the others stand still with interrupts disabled, each in a thread of its own,
//! so that no interrupt handler, no switch and no section without preemption is under way anywhere.

use alloc::{boxed::Box, sync::Arc};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use rumpuser::{OutOfMemory, ThreadSpec, sync::Mutex};

use crate::{cpu, machine, memory::shootdown, schedule};

/// What those who stand still wait for.
mod phase {
    pub const GATHER: u32 = 0;
    /// Each works, too.
    pub const WORK: u32 = 1;
    pub const LEAVE: u32 = 2;
}

struct Meeting {
    phase: AtomicU32,
    arrived: AtomicUsize,
    done: AtomicUsize,
    each: fn(),
    /// What a CPU does that waits.
    relax: fn(),
}

impl Meeting {
    /// Another CPU's part.
    fn attend(&self) {
        let state = machine::interrupts_disable();
        self.arrived.fetch_add(1, Ordering::SeqCst);
        let mut worked = false;
        loop {
            match self.phase.load(Ordering::SeqCst) {
                phase::LEAVE => break,
                phase::WORK if !worked => {
                    worked = true;
                    (self.each)();
                    self.done.fetch_add(1, Ordering::SeqCst);
                }
                // Those who haven't come yet may wait for this CPU's answer.
                _ => shootdown::serve(cpu::current()),
            }
            (self.relax)();
        }
        schedule::interrupts_restore(state);
    }
}

/// Held while CPUs meet, come or go.
pub static CHANGES: Mutex<()> = Mutex::new(());

/// Calls `work` while all other CPUs stand still, and if it returns true, `each` on every one of those before any goes on.
/// The caller's thread must be bound to its CPU. Returns what `work` returned.
pub fn hold(work: impl FnOnce() -> bool, each: fn()) -> Result<bool, OutOfMemory> {
    let _changes = CHANGES.lock();
    // No call of the host: it may be about to save those who stand still.
    meet(work, each, core::hint::spin_loop)
}

/// [`hold`] by who has [`CHANGES`]. Who waits calls `relax` all the time.
pub fn meet(work: impl FnOnce() -> bool, each: fn(), relax: fn()) -> Result<bool, OutOfMemory> {
    let here = cpu::number();
    let meeting = Arc::new(Meeting {
        phase: AtomicU32::new(phase::GATHER),
        arrived: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        each,
        relax,
    });
    let mut expected = 0;
    let online = cpu::online();
    for other in (0..cpu::MAXIMUM).filter(|other| online & 1 << other != 0 && *other != here) {
        let attended = meeting.clone();
        let main = Box::new(move || attended.attend());
        let spec = ThreadSpec { name: "rendezvous".into(), affinity: 1 << other, main };
        if let Err(error) = schedule::spawn(spec) {
            meeting.phase.store(phase::LEAVE, Ordering::SeqCst);
            return Err(error);
        }
        expected += 1;
    }
    while meeting.arrived.load(Ordering::SeqCst) < expected {
        schedule::yield_now();
        relax();
    }
    let state = machine::interrupts_disable();
    let result = work();
    if result {
        meeting.phase.store(phase::WORK, Ordering::SeqCst);
        while meeting.done.load(Ordering::SeqCst) < expected {
            relax();
        }
    }
    meeting.phase.store(phase::LEAVE, Ordering::SeqCst);
    schedule::interrupts_restore(state);
    Ok(result)
}
