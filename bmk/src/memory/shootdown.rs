//! TLB shootdown: a CPU that changed a mapping makes the CPUs that may have cached it forget it, and waits.
//!
//! Each CPU has one request slot of its own and a word in which others announce theirs. Whoever waits serves
//! the requests of others meanwhile, so two CPUs that flush each other cannot deadlock.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rumpuser::{CpuSet, rumpuser_preempt_disable, rumpuser_preempt_enable};

use crate::{
    cpu::{self, Cpu},
    machine,
    platform::{WAKE_VECTOR, platform},
};

/// More pages than this are flushed with everything else.
const SINGLY: usize = 32;

/// A request slot.
pub struct Slot {
    start: AtomicUsize,
    /// How many pages; 0: the whole address space; `usize::MAX`: the kernel's mappings too.
    pages: AtomicUsize,
    /// CPUs that have yet to answer.
    pending: AtomicU64,
    /// CPUs that have a request for this CPU.
    announced: AtomicU64,
}

impl Slot {
    /// Without a request.
    pub const fn new() -> Self {
        Slot {
            start: AtomicUsize::new(0),
            pages: AtomicUsize::new(0),
            pending: AtomicU64::new(0),
            announced: AtomicU64::new(0),
        }
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}

fn flush_here(start: usize, pages: usize) {
    match pages {
        usize::MAX => machine::flush_tlb_global(),
        1..=SINGLY => (0..pages).for_each(|page| machine::invlpg(start + (page << 12))),
        _ => machine::flush_tlb(),
    }
}

/// Serves what others asked of this CPU. Called by the wake interrupt and by those who wait.
pub fn serve(me: &Cpu) {
    let mut announced = me.shootdown.announced.swap(0, Ordering::AcqRel);
    while announced != 0 {
        let number = announced.trailing_zeros() as usize;
        announced &= announced - 1;
        if let Some(other) = cpu::get(number) {
            let slot = &other.shootdown;
            flush_here(slot.start.load(Ordering::Relaxed), slot.pages.load(Ordering::Relaxed));
            slot.pending.fetch_and(!(1 << me.number), Ordering::Release);
        }
    }
}

fn request(targets: impl FnOnce() -> CpuSet, start: usize, pages: usize) {
    rumpuser_preempt_disable();
    let me = cpu::current();
    let targets = targets();
    if targets & (1 << me.number) != 0 {
        flush_here(start, pages);
    }
    let others = targets & !(1 << me.number);
    if others != 0 {
        me.shootdown.start.store(start, Ordering::Relaxed);
        me.shootdown.pages.store(pages, Ordering::Relaxed);
        me.shootdown.pending.store(others, Ordering::Release);
        let mut rest = others;
        while rest != 0 {
            let number = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            if let Some(other) = cpu::get(number) {
                let before = other.shootdown.announced.fetch_or(1 << me.number, Ordering::AcqRel);
                if before == 0 {
                    platform().send_interrupt(other.hardware, WAKE_VECTOR);
                }
            }
        }
        while me.shootdown.pending.load(Ordering::Acquire) != 0 {
            let state = machine::interrupts_disable();
            serve(me);
            cpu::restore_flags(state);
            core::hint::spin_loop();
        }
    }
    rumpuser_preempt_enable();
}

/// Flushes `pages` pages from `start` on the CPUs of `active`, read after the caller's change is visible.
pub fn flush(active: &AtomicU64, start: usize, pages: usize) {
    let pages = if pages > SINGLY { 0 } else { pages };
    request(|| active.load(Ordering::SeqCst), start, pages);
}

/// Flushes the kernel's mappings everywhere.
pub fn flush_kernel() {
    request(cpu::online, 0, usize::MAX);
}
