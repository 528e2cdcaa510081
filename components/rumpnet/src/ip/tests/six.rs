//! IPv6: extension headers, neighbour discovery, duplicates, routers.

use std::{net::Ipv6Addr, vec, vec::Vec};

use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        EthernetAddress, EthernetProtocol, Icmpv6Message, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet,
        Ipv6Repr, NdiscNeighborFlags, NdiscRepr, RawHardwareAddress,
    },
};

use super::{Bench, PEER};
use crate::{
    address::{self, Address, AddressFlags, Origin},
    checksum,
    neighbour::{State, detection, discovery::solicited_node},
    packet::Chain,
    route::{self, Query},
    service::SECOND,
};

impl Bench {
    fn own6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 99, self.subnet.into(), 0, 0, 0, 0, 1)
    }

    fn peer6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 99, self.subnet.into(), 0, 0, 0, 0, 2)
    }

    fn six() -> Bench {
        let bench = Bench::new();
        let own = Address {
            flags: AddressFlags::PERMANENT | AddressFlags::NO_DETECTION,
            ..Address::new(bench.own6().into(), 64, Origin::Static)
        };
        address::add(&bench.interface, own).unwrap();
        bench.interface.neighbours.fix(&bench.interface, bench.peer6().into(), PEER).unwrap();
        bench
    }

    /// A packet from the peer, or another source.
    fn ipv6(&self, source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let header = Ipv6Repr {
            src_addr: source,
            dst_addr: destination,
            next_header: IpProtocol::from(protocol),
            payload_len: payload.len(),
            hop_limit: 255,
        };
        let mut bytes = vec![0; 40];
        bytes.extend_from_slice(payload);
        header.emit(&mut Ipv6Packet::new_unchecked(&mut bytes));
        self.ethernet(EthernetProtocol::Ipv6, &bytes)
    }

    fn message(&self, source: Ipv6Addr, destination: Ipv6Addr, message: &Icmpv6Repr<'_>) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        let mut packet = Icmpv6Packet::new_unchecked(&mut bytes);
        message.emit(&source, &destination, &mut packet, &ChecksumCapabilities::default());
        bytes
    }

    fn ndisc(&self, source: Ipv6Addr, destination: Ipv6Addr, message: NdiscRepr<'_>) {
        let message = self.message(source, destination, &Icmpv6Repr::Ndisc(message));
        self.input(&self.ipv6(source, destination, 58, &message));
    }

    /// The ICMPv6 messages that were sent: type, code, source, destination, the message.
    fn sent6(&self) -> Vec<(u8, u8, Ipv6Addr, Ipv6Addr, Vec<u8>)> {
        let read = |bytes: Vec<u8>| {
            let packet = Ipv6Packet::new_checked(&bytes[..]).unwrap();
            if packet.next_header() != IpProtocol::Icmpv6 {
                return None;
            }
            let message = packet.payload();
            let data = Chain::copy_of(message).unwrap();
            assert!(checksum::is_right(packet.src_addr().into(), packet.dst_addr().into(), 58, &data));
            Some((message[0], message[1], packet.src_addr(), packet.dst_addr(), message.to_vec()))
        };
        self.sent(EthernetProtocol::Ipv6).into_iter().filter_map(read).collect()
    }
}

fn hardware(address: [u8; 6]) -> RawHardwareAddress {
    RawHardwareAddress::from(EthernetAddress(address))
}

