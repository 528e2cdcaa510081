//! Routing messages (rtnetlink(7)): interfaces, addresses, routes, neighbours.

pub mod address;
pub mod link;
pub mod neighbour;
pub mod routes;

use rumpkern::{Errno, Result};

use super::{Answer, message::Message};

/// Types of messages (linux/rtnetlink.h).
pub mod kind {
    #![allow(missing_docs, reason = "the names are Linux's, without RTM_")]
    pub const NEWLINK: u16 = 16;
    pub const DELLINK: u16 = 17;
    pub const GETLINK: u16 = 18;
    pub const SETLINK: u16 = 19;
    pub const NEWADDR: u16 = 20;
    pub const DELADDR: u16 = 21;
    pub const GETADDR: u16 = 22;
    pub const NEWROUTE: u16 = 24;
    pub const DELROUTE: u16 = 25;
    pub const GETROUTE: u16 = 26;
    pub const NEWNEIGH: u16 = 28;
    pub const DELNEIGH: u16 = 29;
    pub const GETNEIGH: u16 = 30;
    pub const NEWRULE: u16 = 32;
    pub const GETRULE: u16 = 34;
    pub const GETQDISC: u16 = 38;
    pub const GETMULTICAST: u16 = 58;
    pub const GETANYCAST: u16 = 62;
    pub const GETADDRLABEL: u16 = 74;
    pub const GETNETCONF: u16 = 82;
    pub const GETNSID: u16 = 90;
}

/// `AF_INET` and its kin, as they stand in headers.
pub(super) mod family {
    pub const UNSPEC: u8 = 0;
    pub const INET: u8 = 2;
    pub const INET6: u8 = 10;
}

/// Carries a request out; true if it was a dump, whose end is to be marked.
pub fn handle(message: &Message<'_>, privileged: bool, answer: &mut Answer<'_>) -> Result<bool> {
    let dumps = message.flags & super::flag::DUMP == super::flag::DUMP;
    // Every third type asks; the others change something.
    if message.kind % 4 != 2 && !privileged {
        return Err(Errno::EPERM);
    }
    if message.kind % 4 != 2 && crate::socket::outside().is_some() {
        return Err(Errno::EOPNOTSUPP);
    }
    match message.kind {
        kind::GETLINK => link::get(message, dumps, answer),
        kind::NEWLINK | kind::SETLINK => link::set(message),
        kind::GETADDR => address::get(message, dumps, answer),
        kind::NEWADDR => address::add(message),
        kind::DELADDR => address::remove(message),
        kind::GETROUTE => routes::get(message, dumps, answer),
        kind::NEWROUTE => routes::add(message),
        kind::DELROUTE => routes::remove(message),
        kind::GETNEIGH => neighbour::get(message, dumps, answer),
        kind::NEWNEIGH => neighbour::add(message),
        kind::DELNEIGH => neighbour::remove(message),
        kind::GETRULE if dumps => {
            routes::rules(message, answer);
            Ok(true)
        }
        // Known, and there are none.
        kind::GETQDISC
        | kind::GETMULTICAST
        | kind::GETANYCAST
        | kind::GETADDRLABEL
        | kind::GETNETCONF
        | kind::GETNSID
            if dumps =>
        {
            Ok(true)
        }
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// The family's header of a request, which may be cut to its first byte (`struct rtgenmsg`).
fn header<const N: usize>(message: &Message<'_>) -> ([u8; N], usize) {
    let mut header = [0; N];
    let length = message.payload.len().min(N);
    header[..length].copy_from_slice(&message.payload[..length]);
    (header, length.next_multiple_of(4).min(message.payload.len()))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// Seconds until a monotonic time, as lifetimes are told: all bits for ever.
fn seconds_until(deadline: u64) -> u32 {
    if deadline == rumpuser::NEVER {
        return u32::MAX;
    }
    let left = deadline.saturating_sub(rumpuser::rumpuser_clock_monotonic()) / 1_000_000_000;
    u32::try_from(left).unwrap_or(u32::MAX - 1)
}

/// The monotonic time in so many seconds.
fn deadline_in(seconds: u32) -> u64 {
    match seconds {
        u32::MAX => rumpuser::NEVER,
        seconds => rumpuser::rumpuser_clock_monotonic()
            .saturating_add(u64::from(seconds).saturating_mul(1_000_000_000)),
    }
}
