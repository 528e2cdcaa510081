//! UDP (RFC 768, udp(7)): sockets. Receiving is in [`input`], sending in [`send`].

pub mod counters;
mod input;
mod send;
pub mod table;
#[cfg(test)]
mod tests;

use alloc::sync::{Arc, Weak};
use core::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::Relaxed},
};

use rumpkern::{
    Errno, Result,
    poll::Events,
    uio::{Sink, Source},
};
use rumpuser::sync::Mutex;
use rumpvfs::file::File;

pub use self::input::{error, input};
pub(crate) use self::send::gather;
use crate::{
    base::{self, Switches},
    inet::{
        self,
        control::Wishes,
        message::{MessageCore, Names},
        options::InetSwitches,
        unspecified,
    },
    interface::Posted,
    option::{Value, int, level},
    ports::{self, Binding, Protocol, Request},
    socket::{Address, Ancillary, Credentials, Domain, MessageFlags, Received, Socket, Style},
};

/// The protocol's number.
const PROTOCOL: i32 = 17;
/// Bytes of a UDP header.
pub(crate) const HEADER: usize = 8;
const UDP_CORK: i32 = 1;
const UDP_NO_CHECK6_TX: i32 = 101;
const UDP_NO_CHECK6_RX: i32 = 102;
const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;

/// A UDP socket.
pub struct UdpSocket {
    pub(crate) core: MessageCore,
    myself: Weak<UdpSocket>,
    /// Held while the socket gets or loses its port.
    binding: Mutex<Option<Arc<Binding>>>,
    /// Data that UDP_CORK or MSG_MORE holds back.
    corked: Mutex<Option<send::Corked>>,
    cork: AtomicBool,
    segment_size: AtomicU16,
    joins: AtomicBool,
    /// Where the table has it.
    place: AtomicUsize,
    no_check6: AtomicBool,
    closed: AtomicBool,
}

impl UdpSocket {
    /// A socket of a family, without a port.
    pub fn new(domain: Domain, creator: Credentials) -> Arc<Self> {
        Arc::new_cyclic(|myself| UdpSocket {
            core: MessageCore::new(domain, Style::Datagram, PROTOCOL, creator),
            myself: myself.clone(),
            binding: Mutex::new(None),
            corked: Mutex::new(None),
            cork: AtomicBool::new(false),
            segment_size: AtomicU16::new(0),
            joins: AtomicBool::new(false),
            place: AtomicUsize::new(table::NOWHERE),
            no_check6: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        })
    }

    fn request(&self, local: SocketAddr) -> Request {
        let base = &self.core.base;
        Request {
            interface: if base.interface() != 0 { base.interface() } else { inet::scope(local) },
            version6_only: self.core.options.is_on(InetSwitches::VERSION6_ONLY),
            reuse_address: base.is_on(Switches::REUSE_ADDRESS),
            reuse_port: base.is_on(Switches::REUSE_PORT),
            user: base.creator().uid,
            ..Request::new(Protocol::Udp, local)
        }
    }

    fn enter(&self) {
        if let Some(myself) = self.myself.upgrade() {
            let version6_only = self.core.options.is_on(InetSwitches::VERSION6_ONLY);
            table::enter(&myself, version6_only, self.core.base.is_on(Switches::REUSE_PORT));
        }
    }

    fn take_port(&self, local: SocketAddr, slot: &mut Option<Arc<Binding>>) -> Result<()> {
        let binding = ports::bind(&self.request(local))?;
        let mut local = local;
        local.set_port(binding.port());
        let names = self.core.names();
        self.core.set_names(Names { local, ..names });
        *slot = Some(binding);
        self.enter();
        Ok(())
    }

    /// Gives it a port if it has none.
    fn ensure_port(&self) -> Result<()> {
        if self.core.names().local.port() != 0 {
            return Ok(());
        }
        let mut slot = self.binding.lock();
        if slot.is_some() {
            return Ok(());
        }
        self.take_port(unspecified(self.core.base.domain()), &mut slot).map_err(|_| Errno::EAGAIN)
    }

    /// Dissolves the connection.
    fn disconnect(&self) {
        let mut slot = self.binding.lock();
        let mut names = self.core.names();
        names.remote = None;
        if names.chosen {
            names.chosen = false;
            let port = names.local.port();
            names.local = unspecified(self.core.base.domain());
            names.local.set_port(port);
        }
        self.core.set_names(names);
        match &*slot {
            // The port was given by connecting, not by binding: it goes, too.
            Some(_) if self.joins.load(Relaxed) => {
                table::remove(self);
                self.joins.store(false, Relaxed);
                *slot = None;
                names.local.set_port(0);
                self.core.set_names(names);
            }
            Some(_) => self.enter(),
            None => {}
        }
    }

