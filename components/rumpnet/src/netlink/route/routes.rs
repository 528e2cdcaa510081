//! Routes: RTM_GETROUTE, RTM_NEWROUTE, RTM_DELROUTE; and RTM_GETRULE, as there is always the same policy.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rumpkern::{Errno, Result};

use super::{family, header, kind, seconds_until};
use crate::{
    interface,
    netlink::{
        Answer,
        message::{Message, find, find_address, find_word, flag},
    },
    route::{self, Entry, Kind, Protocol, Query},
};

/// Bytes of `struct rtmsg` and of `struct fib_rule_hdr`.
const HEADER: usize = 12;
const DESTINATION: u16 = 1;
const OUT: u16 = 4;
const GATEWAY: u16 = 5;
const PRIORITY: u16 = 6;
const SOURCE: u16 = 7;
const METRICS: u16 = 8;
const CACHE_INFO: u16 = 12;
const TABLE: u16 = 15;
const METRIC_MTU: u16 = 2;
const TABLE_MAIN: u8 = 254;
const TABLE_LOCAL: u8 = 255;
/// RTM_F_CLONED: the answer to a question about one destination.
const CLONED: u32 = 0x200;

fn type_of(kind: Kind) -> u8 {
    match kind {
        Kind::Unicast => 1,
        Kind::Blackhole => 6,
        Kind::Unreachable => 7,
        Kind::Prohibit => 8,
    }
}

fn kind_of(number: u8) -> Result<Kind> {
    Ok(match number {
        1 => Kind::Unicast,
        6 => Kind::Blackhole,
        7 => Kind::Unreachable,
        8 => Kind::Prohibit,
        _ => return Err(Errno::EOPNOTSUPP),
    })
}

fn family_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { family::INET } else { family::INET6 }
}

/// Describes a route in an answer or a notification.
pub(crate) fn describe(answer: &mut Answer<'_>, entry: &Entry, gone: bool) {
    let link = if entry.gateway.is_none() && entry.destination.is_ipv4() { 253 } else { 0 };
    let head = [
        family_of(entry.destination),
        entry.prefix,
        0,
        0,
        TABLE_MAIN,
        entry.protocol as u8,
        link,
        type_of(entry.kind),
        0,
        0,
        0,
        0,
    ];
    let builder = answer.begin(if gone { kind::DELROUTE } else { kind::NEWROUTE }, &head);
    builder.word(TABLE, u32::from(TABLE_MAIN));
    if entry.prefix > 0 {
        builder.address(DESTINATION, entry.destination);
    }
    if entry.metric != 0 || entry.destination.is_ipv6() {
        builder.word(PRIORITY, if entry.metric == 0 { 1024 } else { entry.metric });
    }
    if let Some(source) = entry.source {
        builder.address(SOURCE, source);
    }
    if let Some(mtu) = entry.mtu {
        let start = builder.begin_nested(METRICS);
        builder.word(METRIC_MTU, mtu as u32);
        builder.end_nested(start);
    }
    if let Some(gateway) = entry.gateway {
        builder.address(GATEWAY, gateway);
    }
    builder.word(OUT, entry.interface);
    if entry.destination.is_ipv6() {
        // struct rta_cacheinfo; the time is in hundredths of a second.
        let mut cache = [0; 32];
        let left = seconds_until(entry.valid_until);
        let expires = if left == u32::MAX { 0 } else { left.saturating_mul(100) };
        cache[8..12].copy_from_slice(&expires.to_ne_bytes());
        builder.attribute(CACHE_INFO, &cache);
        builder.attribute(20, &[0]);
    }
    builder.end();
}

/// The routes to this machine's own addresses, as `ip route show table local` lists them.
fn describe_local(answer: &mut Answer<'_>, wanted: u8) {
    for interface in interface::list() {
        for entry in interface.addresses.list() {
            let family = family_of(entry.address);
            if wanted != family::UNSPEC && wanted != family {
                continue;
            }
            let prefix = match entry.address {
                IpAddr::V4(four) if four.is_loopback() => entry.prefix,
                IpAddr::V4(_) => 32,
                IpAddr::V6(_) => 128,
            };
            let scope = if family == family::INET { 254 } else { 0 };
            let head = [family, prefix, 0, 0, TABLE_LOCAL, 2, scope, 2, 0, 0, 0, 0];
            let builder = answer.begin(kind::NEWROUTE, &head);
            builder.word(TABLE, u32::from(TABLE_LOCAL));
            builder.address(DESTINATION, crate::address::network_of(entry.address, prefix));
            if family == family::INET {
                builder.address(SOURCE, entry.address);
            } else {
                builder.word(PRIORITY, 0);
            }
            builder.word(OUT, interface.index());
            builder.end();
        }
    }
}

/// RTM_GETROUTE: all routes, or the way to one destination.
pub(super) fn get(message: &Message<'_>, dumps: bool, answer: &mut Answer<'_>) -> Result<bool> {
    let (head, end) = header::<HEADER>(message);
    let attributes = &message.payload[end..];
    if !dumps {
        return one(&head, attributes, answer).map(|()| false);
    }
    let table = find_word(attributes, TABLE).unwrap_or(u32::from(head[4]));
    if table == 0 || table == u32::from(TABLE_MAIN) {
        for entry in route::list() {
            if head[0] == family::UNSPEC || head[0] == family_of(entry.destination) {
                describe(answer, &entry, false);
            }
        }
    }
    if table == 0 || table == u32::from(TABLE_LOCAL) {
        describe_local(answer, head[0]);
    }
    Ok(true)
}

