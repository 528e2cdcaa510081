//! Two connections over a network that loses, doubles, delays and reorders: whatever it does, the bytes arrive, both
//! sides end, and memory stays within the buffers.

use std::{collections::BTreeMap, vec, vec::Vec};

use rumpuser::NEVER;

use super::super::{
    congestion::Algorithm,
    control::{Agreement, Network, Offer, Settings, State, Tcb},
    half_open,
    receive::reset_for,
    segment::{Flags, Segment},
    sequence::Sequence,
    table::Key,
    time_wait::{Reaction, TimeWait},
};
use crate::packet::Chain;

const MILLISECOND: u64 = 1_000_000;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    fn happens(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }
}

/// What the network does, per mille and in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Weather {
    loss: u64,
    doubling: u64,
    reordering: u64,
    delay: u64,
    jitter: u64,
}

struct Wire {
    now: u64,
    /// Segments on their way, by the time at which they arrive.
    flying: BTreeMap<(u64, u64), (usize, Segment, Vec<u8>)>,
    number: u64,
    random: Random,
    weather: Weather,
    sent: u64,
}

/// The wire as one side sees it.
struct Side<'a>(&'a mut Wire, usize);

impl Wire {
    fn launch(&mut self, from: usize, segment: &Segment, data: Vec<u8>) {
        self.sent += 1;
        if self.random.happens(self.weather.loss) {
            return;
        }
        let copies = 1 + u64::from(self.random.happens(self.weather.doubling));
        for _ in 0..copies {
            let late =
                if self.random.happens(self.weather.reordering) { self.weather.delay.max(1) } else { 0 };
            let jitter = self.random.below(self.weather.jitter * MILLISECOND + 1);
            let at = self.now + (self.weather.delay + late) * MILLISECOND + jitter;
            self.number += 1;
            // What is sent says that it may be marked; what arrives, whether it was.
            let congestion = segment.congestion && self.random.happens(self.weather.loss / 2);
            let segment = Segment { congestion, ..*segment };
            self.flying.insert((at, self.number), (1 - from, segment, data.clone()));
        }
    }
}

impl Network for Side<'_> {
    fn send(&mut self, segment: &Segment, payload: Chain, segment_size: u16) {
        let mut data = vec![0; payload.len()];
        payload.copy_to(0, &mut data);
        let size = if segment_size > 0 { usize::from(segment_size) } else { usize::MAX };
        if data.is_empty() {
            return self.0.launch(self.1, segment, data);
        }
        let count = data.chunks(size).count();
        for (index, piece) in data.chunks(size).enumerate() {
            let mut part = *segment;
            part.sequence += (index * size) as u32;
            if index + 1 < count {
                part.flags -= Flags::FIN | Flags::PSH;
            }
            self.0.launch(self.1, &part, piece.to_vec());
        }
    }
}

struct End {
    tcb: Tcb,
    to_send: usize,
    sent: usize,
    received: usize,
    closed: bool,
    rest: Option<TimeWait>,
}

fn byte(side: usize, index: usize) -> u8 {
    (index.wrapping_mul(31) >> 3) as u8 ^ (side as u8) << 7 ^ index as u8
}

impl End {
    /// The user reads, checks, writes and closes, now and then.
    fn live(&mut self, side: usize, wire: &mut Wire) {
        let now = wire.now;
        if wire.random.happens(700) {
            let limit = 1 + wire.random.below(100_000) as usize;
            let chain = self.tcb.take(now, limit, &mut Side(wire, side));
            let mut bytes = vec![0; chain.len()];
            chain.copy_to(0, &mut bytes);
            for (offset, &got) in bytes.iter().enumerate() {
                assert_eq!(got, byte(1 - side, self.received + offset), "at {}", self.received + offset);
            }
            self.received += bytes.len();
        }
        if self.sent < self.to_send {
            if let Ok(room) = self.tcb.room() {
                let length = room.min(1 + wire.random.below(30_000) as usize).min(self.to_send - self.sent);
                let bytes: Vec<u8> = (self.sent..self.sent + length).map(|index| byte(side, index)).collect();
                let more = wire.random.happens(50);
                self.sent += length;
                let chain = Chain::copy_of(&bytes).unwrap();
                self.tcb.push(now, chain, more && self.sent < self.to_send, false, &mut Side(wire, side));
            }
        } else if !self.closed {
            self.closed = true;
            self.tcb.shut_write(now, &mut Side(wire, side));
        }
        let (send, receive) = self.tcb.buffers();
        let bound = (send + 2 * receive) as usize + (256 << 10);
        assert!(self.tcb.memory() <= bound, "{} bytes are kept", self.tcb.memory());
    }

