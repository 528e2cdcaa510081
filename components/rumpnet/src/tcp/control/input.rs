//! A segment arrives (RFC 9293, section 3.10.7; RFC 5961 against blind attacks; RFC 7323 against old duplicates).

use super::{Bits, Changes, Network, Offer, State, Tcb};
use crate::{
    packet::Chain,
    tcp::{
        estimator::{MILLISECOND, SECOND},
        memory,
        segment::{Flags, Segment},
        sequence::Sequence,
    },
};
use rumpkern::Errno;

/// How long an acknowledgement waits for data to ride on.
pub const DELAY: u64 = 40 * MILLISECOND;
/// Control bits that the fast path leaves to others.
const RARE: Flags =
    Flags::FIN.union(Flags::SYN).union(Flags::RST).union(Flags::URG).union(Flags::ECE).union(Flags::CWR);
/// Challenge acknowledgements a second and connection (RFC 5961, section 7).
const CHALLENGES: u8 = 10;

impl Tcb {
    /// Takes a segment and sends what it calls for. A reset in answer to one that makes no sense is the caller's,
    /// which knows how: see [`Tcb::is_foreign`].
    pub fn input(
        &mut self,
        now: u64,
        segment: &Segment,
        payload: Chain,
        network: &mut dyn Network,
    ) -> Changes {
        self.received_at = now;
        let predicted = self.state == State::Established
            && segment.flags.intersection(RARE.union(Flags::ACK)) == Flags::ACK
            && segment.sequence == self.expected
            && !segment.congestion
            && self.reassembly.is_empty()
            && payload.len() <= (self.advertised - self.expected) as usize
            && (payload.is_empty() || !memory::is_exhausted())
            && !segment.acknowledgement.is_after(self.next)
            && !segment.acknowledgement.is_before(self.unacknowledged)
            && self.is_fresh(segment, now);
        let changes = if predicted {
            self.note_timestamp(segment, now);
            let mut changes = self.acknowledge(now, segment, payload.len());
            if !payload.is_empty() {
                changes |= self.take_in(now, payload);
            }
            changes
        } else {
            match self.state {
                State::Closed | State::Listen | State::TimeWait => return Changes::empty(),
                State::SynSent => self.input_syn_sent(now, segment, network),
                _ => self.input_general(now, segment, payload, network),
            }
        };
        self.output(now, network);
        changes
    }

    /// Whether a segment is to be answered by a reset: an acknowledgement of something that was never sent, while the
    /// connection is not yet established.
    pub fn is_foreign(&self, segment: &Segment) -> bool {
        let wrong =
            !segment.acknowledgement.is_after(self.initial) || segment.acknowledgement.is_after(self.next);
        matches!(self.state, State::SynSent | State::SynReceived)
            && segment.flags.contains(Flags::ACK)
            && !segment.flags.contains(Flags::RST)
            && wrong
    }

    fn input_syn_sent(&mut self, now: u64, segment: &Segment, network: &mut dyn Network) -> Changes {
        let acknowledges = segment.flags.contains(Flags::ACK);
        if acknowledges
            && (!segment.acknowledgement.is_after(self.initial)
                || segment.acknowledgement.is_after(self.next))
        {
            return Changes::empty();
        }
        if segment.flags.contains(Flags::RST) {
            return if acknowledges { self.finish(Some(Errno::ECONNREFUSED)) } else { Changes::empty() };
        }
        if !segment.flags.contains(Flags::SYN) {
            return Changes::empty();
        }
        let offer = Offer::of(segment);
        self.synchronize(segment.sequence, &offer, now);
        if !acknowledges {
            // Both opened at once.
            self.state = State::SynReceived;
            self.attempts = 0;
            self.retransmit_at = now + self.estimator.timeout();
            self.send_syn(now, network);
            return Changes::empty();
        }
        if offer.ecn && self.settings.ecn {
            self.bits |= Bits::ECN;
        }
        self.state = State::Established;
        self.advertised = self.expected + u32::from(Self::syn_window(&self.settings));
        // The SYN's window is not scaled.
        self.window = u32::from(segment.window);
        self.largest_window = self.window;
        self.window_update = (segment.sequence, segment.acknowledgement);
        self.unacknowledged = segment.acknowledgement;
        let mut delivery = Default::default();
        self.scoreboard.acknowledge(segment.acknowledgement, now, &mut delivery);
        if self.attempts == 0 {
            self.measure(now, segment, &delivery);
        }
        self.established(now);
        self.bits |= Bits::ACKNOWLEDGE_NOW;
        Changes::CONNECTED | Changes::WRITABLE
    }

