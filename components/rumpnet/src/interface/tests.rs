//! Interfaces against the test device.

use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
    vec::Vec,
};

use rumpkern::wait::WaitQueue;
use rumpuser::NEVER;

use super::{
    Flags, Interface, attach, by_index, by_name, flush, list, loopback,
    tap::{Seen, Tap},
    testing::{Faults, TestDevice},
    wait,
};
use crate::{
    device::{NetworkDevice, Offloads, TransmitError},
    packet::{Chain, Checksum, Packet, Segmentation},
};

/// Sees what arrives on an interface.
struct Arrivals {
    index: u32,
    bytes: Mutex<mpsc::Sender<Vec<u8>>>,
    changed: WaitQueue,
}

impl Tap for Arrivals {
    fn packet(&self, seen: &Seen<'_>) {
        if seen.incoming && seen.interface.index() == self.index {
            let mut bytes = std::vec![0; seen.rest.len()];
            seen.rest.copy_to(0, &mut bytes);
            // The test may be over, while others go on.
            let _ = self.bytes.lock().unwrap().send(bytes);
            self.changed.wake_all();
        }
    }
}

fn watch(interface: &Interface) -> (Arc<Arrivals>, mpsc::Receiver<Vec<u8>>) {
    let (sender, receiver) = mpsc::channel();
    let tap =
        Arc::new(Arrivals { index: interface.index(), bytes: Mutex::new(sender), changed: WaitQueue::new() });
    super::tap::add(tap.clone());
    (tap, receiver)
}

const SOON: Duration = Duration::from_secs(20);

fn packet(header: &[u8], payload: &[u8]) -> Packet {
    let mut packet = Packet { payload: Chain::copy_of(payload).unwrap(), ..Packet::default() };
    packet.header.prepend(header.len()).copy_from_slice(header);
    packet
}

#[test]
fn interfaces_have_names_numbers_and_flags() {
    let device = TestDevice::new(Offloads::empty(), 1);
    let interface = attach(device.clone()).unwrap();
    assert!(interface.name().starts_with("eth") && interface.index() >= 2);
    assert!(Arc::ptr_eq(&by_name(interface.name()).unwrap(), &interface));
    assert!(Arc::ptr_eq(&by_index(interface.index()).unwrap(), &interface));
    let lo = loopback();
    assert_eq!((lo.name(), lo.index(), lo.mtu()), ("lo", 1, 65536));
    assert_eq!(lo.flags(), Flags::LOOPBACK | Flags::UP | Flags::RUNNING | Flags::LOWER_UP);
    assert!(interface.flags().contains(Flags::UP | Flags::RUNNING | Flags::BROADCAST));
    assert!(interface.set_mtu(67).is_err() && interface.set_mtu(9001).is_err());
    assert_eq!((interface.set_mtu(9000), interface.mtu()), (Ok(()), 9000));
    interface.set_up(false);
    assert!(!interface.is_running());
    assert_eq!(interface.transmit(0, &mut packet(b"header", b"")), Err(TransmitError::Refused));
    assert_eq!(interface.statistics().transmit_dropped, 1);
}

#[test]
fn the_carrier_and_the_device_come_and_go() {
    let device = TestDevice::new(Offloads::empty(), 1);
    let interface = attach(device.clone()).unwrap();
    let until =
        |condition: &dyn Fn() -> bool| super::CHANGES.wait(NEVER, || condition().then_some(())).unwrap();
    device.set_link(false);
    until(&|| !interface.is_running());
    device.set_link(true);
    until(&|| interface.is_running());
    device.vanish();
    until(&|| interface.is_gone());
    assert!(by_name(interface.name()).is_none());
    assert!(!list().iter().any(|other| Arc::ptr_eq(other, &interface)));
    assert_eq!(interface.transmit(0, &mut packet(b"header", b"")), Err(TransmitError::Refused));
}

#[test]
fn packets_leave_with_the_flush_and_interrupts_bring_them() {
    let (one, other) = TestDevice::pair(Offloads::empty(), 2);
    let (sender, receiver) = (attach(one).unwrap(), attach(other).unwrap());
    let (_tap, arrivals) = watch(&receiver);
    for round in 0..100_u8 {
        sender.transmit(usize::from(round), &mut packet(b"0123456789abcd", &[round; 100])).unwrap();
        flush();
        let bytes = arrivals.recv_timeout(SOON).unwrap();
        assert_eq!((bytes.len(), bytes[14]), (114, round));
    }
    let sent = sender.statistics();
    assert_eq!((sent.transmit_packets, sent.transmit_bytes), (100, 11400));
    // Counted after they were handed up.
    while receiver.statistics().receive_packets < 100 {
        std::thread::yield_now();
    }
    assert_eq!(receiver.statistics().receive_bytes, 11400);
}

