//! Adaptive interrupt moderation: how long a queue that was emptied is left alone before interrupts are wanted again.
//!
//! Few packets at a time: no delay at all, because somebody waits for each. Bulk: the delay climbs as long as that
//! moves more bytes (or packets, or the same with fewer polls), steps back when it moves less, and then stays
//! until the load changes; the idea of Linux's `lib/dim` and of Intel's ITR classes.

/// Delays in nanoseconds, from level to level.
const LEVELS: [u64; 5] = [0, 16_000, 48_000, 120_000, 250_000];
/// Polls with packets that make a sample.
const SAMPLE: u32 = 32;
/// A poll with so many packets, or so many bytes, on average is bulk.
const BULK_PACKETS: u32 = 4;
const BULK_BYTES: u64 = 12_000;
/// A difference below one part in this is noise.
const NOISE: u64 = 10;

/// What moved, per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Rates {
    bytes: u64,
    packets: u64,
    polls: u64,
}

/// How two rates compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Better,
    Same,
    Worse,
}

fn significant(new: u64, old: u64) -> bool {
    new.abs_diff(old) > new.max(old) / NOISE
}

fn compare(new: Rates, old: Rates) -> Verdict {
    let verdict = |better| if better { Verdict::Better } else { Verdict::Worse };
    if significant(new.bytes, old.bytes) {
        verdict(new.bytes > old.bytes)
    } else if significant(new.packets, old.packets) {
        verdict(new.packets > old.packets)
    } else if significant(new.polls, old.polls) {
        verdict(new.polls < old.polls)
    } else {
        Verdict::Same
    }
}

/// The state of a queue.
#[derive(Debug, Default)]
pub struct Moderation {
    level: usize,
    /// The way it climbs; `None`: it stays.
    climbing: Option<Direction>,
    last: Rates,
    start: u64,
    polls: u32,
    packets: u32,
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

impl Moderation {
    /// Counts a poll that found packets. True when a sample is complete: then call [`Moderation::decide`].
    pub fn record(&mut self, packets: usize, bytes: usize) -> bool {
        self.polls += 1;
        self.packets = self.packets.wrapping_add(packets as u32);
        self.bytes += bytes as u64;
        self.polls >= SAMPLE
    }

    /// Ends a sample at the monotonic time `now`; returns the delay from now on, in nanoseconds.
    pub fn decide(&mut self, now: u64) -> u64 {
        let elapsed = now.saturating_sub(self.start).max(1);
        let rate = |count: u64| (u128::from(count) * 1_000_000_000 / u128::from(elapsed)) as u64;
        let new = Rates {
            bytes: rate(self.bytes),
            packets: rate(self.packets.into()),
            polls: rate(self.polls.into()),
        };
        let bulk = self.packets >= BULK_PACKETS * SAMPLE || self.bytes >= BULK_BYTES * u64::from(SAMPLE);
        (self.start, self.polls, self.packets, self.bytes) = (now, 0, 0, 0);
        let old = core::mem::replace(&mut self.last, new);
        if !bulk {
            (self.level, self.climbing) = (0, None);
            return LEVELS[0];
        }
        self.climbing = match (self.climbing, compare(new, old)) {
            // What it stays at is the mark: without a change of the load, it stays.
            (None, Verdict::Same) => None,
            (None, _) => Some(if self.level + 1 < LEVELS.len() { Direction::Up } else { Direction::Down }),
            (Some(direction), Verdict::Better) => Some(direction),
            (Some(_), Verdict::Same) => None,
            // One step back, and stay.
            (Some(direction), Verdict::Worse) => {
                self.last = old;
                match direction {
                    Direction::Up => self.level -= 1,
                    Direction::Down => self.level += 1,
                }
                None
            }
        };
        match self.climbing {
            Some(Direction::Up) if self.level + 1 < LEVELS.len() => self.level += 1,
            Some(Direction::Down) if self.level > 0 => self.level -= 1,
            _ => self.climbing = None,
        }
        LEVELS[self.level]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds samples of a source that gives, at a delay, (packets per poll, bytes per packet, nanoseconds per poll).
    fn run(
        moderation: &mut Moderation,
        now: &mut u64,
        samples: usize,
        source: &dyn Fn(u64) -> (u64, u64, u64),
    ) -> u64 {
        let mut delay = LEVELS[moderation.level];
        for _ in 0..samples {
            let (packets, bytes, time) = source(delay);
            while !moderation.record(packets as usize, (packets * bytes) as usize) {
                *now += time;
            }
            *now += time;
            delay = moderation.decide(*now);
        }
        delay
    }

    #[test]
    fn single_requests_are_not_delayed() {
        let mut moderation = Moderation::default();
        assert_eq!(run(&mut moderation, &mut 0, 50, &|delay| (1, 100, 50_000 + delay)), 0);
    }

    #[test]
    fn bulk_climbs_as_long_as_it_moves_more() {
        // A poll costs 20 µs, a packet 1 µs, the wire gives a packet each 2 µs at most.
        let source = |delay: u64| {
            let packets = ((20_000 + delay) / 2_000).clamp(1, 64);
            (packets, 1500, (20_000 + packets * 1_000).max(packets * 2_000))
        };
        let (mut moderation, mut now) = (Moderation::default(), 0);
        let delay = run(&mut moderation, &mut now, 50, &source);
        assert!(delay > 0, "{delay}");
        // And is back at once when requests come one by one.
        assert_eq!(run(&mut moderation, &mut now, 1, &|_| (1, 100, 50_000)), 0);
    }

    #[test]
    fn a_sender_that_waits_for_answers_is_not_slowed_down() {
        // A window of 8 packets per round trip: every delay makes it slower.
        let source = |delay: u64| (8, 1500, 30_000 + delay);
        let (mut moderation, mut now) = (Moderation::default(), 0);
        let delays: std::vec::Vec<u64> =
            (0..100).map(|_| run(&mut moderation, &mut now, 1, &source)).collect();
        let mean = delays.iter().sum::<u64>() / 100;
        assert!(mean <= 5_000, "{delays:?}");
    }
}
