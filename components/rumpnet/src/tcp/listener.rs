//! Listeners: which one a SYN is for, the bounded queues of half-open and of waiting connections, and SYN cookies
//! where the first is full.

use alloc::{collections::VecDeque, sync::Arc, vec::Vec};
use core::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use hashbrown::HashTable;
use rumpkern::{Errno, Result, poll::Events, wait::WaitQueue};
use rumpuser::{
    NEVER,
    sync::{SpinGuard, SpinLock},
};

use super::{
    connection::Connection,
    control::{Offer, Settings, Tcb},
    counters,
    half_open::{self, HalfOpen},
    memory,
    owner::Owner,
    path::{self, Path, PathSettings},
    segment::{Flags, Segment},
    sequence::Sequence,
    table::{self, Key},
    timers, tunables,
};
use crate::{ip::Incoming, packet::Chain, ports::Binding, report::report};

const BUCKETS: usize = 32;

type Bucket = SpinLock<Vec<Arc<Listener>>>;
static LISTENERS: [Bucket; BUCKETS] = [const { SpinLock::new(Vec::new()) }; BUCKETS];

/// The longest accept queue (`net.core.somaxconn`).
pub static BACKLOG_LIMIT: AtomicUsize = AtomicUsize::new(4096);

struct State {
    half_open: HashTable<HalfOpen>,
    ready: VecDeque<Arc<Connection>>,
    closed: bool,
    settings: Settings,
    path: PathSettings,
}

/// A listening socket's half below.
pub struct Listener {
    /// The socket.
    pub owner: Owner,
    binding: Arc<Binding>,
    interface: u32,
    version6_only: bool,
    reuse_port: bool,
    backlog: AtomicUsize,
    state: SpinLock<State>,
    /// Connections that wait to be accepted, for polling without the lock.
    waiting: AtomicUsize,
    changes: WaitQueue,
    /// A SYN flood was reported.
    flooded: AtomicBool,
}

/// What a segment came with.
pub(super) struct Arrival<'a, 'b> {
    pub incoming: &'a Incoming<'b>,
    pub key: Key,
    pub hash: u64,
    pub now: u64,
    pub segment: &'a Segment,
    /// What the initial sequence number must be after, because one in TIME-WAIT is replaced.
    pub after: Option<Sequence>,
}

/// How to listen.
#[derive(Debug, Clone, Copy)]
pub struct ListenOptions {
    /// The most connections that wait to be accepted.
    pub backlog: usize,
    /// SO_REUSEPORT.
    pub reuse_port: bool,
    /// IPV6_V6ONLY.
    pub version6_only: bool,
    /// What connections begin with.
    pub settings: Settings,
    /// What IP is told; its interface is the one listened on, 0 for any.
    pub path: PathSettings,
}

impl Listener {
    /// Begins to listen. EADDRINUSE if somebody else does.
    pub fn new(binding: Arc<Binding>, options: &ListenOptions) -> Result<Arc<Self>> {
        super::start();
        binding.set_listening(true)?;
        let listener = Arc::new(Listener {
            owner: Owner::default(),
            interface: options.path.interface,
            version6_only: options.version6_only,
            reuse_port: options.reuse_port,
            backlog: AtomicUsize::new(limit(options.backlog)),
            state: SpinLock::new(State {
                half_open: HashTable::new(),
                ready: VecDeque::new(),
                closed: false,
                settings: options.settings,
                path: options.path,
            }),
            waiting: AtomicUsize::new(0),
            changes: WaitQueue::new(),
            flooded: AtomicBool::new(false),
            binding,
        });
        let mut bucket = bucket(listener.binding.port()).lock();
        let address = listener.local();
        let first = !bucket.iter().any(|other| other.local() == address);
        bucket.push(listener.clone());
        drop(bucket);
        if first {
            report(format_args!("listening on {address}"));
        }
        Ok(listener)
    }

    /// Its address.
    pub fn local(&self) -> SocketAddr {
        SocketAddr::new(self.binding.address(), self.binding.port())
    }

    /// listen(2) again: another backlog.
    pub fn set_backlog(&self, backlog: usize) {
        self.backlog.store(limit(backlog), Ordering::Relaxed);
    }

    /// (Connections that wait to be accepted, the most).
    pub fn backlog(&self) -> (usize, usize) {
        // One more than was asked for waits, but the number is what was asked for.
        (self.waiting.load(Ordering::Relaxed), self.backlog.load(Ordering::Relaxed).saturating_sub(1))
    }

