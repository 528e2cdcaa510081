//! Raw sockets (raw(7)) and ping sockets (icmp(7), IPPROTO_ICMP datagrams): packets of IP protocols as programs make
//! and see them.

mod input;
mod send;
#[cfg(test)]
mod tests;

use alloc::{sync::Arc, vec::Vec};
use core::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use rumpkern::{
    Errno, Result,
    poll::Events,
    uio::{Sink, Source},
};
use rumpuser::sync::SpinLock;
use rumpvfs::file::File;

pub use self::input::{error, input};
use crate::{
    inet::{
        self,
        control::Wishes,
        message::{MessageCore, Names},
        unspecified,
    },
    interface::Posted,
    ip::protocol,
    option::{Value, int, level},
    socket::{Address, Ancillary, Credentials, Domain, MessageFlags, Received, Socket, Style},
};

/// IPPROTO_RAW: headers are always included, and nothing is received.
const HEADERS_ONLY: i32 = 255;
/// ICMP_FILTER and ICMP6_FILTER.
const FILTER: i32 = 1;
/// IPV6_CHECKSUM, also at SOL_RAW.
const CHECKSUM: i32 = 7;

/// The groups whose members may make ping sockets: the first above, the last below
/// (net.ipv4.ping_group_range).
pub static PING_GROUPS: AtomicU64 = AtomicU64::new(i32::MAX as u64);

/// All raw and ping sockets.
static TABLE: SpinLock<Vec<Arc<RawSocket>>> = SpinLock::new(Vec::new());
/// How many there are, so that a packet costs one load if there are none.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// See the module.
pub struct RawSocket {
    core: MessageCore,
    /// A ping socket; its port is the identifier of its echo requests.
    pings: bool,
    /// Types of ICMP that are not wanted, a bit each.
    filter: SpinLock<[u32; 8]>,
    /// Where the checksum is in an IPv6 payload, or -1.
    checksum_at: AtomicI32,
    closed: AtomicBool,
}

fn enter(socket: &Arc<RawSocket>) {
    let mut table = TABLE.lock();
    table.push(socket.clone());
    COUNT.store(table.len(), Relaxed);
}

/// Calls `function` with every raw socket, for /proc and netlink.
pub fn for_each(mut function: impl FnMut(&MessageCore)) {
    let sockets: Vec<_> = TABLE.lock().clone();
    sockets.iter().filter(|socket| !socket.pings).for_each(|socket| function(&socket.core));
}

impl RawSocket {
    fn with(domain: Domain, style: Style, protocol: i32, creator: Credentials) -> Arc<Self> {
        let is_icmp6 = domain == Domain::Inet6 && protocol == i32::from(protocol::ICMPV6);
        let socket = Arc::new(RawSocket {
            core: MessageCore::new(domain, style, protocol, creator),
            pings: style == Style::Datagram,
            filter: SpinLock::new([0; 8]),
            checksum_at: AtomicI32::new(if is_icmp6 { 2 } else { -1 }),
            closed: AtomicBool::new(false),
        });
        enter(&socket);
        socket
    }

    /// A raw socket of a protocol. EPROTONOSUPPORT, EINVAL.
    pub fn new(domain: Domain, protocol: i32, creator: Credentials) -> Result<Arc<Self>> {
        match protocol {
            0 => Err(Errno::EPROTONOSUPPORT),
            1..=HEADERS_ONLY => Ok(Self::with(domain, Style::Raw, protocol, creator)),
            _ => Err(Errno::EINVAL),
        }
    }

    /// A ping socket. EPROTONOSUPPORT for another protocol than the family's ICMP, EACCES for users who may not.
    pub fn new_ping(domain: Domain, protocol: i32, creator: Credentials) -> Result<Arc<Self>> {
        let own = if domain == Domain::Inet { protocol::ICMP } else { protocol::ICMPV6 };
        if protocol != i32::from(own) {
            return Err(Errno::EPROTONOSUPPORT);
        }
        let range = PING_GROUPS.load(Relaxed);
        if !((range >> 32) as u32..=range as u32).contains(&creator.gid) {
            return Err(Errno::EACCES);
        }
        Ok(Self::with(domain, Style::Datagram, protocol, creator))
    }

    /// Gives a ping socket an identifier: the one asked for, or a free one. EADDRINUSE.
    fn take_identifier(&self, wanted: u16) -> Result<u16> {
        let table = TABLE.lock();
        let is_free = |identifier: u16| {
            !table.iter().any(|other| {
                other.pings
                    && !core::ptr::eq(&**other, self)
                    && other.core.base.domain() == self.core.base.domain()
                    && other.core.names().local.port() == identifier
            })
        };
        let identifier = match wanted {
            0 => {
                let start = crate::random::below(u64::from(u16::MAX)) as u16;
                let mut candidates = (0..u16::MAX).map(|step| start.wrapping_add(step).max(1));
                candidates.find(|&identifier| is_free(identifier))
            }
            wanted => Some(wanted).filter(|&identifier| is_free(identifier)),
        };
        let identifier = identifier.ok_or(Errno::EADDRINUSE)?;
        let mut names = self.core.names();
        names.local.set_port(identifier);
        self.core.set_names(names);
        Ok(identifier)
    }