    fn input_general(
        &mut self,
        now: u64,
        segment: &Segment,
        mut payload: Chain,
        network: &mut dyn Network,
    ) -> Changes {
        let flags = segment.flags;
        let start = segment.sequence;
        let length = payload.len() as u32
            + u32::from(flags.contains(Flags::SYN))
            + u32::from(flags.contains(Flags::FIN));
        let end = start + length;
        if !self.is_fresh(segment, now) && !flags.contains(Flags::RST) {
            self.answer_unacceptable(now, start, end, network);
            return Changes::empty();
        }
        if end.is_before(self.acknowledged.earlier(self.expected))
            || start.is_after(self.advertised.later(self.expected))
        {
            if !flags.contains(Flags::RST) {
                self.answer_unacceptable(now, start, end, network);
            }
            return Changes::empty();
        }
        if flags.contains(Flags::RST) {
            if start == self.expected {
                return self.input_reset();
            }
            self.challenge(now);
            return Changes::empty();
        }
        if flags.contains(Flags::SYN) {
            if self.state == State::SynReceived && start == self.peer_initial && !flags.contains(Flags::ACK) {
                self.send_syn(now, network);
                return Changes::empty();
            }
            // The SYN-ACK of a simultaneous open repeats the SYN.
            if self.state != State::SynReceived || start != self.peer_initial {
                self.challenge(now);
                return Changes::empty();
            }
        }
        if !flags.contains(Flags::ACK) {
            return Changes::empty();
        }
        let acknowledgement = segment.acknowledgement;
        let mut changes = Changes::empty();
        if self.state == State::SynReceived {
            if !acknowledgement.is_after(self.initial) || acknowledgement.is_after(self.next) {
                return changes;
            }
            self.state = State::Established;
            self.window_update = (start, acknowledgement);
            self.established(now);
            if flags.contains(Flags::SYN) {
                self.window = u32::from(segment.window);
            }
            changes |= Changes::CONNECTED | Changes::WRITABLE;
        }
        if acknowledgement.is_after(self.next)
            || acknowledgement.is_before(self.unacknowledged - self.largest_window.max(1))
        {
            self.challenge(now);
            return changes;
        }
        self.note_timestamp(segment, now);
        if !flags.contains(Flags::SYN) {
            changes |= self.acknowledge(now, segment, length as usize);
        } else {
            let mut delivery = Default::default();
            self.unacknowledged = self.unacknowledged.later(acknowledgement);
            self.scoreboard.acknowledge(acknowledgement, now, &mut delivery);
            self.bits |= Bits::ACKNOWLEDGE_NOW;
        }
        if self.has(Bits::ECN) {
            if flags.contains(Flags::CWR) {
                self.bits -= Bits::ECN_ECHO;
            }
            if segment.congestion {
                self.bits |= Bits::ECN_ECHO | Bits::ACKNOWLEDGE_NOW;
            }
        }
        changes |= self.after_acknowledgement(now);
        if self.state == State::Closed {
            return changes;
        }
        if flags.contains(Flags::URG) {
            changes |= self.input_urgent(start, segment.urgent);
        }
        let start = if flags.contains(Flags::SYN) { start + 1 } else { start };
        let data_end = start + payload.len() as u32;
        if !payload.is_empty() {
            if self.state.can_receive() {
                if self.has(Bits::ORPHAN) && data_end.is_after(self.expected) {
                    // Nobody will ever read it (RFC 9293, section 3.6.1).
                    self.send_reset(network);
                    return changes | self.finish(Some(Errno::EPIPE));
                }
                changes |= self.input_data(now, start, &mut payload);
            } else {
                // The peer sends again what it sent before its FIN.
                self.bits |= Bits::ACKNOWLEDGE_NOW;
            }
        }
        if flags.contains(Flags::FIN) && self.state.can_receive() && !data_end.is_after(self.advertised) {
            self.peer_fin = Some(data_end);
            self.bits |= Bits::ACKNOWLEDGE_NOW;
        } else if flags.contains(Flags::FIN) {
            self.bits |= Bits::ACKNOWLEDGE_NOW;
        }
        if self.peer_fin == Some(self.expected) {
            changes |= self.input_fin(now);
        }
        changes
    }

