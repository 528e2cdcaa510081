//! Sending: new data, retransmissions and acknowledgements (RFC 9293, section 3.8; Nagle's algorithm as Minshall
//! modified it; sender and receiver sides of silly window avoidance).

use rumpuser::NEVER;

use super::{Bits, Network, Phase, State, Tcb, WINDOW_SCALE};
use crate::{
    packet::Chain,
    tcp::{
        estimator::MILLISECOND,
        segment::{Flags, Options, Segment, Timestamps},
        sequence::Sequence,
        tunables,
    },
};

/// The most payload that is handed down at once.
const BURST: u32 = 65_535 - 120;
/// In so many fragments at most.
const FRAGMENTS: usize = 17;
/// How long TCP_CORK holds data back.
const CORK: u64 = 200 * MILLISECOND;
/// The least time before a loss probe.
const LEAST_PROBE: u64 = 10 * MILLISECOND;

impl Tcb {
    /// Sends everything that may be sent now, and an acknowledgement if one is due.
    pub fn output(&mut self, now: u64, network: &mut dyn Network) {
        if !self.state.is_synchronized() {
            return;
        }
        if self.scoreboard.lost() > 0 {
            self.send_lost(now, network);
        }
        let unsent = self.queue_end().is_after(self.next) || self.fin_unsent();
        if unsent && self.state != State::TimeWait {
            self.send_new(now, false, network);
        }
        if self.has(Bits::ACKNOWLEDGE_NOW) {
            self.send_acknowledgement(now, network);
        }
    }

    fn fin_unsent(&self) -> bool {
        self.has(Bits::FIN_QUEUED) && !self.next.is_after(self.queue_end())
    }

    fn send_lost(&mut self, now: u64, network: &mut dyn Network) {
        while let Some((start, end)) = self.scoreboard.next_lost() {
            let flight = self.in_flight();
            let segment = u32::from(self.segment);
            let room = self.congestion.window.saturating_sub(flight);
            if room < segment && flight > 0 {
                break;
            }
            let length = (end - start).min(room.max(segment) / segment * segment).min(16 * segment);
            let sent = self.retransmit(now, start, start + length, network);
            if !sent.is_after(start) {
                break;
            }
        }
    }

    /// Sends a part of what was sent before; returns where it ended.
    pub(super) fn retransmit(
        &mut self,
        now: u64,
        start: Sequence,
        end: Sequence,
        network: &mut dyn Network,
    ) -> Sequence {
        let data_end = end.earlier(self.queue_end());
        let (mut payload, mut flags) = (Chain::new(), Flags::ACK);
        let mut sent = start;
        if data_end.is_after(start) {
            let offset = (start - self.queue_start) as usize;
            let length = ((data_end - start).min(BURST)) as usize;
            payload = self.queue.slice(offset, length, FRAGMENTS);
            sent += payload.len() as u32;
            flags |= Flags::PSH;
        }
        if sent == self.queue_end() && end.is_after(sent) && self.has(Bits::FIN_QUEUED) {
            flags |= Flags::FIN;
            sent += 1;
        }
        if sent == start {
            return start;
        }
        self.scoreboard.retransmitted(start, sent, now);
        self.retransmissions += 1;
        if self.phase == Phase::Recovery {
            self.recovery.1 += sent - start;
        }
        self.transmit(now, start, flags, payload, network);
        self.arm_retransmission(now);
        sent
    }

    /// Sends new data, and the FIN behind it. `force` overrides what holds short segments back.
    pub(super) fn send_new(&mut self, now: u64, force: bool, network: &mut dyn Network) {
        let segment = u32::from(self.segment);
        if self.outstanding() == 0
            && now.saturating_sub(self.sent_at) > self.estimator.timeout()
            && self.congestion.window > 10 * segment
            && tunables::SLOW_START_AFTER_IDLE.is_on()
        {
            self.congestion.idle(segment);
        }
        loop {
            let end = self.queue_end();
            let available = if end.is_after(self.next) { end - self.next } else { 0 };
            let fin = self.fin_unsent();
            if available == 0 && !fin {
                return;
            }
            let edge = self.unacknowledged + self.window;
            let window = if edge.is_after(self.next) { edge - self.next } else { 0 };
            let room = self.congestion.window.saturating_sub(self.in_flight());
            let mut length = available.min(window).min(room).min((BURST / segment).max(1) * segment);
            if length < available && length >= segment {
                length -= length % segment;
            }
            let tail = length % segment;
            if tail > 0 && length == available && !force && !self.may_send_short(fin) {
                length -= tail;
            } else if length < segment && length < available && !force {
                // Limited by a window: a short segment only where the window will never be larger.
                let stuck = self.outstanding() == 0 && length == window && length > 0;
                if !(stuck && length >= self.largest_window / 2) {
                    length = 0;
                }
            }
            let with_fin =
                fin && length == available && (window > length || (window == 0 && available == 0 && force));
            if length == 0 && !with_fin {
                self.hold_back(now, window);
                return;
            }
            let mut payload = Chain::new();
            if length > 0 {
                let offset = (self.next - self.queue_start) as usize;
                payload = self.queue.slice(offset, length as usize, FRAGMENTS);
                if payload.is_empty() {
                    return;
                }
                if (payload.len() as u32) < length && payload.len() as u32 > segment {
                    let whole = payload.len() - payload.len() % segment as usize;
                    payload.truncate(whole);
                }
            }
            self.send_new_segment(now, payload, with_fin, network);
            if force {
                return;
            }
        }
    }

