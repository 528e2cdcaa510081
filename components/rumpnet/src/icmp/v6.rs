//! ICMP for IPv6 (RFC 4443); neighbour discovery and listener discovery are handed on.

use core::net::IpAddr;

use rumpkern::Errno;
use smoltcp::wire::Icmpv6Message;

use super::{HEADER, may_send, quoting};
use crate::{
    address,
    checksum::{self, Sum},
    ip::{self, FlowErrorKind, Incoming, Outgoing, counters, error, protocol},
    multicast,
    neighbour::discovery,
    packet::{Chain, Packet},
    route::{self, Query},
};

/// Code of an unreachable message: nobody listens at the port.
pub const PORT_UNREACHABLE: u8 = 4;

/// An error message is at most so long (RFC 4443 2.4).
const LONGEST_ERROR: usize = 1280;
/// How much of a quoted packet is looked at.
const QUOTE: usize = 512;
/// Code of a parameter problem: an option is unknown.
const UNKNOWN_OPTION: u8 = 2;

/// Takes a message.
pub(crate) fn input(incoming: &Incoming<'_>, data: Chain) {
    counters::icmp::IN_MESSAGES.increment();
    let Some(&[kind, code, _, _, a, b, c, d]) = data.first().first_chunk::<HEADER>() else {
        counters::icmp::IN_ERRORS.increment();
        return;
    };
    if !incoming.verify(&data) {
        counters::icmp::IN_ERRORS.increment();
        counters::icmp::IN_CHECKSUM_ERRORS.increment();
        return;
    }
    let meaning = match Icmpv6Message::from(kind) {
        Icmpv6Message::EchoRequest => {
            counters::icmp::IN_ECHOS.increment();
            reply(incoming, &data);
            return;
        }
        Icmpv6Message::EchoReply => {
            counters::icmp::IN_ECHO_REPLIES.increment();
            return;
        }
        Icmpv6Message::RouterSolicit
        | Icmpv6Message::RouterAdvert
        | Icmpv6Message::NeighborSolicit
        | Icmpv6Message::NeighborAdvert => {
            // A packet from the link has all its hops; code 0 (RFC 4861 6.1, 7.1).
            if incoming.hop_limit == 255 && code == 0 {
                discovery::input(incoming, data);
            } else {
                counters::icmp::IN_ERRORS.increment();
            }
            return;
        }
        Icmpv6Message::MldQuery => {
            multicast::mld::input(incoming, data);
            return;
        }
        _ if kind == multicast::mld::REPORT1 => {
            multicast::mld::input(incoming, data);
            return;
        }
        Icmpv6Message::DstUnreachable => {
            counters::icmp::IN_UNREACHABLE.increment();
            unreachable_means(code)
        }
        Icmpv6Message::PktTooBig => {
            let mtu = u32::from_be_bytes([a, b, c, d]).clamp(1280, 65535) as usize;
            (FlowErrorKind::TooBig(mtu), Errno::EMSGSIZE, false)
        }
        Icmpv6Message::TimeExceeded => (FlowErrorKind::TimeExceeded(code), Errno::EHOSTUNREACH, false),
        Icmpv6Message::ParamProblem => (FlowErrorKind::ParameterProblem(code), Errno::EPROTO, code == 1),
        // Redirects are ignored, as for IPv4; what is unknown, too.
        _ => return,
    };
    let mut quoted = [0; QUOTE];
    let length = data.copy_to(HEADER, &mut quoted);
    error::quoted(incoming.interface, Some(incoming.source), &quoted[..length], meaning, (kind, code));
}

fn unreachable_means(code: u8) -> (FlowErrorKind, Errno, bool) {
    let (errno, hard) = match code {
        0 => (Errno::ENETUNREACH, false),
        1 | 5 | 6 => (Errno::EACCES, true),
        PORT_UNREACHABLE => (Errno::ECONNREFUSED, true),
        _ => (Errno::EHOSTUNREACH, false),
    };
    (FlowErrorKind::Unreachable(code), errno, hard)
}

