//! Neighbour discovery of IPv6 (RFC 4861): solicitations and advertisements. Router advertisements are handed to
//! the configuration.

use alloc::sync::Arc;
use core::net::{IpAddr, Ipv6Addr};

use smoltcp::wire::Icmpv6Message;

use super::{Evidence, detection, is_station};
use crate::{
    address::{self, AddressFlags},
    configuration,
    device::HardwareAddress,
    icmp::v6::finish_checksum,
    interface::Interface,
    ip::{self, Incoming, Outgoing, counters, output::HEADER6, protocol},
    link,
    packet::{Chain, Packet},
};

/// Everybody on the link.
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The longest message that is looked at.
const LONGEST: usize = 1500;

/// An option's type.
pub(crate) const SOURCE_HARDWARE: u8 = 1;
const TARGET_HARDWARE: u8 = 2;

/// Flags of an advertisement.
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// The group in which the machines with similar addresses are asked (RFC 4291 2.7.1).
pub(crate) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// The options of a message: (type, value). `None` if one is malformed.
pub(crate) fn options(mut bytes: &[u8]) -> Option<impl Iterator<Item = (u8, &[u8])> + Clone> {
    let all = bytes;
    while let [_, length, ..] = bytes {
        if *length == 0 {
            return None;
        }
        bytes = bytes.get(usize::from(*length) * 8..)?;
    }
    if !bytes.is_empty() {
        return None;
    }
    let mut rest = all;
    Some(core::iter::from_fn(move || {
        let &[kind, length, ..] = rest else { return None };
        let (option, others) = rest.split_at_checked(usize::from(length) * 8)?;
        rest = others;
        Some((kind, &option[2..]))
    }))
}

/// The hardware address in an option of the type.
pub(crate) fn hardware_option(bytes: &[u8], wanted: u8) -> Option<HardwareAddress> {
    let value = options(bytes)?.find(|&(kind, _)| kind == wanted)?.1;
    value.first_chunk().copied().filter(|&hardware| is_station(hardware))
}

fn address_at(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(octets.into())
}

/// Takes a message whose checksum and hop limit are right.
pub(crate) fn input(incoming: &Incoming<'_>, mut data: Chain) {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (incoming.source, incoming.destination) else {
        return;
    };
    let length = data.len();
    if incoming.interface.is_loopback() {
        return;
    }
    if length > LONGEST
        || !data.pull_up(length)
        || handle(incoming, source, destination, data.first()).is_none()
    {
        counters::icmp::IN_ERRORS.increment();
    }
}

fn handle(incoming: &Incoming<'_>, source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> Option<()> {
    match Icmpv6Message::from(*message.first()?) {
        Icmpv6Message::NeighborSolicit => solicited(incoming, source, destination, message),
        Icmpv6Message::NeighborAdvert => advertised(incoming, destination, message),
        Icmpv6Message::RouterAdvert => {
            let rest = message.get(16..)?;
            let _ = options(rest)?;
            if !address::is_link_local(source) {
                return None;
            }
            if let Some(hardware) = hardware_option(rest, SOURCE_HARDWARE) {
                let evidence = Evidence { solicited: false, replaces: true, router: Some(true) };
                incoming.interface.neighbours.learn(
                    incoming.interface,
                    source.into(),
                    Some(hardware),
                    evidence,
                    true,
                );
            }
            configuration::router_advertised(incoming.interface, source, message);
            Some(())
        }
        // This is no router.
        _ => Some(()),
    }
}

/// Somebody asks for a hardware address.
fn solicited(incoming: &Incoming<'_>, source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> Option<()> {
    let interface = incoming.interface;
    let target = address_at(message, 8).filter(|target| !target.is_multicast())?;
    let rest = message.get(24..)?;
    let _ = options(rest)?;
    let hardware = hardware_option(rest, SOURCE_HARDWARE);
    if source.is_unspecified() && (hardware.is_some() || destination != solicited_node(target)) {
        return None;
    }
    let Some(entry) = interface.addresses.find(target.into()) else { return Some(()) };
    if entry.flags.contains(AddressFlags::DUPLICATE) {
        return Some(());
    }
    let optimistic = entry.flags.contains(AddressFlags::TENTATIVE);
    if source.is_unspecified() {
        if optimistic {
            // Both begin to use it at the same time: neither may.
            detection::duplicate(interface, target, None);
        } else {
            advertise(interface, incoming.queue, target, ALL_NODES, OVERRIDE);
        }
        return Some(());
    }
    if let Some(hardware) = hardware {
        let evidence = Evidence { solicited: false, replaces: true, router: None };
        interface.neighbours.learn(interface, source.into(), Some(hardware), evidence, true);
    }
    let flags = if optimistic { SOLICITED } else { SOLICITED | OVERRIDE };
    advertise(interface, incoming.queue, target, source, flags);
    Some(())
}

