//! Fragments in both directions, and what path MTUs do.

use std::{vec, vec::Vec};

use rumpkern::Errno;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{EthernetProtocol, Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Packet},
};

use super::{Bench, PEER};
use crate::{
    checksum, ip,
    ip::{Outgoing, counters, path, reassembly},
    packet::{Chain, Checksum, Packet},
    route::{self, Query},
    service::SECOND,
};

/// A fragment of an IPv4 packet: offset in bytes.
fn fragment(bench: &Bench, payload: &[u8], identification: u16, offset: usize, more: bool) -> Vec<u8> {
    let mut bytes = bench.ipv4(IpProtocol::Icmp, payload);
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
    packet.set_ident(identification);
    packet.set_frag_offset(offset as u16);
    packet.set_more_frags(more);
    packet.set_dont_frag(false);
    packet.fill_checksum();
    bench.ethernet(EthernetProtocol::Ipv4, &bytes)
}

fn with_neighbour() -> Bench {
    let bench = Bench::new();
    bench.interface.neighbours.fix(&bench.interface, bench.peer().into(), PEER).unwrap();
    bench
}

/// Puts the fragments in a list of IPv4 packets together.
fn joined(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut whole = vec![0; 70000];
    let mut end = 0;
    for bytes in packets {
        let packet = Ipv4Packet::new_checked(bytes).unwrap();
        assert!(packet.verify_checksum() && bytes.len() <= 1500);
        let at = usize::from(packet.frag_offset());
        whole[at..at + packet.payload().len()].copy_from_slice(packet.payload());
        if !packet.more_frags() {
            end = at + packet.payload().len();
        }
    }
    whole.truncate(end);
    whole
}

#[test]
fn a_big_ping_comes_in_and_goes_out_in_fragments() {
    let bench = with_neighbour();
    let data: Vec<u8> = (0..20000u32).map(|n| (n % 251) as u8).collect();
    let echo = bench.ping(&data);
    let pieces: Vec<(usize, &[u8])> =
        echo.chunks(1480).enumerate().map(|(index, piece)| (index * 1480, piece)).collect();
    // Backwards, one of them twice.
    for &(offset, piece) in pieces.iter().rev().chain(&pieces[3..4]) {
        bench.input(&fragment(&bench, piece, 5, offset, offset + piece.len() < echo.len()));
    }
    let answer = joined(&bench.sent(EthernetProtocol::Ipv4));
    let packet = Icmpv4Packet::new_checked(&answer[..]).unwrap();
    match Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()).unwrap() {
        Icmpv4Repr::EchoReply { data: back, .. } => assert_eq!(back, data),
        other => panic!("{other:?}"),
    }
}

#[test]
fn overlapping_and_impossible_fragments_are_refused() {
    let bench = with_neighbour();
    let echo = bench.ping(&[7; 64]);
    let send = |identification, pieces: &[(usize, usize, bool)]| {
        for &(start, end, more) in pieces {
            let mut payload = echo.clone();
            payload.resize(200, 0);
            bench.input(&fragment(&bench, &payload[start..end], identification, start, more));
        }
        bench.sent(EthernetProtocol::Ipv4).len()
    };
    assert_eq!(send(1, &[(0, 40, true), (40, 72, false)]), 1, "in order");
    assert_eq!(send(2, &[(0, 40, true), (32, 72, false)]), 0, "overlap");
    assert_eq!(send(2, &[(0, 40, true), (40, 72, false)]), 0, "the rest of a packet that overlapped");
    assert_eq!(send(3, &[(40, 72, false), (0, 48, true), (0, 40, true)]), 0, "overlap from the front");
    assert_eq!(send(4, &[(0, 40, true), (0, 40, true), (40, 72, false)]), 1, "a repetition");
    assert_eq!(send(5, &[(0, 37, true), (40, 72, false)]), 0, "length not of eights");
    assert_eq!(send(6, &[(40, 72, false), (72, 80, true), (0, 40, true)]), 0, "behind the end");
    assert_eq!(send(7, &[(40, 72, false), (40, 64, false), (0, 40, true)]), 0, "two ends");
    // Longer than any packet.
    let before = counters::ip::REASSEMBLY_FAILED.value();
    bench.input(&fragment(&bench, &[0; 64], 8, 65528, false));
    assert!(counters::ip::REASSEMBLY_FAILED.value() > before);
}

