//! Connections that a peer began: the entry of a SYN queue, and SYN cookies, which need none.

use super::{
    control::{Agreement, DEFAULT_SEGMENT, Offer, Settings, Tcb, WINDOW_SCALE},
    estimator::{INITIAL_TIMEOUT, SECOND},
    hash,
    segment::{Flags, Options, Segment, Timestamps},
    sequence::Sequence,
    table::Key,
    tunables,
};

/// What is known of a connection after its SYN.
#[derive(Debug, Clone, Copy)]
pub struct HalfOpen {
    /// Both ends.
    pub key: Key,
    /// The hash of the key.
    pub hash: u64,
    /// Our initial sequence number.
    pub initial: Sequence,
    /// The peer's.
    pub peer_initial: Sequence,
    /// What was offered and accepted.
    pub offer: Offer,
    /// Our timestamps are ahead of the clock by this.
    pub timestamp_offset: u32,
    /// The interface and queue that the SYN came by.
    pub interface: u32,
    /// See above.
    pub queue: u16,
    /// How often the SYN-ACK was sent again, or would have been.
    pub retries: u8,
    /// The SYN-ACK was acknowledged, but data is waited for (TCP_DEFER_ACCEPT).
    pub acknowledged: bool,
    /// When the SYN came.
    pub since: u64,
    /// When the SYN-ACK is sent again.
    pub due: u64,
}

/// Our initial sequence number for a pair of ends (RFC 6528), and the offset of our timestamps.
pub fn initial_numbers(key: &Key, now: u64) -> (Sequence, u32) {
    let sum = hash::keyed(&key.words());
    // A clock with a tick of about 4 microseconds.
    (Sequence((sum >> 32) as u32) + (now >> 12) as u32, sum as u32)
}

/// The SYN-ACK.
pub fn answer(
    initial: Sequence,
    peer_initial: Sequence,
    offer: &Offer,
    timestamp: u32,
    path_segment: u16,
    settings: &Settings,
) -> Segment {
    let maximum = match settings.maximum_segment {
        0 => path_segment,
        limit => path_segment.min(limit),
    };
    let mut flags = Flags::SYN | Flags::ACK;
    if offer.ecn {
        flags |= Flags::ECE;
    }
    Segment {
        sequence: initial,
        acknowledgement: peer_initial + 1,
        flags,
        window: Tcb::syn_window(settings),
        options: Options {
            maximum_segment: Some(maximum),
            window_scale: offer.scale.map(|_| WINDOW_SCALE),
            sack_permitted: offer.sack,
            timestamps: offer.timestamp.map(|echo| Timestamps { value: timestamp, echo }),
            ..Options::default()
        },
        ..Segment::default()
    }
}

/// The clock of timestamps.
fn clock(now: u64) -> u32 {
    (now >> 20) as u32
}

impl HalfOpen {
    /// Its SYN-ACK.
    pub fn answer(&self, now: u64, path_segment: u16, settings: &Settings) -> Segment {
        let timestamp = clock(now).wrapping_add(self.timestamp_offset);
        answer(self.initial, self.peer_initial, &self.offer, timestamp, path_segment, settings)
    }

    /// Sets the time of the next SYN-ACK, and says whether one is due now; None if there were enough. While data is
    /// waited for, only the last is sent: its acknowledgement ends the wait.
    pub fn retry(&mut self, now: u64, settings: &Settings) -> Option<bool> {
        self.retries += 1;
        self.due = now + (INITIAL_TIMEOUT << self.retries.min(16));
        let defer = settings.defer_accept;
        if self.acknowledged && self.retries <= defer {
            return Some(self.retries == defer);
        }
        (u32::from(self.retries) <= tunables::ANSWER_RETRIES.get()).then_some(true)
    }

    /// Whether a segment that completes the handshake is not enough: data is waited for.
    pub fn defers(&self, segment: &Segment, length: usize, settings: &Settings) -> bool {
        self.retries < settings.defer_accept
            && length == 0
            && !segment.flags.contains(Flags::FIN)
            && segment.sequence == self.peer_initial + 1
    }

    /// Whether a segment completes the handshake.
    pub fn completes(&self, segment: &Segment) -> bool {
        segment.acknowledgement == self.initial + 1
            && !segment.sequence.is_before(self.peer_initial + 1)
            && !segment.sequence.is_after(self.peer_initial + 1 + 65_535)
    }

    /// What both know.
    pub fn agreement(&self, now: u64, settings: &Settings) -> Agreement {
        let time = now.saturating_sub(self.since) / 1000;
        Agreement {
            initial: self.initial,
            peer_initial: self.peer_initial,
            offer: self.offer,
            timestamp_offset: self.timestamp_offset,
            round_trip: (self.retries == 0).then_some(time.clamp(1, 60_000_000) as u32),
            window: Tcb::syn_window(settings),
        }
    }
}

/// Segment sizes that a cookie can tell.
const SIZES: [u16; 8] = [88, 536, 1220, 1300, 1440, 1460, 4312, 8960];
/// How long a cookie is good, in units of 64 seconds.
const LIFE: u32 = 2;

fn period(now: u64) -> u32 {
    (now / (64 * SECOND)) as u32
}

fn cookie_sum(key: &Key, peer_initial: Sequence, period: u32, size: u32) -> u32 {
    let [a, b, c, d, e] = key.words();
    let tail = u64::from(peer_initial.0) << 32 | u64::from(period);
    hash::keyed(&[a, b, c, d, e, tail, u64::from(size)]) as u32 & 0x00ff_ffff
}