    /// Whether a datagram to a group is wanted.
    fn wants_group(&self, flow: &table::Flow) -> bool {
        let group = flow.local.ip();
        if !group.is_multicast() {
            return true;
        }
        let options = &self.core.options;
        let all = options.is_on(match group {
            IpAddr::V4(_) => InetSwitches::MULTICAST_ALL4,
            IpAddr::V6(_) => InetSwitches::MULTICAST_ALL6,
        });
        options.memberships.wants(group, flow.interface, flow.remote.ip(), all)
    }

    /// For /proc and netlink: the state it has among those of TCP (ESTABLISHED if connected, else CLOSE).
    pub fn state(&self) -> u8 {
        if self.core.names().remote.is_some() { 1 } else { 7 }
    }

    /// What it has in common with others.
    pub fn common(&self) -> &MessageCore {
        &self.core
    }
}

impl File for UdpSocket {
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
        let mut slot = self.binding.lock();
        if slot.take().is_some() {
            table::remove(self);
        }
        drop(slot);
        self.core.close();
    }
}

impl Socket for UdpSocket {
    fn domain(&self) -> Domain {
        self.core.base.domain()
    }

    fn style(&self) -> Style {
        Style::Datagram
    }

    fn protocol(&self) -> i32 {
        PROTOCOL
    }

    fn bind(&self, address: Address) -> Result<()> {
        let local = self.core.check_bind(&address)?;
        let mut slot = self.binding.lock();
        if slot.is_some() {
            return Err(Errno::EINVAL);
        }
        self.take_port(local, &mut slot)
    }

    fn listen(&self, _backlog: usize, _caller: Credentials) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn accept(&self, _no_wait: bool) -> Result<Arc<dyn Socket>> {
        Err(Errno::EOPNOTSUPP)
    }

    fn connect(&self, address: &Address, _no_wait: bool, _caller: Credentials) -> Result<()> {
        if matches!(address, Address::Unnamed) {
            self.disconnect();
            return Ok(());
        }
        let remote = self.core.destination(Some(address))?;
        let route = self.core.route_to(remote, &Wishes::default())?;
        let mut slot = self.binding.lock();
        let mut names = self.core.names();
        names.remote = Some(remote);
        if names.local.ip().is_unspecified() || names.chosen {
            let port = names.local.port();
            names.local = inet::with_scope(route.source, port, route.interface.index());
            names.chosen = true;
        }
        if slot.is_none() {
            let mut any = unspecified(self.core.base.domain());
            any.set_ip(names.local.ip());
            let binding = ports::bind(&self.request(any)).map_err(|_| Errno::EAGAIN)?;
            names.local.set_port(binding.port());
            *slot = Some(binding);
            self.joins.store(true, Relaxed);
        }
        self.core.set_names(names);
        self.enter();
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
        if level != level::UDP {
            return self.core.option(level, name);
        }
        Ok(match name {
            UDP_CORK => Value::switch(self.cork.load(Relaxed)),
            UDP_SEGMENT => Value::int(i32::from(self.segment_size.load(Relaxed))),
            UDP_NO_CHECK6_TX => Value::switch(self.no_check6.load(Relaxed)),
            UDP_NO_CHECK6_RX => Value::int(0),
            UDP_GRO => Value::switch(self.core.joins.load(Relaxed)),
            _ => return Err(Errno::ENOPROTOOPT),
        })
    }

    fn set_option(&self, level: i32, name: i32, value: &[u8]) -> Result<()> {
        if level != level::UDP {
            self.core.set_option(level, name, value)?;
            if level == level::SOCKET && self.core.names().local.port() != 0 {
                let base = &self.core.base;
                let slot = self.binding.lock();
                let Some(binding) = &*slot else { return Ok(()) };
                binding.set_reuse(base.is_on(Switches::REUSE_ADDRESS), base.is_on(Switches::REUSE_PORT));
                if matches!(name, base::name::BINDTODEVICE | base::name::BINDTOIFINDEX) {
                    self.enter();
                }
            }
            return Ok(());
        }
        let value = int(value)?;
        match name {
            UDP_CORK => {
                self.cork.store(value != 0, Relaxed);
                if value == 0 {
                    let mut posted = Posted::default();
                    self.push_corked(&mut posted)?;
                    posted.flush();
                }
            }
            UDP_SEGMENT => {
                self.segment_size.store(u16::try_from(value).map_err(|_| Errno::EINVAL)?, Relaxed);
            }
            UDP_NO_CHECK6_TX => self.no_check6.store(value != 0, Relaxed),
            // A datagram without a checksum is not for IPv6.
            UDP_NO_CHECK6_RX => {}
            UDP_GRO => self.core.joins.store(value != 0, Relaxed),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    fn available(&self) -> usize {
        self.core.queue.first_length()
    }
}