    /// What connections begin with.
    pub fn settings(&self) -> Settings {
        self.state.lock().settings
    }

    /// Changes what connections begin with.
    pub fn set(&self, change: impl FnOnce(&mut Settings, &mut PathSettings)) {
        let mut state = self.state.lock();
        let State { settings, path, .. } = &mut *state;
        change(settings, path);
    }

    /// Takes the connection that waited longest. EAGAIN if there is none; EINVAL after [`Listener::close`].
    pub fn accept(&self) -> Result<Arc<Connection>> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Errno::EINVAL);
        }
        let connection = state.ready.pop_front().ok_or(Errno::EAGAIN)?;
        self.waiting.store(state.ready.len(), Ordering::Relaxed);
        Ok(connection)
    }

    /// IN if there is a connection to accept.
    pub fn poll(&self) -> Events {
        if self.waiting.load(Ordering::Acquire) > 0 { Events::IN | Events::RDNORM } else { Events::empty() }
    }

    /// Who waits for connections.
    pub fn queue(&self) -> &WaitQueue {
        &self.changes
    }

    /// Listens no more; connections that nobody accepted are reset.
    pub fn close(&self) {
        bucket(self.binding.port()).lock().retain(|other| !core::ptr::eq(&**other, self));
        let _ = self.binding.set_listening(false);
        let mut state = self.state.lock();
        state.closed = true;
        state.half_open = HashTable::new();
        let ready = core::mem::take(&mut state.ready);
        self.waiting.store(0, Ordering::Relaxed);
        drop(state);
        ready.iter().for_each(|connection| connection.close(true));
        self.changes.notify(Events::IN | Events::HUP);
    }

    /// How well it fits: nothing, or more for what is more exact.
    fn score(&self, address: IpAddr, interface: u32) -> Option<u32> {
        if self.interface != 0 && self.interface != interface {
            return None;
        }
        let bound = self.binding.address();
        let score = match bound {
            _ if bound == address => 4,
            IpAddr::V4(any) if any.is_unspecified() && address.is_ipv4() => 2,
            IpAddr::V6(any) if any.is_unspecified() && (address.is_ipv6() || !self.version6_only) => 1,
            _ => return None,
        };
        Some(score * 2 + u32::from(self.interface != 0))
    }

    /// A segment for which there is no connection. True if it was for this listener; false asks for a reset.
    pub(super) fn input(self: &Arc<Self>, arrival: &Arrival<'_, '_>, payload: Chain) -> bool {
        let flags = arrival.segment.flags;
        if flags.intersects(Flags::RST | Flags::ACK) {
            // Another CPU may have made the connection since nobody was found. It is entered with the listener locked.
            let state = self.state.lock();
            if let Some(connection) = table::connection(&arrival.key) {
                drop(state);
                return connection.input(arrival.now, arrival.segment, payload);
            }
            if flags.contains(Flags::RST) {
                Self::input_reset(state, arrival);
                return true;
            }
            return self.input_acknowledgement(state, arrival, payload);
        }
        if flags.contains(Flags::SYN) && !flags.contains(Flags::FIN) {
            self.input_syn(arrival);
        }
        true
    }

    fn input_reset(mut state: SpinGuard<'_, State>, arrival: &Arrival<'_, '_>) {
        if let Ok(entry) = state.half_open.find_entry(arrival.hash, |entry| {
            entry.key == arrival.key && entry.peer_initial + 1 == arrival.segment.sequence
        }) {
            entry.remove();
            counters::tcp::ATTEMPT_FAILURES.increment();
        }
    }

    fn is_full(&self, state: &State) -> bool {
        state.ready.len() >= self.backlog.load(Ordering::Relaxed)
    }

    fn input_syn(&self, arrival: &Arrival<'_, '_>) {
        let (key, hash, now) = (arrival.key, arrival.hash, arrival.now);
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        let (settings, path_settings) = (state.settings, state.path);
        if let Some(entry) = state.half_open.find(hash, |entry| entry.key == key) {
            // Our answer was lost, or another SYN with the same ends: the first one counts.
            let entry = *entry;
            drop(state);
            if entry.peer_initial == arrival.segment.sequence {
                self.answer(&entry, now, &settings, path_settings);
            }
            return;
        }
        if self.is_full(&state) || memory::is_exhausted() {
            drop(state);
            counters::tcp::LISTEN_OVERFLOWS.increment();
            counters::tcp::LISTEN_DROPS.increment();
            return;
        }
        let offer = Offer::of(arrival.segment);
        let limit =
            (tunables::HALF_OPEN_MOST.get() as usize).min(self.backlog.load(Ordering::Relaxed).max(64));
        if state.half_open.len() >= limit {
            drop(state);
            if tunables::COOKIES.is_on() {
                self.answer_with_cookie(arrival, &offer, &settings);
            } else {
                counters::tcp::LISTEN_DROPS.increment();
            }
            return;
        }
        let (mut initial, timestamp_offset) = half_open::initial_numbers(&key, now);
        if let Some(after) = arrival.after {
            initial = initial.later(after);
        }
        let mut entry = HalfOpen {
            key,
            hash,
            initial,
            peer_initial: arrival.segment.sequence,
            offer,
            timestamp_offset,
            interface: arrival.incoming.interface.index(),
            queue: arrival.incoming.queue as u16,
            retries: 0,
            acknowledged: false,
            since: now,
            due: NEVER,
        };
        entry.due = now + super::estimator::INITIAL_TIMEOUT;
        state.half_open.insert_unique(hash, entry, |other| other.hash);
        drop(state);
        timers::keep_house(entry.due);
        self.answer(&entry, now, &settings, path_settings);
    }

    /// Sends the SYN-ACK.
    fn answer(&self, entry: &HalfOpen, now: u64, settings: &Settings, path_settings: PathSettings) {
        let mut path = entry_path(entry, path_settings);
        let segment = entry.answer(now, path.segment(), settings);
        super::control::Network::send(&mut path, &segment, Chain::new(), 0);
    }

    fn answer_with_cookie(&self, arrival: &Arrival<'_, '_>, offer: &Offer, settings: &Settings) {
        counters::tcp::COOKIES_SENT.increment();
        if !self.flooded.swap(true, Ordering::Relaxed) {
            report(format_args!("{}: many half-open connections; answering with SYN cookies", self.local()));
        }
        let peer_initial = arrival.segment.sequence;
        let mut offer = *offer;
        offer.ecn = false;
        if offer.timestamp.is_none() {
            // There is no place to remember these.
            (offer.scale, offer.sack) = (None, false);
        }
        let (initial, timestamp) = half_open::cookie(&arrival.key, peer_initial, &offer, arrival.now);
        let mut path = Path::new(arrival.key.local(), arrival.key.remote(), PathSettings::default(), None);
        let segment = half_open::answer(initial, peer_initial, &offer, timestamp, path.segment(), settings);
        path::answer(arrival.incoming, ports(&arrival.key), &segment);
    }

    fn input_acknowledgement(
        self: &Arc<Self>,
        mut state: SpinGuard<'_, State>,
        arrival: &Arrival<'_, '_>,
        payload: Chain,
    ) -> bool {
        let (hash, now, segment) = (arrival.hash, arrival.now, arrival.segment);
        if state.closed {
            return false;
        }
        let settings = state.settings;
        let entry = state.half_open.find(hash, |entry| entry.key == arrival.key).copied();
        let agreement = match &entry {
            Some(entry) if segment.flags.contains(Flags::SYN) || !entry.completes(segment) => {
                return segment.acknowledgement == entry.initial + 1;
            }
            Some(entry) if entry.defers(segment, payload.len(), &settings) => {
                if let Some(entry) = state.half_open.find_mut(hash, |entry| entry.key == arrival.key) {
                    entry.acknowledged = true;
                }
                return true;
            }
            Some(entry) => entry.agreement(now, &settings),
            // Only after a flood can it be a cookie.
            None if !self.flooded.load(Ordering::Relaxed) || segment.flags.contains(Flags::SYN) => {
                return false;
            }
            None => match half_open::redeem(&arrival.key, segment, now, &settings) {
                Some(agreement) => {
                    counters::tcp::COOKIES_RECEIVED.increment();
                    agreement
                }
                None => {
                    counters::tcp::COOKIES_FAILED.increment();
                    return false;
                }
            },
        };
        if self.is_full(&state) {
            // The peer thinks that it is connected: what it sends is repeated until there is room.
            drop(state);
            counters::tcp::LISTEN_OVERFLOWS.increment();
            counters::tcp::LISTEN_DROPS.increment();
            return !tunables::ABORT_ON_OVERFLOW.is_on();
        }
        if entry.is_some()
            && let Ok(entry) = state.half_open.find_entry(hash, |entry| entry.key == arrival.key)
        {
            entry.remove();
        }
        let mut path_settings = state.path;
        if matches!(arrival.incoming.source, IpAddr::V6(address) if address.is_unicast_link_local()) {
            path_settings.interface = arrival.incoming.interface.index();
        }
        let mut path = Path::new(arrival.key.local(), arrival.key.remote(), path_settings, None);
        path.queue = arrival.incoming.queue as u16;
        let tcb = Tcb::accept(settings, &agreement, path.segment(), now);
        // Entered while the listener is locked, so that it is either reset by `close` or queued.
        let connection = Connection::accepted(arrival.key, tcb, path, self.binding.clone());
        let Some(connection) = connection else { return true };
        connection.input(now, segment, payload);
        counters::tcp::PASSIVE_OPENS.increment();
        state.ready.push_back(connection);
        self.waiting.store(state.ready.len(), Ordering::Release);
        drop(state);
        self.changes.notify_one(Events::IN | Events::RDNORM);
        true
    }

    /// Sends answers again, and forgets who doesn't react. Returns when the next is due.
    fn run(&self, now: u64) -> u64 {
        let mut state = self.state.lock();
        let (settings, path_settings) = (state.settings, state.path);
        if state.half_open.is_empty() {
            return NEVER;
        }
        let mut again = Vec::new();
        let mut next = NEVER;
        state.half_open.retain(|entry| {
            if entry.due <= now {
                match entry.retry(now, &settings) {
                    Some(true) => again.push(*entry),
                    Some(false) => {}
                    None => {
                        counters::tcp::ATTEMPT_FAILURES.increment();
                        return false;
                    }
                }
            }
            next = next.min(entry.due);
            true
        });
        drop(state);
        for entry in &again {
            counters::tcp::RETRANSMITTED.increment();
            self.answer(entry, now, &settings, path_settings);
        }
        next
    }
}

