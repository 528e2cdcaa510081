//! From IP to connections and listeners, and resets for segments that are for nobody (RFC 9293, section 3.10.7.1).

use rumpuser::rumpuser_clock_monotonic;

use super::{
    counters,
    listener::{self, Arrival},
    path,
    segment::{self, Flags, HEADER_LENGTH, Segment},
    sequence::Sequence,
    table::{self, Found, Key},
    time_wait::Reaction,
};
use crate::{
    ip::{FlowError, Incoming},
    packet::Chain,
};

/// Takes a packet whose data begins with the TCP header.
pub fn input(incoming: &Incoming<'_>, mut data: Chain) {
    counters::tcp::IN_SEGMENTS.increment();
    if incoming.multicast_or_broadcast {
        return;
    }
    if data.first().len() < HEADER_LENGTH {
        data.pull_up(HEADER_LENGTH);
    }
    let Some(length) = segment::header_length(data.first()) else {
        counters::tcp::IN_ERRORS.increment();
        return;
    };
    if data.first().len() < length && !data.pull_up(length) {
        counters::tcp::IN_ERRORS.increment();
        return;
    }
    if !incoming.verify(&data) {
        counters::tcp::IN_CHECKSUM_ERRORS.increment();
        return;
    }
    let bytes = data.first();
    let (remote_port, local_port) = segment::ports(bytes);
    let Some(mut segment) = Segment::parse(bytes) else {
        counters::tcp::IN_ERRORS.increment();
        return;
    };
    segment.congestion = incoming.traffic_class & 3 == 3;
    data.advance(length);
    let key = Key::of(incoming.destination, local_port, incoming.source, remote_port);
    let hash = key.hash();
    let now = rumpuser_clock_monotonic();
    let length = data.len();
    let mut after = None;
    match table::find(&key, hash, now, &segment, length) {
        Found::Connection(connection) => {
            if !connection.input(now, &segment, data) {
                reset(incoming, (local_port, remote_port), &segment, length);
            }
            return;
        }
        Found::TimeWait(Reaction::Answer(answer)) => {
            path::answer(incoming, (local_port, remote_port), &answer);
            return;
        }
        Found::TimeWait(Reaction::Reopen(sequence)) => after = Some(sequence),
        Found::TimeWait(_) => return,
        Found::Nothing => {}
    }
    let index = incoming.interface.index();
    let arrival = Arrival { incoming, key, hash, now, segment: &segment, after };
    let taken = match listener::find(incoming.destination, local_port, index, hash) {
        Some(listener) => listener.input(&arrival, data),
        None => false,
    };
    if !taken {
        reset(incoming, (local_port, remote_port), &segment, length);
    }
}

/// Answers a segment that makes no sense here.
#[cold]
fn reset(incoming: &Incoming<'_>, ports: (u16, u16), segment: &Segment, length: usize) {
    if let Some(answer) = reset_for(segment, length) {
        counters::tcp::OUT_RESETS.increment();
        path::answer(incoming, ports, &answer);
    }
}

/// The reset that answers a segment with `length` bytes of payload.
pub(super) fn reset_for(segment: &Segment, length: usize) -> Option<Segment> {
    if segment.flags.contains(Flags::RST) {
        return None;
    }
    if segment.flags.contains(Flags::ACK) {
        return Some(Segment { sequence: segment.acknowledgement, flags: Flags::RST, ..Segment::default() });
    }
    let length = length as u32
        + u32::from(segment.flags.contains(Flags::SYN))
        + u32::from(segment.flags.contains(Flags::FIN));
    Some(Segment {
        acknowledgement: segment.sequence + length,
        flags: Flags::RST | Flags::ACK,
        ..Segment::default()
    })
}

/// An ICMP message quotes a segment of ours. Returns whether it can be one: then what it says is believed.
pub fn error(error: &FlowError<'_>) -> bool {
    let Some(&[a, b, c, d]) = error.quoted.get(4..8) else { return false };
    let sequence = Sequence(u32::from_be_bytes([a, b, c, d]));
    match table::connection(&Key::new(error.local, error.remote)) {
        Some(connection) => connection.path_error(sequence, error.kind, error.errno, error.hard),
        None => false,
    }
}
