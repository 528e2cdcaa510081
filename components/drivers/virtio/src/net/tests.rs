//! The network device against the model of a device.

use std::{
    boxed::Box,
    collections::VecDeque,
    sync::{Arc, Mutex},
    vec,
    vec::Vec,
};

use rumpnet::{
    device::{NetworkDevice, Offloads, TransmitError, Upcalls},
    packet::{Chain, Checksum, Packet, Received, Segmentation},
};

use super::{Net, open};
use crate::{
    features::Features,
    model::{self, Model, Request},
};

const ALL: Features = Features::all();
const ADDRESS: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

fn config(pairs: u16) -> Vec<u8> {
    let mut config = vec![0; 24];
    config[..6].copy_from_slice(&ADDRESS);
    config[6..8].copy_from_slice(&1_u16.to_le_bytes());
    config[8..10].copy_from_slice(&pairs.to_le_bytes());
    config[10..12].copy_from_slice(&1500_u16.to_le_bytes());
    config[12..16].copy_from_slice(&10_000_u32.to_le_bytes());
    config[16] = 1;
    config
}

fn bytes_of(segments: &[(u64, u32)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (address, length) in segments {
        for offset in 0..u64::from(*length) {
            bytes.push(model::read::<1>(address + offset)[0]);
        }
    }
    bytes
}

/// What the device was given.
#[derive(Default)]
struct Seen {
    /// Sent packets with their headers: (queue, pieces, bytes).
    sent: Vec<(u16, usize, Vec<u8>)>,
    /// Buffers to receive into.
    buffers: Vec<VecDeque<(u16, u64, u32)>>,
    commands: Vec<Vec<u8>>,
    /// Sent packets stay unfinished.
    hold: bool,
    held: Vec<(u16, u16)>,
}

struct Bench {
    model: Arc<Model>,
    seen: Arc<Mutex<Seen>>,
    net: Arc<Net>,
}

fn bench(features: Features, pairs: u16) -> Bench {
    bench_with(features, pairs, config(pairs))
}

fn bench_with(features: Features, pairs: u16, config: Vec<u8>) -> Bench {
    let seen = Arc::new(Mutex::new(Seen::default()));
    seen.lock().unwrap().buffers.resize_with(usize::from(pairs), VecDeque::new);
    let device = seen.clone();
    let behaviour = move |request: &Request| -> Option<u32> {
        let mut seen = device.lock().unwrap();
        if request.queue == 2 * pairs {
            let answer = request.writable.last().expect("an answer");
            seen.commands.push(bytes_of(&request.readable));
            model::write(answer.0, &[0]);
            Some(1)
        } else if request.queue.is_multiple_of(2) {
            let (address, length) = request.writable[0];
            assert_eq!((request.writable.len(), length), (1, 4096));
            seen.buffers[usize::from(request.queue / 2)].push_back((request.head, address, length));
            None
        } else {
            assert!(request.writable.is_empty());
            let bytes = bytes_of(&request.readable);
            seen.sent.push((request.queue, request.readable.len(), bytes));
            if seen.hold {
                seen.held.push((request.queue, request.head));
                return None;
            }
            Some(0)
        }
    };
    let model = Arc::new(Model::new(1, features, usize::from(2 * pairs + 1), config, Box::new(behaviour)));
    let net = open(model.clone()).unwrap_or_else(|_| panic!("the device is refused"));
    Bench { model, seen, net }
}

impl Bench {
    /// Lets a packet arrive, in as many buffers as it takes; `count` overrides what the header says.
    fn arrive(&self, queue: u16, header: [u8; 12], bytes: &[u8], count: Option<u16>) {
        // Buffers may have come back without a notification.
        self.model.notify_quietly(2 * queue);
        let mut all = header.to_vec();
        all.extend_from_slice(bytes);
        let pieces: Vec<&[u8]> = all.chunks(4096).collect();
        let number = count.unwrap_or(pieces.len() as u16);
        let mut done = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            let mut seen = self.seen.lock().unwrap();
            let (head, address, _) = seen.buffers[usize::from(queue)].pop_front().expect("a buffer");
            model::write(address, piece);
            if index == 0 {
                model::write(address + 10, &number.to_le_bytes());
            }
            done.push((head, piece.len() as u32));
        }
        let mut queues = self.model.queues.lock().unwrap();
        for (head, length) in done {
            queues[usize::from(2 * queue)].finish(head.into(), length);
        }
    }

    fn receive(&self, queue: usize) -> Vec<Received> {
        let mut packets = Vec::new();
        self.net.receive(queue, 1000, &mut |packet| packets.push(packet));
        packets
    }

    fn send(&self, queue: usize, packet: &mut Packet) -> Result<(), TransmitError> {
        let result = self.net.transmit(queue, packet);
        self.net.flush(queue);
        result
    }
}

