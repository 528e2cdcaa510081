//! Ethernet frames with DHCP's messages, for an interface that has no address yet.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use netconfig::{CLIENT_PORT, HardwareAddress, SERVER_PORT};

/// Bytes of the headers of Ethernet, IPv4 (without options) and UDP.
const ETHERNET: usize = 14;
const IP: usize = 20;
const UDP: usize = 8;
/// The EtherType of IPv4, and UDP's number in it.
const TYPE: [u8; 2] = [8, 0];
const PROTOCOL: u8 = 17;

/// The Internet checksum (RFC 1071) of parts, of which all but the last have an even length.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// What goes before UDP's header for its checksum.
fn pseudo_header(source: &[u8], destination: &[u8], length: usize) -> Vec<u8> {
    [source, destination, &[0, PROTOCOL], &(length as u16).to_be_bytes()].concat()
}

/// A client's message to everybody.
pub fn build(hardware: HardwareAddress, source: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let destination = Ipv4Addr::BROADCAST;
    let length = UDP + message.len();
    let mut udp = [CLIENT_PORT, SERVER_PORT, length as u16, 0].map(u16::to_be_bytes).concat();
    let pseudo = pseudo_header(&source.octets(), &destination.octets(), length);
    let sum = match checksum(&[&pseudo, &udp, message]) {
        0 => 0xffff,
        sum => sum,
    };
    udp[6..].copy_from_slice(&sum.to_be_bytes());
    // Version 4, five words; low delay; 64 hops.
    let mut ip = [0x45, 0x10, 0, 0, 0, 0, 0, 0, 64, PROTOCOL, 0, 0].to_vec();
    ip[2..4].copy_from_slice(&((IP + length) as u16).to_be_bytes());
    ip.extend(source.octets());
    ip.extend(destination.octets());
    let sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    [&[0xff; 6], &hardware[..], &TYPE, &ip, &udp, message].concat()
}

/// The message in a frame, if it is one for clients and whole.
pub fn parse(frame: &[u8]) -> Option<&[u8]> {
    let packet = frame.get(ETHERNET..)?;
    if frame[12..14] != TYPE || packet.first()? >> 4 != 4 {
        return None;
    }
    let header = usize::from(packet[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
    let packet = packet.get(..total).filter(|_| header >= IP)?;
    let fragment = u16::from_be_bytes(packet.get(6..8)?.try_into().ok()?) & 0x3fff;
    let (ip, udp) = packet.split_at_checked(header)?;
    if ip[9] != PROTOCOL || fragment != 0 || checksum(&[ip]) != 0 {
        return None;
    }
    let &[_, _, p0, p1, l0, l1, c0, c1] = udp.first_chunk::<UDP>()?;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let datagram = udp.get(..length).filter(|_| length >= UDP)?;
    // A sender on the same machine may have left the sum to a card that never came.
    let partial = [c0, c1] == pseudo_sum(ip, length).to_be_bytes();
    let right =
        [c0, c1] == [0, 0] || checksum(&[&pseudo_header(&ip[12..16], &ip[16..20], length), datagram]) == 0;
    (u16::from_be_bytes([p0, p1]) == CLIENT_PORT && (right || partial)).then(|| &datagram[UDP..])
}

/// What stands for a checksum that the card is to finish: the sum of the pseudo header.
fn pseudo_sum(ip: &[u8], length: usize) -> u16 {
    !checksum(&[&pseudo_header(&ip[12..16], &ip[16..20], length)])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message to a client, from one of ours.
    fn reply(message: &[u8]) -> Vec<u8> {
        let mut frame = build([2; 6], Ipv4Addr::new(10, 0, 0, 1), message);
        // The ports change places, which leaves the checksum.
        let ports: [u8; 4] = frame[34..38].try_into().unwrap();
        frame[34..36].copy_from_slice(&ports[2..]);
        frame[36..38].copy_from_slice(&ports[..2]);
        frame
    }

    #[test]
    fn frames_read_back() {
        let frame = reply(b"a message");
        assert_eq!(parse(&frame), Some(&b"a message"[..]));
        // Ethernet's padding isn't part of it.
        assert_eq!(parse(&[&frame[..], &[0; 30]].concat()), Some(&b"a message"[..]));
        assert_eq!(parse(&build([2; 6], Ipv4Addr::UNSPECIFIED, b"a")), None, "for the server");
        let mut unsummed = frame.clone();
        unsummed[40..42].fill(0);
        assert!(parse(&unsummed).is_some());
        let sum = pseudo_sum(&frame[14..34], 17);
        unsummed[40..42].copy_from_slice(&sum.to_be_bytes());
        assert!(parse(&unsummed).is_some());
    }

    #[test]
    fn damaged_frames_do_no_harm() {
        let frame = reply(b"a message");
        for length in 0..frame.len() {
            assert_eq!(parse(&frame[..length]), None, "{length} bytes");
        }
        for place in 14..frame.len() {
            for bit in 0..8 {
                let mut damaged = frame.clone();
                damaged[place] ^= 1 << bit;
                parse(&damaged);
            }
        }
        let mut damaged = frame.clone();
        damaged[45] ^= 1;
        assert_eq!(parse(&damaged), None);
    }
}
