//! Stream sockets (tcp(7)): the face that programs see of TCP's connections and listeners.

mod connect;
mod information;
mod options;
#[cfg(test)]
mod tests;
mod transfer;

use alloc::{string::String, sync::Arc, vec::Vec};
use core::{
    any::Any,
    net::{IpAddr, SocketAddr},
    ops::Deref,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
};

use rumpkern::{
    Errno, Result,
    poll::{Events, Observer},
    uio::{Sink, Source},
};
use rumpuser::{
    rumpuser_clock_monotonic, rumpuser_copyout,
    sync::{Mutex, SpinLock},
};
use rumpvfs::{
    file::{File, OpenFlags},
    vnode::Attributes,
};

pub use self::information::encode as encode_information;
use super::{errors::ErrorQueue, options::InetOptions, present, unspecified};
use crate::{
    base::{SocketBase, message_flags},
    interface,
    option::Value,
    packet::Chain,
    ports::Binding,
    socket::{Address, Ancillary, Credentials, Domain, MessageFlags, Received, Socket, Style},
    tcp::{Connection, Listener, Settings, State as TcpState},
};

/// The protocol's number.
const PROTOCOL: i32 = 6;

/// What a socket is at the moment.
enum State {
    /// Neither of the others, perhaps bound.
    Idle,
    Listening(Arc<Listener>),
    /// Connected, or on the way there, or not any more.
    Connected(Arc<Connection>),
}

/// What bind(2) gave.
#[derive(Clone, Default)]
struct Bound {
    /// The port, and the address with it.
    binding: Option<Arc<Binding>>,
    /// An address alone (IP_BIND_ADDRESS_NO_PORT).
    source: Option<IpAddr>,
}

/// See the module.
pub struct StreamSocket {
    base: SocketBase,
    options: InetOptions,
    errors: ErrorQueue,
    /// The connection, for a socket that was accepted: there all its life.
    accepted: Option<Arc<Connection>>,
    state: SpinLock<State>,
    /// Held by bind, listen and connect.
    changing: Mutex<Bound>,
    /// Who watches, to be entered with whatever the socket becomes.
    observers: SpinLock<Vec<Arc<dyn Observer>>>,
    /// What connections begin with.
    settings: SpinLock<Settings>,
    /// connect(2) has said that the connection is there.
    announced: AtomicBool,
    /// TCP_FASTOPEN.
    fast_open: AtomicU32,
    /// TCP_INQ.
    tells_available: AtomicBool,
    /// How many sends without a copy there were (SO_ZEROCOPY).
    zero_copies: AtomicU32,
    /// The last try without waiting found nothing.
    dry: AtomicBool,
    closed: AtomicBool,
}

/// A connection, for as long as a call needs it.
enum Held<'a> {
    Own(&'a Arc<Connection>),
    Shared(Arc<Connection>),
}

impl Deref for Held<'_> {
    type Target = Arc<Connection>;

    #[inline]
    fn deref(&self) -> &Arc<Connection> {
        match self {
            Held::Own(connection) => connection,
            Held::Shared(connection) => connection,
        }
    }
}

impl StreamSocket {
    fn with(domain: Domain, creator: Credentials, accepted: Option<Arc<Connection>>) -> Self {
        StreamSocket {
            base: SocketBase::new(domain, Style::Stream, PROTOCOL, creator),
            options: InetOptions::new(domain),
            errors: ErrorQueue::default(),
            announced: AtomicBool::new(accepted.is_some()),
            accepted,
            state: SpinLock::new(State::Idle),
            changing: Mutex::new(Bound::default()),
            observers: SpinLock::new(Vec::new()),
            settings: SpinLock::new(Settings::default()),
            fast_open: AtomicU32::new(0),
            tells_available: AtomicBool::new(false),
            zero_copies: AtomicU32::new(0),
            dry: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// A socket of a family, neither bound nor connected.
    pub fn new(domain: Domain, creator: Credentials) -> Arc<Self> {
        Arc::new(Self::with(domain, creator, None))
    }

    #[inline]
    fn connection(&self) -> Option<Held<'_>> {
        if let Some(connection) = &self.accepted {
            return Some(Held::Own(connection));
        }
        match &*self.state.lock() {
            State::Connected(connection) => Some(Held::Shared(connection.clone())),
            _ => None,
        }
    }

    /// The connection, if need be the one that another thread begins at this moment: its peer may know of it already.
    #[cold]
    fn connection_to_be(&self) -> Option<Held<'_>> {
        drop(self.changing.lock());
        self.connection()
    }

    fn listener(&self) -> Option<Arc<Listener>> {
        match &*self.state.lock() {
            State::Listening(listener) => Some(listener.clone()),
            _ => None,
        }
    }

