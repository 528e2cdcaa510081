//! The sockets of the internet family as /proc and netlink list them.

use alloc::vec::Vec;
use core::net::SocketAddr;

use rumpkern::{Errno, Result};

use crate::{
    inet::{message::MessageCore, options::InetSwitches, present, unspecified},
    socket::Domain,
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

/// Calls `function` with every socket of a protocol (IPPROTO_UDP and so on). ENOENT for a protocol that has no list.
pub fn for_each(protocol: i32, mut function: impl FnMut(&Snapshot)) -> Result<()> {
    match protocol {
        17 => udp::table::for_each(|socket| function(&Snapshot::of_messages(socket.common(), None))),
        _ => return Err(Errno::ENOENT),
    }
    Ok(())
}
