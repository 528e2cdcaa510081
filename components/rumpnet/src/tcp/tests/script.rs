//! Runs scripts that say, segment by segment and to the millisecond, what a connection must do.
//!
//! A line is `+SECONDS ACTION`; the time counts from the line before. Sequence numbers count from each side's initial
//! one, so the first byte of data is 1.
//!
//! | action | meaning |
//! |---|---|
//! | `established OPTION...` | a passive connection: `mss=N` `sack` `ts` `scale=N` `ecn` `window=N` |
//! | `connect` | an active connection |
//! | `< FLAGS SEQ:END [ack N] [win N] [urg N] [ts=VAL/ECR] [sack=A-B,...] [mss=N] [ce]` | a segment arrives |
//! | `> FLAGS SEQ:END [ack N] ...` | it sends this now, and nothing before it; what isn't given isn't checked |
//! | `write N [more] [urgent]`, `read N`, `urgent`, `shutdown`, `close`, `reset`, `abort` | the user acts |
//! | `set NAME[=VALUE]` | a setting |
//! | `returned` | the path is there again, after nothing got through |
//! | `state NAME`, `error NAME`, `gone` | what must hold |
//!
//! `FLAGS` are letters: S F R P . (ACK) U E (ECE) W (CWR).

use std::{
    collections::VecDeque,
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};

use super::super::{
    control::{Agreement, Changes, Network, Offer, Settings, Tcb},
    segment::{Flags, Segment, Timestamps},
    sequence::Sequence,
};
use crate::packet::Chain;

/// Our initial sequence number, which wraps soon.
const INITIAL: Sequence = Sequence(u32::MAX - 999);
const PEER_INITIAL: Sequence = Sequence(5000);
const START: u64 = 1_000_000_000_000;
const TOLERANCE: u64 = 1_500_000;

#[derive(Default)]
struct Wire {
    now: u64,
    sent: VecDeque<(u64, Segment, usize)>,
}

impl Network for Wire {
    fn send(&mut self, segment: &Segment, payload: Chain, segment_size: u16) {
        let mut segment = *segment;
        let mut rest = payload.len();
        let flags = segment.flags;
        loop {
            let length = if segment_size > 0 { rest.min(usize::from(segment_size)) } else { rest };
            rest -= length;
            segment.flags = if rest > 0 { flags - Flags::FIN - Flags::PSH } else { flags };
            self.sent.push_back((self.now, segment, length));
            segment.sequence += length as u32;
            if rest == 0 {
                break;
            }
        }
    }
}

struct Runner {
    tcb: Option<Tcb>,
    wire: Wire,
    settings: Settings,
    changes: Changes,
    written: usize,
    read: usize,
}

fn pattern(offset: usize, length: usize) -> Vec<u8> {
    (offset..offset + length).map(|index| (index * 7 % 251) as u8).collect()
}

fn flags(text: &str) -> Flags {
    text.chars().fold(Flags::empty(), |flags, letter| {
        flags
            | match letter {
                'S' => Flags::SYN,
                'F' => Flags::FIN,
                'R' => Flags::RST,
                'P' => Flags::PSH,
                '.' => Flags::ACK,
                'U' => Flags::URG,
                'E' => Flags::ECE,
                'W' => Flags::CWR,
                other => panic!("no flag {other}"),
            }
    })
}

fn number(text: &str) -> u32 {
    text.parse().unwrap_or_else(|_| panic!("no number: {text}"))
}

struct Described {
    segment: Segment,
    length: u32,
    with_ack: bool,
    with_window: bool,
    with_timestamps: bool,
    with_sack: bool,
}

/// `from` is the side that sends, `to` the other.
fn described(words: &[&str], from: Sequence, to: Sequence) -> Described {
    let (start, end) = words[1].split_once(':').expect("SEQ:END");
    let mut segment = Segment {
        flags: flags(words[0]),
        sequence: from + number(start),
        window: 65_535,
        ..Segment::default()
    };
    let length = number(end) - number(start);
    let (mut with_ack, mut with_window, mut with_timestamps, mut with_sack) = (false, false, false, false);
    let mut rest = words[2..].iter();
    while let Some(&word) = rest.next() {
        match word.split_once('=') {
            None => match word {
                "ack" => {
                    segment.acknowledgement = to + number(rest.next().unwrap());
                    with_ack = true;
                }
                "win" => {
                    segment.window = number(rest.next().unwrap()) as u16;
                    with_window = true;
                }
                "urg" => segment.urgent = number(rest.next().unwrap()) as u16,
                "sack" => segment.options.sack_permitted = true,
                "ce" | "ect" => segment.congestion = true,
                other => panic!("what is {other}?"),
            },
            Some(("ts", values)) => {
                let (value, echo) = values.split_once('/').expect("VALUE/ECHO");
                segment.options.timestamps = Some(Timestamps { value: number(value), echo: number(echo) });
                with_timestamps = true;
            }
            Some(("mss", size)) => segment.options.maximum_segment = Some(number(size) as u16),
            Some(("scale", shift)) => segment.options.window_scale = Some(number(shift) as u8),
            Some(("sack", ranges)) => {
                with_sack = true;
                for range in ranges.split(',').filter(|range| !range.is_empty()) {
                    let (start, end) = range.split_once('-').expect("A-B");
                    segment.options.sack.push((to + number(start), to + number(end)));
                }
            }
            other => panic!("what is {other:?}?"),
        }
    }
    Described { segment, length, with_ack, with_window, with_timestamps, with_sack }
}

