//! How often each system call was made, and how often it failed.
//!
//! Calls that the platform answers alone ([`crate::run`]) are not among them.

use core::sync::atomic::{AtomicU64, Ordering};

use image::system_calls::LIMIT;
use rumpkern::{
    Result,
    counter::{Metric, MetricKind, Sink, Source},
};
use rumpuser::rumpuser_cpu;

use crate::table;

/// Into how many parts the counts are split, so that CPUs don't write to the same cache line. More CPUs share.
const SHARDS: usize = 4;

/// Counts by number.
#[repr(align(64))]
struct Counts([AtomicU64; LIMIT]);

impl Counts {
    const fn new() -> Self {
        Counts([const { AtomicU64::new(0) }; LIMIT])
    }

    #[inline]
    fn add(&self, number: u64) {
        // Numbers that no call has are counted as the last.
        self.0[(number as usize).min(LIMIT - 1)].fetch_add(1, Ordering::Relaxed);
    }
}

static MADE: [Counts; SHARDS] = [const { Counts::new() }; SHARDS];
static FAILED: [Counts; SHARDS] = [const { Counts::new() }; SHARDS];

/// Counts a call that has ended.
#[inline]
pub fn count(number: u64, result: &Result<usize>) {
    let shard = rumpuser_cpu() % SHARDS;
    MADE[shard].add(number);
    if result.is_err() {
        FAILED[shard].add(number);
    }
}

fn sum(counts: &[Counts; SHARDS], number: u64) -> u64 {
    counts.iter().map(|shard| shard.0[number as usize % LIMIT].load(Ordering::Relaxed)).sum()
}

/// The calls that were made: (name, how often, how often with an error).
pub fn calls() -> impl Iterator<Item = (&'static str, u64, u64)> {
    let known = table::CALLS.iter().map(|call| (call.number, call.name));
    known
        .chain([(LIMIT as u64 - 1, "unknown")])
        .map(|(number, name)| (name, sum(&MADE, number), sum(&FAILED, number)))
        .filter(|(_, made, _)| *made > 0)
}

/// The same as metrics.
pub struct SystemCalls;

impl Source for SystemCalls {
    fn collect(&self, sink: &mut dyn Sink) {
        let mut series = |name, help, pick: fn((&'static str, u64, u64)) -> u64| {
            sink.metric(&Metric { group: "syscall", name, help, kind: MetricKind::Counter });
            for call in calls() {
                sink.sample(&[("name", call.0)], pick(call));
            }
        };
        series("calls", "System calls made, by name", |call| call.1);
        series("errors", "System calls that failed, by name", |call| call.2);
    }
}

#[cfg(test)]
mod tests {
    use rumpkern::Errno;

    use super::*;

    #[test]
    fn calls_and_errors_are_counted_by_name() {
        count(101, &Ok(0));
        count(101, &Err(Errno::EPERM));
        count(u64::MAX, &Err(Errno::ENOSYS));
        let counts: alloc::vec::Vec<_> = calls().collect();
        assert!(counts.contains(&("ptrace", 2, 1)), "{counts:?}");
        assert!(counts.contains(&("unknown", 1, 1)), "{counts:?}");
    }
}
