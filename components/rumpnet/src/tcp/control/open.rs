//! How connections begin: what is offered, what is agreed on, and the block that results.

use rumpuser::NEVER;

use super::{Bits, LEAST_SEGMENT, Network, Settings, State, Tcb, WINDOW_SCALE};
use crate::tcp::{
    segment::{Flags, Options, Segment, Timestamps},
    sequence::Sequence,
    tunables::{self, Tunable},
};

/// What a SYN offers, and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Window scale.
    pub scale: Option<u8>,
    /// SACK permitted.
    pub sack: bool,
    /// Timestamps: the value that came.
    pub timestamp: Option<u32>,
    /// ECN.
    pub ecn: bool,
    /// The maximum segment size.
    pub segment: u16,
}

impl Offer {
    /// What a SYN or SYN-ACK says.
    pub fn of(segment: &Segment) -> Self {
        let ecn = match segment.flags.contains(Flags::ACK) {
            false => segment.flags.contains(Flags::ECE | Flags::CWR),
            true => segment.flags.contains(Flags::ECE) && !segment.flags.contains(Flags::CWR),
        };
        Offer {
            scale: segment.options.window_scale.filter(|_| tunables::WINDOW_SCALING.is_on()),
            sack: segment.options.sack_permitted && tunables::SACK.is_on(),
            timestamp: segment
                .options
                .timestamps
                .filter(|_| tunables::TIMESTAMPS.is_on())
                .map(|timestamps| timestamps.value),
            ecn: ecn && tunables::ECN.is_on(),
            segment: segment.options.maximum_segment.unwrap_or(super::DEFAULT_SEGMENT).max(LEAST_SEGMENT),
        }
    }
}

/// What both sides know when a passive connection is established.
#[derive(Debug, Clone, Copy)]
pub struct Agreement {
    /// Our initial sequence number.
    pub initial: Sequence,
    /// The peer's.
    pub peer_initial: Sequence,
    /// What its SYN offered; all of it was accepted.
    pub offer: Offer,
    /// What our timestamps are ahead of the clock.
    pub timestamp_offset: u32,
    /// The round-trip time of the handshake in microseconds, if it was measured.
    pub round_trip: Option<u32>,
    /// The window that the SYN-ACK advertised.
    pub window: u16,
}

impl Tcb {
    /// Begins an active connection and sends its SYN.
    pub fn connect(
        settings: Settings,
        initial: Sequence,
        timestamp_offset: u32,
        path_segment: u16,
        now: u64,
        network: &mut dyn Network,
    ) -> Self {
        let mut tcb = Tcb::blank(settings, initial, path_segment, now);
        tcb.state = State::SynSent;
        tcb.timestamp_offset = timestamp_offset;
        tcb.next = initial + 1;
        tcb.unanswered_since = now;
        tcb.retransmit_at = now + tcb.estimator.timeout();
        tcb.scoreboard.sent(initial, initial + 1, now);
        tcb.send_syn(now, network);
        tcb
    }

    /// Takes a later initial sequence number, before the SYN is sent: one in TIME-WAIT is replaced.
    pub fn begin_after(&mut self, after: Sequence) {
        if self.state == State::SynSent && self.initial.is_before(after) {
            let sent_at = self.sent_at;
            self.initial = after;
            self.unacknowledged = after;
            self.next = after + 1;
            self.queue_start = after + 1;
            self.short_end = after;
            self.urgent_out = after;
            self.recover = after;
            self.scoreboard = super::Scoreboard::new(after);
            self.scoreboard.sent(after, after + 1, sent_at);
        }
    }

    /// A passive connection, after the third segment of the handshake; that segment is then given to
    /// [`Tcb::input`].
    pub fn accept(settings: Settings, agreement: &Agreement, path_segment: u16, now: u64) -> Self {
        let mut tcb = Tcb::blank(settings, agreement.initial, path_segment, now);
        tcb.next = agreement.initial + 1;
        tcb.unacknowledged = agreement.initial + 1;
        tcb.timestamp_offset = agreement.timestamp_offset;
        tcb.synchronize(agreement.peer_initial, &agreement.offer, now);
        tcb.advertised = tcb.expected + u32::from(agreement.window);
        if agreement.offer.ecn {
            tcb.bits |= Bits::ECN;
        }
        if let Some(time) = agreement.round_trip {
            tcb.estimator.sample(time);
        }
        tcb.state = State::Established;
        tcb.established(now);
        tcb
    }

    /// The peer's SYN was seen.
    pub(super) fn synchronize(&mut self, peer_initial: Sequence, offer: &Offer, now: u64) {
        self.peer_initial = peer_initial;
        self.expected = peer_initial + 1;
        self.acknowledged = self.expected;
        self.advertised = self.expected;
        self.window_update = (peer_initial, self.unacknowledged);
        self.peer_segment = offer.segment;
        if let Some(scale) = offer.scale {
            self.bits |= Bits::SCALED;
            self.window_shift = scale.min(14);
        }
        if offer.sack {
            self.bits |= Bits::SACK;
        }
        if let Some(value) = offer.timestamp {
            self.bits |= Bits::TIMESTAMPS;
            self.recent_timestamp = value;
            self.recent_age = (now >> 30) as u32;
        }
        self.agree_on_segment();
        self.typical_segment = self.segment.min(super::DEFAULT_SEGMENT);
        self.congestion = super::Congestion::new(self.settings.algorithm, u32::from(self.segment));
    }

    /// Both SYNs are acknowledged.
    pub(super) fn established(&mut self, now: u64) {
        self.attempts = 0;
        self.unanswered_since = NEVER;
        self.estimator.backoff = 0;
        self.retransmit_at = NEVER;
        self.tuning = (0, now);
        self.recover = self.next;
        self.arm_keep_alive(now);
    }

    /// The window that a SYN advertises, which is never scaled.
    pub fn syn_window(settings: &Settings) -> u16 {
        let limit = settings.receive_buffer.unwrap_or_else(|| tunables::first(&tunables::RECEIVE_BUFFER));
        let limit = if settings.window_clamp > 0 { limit.min(settings.window_clamp) } else { limit };
        limit.min(65_535) as u16
    }

    /// Sends the SYN, or the SYN-ACK of a simultaneous open.
    pub(super) fn send_syn(&mut self, now: u64, network: &mut dyn Network) {
        let answer = self.state == State::SynReceived;
        let offers = |bit, tunable: &Tunable| if answer { self.has(bit) } else { tunable.is_on() };
        let mut segment = Segment {
            sequence: self.initial,
            flags: Flags::SYN,
            window: Self::syn_window(&self.settings),
            options: Options {
                maximum_segment: Some(self.path_segment),
                window_scale: offers(Bits::SCALED, &tunables::WINDOW_SCALING).then_some(WINDOW_SCALE),
                sack_permitted: offers(Bits::SACK, &tunables::SACK),
                timestamps: offers(Bits::TIMESTAMPS, &tunables::TIMESTAMPS)
                    .then(|| Timestamps { value: self.timestamp(now), echo: self.recent_timestamp }),
                ..Options::default()
            },
            ..Segment::default()
        };
        if answer {
            segment.flags |= Flags::ACK;
            segment.acknowledgement = self.expected;
            self.advertised = self.expected + u32::from(segment.window);
            self.acknowledged = self.expected;
        } else if self.settings.ecn && self.attempts == 0 {
            segment.flags |= Flags::ECE | Flags::CWR;
        }
        self.sent_at = now;
        network.send(&segment, crate::packet::Chain::new(), 0);
    }
}
