//! Ethernet: what a device received goes to the protocols, what they send gets its link header.

use alloc::sync::Arc;

use rumpkern::{Errno, Result};

use crate::{
    device::{HardwareAddress, TransmitError},
    interface::{Interface, LINK_HEADER},
    ip,
    neighbour::arp,
    packet::{Checksum, Packet, Received},
};

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

/// What is worth pulling up of a packet: link, and IPv6 or IPv4 header with TCP's or UDP's first bytes.
const HEADERS: usize = LINK_HEADER + 60;

/// A packet on its way from the link to a network protocol.
pub(crate) struct Frame {
    /// It was sent to a group or to everybody.
    pub group: bool,
    /// What the device says of the transport checksum.
    pub verified: bool,
    /// See [`Received::segment_size`].
    pub segment_size: u16,
}

/// Takes what a device received. Called in thread context, perhaps with preemption disabled; doesn't sleep.
pub fn input(interface: &Arc<Interface>, queue: usize, mut received: Received) {
    let length = received.data.len();
    if length < LINK_HEADER || !received.data.pull_up(length.min(HEADERS)) {
        interface.count_receive_drop(queue);
        return;
    }
    let Some(&[d0, d1, d2, d3, d4, d5, .., k0, k1]) = received.data.first().first_chunk::<LINK_HEADER>()
    else {
        return;
    };
    let destination = [d0, d1, d2, d3, d4, d5];
    let group = d0 & 1 != 0;
    // A promiscuous device takes what isn't for us.
    if !group && destination != interface.hardware() && !interface.is_loopback() {
        return;
    }
    let frame = Frame {
        group,
        verified: received.checksum != Checksum::Unknown,
        segment_size: received.segment_size,
    };
    received.data.advance(LINK_HEADER);
    match u16::from_be_bytes([k0, k1]) {
        IPV4 => ip::v4::input(interface, queue, &frame, received.data),
        IPV6 => ip::v6::input(interface, queue, &frame, received.data),
        ARP => arp::input(interface, queue, received.data),
        _ => {}
    }
}

/// Sends a packet that has all headers but the link's.
#[inline]
pub(crate) fn output(
    interface: &Arc<Interface>,
    queue: usize,
    destination: HardwareAddress,
    kind: u16,
    packet: &mut Packet,
) -> Result<()> {
    let header = packet.header.prepend(LINK_HEADER);
    header[..6].copy_from_slice(&destination);
    header[6..12].copy_from_slice(&interface.hardware());
    header[12..].copy_from_slice(&kind.to_be_bytes());
    if let Checksum::Partial { start, .. } = &mut packet.checksum {
        *start += LINK_HEADER as u16;
    }
    interface.transmit(queue, packet).map_err(|error| match error {
        TransmitError::Full => Errno::ENOBUFS,
        TransmitError::Refused => Errno::ENETDOWN,
    })
}

/// The hardware address of an IPv4 or IPv6 group, or of everybody (RFC 1112 6.4, RFC 2464 7).
pub(crate) fn group_address(address: core::net::IpAddr) -> HardwareAddress {
    match address {
        core::net::IpAddr::V4(address) if address.is_multicast() => {
            let [_, b, c, d] = address.octets();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        core::net::IpAddr::V4(_) => [0xff; 6],
        core::net::IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}
