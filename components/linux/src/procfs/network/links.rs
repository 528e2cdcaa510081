//! Interfaces, their addresses, neighbours and groups, and the routes.

use alloc::{
    format,
    string::{String, ToString},
};
use core::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rumpnet::{
    interface,
    neighbour::State,
    route::{self, Kind},
};

/// As Linux writes it: a word in the machine's order, of bytes in the network's.
fn word(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

fn mask(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0))
}

fn hexadecimal(address: Ipv6Addr) -> String {
    format!("{:032x}", address.to_bits())
}

/// A hardware address with colons.
pub(crate) fn hardware(address: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = address;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// /proc/net/dev.
pub(super) fn devices() -> String {
    let mut text = String::from(
        "Inter-|   Receive                                                |  Transmit\n \
         face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls \
         carrier compressed\n",
    );
    for interface in interface::list() {
        let counted = interface.statistics();
        let _ = writeln!(
            text,
            "{:>6}: {:7} {:7} {:4} {:4} {:4} {:5} {:10} {:9} {:8} {:7} {:4} {:4} {:4} {:5} {:7} {:10}",
            interface.name(),
            counted.receive_bytes,
            counted.receive_packets,
            counted.receive_errors,
            counted.receive_dropped + counted.receive_missed,
            0,
            0,
            0,
            0,
            counted.transmit_bytes,
            counted.transmit_packets,
            counted.transmit_errors,
            counted.transmit_dropped,
            0,
            0,
            0,
            0
        );
    }
    text
}

/// /proc/net/arp.
pub(super) fn neighbours() -> String {
    let mut text =
        String::from("IP address       HW type     Flags       HW address            Mask     Device\n");
    for interface in interface::list() {
        for entry in interface.neighbours.list() {
            let IpAddr::V4(address) = entry.address else { continue };
            let flags = match (entry.state, entry.hardware) {
                (State::Permanent, _) => 6,
                (_, Some(_)) => 2,
                _ => 0,
            };
            let _ = writeln!(
                text,
                "{:<16} 0x{:<10x}0x{flags:<10x}{}     *        {}",
                address.to_string(),
                1,
                hardware(entry.hardware.unwrap_or_default()),
                interface.name()
            );
        }
    }
    text
}

/// /proc/net/route.
pub(super) fn routes4() -> String {
    let heading = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
    let mut text = format!("{heading:<127}\n");
    for entry in route::list() {
        let IpAddr::V4(destination) = entry.destination else { continue };
        let gateway = match entry.gateway {
            Some(IpAddr::V4(gateway)) => gateway,
            _ => Ipv4Addr::UNSPECIFIED,
        };
        let mut flags = 1;
        flags |= if entry.gateway.is_some() { 2 } else { 0 };
        flags |= if entry.prefix == 32 { 4 } else { 0 };
        flags |= if entry.kind == Kind::Unicast { 0 } else { 0x200 };
        let name = interface::by_index(entry.interface)
            .map_or_else(|| String::from("*"), |interface| interface.name().to_string());
        let line = format!(
            "{name}\t{:08X}\t{:08X}\t{flags:04X}\t0\t0\t{}\t{:08X}\t{}\t0\t0",
            word(destination),
            word(gateway),
            entry.metric,
            word(mask(entry.prefix)),
            entry.mtu.unwrap_or(0)
        );
        let _ = writeln!(text, "{line:<127}");
    }
    text
}

/// /proc/net/ipv6_route.
pub(super) fn routes6() -> String {
    let mut text = String::new();
    let mut add =
        |destination: Ipv6Addr, prefix: u8, gateway: Ipv6Addr, metric: u32, flags: u32, index: u32| {
            let Some(interface) = interface::by_index(index) else { return };
            let _ = writeln!(
                text,
                "{} {prefix:02x} {} 00 {} {metric:08x} 00000001 00000000 {flags:08x} {:>8}",
                hexadecimal(destination),
                hexadecimal(Ipv6Addr::UNSPECIFIED),
                hexadecimal(gateway),
                interface.name()
            );
        };
    for entry in route::list() {
        let IpAddr::V6(destination) = entry.destination else { continue };
        let gateway = match entry.gateway {
            Some(IpAddr::V6(gateway)) => gateway,
            _ => Ipv6Addr::UNSPECIFIED,
        };
        let flags = if entry.gateway.is_some() { 3 } else { 1 };
        let metric = if entry.metric == 0 { 1024 } else { entry.metric };
        add(destination, entry.prefix, gateway, metric, flags, entry.interface);
    }
    // The machine's own addresses: RTF_LOCAL | RTF_UP.
    for interface in interface::list() {
        for entry in interface.addresses.list() {
            if let IpAddr::V6(address) = entry.address {
                add(address, 128, Ipv6Addr::UNSPECIFIED, 0, 0x8020_0001, interface.index());
            }
        }
    }
    text
}

/// /proc/net/if_inet6.
pub(super) fn addresses6() -> String {
    let mut text = String::new();
    for interface in interface::list() {
        for entry in interface.addresses.list() {
            let IpAddr::V6(address) = entry.address else { continue };
            let scope = if address.is_loopback() {
                0x10
            } else if rumpnet::address::is_link_local(address) {
                0x20
            } else {
                0
            };
            let _ = writeln!(
                text,
                "{} {:02x} {:02x} {scope:02x} {:02x} {:>8}",
                hexadecimal(address),
                interface.index(),
                entry.prefix,
                entry.flags.bits() as u8,
                interface.name()
            );
        }
    }
    text
}

/// /proc/net/igmp.
pub(super) fn groups4() -> String {
    let mut text = String::from("Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n");
    for interface in interface::list() {
        let groups = interface.groups.list();
        let four = |&(group, users): &(IpAddr, usize)| match group {
            IpAddr::V4(group) => Some((group, users)),
            IpAddr::V6(_) => None,
        };
        let count = groups.iter().filter_map(four).count();
        if count == 0 {
            continue;
        }
        let _ = writeln!(text, "{}\t{:<10}: {count:5} {:>7}", interface.index(), interface.name(), "V3");
        for (group, users) in groups.iter().filter_map(four) {
            let _ = writeln!(text, "\t\t\t\t{:08X} {users:5} 0:{:08X}\t\t0", word(group), 0);
        }
    }
    text
}

/// /proc/net/igmp6.
pub(super) fn groups6() -> String {
    let mut text = String::new();
    for interface in interface::list() {
        for (group, users) in interface.groups.list() {
            if let IpAddr::V6(group) = group {
                let (index, name) = (interface.index(), interface.name());
                let _ = writeln!(text, "{index:<4} {name:<15} {} {users:5} 00000004 0", hexadecimal(group));
            }
        }
    }
    text
}

/// /proc/net/dev_mcast.
pub(super) fn device_groups() -> String {
    let mut text = String::new();
    for interface in interface::list().iter().filter(|interface| !interface.is_loopback()) {
        for (group, users) in interface.groups.list() {
            let bytes = match group {
                IpAddr::V4(group) => {
                    let [_, b, c, d] = group.octets();
                    format!("01005e{:02x}{c:02x}{d:02x}", b & 0x7f)
                }
                IpAddr::V6(group) => format!("3333{:08x}", group.to_bits() as u32),
            };
            let _ =
                writeln!(text, "{:<4} {:<15} {users:<5} 0     {bytes}", interface.index(), interface.name());
        }
    }
    text
}
