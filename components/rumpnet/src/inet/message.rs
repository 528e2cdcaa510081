//! What the message sockets of IPv4 and IPv6 (UDP, ping, raw) have in common: names, options, queues of received
//! messages and errors.

use alloc::sync::Arc;
use core::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
};

use rumpkern::{Errno, Result, poll::Events, uio::Sink};
use rumpuser::{rumpuser_copyout, sync::SpinLock};

use super::{
    canonical,
    control::{self, Wishes},
    errors::{ErrorQueue, Origin, QueuedError},
    options::{InetOptions, InetSwitches, interface_name, set_interface},
    present, scope, unspecified,
};
use crate::{
    address,
    base::{self, SocketBase, Switches},
    datagram::{Datagram, DatagramQueue},
    interface::{self, Posted},
    ip::{self, FlowError, FlowErrorKind, Outgoing},
    option::{Value, level},
    packet::{Chain, Packet},
    route::{self, Query, Route},
    socket::{Address, Ancillary, Credentials, Domain, MessageFlags, Received, Style},
};

/// Both ends of a socket, as they are kept inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// Its own address; unspecified if any will do, port 0 if it has none.
    pub local: SocketAddr,
    /// The one it is connected to.
    pub remote: Option<SocketAddr>,
    /// `local`'s address came from connecting, not from binding.
    pub chosen: bool,
}

/// See the module.
pub struct MessageCore {
    /// What every socket has.
    pub base: SocketBase,
    /// The options of IP and IPv6.
    pub options: InetOptions,
    /// Errors for MSG_ERRQUEUE.
    pub errors: ErrorQueue,
    /// What was received.
    pub queue: DatagramQueue,
    names: SpinLock<Names>,
    /// How to reach the connected address.
    route: SpinLock<Option<Arc<Route>>>,
    /// UDP_GRO.
    pub joins: AtomicBool,
    shut_receive: AtomicBool,
    shut_send: AtomicBool,
}

impl MessageCore {
    /// A socket that is neither bound nor connected.
    pub fn new(domain: Domain, style: Style, protocol: i32, creator: Credentials) -> Self {
        MessageCore {
            base: SocketBase::new(domain, style, protocol, creator),
            options: InetOptions::new(domain),
            errors: ErrorQueue::default(),
            queue: DatagramQueue::default(),
            names: SpinLock::new(Names { local: unspecified(domain), remote: None, chosen: false }),
            route: SpinLock::new(None),
            joins: AtomicBool::new(false),
            shut_receive: AtomicBool::new(false),
            shut_send: AtomicBool::new(false),
        }
    }

    /// Both ends.
    pub fn names(&self) -> Names {
        *self.names.lock()
    }

    /// Changes the ends.
    pub fn set_names(&self, names: Names) {
        *self.names.lock() = names;
        *self.route.lock() = None;
    }

    /// Its own address, as programs see it.
    pub fn name(&self) -> Address {
        Address::Internet(present(self.base.domain(), self.names().local))
    }

    /// The other end's address. ENOTCONN.
    pub fn peer_name(&self) -> Result<Address> {
        let remote = self.names().remote.ok_or(Errno::ENOTCONN)?;
        Ok(Address::Internet(present(self.base.domain(), remote)))
    }

    /// An address to bind to, checked, as it is kept inside. EADDRNOTAVAIL, EAFNOSUPPORT, EINVAL.
    pub fn check_bind(&self, address: &Address) -> Result<SocketAddr> {
        check_bind(&self.base, &self.options, address)
    }

    /// Where a message goes: `to`, or the connected address.
    pub fn destination(&self, to: Option<&Address>) -> Result<SocketAddr> {
        match to {
            Some(address) => super::destination(
                self.base.domain(),
                self.options.is_on(InetSwitches::VERSION6_ONLY),
                address,
            ),
            None => self.names().remote.ok_or(Errno::EDESTADDRREQ),
        }
    }

    /// The interface that packets must go through.
    fn interface_to(&self, destination: SocketAddr, wishes: &Wishes) -> Option<u32> {
        let index = match self.base.interface() {
            0 => match (wishes.interface, scope(destination)) {
                (Some(index), _) => index,
                (None, 0) => self.options.interface_to(destination.ip()),
                (None, index) => index,
            },
            index => index,
        };
        (index != 0).then_some(index)
    }