#[test]
fn sleepers_poll_by_themselves_and_miss_nothing() {
    let device = TestDevice::new(Offloads::empty(), 1);
    let interface = attach(device.clone()).unwrap();
    let (tap, arrivals) = watch(&interface);
    const PACKETS: u32 = 2000;
    let source = device.clone();
    let thread = std::thread::spawn(move || {
        for number in 0..PACKETS {
            source.inject(0, &number.to_le_bytes());
            if number % 7 == 0 {
                std::thread::yield_now();
            }
        }
    });
    for number in 0..PACKETS {
        let bytes = wait(&tap.changed, NEVER, || arrivals.try_recv().ok()).unwrap();
        assert_eq!(bytes, number.to_le_bytes());
    }
    thread.join().unwrap();
}

#[test]
fn the_loopback_returns_what_is_sent() {
    let lo = loopback();
    let (_tap, arrivals) = watch(&lo);
    let threads: Vec<_> = (0..4_u8)
        .map(|thread| {
            let lo = lo.clone();
            std::thread::spawn(move || {
                for round in 0..200_u8 {
                    while lo.transmit(0, &mut packet(&[thread, round], b"payload")).is_err() {
                        flush();
                    }
                    flush();
                }
            })
        })
        .collect();
    let mut seen = [0; 4];
    for _ in 0..800 {
        // Other tests use the loopback, too.
        let ours = |bytes: &Vec<u8>| bytes.len() == 9 && bytes.ends_with(b"payload");
        let bytes = core::iter::from_fn(|| Some(arrivals.recv_timeout(SOON).unwrap())).find(ours).unwrap();
        assert_eq!(bytes[1], seen[usize::from(bytes[0])]);
        seen[usize::from(bytes[0])] += 1;
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_full_ring_makes_packets_wait_and_then_drops_them() {
    let device = TestDevice::new(Offloads::empty(), 1);
    let interface = attach(device.clone()).unwrap();
    device.set_ring_size(10);
    device.set_stalled(true);
    let results: Vec<_> =
        (0..600_u16).map(|number| interface.transmit(0, &mut packet(&number.to_be_bytes(), b""))).collect();
    assert!(results[..522].iter().all(Result::is_ok));
    assert!(results[522..].iter().all(|result| *result == Err(TransmitError::Full)));
    assert_eq!(interface.statistics().transmit_dropped, 78);
    device.set_stalled(false);
    device.set_ring_size(1000);
    let mut sent = Vec::new();
    while sent.len() < 522 {
        flush();
        sent.extend(device.take_sent());
        std::thread::yield_now();
    }
    for (number, sent) in sent.iter().enumerate() {
        assert_eq!(sent.bytes, (number as u16).to_be_bytes());
    }
}

#[test]
fn faults_happen_as_often_as_asked() {
    let device = TestDevice::new(Offloads::empty(), 1);
    device.set_faults(Faults { lost: 100, doubled: 50, reordered: 100, ..Faults::default() });
    for number in 0..1000_u32 {
        device.inject(0, &number.to_be_bytes());
    }
    let mut numbers = Vec::new();
    device.receive(0, 2000, &mut |packet| {
        numbers.push(u32::from_be_bytes(packet.data.first().try_into().unwrap()));
    });
    let missing = (0..1000).filter(|number| !numbers.contains(number)).count();
    let backwards = numbers.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!((50..200).contains(&missing), "{missing} lost");
    assert!((40..200).contains(&backwards), "{backwards} reordered");
}

/// A TCP packet over IPv4 without options, as an upper layer hands it down.
fn tcp(payload: &[u8], flags: u8) -> Packet {
    let total = 40 + payload.len();
    let mut header = [0_u8; 54];
    header[12..14].copy_from_slice(&[8, 0]);
    header[14] = 0x45;
    header[16..18].copy_from_slice(&(total as u16).to_be_bytes());
    header[18..20].copy_from_slice(&0xfffe_u16.to_be_bytes());
    header[22..24].copy_from_slice(&[64, 6]);
    header[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    let mut sum = super::offload::Sum::default();
    sum.add(&header[14..34]);
    header[24..26].copy_from_slice(&(!sum.fold()).to_be_bytes());
    header[34..38].copy_from_slice(&[0x12, 0x34, 0, 80]);
    header[38..42].copy_from_slice(&0xffff_ff00_u32.to_be_bytes());
    header[46..48].copy_from_slice(&[0x50, flags]);
    let mut sum = super::offload::Sum::default();
    sum.add(&header[26..34]);
    sum.add(&[0, 6]);
    sum.add(&((20 + payload.len()) as u16).to_be_bytes());
    header[50..52].copy_from_slice(&sum.fold().to_be_bytes());
    let mut packet = packet(&header, payload);
    packet.checksum = Checksum::Partial { start: 34, offset: 16 };
    packet
}

/// Checks a whole TCP/IPv4 packet with a parser that is not ours.
fn check(bytes: &[u8]) -> (u32, Vec<u8>, bool, bool) {
    use smoltcp::wire::{Ipv4Packet, TcpPacket};
    let ip = Ipv4Packet::new_checked(&bytes[14..]).unwrap();
    assert!(ip.verify_checksum());
    let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
    assert!(tcp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
    (tcp.seq_number().0 as u32, tcp.payload().to_vec(), tcp.fin(), tcp.psh())
}

#[test]
fn what_the_device_lacks_is_done_in_software() {
    let payload: Vec<u8> = (0..10_001_u32).map(|index| (index * 7) as u8).collect();
    let segmentation = Some(Segmentation { size: 1448, version6: false, ecn: false });
    for offloads in [Offloads::empty(), Offloads::CHECKSUM] {
        let device = TestDevice::new(offloads, 1);
        let interface = attach(device.clone()).unwrap();
        interface.transmit(0, &mut tcp(&payload[..777], 0x18)).unwrap();
        interface.transmit(0, &mut Packet { segmentation, ..tcp(&payload, 0x19) }).unwrap();
        flush();
        let sent = device.take_sent();
        assert_eq!(sent.len(), 1 + 7);
        if offloads.contains(Offloads::CHECKSUM) {
            assert!(sent.iter().all(|sent| sent.checksum == Checksum::Partial { start: 34, offset: 16 }));
            continue;
        }
        assert_eq!(check(&sent[0].bytes), (0xffff_ff00, payload[..777].to_vec(), false, true));
        let mut whole = Vec::new();
        for (number, sent) in sent[1..].iter().enumerate() {
            let (sequence, bytes, fin, push) = check(&sent.bytes);
            assert_eq!(sequence, 0xffff_ff00_u32.wrapping_add(whole.len() as u32));
            assert_eq!((fin, push), (number == 6, number == 6));
            whole.extend(bytes);
        }
        assert_eq!(whole, payload);
    }
    // With everything offered, the packet goes as it is.
    let device = TestDevice::new(Offloads::all().difference(Offloads::LOOPBACK), 1);
    let interface = attach(device.clone()).unwrap();
    interface.transmit(0, &mut Packet { segmentation, ..tcp(&payload, 0x18) }).unwrap();
    flush();
    assert_eq!(device.take_sent()[0].segmentation, segmentation);
}

#[test]
fn packets_of_too_many_pieces_are_gathered() {
    let device = TestDevice::new(Offloads::empty(), 1);
    let interface = attach(device.clone()).unwrap();
    let mut scattered = packet(b"0123456789abcd", b"");
    let mut expected = b"0123456789abcd".to_vec();
    for piece in 0..100_u8 {
        scattered.payload.append(Chain::copy_of(&[piece; 11]).unwrap());
        expected.extend([piece; 11]);
    }
    interface.transmit(0, &mut scattered).unwrap();
    flush();
    assert_eq!(device.take_sent()[0].bytes, expected);
}

#[test]
fn multicast_addresses_are_counted() {
    let device = TestDevice::new(Offloads::empty(), 1);
    let interface = attach(device.clone()).unwrap();
    let (a, b) = ([1, 0, 0x5e, 0, 0, 1], [1, 0, 0x5e, 0, 0, 2]);
    for address in [a, b, a] {
        interface.join(address);
    }
    interface.leave(a);
    assert_eq!(device.multicast(), [a, b]);
    interface.leave(a);
    interface.leave(a);
    assert_eq!(device.multicast(), [b]);
    interface.set_promiscuous(true, true);
    assert!(interface.flags().contains(Flags::ALL_MULTICAST));
    interface.set_promiscuous(false, true);
    assert!(!interface.flags().contains(Flags::ALL_MULTICAST));
}
