//! What an acknowledgement says: what arrived, what is lost, and how much may follow (RFC 5681, RFC 6582, RFC 6675,
//! RFC 6937, RFC 8985, RFC 3168).

use rumpuser::NEVER;

use super::{Bits, Changes, Phase, State, Tcb};
use crate::tcp::{
    estimator::MILLISECOND,
    scoreboard::{Delivery, ticks},
    segment::{Flags, Segment},
    sequence::Sequence,
    tunables,
};

/// Ticks to microseconds.
pub(super) fn microseconds(ticks: u32) -> u32 {
    ticks.saturating_add(ticks / 42)
}

impl Tcb {
    /// Takes the acknowledgement field, the window and the SACK blocks of an acceptable segment with `length` bytes of
    /// sequence space.
    pub(super) fn acknowledge(&mut self, now: u64, segment: &Segment, length: usize) -> Changes {
        let acknowledgement = segment.acknowledgement;
        let window = u32::from(segment.window) << self.window_shift;
        let advances = acknowledgement.is_after(self.unacknowledged);
        let mut window_changed = false;
        let (update_sequence, update_acknowledgement) = self.window_update;
        let in_order = update_sequence.is_before(segment.sequence)
            || (update_sequence == segment.sequence && !acknowledgement.is_before(update_acknowledgement));
        if in_order {
            window_changed = window != self.window;
            self.window = window;
            self.largest_window = self.largest_window.max(window);
            self.window_update = (segment.sequence, acknowledgement);
            if window_changed && self.has(Bits::PERSIST) && window > 0 {
                self.bits -= Bits::PERSIST;
                self.retransmit_at = NEVER;
                self.estimator.backoff = 0;
            }
        }
        if self.outstanding() == 0 {
            self.attempts = 0;
            return Changes::empty();
        }
        let flight = self.in_flight();
        let mut delivery = Delivery::default();
        let mut changes = Changes::empty();
        let before = self.unacknowledged;
        if advances {
            changes = self.advance(now, segment, &mut delivery);
        }
        if self.has(Bits::SACK) && !segment.options.sack.is_empty() {
            self.take_sack(now, segment, before, &mut delivery);
        }
        if !advances
            && acknowledgement == self.unacknowledged
            && length == 0
            && !window_changed
            && !self.has(Bits::SACK)
        {
            self.duplicates = self.duplicates.saturating_add(1);
        }
        self.react(now, flight, advances, segment.flags.contains(Flags::ECE), &delivery);
        changes
    }

    /// `before` is what was acknowledged before this segment.
    fn take_sack(&mut self, now: u64, segment: &Segment, before: Sequence, delivery: &mut Delivery) {
        for (number, &(start, end)) in segment.options.sack.as_slice().iter().enumerate() {
            if !start.is_before(end) || end.is_after(self.next) {
                continue;
            }
            if !end.is_after(segment.acknowledgement.earlier(before)) {
                // A duplicate (RFC 2883): something was sent again for nothing.
                if number == 0 {
                    self.scoreboard.reordering = true;
                    self.scoreboard.window_steps = (self.scoreboard.window_steps + 1).min(8);
                }
                continue;
            }
            if !start.is_before(self.unacknowledged) {
                self.scoreboard.sack(start, end, now, delivery);
            }
        }
    }

    /// Takes a round-trip measurement.
    pub(super) fn measure(&mut self, now: u64, segment: &Segment, delivery: &Delivery) {
        if let Some(at) = delivery.sent_at.filter(|_| !delivery.retransmitted) {
            self.estimator.sample(microseconds(ticks(now).wrapping_sub(at)));
        } else if let Some(timestamps) = segment.options.timestamps
            && self.has(Bits::TIMESTAMPS)
            && timestamps.echo != 0
        {
            let time = self.timestamp(now).wrapping_sub(timestamps.echo);
            if time < 1 << 16 {
                self.estimator.sample(time * 1049);
            }
        }
    }

    /// SND.UNA moves.
    fn advance(&mut self, now: u64, segment: &Segment, delivery: &mut Delivery) -> Changes {
        let acknowledgement = segment.acknowledgement;
        self.scoreboard.acknowledge(acknowledgement, now, delivery);
        if acknowledgement.is_after(self.queue_start) {
            let count = (acknowledgement - self.queue_start).min(self.queue.len() as u32);
            self.queue.advance(count as usize);
            self.queue_start += count;
            self.totals.0 += u64::from(count);
        }
        let acknowledged = acknowledgement - self.unacknowledged;
        self.unacknowledged = acknowledgement;
        if !self.short_end.is_after(acknowledgement) {
            self.short_end = acknowledgement;
        }
        if self.has(Bits::URGENT_OUT) && !self.urgent_out.is_after(acknowledgement) {
            self.bits -= Bits::URGENT_OUT;
        }
        self.attempts = 0;
        self.estimator.backoff = 0;
        self.soft_error = None;
        self.bits -= Bits::PROBED;
        self.measure(now, segment, delivery);
        if self.duplicates > 0 {
            let segments = acknowledged / u32::from(self.segment).max(1);
            self.duplicates = self.duplicates.saturating_sub(segments.clamp(1, 255) as u8);
        }
        if self.outstanding() == 0 {
            self.retransmit_at = NEVER;
            self.unanswered_since = NEVER;
            self.bits -= Bits::PROBE | Bits::REORDER_WAIT;
        } else {
            self.unanswered_since = now;
            self.arm_retransmission(now);
        }
        if self.has(Bits::NO_SPACE) && self.is_writable() {
            self.bits -= Bits::NO_SPACE;
            return Changes::WRITABLE;
        }
        Changes::empty()
    }