    fn send_new_segment(&mut self, now: u64, payload: Chain, with_fin: bool, network: &mut dyn Network) {
        let start = self.next;
        let length = payload.len() as u32;
        let mut flags = Flags::ACK;
        self.next += length;
        if length > 0 && self.next == self.queue_end() {
            flags |= Flags::PSH;
        }
        if with_fin && self.next == self.queue_end() {
            flags |= Flags::FIN;
            self.next += 1;
        }
        if !length.is_multiple_of(u32::from(self.segment)) {
            self.short_end = self.next;
        }
        if self.unacknowledged == start {
            self.unanswered_since = now;
        }
        self.scoreboard.sent(start, self.next, now);
        if self.phase == Phase::Recovery {
            self.recovery.1 += self.next - start;
        }
        if self.acknowledge_at != NEVER {
            self.bits |= Bits::INTERACTIVE;
        }
        if self.has(Bits::PERSIST) {
            self.bits -= Bits::PERSIST;
            self.retransmit_at = NEVER;
        }
        self.transmit(now, start, flags, payload, network);
        if self.retransmit_at == NEVER || self.has(Bits::PROBE) {
            self.arm_retransmission(now);
        }
    }

    /// Nagle's algorithm, TCP_CORK and MSG_MORE.
    fn may_send_short(&self, fin: bool) -> bool {
        if fin {
            return true;
        }
        if self.settings.cork || self.has(Bits::MORE) {
            return false;
        }
        self.settings.no_delay || self.has(Bits::URGENT_OUT) || !self.short_end.is_after(self.unacknowledged)
    }

    /// Nothing can be sent although there is something: sees to it that it doesn't stay so if no acknowledgement
    /// will come.
    fn hold_back(&mut self, now: u64, window: u32) {
        if self.outstanding() > 0 || self.has(Bits::PERSIST) && self.retransmit_at != NEVER {
            return;
        }
        self.bits |= Bits::PERSIST;
        let corked = window > 0 && (self.settings.cork || self.has(Bits::MORE));
        self.retransmit_at = now + if corked { CORK } else { self.estimator.timeout() };
        if window == 0 && self.unanswered_since == NEVER {
            self.unanswered_since = now;
        }
    }

    /// Sets the retransmission timer, or that of a loss probe if that comes first (RFC 8985, section 7.2).
    pub(super) fn arm_retransmission(&mut self, now: u64) {
        if self.has(Bits::REORDER_WAIT) && self.retransmit_at != NEVER {
            return;
        }
        let timeout = self.estimator.timeout();
        self.retransmit_at = now + timeout;
        self.bits -= Bits::PROBE;
        let may_probe = self.phase == Phase::Open
            && self.bits.intersection(Bits::SACK | Bits::PROBED) == Bits::SACK
            && self.scoreboard.sacked() == 0
            && self.attempts == 0;
        if let Some(round_trip) = self.estimator.round_trip().filter(|_| may_probe) {
            let mut probe = (u64::from(round_trip) * 2000).max(LEAST_PROBE);
            if self.outstanding() <= u32::from(self.segment) {
                // The peer may delay its acknowledgement.
                probe += 200 * MILLISECOND;
            }
            if probe < timeout {
                self.bits |= Bits::PROBE;
                self.retransmit_at = now + probe;
            }
        }
    }

    fn send_acknowledgement(&mut self, now: u64, network: &mut dyn Network) {
        self.transmit(now, self.next, Flags::ACK, Chain::new(), network);
    }

