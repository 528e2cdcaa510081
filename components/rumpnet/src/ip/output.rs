//! Sending: the IP header in front of the transport's, the neighbour's hardware address in front of that.

use alloc::sync::Arc;
use core::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicU32, Ordering},
};

use once_cell::race::OnceNonZeroUsize;
use rumpkern::{Errno, Result};

use super::{Outgoing, counters, fragment};
use crate::{
    checksum::Sum,
    interface::Interface,
    link,
    neighbour::Neighbour,
    packet::{Checksum, Packet},
    random,
    route::Route,
};

/// Bytes of an IPv4 header without options.
pub const HEADER4: usize = 20;
/// Bytes of an IPv6 header.
pub const HEADER6: usize = 40;
/// The largest packet that can be sent.
const LARGEST: usize = 65535;

/// Sends a packet whose transport header is in `packet.header`, with the offsets of a partial checksum relative
/// to it. The packet is used up, whatever the result.
///
/// It is queued until the neighbour's hardware address is known; that this fails is told to the protocol later
/// ([`super::FlowError`]). What is larger than the path's MTU is cut into fragments, unless it is cut by the
/// device ([`Packet::segmentation`]). EMSGSIZE if it must not be, ENOBUFS without room, ENETDOWN if the
/// interface is off, EINVAL if the addresses are of two versions.
pub fn send(route: &Route, outgoing: &Outgoing<'_>, packet: &mut Packet) -> Result<()> {
    counters::ip::OUT_REQUESTS.increment();
    let headers = match outgoing.destination {
        IpAddr::V4(_) => HEADER4 + outgoing.options.len(),
        IpAddr::V6(_) => HEADER6,
    };
    let length = headers + packet.len();
    if length > LARGEST + if outgoing.destination.is_ipv6() { HEADER6 } else { 0 } {
        return Err(Errno::EMSGSIZE);
    }
    if length > route.mtu && packet.segmentation.is_none() {
        return fragment::send(route, outgoing, headers, packet);
    }
    match (outgoing.source, outgoing.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let fragment = if outgoing.dont_fragment { DONT_FRAGMENT } else { 0 };
            // An atomic packet's identification means nothing (RFC 6864).
            let identification = if outgoing.dont_fragment {
                0
            } else {
                identification(outgoing.source, outgoing.destination)
            };
            header4(packet, outgoing, (source, destination), identification as u16, fragment);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            header6(packet, outgoing, (source, destination), outgoing.protocol);
        }
        _ => return Err(Errno::EINVAL),
    }
    let kind = if outgoing.destination.is_ipv4() { link::IPV4 } else { link::IPV6 };
    resolve(&route.interface, &route.neighbour, outgoing.queue, kind, packet)
}

/// Sends a packet that has its IP header already, complete with checksum (raw sockets that include it).
pub fn send_with_header(route: &Route, queue: usize, packet: &mut Packet) -> Result<()> {
    counters::ip::OUT_REQUESTS.increment();
    if packet.len() > route.mtu && packet.segmentation.is_none() {
        return Err(Errno::EMSGSIZE);
    }
    let kind = if route.next_hop.is_ipv4() { link::IPV4 } else { link::IPV6 };
    resolve(&route.interface, &route.neighbour, queue, kind, packet)
}

#[inline]
pub(crate) fn resolve(
    interface: &Arc<Interface>,
    neighbour: &Neighbour,
    queue: usize,
    kind: u16,
    packet: &mut Packet,
) -> Result<()> {
    match neighbour.ready() {
        Some(hardware) => link::output(interface, queue, hardware, kind, packet),
        None => neighbour.output(interface, queue, kind, packet),
    }
}

/// The flag of an IPv4 header.
pub(crate) const DONT_FRAGMENT: u16 = 0x4000;
/// The flag of an IPv4 header.
pub(crate) const MORE_FRAGMENTS: u16 = 0x2000;

/// Puts an IPv4 header in front. `fragment` holds flags and offset. The length was checked.
pub(crate) fn header4(
    packet: &mut Packet,
    outgoing: &Outgoing<'_>,
    (source, destination): (Ipv4Addr, Ipv4Addr),
    identification: u16,
    fragment: u16,
) {
    let length = HEADER4 + outgoing.options.len();
    let total = (packet.len() + length) as u16;
    let header = packet.header.prepend(length);
    header[0] = 0x40 | (length / 4) as u8;
    header[1] = outgoing.traffic_class;
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[4..6].copy_from_slice(&identification.to_be_bytes());
    header[6..8].copy_from_slice(&fragment.to_be_bytes());
    header[8] = outgoing.hop_limit;
    header[9] = outgoing.protocol;
    header[10..12].fill(0);
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&destination.octets());
    header[HEADER4..].copy_from_slice(outgoing.options);
    let mut sum = Sum::new();
    sum.add(header);
    header[10..12].copy_from_slice(&sum.finish().to_be_bytes());
    rebase(packet, length);
}

/// Puts an IPv6 header in front; `next` is what follows it. The length was checked.
pub(crate) fn header6(
    packet: &mut Packet,
    outgoing: &Outgoing<'_>,
    (source, destination): (Ipv6Addr, Ipv6Addr),
    next: u8,
) {
    let length = packet.len() as u16;
    let first = 6 << 28 | u32::from(outgoing.traffic_class) << 20 | (outgoing.flow_label & 0xf_ffff);
    let header = packet.header.prepend(HEADER6);
    header[..4].copy_from_slice(&first.to_be_bytes());
    header[4..6].copy_from_slice(&length.to_be_bytes());
    header[6] = next;
    header[7] = outgoing.hop_limit;
    header[8..24].copy_from_slice(&source.octets());
    header[24..40].copy_from_slice(&destination.octets());
    rebase(packet, HEADER6);
}

/// The offsets of a partial checksum count from the packet's first byte, which moved.
pub(super) fn rebase(packet: &mut Packet, length: usize) {
    if let Checksum::Partial { start, .. } = &mut packet.checksum {
        *start += length as u16;
    }
}

/// An identification for a packet that may be cut: counted for each pair of addresses (or a few that share a
/// counter), from a start that nobody can guess (RFC 7739).
pub(super) fn identification(source: IpAddr, destination: IpAddr) -> u32 {
    const COUNTERS: usize = 64;
    static COUNTER: [AtomicU32; COUNTERS] = [const { AtomicU32::new(0) }; COUNTERS];
    static KEY: OnceNonZeroUsize = OnceNonZeroUsize::new();
    let key = KEY
        .get_or_init(|| {
            core::num::NonZeroUsize::new(random::word() as usize | 1).unwrap_or(core::num::NonZeroUsize::MIN)
        })
        .get() as u64;
    let mix = |address: IpAddr| match address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            (bits >> 64) as u64 ^ (bits as u64).rotate_left(29)
        }
    };
    let spread = |value: u64| {
        let product = u128::from(value ^ key) * 0x9e37_79b9_7f4a_7c15;
        (product >> 64) as u64 ^ product as u64
    };
    let hash = spread(spread(mix(destination)).wrapping_add(mix(source)));
    let start = (hash >> 32) as u32;
    let count = COUNTER[hash as usize % COUNTERS].fetch_add(1, Ordering::Relaxed);
    start.wrapping_add(count)
}
