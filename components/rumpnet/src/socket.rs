//! What a socket of any family can do.

use alloc::{sync::Arc, vec::Vec};
use core::{any::Any, net::SocketAddr};

use once_cell::race::OnceRef;

use rumpkern::{
    Errno, Result,
    uio::{Sink, Source},
};
use rumpvfs::{file::File, vnode::Vnode};
use smallvec::SmallVec;

use crate::{
    inet::stream::StreamSocket, netlink::NetlinkSocket, option::Value, packet::Chain,
    packet_socket::PacketSocket, raw::RawSocket, udp::UdpSocket, unix::UnixSocket,
};

/// Address families, with Linux's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Domain {
    /// AF_UNIX.
    Unix = 1,
    /// AF_INET.
    Inet = 2,
    /// AF_INET6.
    Inet6 = 10,
    /// AF_NETLINK.
    Netlink = 16,
    /// AF_PACKET.
    Packet = 17,
}

/// Socket types, with Linux's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Style {
    /// SOCK_STREAM.
    Stream = 1,
    /// SOCK_DGRAM.
    Datagram = 2,
    /// SOCK_RAW.
    Raw = 3,
    /// SOCK_SEQPACKET.
    SequencedPacket = 5,
}

/// Where a socket is, or is to be.
#[derive(Clone)]
pub enum Address {
    /// Nowhere.
    Unnamed,
    /// A Unix socket with a name in the file system: the name that was used, and what it leads to.
    Path(Vec<u8>, Arc<dyn Vnode>),
    /// A Unix socket in the abstract name space.
    Abstract(Vec<u8>),
    /// An IPv4 or IPv6 address and port; of the socket's own family, IPv4 peers of IPv6 sockets in mapped form.
    Internet(SocketAddr),
    /// A place on a link.
    Packet(PacketAddress),
    /// A netlink port; 0 is the kernel.
    Netlink {
        /// The port.
        port: u32,
        /// Multicast groups, a bit each.
        groups: u32,
    },
}

/// `struct sockaddr_ll` (packet(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PacketAddress {
    /// The Ethernet protocol; 0 is none.
    pub protocol: u16,
    /// The interface; 0 is any.
    pub interface: u32,
    /// `ARPHRD_*`.
    pub hardware_type: u16,
    /// `PACKET_*`: to whom the packet is.
    pub direction: u8,
    /// How many bytes of the address count.
    pub length: u8,
    /// The hardware address.
    pub address: [u8; 8],
}

/// Who is at the other end (SO_PEERCRED, SCM_CREDENTIALS).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The process.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// An open file on its way to another process (SCM_RIGHTS). The personality knows what it really is.
pub type Right = Arc<dyn Any + Send + Sync>;

/// What travels beside the data of a message.
#[derive(Default, Clone)]
pub struct Ancillary {
    /// Who sent it, if known.
    pub credentials: Option<Credentials>,
    /// Open files.
    pub rights: Vec<Right>,
    /// What protocols add, in the order it comes.
    pub controls: Vec<Control>,
}

/// An element of a message's ancillary data (`struct cmsghdr` and what follows).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// `SOL_*`.
    pub level: i32,
    /// What it is, at that level.
    pub kind: i32,
    /// Its data, as programs see it.
    pub data: SmallVec<[u8; 24]>,
}

bitflags::bitflags! {
    /// `MSG_*`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct MessageFlags: u32 {
        /// Urgent data.
        const OUT_OF_BAND = 0x1;
        /// Look, don't take.
        const PEEK = 0x2;
        /// No route.
        const DONT_ROUTE = 0x4;
        /// Ancillary data was cut.
        const CONTROL_TRUNCATED = 0x8;
        /// The message was cut; asked for: return its real length.
        const TRUNCATED = 0x20;
        /// Never wait.
        const DONT_WAIT = 0x40;
        /// End of a record.
        const END_OF_RECORD = 0x80;
        /// Wait for everything.
        const WAIT_ALL = 0x100;
        /// A datagram's path is known to be right.
        const CONFIRM = 0x800;
        /// Errors from the queue.
        const ERROR_QUEUE = 0x2000;
        /// No SIGPIPE.
        const NO_SIGNAL = 0x4000;
        /// More follows.
        const MORE = 0x8000;
        /// recvmmsg: wait for the first only.
        const WAIT_FOR_ONE = 0x10000;
        /// More messages of the same sendmmsg follow.
        const BATCH = 0x40000;
        /// The data's pages are not copied.
        const ZERO_COPY = 0x400_0000;
        /// Send data with the connection request.
        const FAST_OPEN = 0x2000_0000;
        /// Received descriptors are closed on execve.
        const CLOSE_ON_EXEC = 0x4000_0000;
    }
}

