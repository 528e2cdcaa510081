//! Receiving on raw and ping sockets.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::Ordering::Relaxed;

use super::{COUNT, HEADERS_ONLY, RawSocket, TABLE};
use crate::{
    checksum::Sum,
    datagram::{Datagram, Metadata},
    inet::with_scope,
    ip::{FlowError, Incoming, protocol},
    packet::Chain,
    socket::{Address, Domain},
};

/// ICMP's echo reply, and ICMPv6's.
const ECHO_REPLY: u8 = 0;
const ECHO_REPLY6: u8 = 129;
/// Bytes of an echo's header.
const ECHO: usize = 8;

impl RawSocket {
    /// Whether a packet is for this socket, by protocol and addresses.
    fn fits(&self, incoming: &Incoming<'_>) -> bool {
        let base = &self.core.base;
        let names = self.core.names();
        let version4 = incoming.source.is_ipv4();
        (base.domain() == Domain::Inet) == version4
            && base.protocol() == i32::from(incoming.protocol)
            && base.protocol() != HEADERS_ONLY
            && (base.interface() == 0 || base.interface() == incoming.interface.index())
            && (names.local.ip().is_unspecified() || names.local.ip() == incoming.destination)
            && names.remote.is_none_or(|remote| remote.ip() == incoming.source)
    }

    /// Whether the filter lets a message of that type through.
    fn wants_type(&self, kind: u8) -> bool {
        let filter = self.filter.lock();
        match self.core.base.domain() {
            // ICMP_FILTER has a bit for each of the first 32 types.
            Domain::Inet => kind >= 32 || filter[0] >> kind & 1 == 0,
            _ => filter[usize::from(kind / 32)] >> (kind % 32) & 1 == 0,
        }
    }
}

/// Hands a packet to the raw and ping sockets that want it; `data` begins with the transport header. Whether there
/// was any raw one.
pub fn input(incoming: &Incoming<'_>, data: &Chain) -> bool {
    if COUNT.load(Relaxed) == 0 { false } else { deliver(incoming, data) }
}

#[cold]
fn deliver(incoming: &Incoming<'_>, data: &Chain) -> bool {
    let mut first = [0; ECHO];
    let length = data.copy_to(0, &mut first);
    let is_icmp = matches!(incoming.protocol, protocol::ICMP | protocol::ICMPV6);
    let reply = if incoming.source.is_ipv4() { ECHO_REPLY } else { ECHO_REPLY6 };
    let identifier =
        (is_icmp && length == ECHO && first[0] == reply).then(|| u16::from_be_bytes([first[4], first[5]]));
    let fits = |socket: &&Arc<RawSocket>| {
        socket.fits(incoming)
            && if socket.pings {
                identifier == Some(socket.core.names().local.port())
            } else {
                !is_icmp || length > 0 && socket.wants_type(first[0])
            }
    };
    let sockets: Vec<Arc<RawSocket>> = TABLE.lock().iter().filter(fits).cloned().collect();
    if sockets.is_empty() {
        return false;
    }
    let is_right = || {
        if incoming.protocol != protocol::ICMP {
            return incoming.verify(data);
        }
        let mut sum = Sum::new();
        sum.add_chain(data, 0);
        sum.finish() == 0
    };
    let mut raw = false;
    for socket in sockets {
        if (socket.pings || incoming.protocol == protocol::ICMPV6) && !is_right() {
            continue;
        }
        raw |= !socket.pings;
        let mut whole = Chain::new();
        if !socket.pings && incoming.source.is_ipv4() {
            let Ok(header) = Chain::copy_of(incoming.header) else { continue };
            whole.append(header);
        }
        whole.append(data.clone());
        if incoming.hop_limit < socket.core.options.least_hops() {
            continue;
        }
        socket.core.deliver(Datagram {
            data: whole,
            source: Address::Internet(with_scope(incoming.source, 0, incoming.interface.index())),
            metadata: Metadata {
                destination: Some(incoming.destination),
                interface: incoming.interface.index(),
                hop_limit: incoming.hop_limit,
                traffic_class: incoming.traffic_class,
                ..Metadata::default()
            },
        });
    }
    raw
}

/// Takes an error about a packet that was sent; returns whether a socket can have sent it.
pub fn error(error: &FlowError<'_>) -> bool {
    if COUNT.load(Relaxed) == 0 {
        return false;
    }
    let version4 = error.remote.is_ipv4();
    let fits = |socket: &&Arc<RawSocket>| {
        let names = socket.core.names();
        (socket.core.base.domain() == Domain::Inet) == version4
            && socket.core.base.protocol() == i32::from(error.protocol)
            && names.remote.is_none_or(|remote| remote.ip() == error.remote.ip())
            && (!socket.pings || names.local.port() == error.local.port())
    };
    let sockets: Vec<Arc<RawSocket>> = TABLE.lock().iter().filter(fits).cloned().collect();
    for socket in &sockets {
        socket.core.error(error, error.quoted);
    }
    !sockets.is_empty()
}
