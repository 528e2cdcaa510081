//! Pending signals: of a thread, or of a process as a whole.

use alloc::collections::VecDeque;

use super::{SignalInfo, SignalSet, number::SIGRTMIN};

/// Signals that were sent and not yet taken.
#[derive(Default)]
pub struct Pending {
    set: SignalSet,
    infos: VecDeque<SignalInfo>,
}

/// More than this many queued real-time signals are refused by sigqueue (EAGAIN); kill still marks them.
pub const QUEUE_LIMIT: usize = 1024;

impl Pending {
    /// Which signals are pending.
    pub fn set(&self) -> SignalSet {
        self.set
    }

    /// Adds a signal. A standard signal that is pending already is dropped, as POSIX says. False if the queue
    /// is full, then only the fact that the signal is pending is kept.
    pub fn push(&mut self, info: SignalInfo) -> bool {
        if info.signal < SIGRTMIN && self.set.contains(info.signal) {
            return true;
        }
        self.set = self.set.with(info.signal);
        let room = self.infos.len() < QUEUE_LIMIT && self.infos.try_reserve(1).is_ok();
        if room {
            self.infos.push_back(info);
        }
        room
    }

    /// Takes the first signal among `wanted`: synchronous ones first, then by number, then in order sent.
    pub fn take(&mut self, wanted: SignalSet) -> Option<SignalInfo> {
        let signal = self.set.and(wanted).first()?;
        let position = self.infos.iter().position(|info| info.signal == signal);
        let info = position
            .and_then(|index| self.infos.remove(index))
            .unwrap_or_else(|| SignalInfo::user(signal, SignalInfo::SI_USER, 0, 0));
        if !self.infos.iter().any(|info| info.signal == signal) {
            self.set = self.set.without(signal);
        }
        Some(info)
    }

    /// Forgets the signals of `set`.
    pub fn discard(&mut self, set: SignalSet) {
        if !self.set.and(set).is_empty() {
            self.set = self.set.minus(set);
            self.infos.retain(|info| !set.contains(info.signal));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::number::*, *};

    fn sent(signal: u32, value: u64) -> SignalInfo {
        SignalInfo { signal, code: SignalInfo::SI_QUEUE, fields: [0, value, 0, 0], ..Default::default() }
    }

    #[test]
    fn standard_signals_merge_and_real_time_signals_queue() {
        let mut pending = Pending::default();
        for value in 0..3 {
            assert!(pending.push(sent(SIGUSR1, value)));
            assert!(pending.push(sent(40, value)));
        }
        let all = SignalSet(u64::MAX);
        let order: alloc::vec::Vec<_> =
            core::iter::from_fn(|| pending.take(all)).map(|info| (info.signal, info.fields[1])).collect();
        assert_eq!(order, [(SIGUSR1, 0), (40, 0), (40, 1), (40, 2)]);
        assert!(pending.set().is_empty());
    }

    #[test]
    fn synchronous_signals_come_first() {
        let mut pending = Pending::default();
        pending.push(sent(SIGHUP, 0));
        pending.push(sent(SIGSEGV, 0));
        assert_eq!(pending.take(SignalSet(u64::MAX)).map(|info| info.signal), Some(SIGSEGV));
        pending.discard(SignalSet::of(&[SIGHUP]));
        assert_eq!(pending.take(SignalSet(u64::MAX)), None);
    }
}