    fn input_reset(&mut self) -> Changes {
        let error = match self.state {
            State::SynReceived => Some(Errno::ECONNREFUSED),
            State::CloseWait => Some(Errno::EPIPE),
            State::Closing | State::LastAck | State::TimeWait => None,
            _ => Some(Errno::ECONNRESET),
        };
        // What came before stays readable, as on Linux: often it says why.
        self.finish(error)
    }

    /// PAWS (RFC 7323, section 5): whether it is no old duplicate.
    fn is_fresh(&self, segment: &Segment, now: u64) -> bool {
        if !self.has(Bits::TIMESTAMPS) {
            return true;
        }
        let Some(timestamps) = segment.options.timestamps else {
            // Every segment but a reset must have them; Linux is lenient, and so are we.
            return true;
        };
        let behind = timestamps.value.wrapping_sub(self.recent_timestamp) as i32;
        // After 24 days the clock may have wrapped (section 5.5).
        behind >= 0 || ((now >> 30) as u32).wrapping_sub(self.recent_age) > 24 * 24 * 3600
    }

    /// Remembers what to echo (RFC 7323, section 4.3).
    fn note_timestamp(&mut self, segment: &Segment, now: u64) {
        if let Some(timestamps) = segment.options.timestamps
            && self.has(Bits::TIMESTAMPS)
            && !segment.sequence.is_after(self.acknowledged)
        {
            self.recent_timestamp = timestamps.value;
            self.recent_age = (now >> 30) as u32;
        }
    }

    /// Tells the peer where we are, because it sent something old or far ahead.
    fn answer_unacceptable(&mut self, now: u64, start: Sequence, end: Sequence, network: &mut dyn Network) {
        if self.state == State::SynReceived {
            if start == self.peer_initial {
                self.send_syn(now, network);
            }
            return;
        }
        if start == end {
            // A bare acknowledgement that is answered by another could go on for ever.
            self.challenge(now);
            return;
        }
        if start.is_before(self.expected) && self.has(Bits::SACK) {
            self.reassembly.note_duplicate(start, end.earlier(self.expected));
        }
        self.bits |= Bits::ACKNOWLEDGE_NOW;
    }

    fn challenge(&mut self, now: u64) {
        let second = (now / SECOND) as u32;
        if self.challenges.0 != second {
            self.challenges = (second, 0);
        }
        if self.challenges.1 < CHALLENGES {
            self.challenges.1 += 1;
            self.bits |= Bits::ACKNOWLEDGE_NOW;
        }
    }