    /// A segment arrives, also when only TIME-WAIT or nothing is left.
    fn arrive(&mut self, side: usize, now: u64, segment: &Segment, data: &[u8], wire: &mut Wire) {
        if !self.is_over() {
            let data = Chain::copy_of(data).unwrap();
            self.tcb.input(now, segment, data, &mut Side(wire, side));
            if self.tcb.state == State::TimeWait {
                self.rest = Some(TimeWait::new(&self.tcb, now));
                self.tcb.rest();
            }
            return;
        }
        let answer = match self.rest.as_mut().filter(|rest| rest.end > now) {
            Some(rest) => match rest.input(now, segment, data.len()) {
                Reaction::Answer(answer) => Some(answer),
                _ => None,
            },
            None => reset_for(segment, data.len()),
        };
        if let Some(answer) = answer {
            wire.launch(side, &answer, Vec::new());
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.tcb.state, State::Closed | State::TimeWait)
    }
}

/// Runs a transfer both ways; returns how long it took in milliseconds, and the segments sent.
fn transfer(seed: u64, weather: Weather, amount: usize, offer: Offer, settings: Settings) -> (u64, u64) {
    let mut wire = Wire {
        now: 1_000_000 * MILLISECOND,
        flying: BTreeMap::new(),
        number: 0,
        random: Random(seed | 1),
        weather,
        sent: 0,
    };
    let start = wire.now;
    let key = Key::new("10.0.0.1:80".parse().unwrap(), "10.0.0.2:4000".parse().unwrap());
    let (initial, offset) = half_open::initial_numbers(&key, start);
    let (first, second) = (Sequence(seed as u32), initial);
    let agreement = |mine, theirs| Agreement {
        initial: mine,
        peer_initial: theirs,
        // Both count from the same offset.
        offer: Offer {
            timestamp: offer.timestamp.map(|_| ((start >> 20) as u32).wrapping_add(offset)),
            ..offer
        },
        timestamp_offset: offset,
        round_trip: None,
        window: 65_535,
    };
    let end = |mine, theirs, amount| End {
        tcb: Tcb::accept(settings, &agreement(mine, theirs), 1460, start),
        to_send: amount,
        sent: 0,
        received: 0,
        closed: false,
        rest: None,
    };
    let mut ends = [end(first, second, amount), end(second, first, amount / 3)];
    for (side, (mine, theirs)) in [(first, second), (second, first)].into_iter().enumerate() {
        let acknowledgement = Segment {
            sequence: theirs + 1,
            acknowledgement: mine + 1,
            flags: Flags::ACK,
            window: 512,
            ..Segment::default()
        };
        ends[side].tcb.input(start, &acknowledgement, Chain::new(), &mut Side(&mut wire, side));
    }
    let mut next_life = start;
    let mut steps = 0;
    while !ends.iter().all(End::is_over) {
        steps += 1;
        assert!(
            steps < 3_000_000,
            "no end: seed {seed} {weather:?} {:?}",
            ends.each_ref().map(|end| { (end.tcb.state, end.sent, end.received, end.tcb.info(wire.now)) })
        );
        let arrival = wire.flying.keys().next().map_or(NEVER, |&(at, _)| at);
        let timer = ends.iter().map(|end| end.tcb.deadline()).min().unwrap_or(NEVER);
        wire.now = wire.now.max(arrival.min(timer).min(next_life));
        let now = wire.now;
        if let Some(entry) = wire.flying.first_entry().filter(|entry| entry.key().0 <= now) {
            let (to, segment, data) = entry.remove();
            ends[to].arrive(to, now, &segment, &data, &mut wire);
        }
        for (side, end) in ends.iter_mut().enumerate() {
            if end.tcb.deadline() <= now {
                end.tcb.timer(now, &mut Side(&mut wire, side));
                assert!(end.tcb.deadline() > now, "a timer stands still: {:?}", end.tcb.info(now));
            }
        }
        if next_life <= now {
            for (side, end) in ends.iter_mut().enumerate() {
                end.live(side, &mut wire);
            }
            next_life = now + MILLISECOND + wire.random.below(3) * MILLISECOND;
        }
    }
    for (side, end) in ends.iter_mut().enumerate() {
        end.live(side, &mut wire);
        while end.tcb.readable() > 0 {
            end.live(side, &mut wire);
        }
    }
    assert_eq!(ends[0].received, amount / 3, "seed {seed} {weather:?}");
    assert_eq!(ends[1].received, amount, "seed {seed} {weather:?}");
    let errors = ends.each_mut().map(|end| end.tcb.take_error());
    assert_eq!(
        errors,
        [None, None],
        "seed {seed} {weather:?} {:?}",
        ends.each_ref().map(|end| { (end.tcb.state, end.tcb.info(wire.now)) })
    );
    ((wire.now - start) / MILLISECOND, wire.sent)
}

