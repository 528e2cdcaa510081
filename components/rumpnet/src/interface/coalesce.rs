//! Joining what devices deliver frame by frame: the segments of a flow that follow each other in a batch of received
//! packets become one packet, as if the device had joined them (LRO), so that the layers above are passed once for all.
//!
//! Joined are plain segments with data, verified checksums and the same headers but for lengths and sequence numbers;
//! every other packet first lets go what waits, so that no flow's packets change their order.

use core::net::IpAddr;

use super::LINK_HEADER;
use crate::{
    checksum::{self, Sum},
    link,
    packet::{Chain, Checksum, Fragment, Received},
};

/// Flows that are joined at the same time.
const FLOWS: usize = 4;
/// Packets shorter than this are not worth waiting for others, in bytes.
const LEAST: usize = 512;
/// The longest IP packet that is made, in bytes.
const MOST: usize = 65_535;
/// Link, IPv6 and TCP headers, with all options.
const ROOM: usize = LINK_HEADER + 40 + 60;
const TCP: u8 = 6;
const ACK: u8 = 0x10;
const PUSH: u8 = 0x08;

/// The headers of a plain TCP segment with data.
#[derive(Clone, Copy)]
struct Headers {
    bytes: [u8; ROOM],
    /// Where TCP's begins.
    transport: usize,
    /// Bytes in all.
    length: usize,
    /// Bytes of data.
    payload: usize,
    sequence: u32,
}

impl Headers {
    /// Of a segment that may be joined with others.
    fn parse(data: &Chain) -> Option<Headers> {
        let first = data.first();
        let mut bytes = [0; ROOM];
        let available = first.len().min(ROOM);
        // The device may still change the page: judged is what was copied.
        bytes[..available].copy_from_slice(&first[..available]);
        let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let (transport, total) = match half(12) {
            // No options, no fragment.
            link::IPV4 if bytes[14] == 0x45 && half(20) & 0xbfff == 0 && bytes[23] == TCP => {
                if checksum::of(&bytes[LINK_HEADER..LINK_HEADER + 20]) != 0 {
                    return None;
                }
                (LINK_HEADER + 20, usize::from(half(16)))
            }
            link::IPV6 if bytes[14] >> 4 == 6 && bytes[20] == TCP => {
                (LINK_HEADER + 40, 40 + usize::from(half(18)))
            }
            _ => return None,
        };
        let length = transport + usize::from(bytes[transport + 12] >> 4) * 4;
        let end = LINK_HEADER + total;
        let plain = bytes[transport + 13] & !PUSH == ACK && bytes[transport + 12] & 0xf == 0;
        if !plain || length < transport + 20 || length > available || length >= end || end > data.len() {
            return None;
        }
        let sequence = u32::from_be_bytes([
            bytes[transport + 4],
            bytes[transport + 5],
            bytes[transport + 6],
            bytes[transport + 7],
        ]);
        Some(Headers { bytes, transport, length, payload: end - length, sequence })
    }

    fn pushes(&self) -> bool {
        self.bytes[self.transport + 13] & PUSH != 0
    }

    /// Whether it is of the same connection.
    fn is_of(&self, other: &Headers) -> bool {
        let (addresses, transport) = (self.addresses(), self.transport);
        self.transport == other.transport
            && self.bytes[addresses..transport + 4] == other.bytes[addresses..transport + 4]
    }

    fn addresses(&self) -> usize {
        if self.is_version6() { LINK_HEADER + 8 } else { LINK_HEADER + 12 }
    }

    fn is_version6(&self) -> bool {
        self.transport == LINK_HEADER + 40
    }

    /// Whether all is the same but what differs from segment to segment: lengths, IPv4's identification and checksum,
    /// the sequence number, PSH and the checksum.
    fn is_like(&self, other: &Headers) -> bool {
        let same = |from: usize, to: usize| self.bytes[from..to] == other.bytes[from..to];
        let transport = self.transport;
        self.length == other.length
            && if self.is_version6() { same(0, 18) && same(20, 22) } else { same(0, 16) && same(20, 24) }
            && same(transport + 8, transport + 13)
            && same(transport + 14, transport + 16)
            && same(transport + 18, self.length)
    }

