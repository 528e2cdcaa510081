//! ARP (RFC 826), with conflict detection (RFC 5227).

use alloc::sync::Arc;
use core::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{ArpHardware, ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use super::{Evidence, detection, is_station};
use crate::{
    device::HardwareAddress,
    interface::Interface,
    ip::counters,
    link,
    packet::{Chain, Packet},
};

/// Everybody on the link.
const BROADCAST: HardwareAddress = [0xff; 6];
/// The length for Ethernet and IPv4.
const LENGTH: usize = 28;

/// Takes in a message.
pub(crate) fn input(interface: &Arc<Interface>, queue: usize, mut data: Chain) {
    if interface.is_loopback() || !data.pull_up(LENGTH) {
        return;
    }
    let Some(message) = parse(data.first()) else {
        counters::ip::IN_HEADER_ERRORS.increment();
        return;
    };
    let hardware = message.sender_hardware;
    if !is_station(hardware) || message.sender.is_multicast() || message.sender.is_broadcast() {
        return;
    }
    let own = interface.addresses.has(IpAddr::V4(message.target));
    if hardware == interface.hardware() {
        return;
    }
    if detection::heard(interface, &message) {
        return;
    }
    if !message.sender.is_unspecified() {
        let evidence = Evidence {
            solicited: !message.request && message.target_hardware == interface.hardware(),
            replaces: true,
            router: None,
        };
        interface.neighbours.learn(
            interface,
            message.sender.into(),
            Some(hardware),
            evidence,
            own && message.request,
        );
    }
    if message.request && own {
        send(interface, queue, hardware, ArpOperation::Reply, message.target, (hardware, message.sender));
    }
}

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    pub request: bool,
    pub sender_hardware: HardwareAddress,
    pub sender: Ipv4Addr,
    pub target_hardware: HardwareAddress,
    pub target: Ipv4Addr,
}

/// A request or reply for Ethernet and IPv4.
fn parse(bytes: &[u8]) -> Option<Message> {
    let packet = ArpPacket::new_checked(bytes).ok()?;
    if packet.hardware_type() != ArpHardware::Ethernet {
        return None;
    }
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_hardware_addr,
        target_protocol_addr,
    } = ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    let request = match operation {
        ArpOperation::Request => true,
        ArpOperation::Reply => false,
        _ => return None,
    };
    Some(Message {
        request,
        sender_hardware: source_hardware_addr.0,
        sender: source_protocol_addr,
        target_hardware: target_hardware_addr.0,
        target: target_protocol_addr,
    })
}

/// Parses arbitrary bytes: for fuzzing.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let _ = parse(bytes);
}

/// Asks who has `target`: everybody, or the machine that is believed to have it.
pub(super) fn ask(interface: &Arc<Interface>, target: Ipv4Addr, to: Option<HardwareAddress>) {
    let addresses = interface.addresses.list();
    let ours = |entry: &&crate::address::Address| entry.address.is_ipv4() && entry.is_usable();
    let source = addresses
        .iter()
        .filter(ours)
        .find(|entry| entry.contains(target.into()))
        .or_else(|| addresses.iter().find(ours));
    let Some(IpAddr::V4(source)) = source.map(|entry| entry.address) else { return };
    send(
        interface,
        0,
        to.unwrap_or(BROADCAST),
        ArpOperation::Request,
        source,
        (to.unwrap_or([0; 6]), target),
    );
}

/// Asks whether anybody has `address`, without claiming it.
pub(super) fn probe(interface: &Arc<Interface>, address: Ipv4Addr) {
    send(interface, 0, BROADCAST, ArpOperation::Request, Ipv4Addr::UNSPECIFIED, ([0; 6], address));
}

/// Tells everybody that `address` is ours.
pub(super) fn announce(interface: &Arc<Interface>, address: Ipv4Addr) {
    send(interface, 0, BROADCAST, ArpOperation::Request, address, ([0; 6], address));
}

fn send(
    interface: &Arc<Interface>,
    queue: usize,
    to: HardwareAddress,
    operation: ArpOperation,
    source: Ipv4Addr,
    (target_hardware, target): (HardwareAddress, Ipv4Addr),
) {
    let message = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(interface.hardware()),
        source_protocol_addr: source,
        target_hardware_addr: EthernetAddress(target_hardware),
        target_protocol_addr: target,
    };
    let mut packet = Packet::default();
    message.emit(&mut ArpPacket::new_unchecked(packet.header.prepend(LENGTH)));
    let _ = link::output(interface, queue, to, link::ARP, &mut packet);
}
