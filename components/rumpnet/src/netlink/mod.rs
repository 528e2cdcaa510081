//! Netlink sockets (netlink(7)): questions about, and changes to, interfaces, addresses, routes and neighbours
//! ([`route`]); lists of sockets ([`diagnostics`]). A request is answered before the send returns.

pub mod diagnostics;
pub mod message;
mod notify;
pub mod route;
#[cfg(test)]
mod tests;
mod unix_diagnostics;

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use rumpkern::{
    Errno, Result,
    poll::Events,
    uio::{Sink, Source},
};
use rumpuser::{
    rumpuser_copyout,
    sync::{Mutex, SpinLock},
};
use rumpvfs::file::File;

use self::message::{Builder, Message, flag};
use crate::{
    base::{self, SocketBase},
    datagram::{Datagram, DatagramQueue, Metadata},
    option::{Value, int, level},
    packet::Chain,
    socket::{Address, Ancillary, Control, Credentials, Domain, MessageFlags, Received, Socket, Style},
};

/// Interfaces, addresses, routes.
pub const ROUTE: i32 = 0;
/// Lists of sockets.
pub const SOCK_DIAG: i32 = 4;
/// Device events, of which there are none: programs that wait for them may.
const KOBJECT_UEVENT: i32 = 15;

/// The longest request.
const REQUEST_MAX: usize = 64 << 10;
/// How much of a dump goes into one datagram.
const CHUNK: usize = 8 << 10;

const ADD_MEMBERSHIP: i32 = 1;
const DROP_MEMBERSHIP: i32 = 2;
const PKTINFO: i32 = 3;
const NO_ENOBUFS: i32 = 5;
const LIST_MEMBERSHIPS: i32 = 9;
const CAP_ACK: i32 = 10;
const EXT_ACK: i32 = 11;
const STRICT_CHECK: i32 = 12;

/// The sockets that have a port, by protocol and port.
static PORTS: SpinLock<Vec<(i32, u32, Weak<NetlinkSocket>)>> = SpinLock::new(Vec::new());

/// A netlink socket.
pub struct NetlinkSocket {
    base: SocketBase,
    myself: Weak<NetlinkSocket>,
    queue: DatagramQueue,
    port: AtomicU32,
    /// Multicast groups, a bit each from 1 on.
    groups: AtomicU32,
    /// The options of SOL_NETLINK, a bit each by their number.
    switches: AtomicU32,
    /// The kernel's messages got lost: the next receive says so.
    overrun: AtomicBool,
    /// Held while a request is answered.
    answering: Mutex<()>,
    closed: AtomicBool,
}

/// Collects the answer to a request.
pub struct Answer<'a> {
    socket: &'a NetlinkSocket,
    builder: Builder,
    /// The asker's port and number, for headers.
    pub id: (u32, u32),
    /// Flags of each message.
    pub flags: u16,
}

impl Answer<'_> {
    /// Begins a message.
    pub fn begin(&mut self, kind: u16, family_header: &[u8]) -> &mut Builder {
        if self.builder.len() >= CHUNK {
            self.push();
        }
        self.builder.begin(kind, self.flags, self.id, family_header);
        &mut self.builder
    }

    fn push(&mut self) {
        if !self.builder.is_empty() {
            self.socket.put(self.builder.take(), 0, usize::MAX);
        }
    }
}

impl NetlinkSocket {
    /// A socket of a protocol. EPROTONOSUPPORT for those that are not there.
    pub fn new(style: Style, protocol: i32, creator: Credentials) -> Result<Arc<Self>> {
        if !matches!(protocol, ROUTE | SOCK_DIAG | KOBJECT_UEVENT) {
            return Err(Errno::EPROTONOSUPPORT);
        }
        Ok(Arc::new_cyclic(|myself| NetlinkSocket {
            base: SocketBase::new(Domain::Netlink, style, protocol, creator),
            myself: myself.clone(),
            queue: DatagramQueue::default(),
            port: AtomicU32::new(0),
            groups: AtomicU32::new(0),
            switches: AtomicU32::new(0),
            overrun: AtomicBool::new(false),
            answering: Mutex::new(()),
            closed: AtomicBool::new(false),
        }))
    }

    /// Takes a port: `wanted`, or one that suits the caller. EADDRINUSE.
    fn take_port(&self, wanted: u32) -> Result<()> {
        let protocol = self.base.protocol();
        let mut ports = PORTS.lock();
        ports.retain(|(_, _, socket)| socket.strong_count() > 0);
        let is_free = |port: u32| !ports.iter().any(|&(other, taken, _)| (other, taken) == (protocol, port));
        let port = match wanted {
            0 => {
                let own = self.base.creator().pid as u32;
                // As Linux: the process, or a number that looks negative.
                let mut candidates = core::iter::once(own).chain((0x8000_1000..=u32::MAX).rev());
                candidates.find(|&port| port != 0 && is_free(port)).ok_or(Errno::EADDRINUSE)?
            }
            port if is_free(port) => port,
            _ => return Err(Errno::EADDRINUSE),
        };
        ports.push((protocol, port, self.myself.clone()));
        self.port.store(port, Relaxed);
        Ok(())
    }