    /// The socket becomes something else; who watches it goes along.
    fn become_state(&self, new: State) {
        let observers = self.observers.lock();
        let queue = match &new {
            State::Idle => &self.base.changes,
            State::Listening(listener) => listener.queue(),
            State::Connected(connection) => connection.queue(),
        };
        observers.iter().for_each(|observer| queue.observe(observer));
        let old = core::mem::replace(&mut *self.state.lock(), new);
        let queue = match &old {
            State::Idle => &self.base.changes,
            State::Listening(listener) => listener.queue(),
            State::Connected(connection) => connection.queue(),
        };
        observers.iter().for_each(|observer| queue.unobserve(observer));
        drop(observers);
        drop(old);
    }

    /// Runs `action` with the queue that tells of changes.
    fn with_queue(&self, action: impl FnOnce(&rumpkern::wait::WaitQueue)) {
        if let Some(connection) = self.connection() {
            return action(connection.queue());
        }
        match self.listener() {
            Some(listener) => action(listener.queue()),
            None => action(&self.base.changes),
        }
    }

    fn linger(&self, connection: &Connection) {
        let Some(time) = self.base.linger() else { return };
        let deadline = rumpuser_clock_monotonic().saturating_add(time);
        let _ = interface::wait(connection.queue(), deadline, || connection.is_drained().then_some(()));
    }

    /// Its own address, as it is kept inside.
    fn local(&self) -> SocketAddr {
        if let Some(connection) = self.connection() {
            return super::with_scope(
                connection.local().ip(),
                connection.local().port(),
                self.scope(&connection),
            );
        }
        if let Some(listener) = self.listener() {
            return listener.local();
        }
        let bound = self.changing.lock();
        match (&bound.binding, bound.source) {
            (Some(binding), _) => SocketAddr::new(binding.address(), binding.port()),
            (None, Some(source)) => SocketAddr::new(source, 0),
            (None, None) => unspecified(self.base.domain()),
        }
    }

    /// The interface that link-local addresses of a connection are about.
    fn scope(&self, connection: &Connection) -> u32 {
        match connection.path_settings().interface {
            0 => match connection.local().ip() {
                IpAddr::V6(six) if super::is_link_scoped(six) => {
                    crate::address::owner(six.into()).map_or(0, |interface| interface.index())
                }
                _ => 0,
            },
            index => index,
        }
    }

    /// What it has in common with others, for /proc and netlink.
    pub fn base(&self) -> &SocketBase {
        &self.base
    }

    /// The connection's ends, if there is one.
    pub fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.connection().map(|connection| (connection.local(), connection.remote()))
    }
}

impl File for StreamSocket {
    fn read(&self, sink: &mut Sink<'_>, _offset: u64, flags: OpenFlags) -> Result<usize> {
        self.receive_bytes(sink, message_flags(flags)).map(|(length, _)| length)
    }

    fn write(&self, source: &mut Source<'_>, _offset: &mut u64, flags: OpenFlags) -> Result<usize> {
        self.send_bytes(source, message_flags(flags))
    }

    fn poll(&self) -> Events {
        let connection = match self.connection() {
            Some(connection) => connection,
            None => {
                if let Some(listener) = self.listener() {
                    return listener.poll();
                }
                let Some(connection) = self.connection_to_be() else {
                    return Events::OUT | Events::WRNORM | Events::HUP;
                };
                connection
            }
        };
        let mut events = connection.poll();
        let least = self.base.receive_least();
        if least > 1
            && events.contains(Events::IN)
            && !events.intersects(Events::RDHUP | Events::HUP)
            && connection.available() < least
        {
            events -= Events::IN | Events::RDNORM;
        }
        if !self.errors.is_empty() {
            events |= Events::ERR;
        }
        events
    }

    fn observe(&self, observer: &Arc<dyn Observer>) {
        let mut observers = self.observers.lock();
        observers.push(observer.clone());
        self.with_queue(|queue| queue.observe(observer));
    }

    fn unobserve(&self, observer: &Arc<dyn Observer>) {
        let mut observers = self.observers.lock();
        observers.retain(|other| !Arc::ptr_eq(other, observer));
        self.with_queue(|queue| queue.unobserve(observer));
    }

