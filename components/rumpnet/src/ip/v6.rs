//! IPv6 input (RFC 8200): checks, extension headers, fragments, and on to the transport protocols.

use alloc::{sync::Arc, vec::Vec};
use core::net::Ipv6Addr;

use super::{Incoming, counters, deliver, output::HEADER6, protocol, reassembly};
use crate::{
    address, icmp,
    interface::Interface,
    link::Frame,
    multicast,
    packet::{Chain, Checksum},
};

/// The fields of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header6 {
    /// Bytes behind it.
    pub payload: usize,
    pub traffic_class: u8,
    pub next: u8,
    pub hop_limit: u8,
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
}

/// Reads a header from the beginning of `bytes`.
pub(crate) fn parse(bytes: &[u8]) -> Option<Header6> {
    let fixed: &[u8; HEADER6] = bytes.first_chunk()?;
    let first = u32::from_be_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]);
    let address = |start: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&fixed[start..start + 16]);
        Ipv6Addr::from(octets)
    };
    let header = Header6 {
        payload: usize::from(u16::from_be_bytes([fixed[4], fixed[5]])),
        traffic_class: (first >> 20) as u8,
        next: fixed[6],
        hop_limit: fixed[7],
        source: address(8),
        destination: address(24),
    };
    (first >> 28 == 6).then_some(header)
}

/// The most bytes of extension headers, and the most headers (RFC 8504 5.3 allows limits).
const EXTENSIONS_LENGTH: usize = 512;
const EXTENSIONS: usize = 8;

/// Takes a packet from the link.
pub(crate) fn input(interface: &Arc<Interface>, queue: usize, frame: &Frame, mut data: Chain) {
    let available = data.len();
    let mut copy = [0; HEADER6];
    let Some(bytes) = data.first().get(..HEADER6) else {
        counters::ip::IN_HEADER_ERRORS.increment();
        return;
    };
    copy.copy_from_slice(bytes);
    let Some(header) = parse(&copy).filter(|header| HEADER6 + header.payload <= available) else {
        counters::ip::IN_HEADER_ERRORS.increment();
        return;
    };
    let Some(group) = accepts(interface, &header) else {
        counters::ip::IN_ADDRESS_ERRORS.increment();
        return;
    };
    data.truncate(HEADER6 + header.payload);
    data.advance(HEADER6);
    let incoming = Incoming {
        interface,
        queue,
        source: header.source.into(),
        destination: header.destination.into(),
        hop_limit: header.hop_limit,
        traffic_class: header.traffic_class,
        protocol: header.next,
        multicast_or_broadcast: group || frame.group,
        checksum: if frame.verified { Checksum::Verified } else { Checksum::Unknown },
        segment_size: frame.segment_size,
        header: &copy,
    };
    match header.next {
        protocol::TCP | protocol::UDP | protocol::ICMPV6 => deliver::deliver(&incoming, data),
        _ => extensions(&incoming, data),
    }
}

/// Whether a packet is for this machine: `None` if not, otherwise whether it is for several.
fn accepts(interface: &Arc<Interface>, header: &Header6) -> Option<bool> {
    let (source, destination) = (header.source, header.destination);
    let loopback = interface.is_loopback();
    let never = |address: Ipv6Addr| address.is_loopback() || address.to_ipv4_mapped().is_some();
    if source.is_multicast() || (!loopback && (never(source) || never(destination))) {
        return None;
    }
    if interface.addresses.has(destination.into()) {
        return Some(false);
    }
    if destination.is_multicast() {
        // Scope 0 is reserved, scope 1 stays on the machine (RFC 4291 2.7).
        let scope = destination.octets()[1] & 0xf;
        let wanted = loopback || (scope > 1 && multicast::wants(interface, destination.into()));
        return wanted.then_some(true);
    }
    // A link-local address is one of that link only.
    let elsewhere = !address::is_link_local(destination) || loopback;
    (elsewhere && !destination.is_unspecified() && address::owner(destination.into()).is_some())
        .then_some(false)
}

/// What to do about a packet after one of its extension headers was read.
enum Step {
    Next { protocol: u8, length: usize },
    Drop,
    Problem { code: u8, pointer: usize },
}

/// Walks over the extension headers. `incoming.header` is the IPv6 header, `data` begins behind it.
fn extensions(incoming: &Incoming<'_>, mut data: Chain) {
    let mut headers: Vec<u8> = incoming.header.to_vec();
    let mut next = incoming.protocol;
    // Where the number of the present header stands, for error messages.
    let mut next_at = 6;
    for count in 0.. {
        let at = headers.len();
        let step = match next {
            protocol::HOP_BY_HOP if count == 0 => options(incoming, &mut data, at),
            protocol::HOP_BY_HOP => Step::Problem { code: 1, pointer: next_at },
            protocol::DESTINATION_OPTIONS => options(incoming, &mut data, at),
            protocol::ROUTING => routing(&mut data, at),
            protocol::FRAGMENT => {
                fragment(incoming, headers, next_at, data);
                return;
            }
            protocol::NO_NEXT => return,
            _ => {
                let incoming = Incoming { protocol: next, header: &headers, ..*incoming };
                deliver::deliver_or_complain(&incoming, data, next_at);
                return;
            }
        };
        match step {
            Step::Next { protocol, length }
                if count < EXTENSIONS && headers.len() + length <= EXTENSIONS_LENGTH =>
            {
                next_at = headers.len();
                headers.extend_from_slice(&data.first()[..length]);
                data.advance(length);
                next = protocol;
            }
            Step::Next { .. } | Step::Drop => {
                counters::ip::IN_HEADER_ERRORS.increment();
                return;
            }
            Step::Problem { code, pointer } => {
                counters::ip::IN_HEADER_ERRORS.increment();
                let incoming = Incoming { header: &headers, ..*incoming };
                icmp::v6::parameter_problem(&incoming, &data, code, pointer as u32);
                return;
            }
        }
    }
}

