//! What happens when time passes: retransmission (RFC 6298), loss probes (RFC 8985), probes of a closed window
//! (RFC 9293, section 3.8.6.1), keep-alive (section 3.8.4), and the ends of waiting.

use rumpkern::Errno;
use rumpuser::NEVER;

use super::{Bits, Changes, Network, Phase, State, Tcb};
use crate::tcp::{
    estimator::{MILLISECOND, SECOND},
    memory, tunables,
};

/// The same for a connection that nobody holds any more (`net.ipv4.tcp_orphan_retries`).
const ORPHAN_ATTEMPTS: u8 = 8;

impl Tcb {
    /// Does what is due. May be called at any time.
    pub fn timer(&mut self, now: u64, network: &mut dyn Network) -> Changes {
        let mut changes = Changes::empty();
        if self.acknowledge_at <= now {
            self.acknowledge_at = NEVER;
            self.bits |= Bits::ACKNOWLEDGE_NOW;
            self.bits -= Bits::INTERACTIVE;
        }
        if self.retransmit_at <= now {
            self.retransmit_at = NEVER;
            changes |= self.retransmission_due(now, network);
        }
        if self.keep_alive_at <= now {
            changes |= self.keep_alive_due(now, network);
        }
        if self.close_at <= now {
            changes |= self.finish(None);
        }
        self.output(now, network);
        changes
    }

    fn retransmission_due(&mut self, now: u64, network: &mut dyn Network) -> Changes {
        match self.state {
            State::Closed | State::Listen | State::TimeWait => Changes::empty(),
            State::SynSent | State::SynReceived => self.syn_due(now, network),
            _ if self.has(Bits::REORDER_WAIT) => {
                self.bits -= Bits::REORDER_WAIT;
                self.detect_losses(now);
                if self.phase == Phase::Recovery {
                    self.congestion.window =
                        self.congestion.window.max(self.in_flight() + u32::from(self.segment));
                }
                if self.retransmit_at == NEVER && self.awaits() {
                    self.arm_retransmission(now);
                }
                Changes::empty()
            }
            _ if self.has(Bits::PERSIST) => self.persist_due(now, network),
            _ if !self.awaits() => Changes::empty(),
            _ if self.has(Bits::PROBE) => {
                self.probe_for_loss(now, network);
                Changes::empty()
            }
            _ => self.timed_out(now, network),
        }
    }

    /// Whether it waits longer after each attempt, as nothing is heard from the peer.
    pub fn is_backed_off(&self) -> bool {
        self.estimator.backoff > 0 && self.retransmit_at != NEVER
    }

    /// Packets get through again after they could not: it tries at once, as if it had never tried before.
    pub fn path_returned(&mut self, now: u64, network: &mut dyn Network) {
        self.attempts = 0;
        self.estimator.backoff = 0;
        match self.state {
            State::SynSent | State::SynReceived => {
                self.retransmissions += 1;
                self.send_syn(now, network);
            }
            _ if self.has(Bits::PERSIST) => self.send_probe(now, network),
            _ => {
                self.scoreboard.lose_all(true);
                self.output(now, network);
            }
        }
        self.retransmit_at = now + self.estimator.timeout();
        self.shorten_wait(now);
    }

    /// How often something is sent again.
    fn attempts_limit(&self) -> u8 {
        match self.has(Bits::ORPHAN) {
            false => tunables::RETRIES.get() as u8,
            true if memory::is_tight() => 1,
            true => ORPHAN_ATTEMPTS,
        }
    }

    /// Whether it is time to give up.
    fn is_hopeless(&self, now: u64, limit: u8) -> bool {
        let waited = now.saturating_sub(self.unanswered_since);
        match self.settings.user_timeout {
            0 => self.attempts >= limit,
            _ if self.unanswered_since == NEVER => false,
            timeout => waited >= u64::from(timeout) * MILLISECOND,
        }
    }

    fn give_up(&mut self) -> Changes {
        let error = self.soft_error.unwrap_or(Errno::ETIMEDOUT);
        self.finish(Some(error))
    }

