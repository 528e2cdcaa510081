//! ICMP for both versions: echo, errors in both directions, with a limit on how many are sent.

pub mod v4;
pub mod v6;

use rumpuser::{rumpuser_clock_monotonic, sync::SpinLock};

use crate::{
    ip::{Incoming, counters},
    packet::{Chain, Packet},
    service::SECOND,
};

/// Bytes of an ICMP header.
pub(crate) const HEADER: usize = 8;

/// Errors per second, and how many at once (Linux's `icmp_msgs_per_sec` and `icmp_msgs_burst`).
const RATE: u64 = 1000;
const BURST: u64 = 50;

struct Bucket {
    /// In nanoseconds of sending time.
    credit: u64,
    updated: u64,
}

static BUCKET: SpinLock<Bucket> = SpinLock::new(Bucket { credit: BURST * SECOND / RATE, updated: 0 });

/// Whether one more error may be sent now.
fn may_send() -> bool {
    let now = rumpuser_clock_monotonic();
    let allowed = {
        let mut bucket = BUCKET.lock();
        let passed = now.saturating_sub(bucket.updated);
        bucket.updated = now;
        bucket.credit = bucket.credit.saturating_add(passed).min(BURST * SECOND / RATE);
        let allowed = bucket.credit >= SECOND / RATE;
        if allowed {
            bucket.credit -= SECOND / RATE;
        }
        allowed
    };
    if !allowed {
        counters::icmp::OUT_RATE_LIMITED.increment();
    }
    allowed
}

/// An ICMP message that quotes a packet, `room` bytes of it at most. `None` without memory.
fn quoting(incoming: &Incoming<'_>, data: &Chain, header: [u8; HEADER], room: usize) -> Option<Packet> {
    let mut quoted = Chain::copy_of(&incoming.header[..incoming.header.len().min(room)]).ok()?;
    quoted.append(data.slice(0..data.len().min(room - quoted.len())));
    let mut packet = Packet { payload: quoted, ..Packet::default() };
    packet.header.prepend(HEADER).copy_from_slice(&header);
    Some(packet)
}