fn content(chain: &Chain) -> Vec<u8> {
    let mut bytes = vec![0; chain.len()];
    chain.copy_to(0, &mut bytes);
    bytes
}

fn packet(header: &[u8], payload: &[u8]) -> Packet {
    let mut packet = Packet { payload: Chain::copy_of(payload).unwrap(), ..Packet::default() };
    packet.header.prepend(header.len()).copy_from_slice(header);
    packet
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 13 + index / 256) as u8).collect()
}

#[test]
fn the_device_says_what_it_is() {
    let bench = bench(ALL, 1);
    let properties = bench.net.properties();
    assert_eq!((properties.address, properties.queues, properties.mtu), (ADDRESS, 1, 1500));
    assert_eq!(properties.offloads, Offloads::all().difference(Offloads::LOOPBACK));
    assert!(bench.net.link_up());
    assert_eq!(bench.net.link_speed(), Some((10_000, true)));
    assert_eq!(
        super::sensible(ALL.difference(Features::NET_CHECKSUM)) & Features::NET_HOST_TSO4,
        Features::empty()
    );
    let alone = super::sensible(ALL.difference(Features::NET_MERGED_BUFFERS));
    assert!(!alone.contains(Features::NET_GUEST_TSO6));
    assert!(!super::sensible(ALL.difference(Features::NET_CONTROL)).contains(Features::NET_QUEUES));
}

#[test]
fn packets_of_all_sizes_are_sent_whole() {
    let sets =
        [ALL, ALL.difference(Features::INDIRECT), ALL.difference(Features::EVENT_INDEX), Features::empty()];
    for features in sets {
        let bench = bench(features, 1);
        let payload = pattern(65_000);
        for round in 0..2000 {
            let length = [0, 40, 300, 446, 447, 1000, 4096, 5000, 65_000][round % 9];
            bench.send(0, &mut packet(&[7; 54], &payload[..length])).unwrap();
            let sent = bench.seen.lock().unwrap().sent.pop().expect("one packet");
            assert_eq!(sent.0, 1);
            assert_eq!(sent.1 == 1, length <= 446, "{length} bytes in {} pieces", sent.1);
            assert_eq!(sent.2[..12], [0; 12]);
            assert!(sent.2[12..66] == [7; 54] && sent.2[66..] == payload[..length]);
        }
        assert_eq!(bench.net.statistics().transmit_errors, 0);
    }
}

#[test]
fn the_header_asks_for_checksum_and_segmentation() {
    let bench = bench(ALL, 1);
    let mut packet = packet(&[0; 54], &pattern(9000));
    packet.checksum = Checksum::Partial { start: 34, offset: 16 };
    packet.segmentation = Some(Segmentation { size: 1448, version6: false, ecn: true });
    bench.send(0, &mut packet).unwrap();
    let bytes = bench.seen.lock().unwrap().sent.pop().expect("one packet").2;
    assert_eq!(bytes[..10], [1, 0x81, 54, 0, 0xa8, 5, 34, 0, 16, 0]);
}

/// Counts upcalls.
#[derive(Default)]
struct Counts {
    room: usize,
    gone: usize,
    interrupts: usize,
}

struct Counter(Arc<Mutex<Counts>>);

