//! The internet layer against a test device: what goes out for what comes in.

mod fragments;
mod mutations;
mod six;

use std::{
    format,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    vec,
    vec::Vec,
};

use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
        Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr,
    },
};

use crate::{
    address::{self, Address, AddressFlags, Origin},
    configuration,
    device::{HardwareAddress, Offloads},
    interface::{self, Interface, testing::TestDevice},
    link,
    packet::{Chain, Received},
};

/// The machine at the other end of the wire.
pub(crate) const PEER: HardwareAddress = [2, 0xff, 0, 0, 0, 1];

/// Tests that move the clock on or look at what is shared run one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An interface of its own with a /24 of its own; we are .1, the peer is .2.
pub(crate) struct Bench {
    pub device: Arc<TestDevice>,
    pub interface: Arc<Interface>,
    pub subnet: u8,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    pub fn new() -> Bench {
        static NEXT: Mutex<u8> = Mutex::new(0);
        let alone = alone();
        configuration::start();
        let subnet = {
            let mut next = NEXT.lock().unwrap();
            *next += 1;
            *next
        };
        let device = TestDevice::new(Offloads::empty(), 1);
        let interface = interface::attach(device.clone()).unwrap();
        let bench = Bench { device, interface, subnet, _alone: alone };
        let own = Address {
            flags: AddressFlags::PERMANENT | AddressFlags::NO_DETECTION,
            ..Address::new(bench.own().into(), 24, Origin::Static)
        };
        address::add(&bench.interface, own).unwrap();
        bench
    }

    pub fn host(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.subnet, number)
    }

    pub fn own(&self) -> Ipv4Addr {
        self.host(1)
    }

    pub fn peer(&self) -> Ipv4Addr {
        self.host(2)
    }

    /// Lets a packet in, link header included.
    pub fn input(&self, bytes: &[u8]) {
        let data = Chain::copy_of(bytes).unwrap();
        crate::icmp::refill();
        link::input(&self.interface, 0, Received { data, ..Received::default() });
        interface::flush();
    }

    /// What was sent since the last call, of one EtherType, without link headers.
    pub fn sent(&self, kind: EthernetProtocol) -> Vec<Vec<u8>> {
        interface::flush();
        let sent = self.device.take_sent();
        sent.iter()
            .filter(|packet| EthernetFrame::new_checked(&packet.bytes).unwrap().ethertype() == kind)
            .map(|packet| packet.bytes[14..].to_vec())
            .collect()
    }

    pub fn ethernet(&self, kind: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 14];
        EthernetRepr {
            src_addr: EthernetAddress(PEER),
            dst_addr: EthernetAddress(self.interface.hardware()),
            ethertype: kind,
        }
        .emit(&mut EthernetFrame::new_unchecked(&mut bytes));
        bytes.extend_from_slice(payload);
        bytes
    }

    pub fn ipv4(&self, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
        let header = Ipv4Repr {
            src_addr: self.peer(),
            dst_addr: self.own(),
            next_header: protocol,
            payload_len: payload.len(),
            hop_limit: 64,
        };
        let mut bytes = vec![0; 20];
        bytes.extend_from_slice(payload);
        header.emit(&mut Ipv4Packet::new_unchecked(&mut bytes), &ChecksumCapabilities::default());
        bytes
    }

    pub fn arp(&self, operation: ArpOperation, from: (HardwareAddress, Ipv4Addr), target: Ipv4Addr) {
        let message = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(from.0),
            source_protocol_addr: from.1,
            target_hardware_addr: EthernetAddress(self.interface.hardware()),
            target_protocol_addr: target,
        };
        let mut bytes = vec![0; 28];
        message.emit(&mut ArpPacket::new_unchecked(&mut bytes));
        self.input(&self.ethernet(EthernetProtocol::Arp, &bytes));
    }

    pub fn ping(&self, payload: &[u8]) -> Vec<u8> {
        let echo = Icmpv4Repr::EchoRequest { ident: 7, seq_no: 9, data: payload };
        let mut bytes = vec![0; echo.buffer_len()];
        echo.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes), &ChecksumCapabilities::default());
        bytes
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.device.vanish();
    }
}

