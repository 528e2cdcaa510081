//! What a CPU does when it has nothing to do: it watches for work a moment, then halts until an interrupt.
//!
//! A wake-up of a CPU that watches costs a store, of one that halts an interrupt and, in a virtual machine, two
//! switches of the host. How long to watch adapts to what came of it, so a CPU that stays idle soon halts at once.

use core::sync::atomic::Ordering;

use super::{IDLE, POLLING, put_off, reschedule};
use crate::{
    clock,
    cpu::{self, Cpu},
    hotplug, machine,
    platform::platform,
};

/// The longest watch, in nanoseconds.
const LONGEST: u64 = 50_000;
/// The first one after a halt that something ended soon.
const SHORTEST: u64 = 5_000;

/// A halt of that many nanoseconds is followed by long ones.
const LONG: u64 = 1_000_000;

/// The loop. Interrupts are disabled.
pub fn run() -> ! {
    let cpu = cpu::current();
    let bit = 1 << cpu.number;
    let mut quiet = false;
    loop {
        reschedule();
        if cpu::online() & bit == 0 {
            hotplug::rest(cpu);
        }
        IDLE.fetch_or(bit, Ordering::SeqCst);
        let polled = cpu::count() > 1 && poll(cpu);
        if !polled && cpu.reschedule.load(Ordering::SeqCst) == 0 && !platform().look_before_halt() {
            if quiet {
                put_off(cpu);
            }
            let start = clock::now();
            machine::wait_for_interrupt();
            let halted = clock::now() - start;
            quiet = halted >= LONG;
            // It would have been worth to watch for that long.
            if halted < LONGEST {
                cpu.scheduler.patience.set(cpu.scheduler.patience.get().max(SHORTEST));
            }
        }
        IDLE.fetch_and(!bit, Ordering::SeqCst);
    }
}

/// Watches for work; returns whether some came.
fn poll(cpu: &Cpu) -> bool {
    let patience = &cpu.scheduler.patience;
    if patience.get() == 0 {
        return false;
    }
    POLLING.fetch_or(1 << cpu.number, Ordering::SeqCst);
    let end = clock::now() + patience.get();
    let mut came = false;
    while !came && clock::now() < end {
        // Interrupts are served meanwhile, between instructions of this loop.
        machine::interrupts_enable();
        core::hint::spin_loop();
        machine::cli();
        came = cpu.reschedule.load(Ordering::Relaxed) != 0;
    }
    // Whoever still saw the bit has set the flag before: the caller looks at it once more.
    POLLING.fetch_and(!(1 << cpu.number), Ordering::SeqCst);
    let next = if came { patience.get() * 2 } else { patience.get() / 2 };
    patience.set(if next < SHORTEST { 0 } else { next.min(LONGEST) });
    came
}
