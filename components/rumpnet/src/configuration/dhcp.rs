//! The ways in and out of DHCPv4's client.

use alloc::{sync::Arc, vec::Vec};
use core::{
    net::{IpAddr, Ipv4Addr},
    sync::atomic::Ordering,
};

use netconfig::{CLIENT_PORT, Reply, SERVER_PORT};

use super::events::{self, Event};
use crate::{
    checksum::{self, Sum},
    interface::Interface,
    ip::{self, Incoming, Outgoing, protocol, v4::Header4},
    link,
    packet::{Chain, Packet},
    route::{self, Query},
};

/// Bytes of a UDP header.
const UDP: usize = 8;
/// The longest message that is looked at.
const LONGEST: usize = 1500;

/// Whether a packet to an address that isn't ours may be a server's answer: sent to the address that it offers.
pub(crate) fn wants(interface: &Interface, header: &Header4) -> bool {
    interface.learnt.dhcp.load(Ordering::Relaxed)
        && header.protocol == protocol::UDP
        && header.fragment_offset == 0
        && !header.more_fragments
}

/// Whether a UDP packet is for the client of an interface.
pub(crate) fn is_for_client(interface: &Interface, data: &Chain) -> bool {
    interface.learnt.dhcp.load(Ordering::Relaxed)
        && data.first().get(2..4) == Some(&CLIENT_PORT.to_be_bytes())
}

/// Takes a UDP packet for the client.
pub(crate) fn input(incoming: &Incoming<'_>, data: &Chain) {
    let mut bytes = alloc::vec![0; data.len().min(LONGEST)];
    data.copy_to(0, &mut bytes);
    let Some(&[_, _, p0, p1, l0, l1, c0, c1]) = bytes.first_chunk::<UDP>() else { return };
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let right = [c0, c1] == [0, 0] || {
        let mut whole = data.clone();
        whole.truncate(length);
        incoming.verify(&whole)
    };
    if u16::from_be_bytes([p0, p1]) == CLIENT_PORT && right && (UDP..=bytes.len()).contains(&length) {
        let message = bytes[UDP..length].to_vec();
        events::push(Event::Dhcp { interface: incoming.interface.index(), message });
    }
}

/// Reads arbitrary bytes: for fuzzing.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let _ = Reply::parse(bytes);
}

/// Sends a client's message, to everybody from `source`, or to a server from the address that it gave.
pub(super) fn send(interface: &Arc<Interface>, source: Ipv4Addr, server: Option<Ipv4Addr>, message: Vec<u8>) {
    let destination = server.unwrap_or(Ipv4Addr::BROADCAST);
    let Ok(payload) = Chain::copy_of(&message) else { return };
    let mut packet = Packet { payload, ..Packet::default() };
    let length = UDP + message.len();
    let header = packet.header.prepend(UDP);
    header[..2].copy_from_slice(&CLIENT_PORT.to_be_bytes());
    header[2..4].copy_from_slice(&SERVER_PORT.to_be_bytes());
    header[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    header[6..].fill(0);
    let pseudo = checksum::pseudo_header(source.into(), destination.into(), protocol::UDP, length);
    let mut sum = Sum::from_folded(pseudo);
    sum.add(header);
    sum.add(&message);
    let sum = match sum.finish() {
        0 => 0xffff,
        sum => sum,
    };
    header[6..].copy_from_slice(&sum.to_be_bytes());
    let outgoing =
        Outgoing { traffic_class: 0x10, ..Outgoing::new(source.into(), destination.into(), protocol::UDP) };
    match server {
        // Without an address there are no routes.
        None => {
            ip::output::header4(&mut packet, &outgoing, (source, destination), 0, 0);
            let _ = link::output(interface, 0, [0xff; 6], link::IPV4, &mut packet);
        }
        Some(server) => {
            let query = Query {
                destination: IpAddr::V4(server),
                source: Some(source.into()),
                interface: Some(interface.index()),
            };
            if let Ok(route) = route::lookup(&query) {
                let _ = ip::send(&route, &outgoing, &mut packet);
            }
        }
    }
}
