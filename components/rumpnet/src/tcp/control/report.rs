//! What may be asked about a connection.

use rumpkern::Errno;
use rumpuser::NEVER;

use super::{Bits, Phase, State, Tcb, WINDOW_SCALE};
use crate::tcp::{info, sequence::Sequence};

impl Tcb {
    /// Numbers for people.
    pub fn info(&self, now: u64) -> info::Info {
        let segment = u32::from(self.segment).max(1);
        let options = [Bits::TIMESTAMPS, Bits::SACK, Bits::SCALED, Bits::ECN];
        let options =
            options.iter().enumerate().fold(0, |sum, (place, &bit)| sum | u8::from(self.has(bit)) << place);
        let milliseconds =
            |since: u64| (now.saturating_sub(since) / 1_000_000).min(u64::from(u32::MAX)) as u32;
        let kind = if self.has(Bits::PERSIST) { 4 } else { 1 };
        info::Info {
            state: self.state,
            congestion_state: match self.phase {
                Phase::Open => 0,
                Phase::Recovery => 3,
                Phase::Loss => 4,
            },
            attempts: self.attempts,
            backoff: self.estimator.backoff,
            options,
            scales: if self.has(Bits::SCALED) { (self.window_shift, WINDOW_SCALE) } else { (0, 0) },
            timeout: (self.estimator.timeout() / 1000) as u32,
            segments: (segment, u32::from(self.typical_segment)),
            unacknowledged: self.outstanding().div_ceil(segment),
            sacked: self.scoreboard.sacked().div_ceil(segment),
            lost: self.scoreboard.lost().div_ceil(segment),
            retransmissions: self.retransmissions,
            idle: (milliseconds(self.sent_at), milliseconds(self.received_at)),
            round_trip: (
                self.estimator.round_trip().unwrap_or(0),
                self.estimator.deviation(),
                self.estimator.minimum(),
            ),
            windows: (self.congestion.window / segment, self.congestion.threshold / segment),
            send_window: self.window,
            receive_space: self.receive_limit,
            totals: self.totals,
            send_queue: self.unsent(),
            receive_queue: self.receive.len(),
            timer: info::first_timer([(kind, self.retransmit_at), (2, self.keep_alive_at)], now),
            buffers: self.buffers(),
        }
    }

    /// Whether an error waits to be told.
    pub fn has_error(&self) -> bool {
        self.error.is_some()
    }

    /// Whether it ended because nothing came back.
    pub fn is_timed_out(&self) -> bool {
        self.error == Some(Errno::ETIMEDOUT)
    }

    /// Whether it ended by the peer's reset.
    pub fn is_reset(&self) -> bool {
        matches!(self.error, Some(Errno::ECONNRESET | Errno::EPIPE))
    }

    /// How many segments were sent again.
    pub fn retransmissions(&self) -> u32 {
        self.retransmissions
    }

    /// Whether `sequence` was sent and not acknowledged: only then an ICMP message about it is believed (RFC 5927).
    pub fn is_outstanding(&self, sequence: Sequence) -> bool {
        !sequence.is_before(self.unacknowledged) && sequence.is_before(self.next)
    }

    /// A trouble on the path that explains a later timeout.
    pub fn soft_error(&mut self, error: Errno) {
        self.soft_error = Some(error);
    }

    /// Somebody else has what is left (TIME-WAIT): no more timers.
    pub fn rest(&mut self) {
        self.retransmit_at = NEVER;
        self.acknowledge_at = NEVER;
        self.keep_alive_at = NEVER;
        self.close_at = NEVER;
    }

    /// Sends the SYN of [`Tcb::connect`] (again).
    pub fn repeat_syn(&mut self, now: u64, network: &mut dyn super::Network) {
        if self.state == State::SynSent {
            self.send_syn(now, network);
        }
    }
}

#[cfg(any(test, feature = "host"))]
impl Tcb {
    /// Panics if something doesn't hold that always must.
    pub fn check(&self) {
        assert!(!self.next.is_before(self.unacknowledged), "SND.UNA passed SND.NXT");
        if self.state.is_synchronized() {
            assert!(!self.next.is_after(self.queue_end() + 1), "sent what was never queued");
            assert!(!self.expected.is_after(self.advertised), "received beyond the window");
            assert!(!self.acknowledged.is_after(self.expected), "acknowledged what did not arrive");
            let (sacked, lost) = (self.scoreboard.sacked(), self.scoreboard.lost());
            assert!(sacked + lost <= self.outstanding(), "{sacked} + {lost} of {}", self.outstanding());
            assert!(self.outstanding() == 0 || self.retransmit_at != NEVER || self.state == State::TimeWait);
            assert!(
                self.congestion.window > 0 && self.congestion.threshold >= u32::from(super::LEAST_SEGMENT)
            );
        }
        assert!(self.segment <= self.path_segment.max(super::LEAST_SEGMENT));
        let bound = 2 * (self.receive_limit as usize) + (1 << 17);
        assert!(self.receive.len() + self.reassembly.len() <= bound, "keeps too much");
        if self.state == State::Closed {
            assert!(self.deadline() == NEVER && self.queue.is_empty(), "closed, and still at it");
        }
    }
}