fn show(segment: &Segment, length: usize) -> String {
    let start = segment.sequence.0.wrapping_sub(INITIAL.0);
    let sack: Vec<String> = segment
        .options
        .sack
        .as_slice()
        .iter()
        .map(|(a, b)| format!("{}-{}", a.0.wrapping_sub(PEER_INITIAL.0), b.0.wrapping_sub(PEER_INITIAL.0)))
        .collect();
    format!(
        "{:?} {}:{} ack {} win {} sack={} {:?}",
        segment.flags,
        start,
        start.wrapping_add(length as u32),
        segment.acknowledgement.0.wrapping_sub(PEER_INITIAL.0),
        segment.window,
        sack.join(","),
        segment.options
    )
}

impl Runner {
    fn tcb(&mut self) -> &mut Tcb {
        self.tcb.as_mut().expect("a connection")
    }

    /// Lets time pass until `until`, or until something was sent.
    fn pass(&mut self, until: u64, stop: bool) {
        while let Some(tcb) = &mut self.tcb {
            let deadline = tcb.deadline();
            if deadline > until || (stop && !self.wire.sent.is_empty()) {
                break;
            }
            self.wire.now = self.wire.now.max(deadline);
            let now = self.wire.now;
            self.changes |= tcb.timer(now, &mut self.wire);
            assert!(tcb.deadline() > now, "a timer stands still at {}", now - START);
        }
        if !stop {
            self.wire.now = self.wire.now.max(until);
        }
    }

    fn expect(&mut self, at: u64, words: &[&str]) {
        self.pass(at + TOLERANCE, true);
        let Some((time, segment, length)) = self.wire.sent.pop_front() else { panic!("nothing was sent") };
        let expected = described(words, INITIAL, PEER_INITIAL);
        let same = expected.segment.flags == segment.flags
            && expected.segment.sequence == segment.sequence
            && expected.length as usize == length
            && (!expected.with_ack || expected.segment.acknowledgement == segment.acknowledgement)
            && (!expected.with_window || expected.segment.window == segment.window)
            && (!expected.with_sack || expected.segment.options.sack == segment.options.sack)
            && (!expected.with_timestamps
                || expected.segment.options.timestamps == segment.options.timestamps)
            && expected.segment.congestion == segment.congestion
            && expected.segment.urgent == segment.urgent;
        assert!(same, "sent {}", show(&segment, length));
        let off = time.abs_diff(at);
        assert!(
            off <= TOLERANCE,
            "sent at {} ms, not {} ms",
            (time - START) / 1_000_000,
            (at - START) / 1_000_000
        );
        self.wire.now = self.wire.now.max(at);
    }