/// The length of an extension header, which is then contiguous.
fn extension_length(data: &mut Chain) -> Option<usize> {
    if !data.pull_up(8) {
        return None;
    }
    let length = (usize::from(data.first()[1]) + 1) * 8;
    data.pull_up(length).then_some(length)
}

/// Hop-by-hop or destination options (RFC 8200 4.2).
fn options(incoming: &Incoming<'_>, data: &mut Chain, at: usize) -> Step {
    let Some(length) = extension_length(data) else { return Step::Drop };
    let bytes = &data.first()[..length];
    let mut place = 2;
    while let Some(&kind) = bytes.get(place) {
        if kind == 0 {
            place += 1;
            continue;
        }
        let Some(&option_length) = bytes.get(place + 1) else { return Step::Drop };
        let end = place + 2 + usize::from(option_length);
        if end > length {
            return Step::Drop;
        }
        // Padding, and router alert, which says nothing to a host.
        if kind != 1 && kind != 5 {
            match kind >> 6 {
                0 => {}
                1 => return Step::Drop,
                2 => return Step::Problem { code: 2, pointer: at + place },
                _ if incoming.multicast_or_broadcast => return Step::Drop,
                _ => return Step::Problem { code: 2, pointer: at + place },
            }
        }
        place = end;
    }
    Step::Next { protocol: bytes[0], length }
}

/// A routing header: only one that is used up can be passed over (RFC 5095 forbids type 0).
fn routing(data: &mut Chain, at: usize) -> Step {
    let Some(length) = extension_length(data) else { return Step::Drop };
    let bytes = data.first();
    if bytes[3] != 0 {
        return Step::Problem { code: 0, pointer: at + 2 };
    }
    Step::Next { protocol: bytes[0], length }
}

/// A fragment header (RFC 8200 4.5).
fn fragment(incoming: &Incoming<'_>, mut headers: Vec<u8>, next_at: usize, mut data: Chain) {
    if !data.pull_up(8) {
        counters::ip::IN_HEADER_ERRORS.increment();
        return;
    }
    let bytes = data.first();
    let next = bytes[0];
    let field = u16::from_be_bytes([bytes[2], bytes[3]]);
    let identification = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    let (offset, more) = (usize::from(field & !7), field & 1 != 0);
    data.advance(8);
    // The header of the fragment's unfragmentable part now leads on to what follows the fragment header.
    if let Some(byte) = headers.get_mut(next_at) {
        *byte = next;
    }
    let incoming = Incoming { protocol: next, header: &headers, ..*incoming };
    if more && !data.len().is_multiple_of(8) {
        counters::ip::REASSEMBLY_FAILED.increment();
        icmp::v6::parameter_problem(&incoming, &data, 0, 4);
        return;
    }
    let mut incoming = Incoming { checksum: Checksum::Unknown, segment_size: 0, ..incoming };
    if offset > 0 || more {
        let piece = reassembly::Piece { identification, offset, more, next };
        let Some(whole) = reassembly::input(&incoming, &piece, data) else { return };
        incoming.traffic_class = whole.traffic_class;
        incoming.protocol = whole.next;
        data = whole.data;
    }
    after_fragments(&incoming, next_at, data);
}

/// What follows a fragment header: destination options at most, then the transport.
fn after_fragments(incoming: &Incoming<'_>, mut next_at: usize, mut data: Chain) {
    let mut headers: Vec<u8> = incoming.header.to_vec();
    let mut next = incoming.protocol;
    for _ in 0..2 {
        let step = match next {
            protocol::DESTINATION_OPTIONS => options(incoming, &mut data, headers.len()),
            protocol::ROUTING => routing(&mut data, headers.len()),
            // Fragments of fragments, and options for hops that have been made.
            protocol::FRAGMENT | protocol::HOP_BY_HOP => Step::Drop,
            _ => {
                let incoming = Incoming { protocol: next, header: &headers, ..*incoming };
                deliver::deliver_or_complain(&incoming, data, next_at);
                return;
            }
        };
        let Step::Next { protocol, length } = step else { break };
        next_at = headers.len();
        headers.extend_from_slice(&data.first()[..length]);
        data.advance(length);
        next = protocol;
    }
    counters::ip::IN_HEADER_ERRORS.increment();
}
