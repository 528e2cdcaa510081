//! Who used how much CPU time, and what else each CPU counts. Time in all is exact; the split between user mode and kernel is sampled, so that a
//! system call needs no clock.

use core::sync::atomic::Ordering;

use rumpuser::CpuStatistics;

use super::{IDLE, queue::WEIGHT, thread::Thread};
use crate::{
    clock,
    cpu::{self, Cpu},
    platform::{DEVICE_VECTORS, TIMER_VECTOR, WAKE_VECTOR, platform},
};

/// One trap in so many is timed.
const SAMPLING: u32 = 16;

/// Brings the account of the calling CPU up to date; returns the time.
pub(super) fn account(cpu: &Cpu, thread: &Thread) -> u64 {
    let scheduler = &cpu.scheduler;
    let now = clock::now();
    let used = now.saturating_sub(scheduler.accounted.swap(now, Ordering::Relaxed));
    if core::ptr::eq(scheduler.idle.get(), thread) {
        scheduler.idled.fetch_add(used, Ordering::Relaxed);
    } else {
        thread.runtime.fetch_add(used, Ordering::Relaxed);
        let virtual_used = if thread.weight() == WEIGHT { used } else { used * WEIGHT / thread.weight() };
        let runtime = thread.virtual_runtime.fetch_add(virtual_used, Ordering::Relaxed) + virtual_used;
        scheduler.virtual_runtime.store(runtime, Ordering::Relaxed);
        scheduler.busy.fetch_add(used, Ordering::Relaxed);
        if !thread.has_user.load(Ordering::Relaxed) {
            scheduler.kernel.fetch_add(used, Ordering::Relaxed);
        }
    }
    now
}

/// CPU time of a thread up to now.
pub fn runtime_of(thread: &Thread) -> u64 {
    let settled = thread.runtime.load(Ordering::Relaxed);
    if !thread.on_cpu.load(Ordering::Relaxed) {
        return settled;
    }
    let running = cpu::get(thread.cpu.load(Ordering::Relaxed))
        .map_or(0, |cpu| clock::now().saturating_sub(cpu.scheduler.accounted.load(Ordering::Relaxed)));
    settled + running
}

/// A trap of the calling thread begins; some are timed.
#[inline]
pub fn account_trap(thread: &Thread) {
    let traps = thread.traps.get().wrapping_add(1);
    thread.traps.set(traps);
    if traps.is_multiple_of(SAMPLING) {
        thread.sample.set(runtime_of(thread));
    }
}

/// The calling thread is about to run user code.
#[inline]
pub fn account_entry(thread: &Thread) {
    if thread.traps.get().is_multiple_of(SAMPLING) {
        if !thread.has_user.swap(true, Ordering::Relaxed) {
            return;
        }
        let used = runtime_of(thread).saturating_sub(thread.sample.get()) * u64::from(SAMPLING);
        thread.kernel_time.fetch_add(used, Ordering::Relaxed);
        cpu::current().scheduler.kernel.fetch_add(used, Ordering::Relaxed);
        // An interrupted execution comes here again: it is not another sample.
        thread.traps.set(thread.traps.get().wrapping_add(1));
    }
}

/// Time of a CPU: user, kernel, idle.
pub fn cpu_times(cpu: usize) -> (u64, u64, u64) {
    let Some(cpu) = cpu::get(cpu) else { return (0, 0, 0) };
    let scheduler = &cpu.scheduler;
    let (busy, idle) = (scheduler.busy.load(Ordering::Relaxed), scheduler.idled.load(Ordering::Relaxed));
    let kernel = scheduler.kernel.load(Ordering::Relaxed).min(busy);
    let open = clock::now().saturating_sub(scheduler.accounted.load(Ordering::Relaxed));
    let open = if cpu::online() & 1 << cpu.number == 0 { 0 } else { open };
    if IDLE.load(Ordering::Relaxed) & 1 << cpu.number != 0 {
        (busy - kernel, kernel, idle + open)
    } else {
        (busy - kernel + open, kernel, idle)
    }
}

/// What a CPU did.
pub fn cpu_statistics(cpu: usize) -> CpuStatistics {
    let Some(cpu) = cpu::get(cpu) else { return CpuStatistics::default() };
    let works = cpu::online() & !IDLE.load(Ordering::Relaxed);
    let running = usize::from(works & 1 << cpu.number != 0);
    let interrupts = |vector: u8| cpu.interrupts[usize::from(vector)].load(Ordering::Relaxed);
    CpuStatistics {
        stolen: platform().stolen_time(cpu::hardware_of(cpu.number)),
        switches: cpu.scheduler.switches.load(Ordering::Relaxed),
        runnable: cpu.scheduler.length.load(Ordering::Relaxed) + running,
        timer_interrupts: interrupts(TIMER_VECTOR),
        wake_interrupts: interrupts(WAKE_VECTOR),
        device_interrupts: DEVICE_VECTORS
            .map(|vector| (vector, interrupts(vector)))
            .filter(|(_, count)| *count > 0)
            .collect(),
    }
}
