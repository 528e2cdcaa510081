//! The thread that does what is due at a certain time: neighbours, lifetimes, reassembly, membership reports,
//! address configuration. It sleeps for as long as nothing is.

use alloc::{boxed::Box, string::String};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rumpkern::wait::WaitQueue;
use rumpuser::{CpuSet, NEVER, ThreadSpec, rumpuser_clock_monotonic, rumpuser_thread_create};

use crate::{address, configuration, interface, ip, multicast, neighbour, tcp};

/// Milliseconds and seconds in nanoseconds.
pub(crate) const MILLISECOND: u64 = 1_000_000;
/// A second in nanoseconds.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// What can be due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Resolving and probing neighbours.
    Neighbours,
    /// Looking for other machines with our addresses.
    Detection,
    /// Lifetimes of addresses.
    Addresses,
    /// Packets of which fragments are missing.
    Reassembly,
    /// Membership reports.
    Multicast,
    /// DHCP, router solicitation, `/etc/resolv.conf`.
    Configuration,
    /// Retransmissions and all else that TCP does in time.
    Tcp,
}

type Run = fn(u64) -> u64;

/// The tasks: each does what is due and says when it wants to run again.
const TASKS: [(Task, Run); 7] = [
    (Task::Neighbours, neighbour::run_timers),
    (Task::Detection, neighbour::detection::run),
    (Task::Addresses, address::expire),
    (Task::Reassembly, ip::reassembly::expire),
    (Task::Multicast, multicast::run_timers),
    (Task::Configuration, configuration::run),
    (Task::Tcp, tcp::timers::run),
];

static DEADLINES: [AtomicU64; TASKS.len()] = [const { AtomicU64::new(NEVER) }; TASKS.len()];
static WAKE: WaitQueue = WaitQueue::new();
/// A deadline was brought forward.
static SOONER: AtomicBool = AtomicBool::new(false);

/// Has a task run at `deadline`, if it isn't due earlier. May be called with spin locks held.
pub(crate) fn at(task: Task, deadline: u64) {
    if DEADLINES[task as usize].fetch_min(deadline, Ordering::AcqRel) > deadline {
        SOONER.store(true, Ordering::Release);
        WAKE.wake_one();
    }
}

/// Runs what is due; returns when the next is.
pub(crate) fn run(now: u64) -> u64 {
    for (task, function) in TASKS {
        let deadline = &DEADLINES[task as usize];
        if deadline.load(Ordering::Acquire) <= now {
            deadline.store(NEVER, Ordering::Release);
            deadline.fetch_min(function(now), Ordering::AcqRel);
        }
    }
    interface::flush();
    DEADLINES.iter().map(|deadline| deadline.load(Ordering::Acquire)).min().unwrap_or(NEVER)
}

/// Starts the thread, once. Without it (no memory) nothing is ever due.
pub(crate) fn start() {
    static STARTED: AtomicBool = AtomicBool::new(false);
    if STARTED.swap(true, Ordering::AcqRel) {
        return;
    }
    let spec = ThreadSpec { name: String::from("internet"), affinity: CpuSet::MAX, main: Box::new(serve) };
    if rumpuser_thread_create(spec).is_err() {
        STARTED.store(false, Ordering::Release);
    }
}

fn serve() {
    loop {
        let next = run(rumpuser_clock_monotonic());
        let _ = WAKE.wait(next, || SOONER.swap(false, Ordering::AcqRel).then_some(()));
    }
}