    fn address(&self, at: usize) -> IpAddr {
        if self.is_version6() {
            let mut octets = [0; 16];
            octets.copy_from_slice(&self.bytes[at..at + 16]);
            octets.into()
        } else {
            [self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]].into()
        }
    }

    /// Whether the segment's checksum is right; the device did not look.
    fn verify(&self, data: &Chain) -> bool {
        let at = self.addresses();
        let (source, destination) =
            (self.address(at), self.address(at + if self.is_version6() { 16 } else { 4 }));
        let length = self.length - self.transport + self.payload;
        let mut sum = Sum::from_folded(checksum::pseudo_header(source, destination, TCP, length));
        sum.add_chain(data, self.transport);
        sum.finish() == 0
    }

    /// Makes them those of a segment with `payload` bytes.
    fn resize(&mut self, payload: usize, push: bool) {
        let total = (self.length - LINK_HEADER + payload) as u16;
        if self.is_version6() {
            self.bytes[18..20].copy_from_slice(&(total - 40).to_be_bytes());
        } else {
            self.bytes[16..18].copy_from_slice(&total.to_be_bytes());
            self.bytes[24..26].fill(0);
            let sum = checksum::of(&self.bytes[LINK_HEADER..LINK_HEADER + 20]);
            self.bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        if push {
            self.bytes[self.transport + 13] |= PUSH;
        }
    }
}

/// A packet that waits for those that follow it.
struct Waiting {
    /// Of its first segment.
    headers: Headers,
    packet: Received,
    /// Bytes of data, of all segments.
    payload: usize,
    push: bool,
}

impl Waiting {
    /// Whether a segment with these headers comes next.
    fn continues(&self, headers: &Headers) -> bool {
        headers.sequence == self.headers.sequence.wrapping_add(self.payload as u32)
            && headers.payload <= self.headers.payload
            && headers.length - LINK_HEADER + self.payload + headers.payload <= MOST
            && self.headers.is_like(headers)
    }

    /// The packet that came of it. None without memory.
    fn finish(mut self) -> Option<Received> {
        if self.payload > self.headers.payload {
            let headers = &mut self.headers;
            headers.resize(self.payload, self.push);
            let mut head = Fragment::new(0).ok()?;
            head.append(&headers.bytes[..headers.length]);
            let mut data = Chain::with_capacity(1 + self.packet.data.fragments().len());
            data.push(head);
            self.packet.data.advance(headers.length);
            data.append(self.packet.data);
            self.packet.data = data;
            self.packet.segment_size = headers.payload as u16;
        }
        Some(self.packet)
    }
}

/// Joins the packets of a batch.
#[derive(Default)]
pub(super) struct Coalescer {
    waiting: [Option<Waiting>; FLOWS],
    /// How many wait.
    count: usize,
}

impl Coalescer {
    /// Takes a packet; those that are complete go to `sink`.
    #[inline]
    pub fn take(&mut self, packet: Received, sink: &mut dyn FnMut(Received)) {
        if self.count == 0 && (packet.data.len() < LEAST || packet.segment_size > 0) {
            sink(packet);
        } else {
            self.join(packet, sink);
        }
    }

    fn join(&mut self, mut packet: Received, sink: &mut dyn FnMut(Received)) {
        let headers = if packet.segment_size == 0 { Headers::parse(&packet.data) } else { None };
        let Some(headers) = headers else {
            self.finish(sink);
            sink(packet);
            return;
        };
        packet.data.truncate(headers.length + headers.payload);
        if packet.checksum == Checksum::Unknown {
            if !headers.verify(&packet.data) {
                self.finish(sink);
                sink(packet);
                return;
            }
            packet.checksum = Checksum::Verified;
        }
        let of_flow = |slot: &Option<Waiting>| slot.as_ref().is_some_and(|one| one.headers.is_of(&headers));
        let mut place = self.waiting.iter().position(of_flow);
        if let Some(index) = place
            && let Some(waiting) = self.waiting[index].as_mut().filter(|waiting| waiting.continues(&headers))
        {
            packet.data.advance(headers.length);
            waiting.packet.data.append(packet.data);
            waiting.payload += headers.payload;
            waiting.push |= headers.pushes();
            if headers.pushes() || headers.payload < waiting.headers.payload {
                self.release(index, sink);
            }
            return;
        }
        if let Some(index) = place {
            self.release(index, sink);
        }
        if headers.pushes() {
            sink(packet);
            return;
        }
        if place.is_none() {
            place = self.waiting.iter().position(Option::is_none);
        }
        let index = place.unwrap_or(0);
        self.release(index, sink);
        let payload = headers.payload;
        self.waiting[index] = Some(Waiting { headers, packet, payload, push: false });
        self.count += 1;
    }