/// The initial sequence number that is a cookie, and the timestamp that carries the options: 5 bits of time, 3 of
/// the segment size, 24 of a keyed hash.
pub fn cookie(key: &Key, peer_initial: Sequence, offer: &Offer, now: u64) -> (Sequence, u32) {
    let size = SIZES.iter().rposition(|&size| size <= offer.segment).unwrap_or(0) as u32;
    let period = period(now);
    let number = (period & 31) << 27 | size << 24 | cookie_sum(key, peer_initial, period, size);
    let offset = initial_numbers(key, now).1;
    let scale = offer.scale.map_or(15, u32::from);
    let options = scale | u32::from(offer.sack) << 4;
    (Sequence(number), clock(now).wrapping_add(offset) & !31 | options)
}

/// What a cookie that comes back says; None if it is none of ours, or too old.
pub fn redeem(key: &Key, segment: &Segment, now: u64, settings: &Settings) -> Option<Agreement> {
    let initial = segment.acknowledgement - 1u32;
    let peer_initial = segment.sequence - 1u32;
    let size = initial.0 >> 24 & 7;
    let age = period(now).wrapping_sub(initial.0 >> 27) & 31;
    let made = period(now).wrapping_sub(age);
    if age >= LIFE || cookie_sum(key, peer_initial, made, size) != initial.0 & 0x00ff_ffff {
        return None;
    }
    let mut offer = Offer {
        scale: None,
        sack: false,
        timestamp: None,
        ecn: false,
        segment: SIZES.get(size as usize).copied().unwrap_or(DEFAULT_SEGMENT),
    };
    if let Some(timestamps) = segment.options.timestamps {
        let scale = timestamps.echo & 15;
        offer.scale = (scale < 15).then_some(scale as u8);
        offer.sack = timestamps.echo & 16 != 0;
        offer.timestamp = Some(timestamps.value);
    }
    Some(Agreement {
        initial,
        peer_initial,
        offer,
        timestamp_offset: initial_numbers(key, now).1,
        round_trip: None,
        window: Tcb::syn_window(settings),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::new("10.0.0.1:80".parse().unwrap(), "10.0.0.2:4000".parse().unwrap())
    }

    #[test]
    fn cookies_come_back_with_what_was_offered() {
        let now = 1_000 * SECOND;
        let offer = Offer { scale: Some(9), sack: true, timestamp: Some(77), ecn: false, segment: 1400 };
        let (initial, timestamp) = cookie(&key(), Sequence(500), &offer, now);
        let mut segment = Segment {
            sequence: Sequence(501),
            acknowledgement: initial + 1,
            flags: Flags::ACK,
            ..Segment::default()
        };
        segment.options.timestamps = Some(Timestamps { value: 78, echo: timestamp });
        let settings = Settings::default();
        let agreement = redeem(&key(), &segment, now + 60 * SECOND, &settings).unwrap();
        assert_eq!((agreement.initial, agreement.peer_initial), (initial, Sequence(500)));
        assert_eq!(agreement.offer, Offer { timestamp: Some(78), segment: 1300, ..offer });
        assert!(redeem(&key(), &segment, now + 200 * SECOND, &settings).is_none());
        for wrong in [segment.acknowledgement + 1, segment.acknowledgement - (1u32 << 24)] {
            let forged = Segment { acknowledgement: wrong, ..segment };
            assert!(redeem(&key(), &forged, now, &settings).is_none());
        }
        let other = Key::new("10.0.0.1:80".parse().unwrap(), "10.0.0.2:4001".parse().unwrap());
        assert!(redeem(&other, &segment, now, &settings).is_none());
    }

    fn half_open() -> HalfOpen {
        let (initial, timestamp_offset) = initial_numbers(&key(), 0);
        HalfOpen {
            key: key(),
            hash: 0,
            initial,
            peer_initial: Sequence(7),
            offer: Offer { scale: None, sack: false, timestamp: None, ecn: false, segment: 1460 },
            timestamp_offset,
            interface: 1,
            queue: 0,
            retries: 0,
            acknowledged: false,
            since: 0,
            due: 0,
        }
    }

    #[test]
    fn a_handshake_is_completed_by_its_own_acknowledgement_only() {
        let half_open = half_open();
        let initial = half_open.initial;
        let segment = Segment { sequence: Sequence(8), acknowledgement: initial + 1, ..Segment::default() };
        assert!(half_open.completes(&segment));
        assert!(!half_open.completes(&Segment { acknowledgement: initial, ..segment }));
        assert!(!half_open.completes(&Segment { sequence: Sequence(7), ..segment }));
    }

    #[test]
    fn data_is_waited_for() {
        let settings = Settings { defer_accept: 2, ..Settings::default() };
        let mut waits = HalfOpen { acknowledged: true, ..half_open() };
        let segment =
            Segment { sequence: Sequence(8), acknowledgement: waits.initial + 1, ..Segment::default() };
        assert!(waits.defers(&segment, 0, &settings));
        assert!(!waits.defers(&segment, 1, &settings));
        assert!(!waits.defers(&Segment { flags: Flags::FIN | Flags::ACK, ..segment }, 0, &settings));
        assert!(!waits.defers(&segment, 0, &Settings::default()));
        // The SYN-ACK is sent again once, and then any acknowledgement will do.
        assert_eq!(waits.retry(SECOND, &settings), Some(false));
        assert!(waits.defers(&segment, 0, &settings));
        assert_eq!(waits.retry(3 * SECOND, &settings), Some(true));
        assert!(!waits.defers(&segment, 0, &settings));
    }
}