fn arp_messages(packets: &[Vec<u8>]) -> Vec<(ArpOperation, Ipv4Addr, Ipv4Addr)> {
    let parse = |bytes: &Vec<u8>| {
        let packet = ArpPacket::new_checked(&bytes[..]).unwrap();
        let ArpRepr::EthernetIpv4 { operation, source_protocol_addr, target_protocol_addr, .. } =
            ArpRepr::parse(&packet).unwrap()
        else {
            panic!("{bytes:?}");
        };
        (operation, source_protocol_addr, target_protocol_addr)
    };
    packets.iter().map(parse).collect()
}

#[test]
fn arp_requests_for_our_address_are_answered() {
    let bench = Bench::new();
    bench.arp(ArpOperation::Request, (PEER, bench.peer()), bench.own());
    let answers = arp_messages(&bench.sent(EthernetProtocol::Arp));
    assert_eq!(answers, [(ArpOperation::Reply, bench.own(), bench.peer())]);
    bench.arp(ArpOperation::Request, (PEER, bench.peer()), bench.host(77));
    assert!(bench.sent(EthernetProtocol::Arp).is_empty());
}

#[test]
fn an_echo_request_waits_for_the_neighbour_and_is_answered() {
    let bench = Bench::new();
    let request =
        bench.ethernet(EthernetProtocol::Ipv4, &bench.ipv4(IpProtocol::Icmp, &bench.ping(b"hello")));
    // Ethernet pads short packets.
    let mut padded = request.clone();
    padded.resize(60, 0xee);
    bench.input(&padded);
    bench.input(&request);
    let packets = bench.device.take_sent();
    assert_eq!(packets.len(), 1, "one question for two packets");
    assert_eq!(
        arp_messages(&[packets[0].bytes[14..].to_vec()]),
        [(ArpOperation::Request, bench.own(), bench.peer())]
    );
    bench.arp(ArpOperation::Reply, (PEER, bench.peer()), bench.own());
    bench.input(&request);
    let packets = bench.device.take_sent();
    assert_eq!(packets.len(), 3);
    for packet in packets {
        let frame = EthernetFrame::new_checked(&packet.bytes).unwrap();
        assert_eq!(frame.dst_addr().0, PEER);
        let packet = Ipv4Packet::new_checked(frame.payload()).unwrap();
        assert!(packet.verify_checksum());
        assert_eq!((packet.src_addr(), packet.dst_addr()), (bench.own(), bench.peer()));
        let message = Icmpv4Packet::new_checked(packet.payload()).unwrap();
        let message = Icmpv4Repr::parse(&message, &ChecksumCapabilities::default()).unwrap();
        assert_eq!(message, Icmpv4Repr::EchoReply { ident: 7, seq_no: 9, data: b"hello" });
    }
}

