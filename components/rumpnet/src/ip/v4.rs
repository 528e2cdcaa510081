//! IPv4 input (RFC 791, RFC 1122 3.2): checks, fragments, and on to the transport protocols.

use alloc::sync::Arc;
use core::net::{IpAddr, Ipv4Addr};

use super::{Incoming, counters, deliver, output::HEADER4, reassembly};
use crate::{
    address, checksum, configuration,
    interface::Interface,
    link::Frame,
    multicast,
    packet::{Chain, Checksum},
};

/// The fields of a header that was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header4 {
    /// Bytes of it.
    pub length: usize,
    /// Bytes of the packet.
    pub total: usize,
    pub traffic_class: u8,
    pub identification: u16,
    pub dont_fragment: bool,
    pub more_fragments: bool,
    /// In bytes.
    pub fragment_offset: usize,
    pub hop_limit: u8,
    pub protocol: u8,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
}

/// Reads a header from the beginning of `bytes`, without its checksum. The packet may be longer than `bytes`.
pub(crate) fn parse(bytes: &[u8]) -> Option<Header4> {
    let fixed: &[u8; HEADER4] = bytes.first_chunk()?;
    let length = usize::from(fixed[0] & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let fragment = u16::from_be_bytes([fixed[6], fixed[7]]);
    let header = Header4 {
        length,
        total,
        traffic_class: fixed[1],
        identification: u16::from_be_bytes([fixed[4], fixed[5]]),
        dont_fragment: fragment & 0x4000 != 0,
        more_fragments: fragment & 0x2000 != 0,
        fragment_offset: usize::from(fragment & 0x1fff) * 8,
        hop_limit: fixed[8],
        protocol: fixed[9],
        source: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]),
        destination: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]),
    };
    (fixed[0] >> 4 == 4 && length >= HEADER4 && total >= length && bytes.len() >= length).then_some(header)
}

/// The largest header.
const LONGEST: usize = 60;

/// Takes a packet from the link.
pub(crate) fn input(interface: &Arc<Interface>, queue: usize, frame: &Frame, mut data: Chain) {
    let available = data.len();
    let Some(header) = parse(data.first()).filter(|header| header.total <= available) else {
        counters::ip::IN_HEADER_ERRORS.increment();
        return;
    };
    // The packet's owner may be a device that changes it: checked is what was copied.
    let mut copy = [0; LONGEST];
    copy[..header.length].copy_from_slice(&data.first()[..header.length]);
    let bytes = &copy[..header.length];
    if checksum::of(bytes) != 0 || parse(bytes) != Some(header) {
        counters::ip::IN_HEADER_ERRORS.increment();
        return;
    }
    if header.length > HEADER4 && !options_are_harmless(&bytes[HEADER4..]) {
        counters::ip::IN_HEADER_ERRORS.increment();
        return;
    }
    let accepted = accepts(interface, &header);
    if accepted.is_none() && !configuration::dhcp::wants(interface, &header) {
        counters::ip::IN_ADDRESS_ERRORS.increment();
        return;
    }
    data.truncate(header.total);
    data.advance(header.length);
    let mut incoming = Incoming {
        interface,
        queue,
        source: header.source.into(),
        destination: header.destination.into(),
        hop_limit: header.hop_limit,
        traffic_class: header.traffic_class,
        protocol: header.protocol,
        multicast_or_broadcast: accepted == Some(true) || frame.group,
        checksum: if frame.verified { Checksum::Verified } else { Checksum::Unknown },
        segment_size: frame.segment_size,
        header: bytes,
    };
    if accepted.is_none() {
        if configuration::dhcp::is_for_client(interface, &data) {
            configuration::dhcp::input(&incoming, &data);
        }
        return;
    }
    if header.more_fragments || header.fragment_offset > 0 {
        let fragment = reassembly::Piece {
            identification: header.identification.into(),
            offset: header.fragment_offset,
            more: header.more_fragments,
            next: header.protocol,
        };
        let Some(whole) = reassembly::input(&incoming, &fragment, data) else { return };
        data = whole.data;
        incoming.traffic_class = whole.traffic_class;
        // What a device says of a fragment is not about the whole.
        incoming.checksum = Checksum::Unknown;
        incoming.segment_size = 0;
        deliver::deliver(&incoming, data);
        return;
    }
    deliver::deliver(&incoming, data);
}

/// Whether a packet is for this machine: `None` if not, otherwise whether it is for several.
fn accepts(interface: &Arc<Interface>, header: &Header4) -> Option<bool> {
    let (source, destination) = (header.source, header.destination);
    let loopback = interface.is_loopback();
    if source.is_multicast() || source.is_broadcast() || is_reserved(source) {
        return None;
    }
    if !loopback && (source.is_loopback() || destination.is_loopback()) {
        return None;
    }
    if interface.addresses.has(destination.into()) {
        return (!source.is_unspecified()).then_some(false);
    }
    if destination.is_multicast() {
        return (loopback || multicast::wants(interface, destination.into())).then_some(true);
    }
    if destination.is_broadcast() || interface.addresses.is_broadcast(destination) {
        return Some(true);
    }
    // What was sent to a subnet of ours comes back to us.
    if loopback && address::is_broadcast(destination) {
        return Some(true);
    }
    if source.is_unspecified() || destination.is_unspecified() {
        return None;
    }
    if loopback && destination.is_loopback() {
        return Some(false);
    }
    address::owner(destination.into()).map(|_| false)
}

/// 240/4, and 0/8 but for the unspecified address.
fn is_reserved(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first >= 240 || (first == 0 && !address.is_unspecified())
}

/// Whether options are well-formed, and none asks for a route of the sender's choice (RFC 7126).
fn options_are_harmless(mut options: &[u8]) -> bool {
    const LOOSE_ROUTE: u8 = 131;
    const STRICT_ROUTE: u8 = 137;
    loop {
        match options {
            [] | [0, ..] => return true,
            [1, rest @ ..] => options = rest,
            [LOOSE_ROUTE | STRICT_ROUTE, ..] | [_] => return false,
            [_, length, ..] => match options.get(usize::from(*length)..) {
                Some(rest) if *length >= 2 => options = rest,
                _ => return false,
            },
        }
    }
}

/// Whether an address is ours and not that of a group or everybody: for answers.
pub(crate) fn is_own(address: Ipv4Addr) -> bool {
    address.is_loopback() || address::owner(IpAddr::V4(address)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        for (options, harmless) in [
            (&[][..], true),
            (&[0, 0, 0, 0], true),
            (&[1, 1, 1, 0], true),
            (&[148, 4, 0, 0], true),
            (&[7, 7, 4, 0, 0, 0, 0, 0], true),
            (&[131, 3, 4, 0], false),
            (&[1, 137, 3, 4], false),
            (&[7, 1, 0, 0], false),
            (&[7, 5, 0, 0], false),
            (&[1, 1, 1, 7], false),
        ] {
            assert_eq!(options_are_harmless(options), harmless, "{options:?}");
        }
    }
}
