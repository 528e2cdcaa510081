//! The sockets of the internet family as /proc and netlink list them.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rumpkern::{Errno, Result};
use rumpuser::rumpuser_clock_monotonic;

use crate::{
    inet::{message::MessageCore, options::InetSwitches, present, stream::encode_information, unspecified},
    raw,
    socket::Domain,
    tcp::{self, State, owner::Owner},
    udp,
};

/// What a timer of a socket waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timer {
    /// 0 none, 1 retransmission, 2 keep-alive, 3 TIME-WAIT, 4 zero window probe.
    pub kind: u8,
    /// Until it goes off.
    pub milliseconds: u32,
}

/// A socket.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its family.
    pub domain: Domain,
    /// Its own address, as programs see it.
    pub local: SocketAddr,
    /// The other end, or the unspecified address.
    pub remote: SocketAddr,
    /// TCP's states; ESTABLISHED (1) and CLOSE (7) of the others.
    pub state: u8,
    /// Bytes that wait for the peer; in a listening socket, the most that may wait to be accepted.
    pub send_queue: u32,
    /// Bytes that wait to be read; in a listening socket, connections that wait to be accepted.
    pub receive_queue: u32,
    /// SO_SNDBUF.
    pub send_buffer: u32,
    /// SO_RCVBUF.
    pub receive_buffer: u32,
    /// What it waits for.
    pub timer: Timer,
    /// How often the oldest segment was sent again.
    pub retransmits: u8,
    /// The user.
    pub uid: u32,
    /// The inode; 0 if no descriptor is left.
    pub inode: u64,
    /// The interface it is bound to, or 0.
    pub interface: u32,
    /// Messages dropped.
    pub drops: u32,
    /// IPV6_V6ONLY.
    pub version6_only: bool,
    /// `struct tcp_info`.
    pub information: Vec<u8>,
    /// The congestion control.
    pub congestion: &'static str,
}

impl Snapshot {
    /// Of a message socket. `port`: raw sockets show their protocol as the port.
    fn of_messages(core: &MessageCore, port: Option<u16>) -> Self {
        let domain = core.base.domain();
        let names = core.names();
        let mut local = present(domain, names.local);
        if let Some(port) = port {
            local.set_port(port);
        }
        Snapshot {
            domain,
            local,
            remote: present(domain, names.remote.unwrap_or(unspecified(domain))),
            state: if names.remote.is_some() { 1 } else { 7 },
            send_queue: 0,
            receive_queue: core.queue.used() as u32,
            send_buffer: core.base.send_buffer() as u32,
            receive_buffer: core.base.receive_buffer() as u32,
            timer: Timer::default(),
            retransmits: 0,
            uid: core.base.creator().uid,
            inode: core.base.inode(),
            interface: core.base.interface(),
            drops: core.queue.dropped(),
            version6_only: core.options.is_on(InetSwitches::VERSION6_ONLY),
            information: Vec::new(),
            congestion: "",
        }
    }
}

/// The fields that connections and listeners share.
fn of_tcp(owner: &Owner, local: SocketAddr, remote: SocketAddr) -> Snapshot {
    let domain = if owner.is_version6() || local.is_ipv6() { Domain::Inet6 } else { Domain::Inet };
    Snapshot {
        domain,
        local: present(domain, local),
        remote: present(domain, remote),
        state: State::Closed as u8,
        send_queue: 0,
        receive_queue: 0,
        send_buffer: 0,
        receive_buffer: 0,
        timer: Timer::default(),
        retransmits: 0,
        uid: owner.uid(),
        inode: owner.inode(),
        interface: 0,
        drops: 0,
        version6_only: false,
        information: Vec::new(),
        congestion: "",
    }
}

/// Every listener, connection, and what is in TIME-WAIT.
fn for_each_tcp(mut function: impl FnMut(&Snapshot)) {
    for listener in tcp::listener::list() {
        let local = listener.local();
        let (waiting, most) = listener.backlog();
        let mut remote = local;
        remote.set_port(0);
        remote.set_ip(match local.ip() {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        });
        function(&Snapshot {
            state: State::Listen as u8,
            send_queue: most as u32,
            receive_queue: waiting as u32,
            ..of_tcp(&listener.owner, local, remote)
        });
    }
    for connection in tcp::table::connections() {
        let info = connection.info();
        let (kind, left) = info.timer;
        function(&Snapshot {
            state: info.state as u8,
            send_queue: info.send_queue.0 as u32,
            receive_queue: info.receive_queue as u32,
            send_buffer: info.buffers.0,
            receive_buffer: info.buffers.1,
            timer: Timer { kind, milliseconds: (left / 1_000_000) as u32 },
            retransmits: info.attempts,
            information: encode_information(&info).to_vec(),
            congestion: connection.settings().algorithm.name(),
            ..of_tcp(&connection.owner, connection.local(), connection.remote())
        });
    }
    let now = rumpuser_clock_monotonic();
    for (key, end) in tcp::table::waiting() {
        let milliseconds = end.saturating_sub(now) / 1_000_000;
        function(&Snapshot {
            state: State::TimeWait as u8,
            timer: Timer { kind: 3, milliseconds: milliseconds as u32 },
            ..of_tcp(&Owner::default(), key.local(), key.remote())
        });
    }
}

/// Calls `function` with every socket of a protocol (IPPROTO_UDP and so on). ENOENT for a protocol that has no list.
pub fn for_each(protocol: i32, mut function: impl FnMut(&Snapshot)) -> Result<()> {
    match protocol {
        6 => for_each_tcp(function),
        17 => udp::table::for_each(|socket| function(&Snapshot::of_messages(socket.common(), None))),
        255 => raw::for_each(|core| {
            function(&Snapshot::of_messages(core, Some(core.base.protocol() as u16)));
        }),
        _ => return Err(Errno::ENOENT),
    }
    Ok(())
}