#[test]
fn unknown_protocols_are_told_so_and_nonsense_is_not_answered() {
    let bench = Bench::new();
    bench.interface.neighbours.fix(&bench.interface, bench.peer().into(), PEER).unwrap();
    let good = bench.ipv4(IpProtocol::Unknown(200), b"whatever it is");
    bench.input(&bench.ethernet(EthernetProtocol::Ipv4, &good));
    let answers = bench.sent(EthernetProtocol::Ipv4);
    assert_eq!(answers.len(), 1);
    let packet = Ipv4Packet::new_checked(&answers[0]).unwrap();
    let message = Icmpv4Packet::new_checked(packet.payload()).unwrap();
    match Icmpv4Repr::parse(&message, &ChecksumCapabilities::default()).unwrap() {
        Icmpv4Repr::DstUnreachable { reason, header, data } => {
            assert_eq!(reason, Icmpv4DstUnreachable::ProtoUnreachable);
            assert_eq!((header.src_addr, data), (bench.peer(), &b"whatever it is"[..]));
        }
        other => panic!("{other:?}"),
    }
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 8] = [
        ("version", |bytes| bytes[0] = 0x65),
        ("header length", |bytes| bytes[0] = 0x44),
        ("long header", |bytes| bytes[0] = 0x4f),
        ("total length", |bytes| bytes[2] = 0xff),
        ("short total", |bytes| bytes[3] = 19),
        ("checksum", |bytes| bytes[10] ^= 1),
        ("truncated", |bytes| bytes.truncate(19)),
        ("empty", Vec::clear),
    ];
    for (what, damage) in damages {
        let mut bad = good.clone();
        damage(&mut bad);
        bench.input(&bench.ethernet(EthernetProtocol::Ipv4, &bad));
        assert!(bench.sent(EthernetProtocol::Ipv4).is_empty(), "{what}");
    }
    let martians = ["224.0.0.1", "255.255.255.255", "127.0.0.1", "0.0.0.0", "240.0.0.1", "0.0.0.1"];
    for source in martians.map(|text| text.parse::<Ipv4Addr>().unwrap()) {
        let mut bad = good.clone();
        let mut packet = Ipv4Packet::new_unchecked(&mut bad);
        packet.set_src_addr(source);
        packet.fill_checksum();
        bench.input(&bench.ethernet(EthernetProtocol::Ipv4, &bad));
        assert!(bench.sent(EthernetProtocol::Ipv4).is_empty(), "{source}");
    }
    for destination in [Ipv4Addr::LOCALHOST, bench.host(255), Ipv4Addr::BROADCAST, bench.host(9)] {
        let mut bad = good.clone();
        let mut packet = Ipv4Packet::new_unchecked(&mut bad);
        packet.set_dst_addr(destination);
        packet.fill_checksum();
        bench.input(&bench.ethernet(EthernetProtocol::Ipv4, &bad));
        assert!(bench.sent(EthernetProtocol::Ipv4).is_empty(), "{destination}");
    }
}

#[test]
fn routes_lead_to_the_link_the_router_and_back() {
    use crate::route::{self, Entry, Query, lookup};
    use rumpkern::Errno;

    let bench = Bench::new();
    let index = bench.interface.index();
    let direct = lookup(&Query::to(bench.peer().into())).unwrap();
    assert_eq!((direct.source, direct.next_hop, direct.mtu), (bench.own().into(), bench.peer().into(), 1500));
    assert!(direct.is_valid() && !direct.is_local());
    let own = lookup(&Query::to(bench.own().into())).unwrap();
    assert!(own.is_local() && own.source == IpAddr::V4(bench.own()));
    let far: IpAddr = format!("172.16.{}.1", bench.subnet).parse().unwrap();
    assert_eq!(lookup(&Query::to(far)).err(), Some(Errno::ENETUNREACH));
    let through = |gateway: Ipv4Addr, metric| Entry {
        gateway: Some(gateway.into()),
        metric,
        ..Entry::new(far, 24, index)
    };
    assert_eq!(route::add(through(Ipv4Addr::new(10, 98, 0, 1), 0)), Err(Errno::ENETUNREACH));
    route::add(through(bench.host(254), 10)).unwrap();
    route::add(through(bench.host(253), 5)).unwrap();
    assert!(!direct.is_valid());
    let route = lookup(&Query::to(far)).unwrap();
    assert_eq!((route.source, route.next_hop), (bench.own().into(), bench.host(253).into()));
    route::remove(far, 24, Some(bench.host(253).into()), None, None).unwrap();
    assert_eq!(lookup(&Query::to(far)).unwrap().next_hop, IpAddr::V4(bench.host(254)));
    let broadcast = lookup(&Query::to(bench.host(255).into())).unwrap();
    assert!(broadcast.broadcast);
    address::remove(&bench.interface, bench.own().into()).unwrap();
    assert_eq!(lookup(&Query::to(far)).err(), Some(Errno::ENETUNREACH));
    assert_eq!(lookup(&Query::to(bench.peer().into())).err(), Some(Errno::ENETUNREACH));
}

#[test]
fn broadcasts_to_a_subnet_of_ours_can_be_looped_back() {
    use crate::route::{Query, lookup};
    let bench = Bench::new();
    let to = Query::to(bench.host(255).into());
    let out = lookup(&to).unwrap();
    assert!(out.broadcast && out.interface.index() == bench.interface.index());
    let back = lookup(&Query { interface: Some(interface::loopback().index()), ..to }).unwrap();
    assert!(back.broadcast && back.is_local());
}