/// What was received.
pub struct Received {
    /// Bytes put into the sink, or with [`MessageFlags::TRUNCATED`] asked for, the length of the message.
    pub length: usize,
    /// Who sent it, for sockets without a connection.
    pub source: Option<Address>,
    /// What came with it.
    pub ancillary: Ancillary,
    /// What happened ([`MessageFlags::TRUNCATED`]).
    pub flags: MessageFlags,
}

/// A socket. As a [`File`], reads and writes are receives and sends without flags.
pub trait Socket: File {
    /// Its family.
    fn domain(&self) -> Domain;
    /// Its type.
    fn style(&self) -> Style;
    /// Its protocol (SO_PROTOCOL).
    fn protocol(&self) -> i32 {
        0
    }
    /// Gives it an address.
    fn bind(&self, address: Address) -> Result<()>;
    /// Makes it accept connections.
    fn listen(&self, backlog: usize, caller: Credentials) -> Result<()>;
    /// Takes a connection; waits for one unless `no_wait`.
    fn accept(&self, no_wait: bool) -> Result<Arc<dyn Socket>>;
    /// Connects it; [`Address::Unnamed`] dissolves a datagram socket's connection.
    fn connect(&self, address: &Address, no_wait: bool, caller: Credentials) -> Result<()>;
    /// Its own address.
    fn name(&self) -> Address;
    /// The other end's address. ENOTCONN without one.
    fn peer_name(&self) -> Result<Address>;
    /// The other end's credentials.
    fn peer_credentials(&self) -> Option<Credentials>;
    /// Sends a message; `to` for sockets without a connection.
    fn send(
        &self,
        source: &mut Source<'_>,
        to: Option<&Address>,
        ancillary: Ancillary,
        flags: MessageFlags,
    ) -> Result<usize>;
    /// Receives a message.
    fn receive(&self, sink: &mut Sink<'_>, flags: MessageFlags) -> Result<Received>;
    /// Ends reading, writing or both.
    fn shutdown(&self, read: bool, write: bool) -> Result<()>;
    /// An option's value, as programs see it. `level` and `name` have Linux's numbers. ENOPROTOOPT if there is
    /// no such option.
    fn option(&self, level: i32, name: i32) -> Result<Value>;
    /// Sets an option to a value as programs write it.
    fn set_option(&self, level: i32, name: i32, value: &[u8]) -> Result<()>;
    /// Bytes that a receive would give.
    fn available(&self) -> usize;
    /// Takes received bytes without a copy, at most `most`; none at the end of the stream. EOPNOTSUPP where only
    /// [`Socket::receive`] will do.
    fn take_chain(&self, _most: usize, _flags: MessageFlags) -> Result<Chain> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Puts back the end of what [`Socket::take_chain`] gave.
    fn return_chain(&self, _chain: Chain) {}
    /// Sends pages without a copy; what is left in `chain` was not sent. Returns how many bytes were. EOPNOTSUPP
    /// where only [`Socket::send`] will do.
    fn send_chain(&self, _chain: &mut Chain, _flags: MessageFlags) -> Result<usize> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Whether SO_PASSCRED is set.
    fn passes_credentials(&self) -> bool {
        false
    }
}

/// The socket behind a file. ENOTSOCK if it is none.
#[inline]
pub fn of_file(file: &dyn File) -> Result<&dyn Socket> {
    let any = file.as_any();
    if let Some(socket) = any.downcast_ref::<StreamSocket>() {
        return Ok(socket);
    }
    if let Some(socket) = any.downcast_ref::<UnixSocket>() {
        return Ok(socket);
    }
    if let Some(socket) = any.downcast_ref::<UdpSocket>() {
        return Ok(socket);
    }
    if let Some(socket) = any.downcast_ref::<RawSocket>() {
        return Ok(socket);
    }
    if let Some(socket) = any.downcast_ref::<PacketSocket>() {
        return Ok(socket);
    }
    if let Some(socket) = any.downcast_ref::<NetlinkSocket>() {
        return Ok(socket);
    }
    OUTSIDE.get().and_then(|outside| (outside.of_any)(any)).ok_or(Errno::ENOTSOCK)
}

/// The internet sockets of another network, in place of this crate's.
pub struct Outside {
    /// Makes a socket of AF_INET or AF_INET6. Errors as [`Creation::socket`].
    pub create: fn(&Creation, Domain, Style) -> Result<Arc<dyn Socket>>,
    /// The socket that a file is, if it is one of these.
    pub of_any: fn(&dyn Any) -> Option<&dyn Socket>,
    /// Waits until the other network is configured, and the interfaces show what it has.
    pub wait_ready: fn(),
}

static OUTSIDE: OnceRef<'static, Outside> = OnceRef::new();

/// From now on, internet sockets are another network's. Only the first call counts.
pub fn use_outside(outside: &'static Outside) {
    let _ = OUTSIDE.set(outside);
}

/// The other network, if there is one: the interfaces show what it has, and can't be changed.
pub fn outside() -> Option<&'static Outside> {
    OUTSIDE.get()
}