    fn syn_due(&mut self, now: u64, network: &mut dyn Network) -> Changes {
        let limit = match self.state {
            State::SynSent => self.settings.syn_retries,
            _ => tunables::ANSWER_RETRIES.get() as u8,
        };
        if self.is_hopeless(now, limit) {
            return self.give_up();
        }
        self.attempts += 1;
        self.estimator.backoff += 1;
        self.retransmit_at = now + self.estimator.timeout();
        self.retransmissions += 1;
        self.scoreboard.retransmitted(self.initial, self.initial + 1, now);
        self.send_syn(now, network);
        Changes::empty()
    }

    fn timed_out(&mut self, now: u64, network: &mut dyn Network) -> Changes {
        if self.is_hopeless(now, self.attempts_limit()) {
            return self.give_up();
        }
        let segment = u32::from(self.segment);
        if self.phase != Phase::Loss && self.attempts == 0 {
            self.congestion.reduce(self.outstanding(), segment);
        }
        self.congestion.timed_out(segment);
        self.phase = Phase::Loss;
        self.recover = self.next;
        self.duplicates = 0;
        self.attempts += 1;
        self.estimator.backoff = self.estimator.backoff.saturating_add(1);
        self.bits -= Bits::PROBED;
        // The receiver may have dropped what it reported (RFC 2018, section 8): believed only once.
        self.scoreboard.lose_all(self.attempts > 1);
        self.output(now, network);
        if self.retransmit_at == NEVER {
            self.arm_retransmission(now);
        }
        self.shorten_wait(now);
        Changes::empty()
    }

    /// With a user timeout, the last wait ends in time.
    fn shorten_wait(&mut self, now: u64) {
        if self.settings.user_timeout > 0 && self.unanswered_since != NEVER {
            let end = self.unanswered_since + u64::from(self.settings.user_timeout) * MILLISECOND;
            self.retransmit_at = self.retransmit_at.min(end.max(now + MILLISECOND));
        }
    }

    /// New data, or the last segment again, so that an acknowledgement shows what is missing.
    fn probe_for_loss(&mut self, now: u64, network: &mut dyn Network) {
        self.bits -= Bits::PROBE;
        self.bits |= Bits::PROBED;
        let next = self.next;
        if self.queue_end().is_after(self.next) && self.window > self.outstanding() {
            self.send_new(now, true, network);
        }
        if next == self.next
            && let Some((start, end)) = self.scoreboard.last()
        {
            let length = (end - start).min(u32::from(self.segment));
            self.retransmit(now, end - length, end, network);
        }
        self.arm_retransmission(now);
    }

    /// The window stays closed, or something short was held back long enough.
    fn persist_due(&mut self, now: u64, network: &mut dyn Network) -> Changes {
        self.bits -= Bits::PERSIST;
        if self.window == 0 && self.is_hopeless(now, self.attempts_limit()) {
            return self.give_up();
        }
        let next = self.next;
        if self.window > 0 {
            self.send_new(now, true, network);
        }
        if self.next == next {
            self.attempts = self.attempts.saturating_add(1);
            self.estimator.backoff = self.estimator.backoff.saturating_add(1);
            self.bits |= Bits::PERSIST;
            self.retransmit_at = now + self.estimator.timeout();
            self.shorten_wait(now);
            self.send_probe(now, network);
        }
        Changes::empty()
    }

    fn keep_alive_due(&mut self, now: u64, network: &mut dyn Network) -> Changes {
        self.keep_alive_at = NEVER;
        if !self.settings.keep_alive || !self.state.is_synchronized() {
            return Changes::empty();
        }
        let idle = u64::from(self.settings.keep_idle) * SECOND;
        if self.outstanding() > 0 || self.has(Bits::PERSIST) {
            self.keep_alive_at = now + idle;
            return Changes::empty();
        }
        if now < self.received_at.saturating_add(idle) {
            self.keep_alive_at = self.received_at + idle;
            return Changes::empty();
        }
        let waited = now.saturating_sub(self.received_at);
        let timeout = u64::from(self.settings.user_timeout) * MILLISECOND;
        let hopeless = match timeout {
            0 => self.attempts >= self.settings.keep_count,
            _ => self.attempts > 0 && waited >= timeout,
        };
        if hopeless {
            self.send_reset(network);
            return self.give_up();
        }
        self.attempts += 1;
        self.send_probe(now, network);
        self.keep_alive_at = now + u64::from(self.settings.keep_interval) * SECOND;
        Changes::empty()
    }
}