    /// How to reach a destination: remembered for the connected one.
    pub fn route_to(&self, destination: SocketAddr, wishes: &Wishes) -> Result<Arc<Route>> {
        let names = self.names();
        let connected = names.remote == Some(destination) && *wishes == Wishes::default();
        if connected
            && let Some(route) = &*self.route.lock()
            && route.is_valid()
        {
            return Ok(route.clone());
        }
        let bound = names.local.ip();
        let mut source = wishes.source;
        if source.is_none() && !bound.is_unspecified() && !bound.is_multicast() && !is_broadcast(bound) {
            source = Some(bound);
        }
        if source.is_none() && destination.ip().is_multicast() && destination.is_ipv4() {
            source = self.options.multicast_source().map(IpAddr::V4);
        }
        if source.is_some_and(|source| source.is_ipv4() != destination.is_ipv4()) {
            return Err(Errno::ENETUNREACH);
        }
        let interface = self.interface_to(destination, wishes);
        let route = Arc::new(route::lookup(&Query { destination: destination.ip(), source, interface })?);
        if route.broadcast && !self.base.is_on(Switches::BROADCAST) {
            return Err(Errno::EACCES);
        }
        if connected {
            *self.route.lock() = Some(route.clone());
        }
        Ok(route)
    }

    /// Sends a packet whose transport header and payload are ready, and notes in `posted` where.
    pub fn output(
        &self,
        route: &Route,
        destination: IpAddr,
        protocol: u8,
        wishes: &Wishes,
        packet: &mut Packet,
        posted: &mut Posted,
    ) -> Result<()> {
        use super::options::discovery;
        let discovery = self.options.discovery(destination);
        let never = matches!(discovery, discovery::DO | discovery::PROBE)
            || wishes.dont_fragment
            || destination.is_ipv6() && self.options.is_on(InetSwitches::DONT_FRAGMENT6);
        // As Linux: what fits is sent so that the path's MTU is found.
        let fits = packet.len() + 60 <= route.mtu;
        let ip_options = if destination.is_ipv4() { self.options.ip_options() } else { Default::default() };
        let outgoing = Outgoing {
            hop_limit: wishes.hop_limit.unwrap_or_else(|| self.options.hop_limit(destination)),
            traffic_class: wishes.traffic_class.unwrap_or_else(|| self.options.traffic_class(destination)),
            dont_fragment: never || fits && discovery == discovery::WANT,
            queue: rumpuser::rumpuser_cpu() % route.interface.queue_count().max(1),
            options: &ip_options,
            ..Outgoing::new(route.source, destination, protocol)
        };
        let copy = self.loops_back(route, destination).then(|| Packet {
            header: packet.header.clone(),
            payload: packet.payload.clone(),
            checksum: packet.checksum,
            segmentation: None,
        });
        let result = ip::send(route, &outgoing, packet);
        *posted |= Posted::by(&route.interface, outgoing.queue);
        if let Some(mut copy) = copy {
            self.send_to_self(route, &outgoing, &mut copy, posted);
        }
        result
    }

    /// Whether a packet to a group or to all is to be heard on this machine, too.
    fn loops_back(&self, route: &Route, destination: IpAddr) -> bool {
        if route.interface.is_loopback() {
            return false;
        }
        match destination {
            IpAddr::V4(_) if route.broadcast => true,
            IpAddr::V4(four) => four.is_multicast() && self.options.is_on(InetSwitches::MULTICAST_LOOP4),
            IpAddr::V6(six) => six.is_multicast() && self.options.is_on(InetSwitches::MULTICAST_LOOP6),
        }
    }

    fn send_to_self(&self, route: &Route, outgoing: &Outgoing<'_>, packet: &mut Packet, posted: &mut Posted) {
        let query = Query {
            destination: outgoing.destination,
            source: Some(route.source),
            interface: Some(interface::loopback().index()),
        };
        if let Ok(back) = route::lookup(&query) {
            let queue = rumpuser::rumpuser_cpu() % back.interface.queue_count().max(1);
            let _ = ip::send(&back, &Outgoing { queue, ..*outgoing }, packet);
            *posted |= Posted::by(&back.interface, queue);
        }
    }

    /// Takes a received message in. False if there was no room.
    pub fn deliver(&self, mut datagram: Datagram) -> bool {
        if self.shut_receive.load(Ordering::Relaxed) {
            return false;
        }
        if control::wants_time(&self.base) {
            datagram.metadata.time = rumpvfs::vnode::now().max(0) as u64;
        }
        let taken = self.queue.push(datagram, self.base.receive_buffer());
        if taken {
            self.base.changes.notify_one(Events::IN | Events::RDNORM);
        }
        taken
    }