/// Somebody tells a hardware address.
fn advertised(incoming: &Incoming<'_>, destination: Ipv6Addr, message: &[u8]) -> Option<()> {
    let interface = incoming.interface;
    let flags = *message.get(4)?;
    let target = address_at(message, 8).filter(|target| !target.is_multicast())?;
    let rest = message.get(24..)?;
    let _ = options(rest)?;
    if destination.is_multicast() && flags & SOLICITED != 0 {
        return None;
    }
    let hardware = hardware_option(rest, TARGET_HARDWARE);
    if let Some(entry) = interface.addresses.find(target.into()) {
        if hardware == Some(interface.hardware()) {
            return Some(());
        }
        if entry.flags.contains(AddressFlags::TENTATIVE) {
            detection::duplicate(interface, target, hardware);
        } else {
            detection::conflict(interface, target.into(), hardware.unwrap_or_default());
        }
        return Some(());
    }
    let evidence = Evidence {
        solicited: flags & SOLICITED != 0,
        replaces: flags & OVERRIDE != 0,
        router: Some(flags & ROUTER != 0),
    };
    interface.neighbours.learn(interface, target.into(), hardware, evidence, false);
    if flags & ROUTER == 0 {
        configuration::no_router(interface, target);
    }
    Some(())
}

/// Checks arbitrary bytes: for fuzzing.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    if let Some(options) = options(bytes) {
        assert!(options.map(|(_, value)| value.len() + 2).sum::<usize>() == bytes.len());
    }
    let _ = hardware_option(bytes, SOURCE_HARDWARE);
}

/// Asks who has `target`: all that could, or the machine that is believed to have it.
pub(super) fn ask(interface: &Arc<Interface>, target: Ipv6Addr, to: Option<HardwareAddress>) {
    let scope_fits = |own: Ipv6Addr| address::is_link_local(own) == address::is_link_local(target);
    let own = interface.addresses.list();
    let candidates = own.iter().filter(|entry| entry.is_usable()).filter_map(|entry| match entry.address {
        IpAddr::V6(address) => Some((address, entry.flags.contains(AddressFlags::TENTATIVE))),
        IpAddr::V4(_) => None,
    });
    // One that is surely ours, best of the same scope.
    let Some((source, optimistic)) =
        candidates.max_by_key(|&(address, optimistic)| (!optimistic, scope_fits(address)))
    else {
        return;
    };
    let destination = if to.is_some() { target } else { solicited_node(target) };
    let hardware = to.unwrap_or_else(|| link::group_address(destination.into()));
    solicit(interface, (source, destination), hardware, target, !optimistic);
}

/// Asks whether anybody has `address`, without claiming it.
pub(super) fn probe(interface: &Arc<Interface>, address: Ipv6Addr) {
    let destination = solicited_node(address);
    let hardware = link::group_address(destination.into());
    solicit(interface, (Ipv6Addr::UNSPECIFIED, destination), hardware, address, false);
}

fn solicit(
    interface: &Arc<Interface>,
    addresses: (Ipv6Addr, Ipv6Addr),
    hardware: HardwareAddress,
    target: Ipv6Addr,
    with_source: bool,
) {
    let mut packet = Packet::default();
    if with_source {
        hardware_to(&mut packet, SOURCE_HARDWARE, interface.hardware());
    }
    let header = packet.header.prepend(24);
    header.fill(0);
    header[0] = Icmpv6Message::NeighborSolicit.into();
    header[8..24].copy_from_slice(&target.octets());
    send(interface, 0, addresses, hardware, packet);
}

/// Tells everybody that an address is ours.
pub(super) fn announce(interface: &Arc<Interface>, address: Ipv6Addr) {
    advertise(interface, 0, address, ALL_NODES, OVERRIDE);
}

fn advertise(interface: &Arc<Interface>, queue: usize, target: Ipv6Addr, to: Ipv6Addr, flags: u8) {
    let mut packet = Packet::default();
    hardware_to(&mut packet, TARGET_HARDWARE, interface.hardware());
    let header = packet.header.prepend(24);
    header.fill(0);
    header[0] = Icmpv6Message::NeighborAdvert.into();
    header[4] = flags;
    header[8..24].copy_from_slice(&target.octets());
    if to.is_multicast() {
        send(interface, queue, (target, to), link::group_address(to.into()), packet);
        return;
    }
    finish_checksum(&mut packet, target.into(), to.into());
    let outgoing =
        Outgoing { hop_limit: 255, queue, ..Outgoing::new(target.into(), to.into(), protocol::ICMPV6) };
    ip::output::header6(&mut packet, &outgoing, (target, to), protocol::ICMPV6);
    if let Ok(neighbour) = interface.neighbours.get(to.into()) {
        let _ = ip::output::resolve(interface, &neighbour, queue, link::IPV6, &mut packet);
    }
}

fn hardware_to(packet: &mut Packet, kind: u8, hardware: HardwareAddress) {
    let option = packet.header.prepend(8);
    option[0] = kind;
    option[1] = 1;
    option[2..].copy_from_slice(&hardware);
}

/// Sends a message of neighbour discovery to a hardware address that is known.
pub(crate) fn send(
    interface: &Arc<Interface>,
    queue: usize,
    (source, destination): (Ipv6Addr, Ipv6Addr),
    hardware: HardwareAddress,
    mut packet: Packet,
) {
    finish_checksum(&mut packet, source.into(), destination.into());
    let outgoing =
        Outgoing { hop_limit: 255, ..Outgoing::new(source.into(), destination.into(), protocol::ICMPV6) };
    ip::output::header6(&mut packet, &outgoing, (source, destination), protocol::ICMPV6);
    debug_assert!(packet.header.bytes().len() >= HEADER6);
    let _ = link::output(interface, queue, hardware, link::IPV6, &mut packet);
}
