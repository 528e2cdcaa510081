//! Packet sockets (packet(7)): whole packets of the links, as they come and go.

pub mod filter;
mod ring;
#[cfg(test)]
mod tests;
mod transfer;

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use rumpkern::{
    Errno, Result,
    poll::Events,
    uio::{Sink, Source},
    vm::Pager,
};
use rumpuser::{
    rumpuser_copyout,
    sync::{Mutex, SpinLock},
};
use rumpvfs::file::File;

use self::{filter::Filter, ring::Ring};
use crate::{
    base::{SocketBase, name},
    datagram::DatagramQueue,
    inet::options::{interface_name, set_interface},
    interface::{
        self, Posted,
        tap::{self, Tap},
    },
    netlink::route::link::hardware_type,
    option::{Value, int, level, word},
    socket::{Address, Ancillary, Credentials, Domain, MessageFlags, PacketAddress, Received, Socket, Style},
};

/// Every protocol (ETH_P_ALL).
const ALL: u16 = 3;

/// Names of options (linux/if_packet.h).
mod option_name {
    pub const ADD_MEMBERSHIP: i32 = 1;
    pub const DROP_MEMBERSHIP: i32 = 2;
    pub const RX_RING: i32 = 5;
    pub const STATISTICS: i32 = 6;
    pub const COPY_THRESH: i32 = 7;
    pub const AUXDATA: i32 = 8;
    pub const ORIGDEV: i32 = 9;
    pub const VERSION: i32 = 10;
    pub const RESERVE: i32 = 12;
    pub const LOSS: i32 = 14;
    pub const TIMESTAMP: i32 = 17;
    pub const QDISC_BYPASS: i32 = 20;
    pub const IGNORE_OUTGOING: i32 = 23;
}

/// A socket as /proc shows it.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot {
    /// `SOCK_*`.
    pub style: i32,
    /// The protocol.
    pub protocol: u16,
    /// The interface, or 0.
    pub interface: u32,
    /// Bytes that wait.
    pub waiting: usize,
    /// The user.
    pub uid: u32,
    /// The inode.
    pub inode: u64,
}

static SOCKETS: SpinLock<Vec<Weak<PacketSocket>>> = SpinLock::new(Vec::new());

/// The packet sockets.
pub fn list() -> Vec<Snapshot> {
    let sockets: Vec<_> = SOCKETS.lock().iter().filter_map(Weak::upgrade).collect();
    let snapshot = |socket: &Arc<PacketSocket>| {
        let bound = *socket.bound.lock();
        Snapshot {
            style: socket.base.style() as i32,
            protocol: bound.protocol,
            interface: bound.interface,
            waiting: socket.queue.used(),
            uid: socket.base.creator().uid,
            inode: socket.base.inode(),
        }
    };
    sockets.iter().filter(|socket| !socket.closed.load(Relaxed)).map(snapshot).collect()
}

/// What it takes from where.
#[derive(Debug, Clone, Copy)]
struct Bound {
    protocol: u16,
    interface: u32,
}

/// `struct packet_mreq`: an interface, what is wanted of it, an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Membership {
    interface: u32,
    kind: u16,
    address: [u8; 6],
}

/// A packet socket.
pub struct PacketSocket {
    base: SocketBase,
    queue: DatagramQueue,
    bound: SpinLock<Bound>,
    filter: SpinLock<Option<Arc<Filter>>>,
    ring: SpinLock<Option<Arc<Ring>>>,
    /// Room that the program wants in front of the data in a ring.
    reserve: AtomicU32,
    taken: AtomicU32,
    dropped: AtomicU32,
    auxiliary: AtomicBool,
    ignores_outgoing: AtomicBool,
    /// The socket itself, while it sees packets.
    tap: Mutex<Option<Arc<dyn Tap>>>,
    memberships: Mutex<Vec<Membership>>,
    closed: AtomicBool,
}

impl PacketSocket {
    /// A socket for whole packets (SOCK_RAW), or without link header (SOCK_DGRAM). `protocol` in network order, as
    /// socket(2) has it.
    pub fn new(style: Style, protocol: i32, creator: Credentials) -> Arc<Self> {
        let bound = Bound { protocol: u16::from_be(protocol as u16), interface: 0 };
        let socket = Arc::new(PacketSocket {
            base: SocketBase::new(Domain::Packet, style, protocol, creator),
            queue: DatagramQueue::default(),
            bound: SpinLock::new(bound),
            filter: SpinLock::new(None),
            ring: SpinLock::new(None),
            reserve: AtomicU32::new(0),
            taken: AtomicU32::new(0),
            dropped: AtomicU32::new(0),
            auxiliary: AtomicBool::new(false),
            ignores_outgoing: AtomicBool::new(false),
            tap: Mutex::new(None),
            memberships: Mutex::new(Vec::new()),
            closed: AtomicBool::new(false),
        });
        let mut sockets = SOCKETS.lock();
        sockets.retain(|socket| socket.strong_count() > 0);
        sockets.push(Arc::downgrade(&socket));
        drop(sockets);
        let as_tap: Arc<dyn Tap> = socket.clone();
        tap::add(as_tap.clone());
        *socket.tap.lock() = Some(as_tap);
        socket
    }

