//! Making a thread ready: the choice of its CPU, its place in the queue, and telling the CPU.

use core::sync::atomic::Ordering;

use super::{
    GRANULARITY, IDLE, LAG_LIMIT, POLLING, SLEEPER_BONUS, interrupts_restore, leave,
    thread::{Thread, state},
};
use crate::{
    clock,
    cpu::{self, Cpu},
    machine,
    platform::{WAKE_VECTOR, platform},
};

/// The CPU for a thread that becomes ready: its last one if that is idle, another idle one, or its last one.
fn choose(thread: &Thread) -> &'static Cpu {
    let online = cpu::online();
    let allowed = match thread.affinity.load(Ordering::Relaxed) & online {
        0 => online,
        allowed => allowed,
    };
    let last = thread.cpu.load(Ordering::Relaxed);
    let mut idle = IDLE.load(Ordering::SeqCst) & allowed;
    while idle != 0 {
        let candidate = if idle & 1 << last != 0 { last } else { idle.trailing_zeros() as usize };
        if IDLE.fetch_and(!(1 << candidate), Ordering::SeqCst) & 1 << candidate != 0
            && let Some(cpu) = cpu::get(candidate)
        {
            return cpu;
        }
        idle = IDLE.load(Ordering::SeqCst) & allowed;
    }
    let choice = if allowed & 1 << last != 0 { last } else { least_loaded(allowed) };
    cpu::get(choice).unwrap_or_else(cpu::current)
}

fn least_loaded(allowed: u64) -> usize {
    cpu::all()
        .filter(|cpu| allowed & 1 << cpu.number != 0)
        .min_by_key(|cpu| cpu.scheduler.length.load(Ordering::Relaxed))
        .map_or(0, |cpu| cpu.number)
}

/// Puts a thread that no CPU holds on a run queue. Interrupts are disabled, no queue is locked.
pub fn enqueue(thread: &'static Thread) {
    let cpu = choose(thread);
    let scheduler = &cpu.scheduler;
    let now = clock::now();
    let (alone, placed) = {
        let mut queue = scheduler.queue.lock();
        let slept = now.saturating_sub(thread.parked_at.load(Ordering::Relaxed)) as i64;
        let lag = (thread.virtual_runtime.load(Ordering::Relaxed) as i64).saturating_sub(slept);
        let placed = queue.minimum.wrapping_add_signed(lag.clamp(-SLEEPER_BONUS, LAG_LIMIT));
        thread.virtual_runtime.store(placed, Ordering::Relaxed);
        thread.cpu.store(cpu.number, Ordering::Relaxed);
        let alone = queue.ready.is_empty();
        queue.ready.insert(placed, thread.number(), thread);
        scheduler.length.store(queue.ready.len(), Ordering::Relaxed);
        (alone, placed)
    };
    // A queue that was empty has no slice timer set. Otherwise only a thread that is ahead disturbs.
    let running = scheduler.virtual_runtime.load(Ordering::Relaxed)
        + now.saturating_sub(scheduler.accounted.load(Ordering::Relaxed));
    if alone || placed + GRANULARITY < running {
        kick(cpu);
    }
}

/// Makes a CPU go through the scheduler soon.
pub(super) fn kick(cpu: &Cpu) {
    let before = cpu.reschedule.swap(1, Ordering::SeqCst);
    let watches = POLLING.load(Ordering::SeqCst) & 1 << cpu.number != 0;
    if before == 0 && !watches && cpu.number != cpu::number() {
        platform().send_interrupt(cpu.hardware, WAKE_VECTOR);
    }
}

/// Wakes a parked thread; nothing if it isn't, or someone else does.
pub fn wake(thread: &Thread) {
    let flags = machine::interrupts_disable();
    if thread.state.compare_exchange(state::PARKED, state::READY, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    {
        while thread.on_cpu.load(Ordering::Acquire) {
            core::hint::spin_loop();
        }
        // SAFETY: a thread that was parked lives until it runs again and ends.
        enqueue(unsafe { &*core::ptr::from_ref(thread) });
    }
    interrupts_restore(flags);
}

/// Interrupts the CPU on which a thread runs, so that it looks at its flags.
pub fn kick_if_running(thread: &Thread) {
    let flags = machine::interrupts_disable();
    if thread.on_cpu.load(Ordering::SeqCst)
        && let Some(cpu) = cpu::get(thread.cpu.load(Ordering::SeqCst))
        && cpu.number != cpu::number()
    {
        platform().send_interrupt(cpu.hardware, WAKE_VECTOR);
    }
    interrupts_restore(flags);
}

/// Moves every ready thread away from a CPU that is to run none, and wakes those that sleep with its timer: they look again, and
/// sleep elsewhere. Interrupts are disabled; the CPU is the caller.
pub fn evacuate(cpu: &Cpu) {
    let scheduler = &cpu.scheduler;
    loop {
        let mut queue = scheduler.queue.lock();
        let (thread, minimum) = (queue.ready.pop(), queue.minimum);
        scheduler.length.store(queue.ready.len(), Ordering::Relaxed);
        drop(queue);
        let Some(thread) = thread else { break };
        leave(thread, minimum, clock::now());
        enqueue(thread);
    }
    loop {
        let thread = scheduler.sleepers.lock().pop();
        let Some(thread) = thread else { break };
        wake(thread);
    }
    scheduler.virtual_runtime.store(0, Ordering::Relaxed);
}

/// Moves a thread that may not stay where it is.
pub fn affinity_changed(thread: &Thread) {
    let flags = machine::interrupts_disable();
    let place = thread.cpu.load(Ordering::SeqCst);
    if thread.affinity.load(Ordering::SeqCst) & 1 << place == 0
        && let Some(cpu) = cpu::get(place)
    {
        if thread.on_cpu.load(Ordering::SeqCst) {
            cpu.reschedule.store(0, Ordering::SeqCst);
            kick(cpu);
        } else {
            let mut queue = cpu.scheduler.queue.lock();
            let found = queue.ready.take(|ready| ready.number() == thread.number());
            let minimum = queue.minimum;
            cpu.scheduler.length.store(queue.ready.len(), Ordering::Relaxed);
            drop(queue);
            if let Some(found) = found {
                leave(found, minimum, clock::now());
                enqueue(found);
            }
        }
    }
    interrupts_restore(flags);
}
