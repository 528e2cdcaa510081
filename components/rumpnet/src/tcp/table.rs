//! All connections by their two ends, and what is left of those in TIME-WAIT, in shards with a lock each.

use alloc::{collections::VecDeque, sync::Arc, vec::Vec};
use core::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
};

use hashbrown::HashTable;
use once_cell::race::OnceNonZeroUsize;
use rumpkern::Errno;
use rumpuser::{NEVER, sync::SpinLock};

use super::{
    connection::Connection,
    counters,
    hash::address_words,
    segment::Segment,
    sequence::Sequence,
    time_wait::{DURATION, Reaction, TimeWait},
    timers, tunables,
};
use crate::{ports::Binding, random};

/// Both ends of a connection, to be compared and hashed fast; IPv4 addresses in their mapped form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    local: [u64; 2],
    remote: [u64; 2],
    ports: u32,
}

fn address(words: [u64; 2]) -> IpAddr {
    let number = u128::from(words[0]) | u128::from(words[1]) << 64;
    let address = Ipv6Addr::from(number);
    match (words[1], words[0] >> 32) {
        (0, 0xffff) => IpAddr::V4(Ipv4Addr::from(number as u32)),
        _ => IpAddr::V6(address),
    }
}

impl Key {
    /// For two ends.
    pub fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        Key::of(local.ip(), local.port(), remote.ip(), remote.port())
    }

    /// For two ends in pieces.
    #[inline]
    pub fn of(local: IpAddr, local_port: u16, remote: IpAddr, remote_port: u16) -> Self {
        Key {
            local: address_words(local),
            remote: address_words(remote),
            ports: u32::from(local_port) << 16 | u32::from(remote_port),
        }
    }

    /// Our end.
    pub fn local(&self) -> SocketAddr {
        SocketAddr::new(address(self.local), (self.ports >> 16) as u16)
    }

    /// The other end.
    pub fn remote(&self) -> SocketAddr {
        SocketAddr::new(address(self.remote), self.ports as u16)
    }

    /// All of it.
    pub fn words(&self) -> [u64; 5] {
        [self.local[0], self.local[1], self.remote[0], self.remote[1], u64::from(self.ports)]
    }

    /// A hash with a key that changes at every boot.
    #[inline]
    pub fn hash(&self) -> u64 {
        static SECRET: OnceNonZeroUsize = OnceNonZeroUsize::new();
        let secret = SECRET
            .get_or_init(|| core::num::NonZeroUsize::MIN.saturating_add(random::word() as usize >> 1))
            .get() as u64;
        let mix = |one: u64, other: u64| {
            let product = u128::from(one) * u128::from(other | 1);
            (product >> 64) as u64 ^ product as u64
        };
        let remote = mix(self.remote[0] ^ secret, self.remote[1] ^ 0x9e37_79b9_7f4a_7c15);
        let both =
            mix(remote ^ u64::from(self.ports) << 20 ^ self.local[0], secret.rotate_left(32) ^ self.local[1]);
        // Ports in a row would give hashes at equal distances, which for some keys meet few shards: MurmurHash3's
        // finalizer breaks that.
        let mut hash = both ^ both >> 33;
        hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^= hash >> 33;
        hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^ hash >> 33
    }
}

const SHARDS: usize = 64;

struct Waiting {
    key: Key,
    hash: u64,
    rest: TimeWait,
    /// Keeps the port.
    _binding: Arc<Binding>,
}

struct Shard {
    connections: HashTable<Arc<Connection>>,
    waiting: HashTable<Waiting>,
    /// Those in TIME-WAIT in the order in which they may end.
    order: VecDeque<(u64, Key, u64)>,
}

static TABLE: [SpinLock<Shard>; SHARDS] = [const {
    SpinLock::new(Shard { connections: HashTable::new(), waiting: HashTable::new(), order: VecDeque::new() })
}; SHARDS];
static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);

fn shard(hash: u64) -> &'static SpinLock<Shard> {
    &TABLE[(hash >> 40) as usize % SHARDS]
}

/// Whom a segment belongs to.
pub enum Found {
    /// A connection.
    Connection(Arc<Connection>),
    /// One in TIME-WAIT, and what comes of it.
    TimeWait(Reaction),
    /// Nobody.
    Nothing,
}

impl Shard {
    fn end_wait(&mut self, key: &Key, hash: u64) -> Option<Waiting> {
        self.waiting.find_entry(hash, |entry| entry.key == *key).ok().map(|entry| entry.remove().0)
    }
}

/// Finds whom a segment with `length` bytes belongs to; TIME-WAIT takes it at once.
#[inline]
pub fn find(key: &Key, hash: u64, now: u64, segment: &Segment, length: usize) -> Found {
    let mut shard = shard(hash).lock();
    if let Some(connection) = shard.connections.find(hash, |connection| connection.key == *key) {
        return Found::Connection(connection.clone());
    }
    if shard.waiting.is_empty() {
        return Found::Nothing;
    }
    let Some(entry) = shard.waiting.find_mut(hash, |entry| entry.key == *key) else { return Found::Nothing };
    let reaction = entry.rest.input(now, segment, length);
    let gone = match reaction {
        Reaction::End | Reaction::Reopen(_) => shard.end_wait(key, hash),
        _ => None,
    };
    drop(shard);
    drop(gone);
    Found::TimeWait(reaction)
}

