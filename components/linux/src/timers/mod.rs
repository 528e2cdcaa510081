//! System calls: interval timers ([`interval`]) and POSIX timers ([`posix`]). What both are made of is here.

pub mod interval;
pub mod posix;

use alloc::{collections::BTreeMap, sync::Arc};

use rumpuser::sync::Mutex;

use self::{interval::IntervalTimer, posix::PosixTimer};
use crate::{
    process::Process,
    signal::{SignalSet, number::SIGALRM},
};

pub use interval::{alarm, getitimer, limit_cpu, setitimer};
pub use posix::{signal_taken, timer_create, timer_delete, timer_getoverrun, timer_gettime, timer_settime};

/// Periodic timers fire no more often than this.
const SHORTEST_PERIOD: u64 = 50_000;
/// The timers of a process.
#[derive(Default)]
pub struct Timers {
    /// Real, virtual, profiling, and the limit on CPU time.
    intervals: Mutex<[Option<Arc<IntervalTimer>>; 4]>,
    posix: Mutex<BTreeMap<i32, Arc<PosixTimer>>>,
}

/// When a timer expires next, in its clock's time; 0 is never. Then every `interval`, if that isn't 0.
#[derive(Debug, Clone, Copy, Default)]
struct Setting {
    expires: u64,
    interval: u64,
}

impl Setting {
    /// Moves `expires` beyond `now`; returns how many periods were skipped over.
    fn forward(&mut self, now: u64) -> u64 {
        if self.interval == 0 {
            self.expires = 0;
            return 0;
        }
        let missed = now.saturating_sub(self.expires) / self.interval;
        self.expires = self.expires.saturating_add(self.interval.saturating_mul(missed + 1));
        missed
    }

    /// What is left, as it is reported: a timer that is about to fire has 1 ns.
    fn left(&self, now: u64) -> u64 {
        if self.expires == 0 { 0 } else { self.expires.saturating_sub(now).max(1) }
    }
}

/// execve: POSIX timers go, interval timers stay.
pub fn process_executes(process: &Process) {
    let gone = core::mem::take(&mut *process.timers.posix.lock());
    drop(gone);
}

/// The process ends: all timers go.
pub fn process_ends(process: &Process) {
    process_executes(process);
    let gone = core::mem::take(&mut *process.timers.intervals.lock());
    drop(gone);
    process.pending.lock().discard(SignalSet::EMPTY.with(SIGALRM));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_that_was_missed_is_counted() {
        let mut setting = Setting { expires: 100, interval: 10 };
        assert_eq!(setting.forward(100), 0);
        assert_eq!(setting.expires, 110);
        assert_eq!(setting.forward(135), 2);
        assert_eq!(setting.expires, 140);
        assert_eq!(setting.left(139), 1);
        let mut once = Setting { expires: 100, interval: 0 };
        assert_eq!((once.forward(500), once.expires, once.left(500)), (0, 0, 0));
    }

    #[test]
    fn structures_have_linux_s_sizes() {
        assert_eq!(size_of::<posix::SigEvent>(), 64);
        assert_eq!(size_of::<posix::ItimerSpec>(), 32);
        assert_eq!(size_of::<interval::ItimerVal>(), 32);
    }
}