    /// A segment that the peer must answer: it has an old sequence number (RFC 9293, section 3.8.4).
    pub(super) fn send_probe(&mut self, now: u64, network: &mut dyn Network) {
        self.transmit(now, self.unacknowledged - 1u32, Flags::ACK, Chain::new(), network);
    }

    /// The window to advertise, scaled; moves the edge that was promised.
    fn advertise(&mut self) -> u16 {
        let free = self.free_window();
        let edge = (self.expected + free).later(self.advertised);
        let shift = if self.has(Bits::SCALED) { WINDOW_SCALE } else { 0 };
        let mut window = (edge - self.expected) >> shift;
        // What was promised is not taken back, so the bits that scaling drops round up; not without end, though.
        if self.advertised.is_after(self.expected + (window << shift))
            && self.buffered() < 2 * self.receive_limit as usize
        {
            window += 1;
        }
        let window = window.min(0xffff);
        self.advertised = self.advertised.later(self.expected + (window << shift));
        window as u16
    }

    fn buffered(&self) -> usize {
        self.receive.len() + self.reassembly.len()
    }

    /// Bytes that there is room for: none rather than few.
    fn free_window(&self) -> u32 {
        let used = self.buffered();
        let limit = match self.settings.window_clamp {
            0 => self.receive_limit,
            clamp => self.receive_limit.min(clamp),
        };
        let free = (limit as usize).saturating_sub(used) as u32;
        if free < u32::from(self.typical_segment).min(limit / 2) { 0 } else { free }
    }

    /// Whether the window grew enough to tell the peer.
    pub(super) fn window_update_due(&self) -> bool {
        if !self.state.can_receive() {
            return false;
        }
        let edge = self.expected + self.free_window();
        if !edge.is_after(self.advertised) {
            return false;
        }
        let growth = edge - self.advertised;
        let left = if self.advertised.is_after(self.expected) { self.advertised - self.expected } else { 0 };
        growth >= 2 * u32::from(self.typical_segment) && growth >= left
    }

    /// Writes a segment with everything that any segment says.
    fn transmit(
        &mut self,
        now: u64,
        sequence: Sequence,
        flags: Flags,
        payload: Chain,
        network: &mut dyn Network,
    ) {
        let length = payload.len();
        let window = self.advertise();
        let timestamps = self
            .has(Bits::TIMESTAMPS)
            .then(|| Timestamps { value: self.timestamp(now), echo: self.recent_timestamp });
        let mut segment = Segment {
            sequence,
            acknowledgement: self.expected,
            flags,
            window,
            urgent: 0,
            options: Options { timestamps, ..Options::default() },
            congestion: false,
        };
        if self.reassembly.has_blocks() && self.has(Bits::SACK) {
            let limit = if timestamps.is_some() { 3 } else { 4 };
            if length + 4 + 8 * limit <= usize::from(self.segment) {
                segment.options.sack = self.reassembly.blocks(limit);
            }
        }
        if self.bits.intersects(Bits::ECN | Bits::URGENT_OUT) {
            self.mark(&mut segment, length);
        }
        self.acknowledged = self.expected;
        self.acknowledge_at = NEVER;
        self.bits -= Bits::ACKNOWLEDGE_NOW;
        if length > 0 {
            self.sent_at = now;
        }
        network.send(&segment, payload, self.segment);
    }

    #[cold]
    fn mark(&mut self, segment: &mut Segment, length: usize) {
        if self.has(Bits::ECN) {
            if self.has(Bits::ECN_ECHO) {
                segment.flags |= Flags::ECE;
            }
            // Only new data is marked (RFC 3168, section 6.1.5).
            let is_new = segment.sequence + length as u32 == self.next
                || (segment.flags.contains(Flags::FIN) && segment.sequence + length as u32 + 1 == self.next);
            if length > 0 && is_new {
                segment.congestion = true;
                if self.has(Bits::ECN_REDUCED) {
                    segment.flags |= Flags::CWR;
                    self.bits -= Bits::ECN_REDUCED;
                }
            }
        }
        if self.has(Bits::URGENT_OUT) && self.urgent_out.is_after(segment.sequence) {
            segment.flags |= Flags::URG;
            segment.urgent = (self.urgent_out - segment.sequence).min(0xffff) as u16;
        }
    }

    /// Tells the peer that it is over.
    pub(super) fn send_reset(&mut self, network: &mut dyn Network) {
        let segment = Segment {
            sequence: self.next,
            acknowledgement: self.expected,
            flags: Flags::RST | Flags::ACK,
            ..Segment::default()
        };
        network.send(&segment, Chain::new(), 0);
    }
}