    fn set_groups(&self, groups: u32) {
        self.groups.store(groups, Relaxed);
        if groups != 0 && self.base.protocol() == ROUTE {
            notify::start();
        }
    }

    fn is_on(&self, option: i32) -> bool {
        self.switches.load(Relaxed) >> option & 1 == 1
    }

    /// Queues messages from the kernel, or says that they were lost.
    fn put(&self, messages: Vec<u8>, groups: u32, limit: usize) {
        let Ok(data) = Chain::copy_of(&messages) else {
            self.overrun.store(true, Relaxed);
            return;
        };
        let datagram = Datagram {
            data,
            source: Address::Netlink { port: 0, groups },
            metadata: Metadata { status: groups, ..Metadata::default() },
        };
        if !self.queue.push(datagram, limit) && !self.is_on(NO_ENOBUFS) {
            self.overrun.store(true, Relaxed);
        }
        self.base.changes.notify(Events::IN | Events::RDNORM);
    }

    /// Answers a request.
    fn answer(&self, request: &[u8], privileged: bool) -> Result<()> {
        let _answering = self.answering.lock();
        for message in message::messages(request) {
            if message.flags & flag::REQUEST == 0 || message.kind < 16 {
                continue;
            }
            let id = (self.port.load(Relaxed), message.sequence);
            let dumps = message.flags & flag::DUMP == flag::DUMP;
            let mut answer = Answer {
                socket: self,
                builder: Builder::default(),
                id,
                flags: if dumps { flag::MULTI } else { 0 },
            };
            let result = self.handle(&message, privileged, &mut answer);
            let message = Message { port: id.0, ..message };
            let capped = self.is_on(CAP_ACK);
            match result {
                Ok(true) => answer.builder.done(id),
                Ok(false) if message.flags & flag::ACK != 0 => {
                    answer.builder.acknowledge(&message, Ok(()), capped);
                }
                Ok(false) => {}
                Err(error) => answer.builder.acknowledge(&message, Err(error), capped),
            }
            answer.push();
        }
        Ok(())
    }

    /// Carries a request out; true if it was a dump.
    fn handle(&self, message: &Message<'_>, privileged: bool, answer: &mut Answer<'_>) -> Result<bool> {
        match self.base.protocol() {
            ROUTE => route::handle(message, privileged, answer),
            SOCK_DIAG => diagnostics::handle(message, answer),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}

/// A netlink socket as /proc shows it.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot {
    /// The protocol.
    pub protocol: i32,
    /// The port.
    pub port: u32,
    /// The groups.
    pub groups: u32,
    /// Bytes that wait.
    pub waiting: usize,
    /// Messages lost.
    pub dropped: u32,
    /// The socket's inode.
    pub inode: u64,
}

/// The sockets that have a port.
pub fn list() -> Vec<Snapshot> {
    let sockets: Vec<_> = PORTS.lock().iter().filter_map(|(_, _, socket)| socket.upgrade()).collect();
    let snapshot = |socket: &Arc<NetlinkSocket>| Snapshot {
        protocol: socket.base.protocol(),
        port: socket.port.load(Relaxed),
        groups: socket.groups.load(Relaxed),
        waiting: socket.queue.used(),
        dropped: socket.queue.dropped(),
        inode: socket.base.inode(),
    };
    sockets.iter().map(snapshot).collect()
}

impl File for NetlinkSocket {
    crate::base::message_file!(base);

    fn poll(&self) -> Events {
        let mut events = Events::OUT | Events::WRNORM | Events::WRBAND;
        if !self.queue.is_empty() {
            events |= Events::IN | Events::RDNORM;
        }
        if self.overrun.load(Relaxed) || self.base.has_error() {
            events |= Events::ERR;
        }
        events
    }

    fn ioctl(&self, request: u32, argument: usize) -> Result<usize> {
        const SIOCINQ: u32 = 0x541b;
        if request != SIOCINQ {
            return Err(Errno::ENOTTY);
        }
        let value = self.queue.first_length() as i32;
        if rumpuser_copyout(&value.to_le_bytes(), argument) == 0 { Ok(0) } else { Err(Errno::EFAULT) }
    }

    fn close(&self) {
        if self.closed.swap(true, Relaxed) {
            return;
        }
        PORTS.lock().retain(|(_, _, socket)| !core::ptr::eq(socket.as_ptr(), self));
        self.groups.store(0, Relaxed);
        self.queue.clear();
    }
}

impl Socket for NetlinkSocket {
    fn domain(&self) -> Domain {
        Domain::Netlink
    }

    fn style(&self) -> Style {
        self.base.style()
    }

    fn protocol(&self) -> i32 {
        self.base.protocol()
    }

    fn bind(&self, address: Address) -> Result<()> {
        let (port, groups) = match address {
            Address::Netlink { port, groups } => (port, groups),
            _ => return Err(Errno::EINVAL),
        };
        match self.port.load(Relaxed) {
            0 => self.take_port(port)?,
            own if port != 0 && own != port => return Err(Errno::EINVAL),
            _ => {}
        }
        self.set_groups(groups);
        Ok(())
    }

