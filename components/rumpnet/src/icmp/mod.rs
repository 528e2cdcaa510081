//! ICMP for both versions: echo, errors in both directions, with a limit on how many are sent.

pub mod v4;
pub mod v6;

use rumpuser::{rumpuser_clock_monotonic, sync::SpinLock};

use crate::{
    ip::{self, Incoming, counters},
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

impl Bucket {
    /// Whether one more may be sent at `now`.
    fn take(&mut self, now: u64) -> bool {
        let passed = now.saturating_sub(self.updated);
        self.updated = now.max(self.updated);
        self.credit = self.credit.saturating_add(passed).min(BURST * SECOND / RATE);
        let allowed = self.credit >= SECOND / RATE;
        if allowed {
            self.credit -= SECOND / RATE;
        }
        allowed
    }
}

/// Whether one more error may be sent now.
fn may_send() -> bool {
    let now = rumpuser_clock_monotonic();
    let allowed = BUCKET.lock().take(now);
    if !allowed {
        counters::icmp::OUT_RATE_LIMITED.increment();
    }
    allowed
}

/// Lets a burst of errors go again: tests run side by side, and others may have used it up.
#[cfg(test)]
pub(crate) fn refill() {
    BUCKET.lock().credit = BURST * SECOND / RATE;
}

/// Reads arbitrary bytes as headers of both versions: for fuzzing.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let _ = (ip::v4::parse(bytes), ip::v6::parse(bytes));
}

/// An ICMP message that quotes a packet, `room` bytes of it at most. `None` without memory.
fn quoting(incoming: &Incoming<'_>, data: &Chain, header: [u8; HEADER], room: usize) -> Option<Packet> {
    let mut quoted = Chain::copy_of(&incoming.header[..incoming.header.len().min(room)]).ok()?;
    quoted.append(data.slice(0..data.len().min(room - quoted.len())));
    let mut packet = Packet { payload: quoted, ..Packet::default() };
    packet.header.prepend(HEADER).copy_from_slice(&header);
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_limited_to_a_burst_and_a_rate() {
        let mut bucket = Bucket { credit: BURST * SECOND / RATE, updated: 0 };
        let mut sent = |now: u64| (0..1000).filter(|_| bucket.take(now)).count() as u64;
        assert_eq!(sent(SECOND), BURST);
        assert_eq!(sent(SECOND + 10 * SECOND / RATE), 10);
        assert_eq!(sent(SECOND), 0);
        assert_eq!(sent(100 * SECOND), BURST);
    }
}
