//! When memory runs out: the largest process is killed, so that the others live.

use core::sync::atomic::{AtomicU64, Ordering};

use rumpuser::{rumpuser_clock_monotonic, rumpuser_memory_statistics, rumpuser_park, rumpuser_yield};

use crate::{
    console, registry,
    signal::{SignalInfo, number::SIGKILL, send},
    task::Task,
};

/// How long a victim has to die before another is chosen.
const PATIENCE: u64 = 200_000_000;
/// How long a task waits before it looks for memory again.
const PAUSE: u64 = 2_000_000;
/// How often a task looks.
const TRIES: u32 = 2000;

/// Pages taken back from the caches at a time.
const RECLAIM: usize = 256;

/// The task found no memory: makes some. Returns whether to try again; false if the task itself is to die.
pub fn relieve(task: &Task, tries: &mut u32) -> bool {
    static LAST_KILL: AtomicU64 = AtomicU64::new(0);
    if task.dying.load(Ordering::Acquire) || *tries > TRIES {
        return false;
    }
    *tries += 1;
    if rumpkern::reclaim::reclaim(RECLAIM) > 0 {
        return true;
    }
    let now = rumpuser_clock_monotonic();
    let last = LAST_KILL.load(Ordering::Relaxed);
    let due = last == 0 || now.saturating_sub(last) > PATIENCE;
    if due && LAST_KILL.compare_exchange(last, now.max(1), Ordering::SeqCst, Ordering::Relaxed).is_ok() {
        kill_largest();
    }
    if is_killed(task) {
        return false;
    }
    rumpuser_yield();
    rumpuser_park(now.saturating_add(PAUSE));
    true
}

/// Whether the task is to die, whatever it waits for.
pub fn is_killed(task: &Task) -> bool {
    task.dying.load(Ordering::Acquire) || crate::signal::deliver::pending(task).contains(SIGKILL)
}

fn kill_largest() {
    let largest = registry::processes()
        .into_iter()
        .filter(|process| {
            !process.is_zombie() && !process.exiting.load(Ordering::Relaxed) && process.pid() != 1
        })
        .filter_map(|process| process.space().map(|space| (space.pmap().resident(), process)))
        .max_by_key(|(resident, _)| *resident);
    let Some((resident, process)) = largest else { return };
    let name = process.tasks().first().map(|task| task.name()).unwrap_or_default();
    let total = rumpuser_memory_statistics().total >> 20;
    console::message(format_args!(
        "out of memory ({total} MiB): killing {name} (process {}), which has {} MiB",
        process.pid(),
        resident >> 8,
    ));
    send::to_process(&process, SignalInfo::kernel(SIGKILL));
}