    /// State changes because our FIN was acknowledged.
    fn after_acknowledgement(&mut self, now: u64) -> Changes {
        let acknowledged = self.has(Bits::FIN_QUEUED) && self.unacknowledged == self.queue_end() + 1;
        if !acknowledged {
            return Changes::empty();
        }
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                if self.has(Bits::ORPHAN) {
                    self.close_at = now + u64::from(self.settings.fin_timeout) * SECOND;
                }
                Changes::WRITABLE
            }
            State::Closing => self.wait(now),
            State::LastAck => self.finish(None),
            _ => Changes::empty(),
        }
    }

    /// Begins TIME-WAIT.
    fn wait(&mut self, now: u64) -> Changes {
        self.state = State::TimeWait;
        self.retransmit_at = rumpuser::NEVER;
        self.keep_alive_at = rumpuser::NEVER;
        self.close_at = now + super::super::time_wait::DURATION;
        Changes::CLOSED
    }

    fn input_urgent(&mut self, start: Sequence, pointer: u16) -> Changes {
        // The pointer as everybody uses it: one past the urgent byte (RFC 6093).
        let mark = start + u32::from(pointer) - 1u32;
        let known = self.has(Bits::URGENT_IN) && !mark.is_after(self.urgent_in);
        let unread = self.expected - self.receive.len() as u32;
        if known || mark.is_before(unread) || mark.is_after(self.expected + 0x0010_0000) {
            return Changes::empty();
        }
        self.urgent_in = mark;
        self.urgent_byte = None;
        self.bits |= Bits::URGENT_IN;
        Changes::URGENT
    }

    /// Data, some of which may be old, beyond a hole, or beyond the window.
    fn input_data(&mut self, now: u64, mut start: Sequence, payload: &mut Chain) -> Changes {
        if start.is_before(self.expected) {
            let old = (self.expected - start).min(payload.len() as u32);
            if self.has(Bits::SACK) {
                self.reassembly.note_duplicate(start, start + old);
            }
            payload.advance(old as usize);
            start += old;
            self.bits |= Bits::ACKNOWLEDGE_NOW;
        }
        let room = if self.advertised.is_after(start) { self.advertised - start } else { 0 };
        if payload.len() as u32 > room {
            payload.truncate(room as usize);
            self.bits |= Bits::ACKNOWLEDGE_NOW;
        }
        let payload = core::mem::take(payload);
        if payload.is_empty() {
            return Changes::empty();
        }
        // Without memory for all, everybody gets a little.
        if memory::is_exhausted() && (start != self.expected || !self.receive.is_empty()) {
            crate::tcp::counters::tcp::MEMORY_PRESSURE.increment();
            return Changes::empty();
        }
        if start != self.expected {
            self.reassembly.insert(start, payload);
            self.bits |= Bits::ACKNOWLEDGE_NOW;
            return Changes::empty();
        }
        let mut changes = self.take_in(now, payload);
        if !self.reassembly.is_empty() {
            // A hole is filled: the sender wants to know at once.
            self.bits |= Bits::ACKNOWLEDGE_NOW;
            while let Some(more) = self.reassembly.take(self.expected) {
                changes |= self.take_in(now, more);
            }
        }
        changes
    }

    /// The next data in order.
    fn take_in(&mut self, now: u64, payload: Chain) -> Changes {
        let length = payload.len() as u32;
        if self.has(Bits::URGENT_IN) && self.urgent_byte.is_none() {
            let offset = self.urgent_in.0.wrapping_sub(self.expected.0);
            let mut byte = [0];
            if offset < length && payload.copy_to(offset as usize, &mut byte) == 1 {
                self.urgent_byte = Some(byte[0]);
            }
        }
        self.expected += length;
        self.totals.1 += u64::from(length);
        if self.receive.is_empty() {
            self.receive.append(payload);
        } else {
            self.receive.append_compact(payload);
        }
        let full = length.min(u32::from(self.path_segment)) as u16;
        self.typical_segment = self.typical_segment.max(full);
        let waiting = self.expected - self.acknowledged;
        let quick = self.quick > 0 && full >= self.typical_segment && full > super::DEFAULT_SEGMENT;
        if waiting >= 2 * u32::from(self.typical_segment) || quick || self.settings.quick_acknowledge {
            self.quick = self.quick.saturating_sub(u8::from(quick));
            self.bits |= Bits::ACKNOWLEDGE_NOW;
        } else {
            self.acknowledge_at = self.acknowledge_at.min(now + DELAY);
        }
        Changes::READABLE
    }

    fn input_fin(&mut self, now: u64) -> Changes {
        self.peer_fin = None;
        self.expected += 1;
        // The FIN took no room.
        self.advertised += 1;
        self.bits |= Bits::ACKNOWLEDGE_NOW | Bits::PEER_FIN;
        self.reassembly.clear();
        let mut changes = Changes::READABLE | Changes::PEER_CLOSED;
        match self.state {
            State::Established => self.state = State::CloseWait,
            State::FinWait1 => self.state = State::Closing,
            State::FinWait2 => changes |= self.wait(now),
            _ => {}
        }
        changes
    }
}