/// Answers an echo request with the same data, which is not copied.
fn reply(incoming: &Incoming<'_>, data: &Chain) {
    // A group is answered from an address of ours (RFC 4443 4.2); smurfs live on broadcasts of IPv4.
    let source = (!incoming.destination.is_multicast()).then_some(incoming.destination);
    let Some(&header) = data.first().first_chunk::<HEADER>() else { return };
    let mut packet = Packet { payload: data.slice(HEADER..data.len()), ..Packet::default() };
    let reply = packet.header.prepend(HEADER);
    reply.copy_from_slice(&header);
    reply[0] = Icmpv6Message::EchoReply.into();
    counters::icmp::OUT_ECHO_REPLIES.increment();
    send(incoming, source, packet);
}

/// Says that the packet's destination is not there.
pub fn unreachable(incoming: &Incoming<'_>, data: &Chain, code: u8) {
    counters::icmp::OUT_UNREACHABLE.increment();
    complain(incoming, data, (Icmpv6Message::DstUnreachable.into(), code), 0);
}

/// Says that fragments are missing.
pub(crate) fn time_exceeded(incoming: &Incoming<'_>, data: &Chain) {
    complain(incoming, data, (Icmpv6Message::TimeExceeded.into(), 1), 0);
}

/// Says that a header makes no sense, at `pointer` from the IPv6 header's beginning.
pub(crate) fn parameter_problem(incoming: &Incoming<'_>, data: &Chain, code: u8, pointer: u32) {
    complain(incoming, data, (Icmpv6Message::ParamProblem.into(), code), pointer);
}

fn complain(incoming: &Incoming<'_>, data: &Chain, (kind, code): (u8, u8), value: u32) {
    let IpAddr::V6(source) = incoming.source else { return };
    // Only a problem with an option that says so is told to who sent to a group (RFC 4443 2.4 e).
    let to_group = kind == u8::from(Icmpv6Message::ParamProblem) && code == UNKNOWN_OPTION;
    let about_error = incoming.protocol == protocol::ICMPV6
        && data.first().first().is_none_or(|&kind| kind < 128 || kind == Icmpv6Message::Redirect.into());
    if (incoming.multicast_or_broadcast && !to_group)
        || source.is_unspecified()
        || source.is_multicast()
        || about_error
        || !may_send()
    {
        return;
    }
    let [a, b, c, d] = value.to_be_bytes();
    let room = LONGEST_ERROR - HEADER - ip::output::HEADER6;
    let Some(packet) = quoting(incoming, data, [kind, code, 0, 0, a, b, c, d], room) else { return };
    let source = (!incoming.destination.is_multicast()).then_some(incoming.destination);
    send(incoming, source, packet);
}

fn send(incoming: &Incoming<'_>, source: Option<IpAddr>, mut packet: Packet) {
    let IpAddr::V6(destination) = incoming.source else { return };
    let scope = address::is_link_local(destination).then(|| incoming.interface.index());
    let query = Query { destination: incoming.source, source, interface: scope };
    let Ok(route) = route::lookup(&query) else {
        counters::ip::OUT_NO_ROUTES.increment();
        return;
    };
    finish_checksum(&mut packet, route.source, incoming.source);
    counters::icmp::OUT_MESSAGES.increment();
    let outgoing =
        Outgoing { queue: incoming.queue, ..Outgoing::new(route.source, incoming.source, protocol::ICMPV6) };
    if ip::send(&route, &outgoing, &mut packet).is_err() {
        counters::ip::OUT_DISCARDS.increment();
    }
}

/// Fills in the checksum of an ICMPv6 message.
pub(crate) fn finish_checksum(packet: &mut Packet, source: IpAddr, destination: IpAddr) {
    let length = packet.len();
    let header = packet.header.bytes_mut();
    header[2..4].fill(0);
    let mut sum = Sum::from_folded(checksum::pseudo_header(source, destination, protocol::ICMPV6, length));
    sum.add(header);
    sum.add_chain(&packet.payload, 0);
    header[2..4].copy_from_slice(&sum.finish().to_be_bytes());
}
