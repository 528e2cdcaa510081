//! The network frontend against the model of a backend.

use std::{sync::Arc, vec, vec::Vec};

use rumpnet::{
    device::{NetworkDevice, Offloads, TransmitError},
    packet::{Chain, Checksum, Packet, Received, Segmentation},
};
use rumpuser::device::{XenbusDevice, xenbus_state};

use super::{Net, connect::open};
use crate::{model::Model, ring::backend::Backend};

const FEATURES: [(&str, &str); 5] = [
    ("feature-rx-copy", "1"),
    ("feature-sg", "1"),
    ("feature-gso-tcpv4", "1"),
    ("feature-gso-tcpv6", "1"),
    ("feature-ipv6-csum-offload", "1"),
];

struct Bench {
    model: Arc<Model>,
    net: Arc<Net>,
    transmit: Backend,
    receive: Backend,
}

fn bench() -> Bench {
    let model = Model::new("vif", &FEATURES);
    let device: Arc<dyn XenbusDevice> = model.clone();
    let net = open(&device, true).expect("a device");
    let transmit = Backend::of(model.ring("tx-ring-ref"), 12);
    let receive = Backend::of(model.ring("rx-ring-ref"), 8);
    Bench { model, net, transmit, receive }
}

fn packet(headers: usize, payload: usize) -> Packet {
    let bytes: Vec<u8> = (0..payload).map(|index| index as u8).collect();
    let mut packet = Packet { payload: Chain::copy_of(&bytes).expect("memory"), ..Packet::default() };
    packet.header.prepend(headers).fill(0xaa);
    packet
}

/// Puts a packet's pieces where the frontend wants them, and answers.
fn arrive(bench: &mut Bench, pieces: &[&[u8]], flags: u32, segment: Option<u16>) {
    for (index, piece) in pieces.iter().enumerate() {
        let [identifier, reference] = bench.receive.request().expect("a page")[..] else {
            panic!("two words")
        };
        bench.model.frame(reference).expect("granted").write(16, piece);
        let more = if index + 1 < pieces.len() { 4 } else { 0 };
        let extra = if index == 0 && segment.is_some() { 8 } else { 0 };
        bench
            .receive
            .answer(&[identifier & 0xffff | 16 << 16, flags | more | extra | (piece.len() as u32) << 16]);
        if let Some(size) = segment.filter(|_| index == 0) {
            bench.receive.request().expect("a slot");
            bench.receive.answer(&[1 | u32::from(size) << 16, 1]);
        }
    }
}

fn received(bench: &Bench) -> Vec<Received> {
    let mut packets = Vec::new();
    bench.net.receive(0, 1000, &mut |packet| packets.push(packet));
    packets
}

fn bytes(packet: &Received) -> Vec<u8> {
    let mut bytes = vec![0; packet.data.len()];
    packet.data.copy_to(0, &mut bytes);
    bytes
}

#[test]
fn packets_are_sent_and_their_pages_given_back() {
    let mut bench = bench();
    assert!(bench.net.properties().offloads.contains(Offloads::CHECKSUM | Offloads::SEGMENTATION_4));
    let granted = bench.model.granted();
    for _ in 0..300 {
        let mut large = packet(54, 5000);
        large.checksum = Checksum::Partial { start: 34, offset: 16 };
        large.segmentation = Some(Segmentation { size: 1448, version6: false, ecn: false });
        assert_eq!(bench.net.transmit(0, &mut large), Ok(()));
        assert_eq!(bench.net.transmit(0, &mut packet(54, 10)), Ok(()));
        bench.net.flush(0);
        let requests: Vec<_> = std::iter::from_fn(|| bench.transmit.request()).collect();
        let fields: Vec<_> = requests.iter().map(|words| (words[1] >> 16, words[2] >> 16)).collect();
        // Headers and the whole size; how to cut; two pages; the small packet.
        assert_eq!(fields[0], (1 | 2 | 4 | 8, 5054));
        assert_eq!(requests[1][..2], [1 | 1448 << 16, 1]);
        assert_eq!(fields[2..], [(4, 4096), (0, 904), (0, 64)]);
        let mut sent = [0; 4];
        bench.model.frame(requests[3][0]).expect("granted").read(requests[3][1] as usize & 0xffff, &mut sent);
        assert_eq!(sent, [0, 1, 2, 3]);
        // In another order.
        for index in [4, 3, 0, 1, 2] {
            let identifier = requests[index][2] & 0xffff;
            bench.transmit.answer(&[if index == 1 { 0xffff | 1 << 16 } else { identifier }]);
        }
        bench.net.arm(0);
        assert_eq!(bench.model.granted(), granted);
    }
    assert_eq!(bench.net.transmit(0, &mut packet(54, 70_000)), Err(TransmitError::Refused));
}

