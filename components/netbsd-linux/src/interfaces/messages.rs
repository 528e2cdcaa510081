//! What NetBSD's kernel tells of interfaces and routes: the messages of route(4), as sysctl(3) lists them.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::address::{INET, INET6};

/// `AF_LINK`.
const LINK: u8 = 18;
/// `RTM_GET`, `RTM_NEWADDR`, `RTM_IFINFO`.
const ROUTE: u8 = 4;
const ADDRESS: u8 = 0xc;
const INTERFACE: u8 = 0x14;
/// Bytes of `struct rt_msghdr`, `struct ifa_msghdr` and `struct if_msghdr`.
const ROUTE_HEADER: usize = 120;
const ADDRESS_HEADER: usize = 24;
const INTERFACE_HEADER: usize = 152;
/// `IFF_UP`, `IFF_LOOPBACK`.
const UP: u32 = 1;
const LOOPBACK: u32 = 8;
/// `LINK_STATE_DOWN`.
const NO_CARRIER: u32 = 1;
/// `RTF_UP | RTF_GATEWAY`, and those of no interest: `RTF_REJECT`, `RTF_LLDATA`, `RTF_BLACKHOLE`, `RTF_LOCAL`,
/// `RTF_BROADCAST`.
const WAY: u32 = 3;
const NO_WAY: u32 = 0x8 | 0x400 | 0x1000 | 0x4_0000 | 0x8_0000;
/// `RTF_HOST`.
const HOST: u32 = 4;
/// Parts of a message: the destination, the gateway, the mask, the interface, its address (RTA_*, by their bits).
const DESTINATION: usize = 0;
const GATEWAY: usize = 1;
const MASK: usize = 2;
const NAME: usize = 4;
const OWN: usize = 5;
const PARTS: usize = 9;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its number.
    pub index: u32,
    /// Its hardware address.
    pub hardware: [u8; 6],
    /// It is on.
    pub up: bool,
    /// It has a carrier.
    pub carrier: bool,
    /// The largest packet.
    pub mtu: usize,
    /// Packets and bytes received and sent.
    pub traffic: [u64; 4],
    /// Its addresses and their prefixes.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// A route through a router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// Where to.
    pub destination: IpAddr,
    /// Bits of it that count.
    pub prefix: u8,
    /// The router.
    pub gateway: IpAddr,
    /// The interface's number.
    pub index: u32,
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The messages one after the other: the type, and all of it. What is damaged ends them.
fn messages(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = bytes;
    core::iter::from_fn(move || {
        let length = usize::from(half(rest, 0)?).max(8);
        let message = rest.get(..length)?;
        rest = &rest[length..];
        Some((message[3], message))
    })
}

/// The addresses behind a message's header, by their places.
fn parts(message: &[u8], header: usize, which: u32) -> [&[u8]; PARTS] {
    let mut found = [&[][..]; PARTS];
    let mut rest = message.get(header..).unwrap_or_default();
    for (place, part) in found.iter_mut().enumerate() {
        if which & 1 << place == 0 {
            continue;
        }
        let Some(&length) = rest.first() else { break };
        *part = rest.get(..usize::from(length)).unwrap_or_default();
        rest = rest.get(usize::from(length).max(1).next_multiple_of(8)..).unwrap_or_default();
    }
    found
}

