//! What tells neighbours where an address is now: ARP announcements (RFC 5227 section 3) and unsolicited neighbour
//! advertisements (RFC 4861 section 7.2.6), as Ethernet frames.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netconfig::HardwareAddress;

use super::frame::checksum;

/// EtherTypes.
const ARP: [u8; 2] = [8, 6];
const IP6: [u8; 2] = [0x86, 0xdd];
/// Hardware Ethernet, protocol IPv4, lengths of their addresses, a request (RFC 826).
const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
/// ICMPv6's number, and the hops that show that no router was in between.
const ICMP6: u8 = 58;
const HOPS: u8 = 255;
/// All nodes on the link, and the Ethernet group that they listen to.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const GROUP: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// A neighbour advertisement that replaces what was known (the flag "override").
const ADVERTISEMENT: [u8; 8] = [136, 0, 0, 0, 0x20, 0, 0, 0];
/// The option "target link-layer address", in units of 8 bytes.
const TARGET: [u8; 2] = [2, 1];

/// The frame that announces an address.
pub fn frame(hardware: HardwareAddress, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp(hardware, address),
        IpAddr::V6(address) => advertisement(hardware, address),
    }
}

fn arp(hardware: HardwareAddress, address: Ipv4Addr) -> Vec<u8> {
    let octets = address.octets();
    [&[0xff; 6], &hardware[..], &ARP, &REQUEST, &hardware, &octets, &[0; 6], &octets].concat()
}

fn advertisement(hardware: HardwareAddress, address: Ipv6Addr) -> Vec<u8> {
    let mut message = [&ADVERTISEMENT[..], &address.octets(), &TARGET, &hardware].concat();
    let length = (message.len() as u16).to_be_bytes();
    let ends = [address.octets(), ALL_NODES.octets()].concat();
    let sum = checksum(&[&ends, &[0, 0], &length, &[0, 0, 0, ICMP6], &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    [&GROUP, &hardware[..], &IP6, &[0x60, 0, 0, 0], &length, &[ICMP6, HOPS], &ends, &message].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_have_their_layout() {
        let hardware = [0, 0x16, 0x3e, 0, 0, 1];
        let arp = frame(hardware, Ipv4Addr::new(10, 9, 0, 2).into());
        assert_eq!((arp.len(), &arp[..6], &arp[6..12]), (42, &[0xff; 6][..], &hardware[..]));
        assert_eq!(arp[12..22], [8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(
            (&arp[22..28], &arp[28..32], &arp[38..]),
            (&hardware[..], &[10, 9, 0, 2][..], &[10, 9, 0, 2][..])
        );
        let address: Ipv6Addr = "fd09::2".parse().unwrap();
        let sent = frame(hardware, address.into());
        assert_eq!(
            (sent.len(), &sent[12..18], &sent[18..22]),
            (86, &[0x86, 0xdd, 0x60, 0, 0, 0][..], &[0, 32, 58, 255][..])
        );
        assert_eq!((sent[54], &sent[62..78], &sent[80..]), (136, &address.octets()[..], &hardware[..]));
        assert_eq!(checksum(&[&sent[22..54], &[0, 0, 0, 32, 0, 0, 0, 58], &sent[54..]]), 0);
    }
}
