//! Putting fragments together (RFC 815's result, RFC 5722 and RFC 8200 4.5 for what must not overlap).
//!
//! Fragments that overlap end their packet, in both versions: no sender makes them, attackers do. An exact
//! repetition is ignored. The memory for packets in the making is bounded, and their time.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use core::net::IpAddr;

use rumpuser::{NEVER, memory::PAGE_SIZE, rumpuser_clock_monotonic, sync::SpinLock};

use super::{Incoming, counters};
use crate::{
    icmp,
    interface::{self, Interface},
    packet::Chain,
    service::{self, SECOND, Task},
};

/// For how long the first fragment waits for the others (Linux's `ipfrag_time`, RFC 8200: 60 s at most).
const TIMEOUT: u64 = 30 * SECOND;
/// The most packets in the making.
const PACKETS: usize = 256;
/// The most pieces of one packet.
const PIECES: usize = 256;
/// The most bytes of all packets, counted as the pages that they may hold.
const BYTES: usize = 4 << 20;
/// The largest packet, without IP header.
const LARGEST: usize = 65535;

/// A fragment's place.
pub(crate) struct Piece {
    pub identification: u32,
    /// In bytes.
    pub offset: usize,
    pub more: bool,
    /// The protocol that the fragment names.
    pub next: u8,
}

/// A packet put together.
pub(crate) struct Whole {
    pub data: Chain,
    pub traffic_class: u8,
    /// The protocol that the first fragment names.
    pub next: u8,
}

/// What fragments of one packet have in common.
#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    /// IPv4 only (RFC 791); IPv6's may differ.
    protocol: u8,
    interface: u32,
}

struct Partial {
    /// By their offsets, none overlapping.
    pieces: BTreeMap<usize, Chain>,
    bytes: usize,
    /// The length, once the last fragment came.
    length: Option<usize>,
    ecn: Option<u8>,
    next: u8,
    deadline: u64,
    /// Fragments overlapped: what still comes is dropped.
    poisoned: bool,
    /// The IP header of the first fragment, for the message that time is over.
    header: Vec<u8>,
}

#[derive(Default)]
struct State {
    packets: BTreeMap<Key, Partial>,
    bytes: usize,
}

static STATE: SpinLock<State> = SpinLock::new(State { packets: BTreeMap::new(), bytes: 0 });

/// What a piece costs: small ones may hold pages as well.
fn cost(data: &Chain) -> usize {
    data.fragments().len() * PAGE_SIZE
}

impl State {
    fn remove(&mut self, key: &Key) -> Option<Partial> {
        let partial = self.packets.remove(key)?;
        self.bytes -= partial.bytes;
        Some(partial)
    }

    /// Drops the oldest packets until there is room.
    fn make_room(&mut self, wanted: usize, for_new: bool, dropped: &mut Vec<Partial>) {
        while self.bytes + wanted > BYTES || (for_new && self.packets.len() >= PACKETS) {
            let oldest = self.packets.iter().min_by_key(|(_, partial)| partial.deadline).map(|(key, _)| *key);
            let Some(partial) = oldest.and_then(|key| self.remove(&key)) else { return };
            dropped.push(partial);
        }
    }
}

/// Takes a fragment; returns the packet if it was the missing one.
pub(crate) fn input(incoming: &Incoming<'_>, piece: &Piece, data: Chain) -> Option<Whole> {
    counters::ip::REASSEMBLY_REQUIRED.increment();
    let version4 = incoming.source.is_ipv4();
    let length = data.len();
    // Of IPv6's the caller has said so already; IPv4's are dropped silently, and those without data.
    let header = if version4 { incoming.header.len() } else { 0 };
    if length == 0 || (piece.more && !length.is_multiple_of(8)) || piece.offset + length + header > LARGEST {
        counters::ip::REASSEMBLY_FAILED.increment();
        return None;
    }
    let key = Key {
        source: incoming.source,
        destination: incoming.destination,
        identification: piece.identification,
        protocol: if version4 { piece.next } else { 0 },
        interface: incoming.interface.index(),
    };
    let now = rumpuser_clock_monotonic();
    let mut dropped = Vec::new();
    let outcome = {
        let mut state = STATE.lock();
        let is_new = !state.packets.contains_key(&key);
        state.make_room(cost(&data), is_new, &mut dropped);
        if is_new {
            state.packets.insert(key, Partial::new(now + TIMEOUT));
        }
        let mut added = 0;
        let outcome = match state.packets.get_mut(&key) {
            Some(partial) => partial.add(incoming, piece, data, &mut added),
            // Room was made at its expense.
            None => Outcome::Wait,
        };
        state.bytes += added;
        match outcome {
            Outcome::Complete => Some(state.remove(&key)),
            Outcome::Wait => None,
            Outcome::Bad => {
                // The entry stays, empty, so that the rest of the packet starts no new one.
                if let Some(partial) = state.packets.get_mut(&key) {
                    let bytes = core::mem::take(&mut partial.bytes);
                    dropped.push(Partial { pieces: core::mem::take(&mut partial.pieces), ..Partial::new(0) });
                    partial.poisoned = true;
                    state.bytes -= bytes;
                }
                None
            }
        }
    };
    for _ in dropped {
        counters::ip::REASSEMBLY_FAILED.increment();
    }
    service::at(Task::Reassembly, now + TIMEOUT);
    let partial = outcome??;
    counters::ip::REASSEMBLY_DONE.increment();
    let mut whole = Chain::new();
    for (_, chain) in partial.pieces {
        whole.append(chain);
    }
    let ecn = partial.ecn.unwrap_or(0);
    Some(Whole { data: whole, traffic_class: incoming.traffic_class & !3 | ecn, next: partial.next })
}

