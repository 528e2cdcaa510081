//! Interfaces: RTM_GETLINK, RTM_NEWLINK and RTM_SETLINK.

use alloc::{sync::Arc, vec::Vec};

use rumpkern::{Errno, Result};

use super::{family, header, kind, word};
use crate::{
    interface::{self, Flags, Interface},
    netlink::{
        Answer,
        message::{Builder, Message, find, find_name, find_word},
    },
};

/// Bytes of `struct ifinfomsg`.
const HEADER: usize = 16;
const ADDRESS: u16 = 1;
const BROADCAST: u16 = 2;
const NAME: u16 = 3;
const MTU: u16 = 4;
const QDISC: u16 = 6;
const STATS: u16 = 7;
const TXQLEN: u16 = 13;
const OPERSTATE: u16 = 16;
const LINKMODE: u16 = 17;
const LINKINFO: u16 = 18;
const STATS64: u16 = 23;
const GROUP: u16 = 27;
const PROMISCUITY: u16 = 30;
const TX_QUEUES: u16 = 31;
const RX_QUEUES: u16 = 32;
const CARRIER: u16 = 33;
const MIN_MTU: u16 = 50;
const MAX_MTU: u16 = 51;
const ALT_NAME: u16 = 53;

/// `ARPHRD_*`.
pub(crate) const HARDWARE_ETHERNET: u16 = 1;
/// `ARPHRD_LOOPBACK`.
pub(crate) const HARDWARE_LOOPBACK: u16 = 772;

/// The kind of hardware of an interface (`ARPHRD_*`).
pub(crate) fn hardware_type(interface: &Interface) -> u16 {
    if interface.is_loopback() { HARDWARE_LOOPBACK } else { HARDWARE_ETHERNET }
}

/// `IF_OPER_*`, and how /sys names it.
pub fn operating_state(interface: &Interface) -> (u8, &'static str) {
    match (interface.is_loopback(), interface.is_running()) {
        (true, _) => (0, "unknown"),
        (false, true) => (6, "up"),
        (false, false) => (2, "down"),
    }
}

/// The fields of `struct rtnl_link_stats64` up to the last error counters, in their order.
pub fn statistics(interface: &Interface) -> [u64; 24] {
    let counted = interface.statistics();
    let mut fields = [0; 24];
    fields[0] = counted.receive_packets;
    fields[1] = counted.transmit_packets;
    fields[2] = counted.receive_bytes;
    fields[3] = counted.transmit_bytes;
    fields[4] = counted.receive_errors;
    fields[5] = counted.transmit_errors;
    fields[6] = counted.receive_dropped;
    fields[7] = counted.transmit_dropped;
    fields[15] = counted.receive_missed;
    fields
}

fn put(builder: &mut Builder, interface: &Interface) {
    builder.name(NAME, interface.name());
    builder.word(TXQLEN, 1000);
    builder.attribute(OPERSTATE, &[operating_state(interface).0]);
    builder.attribute(LINKMODE, &[0]);
    builder.word(MTU, interface.mtu() as u32);
    builder.word(MIN_MTU, 68);
    builder.word(MAX_MTU, interface.device().properties().mtu_limit as u32);
    builder.word(GROUP, 0);
    builder.word(PROMISCUITY, u32::from(interface.flags().contains(Flags::PROMISCUOUS)));
    builder.word(TX_QUEUES, interface.queue_count() as u32);
    builder.word(RX_QUEUES, interface.queue_count() as u32);
    builder.attribute(CARRIER, &[u8::from(interface.is_running())]);
    builder.name(QDISC, if interface.is_loopback() { "noqueue" } else { "mq" });
    builder.attribute(ADDRESS, &interface.hardware());
    let broadcast = if interface.is_loopback() { [0; 6] } else { [0xff; 6] };
    builder.attribute(BROADCAST, &broadcast);
    let fields = statistics(interface);
    let bytes: Vec<u8> = fields.iter().flat_map(|field| field.to_ne_bytes()).collect();
    builder.attribute(STATS64, &bytes);
    let bytes: Vec<u8> = fields.iter().flat_map(|&field| (field as u32).to_ne_bytes()).collect();
    builder.attribute(STATS, &bytes);
}

/// `struct ifinfomsg` of an interface.
fn info(interface: &Interface) -> [u8; HEADER] {
    let mut info = [0; HEADER];
    info[2..4].copy_from_slice(&hardware_type(interface).to_ne_bytes());
    info[4..8].copy_from_slice(&interface.index().to_ne_bytes());
    info[8..12].copy_from_slice(&interface.flags().bits().to_ne_bytes());
    info
}

/// Describes an interface in an answer or a notification.
pub(crate) fn describe(answer: &mut Answer<'_>, interface: &Interface, gone: bool) {
    let kind = if gone { kind::DELLINK } else { kind::NEWLINK };
    let builder = answer.begin(kind, &info(interface));
    put(builder, interface);
    builder.end();
}

/// The interface that a request is about. ENODEV.
fn named(message: &Message<'_>) -> Result<Arc<Interface>> {
    let (info, end) = header::<HEADER>(message);
    let attributes = &message.payload[end..];
    let name = find_name(attributes, NAME).or_else(|| find_name(attributes, ALT_NAME));
    match (word(&info, 4), name) {
        (0, Some(name)) => interface::by_name(name),
        (index, _) => interface::by_index(index),
    }
    .ok_or(Errno::ENODEV)
}

/// RTM_GETLINK.
pub(super) fn get(message: &Message<'_>, dumps: bool, answer: &mut Answer<'_>) -> Result<bool> {
    if !dumps {
        describe(answer, &*named(message)?, false);
        return Ok(false);
    }
    // Bridges and the like have interfaces of their own families: none.
    let (info, _) = header::<HEADER>(message);
    if matches!(info[0], family::UNSPEC | family::INET | family::INET6 | 17) {
        for interface in interface::list() {
            describe(answer, &interface, false);
        }
    }
    Ok(true)
}

/// RTM_NEWLINK and RTM_SETLINK: turns an interface on or off, sets its MTU. EOPNOTSUPP for new ones.
pub(super) fn set(message: &Message<'_>) -> Result<bool> {
    let (info, end) = header::<HEADER>(message);
    let attributes = &message.payload[end..];
    let interface = match named(message) {
        Err(Errno::ENODEV) if find(attributes, LINKINFO).is_some() => return Err(Errno::EOPNOTSUPP),
        found => found?,
    };
    if find(attributes, LINKINFO).is_some() {
        return Err(Errno::EEXIST);
    }
    if let Some(mtu) = find_word(attributes, MTU) {
        interface.set_mtu(mtu as usize)?;
    }
    if find(attributes, ADDRESS).is_some_and(|address| address != interface.hardware()) {
        return Err(Errno::EOPNOTSUPP);
    }
    if word(&info, 4) != 0 && find_name(attributes, NAME).is_some_and(|name| name != interface.name()) {
        return Err(Errno::EOPNOTSUPP);
    }
    let (flags, mut mask) = (word(&info, 8), word(&info, 12));
    if mask == 0 {
        mask = flags;
    }
    if mask & Flags::UP.bits() != 0 {
        interface.set_up(flags & Flags::UP.bits() != 0);
    }
    Ok(false)
}