fn limit(backlog: usize) -> usize {
    // As on Linux, one more than was asked for.
    backlog.min(BACKLOG_LIMIT.load(Ordering::Relaxed)) + 1
}

fn bucket(port: u16) -> &'static Bucket {
    &LISTENERS[usize::from(port) % BUCKETS]
}

fn ports(key: &Key) -> (u16, u16) {
    (key.local().port(), key.remote().port())
}

fn entry_path(entry: &HalfOpen, mut settings: PathSettings) -> Path {
    let (local, remote) = (entry.key.local(), entry.key.remote());
    if matches!(remote.ip(), IpAddr::V6(address) if address.is_unicast_link_local()) {
        settings.interface = entry.interface;
    }
    let mut path = Path::new(local, remote, settings, None);
    path.queue = entry.queue;
    path
}

/// The listener for a local address and port. Of several that share it (SO_REUSEPORT), `hash` picks one.
pub(super) fn find(address: IpAddr, port: u16, interface: u32, hash: u64) -> Option<Arc<Listener>> {
    let bucket = bucket(port).lock();
    let mut best = None::<(u32, &Arc<Listener>)>;
    let mut count = 0;
    for listener in bucket.iter().filter(|listener| listener.binding.port() == port) {
        let Some(score) = listener.score(address, interface) else { continue };
        match best {
            Some((other, _)) if other > score => {}
            Some((other, first)) if other == score && first.reuse_port && listener.reuse_port => count += 1,
            _ => {
                best = Some((score, listener));
                count = 1;
            }
        }
    }
    let (score, first) = best?;
    if count == 1 {
        return Some(first.clone());
    }
    let choice = (hash >> 16) as usize % count;
    bucket
        .iter()
        .filter(|listener| listener.binding.port() == port && listener.reuse_port)
        .filter(|listener| listener.score(address, interface) == Some(score))
        .nth(choice)
        .cloned()
}

/// All listeners.
pub fn list() -> Vec<Arc<Listener>> {
    LISTENERS.iter().flat_map(|bucket| bucket.lock().clone()).collect()
}

/// Looks after half-open connections; returns when the next is due.
pub(super) fn run(now: u64) -> u64 {
    let mut next = NEVER;
    for listener in list() {
        next = next.min(listener.run(now));
    }
    next
}
