//! A connection as sockets hold it: the state machine behind a lock, its place in the tables, and who waits for it.

use alloc::sync::Arc;
use core::net::{IpAddr, SocketAddr};

use rumpkern::{
    Errno, Result,
    poll::{Events, Observer},
    wait::WaitQueue,
};
use rumpuser::{NEVER, rumpuser_clock_monotonic, sync::SpinLock};

use super::{
    control::{Changes, Settings, State, Tcb},
    counters, half_open, memory,
    owner::Owner,
    path::{Path, PathSettings},
    segment::Segment,
    table::{self, Key},
    time_wait::TimeWait,
    timers,
};
use crate::{
    ip::FlowErrorKind,
    packet::Chain,
    ports::{self, Binding, Protocol, Request},
    route::{self, Query},
};

/// What the lock protects.
pub(super) struct Inner {
    pub tcb: Tcb,
    pub path: Path,
    share: memory::Share,
    /// The deadline that [`timers`] has; [`NEVER`] if none.
    scheduled: u64,
    /// In the table.
    entered: bool,
    /// Retransmissions that were counted.
    counted: u32,
    /// No socket holds it any more.
    orphan: Option<memory::Orphan>,
}

/// A connection. Sockets [`close`](Connection::close) theirs; until then it stays, whatever the peer does.
pub struct Connection {
    /// Both ends.
    pub key: Key,
    /// The hash of [`Connection::key`].
    pub hash: u64,
    /// The socket.
    pub owner: Owner,
    inner: SpinLock<Inner>,
    changes: WaitQueue,
    binding: Arc<Binding>,
}

impl Connection {
    fn new(key: Key, tcb: Tcb, path: Path, binding: Arc<Binding>) -> Arc<Self> {
        Arc::new(Connection {
            key,
            hash: key.hash(),
            owner: Owner::default(),
            inner: SpinLock::new(Inner {
                tcb,
                path,
                share: memory::Share::default(),
                scheduled: NEVER,
                entered: false,
                counted: 0,
                orphan: None,
            }),
            changes: WaitQueue::new(),
            binding,
        })
    }

    /// A passive connection whose handshake is complete. None if its ends have a connection already.
    pub(super) fn accepted(key: Key, tcb: Tcb, path: Path, binding: Arc<Binding>) -> Option<Arc<Self>> {
        let connection = Connection::new(key, tcb, path, binding);
        connection.inner.lock().entered = true;
        table::insert(&connection).ok()?;
        Some(connection)
    }

    /// Begins a connection to `remote`; it is there, or failed, when [`Connection::poll`] says so. Without `binding`
    /// a port is picked. ENETUNREACH and the like without a route, EADDRNOTAVAIL if every port is taken.
    pub fn connect(
        binding: Option<Arc<Binding>>,
        source: Option<IpAddr>,
        remote: SocketAddr,
        settings: Settings,
        path_settings: PathSettings,
    ) -> Result<Arc<Self>> {
        super::start();
        if remote.port() == 0 {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let bound =
            binding.as_ref().map(|binding| binding.address()).filter(|address| !address.is_unspecified());
        let query = Query {
            destination: remote.ip(),
            source: bound.or(source),
            interface: (path_settings.interface > 0).then_some(path_settings.interface),
        };
        let route = route::lookup(&query)?;
        if route.broadcast || route.next_hop.is_multicast() {
            return Err(Errno::ENETUNREACH);
        }
        // Linux takes the unspecified address for this machine.
        let remote = match remote.ip().is_unspecified() {
            true => SocketAddr::new(route.source, remote.port()),
            false => remote,
        };
        let now = rumpuser_clock_monotonic();
        let source = route.source;
        let binding = match binding {
            Some(binding) => binding,
            None => {
                let request = Request::new(Protocol::Tcp, SocketAddr::new(source, 0));
                let taken = |port| table::is_taken(&Key::of(source, port, remote.ip(), remote.port()), now);
                ports::bind_connection(&request, remote, taken)?
            }
        };
        let local = SocketAddr::new(source, binding.port());
        let key = Key::new(local, remote);
        if table::is_taken(&key, now) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let mut path = Path::new(local, remote, path_settings, Some(route));
        let segment = path.segment();
        let (initial, offset) = half_open::initial_numbers(&key, now);
        // The SYN goes out once it can be answered: when the connection is in the table.
        let mut silence = Silence;
        let tcb = Tcb::connect(settings, initial, offset, segment, now, &mut silence);
        let connection = Connection::new(key, tcb, path, binding);
        let mut inner = connection.inner.lock();
        inner.entered = true;
        let after = table::insert(&connection)?;
        if let Some(after) = after {
            inner.tcb.begin_after(after);
        }
        counters::tcp::ACTIVE_OPENS.increment();
        let Inner { tcb, path, .. } = &mut *inner;
        path.follow(true);
        tcb.repeat_syn(now, path);
        let sent = core::mem::take(&mut path.sent);
        connection.settle(&mut inner, Changes::empty());
        drop(inner);
        sent.flush();
        Ok(connection)
    }

    /// Locks it.
    pub(super) fn lock(&self) -> rumpuser::sync::SpinGuard<'_, Inner> {
        self.inner.lock()
    }

