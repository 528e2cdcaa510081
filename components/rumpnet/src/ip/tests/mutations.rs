//! Every way in with random and damaged packets: nothing may panic, and memory stays bounded.

use std::{vec, vec::Vec};

use smoltcp::wire::{EthernetProtocol, IpProtocol};

use super::Bench;
use crate::{configuration, icmp, ip, multicast, neighbour};

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// A damaged copy.
    fn damage(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(4) {
            if bytes.is_empty() {
                break;
            }
            let at = self.below(bytes.len());
            match self.below(5) {
                0 => bytes[at] = self.next() as u8,
                1 => bytes[at] ^= 1 << self.below(8),
                2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                3 => bytes.truncate(at),
                _ => bytes.insert(at, self.next() as u8),
            }
        }
        bytes
    }
}

#[test]
fn damaged_packets_do_no_harm() {
    let bench = Bench::new();
    let mut random = Random(0x1234_5678_9abc_def1);
    let six = |next: u8, payload: &[u8]| {
        let mut bytes = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next, 255];
        bytes.extend_from_slice(&"fe80::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
        bytes.extend_from_slice(&"ff02::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        bytes.extend_from_slice(payload);
        bench.ethernet(EthernetProtocol::Ipv6, &bytes)
    };
    let four = |protocol: u8, payload: &[u8]| {
        bench.ethernet(EthernetProtocol::Ipv4, &bench.ipv4(IpProtocol::from(protocol), payload))
    };
    let options = [58, 1, 1, 4, 0, 0, 0, 0, 5, 2, 0, 0, 1, 0, 0, 0];
    let seeds = [
        four(1, &bench.ping(b"something")),
        four(1, &[&[3, 3, 0, 0, 0, 0, 0, 0][..], &bench.ipv4(IpProtocol::Udp, &[0; 8])].concat()),
        four(2, &[0x11, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        four(6, &[0; 20]),
        four(17, &[0, 67, 0, 68, 0, 8, 0, 0]),
        six(0, &options),
        six(44, &[58, 0, 0, 1, 0, 0, 0, 1, 128, 0, 0, 0, 0, 0, 0, 0]),
        six(58, &[134; 64]),
        six(58, &[135; 32]),
        six(43, &[58, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for round in 0..20_000 {
        bench.input(&random.damage(&seeds[round % seeds.len()]));
    }
    for _ in 0..5_000 {
        let length = random.below(200);
        let bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        bench.input(&bench.ethernet(
            [EthernetProtocol::Ipv4, EthernetProtocol::Ipv6, EthernetProtocol::Arp][random.below(3)],
            &bytes,
        ));
    }
    bench.device.take_sent();
    // The machine is still there.
    bench.interface.neighbours.fix(&bench.interface, bench.peer().into(), super::PEER).unwrap();
    bench.input(&four(1, &bench.ping(b"after all")));
    assert!(!bench.sent(EthernetProtocol::Ipv4).is_empty());
}

#[test]
fn parsers_take_any_bytes() {
    let parsers: [fn(&[u8]); 8] = [
        neighbour::arp::fuzz,
        neighbour::discovery::fuzz,
        multicast::igmp::fuzz,
        multicast::mld::fuzz,
        configuration::dhcp::fuzz,
        configuration::slaac::fuzz,
        ip::error::fuzz,
        icmp::fuzz,
    ];
    let mut random = Random(0xfeed_f00d_dead_beef);
    let mut bytes: Vec<u8> = Vec::new();
    for _ in 0..20_000 {
        bytes = if bytes.len() < 8 || random.below(8) == 0 {
            (0..random.below(400)).map(|_| random.next() as u8).collect()
        } else {
            random.damage(&bytes)
        };
        parsers.iter().for_each(|parser| parser(&bytes));
    }
}
