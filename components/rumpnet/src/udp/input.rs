//! Receiving datagrams, and errors about those that were sent.

use alloc::sync::Arc;
use core::net::SocketAddr;

use super::{
    HEADER, UdpSocket,
    counters::udp,
    table::{self, Flow},
};
use crate::{
    datagram::{Datagram, Metadata},
    icmp,
    inet::with_scope,
    ip::{FlowError, Incoming},
    packet::Chain,
    socket::Address,
};

/// The fields of a header.
struct Fields {
    source: u16,
    destination: u16,
    length: usize,
    checksum: u16,
}

fn parse(bytes: &[u8]) -> Option<Fields> {
    let header = bytes.first_chunk::<HEADER>()?;
    let field = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    Some(Fields {
        source: field(0),
        destination: field(2),
        length: usize::from(field(4)),
        checksum: field(6),
    })
}

/// Takes a datagram; `data` begins with the UDP header.
pub fn input(incoming: &Incoming<'_>, mut data: Chain) {
    if !data.pull_up(HEADER) {
        return udp::IN_ERRORS.increment();
    }
    let Some(fields) = parse(data.first()) else { return udp::IN_ERRORS.increment() };
    if fields.length < HEADER || fields.length > data.len() {
        return udp::IN_ERRORS.increment();
    }
    data.truncate(fields.length);
    let unchecked = fields.checksum == 0;
    if unchecked && incoming.source.is_ipv6() || !unchecked && !incoming.verify(&data) {
        udp::IN_CHECKSUM_ERRORS.increment();
        return udp::IN_ERRORS.increment();
    }
    let interface = incoming.interface.index();
    let flow = Flow {
        local: SocketAddr::new(incoming.destination, fields.destination),
        remote: with_scope(incoming.source, fields.source, interface),
        interface,
    };
    if incoming.multicast_or_broadcast || incoming.destination.is_multicast() {
        data.advance(HEADER);
        for socket in table::find_all(&flow) {
            deliver(&socket, incoming, &flow, data.clone());
        }
        return;
    }
    match table::find(&flow) {
        Some(socket) => {
            data.advance(HEADER);
            deliver(&socket, incoming, &flow, data);
        }
        None => {
            udp::NO_PORTS.increment();
            if incoming.source.is_ipv4() {
                icmp::v4::unreachable(incoming, &data, icmp::v4::PORT_UNREACHABLE);
            } else {
                icmp::v6::unreachable(incoming, &data, icmp::v6::PORT_UNREACHABLE);
            }
        }
    }
}

fn deliver(socket: &Arc<UdpSocket>, incoming: &Incoming<'_>, flow: &Flow, data: Chain) {
    if incoming.hop_limit < socket.core.options.least_hops() {
        return;
    }
    let datagram = Datagram {
        data,
        source: Address::Internet(flow.remote),
        metadata: Metadata {
            destination: Some(incoming.destination),
            port: flow.local.port(),
            interface: flow.interface,
            hop_limit: incoming.hop_limit,
            traffic_class: incoming.traffic_class,
            ..Metadata::default()
        },
    };
    if socket.core.deliver(datagram) {
        udp::IN_DATAGRAMS.increment();
    } else {
        udp::RCVBUF_ERRORS.increment();
        udp::IN_ERRORS.increment();
    }
}

/// Takes an error about a datagram that was sent; returns whether a socket can have sent it.
pub fn error(error: &FlowError<'_>) -> bool {
    let flow = Flow { local: error.local, remote: error.remote, interface: error.interface.index() };
    let Some(socket) = table::find_sender(&flow) else { return false };
    socket.core.error(error, error.quoted.get(HEADER..).unwrap_or_default());
    true
}