const MODERN: Offer = Offer { scale: Some(7), sack: true, timestamp: Some(1), ecn: true, segment: 1460 };
const PLAIN: Offer = Offer { scale: None, sack: false, timestamp: None, ecn: false, segment: 1460 };
const CALM: Weather = Weather { loss: 0, doubling: 0, reordering: 0, delay: 5, jitter: 0 };

#[test]
fn a_calm_network_loses_no_time() {
    let (time, sent) = transfer(1, CALM, 3 << 20, MODERN, Settings::default());
    assert!(time < 3_000, "{time} ms");
    assert!(sent < 6_000, "{sent} segments");
}

#[test]
fn bytes_arrive_whatever_the_network_does() {
    let mut seed = 0;
    for loss in [1, 10, 50, 200] {
        for (doubling, reordering, jitter) in [(0, 0, 0), (50, 50, 2), (10, 300, 20)] {
            for offer in [MODERN, PLAIN, Offer { timestamp: None, ..MODERN }] {
                seed += 1;
                let weather = Weather { loss, doubling, reordering, delay: 10, jitter };
                let algorithm = if seed % 2 == 0 { Algorithm::Cubic } else { Algorithm::Reno };
                let settings = Settings { algorithm, ..Settings::default() };
                let (time, sent) = transfer(seed, weather, 300_000, offer, settings);
                std::println!("{weather:?} {}: {time} ms, {sent} segments", offer.sack);
            }
        }
    }
}

#[test]
fn small_buffers_and_keep_alive_change_nothing() {
    for seed in 100..110 {
        let settings = Settings {
            send_buffer: Some(5000),
            receive_buffer: Some(4000),
            keep_alive: true,
            keep_idle: 1,
            no_delay: seed % 2 == 0,
            ..Settings::default()
        };
        let weather = Weather { loss: 30, doubling: 10, reordering: 30, delay: 2, jitter: 3 };
        transfer(seed, weather, 60_000, MODERN, settings);
    }
}

#[test]
fn one_percent_loss_costs_little_with_sack() {
    let weather = Weather { loss: 10, ..CALM };
    let (time, _) = transfer(7, weather, 2 << 20, MODERN, Settings::default());
    assert!(time < 20_000, "{time} ms");
}
