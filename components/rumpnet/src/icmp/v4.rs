//! ICMP (RFC 792, RFC 1122 3.2.2).

use core::net::IpAddr;

use rumpkern::Errno;
use smoltcp::wire::Icmpv4Message;

use super::{HEADER, may_send, quoting};
use crate::{
    checksum::Sum,
    ip::{self, FlowErrorKind, Incoming, Outgoing, counters, error, protocol},
    packet::{Chain, Packet},
    route::{self, Query},
};

/// Code of an unreachable message: the protocol is unknown.
pub const PROTOCOL_UNREACHABLE: u8 = 2;
/// Code of an unreachable message: nobody listens at the port.
pub const PORT_UNREACHABLE: u8 = 3;

/// An error message is at most so long (RFC 1812 4.3.2.3).
const LONGEST_ERROR: usize = 576;
/// How much of a quoted packet is looked at.
const QUOTE: usize = 512;

/// Takes a message.
pub(crate) fn input(incoming: &Incoming<'_>, data: Chain) {
    counters::icmp::IN_MESSAGES.increment();
    let Some(&[kind, code, _, _, _, _, high, low]) = data.first().first_chunk::<HEADER>() else {
        counters::icmp::IN_ERRORS.increment();
        return;
    };
    let mut sum = Sum::new();
    sum.add_chain(&data, 0);
    if sum.finish() != 0 {
        counters::icmp::IN_ERRORS.increment();
        counters::icmp::IN_CHECKSUM_ERRORS.increment();
        return;
    }
    let meaning = match (Icmpv4Message::from(kind), code) {
        (Icmpv4Message::EchoRequest, 0) => {
            counters::icmp::IN_ECHOS.increment();
            if !incoming.multicast_or_broadcast {
                reply(incoming, &data);
            }
            return;
        }
        (Icmpv4Message::EchoReply, 0) => {
            counters::icmp::IN_ECHO_REPLIES.increment();
            return;
        }
        (Icmpv4Message::DstUnreachable, _) => {
            counters::icmp::IN_UNREACHABLE.increment();
            match unreachable_means(code, usize::from(u16::from_be_bytes([high, low]))) {
                Some(meaning) => meaning,
                None => return,
            }
        }
        (Icmpv4Message::TimeExceeded, _) => (FlowErrorKind::TimeExceeded(code), Errno::EHOSTUNREACH, false),
        (Icmpv4Message::ParamProblem, _) => (FlowErrorKind::ParameterProblem(code), Errno::EPROTO, true),
        // Redirects could be anybody's; routes come from the configuration and from DHCP. Source quench is
        // obsolete (RFC 6633).
        _ => return,
    };
    let mut quoted = [0; QUOTE];
    let length = data.copy_to(HEADER, &mut quoted);
    error::quoted(incoming.interface, Some(incoming.source), &quoted[..length], meaning, (kind, code));
}

/// What the codes mean for a socket (RFC 1122 4.2.3.9 for which are hard).
fn unreachable_means(code: u8, mtu: usize) -> Option<(FlowErrorKind, Errno, bool)> {
    let kind = FlowErrorKind::Unreachable(code);
    Some(match code {
        0 | 11 => (kind, Errno::ENETUNREACH, false),
        1 | 12 => (kind, Errno::EHOSTUNREACH, false),
        2 => (kind, Errno::ENOPROTOOPT, true),
        3 => (kind, Errno::ECONNREFUSED, true),
        4 => (FlowErrorKind::TooBig(mtu), Errno::EMSGSIZE, false),
        5 => (kind, Errno::EOPNOTSUPP, false),
        6 | 9 => (kind, Errno::ENETUNREACH, true),
        7 => (kind, Errno::EHOSTDOWN, true),
        8 => (kind, Errno::ENONET, true),
        10 | 13..=15 => (kind, Errno::EHOSTUNREACH, true),
        _ => return None,
    })
}

/// Answers an echo request with the same data, which is not copied.
fn reply(incoming: &Incoming<'_>, data: &Chain) {
    let Some(&header) = data.first().first_chunk::<HEADER>() else { return };
    let mut packet = Packet { payload: data.slice(HEADER..data.len()), ..Packet::default() };
    let reply = packet.header.prepend(HEADER);
    reply.copy_from_slice(&header);
    // Only the type changes, from 8 to 0 (RFC 1624).
    let old = u16::from_be_bytes([header[2], header[3]]);
    let mut sum = Sum::from_folded(!old);
    sum.add(&(!0x0800u16).to_be_bytes());
    reply[0] = 0;
    reply[2..4].copy_from_slice(&sum.finish().to_be_bytes());
    counters::icmp::OUT_ECHO_REPLIES.increment();
    send(incoming, Some(incoming.destination), incoming.traffic_class, packet);
}

/// Says that the packet's destination is not there.
pub fn unreachable(incoming: &Incoming<'_>, data: &Chain, code: u8) {
    counters::icmp::OUT_UNREACHABLE.increment();
    complain(incoming, data, (Icmpv4Message::DstUnreachable.into(), code));
}

/// Says that fragments are missing.
pub(crate) fn time_exceeded(incoming: &Incoming<'_>, data: &Chain) {
    complain(incoming, data, (Icmpv4Message::TimeExceeded.into(), 1));
}

fn complain(incoming: &Incoming<'_>, data: &Chain, (kind, code): (u8, u8)) {
    let IpAddr::V4(source) = incoming.source else { return };
    let about_error =
        incoming.protocol == protocol::ICMP && !matches!(data.first().first(), Some(0 | 8 | 13..=18));
    if incoming.multicast_or_broadcast
        || source.is_unspecified()
        || source.is_multicast()
        || source.is_broadcast()
        || about_error
        || !may_send()
    {
        return;
    }
    let header = [kind, code, 0, 0, 0, 0, 0, 0];
    let room = LONGEST_ERROR - HEADER - ip::output::HEADER4;
    let Some(mut packet) = quoting(incoming, data, header, room) else { return };
    let mut sum = Sum::new();
    sum.add(packet.header.bytes());
    sum.add_chain(&packet.payload, 0);
    packet.header.bytes_mut()[2..4].copy_from_slice(&sum.finish().to_be_bytes());
    // As Linux: internetwork control, with the delay that the packet asked for.
    send(incoming, Some(incoming.destination), incoming.traffic_class & 0x1e | 0xc0, packet);
}

fn send(incoming: &Incoming<'_>, source: Option<IpAddr>, traffic_class: u8, mut packet: Packet) {
    let query = Query { destination: incoming.source, source, interface: None };
    let Ok(route) = route::lookup(&query) else {
        counters::ip::OUT_NO_ROUTES.increment();
        return;
    };
    counters::icmp::OUT_MESSAGES.increment();
    let outgoing = Outgoing {
        queue: incoming.queue,
        traffic_class: traffic_class & !3,
        ..Outgoing::new(route.source, incoming.source, protocol::ICMP)
    };
    if ip::send(&route, &outgoing, &mut packet).is_err() {
        counters::ip::OUT_DISCARDS.increment();
    }
}