    fn ioctl(&self, request: u32, argument: usize) -> Result<usize> {
        const SIOCINQ: u32 = 0x541b;
        const SIOCOUTQ: u32 = 0x5411;
        const SIOCOUTQNSD: u32 = 0x894b;
        const SIOCATMARK: u32 = 0x8905;
        let connection = self.connection();
        let value = match request {
            SIOCINQ | SIOCOUTQ | SIOCOUTQNSD if self.listener().is_some() => return Err(Errno::EINVAL),
            SIOCINQ => connection.map_or(0, |connection| connection.available()),
            SIOCOUTQ => connection.map_or(0, |connection| connection.unsent().0),
            SIOCOUTQNSD => connection.map_or(0, |connection| connection.unsent().1),
            SIOCATMARK => connection.map_or(0, |connection| usize::from(connection.at_mark())),
            _ => return Err(Errno::ENOTTY),
        };
        let value = i32::try_from(value).unwrap_or(i32::MAX);
        if rumpuser_copyout(&value.to_le_bytes(), argument) == 0 { Ok(0) } else { Err(Errno::EFAULT) }
    }

    fn attributes(&self) -> Result<Attributes> {
        Ok(self.base.attributes())
    }

    fn description(&self) -> String {
        self.base.description()
    }

    fn close(&self) {
        if self.closed.swap(true, Relaxed) {
            return;
        }
        if let Some(listener) = self.listener() {
            listener.close();
        }
        if let Some(connection) = self.connection() {
            information::forget(&connection);
            connection.close(self.base.linger() == Some(0));
            self.linger(&connection);
        }
        interface::flush();
        self.options.memberships.leave_all();
        self.errors.clear();
        self.become_state(State::Idle);
        *self.changing.lock() = Bound::default();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for StreamSocket {
    fn drop(&mut self) {
        self.close();
    }
}

impl Socket for StreamSocket {
    fn domain(&self) -> Domain {
        self.base.domain()
    }

    fn style(&self) -> Style {
        Style::Stream
    }

    fn protocol(&self) -> i32 {
        PROTOCOL
    }

    fn bind(&self, address: Address) -> Result<()> {
        self.bind_to(&address)
    }

    fn listen(&self, backlog: usize, _caller: Credentials) -> Result<()> {
        self.start_listening(backlog)
    }

    fn accept(&self, no_wait: bool) -> Result<Arc<dyn Socket>> {
        self.accept_connection(no_wait)
    }

    fn connect(&self, address: &Address, no_wait: bool, _caller: Credentials) -> Result<()> {
        self.connect_to(address, no_wait)
    }

    fn name(&self) -> Address {
        Address::Internet(present(self.base.domain(), self.local()))
    }

    fn peer_name(&self) -> Result<Address> {
        let connection = self.connection().ok_or(Errno::ENOTCONN)?;
        if self.accepted.is_none() && matches!(connection.state(), TcpState::SynSent | TcpState::Closed) {
            return Err(Errno::ENOTCONN);
        }
        let remote = connection.remote();
        let remote = super::with_scope(remote.ip(), remote.port(), self.scope(&connection));
        Ok(Address::Internet(present(self.base.domain(), remote)))
    }

    fn peer_credentials(&self) -> Option<Credentials> {
        None
    }

    fn send(
        &self,
        source: &mut Source<'_>,
        to: Option<&Address>,
        _ancillary: Ancillary,
        flags: MessageFlags,
    ) -> Result<usize> {
        if let (Some(to), true) = (to, flags.contains(MessageFlags::FAST_OPEN)) {
            // Without cookies, that is a connect followed by a send.
            self.connect_to(to, flags.contains(MessageFlags::DONT_WAIT))?;
        }
        self.send_bytes(source, flags)
    }

    fn receive(&self, sink: &mut Sink<'_>, flags: MessageFlags) -> Result<Received> {
        if flags.contains(MessageFlags::ERROR_QUEUE) {
            return self.errors.receive(self.base.domain(), sink);
        }
        let (length, flags) = self.receive_bytes(sink, flags)?;
        let mut ancillary = Ancillary::default();
        if self.tells_available.load(Relaxed) {
            ancillary.controls.push(self.available_control());
        }
        Ok(Received { length, source: None, ancillary, flags })
    }

    fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        if let Some(listener) = self.listener() {
            if read {
                listener.close();
            }
            return Ok(());
        }
        let connection = self.connection().ok_or(Errno::ENOTCONN)?;
        connection.shutdown(read, write)
    }

    fn option(&self, level: i32, name: i32) -> Result<Value> {
        self.value_of(level, name)
    }

    fn set_option(&self, level: i32, name: i32, value: &[u8]) -> Result<()> {
        self.set_value(level, name, value)
    }

    fn available(&self) -> usize {
        self.connection().map_or(0, |connection| connection.available())
    }

    fn take_chain(&self, most: usize, flags: MessageFlags) -> Result<Chain> {
        self.take_pages(most, flags)
    }

    fn send_chain(&self, chain: &mut Chain, flags: MessageFlags) -> Result<usize> {
        self.send_pages(chain, flags)
    }

    fn return_chain(&self, chain: Chain) {
        if let Some(connection) = self.connection() {
            connection.return_chain(chain);
        }
    }
}