fn one(head: &[u8; HEADER], attributes: &[u8], answer: &mut Answer<'_>) -> Result<()> {
    let unspecified: IpAddr =
        if head[0] == family::INET6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let destination = find_address(attributes, DESTINATION)?.unwrap_or(unspecified);
    let interface = find_word(attributes, OUT).filter(|&index| index != 0);
    let source = find_address(attributes, 2)?;
    let found = route::lookup(&Query { destination, source, interface })?;
    let bits = if destination.is_ipv4() { 32 } else { 128 };
    let (table, number) = if found.is_local() { (TABLE_LOCAL, 2) } else { (TABLE_MAIN, 1) };
    let mut head = [family_of(destination), bits, 0, 0, table, 0, 0, number, 0, 0, 0, 0];
    head[8..].copy_from_slice(&CLONED.to_ne_bytes());
    let builder = answer.begin(kind::NEWROUTE, &head);
    builder.word(TABLE, u32::from(table));
    builder.address(DESTINATION, destination);
    if found.next_hop != destination {
        builder.address(GATEWAY, found.next_hop);
    }
    builder.word(OUT, found.interface.index());
    builder.address(SOURCE, found.source);
    builder.attribute(CACHE_INFO, &[0; 32]);
    builder.end();
    Ok(())
}

/// What a request to add or remove says.
struct Request {
    entry: Entry,
    interface: Option<u32>,
    metric: Option<u32>,
}

fn read(message: &Message<'_>) -> Result<Request> {
    let (head, end) = header::<HEADER>(message);
    let attributes = &message.payload[end..];
    let unspecified: IpAddr = match head[0] {
        family::INET => Ipv4Addr::UNSPECIFIED.into(),
        family::INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    let destination = find_address(attributes, DESTINATION)?.unwrap_or(unspecified);
    if family_of(destination) != head[0] {
        return Err(Errno::EINVAL);
    }
    let gateway = find_address(attributes, GATEWAY)?;
    let interface = find_word(attributes, OUT).filter(|&index| index != 0);
    let metric = find_word(attributes, PRIORITY);
    let mut entry = Entry::new(destination, head[1].min(128), interface.unwrap_or(0));
    entry.gateway = gateway;
    entry.source = find_address(attributes, SOURCE)?;
    entry.metric = metric.unwrap_or(0);
    entry.mtu = find(attributes, METRICS)
        .and_then(|metrics| find_word(metrics, METRIC_MTU))
        .map(|mtu| mtu as usize)
        .filter(|&mtu| mtu > 0);
    entry.protocol = match head[5] {
        3 => Protocol::Boot,
        16 => Protocol::Dhcp,
        _ => Protocol::Static,
    };
    entry.kind = kind_of(if head[7] == 0 { 1 } else { head[7] })?;
    Ok(Request { entry, interface, metric })
}

/// RTM_NEWROUTE. EEXIST if there is one to the same network and it is not to be replaced.
pub(super) fn add(message: &Message<'_>) -> Result<bool> {
    let Request { mut entry, interface, .. } = read(message)?;
    if interface.is_none() {
        entry.interface = match entry.gateway {
            Some(gateway) => route::lookup(&Query::to(gateway))?.interface.index(),
            None if entry.kind != Kind::Unicast => interface::loopback().index(),
            None => return Err(Errno::ENODEV),
        };
    }
    let same = |other: &Entry| {
        (other.destination, other.prefix, other.metric) == (entry.destination, entry.prefix, entry.metric)
    };
    let old: Vec<_> = route::list().into_iter().filter(same).collect();
    if !old.is_empty() && message.flags & flag::EXCL != 0 {
        return Err(Errno::EEXIST);
    }
    if old.is_empty() && message.flags & flag::CREATE == 0 {
        return Err(Errno::ENOENT);
    }
    if message.flags & flag::REPLACE != 0 {
        for other in old {
            let _ = route::remove(
                other.destination,
                other.prefix,
                other.gateway,
                Some(other.interface),
                Some(other.metric),
            );
        }
    }
    route::add(entry)?;
    Ok(false)
}

/// RTM_DELROUTE.
pub(super) fn remove(message: &Message<'_>) -> Result<bool> {
    let (head, _) = header::<HEADER>(message);
    if head[4] == TABLE_LOCAL {
        return Err(Errno::ESRCH);
    }
    let Request { entry, interface, metric } = read(message)?;
    route::remove(entry.destination, entry.prefix, entry.gateway, interface, metric)?;
    Ok(false)
}

/// RTM_GETRULE: own addresses first, then the routes.
pub(super) fn rules(message: &Message<'_>, answer: &mut Answer<'_>) {
    let (head, _) = header::<HEADER>(message);
    for family in [family::INET, family::INET6] {
        if head[0] != family::UNSPEC && head[0] != family {
            continue;
        }
        for (priority, table) in [(0, TABLE_LOCAL), (32766, TABLE_MAIN)] {
            let builder = answer.begin(kind::NEWRULE, &[family, 0, 0, 0, table, 0, 0, 1, 0, 0, 0, 0]);
            builder.word(TABLE, u32::from(table));
            if priority != 0 {
                builder.word(PRIORITY, priority);
            }
            builder.end();
        }
    }
}