    fn ensure_identifier(&self) -> Result<u16> {
        match self.core.names().local.port() {
            0 => self.take_identifier(0),
            identifier => Ok(identifier),
        }
    }

    fn includes_header(&self) -> bool {
        use crate::inet::options::InetSwitches;
        let switch = match self.core.base.domain() {
            Domain::Inet => InetSwitches::HEADER_INCLUDED4,
            _ => InetSwitches::HEADER_INCLUDED6,
        };
        self.core.base.protocol() == HEADERS_ONLY || self.core.options.is_on(switch)
    }
}

impl File for RawSocket {
    crate::base::message_file!(core.base);

    fn poll(&self) -> Events {
        self.core.poll()
    }

    fn ioctl(&self, request: u32, argument: usize) -> Result<usize> {
        self.core.ioctl(request, argument)
    }

    fn close(&self) {
        if self.closed.swap(true, Relaxed) {
            return;
        }
        let mut table = TABLE.lock();
        let place = table.iter().position(|other| core::ptr::eq(&**other, self));
        let gone = place.map(|place| table.swap_remove(place));
        COUNT.store(table.len(), Relaxed);
        drop(table);
        drop(gone);
        self.core.close();
    }
}

impl Socket for RawSocket {
    fn domain(&self) -> Domain {
        self.core.base.domain()
    }

    fn style(&self) -> Style {
        self.core.base.style()
    }

    fn protocol(&self) -> i32 {
        self.core.base.protocol()
    }

    fn bind(&self, address: Address) -> Result<()> {
        let mut local = self.core.check_bind(&address)?;
        if self.pings {
            if self.core.names().local.port() != 0 {
                return Err(Errno::EINVAL);
            }
            let identifier = self.take_identifier(local.port())?;
            local.set_port(identifier);
        } else {
            local.set_port(0);
        }
        let names = self.core.names();
        self.core.set_names(Names { local, ..names });
        Ok(())
    }

    fn listen(&self, _backlog: usize, _caller: Credentials) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn accept(&self, _no_wait: bool) -> Result<Arc<dyn Socket>> {
        Err(Errno::EOPNOTSUPP)
    }

    fn connect(&self, address: &Address, _no_wait: bool, _caller: Credentials) -> Result<()> {
        let mut names = self.core.names();
        if matches!(address, Address::Unnamed) {
            if names.chosen {
                let port = names.local.port();
                names.local = unspecified(self.core.base.domain());
                names.local.set_port(port);
            }
            self.core.set_names(Names { remote: None, chosen: false, ..names });
            return Ok(());
        }
        let mut remote = self.core.destination(Some(address))?;
        remote.set_port(0);
        let route = self.core.route_to(remote, &Wishes::default())?;
        if self.pings {
            self.ensure_identifier()?;
            names = self.core.names();
        }
        if names.local.ip().is_unspecified() || names.chosen {
            names.local = inet::with_scope(route.source, names.local.port(), route.interface.index());
            names.chosen = true;
        }
        self.core.set_names(Names { remote: Some(remote), ..names });
        Ok(())
    }

    fn name(&self) -> Address {
        self.core.name()
    }

    fn peer_name(&self) -> Result<Address> {
        self.core.peer_name()
    }

    fn peer_credentials(&self) -> Option<Credentials> {
        None
    }

    fn send(
        &self,
        source: &mut Source<'_>,
        to: Option<&Address>,
        ancillary: Ancillary,
        flags: MessageFlags,
    ) -> Result<usize> {
        let mut posted = Posted::default();
        let result = self.send_message(source, to, &ancillary, flags, &mut posted);
        posted.flush();
        result
    }

    fn receive(&self, sink: &mut Sink<'_>, flags: MessageFlags) -> Result<Received> {
        self.core.receive(sink, flags)
    }

    fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        self.core.shutdown(read, write)
    }

    fn option(&self, level: i32, name: i32) -> Result<Value> {
        match (level, name) {
            (level::RAW, FILTER) => Ok(Value::words(&self.filter.lock()[..1])),
            (level::ICMPV6, FILTER) => Ok(Value::words(&*self.filter.lock())),
            (level::RAW | level::IPV6, CHECKSUM) => Ok(Value::int(self.checksum_at.load(Relaxed))),
            _ => self.core.option(level, name),
        }
    }

    fn set_option(&self, level: i32, name: i32, value: &[u8]) -> Result<()> {
        match (level, name) {
            (level::RAW | level::ICMPV6, FILTER) => {
                let mut filter = self.filter.lock();
                for (place, word) in filter.iter_mut().zip(value.chunks_exact(4)) {
                    *place = int(word)? as u32;
                }
            }
            (level::RAW | level::IPV6, CHECKSUM) => {
                let at = int(value)?;
                // RFC 3542, section 3.1: even, and not to be changed for ICMPv6.
                if at > 0 && at % 2 != 0 || self.core.base.protocol() == i32::from(protocol::ICMPV6) {
                    return Err(Errno::EINVAL);
                }
                self.checksum_at.store(at.max(-1), Relaxed);
            }
            _ => return self.core.set_option(level, name, value),
        }
        Ok(())
    }

    fn available(&self) -> usize {
        self.core.queue.first_length()
    }
}

/// An address without its port.
fn without_port(mut address: SocketAddr) -> SocketAddr {
    address.set_port(0);
    address
}