/// The connection between two ends.
pub fn connection(key: &Key) -> Option<Arc<Connection>> {
    let hash = key.hash();
    shard(hash).lock().connections.find(hash, |connection| connection.key == *key).cloned()
}

/// Whether two ends have a connection, or had one that may not be repeated yet.
pub fn is_taken(key: &Key, now: u64) -> bool {
    let hash = key.hash();
    let shard = shard(hash).lock();
    shard.connections.find(hash, |connection| connection.key == *key).is_some()
        || shard.waiting.find(hash, |entry| entry.key == *key).is_some_and(|entry| !entry.rest.may_reuse(now))
}

/// Enters a connection. EADDRNOTAVAIL if there is one already. If one in TIME-WAIT is replaced, returns what the new
/// initial sequence number must be after.
pub fn insert(connection: &Arc<Connection>) -> rumpkern::Result<Option<Sequence>> {
    let hash = connection.hash;
    let mut shard = shard(hash).lock();
    if shard.connections.find(hash, |other| other.key == connection.key).is_some() {
        return Err(Errno::EADDRNOTAVAIL);
    }
    let replaced = shard.end_wait(&connection.key, hash);
    shard.connections.insert_unique(hash, connection.clone(), |other| other.hash);
    drop(shard);
    CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    Ok(replaced.map(|entry| {
        counters::tcp::TIME_WAIT_RECYCLED.increment();
        entry.rest.next + 65_537
    }))
}

/// Takes a connection out, which may leave something in TIME-WAIT.
pub fn remove(connection: &Connection, rest: Option<(TimeWait, Arc<Binding>)>) {
    let hash = connection.hash;
    let mut guard = shard(hash).lock();
    let found = guard.connections.find_entry(hash, |other| core::ptr::eq(&**other, connection));
    let gone = found.ok().map(|entry| entry.remove().0);
    let mut overflow = None;
    if let (Some(_), Some((rest, binding))) = (&gone, rest) {
        counters::tcp::TIME_WAIT.increment();
        let entry = Waiting { key: connection.key, hash, rest, _binding: binding };
        if guard.order.is_empty() {
            timers::keep_house(rest.end);
        }
        guard.order.push_back((rest.end, entry.key, hash));
        guard.waiting.insert_unique(hash, entry, |other| other.hash);
        if guard.waiting.len() > tunables::TIME_WAIT_MOST.get() as usize / SHARDS
            && let Some((_, key, hash)) = guard.order.pop_front()
        {
            counters::tcp::TIME_WAIT_OVERFLOW.increment();
            overflow = guard.end_wait(&key, hash);
        }
    }
    drop(guard);
    if gone.is_some() {
        CONNECTIONS.fetch_sub(1, Ordering::Relaxed);
    }
    drop(overflow);
}

/// Ends what was in TIME-WAIT long enough; returns when the next is due.
pub fn expire(now: u64) -> u64 {
    let mut next = NEVER;
    for shard in &TABLE {
        let mut gone = Vec::new();
        let mut guard = shard.lock();
        while let Some(&(end, key, hash)) = guard.order.front() {
            if end > now {
                next = next.min(end);
                break;
            }
            guard.order.pop_front();
            match guard.waiting.find(hash, |entry| entry.key == key).map(|entry| entry.rest.end) {
                Some(end) if end > now => guard.order.push_back((end.min(now + DURATION), key, hash)),
                Some(_) => gone.extend(guard.end_wait(&key, hash)),
                None => {}
            }
        }
        drop(guard);
    }
    next
}

/// Connections, and those in TIME-WAIT.
pub fn count() -> (usize, usize) {
    (CONNECTIONS.load(Ordering::Relaxed), TABLE.iter().map(|shard| shard.lock().waiting.len()).sum())
}

/// All connections, in no order.
pub fn connections() -> Vec<Arc<Connection>> {
    let mut all = Vec::new();
    TABLE.iter().for_each(|shard| all.extend(shard.lock().connections.iter().cloned()));
    all
}

/// The ends of all that are in TIME-WAIT, and until when.
pub fn waiting() -> Vec<(Key, u64)> {
    let mut all = Vec::new();
    TABLE.iter().for_each(|shard| {
        all.extend(shard.lock().waiting.iter().map(|entry| (entry.key, entry.rest.end)));
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_both_ends() {
        for (local, remote) in [
            ("10.0.0.1:80", "192.168.1.2:65535"),
            ("[fe80::1]:1", "[::1]:2"),
            ("0.0.0.0:0", "255.255.255.255:9"),
        ] {
            let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
            let key = Key::new(local, remote);
            assert_eq!((key.local(), key.remote()), (local, remote));
            assert_eq!(key.hash(), Key::new(local, remote).hash());
            assert_ne!(key, Key::new(remote, local));
        }
    }

    #[test]
    fn hashes_spread_over_the_shards() {
        let mut used = std::collections::BTreeSet::new();
        let local = "10.0.0.1:80".parse().unwrap();
        for port in 0..1000 {
            let key = Key::new(local, SocketAddr::new("10.0.0.2".parse().unwrap(), port + 1024));
            used.insert((key.hash() >> 40) as usize % SHARDS);
        }
        assert!(used.len() > SHARDS * 3 / 4);
    }
}