    fn change_membership(&self, joins: bool, value: &[u8]) -> Result<()> {
        let interface = word(value, 0).ok_or(Errno::EINVAL)?;
        let kind = word(value, 4).ok_or(Errno::EINVAL)? as u16;
        let address = value.get(8..14).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
        let membership = Membership { interface, kind, address };
        let mut memberships = self.memberships.lock();
        if joins {
            if interface::by_index(interface).is_none() {
                return Err(Errno::ENODEV);
            }
            apply(&membership, true)?;
            memberships.push(membership);
        } else {
            let place = memberships.iter().position(|other| *other == membership);
            let gone = memberships.swap_remove(place.ok_or(Errno::EADDRNOTAVAIL)?);
            apply(&gone, false)?;
        }
        Ok(())
    }

    fn set_ring(&self, value: &[u8]) -> Result<()> {
        let size = |at| word(value, at).map(|size| size as usize).ok_or(Errno::EINVAL);
        let (block, blocks, frame, frames) = (size(0)?, size(4)?, size(8)?, size(12)?);
        let ring = if blocks == 0 { None } else { Some(Ring::new(block, blocks, frame, frames)?) };
        let old = core::mem::replace(&mut *self.ring.lock(), ring);
        drop(old);
        Ok(())
    }
}

fn apply(membership: &Membership, joins: bool) -> Result<()> {
    const MULTICAST: u16 = 0;
    const PROMISCUOUS: u16 = 1;
    const ALL_MULTICAST: u16 = 2;
    let Some(interface) = interface::by_index(membership.interface) else { return Ok(()) };
    match membership.kind {
        MULTICAST if joins => interface.join(membership.address),
        MULTICAST => interface.leave(membership.address),
        PROMISCUOUS | ALL_MULTICAST => {
            interface.set_promiscuous(joins, membership.kind == ALL_MULTICAST);
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

impl File for PacketSocket {
    crate::base::message_file!(base);

    fn poll(&self) -> Events {
        let mut events = Events::OUT | Events::WRNORM | Events::WRBAND;
        let ring = self.ring.lock().clone();
        if ring.map_or(!self.queue.is_empty(), |ring| ring.is_readable()) {
            events |= Events::IN | Events::RDNORM;
        }
        if self.base.has_error() {
            events |= Events::ERR;
        }
        events
    }

    fn ioctl(&self, request: u32, argument: usize) -> Result<usize> {
        const SIOCINQ: u32 = 0x541b;
        const SIOCOUTQ: u32 = 0x5411;
        let value = match request {
            SIOCINQ => self.queue.first_length() as i32,
            SIOCOUTQ => 0,
            _ => return Err(Errno::ENOTTY),
        };
        if rumpuser_copyout(&value.to_le_bytes(), argument) == 0 { Ok(0) } else { Err(Errno::EFAULT) }
    }

    fn pager(&self) -> Result<Arc<dyn Pager>> {
        let ring = self.ring.lock().clone();
        ring.map(|ring| ring as Arc<dyn Pager>).ok_or(Errno::EINVAL)
    }

    fn close(&self) {
        if self.closed.swap(true, Relaxed) {
            return;
        }
        if let Some(own) = self.tap.lock().take() {
            tap::remove(&own);
        }
        for membership in core::mem::take(&mut *self.memberships.lock()) {
            let _ = apply(&membership, false);
        }
        self.queue.clear();
        let ring = self.ring.lock().take();
        drop(ring);
    }
}

impl Socket for PacketSocket {
    fn domain(&self) -> Domain {
        Domain::Packet
    }

    fn style(&self) -> Style {
        self.base.style()
    }

    fn protocol(&self) -> i32 {
        self.base.protocol()
    }

    fn bind(&self, address: Address) -> Result<()> {
        let Address::Packet(address) = address else { return Err(Errno::EINVAL) };
        if address.interface != 0 && interface::by_index(address.interface).is_none() {
            return Err(Errno::ENODEV);
        }
        let mut bound = self.bound.lock();
        bound.interface = address.interface;
        if address.protocol != 0 {
            bound.protocol = address.protocol;
        }
        Ok(())
    }

    fn listen(&self, _backlog: usize, _caller: Credentials) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn accept(&self, _no_wait: bool) -> Result<Arc<dyn Socket>> {
        Err(Errno::EOPNOTSUPP)
    }

    fn connect(&self, _address: &Address, _no_wait: bool, _caller: Credentials) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn name(&self) -> Address {
        let bound = *self.bound.lock();
        let interface = interface::by_index(bound.interface);
        let mut address = PacketAddress {
            protocol: bound.protocol,
            interface: bound.interface,
            ..PacketAddress::default()
        };
        if let Some(interface) = interface {
            address.hardware_type = hardware_type(&interface);
            address.length = 6;
            address.address[..6].copy_from_slice(&interface.hardware());
        }
        Address::Packet(address)
    }

    fn peer_name(&self) -> Result<Address> {
        Err(Errno::EOPNOTSUPP)
    }

    fn peer_credentials(&self) -> Option<Credentials> {
        None
    }

    fn send(
        &self,
        source: &mut Source<'_>,
        to: Option<&Address>,
        _ancillary: Ancillary,
        _flags: MessageFlags,
    ) -> Result<usize> {
        let mut posted = Posted::default();
        let result = self.send_packet(source, to, &mut posted);
        posted.flush();
        result
    }

    fn receive(&self, sink: &mut Sink<'_>, flags: MessageFlags) -> Result<Received> {
        self.receive_packet(sink, flags)
    }

    fn shutdown(&self, _read: bool, _write: bool) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn option(&self, level: i32, option: i32) -> Result<Value> {
        use option_name::*;
        match (level, option) {
            (level::SOCKET, name::BINDTODEVICE) => Ok(interface_name(&self.base)),
            (level::SOCKET, option) => self.base.option(option),
            (level::PACKET, STATISTICS) => {
                // Reading clears them. Those dropped count among those taken.
                let (taken, dropped) = (self.taken.swap(0, Relaxed), self.dropped.swap(0, Relaxed));
                Ok(Value::words(&[taken.saturating_add(dropped), dropped]))
            }
            (level::PACKET, AUXDATA) => Ok(Value::switch(self.auxiliary.load(Relaxed))),
            (level::PACKET, IGNORE_OUTGOING) => Ok(Value::switch(self.ignores_outgoing.load(Relaxed))),
            (level::PACKET, VERSION) => Ok(Value::int(1)),
            (level::PACKET, RESERVE) => Ok(Value::int(self.reserve.load(Relaxed) as i32)),
            (level::PACKET, ORIGDEV | LOSS | TIMESTAMP | QDISC_BYPASS) => Ok(Value::int(0)),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn set_option(&self, level: i32, option: i32, value: &[u8]) -> Result<()> {
        use option_name::*;
        match (level, option) {
            (level::SOCKET, name::ATTACH_FILTER) => {
                let filter = Filter::new(value)?;
                let old = self.filter.lock().replace(filter);
                drop(old);
                Ok(())
            }
            (level::SOCKET, name::DETACH_FILTER) => {
                let old = self.filter.lock().take();
                old.map(drop).ok_or(Errno::ENOENT)
            }
            (level::SOCKET, option) => set_interface(&self.base, option, value)
                .unwrap_or_else(|| self.base.set_option(option, value)),
            (level::PACKET, ADD_MEMBERSHIP | DROP_MEMBERSHIP) => {
                self.change_membership(option == ADD_MEMBERSHIP, value)
            }
            (level::PACKET, RX_RING) => self.set_ring(value),
            (level::PACKET, VERSION) if int(value)? == 1 => Ok(()),
            (level::PACKET, VERSION) => Err(Errno::EINVAL),
            (level::PACKET, RESERVE) => {
                let reserve = u32::try_from(int(value)?).map_err(|_| Errno::EINVAL)?;
                if reserve > 4096 {
                    return Err(Errno::EINVAL);
                }
                self.reserve.store(reserve, Relaxed);
                Ok(())
            }
            (level::PACKET, AUXDATA) => {
                self.auxiliary.store(int(value)? != 0, Relaxed);
                Ok(())
            }
            (level::PACKET, IGNORE_OUTGOING) => {
                self.ignores_outgoing.store(int(value)? != 0, Relaxed);
                Ok(())
            }
            // Hints.
            (level::PACKET, COPY_THRESH | ORIGDEV | LOSS | TIMESTAMP | QDISC_BYPASS) => Ok(()),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn available(&self) -> usize {
        self.queue.first_length()
    }
}