    /// After every change: deadlines, memory, the table, and those who wait.
    #[inline]
    pub(super) fn settle(self: &Arc<Self>, inner: &mut Inner, changes: Changes) {
        inner.share.update(inner.tcb.memory());
        let deadline = inner.tcb.deadline();
        if deadline < inner.scheduled {
            inner.scheduled = timers::schedule(self, inner.scheduled, deadline);
        }
        let retransmissions = inner.tcb.retransmissions();
        if retransmissions != inner.counted {
            counters::tcp::RETRANSMITTED.add(u64::from(retransmissions.wrapping_sub(inner.counted)));
            inner.counted = retransmissions;
        }
        if !changes.is_empty() {
            self.announce(inner, changes);
        }
    }

    fn announce(&self, inner: &mut Inner, changes: Changes) {
        if changes.contains(Changes::CLOSED) {
            self.leave(inner);
        }
        let mut events = Events::empty();
        if changes.intersects(Changes::READABLE | Changes::CLOSED | Changes::PEER_CLOSED) {
            events |= Events::IN | Events::RDNORM;
        }
        if changes.intersects(Changes::WRITABLE | Changes::CONNECTED | Changes::CLOSED) {
            events |= Events::OUT | Events::WRNORM;
        }
        if changes.contains(Changes::PEER_CLOSED) {
            events |= Events::RDHUP;
        }
        if changes.contains(Changes::URGENT) {
            events |= Events::PRI;
        }
        if changes.contains(Changes::CLOSED) {
            events |= Events::HUP | Events::ERR | Events::RDHUP;
        }
        self.changes.notify(events);
    }

    /// The state machine is through: out of the table, perhaps into TIME-WAIT.
    #[cold]
    fn leave(&self, inner: &mut Inner) {
        if inner.scheduled != NEVER {
            timers::cancel(self, inner.scheduled);
            inner.scheduled = NEVER;
        }
        inner.orphan = None;
        if core::mem::take(&mut inner.entered) {
            if inner.tcb.is_reset() {
                counters::tcp::ESTABLISHED_RESETS.increment();
            }
            let now = rumpuser_clock_monotonic();
            let rest = (inner.tcb.state == State::TimeWait)
                .then(|| (TimeWait::new(&inner.tcb, now), self.binding.clone()));
            inner.tcb.rest();
            table::remove(self, rest);
        }
        inner.share.update(inner.tcb.memory());
    }

    /// Takes a segment.
    #[inline]
    pub(super) fn input(self: &Arc<Self>, now: u64, segment: &Segment, payload: Chain) -> bool {
        let mut inner = self.inner.lock();
        if inner.tcb.is_foreign(segment) {
            return false;
        }
        let Inner { tcb, path, .. } = &mut *inner;
        let changes = tcb.input(now, segment, payload, path);
        if changes.contains(Changes::CONNECTED) {
            path.confirm();
        }
        self.settle(&mut inner, changes);
        true
    }