impl Upcalls for Counter {
    fn interrupt(&self, _queue: usize) {
        self.0.lock().unwrap().interrupts += 1;
    }

    fn room(&self, _queue: usize) {
        self.0.lock().unwrap().room += 1;
    }

    fn link_changed(&self) {}

    fn gone(&self) {
        self.0.lock().unwrap().gone += 1;
    }
}

#[test]
fn a_full_ring_says_when_there_is_room() {
    for features in [ALL, ALL.difference(Features::EVENT_INDEX), ALL.difference(Features::INDIRECT)] {
        let bench = bench(features, 1);
        let counts = Arc::new(Mutex::new(Counts::default()));
        bench.net.start(Box::new(Counter(counts.clone())));
        bench.seen.lock().unwrap().hold = true;
        let mut sent = 0;
        let refused = loop {
            let mut packet = packet(&[0; 54], &pattern(20_000));
            match bench.send(0, &mut packet) {
                Ok(()) => sent += 1,
                Err(error) => break (error, packet.payload.len()),
            }
        };
        assert_eq!(refused, (TransmitError::Full, 20_000));
        assert!(sent >= 256 / 6, "{sent}");
        assert_eq!(counts.lock().unwrap().room, 0);
        let held = core::mem::take(&mut bench.seen.lock().unwrap().held);
        assert_eq!(held.len(), sent);
        for (queue, head) in held {
            bench.model.queues.lock().unwrap()[usize::from(queue)].finish(head.into(), 0);
        }
        bench.model.interrupt(1);
        assert_eq!(counts.lock().unwrap().room, 1);
        assert_eq!(bench.send(0, &mut packet(&[0; 54], &pattern(20_000))), Ok(()));
    }
}

#[test]
fn packets_of_all_sizes_are_received_whole() {
    let sets = [ALL, ALL.difference(Features::EVENT_INDEX)];
    for features in sets {
        let bench = bench(features, 1);
        let bytes = pattern(65_000);
        for round in 0..1000 {
            let length = [14, 60, 256, 257, 1514, 4084, 4085, 20_000, 65_000][round % 9];
            bench.arrive(0, [0; 12], &bytes[..length], None);
            let mut packets = bench.receive(0);
            assert_eq!(packets.len(), 1, "{length}");
            let packet = packets.pop().unwrap();
            assert!(content(&packet.data) == bytes[..length], "{length}");
            assert_eq!((packet.checksum, packet.segment_size), (Checksum::Unknown, 0));
        }
        assert_eq!(bench.net.statistics(), Default::default());
    }
}

#[test]
fn packets_wait_in_order_and_interrupt_when_armed() {
    let bench = bench(ALL, 1);
    let counts = Arc::new(Mutex::new(Counts::default()));
    bench.net.start(Box::new(Counter(counts.clone())));
    assert!(!bench.net.arm(0));
    for number in 0..200_u8 {
        bench.arrive(0, [0; 12], &[number; 60], None);
    }
    bench.model.interrupt(0);
    assert_eq!(counts.lock().unwrap().interrupts, 1);
    assert!(bench.net.arm(0));
    let mut taken = 0;
    bench.net.receive(0, 50, &mut |_| taken += 1);
    assert_eq!(taken, 50);
    assert!(bench.net.arm(0));
    let packets = bench.receive(0);
    let numbers: Vec<u8> = packets.iter().map(|packet| packet.data.first()[0]).collect();
    assert_eq!(numbers, (50..200).collect::<Vec<u8>>());
    assert!(!bench.net.arm(0));
}

#[test]
fn small_packets_share_a_page() {
    let bench = bench(ALL, 1);
    for number in 0..20_u8 {
        bench.arrive(0, [0; 12], &[number; 60], None);
    }
    let packets = bench.receive(0);
    let frame = |packet: &Received| packet.data.fragments()[0].frame();
    assert!(packets.iter().all(|packet| frame(packet) == frame(&packets[0])));
    for (number, packet) in packets.iter().enumerate() {
        assert_eq!(content(&packet.data), [number as u8; 60]);
    }
}

