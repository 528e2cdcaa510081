//! Multicast listener discovery, IPv6's IGMP (RFC 3810, and RFC 2710 while an older router asks).

use alloc::sync::Arc;
use core::net::{IpAddr, Ipv6Addr};

use smoltcp::wire::Icmpv6Message;

use super::{News, answer, heard};
use crate::{
    address::{self, AddressFlags},
    icmp::v6::finish_checksum,
    interface::Interface,
    ip::{Incoming, Outgoing, output, protocol},
    link,
    neighbour::discovery::ALL_NODES,
    packet::{Chain, Packet},
    service::{MILLISECOND, SECOND},
};

/// A report of version 1.
pub(crate) const REPORT1: u8 = 131;
const DONE1: u8 = 132;

/// Where reports of version 2 go.
const ROUTERS2: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
/// Where version 1 says goodbye.
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// See [`super::igmp`].
const OLDER_PRESENT: u64 = 260 * SECOND;

/// The group (none: all), milliseconds for the answer, and whether version 1 asks.
fn parse(bytes: &[u8]) -> Option<(Option<Ipv6Addr>, u64, bool)> {
    let code = u64::from(u16::from_be_bytes([*bytes.get(4)?, *bytes.get(5)?]));
    let octets: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
    let older = bytes.len() < 28;
    let within =
        if code >= 0x8000 && !older { (code & 0xfff | 0x1000) << ((code >> 12 & 7) + 3) } else { code };
    let group = Ipv6Addr::from(octets);
    Some(((!group.is_unspecified()).then_some(group), within, older))
}

/// Takes a query or a report whose checksum is right.
pub(crate) fn input(incoming: &Incoming<'_>, mut data: Chain) {
    let length = data.len();
    let IpAddr::V6(source) = incoming.source else { return };
    let from_link = address::is_link_local(source) && incoming.hop_limit == 1;
    if incoming.interface.is_loopback() || !from_link || length > 1500 || !data.pull_up(length) {
        return;
    }
    let Some((group, within, older)) = parse(data.first()) else { return };
    if data.first().first() == Some(&REPORT1) {
        if let Some(group) = group {
            heard(incoming.interface, group.into());
        }
        return;
    }
    if older {
        incoming.interface.groups.older6.set(OLDER_PRESENT);
    }
    answer(incoming.interface, false, group.map(IpAddr::V6), within * MILLISECOND);
}

/// Reads arbitrary bytes: for fuzzing.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let _ = parse(bytes);
}

/// Tells of a group.
pub(super) fn tell(interface: &Arc<Interface>, group: Ipv6Addr, news: News) {
    // What everybody is in, and what stays on the machine, is nobody's business (RFC 3810 6).
    if group == ALL_NODES || group.octets()[1] & 0xf < 2 {
        return;
    }
    let mut packet = Packet::default();
    let older = interface.groups.older6.is_set();
    let destination = match (older, news) {
        (false, _) => ROUTERS2,
        (true, News::Left) => ALL_ROUTERS,
        (true, _) => group,
    };
    if older {
        let message = packet.header.prepend(24);
        message.fill(0);
        message[0] = if news == News::Left { DONE1 } else { REPORT1 };
        message[8..].copy_from_slice(&group.octets());
    } else {
        let message = packet.header.prepend(28);
        message.fill(0);
        message[0] = Icmpv6Message::MldReport.into();
        message[7] = 1;
        message[8] = news.record();
        message[12..].copy_from_slice(&group.octets());
    }
    // An address that may be somebody else's doesn't speak for us (RFC 3590).
    let own = interface.addresses.list().into_iter().find_map(|entry| match entry.address {
        IpAddr::V6(address)
            if address::is_link_local(address) && !entry.flags.contains(AddressFlags::TENTATIVE) =>
        {
            Some(address)
        }
        _ => None,
    });
    let source = own.unwrap_or(Ipv6Addr::UNSPECIFIED);
    finish_checksum(&mut packet, source.into(), destination.into());
    // Hop-by-hop options: router alert, padding (RFC 2711).
    packet.header.prepend(8).copy_from_slice(&[protocol::ICMPV6, 0, 5, 2, 0, 0, 1, 0]);
    let outgoing =
        Outgoing { hop_limit: 1, ..Outgoing::new(source.into(), destination.into(), protocol::HOP_BY_HOP) };
    output::header6(&mut packet, &outgoing, (source, destination), protocol::HOP_BY_HOP);
    let hardware = link::group_address(destination.into());
    let _ = link::output(interface, 0, hardware, link::IPV6, &mut packet);
}