enum Outcome {
    Wait,
    Complete,
    Bad,
}

impl Partial {
    fn new(deadline: u64) -> Self {
        Partial {
            pieces: BTreeMap::new(),
            bytes: 0,
            length: None,
            ecn: None,
            next: 0,
            deadline,
            poisoned: false,
            header: Vec::new(),
        }
    }

    fn add(&mut self, incoming: &Incoming<'_>, piece: &Piece, data: Chain, added: &mut usize) -> Outcome {
        if self.poisoned {
            return Outcome::Wait;
        }
        let (start, end) = (piece.offset, piece.offset + data.len());
        if let Some((&other, chain)) = self.pieces.range(..end).next_back() {
            if (other, other + chain.len()) == (start, end) {
                return Outcome::Wait;
            }
            if other + chain.len() > start {
                return Outcome::Bad;
            }
        }
        let last = self.pieces.iter().next_back().map_or(0, |(at, chain)| at + chain.len());
        match self.length {
            Some(length) if end > length || (!piece.more && end != length) => return Outcome::Bad,
            None if !piece.more && last > end => return Outcome::Bad,
            _ => {}
        }
        if self.pieces.len() >= PIECES {
            return Outcome::Bad;
        }
        // RFC 3168 5.3: congestion that one fragment met is the packet's; others must agree.
        let ecn = incoming.traffic_class & 3;
        self.ecn = Some(match self.ecn {
            None => ecn,
            Some(known) if known == ecn => ecn,
            Some(0) | Some(_) if ecn == 0 || self.ecn == Some(0) => return Outcome::Bad,
            Some(3) => 3,
            Some(_) if ecn == 3 => 3,
            Some(known) => known,
        });
        if !piece.more {
            self.length = Some(end);
        }
        if start == 0 {
            self.next = piece.next;
            self.header = incoming.header.to_vec();
        }
        *added = cost(&data);
        self.bytes += *added;
        self.pieces.insert(start, data);
        let mut complete = 0;
        for (&at, chain) in &self.pieces {
            if at != complete {
                return Outcome::Wait;
            }
            complete += chain.len();
        }
        if self.length == Some(complete) { Outcome::Complete } else { Outcome::Wait }
    }
}

/// Gives up packets whose time is over; returns when to look again.
pub(crate) fn expire(now: u64) -> u64 {
    let (expired, next) = {
        let mut state = STATE.lock();
        let due: Vec<Key> = state
            .packets
            .iter()
            .filter(|(_, partial)| partial.deadline <= now)
            .map(|(key, _)| *key)
            .collect();
        let expired: Vec<(Key, Partial)> =
            due.into_iter().filter_map(|key| Some((key, state.remove(&key)?))).collect();
        (expired, state.packets.values().map(|partial| partial.deadline).min().unwrap_or(NEVER))
    };
    for (key, partial) in expired {
        counters::ip::REASSEMBLY_FAILED.increment();
        // Only who sent the first fragment is told (RFC 1122 3.3.2, RFC 8200 4.5).
        if let Some(interface) = interface::by_index(key.interface)
            && let Some(first) = partial.pieces.get(&0)
        {
            complain(&interface, &key, &partial, first);
        }
    }
    next
}

/// How many packets are in the making.
#[cfg(test)]
pub(crate) fn packets() -> usize {
    STATE.lock().packets.len()
}

fn complain(interface: &Arc<Interface>, key: &Key, partial: &Partial, first: &Chain) {
    let incoming = Incoming {
        interface,
        queue: 0,
        source: key.source,
        destination: key.destination,
        hop_limit: 0,
        traffic_class: 0,
        protocol: partial.next,
        multicast_or_broadcast: key.destination.is_multicast(),
        checksum: crate::packet::Checksum::Unknown,
        segment_size: 0,
        header: &partial.header,
    };
    match key.source {
        IpAddr::V4(_) => icmp::v4::time_exceeded(&incoming, first),
        IpAddr::V6(_) => icmp::v6::time_exceeded(&incoming, first),
    }
}