    fn listen(&self, _backlog: usize, _caller: Credentials) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn accept(&self, _no_wait: bool) -> Result<Arc<dyn Socket>> {
        Err(Errno::EOPNOTSUPP)
    }

    fn connect(&self, address: &Address, _no_wait: bool, _caller: Credentials) -> Result<()> {
        match address {
            Address::Unnamed | Address::Netlink { port: 0, .. } => {}
            Address::Netlink { .. } => return Err(Errno::ECONNREFUSED),
            _ => return Err(Errno::EINVAL),
        }
        if self.port.load(Relaxed) == 0 { self.take_port(0) } else { Ok(()) }
    }

    fn name(&self) -> Address {
        Address::Netlink { port: self.port.load(Relaxed), groups: self.groups.load(Relaxed) }
    }

    fn peer_name(&self) -> Result<Address> {
        Ok(Address::Netlink { port: 0, groups: 0 })
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
        if flags.contains(MessageFlags::OUT_OF_BAND) {
            return Err(Errno::EOPNOTSUPP);
        }
        match to {
            None | Some(Address::Unnamed | Address::Netlink { port: 0, .. }) => {}
            Some(Address::Netlink { .. }) => return Err(Errno::ECONNREFUSED),
            Some(_) => return Err(Errno::EINVAL),
        }
        if self.port.load(Relaxed) == 0 {
            self.take_port(0)?;
        }
        let length = source.remaining();
        if length > REQUEST_MAX {
            return Err(Errno::EMSGSIZE);
        }
        let mut request = Vec::new();
        request.try_reserve_exact(length).map_err(|_| Errno::ENOBUFS)?;
        request.resize(length, 0);
        let mut done = 0;
        while done < length {
            match source.take(&mut request[done..])? {
                0 => return Err(Errno::EFAULT),
                size => done += size,
            }
        }
        self.answer(&request, self.base.creator().uid == 0)?;
        Ok(length)
    }

    fn receive(&self, sink: &mut Sink<'_>, flags: MessageFlags) -> Result<Received> {
        if flags.contains(MessageFlags::OUT_OF_BAND) {
            return Err(Errno::EOPNOTSUPP);
        }
        let peek = flags.contains(MessageFlags::PEEK);
        let deadline = self.base.receive_deadline(flags.contains(MessageFlags::DONT_WAIT));
        let datagram = self.base.wait(deadline, || {
            if self.overrun.swap(false, Relaxed) {
                return Some(Err(Errno::ENOBUFS));
            }
            if let Err(error) = self.base.take_error() {
                return Some(Err(error));
            }
            self.queue.take(peek).map(Ok)
        })??;
        let (length, cut) = datagram.deliver(sink, flags)?;
        let mut ancillary = Ancillary { credentials: Some(Credentials::default()), ..Ancillary::default() };
        if self.is_on(PKTINFO) {
            let group = datagram.metadata.status.trailing_zeros().wrapping_add(1) % 33;
            let data = group.to_ne_bytes().as_slice().into();
            ancillary.controls.push(Control { level: level::NETLINK, kind: PKTINFO, data });
        }
        Ok(Received { length, source: Some(datagram.source), ancillary, flags: cut })
    }

    fn shutdown(&self, _read: bool, _write: bool) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn option(&self, level: i32, name: i32) -> Result<Value> {
        match (level, name) {
            (level::SOCKET, name) => self.base.option(name),
            (level::NETLINK, LIST_MEMBERSHIPS) => Ok(Value::words(&[self.groups.load(Relaxed)])),
            (level::NETLINK, PKTINFO..=STRICT_CHECK) => Ok(Value::switch(self.is_on(name))),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn set_option(&self, level: i32, name: i32, value: &[u8]) -> Result<()> {
        match (level, name) {
            (level::SOCKET, name) => self.base.set_option(name, value),
            (level::NETLINK, ADD_MEMBERSHIP | DROP_MEMBERSHIP) => {
                let group = int(value)?;
                // Groups beyond 32 have nothing to tell here.
                let bit = u32::try_from(group - 1).map_err(|_| Errno::EINVAL)?;
                let bit = 1u32.checked_shl(bit).unwrap_or(0);
                let groups = self.groups.load(Relaxed);
                self.set_groups(if name == ADD_MEMBERSHIP { groups | bit } else { groups & !bit });
                Ok(())
            }
            (level::NETLINK, PKTINFO | NO_ENOBUFS | CAP_ACK | EXT_ACK | STRICT_CHECK | 4 | 8) => {
                let bit = 1u32 << name;
                if int(value)? != 0 {
                    self.switches.fetch_or(bit, Relaxed);
                } else {
                    self.switches.fetch_and(!bit, Relaxed);
                }
                Ok(())
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn available(&self) -> usize {
        self.queue.first_length()
    }

    fn passes_credentials(&self) -> bool {
        self.base.is_on(base::Switches::PASS_CREDENTIALS)
    }
}