#[test]
fn the_header_tells_of_checksum_and_joined_segments() {
    let bench = bench(ALL, 1);
    let cases = [
        ([1, 1, 0, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0], Checksum::Partial { start: 34, offset: 16 }, 1448),
        ([2, 0x84, 0, 0, 0x94, 5, 0, 0, 0, 0, 0, 0], Checksum::Verified, 1428),
        // Beyond the end, and a kind that nobody asked for.
        ([1, 3, 0, 0, 0xa8, 5, 0xff, 0xff, 0xff, 0xff, 0, 0], Checksum::Unknown, 0),
    ];
    for (header, checksum, segment_size) in cases {
        bench.arrive(0, header, &[0; 100], None);
        let packet = bench.receive(0).pop().expect("a packet");
        assert_eq!((packet.checksum, packet.segment_size), (checksum, segment_size));
    }
}

#[test]
fn a_device_that_lies_does_no_harm() {
    let bench = bench(ALL, 1);
    // More buffers than there are, none at all, too short, an unknown descriptor.
    bench.arrive(0, [0; 12], &[0; 60], Some(9));
    bench.arrive(0, [0; 12], &[0; 60], Some(0));
    bench.arrive(0, [0; 12], &[0; 60], Some(60_000));
    bench.arrive(0, [0; 12], &[0; 3], None);
    bench.model.queues.lock().unwrap()[0].finish(40_000, 60);
    assert!(bench.receive(0).is_empty());
    assert_eq!(bench.net.statistics().receive_errors, 5);
    bench.arrive(0, [0; 12], &[1; 60], None);
    assert_eq!(bench.receive(0).len(), 1);
    // The same descriptor over and over.
    for _ in 0..100 {
        bench.model.queues.lock().unwrap()[0].finish(3, 2000);
    }
    assert!(bench.receive(0).iter().all(|packet| packet.data.len() <= 2000));
    // Chains that nobody sent.
    for _ in 0..100 {
        bench.model.queues.lock().unwrap()[1].finish(7, 0);
        assert_eq!(bench.send(0, &mut packet(&[0; 54], &[0; 5000])), Ok(()));
    }
}

#[test]
fn a_device_that_claims_too_much_is_given_up() {
    for queue in 0..2 {
        let bench = bench(ALL, 1);
        let counts = Arc::new(Mutex::new(Counts::default()));
        bench.net.start(Box::new(Counter(counts.clone())));
        bench.model.queues.lock().unwrap()[queue].set_used_index(30_000);
        bench.receive(0);
        bench.net.arm(0);
        assert!(counts.lock().unwrap().gone > 0);
        bench.net.stop();
        assert!(bench.model.status.lock().unwrap().is_empty());
        assert_eq!(bench.send(0, &mut packet(&[0; 54], &[])), Err(TransmitError::Refused));
    }
}

#[test]
fn the_filter_reaches_the_device() {
    let bench = bench(ALL, 1);
    bench.seen.lock().unwrap().commands.clear();
    let address = [1, 0, 0x5e, 0, 0, 251];
    bench.net.set_filter(&[address], false);
    bench.net.set_filter(&[[1; 6]; 100], true);
    let commands = core::mem::take(&mut bench.seen.lock().unwrap().commands);
    let mut table = vec![1, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    table.extend(address);
    let expected = [
        table,
        vec![0, 1, 0],
        vec![0, 0, 0],
        vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        vec![0, 1, 1],
        vec![0, 0, 1],
    ];
    assert_eq!(commands, expected);
}

#[test]
fn an_announcement_is_acknowledged() {
    assert!(!bench(ALL, 1).net.wants_announcement());
    let mut asking = config(1);
    asking[6] = 3;
    let bench = bench_with(ALL, 1, asking);
    bench.seen.lock().unwrap().commands.clear();
    assert!(bench.net.wants_announcement() && bench.net.link_up());
    assert_eq!(bench.seen.lock().unwrap().commands, [[3, 0]]);
}