#[test]
fn a_full_ring_says_so_and_gets_room() {
    let mut bench = bench();
    let mut sent = 0;
    while bench.net.transmit(0, &mut packet(54, 10)) == Ok(()) {
        sent += 1;
    }
    assert_eq!(sent, 255);
    for _ in 0..100 {
        let words = bench.transmit.request().expect("a request");
        bench.transmit.answer(&[words[2] & 0xffff]);
    }
    assert_eq!(bench.net.transmit(0, &mut packet(54, 10)), Ok(()));
}

#[test]
fn packets_arrive_in_pieces() {
    let mut bench = bench();
    let granted = bench.model.granted();
    for round in 0..600_u32 {
        arrive(&mut bench, &[&[1; 60]], 1, None);
        arrive(&mut bench, &[&[2; 3000], &[3; 4080], &[4; 100]], 3, Some(1448));
        arrive(&mut bench, &[&[5; 4080]], 0, None);
        let packets = received(&bench);
        let lengths: Vec<_> =
            packets.iter().map(|packet| (packet.data.len(), packet.segment_size, packet.checksum)).collect();
        let expected =
            [(60, 0, Checksum::Verified), (7180, 1448, Checksum::Verified), (4080, 0, Checksum::Unknown)];
        assert_eq!(lengths, expected, "round {round}");
        assert_eq!(bytes(&packets[1])[7080..], [4; 100]);
        assert_eq!(bench.model.granted(), granted);
    }
    assert!(!bench.net.arm(0));
    // One that has not come to its end.
    let words = bench.receive.request().expect("a page");
    bench.receive.answer(&[words[0], 4 | 100 << 16]);
    assert!(received(&bench).is_empty());
}

#[test]
fn a_wild_backend_is_given_up() {
    // An answer to nothing, one to what was answered, more answers than requests.
    let answers: [fn(&mut Backend); 3] = [
        |backend| backend.answer(&[300]),
        |backend| {
            backend.answer(&[0]);
            backend.answer(&[0]);
        },
        |backend| backend.claim(200),
    ];
    for answer in answers {
        let mut bench = bench();
        for _ in 0..3 {
            assert_eq!(bench.net.transmit(0, &mut packet(54, 3000)), Ok(()));
        }
        bench.net.flush(0);
        answer(&mut bench.transmit);
        bench.net.arm(0);
        assert!(!bench.net.link_up());
        assert_eq!(bench.net.transmit(0, &mut packet(54, 10)), Err(TransmitError::Refused));
    }
}

#[test]
fn pages_that_the_backend_keeps_are_not_used_again() {
    let mut bench = bench();
    bench.model.keep_grants();
    assert_eq!(bench.net.transmit(0, &mut packet(54, 3000)), Ok(()));
    bench.net.flush(0);
    for _ in 0..2 {
        let words = bench.transmit.request().expect("a request");
        bench.transmit.answer(&[words[2] & 0xffff]);
    }
    bench.net.arm(0);
    assert!(!bench.net.link_up());
    arrive(&mut bench, &[&[1; 2000]], 0, None);
    assert!(received(&bench).is_empty());
}

#[test]
fn another_backend_gets_new_rings() {
    let mut bench = bench();
    assert_eq!(bench.net.transmit(0, &mut packet(54, 3000)), Ok(()));
    let granted = bench.model.granted() - 1;
    bench.net.backend_changed(0);
    assert!(!bench.net.link_up());
    assert_eq!(bench.model.granted(), 0);
    assert_eq!(bench.net.transmit(0, &mut packet(54, 10)), Err(TransmitError::Refused));
    assert!(received(&bench).is_empty() && !bench.net.arm(0));
    bench.model.restart();
    assert!(bench.net.reconnect());
    assert!(bench.net.link_up() && bench.net.wants_announcement() && !bench.net.wants_announcement());
    assert_eq!(bench.model.granted(), granted);
    bench.transmit = Backend::of(bench.model.ring("tx-ring-ref"), 12);
    bench.receive = Backend::of(bench.model.ring("rx-ring-ref"), 8);
    arrive(&mut bench, &[&[2; 3000]], 1, None);
    assert_eq!(received(&bench).len(), 1);
    assert_eq!(bench.net.transmit(0, &mut packet(54, 10)), Ok(()));
    bench.net.flush(0);
    assert!(bench.transmit.request().is_some());
}

