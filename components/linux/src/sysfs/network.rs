//! /sys/class/net: the interfaces.

use alloc::{format, string::String, sync::Arc, vec::Vec};

use rumpkern::{Errno, Result};
use rumpnet::{
    interface::{self, Interface},
    netlink::route::link::{operating_state, statistics},
};
use rumpvfs::{
    generated::{Directory, Entry, Fixed},
    vnode::Kind,
};

/// The interfaces, by name.
pub struct Interfaces;

impl Directory for Interfaces {
    fn lookup(&self, name: &[u8]) -> Option<Entry> {
        let name = core::str::from_utf8(name).ok()?;
        interface::by_name(name).map(|interface| Entry::directory(attributes(&interface)))
    }

    fn names(&self) -> Vec<(u64, Vec<u8>, Kind)> {
        let entry = |interface: &Arc<Interface>| {
            (u64::from(interface.index()), interface.name().as_bytes().to_vec(), Kind::Directory)
        };
        interface::list().iter().map(entry).collect()
    }
}

/// A line that is made when it is read.
fn line(
    interface: &Arc<Interface>,
    text: impl Fn(&Interface) -> Result<String> + Send + Sync + 'static,
) -> Entry {
    let interface = interface.clone();
    Entry::fallible(0o444, move || Ok((text(&interface)? + "\n").into_bytes()))
}

fn colons(address: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = address;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// The fields of `struct rtnl_link_stats64`, in their order.
const STATISTICS: [&str; 23] = [
    "rx_packets",
    "tx_packets",
    "rx_bytes",
    "tx_bytes",
    "rx_errors",
    "tx_errors",
    "rx_dropped",
    "tx_dropped",
    "multicast",
    "collisions",
    "rx_length_errors",
    "rx_over_errors",
    "rx_crc_errors",
    "rx_frame_errors",
    "rx_fifo_errors",
    "rx_missed_errors",
    "tx_aborted_errors",
    "tx_carrier_errors",
    "tx_fifo_errors",
    "tx_heartbeat_errors",
    "tx_window_errors",
    "rx_compressed",
    "tx_compressed",
];

fn attributes(interface: &Arc<Interface>) -> Fixed {
    let mut counters = Fixed::new();
    for (index, name) in STATISTICS.into_iter().enumerate() {
        counters.add(name, line(interface, move |interface| Ok(format!("{}", statistics(interface)[index]))));
    }
    let queues = (0..interface.queue_count()).fold(Fixed::new(), |queues, number| {
        queues
            .with(&format!("rx-{number}"), Entry::directory(Fixed::new()))
            .with(&format!("tx-{number}"), Entry::directory(Fixed::new()))
    });
    Fixed::new()
        .with("addr_assign_type", Entry::constant("0\n"))
        .with("addr_len", Entry::constant("6\n"))
        .with("address", line(interface, |interface| Ok(colons(interface.hardware()))))
        .with(
            "broadcast",
            line(interface, |interface| Ok(colons([if interface.is_loopback() { 0 } else { 0xff }; 6]))),
        )
        .with(
            "carrier",
            line(interface, |interface| match interface.is_up() {
                true => Ok(format!("{}", u8::from(interface.is_running()))),
                false => Err(Errno::EINVAL),
            }),
        )
        .with(
            "duplex",
            line(interface, |interface| match interface.device().link_speed() {
                Some((_, true)) => Ok(String::from("full")),
                Some((_, false)) => Ok(String::from("half")),
                None if interface.is_loopback() => Err(Errno::EINVAL),
                None => Ok(String::from("unknown")),
            }),
        )
        .with("flags", line(interface, |interface| Ok(format!("{:#x}", interface.flags().bits() & 0xffff))))
        .with("ifalias", Entry::constant(""))
        .with("ifindex", line(interface, |interface| Ok(format!("{}", interface.index()))))
        .with("iflink", line(interface, |interface| Ok(format!("{}", interface.index()))))
        .with("mtu", line(interface, |interface| Ok(format!("{}", interface.mtu()))))
        .with("operstate", line(interface, |interface| Ok(String::from(operating_state(interface).1))))
        .with("queues", Entry::directory(queues))
        .with(
            "speed",
            line(interface, |interface| match interface.device().link_speed() {
                Some((speed, _)) => Ok(format!("{speed}")),
                None if interface.is_loopback() => Err(Errno::EINVAL),
                None => Ok(String::from("-1")),
            }),
        )
        .with("statistics", Entry::directory(counters))
        .with("tx_queue_len", Entry::constant("1000\n"))
        .with(
            "type",
            line(interface, |interface| Ok(String::from(if interface.is_loopback() { "772" } else { "1" }))),
        )
        .with(
            "uevent",
            line(interface, |interface| {
                Ok(format!("INTERFACE={}\nIFINDEX={}", interface.name(), interface.index()))
            }),
        )
}
