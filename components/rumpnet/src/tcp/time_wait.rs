//! TIME-WAIT (RFC 9293, section 3.10.7.4; RFC 6191): what is left of a connection, so that old segments don't meet a
//! new one.

use super::{
    control::Tcb,
    estimator::SECOND,
    segment::{Flags, Options, Segment, Timestamps},
    sequence::Sequence,
};

/// How long it lasts, as on Linux.
pub const DURATION: u64 = 60 * SECOND;

/// The rest of a connection.
#[derive(Debug, Clone, Copy)]
pub struct TimeWait {
    /// SND.NXT.
    pub next: Sequence,
    /// RCV.NXT.
    pub expected: Sequence,
    /// The last window that was advertised, scaled.
    window: u16,
    /// TS.Recent, and what our timestamps are ahead of the clock.
    recent: Option<(u32, u32)>,
    /// When it ends.
    pub end: u64,
}

/// What a segment leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing.
    Ignore,
    /// An acknowledgement.
    Answer(Segment),
    /// It is a new connection's SYN: TIME-WAIT ends, and the new initial sequence number is after this.
    Reopen(Sequence),
    /// It ends by a reset.
    End,
}

impl TimeWait {
    /// What is left of a connection.
    pub fn new(tcb: &Tcb, now: u64) -> Self {
        let (next, expected, window, recent) = tcb.remains();
        TimeWait { next, expected, window, recent, end: now + DURATION }
    }

    /// Takes a segment with `length` bytes of payload.
    pub fn input(&mut self, now: u64, segment: &Segment, length: usize) -> Reaction {
        let flags = segment.flags;
        let timestamp = segment.options.timestamps.map(|timestamps| timestamps.value);
        let newer = match (self.recent, timestamp) {
            (Some((recent, _)), Some(value)) => Some(value.wrapping_sub(recent) as i32),
            _ => None,
        };
        if flags.contains(Flags::RST) {
            // Assassination (RFC 1337) is no option; an exact reset of a peer that restarted is.
            return if segment.sequence == self.expected { Reaction::End } else { Reaction::Ignore };
        }
        if flags.intersection(Flags::SYN | Flags::ACK) == Flags::SYN {
            let is_new = newer.is_some_and(|newer| newer > 0) || segment.sequence.is_after(self.expected);
            if is_new && newer.is_none_or(|newer| newer >= 0) {
                return Reaction::Reopen(self.next + 65_537);
            }
        }
        if newer.is_some_and(|newer| newer < 0) && !flags.contains(Flags::SYN) {
            return self.answer(now);
        }
        if flags.contains(Flags::FIN) {
            self.end = now + DURATION;
        }
        if flags.intersects(Flags::FIN | Flags::SYN) || length > 0 || segment.sequence != self.expected {
            return self.answer(now);
        }
        Reaction::Ignore
    }

    fn answer(&self, now: u64) -> Reaction {
        let timestamps = self.recent.map(|(recent, offset)| Timestamps {
            value: ((now >> 20) as u32).wrapping_add(offset),
            echo: recent,
        });
        Reaction::Answer(Segment {
            sequence: self.next,
            acknowledgement: self.expected,
            flags: Flags::ACK,
            window: self.window,
            options: Options { timestamps, ..Options::default() },
            ..Segment::default()
        })
    }

    /// Whether an active connection may use the same addresses and ports again (RFC 6191): its timestamps will be
    /// newer than those of the old one.
    pub fn may_reuse(&self, now: u64) -> bool {
        self.recent.is_some() && now + DURATION > self.end.saturating_add(SECOND)
    }
}