#[test]
fn every_cpu_has_its_rings_where_the_backend_has_as_many() {
    let several = [("multi-queue-max-queues", "4")];
    let model = Model::new("vif", &[&FEATURES[..], &several].concat());
    let device: Arc<dyn XenbusDevice> = model.clone();
    let net = open(&device, true).expect("a device");
    let count = rumpuser::rumpuser_cpu_count().min(4);
    assert_eq!(net.properties().queues, count);
    for queue in 0..count {
        let prefix = if count > 1 { std::format!("queue-{queue}/") } else { "".into() };
        let mut transmit = Backend::of(model.ring(&std::format!("{prefix}tx-ring-ref")), 12);
        assert_eq!(net.transmit(queue, &mut packet(54, 10)), Ok(()));
        net.flush(queue);
        assert!(transmit.request().is_some());
    }
    drop(net);
    assert_eq!(model.granted(), 0);
}

#[test]
fn a_backend_that_offers_less_has_a_new_device() {
    for (name, value) in [("mac", "00:16:3e:01:02:04"), ("feature-gso-tcpv4", "0"), ("feature-sg", "0")] {
        let bench = bench();
        bench.net.backend_changed(0);
        bench.model.restart();
        bench.model.set(name, value);
        bench.model.set("state", "2");
        assert!(!bench.net.reconnect() && !bench.net.link_up());
        assert_eq!(bench.model.granted(), 0);
    }
    // It went away while the frontend was about to connect.
    let bench = bench();
    bench.net.backend_changed(0);
    bench.model.set("feature-sg", "0");
    assert!(bench.net.reconnect() && !bench.net.link_up());
}

#[test]
fn a_backend_that_closes_gets_its_pages_taken_away() {
    let bench = bench();
    assert_eq!(bench.net.transmit(0, &mut packet(54, 3000)), Ok(()));
    bench.net.backend_changed(xenbus_state::CLOSING);
    assert_eq!(bench.model.frontend_state(), xenbus_state::CLOSED);
    // It may still write to them.
    assert!(bench.model.granted() > 0 && !bench.net.link_up());
    assert_eq!(bench.net.transmit(0, &mut packet(54, 10)), Err(TransmitError::Refused));
    bench.net.backend_changed(xenbus_state::CLOSED);
    assert_eq!(bench.model.granted(), 0);
    assert!(!bench.net.reconnect());
}

#[test]
fn a_backend_with_fewer_queues_serves_them_all() {
    let several = [("multi-queue-max-queues", "4")];
    let model = Model::new("vif", &[&FEATURES[..], &several].concat());
    let device: Arc<dyn XenbusDevice> = model.clone();
    let net = open(&device, true).expect("a device");
    let count = net.properties().queues;
    net.backend_changed(0);
    model.restart();
    model.set("multi-queue-max-queues", "1");
    assert!(net.reconnect());
    if count > 1 {
        assert_eq!(model.published("multi-queue-num-queues").as_deref(), Some("1"));
    }
    let mut transmit = Backend::of(model.ring("tx-ring-ref"), 12);
    for queue in 0..count {
        assert_eq!(net.transmit(queue, &mut packet(54, 10)), Ok(()));
        net.flush(queue);
        assert!(transmit.request().is_some());
        assert_eq!(net.receive(queue, 10, &mut |_| panic!("nothing came")), 0);
        assert!(!net.arm(queue));
    }
}

#[test]
fn a_backend_that_takes_its_time_is_waited_for() {
    let model = Model::new("vif", &FEATURES);
    model.take_time();
    let device: Arc<dyn XenbusDevice> = model.clone();
    let net = open(&device, true).expect("a device");
    assert!(!net.link_up() && model.granted() > 0);
    net.backend_changed(xenbus_state::INIT_WAIT);
    assert!(!net.link_up());
    net.backend_changed(xenbus_state::CONNECTED);
    assert!(net.link_up() && net.wants_announcement());
    // One that leaves before it has come.
    model.restart();
    assert!(net.reconnect() && !net.link_up());
    net.backend_changed(0);
    assert!(!net.link_up());
    assert_eq!(model.granted(), 0);
    net.backend_changed(xenbus_state::CONNECTED);
    assert!(!net.link_up());
}
