//! /proc/net: interfaces, addresses and routes ([`links`]), sockets ([`sockets`]), counters ([`statistics`]).

mod links;
mod sockets;
mod statistics;

use alloc::{string::String, vec::Vec};

use rumpvfs::generated::{Entry, Fixed};

/// The directory.
pub(super) fn directory() -> Entry {
    type Table = (&'static str, fn() -> String);
    let tables: [Table; 20] = [
        ("arp", links::neighbours),
        ("dev", links::devices),
        ("dev_mcast", links::device_groups),
        ("if_inet6", links::addresses6),
        ("igmp", links::groups4),
        ("igmp6", links::groups6),
        ("ipv6_route", links::routes6),
        ("netlink", sockets::netlink),
        ("netstat", statistics::netstat),
        ("packet", sockets::packet),
        ("raw", sockets::raw),
        ("raw6", sockets::raw6),
        ("route", links::routes4),
        ("snmp", statistics::snmp),
        ("snmp6", statistics::snmp6),
        ("sockstat", sockets::totals),
        ("sockstat6", sockets::totals6),
        ("tcp", sockets::tcp),
        ("tcp6", sockets::tcp6),
        ("udp", sockets::udp),
    ];
    let mut fixed = Fixed::new();
    for (name, text) in tables {
        fixed.add(name, Entry::text(move || -> Vec<u8> { text().into_bytes() }));
    }
    fixed.add("udp6", Entry::text(|| sockets::udp6().into_bytes()));
    fixed.add("unix", Entry::text(sockets::unix));
    Entry::directory(fixed)
}