    /// The state of the path after an acknowledgement.
    fn react(&mut self, now: u64, flight: u32, advances: bool, echo: bool, delivery: &Delivery) {
        let segment = u32::from(self.segment);
        if self.phase != Phase::Open && !self.unacknowledged.is_before(self.recover) {
            if self.phase == Phase::Recovery {
                self.congestion.window = self.congestion.threshold;
            }
            self.phase = Phase::Open;
            self.duplicates = 0;
        }
        if self.has(Bits::SACK) {
            if delivery.sacked || self.phase != Phase::Open || self.scoreboard.sacked() > 0 {
                self.detect_losses(now);
            }
        } else {
            self.count_duplicates(advances);
        }
        match self.phase {
            Phase::Recovery => self.pace_recovery(delivery.bytes),
            _ if !advances => {}
            Phase::Loss => self.congestion.acknowledged(now, delivery.bytes, segment, self.round_trip()),
            Phase::Open if echo && self.has(Bits::ECN) => self.congestion_echoed(),
            Phase::Open => {
                let limited = if self.congestion.slow_start() {
                    flight.saturating_mul(2) >= self.congestion.window
                } else {
                    flight.saturating_add(2 * segment) >= self.congestion.window
                };
                if limited {
                    self.congestion.acknowledged(now, delivery.bytes, segment, self.round_trip());
                }
            }
        }
        if self.settings.send_buffer.is_none() {
            // Twice what may be on its way, so that the next window is ready when this one is acknowledged.
            let wanted = self.congestion.window.saturating_mul(2);
            let wanted = wanted.min(tunables::most(&tunables::SEND_BUFFER));
            self.send_limit = self.send_limit.max(wanted);
        }
    }

    fn round_trip(&self) -> u32 {
        self.estimator.round_trip().unwrap_or(0)
    }

    /// Routers reported congestion: once a window it is reduced.
    fn congestion_echoed(&mut self) {
        if self.unacknowledged.is_before(self.recover) {
            return;
        }
        self.congestion.reduce(self.in_flight(), u32::from(self.segment));
        self.congestion.window = self.congestion.threshold;
        self.recover = self.next;
        self.bits |= Bits::ECN_REDUCED;
    }

    /// Finds losses by SACK and time; waits a little where segments may only be late.
    pub(super) fn detect_losses(&mut self, now: u64) {
        let eager = self.phase != Phase::Open || self.scoreboard.sacked() >= 3 * u32::from(self.segment);
        let minimum = self.estimator.minimum();
        let (found, wait) = self.scoreboard.detect_losses(now, minimum, self.round_trip(), eager);
        if found > 0 && self.phase == Phase::Open {
            self.begin_recovery();
        }
        if let Some(wait) = wait {
            self.bits |= Bits::REORDER_WAIT;
            self.retransmit_at = now + (u64::from(wait + 1) << 10).max(MILLISECOND);
        } else if self.has(Bits::REORDER_WAIT) {
            self.bits -= Bits::REORDER_WAIT;
            self.arm_retransmission(now);
        }
    }

    /// NewReno: three duplicates mean a loss; an acknowledgement of a part, the next one.
    fn count_duplicates(&mut self, advances: bool) {
        match self.phase {
            Phase::Open if self.duplicates >= 3 && !self.unacknowledged.is_before(self.recover) => {
                self.begin_recovery();
                self.scoreboard.lose_first(u32::from(self.segment));
            }
            Phase::Recovery if advances => self.scoreboard.lose_first(u32::from(self.segment)),
            _ => {}
        }
    }

    fn begin_recovery(&mut self) {
        let flight = self.outstanding();
        if !self.unacknowledged.is_before(self.recover) {
            self.congestion.reduce(flight, u32::from(self.segment));
            self.bits |= Bits::ECN_REDUCED;
        }
        self.phase = Phase::Recovery;
        self.recover = self.next;
        self.recovery = (0, 0, flight.max(1));
        self.bits -= Bits::PROBE | Bits::PROBED;
    }

    /// Proportional rate reduction (RFC 6937).
    fn pace_recovery(&mut self, delivered: u32) {
        let (total, sent, flight) = &mut self.recovery;
        *total = total.saturating_add(delivered);
        let (total, sent, start) = (*total, *sent, *flight);
        let segment = u32::from(self.segment);
        let threshold = self.congestion.threshold;
        let flight = self.in_flight();
        let allowance = if flight > threshold {
            let due = (u64::from(total) * u64::from(threshold)).div_ceil(u64::from(start)) as u32;
            due.saturating_sub(sent)
        } else {
            let limit = total.saturating_sub(sent).max(delivered) + segment;
            (threshold - flight).min(limit)
        };
        // The first retransmission goes out in any case.
        let allowance = if sent == 0 { allowance.max(segment) } else { allowance };
        self.congestion.window = flight + allowance;
    }

    /// Whether the user is told that there is room: a third of the buffer.
    pub(super) fn is_writable(&self) -> bool {
        let used = self.queue.len() as u32;
        let unsent = self.queue_end().0.wrapping_sub(self.next.0) as i32;
        used < self.send_limit / 3 * 2 && (unsent.max(0) as u32) < self.settings.unsent_low_water
    }

    /// Whether acknowledgements are expected at all.
    pub(super) fn awaits(&self) -> bool {
        self.outstanding() > 0 || self.state == State::SynSent
    }
}