    /// It was entered for `deadline`, which came.
    pub(super) fn timer(self: &Arc<Self>, deadline: u64) {
        let mut inner = self.inner.lock();
        if inner.scheduled == deadline {
            inner.scheduled = NEVER;
        }
        let now = rumpuser_clock_monotonic();
        let Inner { tcb, path, .. } = &mut *inner;
        let changes = if tcb.deadline() <= now { tcb.timer(now, path) } else { Changes::empty() };
        if changes.contains(Changes::CLOSED) && tcb.is_timed_out() {
            counters::tcp::TIMEOUTS.increment();
        }
        self.settle(&mut inner, changes);
    }

    /// Packets get through again by these interfaces.
    pub(super) fn path_returned(self: &Arc<Self>, interfaces: &[u32]) {
        self.act(|tcb, path, now| {
            let leads = |path: &mut Path| {
                path.route().is_ok_and(|route| interfaces.contains(&route.interface.index()))
            };
            if tcb.is_backed_off() && leads(path) {
                tcb.path_returned(now, path);
            }
            ((), Changes::empty())
        });
    }

    /// The network has something to say about a packet of this connection, whose sequence number was `sequence`.
    /// False if the connection never sent such a packet.
    pub(super) fn path_error(
        self: &Arc<Self>,
        sequence: super::sequence::Sequence,
        kind: FlowErrorKind,
        errno: Errno,
        hard: bool,
    ) -> bool {
        let mut inner = self.inner.lock();
        if !inner.tcb.is_outstanding(sequence) {
            return false;
        }
        let now = rumpuser_clock_monotonic();
        let Inner { tcb, path, .. } = &mut *inner;
        let changes = match kind {
            FlowErrorKind::TooBig(mtu) => {
                let header = if path.remote.is_ipv4() { 20 } else { 40 };
                let segment = Tcb::path_segment(mtu, header).min(path.segment());
                tcb.set_path_segment(now, segment, path);
                Changes::empty()
            }
            _ if hard => tcb.path_error(errno),
            _ => {
                tcb.soft_error(errno);
                Changes::empty()
            }
        };
        self.settle(&mut inner, changes);
        true
    }

    /// Runs `action` on the state machine, and what follows from it.
    pub(super) fn act<T>(
        self: &Arc<Self>,
        action: impl FnOnce(&mut Tcb, &mut Path, u64) -> (T, Changes),
    ) -> T {
        let now = rumpuser_clock_monotonic();
        let mut inner = self.inner.lock();
        let Inner { tcb, path, .. } = &mut *inner;
        let earlier = core::mem::take(&mut path.sent).by_others();
        let (result, changes) = action(tcb, path, now);
        path.sent |= earlier;
        let sent = core::mem::take(&mut path.sent);
        self.settle(&mut inner, changes);
        drop(inner);
        sent.flush();
        result
    }

    /// Our end.
    pub fn local(&self) -> SocketAddr {
        self.key.local()
    }

    /// The other end.
    pub fn remote(&self) -> SocketAddr {
        self.key.remote()
    }

    /// Who waits for changes.
    pub fn queue(&self) -> &WaitQueue {
        &self.changes
    }

    /// Adds an observer of changes.
    pub fn observe(&self, observer: &Arc<dyn Observer>) {
        self.changes.observe(observer);
    }

    /// Removes one.
    pub fn unobserve(&self, observer: &Arc<dyn Observer>) {
        self.changes.unobserve(observer);
    }

    /// Its state.
    pub fn state(&self) -> State {
        self.inner.lock().tcb.state
    }

    /// What is ready, as tcp(7) and poll(2) have it.
    pub fn poll(&self) -> Events {
        let mut inner = self.inner.lock();
        let tcb = &mut inner.tcb;
        let mut events = Events::empty();
        if tcb.has_error() {
            events |= Events::ERR;
        }
        if matches!(tcb.state, State::SynSent | State::SynReceived) {
            return events;
        }
        let over = matches!(tcb.state, State::Closed | State::TimeWait);
        if over || tcb.is_read_shut() && !tcb.state.can_send() {
            events |= Events::HUP;
        }
        if over || tcb.is_read_shut() {
            events |= Events::IN | Events::RDNORM | Events::RDHUP;
        } else if tcb.readable() > 0 {
            events |= Events::IN | Events::RDNORM;
        }
        if !tcb.state.can_send() || tcb.can_send() {
            events |= Events::OUT | Events::WRNORM;
        } else {
            tcb.want_room();
        }
        if tcb.has_urgent() {
            events |= Events::PRI;
        }
        events
    }