    /// Receives a message.
    pub fn receive(&self, sink: &mut Sink<'_>, flags: MessageFlags) -> Result<Received> {
        if flags.contains(MessageFlags::ERROR_QUEUE) {
            let received = self.errors.receive(self.base.domain(), sink)?;
            if self.errors.is_empty() {
                // The pending error was about what has been read now.
                let _ = self.base.take_error();
            }
            return Ok(received);
        }
        if flags.contains(MessageFlags::OUT_OF_BAND) {
            return Err(Errno::EOPNOTSUPP);
        }
        let peek = flags.contains(MessageFlags::PEEK);
        let room = sink.remaining();
        let look = || {
            if let Some(mut datagram) = self.queue.take(peek) {
                if !peek && self.joins.load(Ordering::Relaxed) {
                    self.queue.join(&mut datagram, room);
                }
                return Some(Ok(Some(datagram)));
            }
            if let Err(error) = self.base.take_error() {
                return Some(Err(error));
            }
            self.shut_receive.load(Ordering::Relaxed).then_some(Ok(None))
        };
        let no_wait = flags.contains(MessageFlags::DONT_WAIT);
        let taken = match look() {
            Some(taken) => taken?,
            None if no_wait => {
                interface::poll();
                look().ok_or(Errno::EAGAIN)??
            }
            None => {
                let deadline = self.base.receive_deadline(false);
                interface::wait(&self.base.changes, deadline, look).map_err(|error| {
                    match error.into() {
                        Errno::ETIMEDOUT => Errno::EAGAIN,
                        other => other,
                    }
                })??
            }
        };
        let Some(datagram) = taken else {
            return Ok(Received {
                length: 0,
                source: None,
                ancillary: Ancillary::default(),
                flags: MessageFlags::default(),
            });
        };
        let (length, cut) = datagram.deliver(sink, flags)?;
        let controls = control::received(&self.base, &self.options, &datagram.metadata);
        let source = match datagram.source {
            Address::Internet(source) => Address::Internet(present(self.base.domain(), source)),
            other => other,
        };
        Ok(Received {
            length,
            source: Some(source),
            ancillary: Ancillary { controls, ..Ancillary::default() },
            flags: cut,
        })
    }

    /// An ICMP error about something that this socket sent. `payload`: what the packet carried, as far as known.
    pub fn error(&self, error: &FlowError<'_>, payload: &[u8]) {
        let remote = error.remote;
        let queues = self.options.queues_errors(remote.ip());
        let origin = match error.offender {
            None => Origin::Local,
            Some(_) if remote.is_ipv4() => Origin::Icmp,
            Some(_) => Origin::Icmpv6,
        };
        let info = match error.kind {
            FlowErrorKind::TooBig(mtu) => mtu as u32,
            _ => 0,
        };
        if queues {
            self.errors.push(QueuedError {
                errno: Some(error.errno),
                origin,
                kind: error.icmp.0,
                code: error.icmp.1,
                info,
                data: 0,
                offender: error.offender,
                destination: Some(remote),
                payload: Chain::copy_of(payload).unwrap_or_default(),
            });
        }
        // Without IP_RECVERR only a connected socket hears, and only of what is final.
        let hears = queues || self.names().remote.is_some() && error.hard;
        if hears {
            self.base.set_error(error.errno);
            self.base.changes.notify(Events::ERR | Events::IN | Events::OUT);
        }
    }

    /// What is ready.
    pub fn poll(&self) -> Events {
        let mut events = Events::OUT | Events::WRNORM | Events::WRBAND;
        let shut = self.shut_receive.load(Ordering::Relaxed);
        if !self.queue.is_empty() || shut {
            events |= Events::IN | Events::RDNORM;
        }
        if shut {
            events |= Events::RDHUP;
            if self.shut_send.load(Ordering::Relaxed) {
                events |= Events::HUP;
            }
        }
        if self.base.has_error() || !self.errors.is_empty() {
            events |= Events::ERR;
            if !self.errors.is_empty() && self.base.is_on(Switches::SELECT_ERROR_QUEUE) {
                events |= Events::PRI;
            }
        }
        events
    }