#[test]
fn pings_behind_extension_headers_are_answered() {
    let bench = Bench::six();
    let (own, peer) = (bench.own6(), bench.peer6());
    let echo = bench.message(peer, own, &Icmpv6Repr::EchoRequest { ident: 1, seq_no: 2, data: b"six" });
    let answered = |next: u8, extensions: &[u8]| {
        let payload = [extensions, &echo[..]].concat();
        bench.input(&bench.ipv6(peer, own, next, &payload));
        let sent = bench.sent6();
        sent.iter().map(|message| (message.0, message.1, message.4[4..8].to_vec())).collect::<Vec<_>>()
    };
    let reply = vec![(129, 0, vec![0, 1, 0, 2])];
    assert_eq!(answered(58, &[]), reply);
    // Hop-by-hop with padding, destination options, a routing header that is used up.
    let hop = [60, 0, 1, 4, 0, 0, 0, 0];
    let destination = [43, 0, 0, 0, 0, 0, 0, 0];
    let routing = [58, 0, 4, 0, 0, 0, 0, 0];
    assert_eq!(answered(0, &[hop, destination, routing].concat()), reply);
    // A fragment that is all (RFC 6946).
    assert_eq!(answered(44, &[58, 0, 0, 0, 0, 0, 0, 9]), reply);
    let problem = |code: u8, pointer: u8| vec![(4, code, vec![0, 0, 0, pointer])];
    assert_eq!(
        answered(43, &[58, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        problem(0, 42)
    );
    assert_eq!(answered(0, &[58, 0, 0x80, 4, 0, 0, 0, 0]), problem(2, 42));
    assert_eq!(answered(60, &[0, 0, 1, 4, 0, 0, 0, 0]), problem(1, 40), "hop-by-hop must be first");
    assert_eq!(answered(200, &[]), problem(1, 6));
    assert_eq!(answered(0, &[58, 0, 0x40, 4, 0, 0, 0, 0]), vec![], "an option that says: drop");
    assert_eq!(answered(0, &[58, 0, 1, 5, 0, 0, 0, 0]), vec![], "an option that is too long");
    assert_eq!(answered(0, &[58, 9, 1, 4, 0, 0, 0, 0]), vec![], "a header that is too long");
    assert_eq!(answered(59, &[]), vec![]);
    let many = [60, 0, 1, 4, 0, 0, 0, 0].repeat(20);
    assert_eq!(answered(60, &many), vec![], "too many headers");
}

#[test]
fn fragments_are_joined_unless_they_overlap() {
    let bench = Bench::six();
    let (own, peer) = (bench.own6(), bench.peer6());
    let echo = bench.message(peer, own, &Icmpv6Repr::EchoRequest { ident: 1, seq_no: 2, data: &[5; 72] });
    let send = |number: u8, pieces: &[(usize, usize, bool)]| {
        for &(start, end, more) in pieces {
            let field = (start as u16 | u16::from(more)).to_be_bytes();
            let header = [58, 0, field[0], field[1], 0, 0, 0, number];
            bench.input(&bench.ipv6(peer, own, 44, &[&header[..], &echo[start..end]].concat()));
        }
        bench.sent6().iter().map(|message| (message.0, message.4.len())).collect::<Vec<_>>()
    };
    assert_eq!(send(1, &[(40, 80, false), (0, 40, true)]), [(129, 80)]);
    assert_eq!(send(2, &[(0, 40, true), (32, 80, false), (40, 80, false)]), []);
    assert_eq!(send(3, &[(0, 39, true)]), [(4, 8 + 40 + 39)], "parameter problem");
}

#[test]
fn neighbours_are_asked_and_answered() {
    let bench = Bench::six();
    let (own, peer) = (bench.own6(), bench.peer6());
    let other = Ipv6Addr::new(0xfd00, 99, bench.subnet.into(), 0, 0, 0, 0, 3);
    let question = NdiscRepr::NeighborSolicit { target_addr: own, lladdr: Some(hardware(PEER)) };
    bench.ndisc(other, solicited_node(own), question);
    let sent = bench.sent6();
    assert_eq!((sent.len(), sent[0].0, sent[0].2, sent[0].3), (1, 136, own, other));
    assert_eq!(sent[0].4[4] & 0xe0, 0x60, "solicited, override");
    assert_eq!(bench.interface.neighbours.find(other.into()).unwrap().state(), State::Delay);
    // Somebody looks whether the address is free: it isn't.
    let probe = NdiscRepr::NeighborSolicit { target_addr: own, lladdr: None };
    bench.ndisc(Ipv6Addr::UNSPECIFIED, solicited_node(own), probe);
    let sent = bench.sent6();
    assert_eq!((sent[0].0, sent[0].3), (136, "ff02::1".parse().unwrap()));
    // With a hop limit below 255 it came from elsewhere.
    let message = bench.message(peer, own, &Icmpv6Repr::Ndisc(probe));
    let mut bytes = bench.ipv6(peer, own, 58, &message);
    bytes[14 + 7] = 254;
    bench.input(&bytes);
    assert!(bench.sent6().is_empty());
    // An answer that we waited for.
    let fourth = Ipv6Addr::new(0xfd00, 99, bench.subnet.into(), 0, 0, 0, 0, 4);
    let echo = bench.message(fourth, own, &Icmpv6Repr::EchoRequest { ident: 1, seq_no: 2, data: b"" });
    bench.input(&bench.ipv6(fourth, own, 58, &echo));
    let sent = bench.sent6();
    assert_eq!((sent[0].0, sent[0].3), (135, solicited_node(fourth)));
    let answer = NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE,
        target_addr: fourth,
        lladdr: Some(hardware([2, 7, 7, 7, 7, 7])),
    };
    bench.ndisc(fourth, own, answer);
    assert_eq!(bench.sent6()[0].0, 129);
    assert_eq!(bench.interface.neighbours.find(fourth.into()).unwrap().state(), State::Reachable);
}

#[test]
fn an_address_that_another_machine_has_is_not_used() {
    let bench = Bench::six();
    let taken = Ipv6Addr::new(0xfd00, 99, bench.subnet.into(), 0, 0, 0, 0, 0x77);
    address::add(&bench.interface, Address::new(taken.into(), 64, Origin::Static)).unwrap();
    assert!(bench.interface.addresses.has(taken.into()), "optimistic");
    detection::run(rumpuser::rumpuser_clock_monotonic());
    assert!(bench.sent6().iter().any(|message| message.0 == 135 && message.2.is_unspecified()));
    let mine = NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::OVERRIDE,
        target_addr: taken,
        lladdr: Some(hardware(PEER)),
    };
    bench.ndisc(taken, "ff02::1".parse().unwrap(), mine);
    assert!(!bench.interface.addresses.has(taken.into()));
    let free = Ipv6Addr::new(0xfd00, 99, bench.subnet.into(), 0, 0, 0, 0, 0x78);
    address::add(&bench.interface, Address::new(free.into(), 64, Origin::Static)).unwrap();
    let now = rumpuser::rumpuser_clock_monotonic();
    detection::run(now);
    detection::run(now + 2 * SECOND);
    let flags = bench.interface.addresses.find(free.into()).unwrap().flags;
    assert!(!flags.intersects(AddressFlags::TENTATIVE | AddressFlags::OPTIMISTIC), "{flags:?}");
}