    /// Whether it is established: Ok(false) while it is not yet; why it failed.
    pub fn established(&self) -> Result<bool> {
        let mut inner = self.inner.lock();
        match inner.tcb.state {
            State::SynSent | State::SynReceived => Ok(false),
            State::Closed => match inner.tcb.take_error() {
                Some(error) => Err(error),
                None => Err(Errno::ECONNABORTED),
            },
            _ => Ok(true),
        }
    }

    /// Takes the pending error (SO_ERROR).
    pub fn take_error(&self) -> Option<Errno> {
        self.inner.lock().tcb.take_error()
    }

    /// shutdown(2).
    pub fn shutdown(self: &Arc<Self>, read: bool, write: bool) -> Result<()> {
        self.act(|tcb, path, now| {
            let mut changes = Changes::empty();
            match tcb.state {
                State::Closed | State::TimeWait => return (Err(Errno::ENOTCONN), changes),
                // As on Linux: it ends the attempt.
                State::SynSent => return (Ok(()), tcb.abort(None, path)),
                _ => {}
            }
            if read {
                tcb.shut_read();
                changes |= Changes::READABLE;
            }
            if write {
                changes |= tcb.shut_write(now, path);
            }
            (Ok(()), changes)
        })
    }

    /// The socket lets go: what is queued is still delivered in the background, unless `reset` (SO_LINGER with 0
    /// seconds), unread data, or too many others that nobody holds make it a reset.
    pub fn close(self: &Arc<Self>, reset: bool) {
        let reset = reset || memory::orphans() >= memory::orphan_limit();
        self.act(|tcb, path, now| {
            if reset || tcb.readable() > 0 {
                counters::tcp::OUT_RESETS.increment();
            }
            ((), tcb.close(now, reset, path))
        });
        let mut inner = self.inner.lock();
        if inner.entered && inner.orphan.is_none() {
            inner.orphan = Some(memory::Orphan::new());
        }
    }

    /// Ends it with a reset and an error.
    pub fn abort(self: &Arc<Self>, error: Option<Errno>) {
        self.act(|tcb, path, _| ((), tcb.abort(error, path)));
    }

    /// Whether the peer has acknowledged everything: what SO_LINGER waits for.
    pub fn is_drained(&self) -> bool {
        self.inner.lock().tcb.is_drained()
    }

    /// Settings.
    pub fn settings(&self) -> Settings {
        self.inner.lock().tcb.settings
    }

    /// Changes settings.
    pub fn set(self: &Arc<Self>, change: impl FnOnce(&mut Settings)) {
        self.act(|tcb, path, now| {
            let mut settings = tcb.settings;
            change(&mut settings);
            tcb.set(now, settings, path);
            ((), Changes::WRITABLE)
        });
    }

    /// What IP is told.
    pub fn path_settings(&self) -> PathSettings {
        self.inner.lock().path.settings
    }

    /// Changes what IP is told.
    pub fn set_path(&self, change: impl FnOnce(&mut PathSettings)) {
        change(&mut self.inner.lock().path.settings);
    }

    /// The path's MTU.
    pub fn mtu(&self) -> Option<usize> {
        self.inner.lock().path.route().ok().map(|route| route.mtu)
    }

    /// Numbers about it.
    pub fn info(&self) -> super::info::Info {
        let inner = self.inner.lock();
        inner.tcb.info(rumpuser_clock_monotonic())
    }
}

/// Sends nothing.
struct Silence;

impl super::control::Network for Silence {
    fn send(&mut self, _segment: &Segment, _payload: Chain, _segment_size: u16) {}
}
