//! From IP to the transport protocols.

use super::{Incoming, counters, protocol};
use crate::{configuration, icmp, multicast, packet::Chain, raw, tcp, udp};

/// Hands a packet to its protocol; `data` begins with the transport header.
pub(crate) fn deliver(incoming: &Incoming<'_>, data: Chain) {
    deliver_or_complain(incoming, data, 6);
}

/// As [`deliver`]; `next_at` is where the protocol's number stands, for the error message if nobody knows it.
pub(crate) fn deliver_or_complain(incoming: &Incoming<'_>, mut data: Chain, next_at: usize) {
    counters::ip::IN_DELIVERS.increment();
    let raw = raw::input(incoming, &data);
    match (incoming.protocol, incoming.source.is_ipv4()) {
        (protocol::TCP, _) => tcp::input(incoming, data),
        (protocol::UDP, true) if configuration::dhcp::is_for_client(incoming.interface, &data) => {
            configuration::dhcp::input(incoming, &data);
        }
        (protocol::UDP, _) => udp::input(incoming, data),
        (protocol::ICMP, true) => {
            data.pull_up(data.len().min(icmp::HEADER));
            icmp::v4::input(incoming, data);
        }
        (protocol::ICMPV6, false) => {
            data.pull_up(data.len().min(icmp::HEADER));
            icmp::v6::input(incoming, data);
        }
        (protocol::IGMP, true) => multicast::igmp::input(incoming, data),
        _ if raw => {}
        (_, true) => {
            counters::ip::IN_UNKNOWN_PROTOCOLS.increment();
            icmp::v4::unreachable(incoming, &data, icmp::v4::PROTOCOL_UNREACHABLE);
        }
        (_, false) => {
            counters::ip::IN_UNKNOWN_PROTOCOLS.increment();
            icmp::v6::parameter_problem(incoming, &data, 1, next_at as u32);
        }
    }
}