#[test]
fn the_memory_for_fragments_is_bounded_and_their_time() {
    let bench = with_neighbour();
    let echo = bench.ping(&[7; 64]);
    for number in 0..2000 {
        bench.input(&fragment(&bench, &echo[..40], number, 0, true));
    }
    assert!(reassembly::packets() <= 256);
    // The last one is still waiting, and is given up with a message.
    reassembly::expire(rumpuser::rumpuser_clock_monotonic() + 31 * SECOND);
    assert_eq!(reassembly::packets(), 0);
    let answers = bench.sent(EthernetProtocol::Ipv4);
    assert!(!answers.is_empty());
    let packet = Ipv4Packet::new_checked(&answers[0]).unwrap();
    let message = Icmpv4Packet::new_checked(packet.payload()).unwrap();
    assert_eq!((u8::from(message.msg_type()), message.msg_code()), (11, 1));
}

#[test]
fn a_path_mtu_is_learnt_from_an_error_about_a_flow_of_ours_only() {
    let bench = with_neighbour();
    let route = route::lookup(&Query::to(bench.peer().into())).unwrap();
    assert_eq!(route.mtu, 1500);
    let error = |quoted: &[u8], mtu: u16| {
        let mut message = vec![3, 4, 0, 0, 0, 0];
        message.extend_from_slice(&mtu.to_be_bytes());
        message.extend_from_slice(quoted);
        let sum = checksum::of(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        bench.input(&bench.ethernet(EthernetProtocol::Ipv4, &bench.ipv4(IpProtocol::Icmp, &message)));
    };
    // What we sent: an echo of 1500 bytes.
    let ours = {
        let mut bytes = bench.ipv4(IpProtocol::Icmp, &bench.ping(&[0; 1472]));
        let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
        packet.set_src_addr(bench.own());
        packet.set_dst_addr(bench.peer());
        packet.fill_checksum();
        bytes
    };
    let mut not_ours = ours.clone();
    Ipv4Packet::new_unchecked(&mut not_ours).set_src_addr(bench.host(99));
    error(&not_ours[..28], 1400);
    error(&ours[..20], 1400);
    error(&ours[..28], 1500);
    assert_eq!(path::mtu(bench.peer().into()), None);
    error(&ours[..28], 1400);
    assert!(!route.is_valid());
    let route = route::lookup(&Query::to(bench.peer().into())).unwrap();
    assert_eq!(route.mtu, 1400);
    error(&ours[..28], 68);
    assert_eq!(path::mtu(bench.peer().into()), Some(552), "absurd values are raised");
    // What must not be cut is refused, other packets are cut accordingly.
    let route = route::lookup(&Query::to(bench.peer().into())).unwrap();
    let mut outgoing = Outgoing::new(route.source, bench.peer().into(), 17);
    outgoing.dont_fragment = true;
    let packet = || Packet { payload: Chain::copy_of(&[1; 1000]).unwrap(), ..Packet::default() };
    assert_eq!(ip::send(&route, &outgoing, &mut packet()), Err(Errno::EMSGSIZE));
    outgoing.dont_fragment = false;
    ip::send(&route, &outgoing, &mut packet()).unwrap();
    assert_eq!(bench.sent(EthernetProtocol::Ipv4).len(), 2);
}

#[test]
fn a_partial_checksum_is_complete_in_fragments_and_rebased_otherwise() {
    let bench = with_neighbour();
    let route = route::lookup(&Query::to(bench.peer().into())).unwrap();
    let outgoing = Outgoing::new(route.source, bench.peer().into(), 17);
    let packet = |length: usize| {
        let mut packet = Packet { payload: Chain::copy_of(&vec![3; length]).unwrap(), ..Packet::default() };
        let header = packet.header.prepend(8);
        header[..4].copy_from_slice(&[0, 9, 0, 9]);
        header[4..6].copy_from_slice(&(length as u16 + 8).to_be_bytes());
        let sum = checksum::pseudo_header(route.source, bench.peer().into(), 17, length + 8);
        header[6..8].copy_from_slice(&sum.to_be_bytes());
        packet.checksum = Checksum::Partial { start: 0, offset: 6 };
        packet
    };
    ip::send(&route, &outgoing, &mut packet(4000)).unwrap();
    let whole = joined(&bench.sent(EthernetProtocol::Ipv4));
    assert!(checksum::is_right(route.source, bench.peer().into(), 17, &Chain::copy_of(&whole).unwrap()));
    // The device of the test has no offload: the interface sums, at the place that IP told.
    ip::send(&route, &outgoing, &mut packet(100)).unwrap();
    let sent = bench.sent(EthernetProtocol::Ipv4);
    let data = Chain::copy_of(&sent[0][20..]).unwrap();
    assert!(checksum::is_right(route.source, bench.peer().into(), 17, &data));
}