    fn established(&mut self, words: &[&str]) {
        let mut offer = Offer { scale: None, sack: false, timestamp: None, ecn: false, segment: 1000 };
        let mut window = 65_535;
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("mss", size) => offer.segment = number(size) as u16,
                ("scale", shift) => offer.scale = Some(number(shift) as u8),
                ("window", size) => window = number(size) as u16,
                ("sack", _) => offer.sack = true,
                ("ts", _) => offer.timestamp = Some(100),
                ("ecn", _) => offer.ecn = true,
                other => panic!("what is {other:?}?"),
            }
        }
        let agreement = Agreement {
            initial: INITIAL,
            peer_initial: PEER_INITIAL,
            offer,
            timestamp_offset: 0,
            round_trip: Some(100_000),
            window: 65_535,
        };
        let now = self.wire.now;
        let mut tcb = Tcb::accept(self.settings, &agreement, 1460, now);
        let segment = Segment {
            sequence: PEER_INITIAL + 1,
            acknowledgement: INITIAL + 1,
            flags: Flags::ACK,
            window,
            ..Segment::default()
        };
        tcb.input(now, &segment, Chain::new(), &mut self.wire);
        self.tcb = Some(tcb);
    }

    fn set(&mut self, word: &str) {
        let (name, value) = word.split_once('=').unwrap_or((word, "1"));
        let value = number(value);
        let settings = &mut self.settings;
        match name {
            "nodelay" => settings.no_delay = value > 0,
            "cork" => settings.cork = value > 0,
            "keepalive" => settings.keep_alive = value > 0,
            "inline" => settings.urgent_inline = value > 0,
            "idle" => settings.keep_idle = value,
            "interval" => settings.keep_interval = value,
            "count" => settings.keep_count = value as u8,
            "timeout" => settings.user_timeout = value,
            "receive" => settings.receive_buffer = Some(value),
            "retries" => settings.syn_retries = value as u8,
            "reno" => settings.algorithm = super::super::congestion::Algorithm::Reno,
            "ecn" => settings.ecn = value > 0,
            other => panic!("no setting {other}"),
        }
        let (settings, now) = (self.settings, self.wire.now);
        if let Some(tcb) = &mut self.tcb {
            tcb.set(now, settings, &mut self.wire);
        }
    }

    fn act(&mut self, words: &[&str]) {
        let now = self.wire.now;
        match words[0] {
            "established" => self.established(&words[1..]),
            "connect" => {
                self.tcb = Some(Tcb::connect(self.settings, INITIAL, 0, 1460, now, &mut self.wire));
            }
            "<" => {
                let arriving = described(&words[1..], PEER_INITIAL, INITIAL);
                let offset = arriving.segment.sequence.0.wrapping_sub(PEER_INITIAL.0 + 1) as usize;
                let data = Chain::copy_of(&pattern(offset, arriving.length as usize)).unwrap();
                let tcb = self.tcb.as_mut().expect("a connection");
                self.changes |= tcb.input(now, &arriving.segment, data, &mut self.wire);
            }
            "write" => {
                let length = number(words[1]) as usize;
                let data = Chain::copy_of(&pattern(self.written, length)).unwrap();
                self.written += length;
                let (more, urgent) = (words.contains(&"more"), words.contains(&"urgent"));
                let tcb = self.tcb.as_mut().expect("a connection");
                assert!(tcb.room().unwrap() >= length, "no room");
                tcb.push(now, data, more, urgent, &mut self.wire);
            }
            "read" => {
                let length = number(words[1]) as usize;
                let tcb = self.tcb.as_mut().expect("a connection");
                let chain = tcb.take(now, length, &mut self.wire);
                let mut bytes = vec![0; chain.len()];
                chain.copy_to(0, &mut bytes);
                assert_eq!(bytes.len(), length);
                assert_eq!(bytes, pattern(self.read, length));
                self.read += length;
            }
            "skip" => self.read += number(words[1]) as usize,
            "urgent" => {
                let byte = self.tcb().take_urgent(false).map_err(|error| format!("{error:?}"));
                let expected = match words.get(1) {
                    Some(&error) => Err(error.to_string()),
                    None => Ok(pattern(self.read, 1)[0]),
                };
                assert_eq!(byte, expected);
            }
            "shutdown" => {
                let tcb = self.tcb.as_mut().expect("a connection");
                self.changes |= tcb.shut_write(now, &mut self.wire);
            }
            "close" | "reset" => {
                let tcb = self.tcb.as_mut().expect("a connection");
                self.changes |= tcb.close(now, words[0] == "reset", &mut self.wire);
            }
            "abort" => {
                let tcb = self.tcb.as_mut().expect("a connection");
                self.changes |= tcb.abort(None, &mut self.wire);
            }
            "returned" => {
                let tcb = self.tcb.as_mut().expect("a connection");
                assert!(tcb.is_backed_off());
                tcb.path_returned(now, &mut self.wire);
            }
            "mtu" => {
                let tcb = self.tcb.as_mut().expect("a connection");
                tcb.set_path_segment(now, Tcb::path_segment(number(words[1]) as usize, 20), &mut self.wire);
            }
            "set" => self.set(words[1]),
            "state" => assert_eq!(format!("{:?}", self.tcb().state), words[1]),
            "error" => {
                let error = self.tcb().take_error();
                assert_eq!(error.map(|error| format!("{error:?}")), Some(words[1].to_string()));
            }
            "changed" => {
                let changes = core::mem::take(&mut self.changes);
                words[1..]
                    .iter()
                    .for_each(|name| assert!(format!("{changes:?}").contains(name), "{changes:?}"));
            }
            other => panic!("no action {other}"),
        }
    }
}

/// Runs a script; panics with its line if it is not followed.
pub fn run(script: &str) {
    let mut runner = Runner {
        tcb: None,
        wire: Wire { now: START, sent: VecDeque::new() },
        settings: Settings::default(),
        changes: Changes::empty(),
        written: 0,
        read: 0,
    };
    let mut at = START;
    for line in script.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some((time, action)) = words.split_first() else { continue };
        std::println!("{line}");
        at += (time.parse::<f64>().expect("+SECONDS") * 1e9).round() as u64;
        if action[0] == ">" {
            runner.expect(at, &action[1..]);
            continue;
        }
        runner.pass(at, false);
        if let Some((time, segment, length)) = runner.wire.sent.front() {
            panic!("at {} ms unexpected: {}", (time - START) / 1_000_000, show(segment, *length));
        }
        runner.act(action);
    }
    runner.pass(at + TOLERANCE, false);
    if let Some((_, segment, length)) = runner.wire.sent.front() {
        panic!("unexpected at the end: {}", show(segment, *length));
    }
}