    /// Checks that sending is possible. EPIPE, or a pending error.
    pub fn check_send(&self, flags: MessageFlags) -> Result<()> {
        if flags.contains(MessageFlags::OUT_OF_BAND) {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.shut_send.load(Ordering::Relaxed) {
            return Err(Errno::EPIPE);
        }
        self.base.take_error()
    }

    /// shutdown(2). ENOTCONN, though it is carried out, without a connection.
    pub fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        if read {
            self.shut_receive.store(true, Ordering::Relaxed);
        }
        if write {
            self.shut_send.store(true, Ordering::Relaxed);
        }
        self.base.changes.notify(Events::IN | Events::OUT | Events::RDHUP | Events::HUP);
        if self.names().remote.is_some() { Ok(()) } else { Err(Errno::ENOTCONN) }
    }

    /// An option of the levels SOL_SOCKET, SOL_IP, SOL_IPV6.
    pub fn option(&self, level: i32, name: i32) -> Result<Value> {
        match (level, name) {
            (level::SOCKET, base::name::BINDTODEVICE) => Ok(interface_name(&self.base)),
            (level::SOCKET, name) => self.base.option(name),
            (level::IP | level::IPV6, name) => {
                let remote = self.names().remote;
                let route = remote.and_then(|remote| self.route_to(remote, &Wishes::default()).ok());
                self.options.option(level, name, route.map(|route| route.mtu))
            }
            _ => Err(unknown_level(self.base.domain())),
        }
    }

    /// Sets an option of the levels SOL_SOCKET, SOL_IP, SOL_IPV6.
    pub fn set_option(&self, level: i32, name: i32, value: &[u8]) -> Result<()> {
        match level {
            level::SOCKET => {
                set_interface(&self.base, name, value).unwrap_or_else(|| self.base.set_option(name, value))
            }
            level::IP | level::IPV6 => {
                let bound = self.names().local.port() != 0;
                let result = self.options.set_option(level, name, value, bound);
                *self.route.lock() = None;
                result
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    /// SIOCINQ and SIOCOUTQ. ENOTTY.
    pub fn ioctl(&self, request: u32, argument: usize) -> Result<usize> {
        const SIOCINQ: u32 = 0x541b;
        const SIOCOUTQ: u32 = 0x5411;
        let value = match request {
            SIOCINQ => self.queue.first_length(),
            SIOCOUTQ => 0,
            _ => return Err(Errno::ENOTTY),
        };
        let value = i32::try_from(value).unwrap_or(i32::MAX);
        if rumpuser_copyout(&value.to_le_bytes(), argument) == 0 { Ok(0) } else { Err(Errno::EFAULT) }
    }

    /// Ends it: nothing is received any more.
    pub fn close(&self) {
        self.shut_receive.store(true, Ordering::Relaxed);
        self.shut_send.store(true, Ordering::Relaxed);
        self.options.memberships.leave_all();
        self.queue.clear();
        self.errors.clear();
        self.base.changes.notify(Events::IN | Events::OUT | Events::HUP);
    }
}

fn is_broadcast(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(four) if four.is_broadcast()
        || interface::list().iter().any(|interface| interface.addresses.is_broadcast(four)))
}

/// What getsockopt(2) says of a level that is not there, which depends on the family.
pub fn unknown_level(domain: Domain) -> Errno {
    if domain == Domain::Inet { Errno::EOPNOTSUPP } else { Errno::ENOPROTOOPT }
}

/// As [`MessageCore::check_bind`], for sockets of other makes.
pub fn check_bind(base: &SocketBase, options: &InetOptions, address: &Address) -> Result<SocketAddr> {
    let domain = base.domain();
    let local = match address {
        Address::Unnamed => unspecified(domain),
        Address::Internet(internet) => *internet,
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    if local.is_ipv6() != (domain == Domain::Inet6) {
        return Err(Errno::EAFNOSUPPORT);
    }
    let inside = canonical(local);
    if inside.is_ipv4() && domain == Domain::Inet6 && options.is_on(InetSwitches::VERSION6_ONLY) {
        return Err(Errno::EINVAL);
    }
    if let SocketAddr::V6(six) = inside
        && address::is_link_local(*six.ip())
        && six.scope_id() == 0
        && base.interface() == 0
    {
        return Err(Errno::EINVAL);
    }
    let anything = InetSwitches::FREE_BIND | InetSwitches::TRANSPARENT;
    if !options.is_any_on(anything) && !address::is_bindable(inside.ip()) {
        return Err(Errno::EADDRNOTAVAIL);
    }
    Ok(inside)
}