/// What socket(2) asks for, as numbers of Linux's.
#[derive(Debug, Clone, Copy)]
pub struct Creation {
    /// `AF_*`.
    pub domain: i32,
    /// `SOCK_*`, without flags.
    pub style: i32,
    /// The protocol; 0 for the usual one.
    pub protocol: i32,
    /// The program may read and write packets as it likes (CAP_NET_RAW).
    pub raw: bool,
    /// Who asks.
    pub creator: Credentials,
}

/// Families that Linux has room for (AF_MAX).
const DOMAINS: i32 = 46;
/// Types, SOCK_PACKET being the last.
const STYLES: i32 = 11;

impl Creation {
    fn domain(&self) -> Result<Domain> {
        [Domain::Unix, Domain::Inet, Domain::Inet6, Domain::Netlink, Domain::Packet]
            .into_iter()
            .find(|&domain| domain as i32 == self.domain)
            .ok_or(Errno::EAFNOSUPPORT)
    }

    fn style(&self) -> Result<Style> {
        [Style::Stream, Style::Datagram, Style::Raw, Style::SequencedPacket]
            .into_iter()
            .find(|&style| style as i32 == self.style)
            .ok_or(Errno::ESOCKTNOSUPPORT)
    }

    fn check(&self) -> Result<(Domain, Style)> {
        if !(0..DOMAINS).contains(&self.domain) {
            return Err(Errno::EAFNOSUPPORT);
        }
        if !(1..STYLES).contains(&self.style) {
            return Err(Errno::EINVAL);
        }
        Ok((self.domain()?, self.style()?))
    }

    fn unix_style(&self, style: Style) -> Result<Style> {
        if self.protocol != 0 && self.protocol != Domain::Unix as i32 {
            return Err(Errno::EPROTONOSUPPORT);
        }
        // A raw Unix socket is a datagram socket.
        Ok(if style == Style::Raw { Style::Datagram } else { style })
    }

    /// A new socket. EAFNOSUPPORT, EINVAL, ESOCKTNOSUPPORT, EPROTONOSUPPORT, EPERM.
    pub fn socket(&self) -> Result<Arc<dyn Socket>> {
        let (domain, style) = self.check()?;
        if let (Domain::Inet | Domain::Inet6, Some(outside)) = (domain, OUTSIDE.get()) {
            if style == Style::Raw && !self.raw {
                return Err(Errno::EPERM);
            }
            return (outside.create)(self, domain, style);
        }
        Ok(match (domain, style) {
            (Domain::Unix, style) => UnixSocket::new(self.unix_style(style)?, self.creator),
            (Domain::Inet | Domain::Inet6, Style::Datagram) => match self.protocol {
                0 | 17 => UdpSocket::new(domain, self.creator),
                protocol => RawSocket::new_ping(domain, protocol, self.creator)?,
            },
            (Domain::Inet | Domain::Inet6, Style::Raw) if !self.raw => return Err(Errno::EPERM),
            (Domain::Inet | Domain::Inet6, Style::Raw) => {
                RawSocket::new(domain, self.protocol, self.creator)?
            }
            (Domain::Inet | Domain::Inet6, Style::Stream) => match self.protocol {
                0 | 6 => StreamSocket::new(domain, self.creator),
                _ => return Err(Errno::EPROTONOSUPPORT),
            },
            (Domain::Inet | Domain::Inet6, _) => return Err(Errno::ESOCKTNOSUPPORT),
            (Domain::Netlink, Style::Datagram | Style::Raw) => {
                NetlinkSocket::new(style, self.protocol, self.creator)?
            }
            (Domain::Packet, _) if !self.raw => return Err(Errno::EPERM),
            (Domain::Packet, Style::Datagram | Style::Raw) => {
                PacketSocket::new(style, self.protocol, self.creator)
            }
            (Domain::Netlink | Domain::Packet, _) => return Err(Errno::ESOCKTNOSUPPORT),
        })
    }

    /// Two sockets connected to each other. EOPNOTSUPP, or as [`Creation::socket`].
    pub fn pair(&self) -> Result<(Arc<dyn Socket>, Arc<dyn Socket>)> {
        match self.check()? {
            (Domain::Unix, style) => {
                let (one, other) = UnixSocket::pair(self.unix_style(style)?, self.creator);
                Ok((one, other))
            }
            _ => self.socket().and(Err(Errno::EOPNOTSUPP)),
        }
    }
}
