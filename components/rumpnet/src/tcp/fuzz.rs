//! Runs a connection through whatever bytes say: segments near what it expects, the user's calls, and time. Nothing may
//! panic, and what must always hold does. For fuzzing, and for a bounded test with random bytes.

use alloc::{vec, vec::Vec};

use super::{
    control::{Agreement, Changes, Network, Offer, Settings, State, Tcb},
    segment::{Flags, Options, Segment, Timestamps},
    sequence::Sequence,
    time_wait::TimeWait,
};
use crate::packet::{Chain, Header};

const START: u64 = 5_000_000_000_000;
const MILLISECOND: u64 = 1_000_000;

/// What the connection last sent, from which good guesses are made.
struct Wire {
    last: Segment,
    sent: u64,
}

impl Network for Wire {
    fn send(&mut self, segment: &Segment, payload: Chain, segment_size: u16) {
        self.last = *segment;
        self.last.sequence += payload.len() as u32;
        self.sent += 1;
        assert!(payload.len() <= 65_535, "longer than a packet");
        assert!(payload.is_empty() || segment_size > 0);
        let mut header = Header::default();
        segment.write(1, 2, &mut header);
        assert!(header.bytes().len() <= 60);
        assert!(Segment::parse(header.bytes()).is_some());
    }
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&byte, rest)) => {
                self.0 = rest;
                byte
            }
            None => 0,
        }
    }

    fn half(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// Mostly 0, sometimes near it, seldom far.
    fn near(&mut self) -> i32 {
        match self.byte() {
            0..=159 => 0,
            160..=220 => i32::from(self.byte() as i8),
            221..=250 => i32::from(self.half() as i16),
            _ => i32::from(self.half()) << 16,
        }
    }
}

fn segment(bytes: &mut Bytes<'_>, wire: &Wire) -> (Segment, usize) {
    let shift = |base: Sequence, by: i32| Sequence(base.0.wrapping_add_signed(by));
    let flags = match bytes.byte() {
        0..=200 => Flags::ACK,
        201..=220 => Flags::ACK | Flags::FIN,
        _ => Flags::from_bits_retain(bytes.byte()),
    };
    let mut segment = Segment {
        sequence: shift(wire.last.acknowledgement, bytes.near()),
        acknowledgement: shift(wire.last.sequence, bytes.near()),
        flags,
        window: bytes.half(),
        urgent: bytes.half() % 2000,
        congestion: bytes.byte() > 240,
        options: Options::default(),
    };
    let options = bytes.byte();
    if options & 1 != 0 {
        let value = shift(Sequence(100), bytes.near() / 2).0;
        segment.options.timestamps = Some(Timestamps { value, echo: wire.last.acknowledgement.0 });
    }
    for _ in 0..options >> 6 {
        let start = shift(segment.acknowledgement, bytes.near().saturating_abs() / 4);
        segment.options.sack.push((start, start + u32::from(bytes.half() % 4000)));
    }
    if options & 2 != 0 {
        segment.options.maximum_segment = Some(bytes.half());
        segment.options.window_scale = Some(bytes.byte() % 15);
        segment.options.sack_permitted = true;
    }
    let length = match bytes.byte() {
        0..=100 => 0,
        101..=200 => usize::from(bytes.byte()),
        _ => usize::from(bytes.half() % 3000),
    };
    (segment, length)
}

fn begin(bytes: &mut Bytes<'_>, wire: &mut Wire) -> Tcb {
    let choice = bytes.byte();
    let settings = Settings {
        no_delay: choice & 1 != 0,
        keep_alive: choice & 2 != 0,
        keep_idle: 1,
        ecn: true,
        urgent_inline: choice & 4 != 0,
        receive_buffer: (choice & 8 != 0).then_some(3000),
        send_buffer: (choice & 16 != 0).then_some(3000),
        user_timeout: if choice & 32 != 0 { 5000 } else { 0 },
        ..Settings::default()
    };
    let initial = Sequence(u32::MAX - 3000);
    if choice & 64 != 0 {
        return Tcb::connect(settings, initial, 0, 1460, START, wire);
    }
    let offers = bytes.byte();
    let agreement = Agreement {
        initial,
        peer_initial: Sequence(u32::MAX - 500),
        offer: Offer {
            scale: (offers & 1 != 0).then_some(offers >> 4),
            sack: offers & 2 != 0,
            timestamp: (offers & 4 != 0).then_some(100),
            ecn: offers & 8 != 0,
            segment: 88 + bytes.half() % 2000,
        },
        timestamp_offset: 0,
        round_trip: (offers & 128 != 0).then_some(1000),
        window: 65_535,
    };
    wire.last.acknowledgement = agreement.peer_initial + 1;
    wire.last.sequence = initial + 1;
    Tcb::accept(settings, &agreement, 1460, START)
}

/// See the module.
pub fn run(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let mut wire = Wire { last: Segment::default(), sent: 0 };
    let mut now = START;
    let mut tcb = begin(&mut bytes, &mut wire);
    let mut rest = None::<TimeWait>;
    while !bytes.0.is_empty() {
        let changes = match bytes.byte() {
            0..=120 => {
                let (segment, length) = segment(&mut bytes, &wire);
                let payload = Chain::copy_of(&vec![7; length]).unwrap_or_default();
                if let Some(rest) = &mut rest {
                    rest.input(now, &segment, length);
                }
                tcb.input(now, &segment, payload, &mut wire)
            }
            121..=160 => {
                let length = usize::from(bytes.half() % 9000);
                if let Ok(room) = tcb.room() {
                    let data: Vec<u8> = vec![1; length.min(room)];
                    let kind = bytes.byte();
                    let chain = Chain::copy_of(&data).unwrap_or_default();
                    tcb.push(now, chain, kind & 1 != 0, kind > 250, &mut wire);
                }
                Changes::empty()
            }
            161..=190 => {
                let chain = tcb.take(now, usize::from(bytes.half()), &mut wire);
                if bytes.byte() > 250 {
                    tcb.put_back(chain);
                }
                tcb.peek(usize::from(bytes.byte()), 100);
                Changes::empty()
            }
            191..=230 => {
                now += u64::from(bytes.half()) * MILLISECOND / 16;
                Changes::empty()
            }
            231..=240 => {
                now = now.max(tcb.deadline().min(now + 200_000 * MILLISECOND));
                Changes::empty()
            }
            241 => tcb.shut_write(now, &mut wire),
            242 => tcb.close(now, bytes.byte() > 128, &mut wire),
            243 => {
                tcb.set_path_segment(now, bytes.half().clamp(88, 9000), &mut wire);
                Changes::empty()
            }
            244 => {
                let settings = Settings {
                    cork: bytes.byte() & 1 != 0,
                    keep_alive: bytes.byte() & 1 != 0,
                    ..tcb.settings
                };
                tcb.set(now, settings, &mut wire);
                Changes::empty()
            }
            245 => {
                let _ = tcb.take_urgent(bytes.byte() & 1 != 0);
                Changes::empty()
            }
            _ => Changes::empty(),
        };
        if changes.contains(Changes::CLOSED) && tcb.state == State::TimeWait {
            rest = Some(TimeWait::new(&tcb, now));
        }
        if tcb.deadline() <= now {
            tcb.timer(now, &mut wire);
            assert!(tcb.deadline() > now, "a timer stands still");
        }
        tcb.check();
    }
    assert!(wire.sent < 1_000_000);
}