#[test]
fn a_router_gives_addresses_routes_and_name_servers_and_takes_them_back() {
    use crate::configuration::slaac;

    let bench = Bench::six();
    let router: Ipv6Addr = "fe80::1".parse().unwrap();
    let far = "2001:db8:ffff::1".parse().unwrap();
    let prefix = Ipv6Addr::new(0x2001, 0xdb8, bench.subnet.into(), 0, 0, 0, 0, 0);
    let mut resolver = slaac::tests::resolver();
    let mut advertise = |lifetime: u16, valid: u32, preferred: u32| {
        let mut message = vec![134, 0, 0, 0, 32, 0];
        message.extend_from_slice(&lifetime.to_be_bytes());
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(&[3, 4, 64, 0xc0]);
        message.extend_from_slice(&valid.to_be_bytes());
        message.extend_from_slice(&preferred.to_be_bytes());
        message.extend_from_slice(&[0; 4]);
        message.extend_from_slice(&prefix.octets());
        message.extend_from_slice(&[5, 1, 0, 0, 0, 0, 5, 0x14]);
        message.extend_from_slice(&[25, 3, 0, 0, 0, 0, 1, 0]);
        message.extend_from_slice(&router.octets());
        slaac::tests::advertised(&bench.interface, router, &message, &mut resolver)
    };
    let text = advertise(1800, 86400, 3600);
    assert!(text.starts_with("nameserver fe80::1%eth"), "{text}");
    let now = rumpuser::rumpuser_clock_monotonic();
    detection::run(now);
    detection::run(now + 2 * SECOND);
    let route = route::lookup(&Query { interface: Some(bench.interface.index()), ..Query::to(far) }).unwrap();
    assert_eq!((route.next_hop, route.mtu), (router.into(), 1300));
    assert_eq!(address::network_of(route.source, 64), prefix);
    assert_eq!(bench.interface.learnt.hop_limit(), 32);
    let own = bench.interface.addresses.find(route.source).unwrap();
    assert!(own.valid_until > own.preferred_until && own.valid_until < rumpuser::NEVER);
    // Anybody may claim to be the router: an address can't be ended at once.
    advertise(0, 0, 0);
    let own = bench.interface.addresses.find(route.source).unwrap();
    let left = own.valid_until - rumpuser::rumpuser_clock_monotonic();
    assert!((7100 * SECOND..=7200 * SECOND).contains(&left));
    assert!(own.flags.contains(AddressFlags::DEPRECATED));
    assert!(route::lookup(&Query { interface: Some(bench.interface.index()), ..Query::to(far) }).is_err());
}

#[test]
fn groups_are_reported_when_joined_asked_for_and_left() {
    use crate::multicast;
    let bench = Bench::six();
    let group = "ff05::1234".parse().unwrap();
    multicast::join(&bench.interface, group).unwrap();
    assert!(bench.device.multicast().contains(&[0x33, 0x33, 0, 0, 0x12, 0x34]));
    // Waits for a report of this type and group, behind the hop-by-hop header: another test's timers may be about to send it.
    let is_reported = |kind: u8| {
        let is_report = |bytes: &Vec<u8>| bytes[6] == 0 && bytes[48] == u8::from(Icmpv6Message::MldReport);
        let it = |bytes: &Vec<u8>| is_report(bytes) && (bytes[56], &bytes[74..76]) == (kind, &[0x12, 0x34]);
        let began = std::time::Instant::now();
        while began.elapsed().as_secs() < 10 {
            if bench.sent(EthernetProtocol::Ipv6).iter().any(it) {
                return true;
            }
            std::thread::yield_now();
        }
        false
    };
    multicast::run_timers(rumpuser::rumpuser_clock_monotonic());
    assert!(is_reported(4));
    multicast::run_timers(rumpuser::rumpuser_clock_monotonic() + 2 * SECOND);
    multicast::leave(&bench.interface, group).unwrap();
    assert!(is_reported(3));
    assert!(multicast::leave(&bench.interface, group).is_err());
}