    fn release(&mut self, index: usize, sink: &mut dyn FnMut(Received)) {
        if let Some(waiting) = self.waiting[index].take() {
            self.count -= 1;
            if let Some(packet) = waiting.finish() {
                sink(packet);
            }
        }
    }

    /// Lets go what waits. At the end of a batch.
    pub fn finish(&mut self, sink: &mut dyn FnMut(Received)) {
        let mut index = 0;
        while self.count > 0 && index < FLOWS {
            self.release(index, sink);
            index += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{vec, vec::Vec};

    use super::*;

    const SIZE: usize = 1000;

    /// A segment as a device delivers it; `change` may spoil its TCP header before it is summed.
    fn segment(
        version6: bool,
        port: u16,
        sequence: u32,
        payload: usize,
        change: impl Fn(&mut [u8]),
    ) -> Received {
        let mut tcp = vec![0; 32];
        tcp[..2].copy_from_slice(&port.to_be_bytes());
        tcp[3] = 80;
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        tcp[12] = 8 << 4;
        tcp[13] = ACK;
        tcp[20..24].copy_from_slice(&[1, 1, 8, 10]);
        tcp.extend((0..payload).map(|index| (sequence as usize + index) as u8));
        change(&mut tcp);
        let (source, destination): (IpAddr, IpAddr) = match version6 {
            true => ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap()),
            false => ([10, 0, 0, 1].into(), [10, 0, 0, 2].into()),
        };
        let mut sum = Sum::from_folded(checksum::pseudo_header(source, destination, TCP, tcp.len()));
        sum.add(&tcp);
        tcp[16..18].copy_from_slice(&sum.finish().to_be_bytes());
        let mut frame = vec![2; 12];
        if version6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, (tcp.len() >> 8) as u8, tcp.len() as u8, TCP, 64]);
            for address in [source, destination] {
                let IpAddr::V6(address) = address else { unreachable!() };
                frame.extend(address.octets());
            }
        } else {
            let total = 20 + tcp.len();
            frame.extend([8, 0]);
            let mut header = [
                0x45,
                0,
                (total >> 8) as u8,
                total as u8,
                sequence as u8,
                0,
                0x40,
                0,
                64,
                TCP,
                0,
                0,
                10,
                0,
                0,
                1,
                10,
                0,
                0,
                2,
            ];
            let sum = checksum::of(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(header);
        }
        frame.extend(tcp);
        // Short frames are padded.
        frame.resize(frame.len().max(110), 0);
        Received { data: Chain::copy_of(&frame).unwrap(), ..Received::default() }
    }

    fn plain(port: u16, index: u32) -> Received {
        segment(false, port, index * SIZE as u32, SIZE, |_| {})
    }

    /// What comes out: (port, sequence number, bytes of data, PSH).
    fn run(packets: impl IntoIterator<Item = Received>) -> Vec<(u16, u32, usize, bool)> {
        let mut out = Vec::new();
        let mut coalescer = Coalescer::default();
        let mut sink = |packet: Received| {
            let mut packet = packet;
            assert!(packet.data.pull_up(packet.data.len().min(86)));
            let Some(headers) = Headers::parse(&packet.data) else {
                out.push((0, 0, packet.data.len(), false));
                return;
            };
            let bytes = packet.data.len() - headers.length;
            if packet.segment_size > 0 {
                assert_eq!((packet.checksum, bytes), (Checksum::Verified, headers.payload));
                let mut data = vec![0; bytes];
                packet.data.copy_to(headers.length, &mut data);
                for (index, byte) in data.iter().enumerate() {
                    assert_eq!(*byte, (headers.sequence as usize + index) as u8);
                }
            }
            let port =
                u16::from_be_bytes([headers.bytes[headers.transport], headers.bytes[headers.transport + 1]]);
            out.push((port, headers.sequence, headers.payload, headers.pushes()));
        };
        for packet in packets {
            coalescer.take(packet, &mut sink);
        }
        coalescer.finish(&mut sink);
        assert_eq!(coalescer.count, 0);
        out
    }

    #[test]
    fn segments_in_order_become_one() {
        assert_eq!(run((0..10).map(|index| plain(1, index))), [(1, 0, 10 * SIZE, false)]);
        let six = (0..10).map(|index| segment(true, 1, index * SIZE as u32, SIZE, |_| {}));
        assert_eq!(run(six), [(1, 0, 10 * SIZE, false)]);
        // As many as one packet can hold, around the end of the numbers.
        let start = u32::MAX - 5000;
        let many = (0..70).map(|index| segment(false, 1, start.wrapping_add(index * 1000), SIZE, |_| {}));
        let second = start.wrapping_add(65_000);
        assert_eq!(run(many), [(1, start, 65 * SIZE, false), (1, second, 5 * SIZE, false)]);
    }

    #[test]
    fn flows_are_joined_beside_each_other() {
        let mixed = (0..12).map(|index| plain(index % 3, u32::from(index / 3)));
        assert_eq!(run(mixed), [(0, 0, 4 * SIZE, false), (1, 0, 4 * SIZE, false), (2, 0, 4 * SIZE, false)]);
        // More than there are places for: the oldest goes, all come.
        let sum = |flows: u16| -> usize {
            run((0..40).map(|index| plain(index % flows, u32::from(index / flows))))
                .iter()
                .map(|one| one.2)
                .sum()
        };
        assert_eq!((sum(6), sum(40)), (40 * SIZE, 40 * SIZE));
    }

    #[test]
    fn the_end_of_a_message_is_not_held_back() {
        let mut seen = 0;
        let mut coalescer = Coalescer::default();
        let push = |tcp: &mut [u8]| tcp[13] |= PUSH;
        let packets = [plain(1, 0), plain(1, 1), segment(false, 1, 2000, 10, push)];
        for packet in packets {
            coalescer.take(packet, &mut |packet| {
                let headers = Headers::parse(&packet.data);
                assert!(headers.is_some_and(|headers| headers.pushes() && headers.payload == 2010));
                seen += 1;
            });
        }
        assert_eq!((seen, coalescer.count), (1, 0));
        // A shorter one ends it, too.
        let packets =
            [plain(1, 0), segment(false, 1, 1000, 999, |_| {}), segment(false, 1, 1999, 1000, |_| {})];
        assert_eq!(run(packets), [(1, 0, 1999, false), (1, 1999, 1000, false)]);
    }

    #[test]
    fn what_differs_stays_apart_and_in_order() {
        type Change = fn(&mut [u8]);
        let changes: [(Change, bool); 7] = [
            (|tcp| tcp[9] = 1, true),
            (|tcp| tcp[15] = 1, true),
            (|tcp| tcp[31] = 1, true),
            (|tcp| tcp[13] |= 1, false),
            (|tcp| tcp[13] |= 4, false),
            (|tcp| tcp[13] |= 0x80, false),
            (|tcp| tcp[12] |= 1, false),
        ];
        for (change, parses) in changes {
            let out = run([plain(1, 0), segment(false, 1, 1000, SIZE, change), plain(1, 2)]);
            let ports: Vec<_> = out.iter().map(|one| one.0).collect();
            assert_eq!(ports, [1, if parses { 1 } else { 0 }, 1]);
            assert_eq!((out[0].1, out[2].1), (0, 2000));
        }
        // A gap, a repetition, and a bare acknowledgement.
        assert_eq!(run([plain(1, 0), plain(1, 2)]).len(), 2);
        assert_eq!(run([plain(1, 0), plain(1, 0)]).len(), 2);
        let out = run([plain(1, 0), segment(false, 1, 1000, 0, |_| {}), plain(1, 1)]);
        assert_eq!(out.iter().map(|one| one.0).collect::<Vec<_>>(), [1, 0, 1]);
        // What the device joined stays as it is.
        let joined = Received { segment_size: 100, checksum: Checksum::Verified, ..plain(1, 1) };
        assert_eq!(run([plain(1, 0), joined]).len(), 2);
    }

    #[test]
    fn what_is_broken_is_not_joined() {
        for at in 14..1000 {
            let mut bytes = vec![0; 1066];
            let packet = plain(1, 1);
            packet.data.copy_to(0, &mut bytes);
            bytes[at] ^= 0x40;
            let broken = Received { data: Chain::copy_of(&bytes).unwrap(), ..Received::default() };
            // The identification is part of IPv4's checksum only.
            assert_eq!(run([plain(1, 0), broken]).len(), 2, "{at}");
        }
        for length in 0..200 {
            let mut packet = plain(1, 1);
            packet.data.truncate(length);
            assert_eq!(run([plain(1, 0), packet]).len(), 2, "{length}");
        }
    }
}