/// An internet address. Inside the kernel, link-local ones have their interface's number in them.
fn address(part: &[u8]) -> Option<IpAddr> {
    match *part.get(1)? {
        INET => Some(Ipv4Addr::from(*part.get(4..)?.first_chunk::<4>()?).into()),
        INET6 => {
            let mut octets = *part.get(8..)?.first_chunk::<16>()?;
            if octets[0] == 0xfe && octets[1] & 0xc0 == 0x80 {
                octets[2..4].fill(0);
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

/// The bits that a mask has. It may be shorter than an address, and its family is not always set.
fn prefix(part: &[u8], version4: bool) -> u8 {
    let (start, most) = if version4 { (4, 4) } else { (8, 16) };
    let octets = part.get(start..).unwrap_or_default().iter().take(most);
    octets.map_while(|&octet| (octet != 0).then_some(octet.leading_ones() as u8)).sum()
}

/// The Ethernet interfaces in a list (`NET_RT_IFLIST`), with their addresses.
pub fn interfaces(bytes: &[u8]) -> Vec<Seen> {
    let mut found: Vec<Seen> = Vec::new();
    for (kind, message) in messages(bytes) {
        let _ = match kind {
            INTERFACE => interface(message).map(|seen| found.push(seen)),
            ADDRESS => add_address(message, &mut found),
            _ => None,
        };
    }
    found
}

fn interface(message: &[u8]) -> Option<Seen> {
    let flags = word(message, 8)?;
    let link = parts(message, INTERFACE_HEADER, word(message, 4)?)[NAME];
    // `struct sockaddr_dl`: the name's length, the address's, then both.
    let &[_, family, _, _, _, name, length, _] = link.first_chunk()?;
    if family != LINK || length != 6 || flags & LOOPBACK != 0 {
        return None;
    }
    let hardware = *link.get(8 + usize::from(name)..)?.first_chunk()?;
    // `struct if_data` begins at 16: state of the link, MTU, then what was counted.
    let counter = |at: usize| long(message, 16 + at);
    Some(Seen {
        index: half(message, 12)?.into(),
        hardware,
        up: flags & UP != 0,
        carrier: word(message, 20)? != NO_CARRIER,
        mtu: usize::try_from(counter(8)?).ok()?,
        traffic: [counter(32)?, counter(72)?, counter(48)?, counter(80)?],
        addresses: Vec::new(),
    })
}

fn add_address(message: &[u8], found: &mut [Seen]) -> Option<()> {
    let index = u32::from(half(message, 16)?);
    let seen = found.iter_mut().find(|seen| seen.index == index)?;
    let parts = parts(message, ADDRESS_HEADER, word(message, 4)?);
    let own = address(parts[OWN])?;
    let entry = (own, prefix(parts[MASK], own.is_ipv4()));
    if !seen.addresses.contains(&entry) {
        seen.addresses.push(entry);
    }
    Some(())
}

/// The routes through routers in a list (`NET_RT_DUMP`).
pub fn ways(bytes: &[u8]) -> Vec<Way> {
    let way = |(kind, message): (u8, &[u8])| {
        let flags = word(message, 8)?;
        if kind != ROUTE || flags & WAY != WAY || flags & NO_WAY != 0 {
            return None;
        }
        let parts = parts(message, ROUTE_HEADER, word(message, 12)?);
        let (destination, gateway) = (address(parts[DESTINATION])?, address(parts[GATEWAY])?);
        let version4 = destination.is_ipv4();
        let prefix = match flags & HOST {
            0 => prefix(parts[MASK], version4),
            _ if version4 => 32,
            _ => 128,
        };
        let index = u32::from(half(message, 4)?);
        (version4 == gateway.is_ipv4()).then_some(Way { destination, prefix, gateway, index })
    };
    messages(bytes).filter_map(way).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, header: usize, fields: &[(usize, &[u8])], parts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = alloc::vec![0; header];
        for part in parts {
            bytes.extend_from_slice(part);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        let length = (bytes.len() as u16).to_ne_bytes();
        bytes[..4].copy_from_slice(&[length[0], length[1], 4, kind]);
        for (at, field) in fields {
            bytes[*at..at + field.len()].copy_from_slice(field);
        }
        bytes
    }

    #[test]
    fn interfaces_have_their_addresses() {
        let link = [20, LINK, 2, 0, 6, 3, 6, 0, b'w', b'm', b'0', 2, 0, 0, 0, 0, 9, 0, 0, 0];
        let lists = [
            message(
                INTERFACE,
                INTERFACE_HEADER,
                &[(4, &[0x10]), (8, &[1]), (12, &[2]), (20, &[2]), (24, &1400u64.to_ne_bytes()), (48, &[7])],
                &[&link],
            ),
            message(
                ADDRESS,
                ADDRESS_HEADER,
                &[(4, &[0x34]), (16, &[2])],
                &[
                    &[7, 0, 0, 0, 255, 255, 240],
                    &link,
                    &[16, INET, 0, 0, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 0, 0],
                ],
            ),
            // Of an interface that isn't there.
            message(ADDRESS, ADDRESS_HEADER, &[(4, &[0x20]), (16, &[9])], &[&[16, INET, 0, 0, 1, 2, 3, 4]]),
        ]
        .concat();
        let found = interfaces(&lists);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].index, found[0].hardware, found[0].mtu), (2, [2, 0, 0, 0, 0, 9], 1400));
        assert!(found[0].up && found[0].carrier && found[0].traffic[0] == 7);
        assert_eq!(found[0].addresses, [("10.0.2.15".parse().unwrap(), 20)]);
    }

    #[test]
    fn routes_through_routers_are_found() {
        let inet = |octets: [u8; 4]| [&[16, INET, 0, 0][..], &octets, &[0; 8]].concat();
        let mut local = [0; 28];
        local[..2].copy_from_slice(&[28, INET6]);
        local[8..12].copy_from_slice(&[0xfe, 0x80, 0, 2]);
        local[23] = 1;
        let any6 = [&[28, INET6][..], &[0; 26]].concat();
        let head = |flags: u8| [(4usize, [2u8, 0, 0, 0]), (8, [flags, 8, 0, 0]), (12, [7, 0, 0, 0])];
        let one = |flags: u8, parts: &[&[u8]]| {
            let fields = head(flags);
            let fields: Vec<(usize, &[u8])> = fields.iter().map(|(at, field)| (*at, &field[..])).collect();
            message(ROUTE, ROUTE_HEADER, &fields, parts)
        };
        let lists = [
            one(3, &[&inet([0; 4]), &inet([10, 0, 2, 2]), &[]]),
            one(1, &[&inet([10, 0, 2, 0]), &inet([10, 0, 2, 2]), &[7, 0, 0, 0, 255, 255, 255]]),
            one(3, &[&any6, &local, &[0]]),
            one(3, &[&inet([192, 0, 2, 0]), &inet([10, 0, 2, 3]), &[7, 0, 0, 0, 255, 255, 255]]),
        ]
        .concat();
        let ways: Vec<_> =
            ways(&lists).into_iter().map(|way| (way.destination, way.prefix, way.gateway)).collect();
        let parsed = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(
            ways[1..],
            [(parsed("::"), 0, parsed("fe80::1")), (parsed("192.0.2.0"), 24, parsed("10.0.2.3")),]
        );
        assert_eq!((ways[0].0, ways[0].2), (parsed("0.0.0.0"), parsed("10.0.2.2")));
    }

    #[test]
    fn damage_is_no_message() {
        for bytes in [&[0xff; 64][..], &[0; 64], &[1; 7], &[200, 0, 4, INTERFACE, 0, 0, 0, 0]] {
            assert!(interfaces(bytes).is_empty() && ways(bytes).is_empty());
        }
        let short = message(INTERFACE, 20, &[(4, &[0x10])], &[]);
        assert!(interfaces(&short).is_empty());
    }
}
