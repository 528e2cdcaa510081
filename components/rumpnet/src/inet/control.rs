//! Ancillary data of IPv4 and IPv6 messages (ip(7), RFC 3542).

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rumpkern::{Errno, Result};
use smallvec::SmallVec;

use super::options::{InetOptions, InetSwitches, name4, name6};
use crate::{
    base::{SocketBase, Switches, name},
    datagram::Metadata,
    interface,
    option::{int_or_byte, level, word},
    socket::{Control, Domain},
};

const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;
/// SOF_TIMESTAMPING_RX_SOFTWARE and SOF_TIMESTAMPING_SOFTWARE.
const SOFTWARE_TIME: u32 = 1 << 3 | 1 << 4;

fn control(level: i32, kind: i32, data: &[u8]) -> Control {
    Control { level, kind, data: SmallVec::from_slice(data) }
}

fn number(level: i32, kind: i32, value: i32) -> Control {
    control(level, kind, &value.to_ne_bytes())
}

/// What the options of SOL_SOCKET have a message come with.
pub fn common(base: &SocketBase, metadata: &Metadata, controls: &mut Vec<Control>) {
    let seconds = metadata.time / 1_000_000_000;
    let nanoseconds = metadata.time % 1_000_000_000;
    let pair = |one: u64, other: u64| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&one.to_ne_bytes());
        bytes[8..].copy_from_slice(&other.to_ne_bytes());
        bytes
    };
    if base.is_on(Switches::TIMESTAMP) {
        controls.push(control(level::SOCKET, name::TIMESTAMP, &pair(seconds, nanoseconds / 1000)));
    }
    if base.is_on(Switches::TIMESTAMP_NANOSECONDS) {
        controls.push(control(level::SOCKET, name::TIMESTAMPNS, &pair(seconds, nanoseconds)));
    }
    if base.timestamping() & SOFTWARE_TIME == SOFTWARE_TIME {
        // struct scm_timestamping: software, unused, hardware.
        let mut bytes = [0; 48];
        bytes[..16].copy_from_slice(&pair(seconds, nanoseconds));
        controls.push(control(level::SOCKET, name::TIMESTAMPING, &bytes));
    }
    if base.is_on(Switches::OVERFLOWS) && metadata.dropped > 0 {
        controls.push(number(level::SOCKET, name::RXQ_OVFL, metadata.dropped as i32));
    }
}

/// Whether messages are to come with the time.
pub fn wants_time(base: &SocketBase) -> bool {
    base.is_on(Switches::TIMESTAMP)
        || base.is_on(Switches::TIMESTAMP_NANOSECONDS)
        || base.timestamping() & SOFTWARE_TIME == SOFTWARE_TIME
}

/// The address for a reply to a packet: its destination, if that is an address of this machine.
fn local(destination: IpAddr, interface: u32) -> Ipv4Addr {
    let first = || {
        let interface = interface::by_index(interface)?;
        interface.addresses.list().iter().find_map(|entry| match entry.address {
            IpAddr::V4(four) => Some(four),
            IpAddr::V6(_) => None,
        })
    };
    match destination {
        IpAddr::V4(four) if !four.is_multicast() && !four.is_broadcast() => four,
        _ => first().unwrap_or(Ipv4Addr::UNSPECIFIED),
    }
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(four) => four.to_ipv6_mapped(),
        IpAddr::V6(six) => six,
    }
}

/// The ancillary data of a received message.
pub fn received(base: &SocketBase, options: &InetOptions, metadata: &Metadata) -> Vec<Control> {
    let mut controls = Vec::new();
    common(base, metadata, &mut controls);
    if metadata.segment_size != 0 {
        controls.push(number(level::UDP, UDP_GRO, i32::from(metadata.segment_size)));
    }
    let Some(destination) = metadata.destination else { return controls };
    if !options.is_any_on(InetSwitches::ANCILLARY) {
        return controls;
    }
    if options.is_on(InetSwitches::PACKET_INFO4) && destination.is_ipv4() {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&metadata.interface.to_ne_bytes());
        bytes[4..8].copy_from_slice(&local(destination, metadata.interface).octets());
        if let IpAddr::V4(four) = destination {
            bytes[8..].copy_from_slice(&four.octets());
        }
        controls.push(control(level::IP, name4::PKTINFO, &bytes));
    }
    if destination.is_ipv4() {
        if options.is_on(InetSwitches::RECEIVE_TTL) {
            controls.push(number(level::IP, name4::TTL, i32::from(metadata.hop_limit)));
        }
        if options.is_on(InetSwitches::RECEIVE_TOS) {
            controls.push(control(level::IP, name4::TOS, &[metadata.traffic_class]));
        }
        if options.is_on(InetSwitches::DESTINATION4) {
            controls.push(original(level::IP, name4::ORIGDSTADDR, destination, metadata.port));
        }
    }
    if base.domain() != Domain::Inet6 {
        return controls;
    }
    let packet_info = |kind| {
        let mut bytes = [0; 20];
        bytes[..16].copy_from_slice(&mapped(destination).octets());
        bytes[16..].copy_from_slice(&metadata.interface.to_ne_bytes());
        control(level::IPV6, kind, &bytes)
    };
    if options.is_on(InetSwitches::PACKET_INFO6) {
        controls.push(packet_info(name6::PKTINFO));
    }
    if destination.is_ipv6() {
        if options.is_on(InetSwitches::OLD_PACKET_INFO) {
            controls.push(packet_info(name6::PKTINFO2292));
        }
        if options.is_on(InetSwitches::RECEIVE_HOPS) {
            controls.push(number(level::IPV6, name6::HOPLIMIT, i32::from(metadata.hop_limit)));
        }
        if options.is_on(InetSwitches::OLD_HOPS) {
            controls.push(number(level::IPV6, name6::HOPLIMIT2292, i32::from(metadata.hop_limit)));
        }
        if options.is_on(InetSwitches::RECEIVE_CLASS) {
            controls.push(number(level::IPV6, name6::TCLASS, i32::from(metadata.traffic_class)));
        }
        if options.is_on(InetSwitches::DESTINATION6) {
            controls.push(original(level::IPV6, name6::ORIGDSTADDR, destination, metadata.port));
        }
    }
    controls
}

/// A `struct sockaddr_in` or `sockaddr_in6` as ancillary data.
fn original(level: i32, kind: i32, address: IpAddr, port: u16) -> Control {
    let mut bytes: SmallVec<[u8; 24]> = SmallVec::new();
    match SocketAddr::new(address, port) {
        SocketAddr::V4(four) => {
            bytes.extend_from_slice(&(Domain::Inet as u16).to_ne_bytes());
            bytes.extend_from_slice(&port.to_be_bytes());
            bytes.extend_from_slice(&four.ip().octets());
            bytes.extend_from_slice(&[0; 8]);
        }
        SocketAddr::V6(six) => {
            bytes.extend_from_slice(&(Domain::Inet6 as u16).to_ne_bytes());
            bytes.extend_from_slice(&port.to_be_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&six.ip().octets());
            bytes.extend_from_slice(&[0; 4]);
        }
    }
    Control { level, kind, data: bytes }
}

/// What a message to send wants otherwise than the socket's options say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wishes {
    /// From which address.
    pub source: Option<IpAddr>,
    /// Through which interface.
    pub interface: Option<u32>,
    /// With which TTL or hop limit.
    pub hop_limit: Option<u8>,
    /// With which TOS or traffic class.
    pub traffic_class: Option<u8>,
    /// Never in fragments.
    pub dont_fragment: bool,
    /// UDP_SEGMENT: cut into datagrams of this size.
    pub segment_size: Option<u16>,
}

fn byte(data: &[u8]) -> Result<u8> {
    int_or_byte(data).and_then(|value| u8::try_from(value).map_err(|_| Errno::EINVAL))
}

fn word_at(data: &[u8], offset: usize) -> Result<u32> {
    word(data, offset).ok_or(Errno::EINVAL)
}

impl Wishes {
    /// Reads ancillary data. EINVAL for what is malformed or unknown.
    pub fn read(controls: &[Control]) -> Result<Self> {
        let mut wishes = Wishes::default();
        for Control { level, kind, data } in controls {
            match (*level, *kind) {
                (level::IP, name4::PKTINFO) => {
                    let source = Ipv4Addr::from(u32::from_be(word_at(data, 4)?));
                    word_at(data, 8)?;
                    wishes.take_info(source.into(), word_at(data, 0)?);
                }
                (level::IP, name4::TTL) => match byte(data)? {
                    0 => return Err(Errno::EINVAL),
                    hops => wishes.hop_limit = Some(hops),
                },
                (level::IP, name4::TOS) => wishes.traffic_class = Some(byte(data)?),
                (level::IPV6, name6::TCLASS) => {
                    // -1 is what the socket has.
                    wishes.traffic_class = match data[..].try_into().ok().map(i32::from_ne_bytes) {
                        Some(-1) => None,
                        Some(class) => Some(u8::try_from(class).map_err(|_| Errno::EINVAL)?),
                        None => return Err(Errno::EINVAL),
                    };
                }
                (level::IPV6, name6::PKTINFO | name6::PKTINFO2292) => {
                    let octets = data.first_chunk::<16>().ok_or(Errno::EINVAL)?;
                    let source = Ipv6Addr::from(*octets);
                    let source = source.to_ipv4_mapped().map_or(IpAddr::V6(source), IpAddr::V4);
                    wishes.take_info(source, word_at(data, 16)?);
                }
                (level::IPV6, name6::HOPLIMIT | name6::HOPLIMIT2292) => {
                    let hops = word_at(data, 0)? as i32;
                    if !(-1..=255).contains(&hops) {
                        return Err(Errno::EINVAL);
                    }
                    wishes.hop_limit = u8::try_from(hops).ok();
                }
                (level::IPV6, name6::DONTFRAG) => wishes.dont_fragment = word_at(data, 0)? != 0,
                (level::UDP, UDP_SEGMENT) => {
                    let bytes = data.first_chunk::<2>().ok_or(Errno::EINVAL)?;
                    wishes.segment_size = Some(u16::from_ne_bytes(*bytes)).filter(|&size| size > 0);
                }
                // SO_MARK, SO_TIMESTAMPING and SO_TXTIME change nothing that can be seen.
                (level::SOCKET, name::MARK | name::TIMESTAMPING | 61) => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(wishes)
    }

    fn take_info(&mut self, source: IpAddr, interface: u32) {
        if !source.is_unspecified() {
            self.source = Some(source);
        }
        if interface != 0 {
            self.interface = Some(interface);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read() {
        let info = control(level::IP, name4::PKTINFO, &[2, 0, 0, 0, 10, 0, 0, 1, 0, 0, 0, 0]);
        let ttl = control(level::IP, name4::TTL, &[9, 0, 0, 0]);
        let wishes = Wishes::read(&[info, ttl]).unwrap();
        assert_eq!(wishes.source, Some("10.0.0.1".parse().unwrap()));
        assert_eq!((wishes.interface, wishes.hop_limit), (Some(2), Some(9)));
    }

    #[test]
    fn malformed_wishes_are_refused() {
        for wrong in [
            control(level::IP, name4::PKTINFO, &[0; 11]),
            control(level::IP, name4::TTL, &[0; 4]),
            control(level::IP, name4::TOS, &[]),
            control(level::IPV6, name6::PKTINFO, &[0; 19]),
            control(level::IPV6, name6::HOPLIMIT, &[0, 1, 0, 0]),
            control(level::UDP, UDP_SEGMENT, &[1]),
            control(level::TCP, 1, &[0; 4]),
        ] {
            assert_eq!(Wishes::read(&[wrong]), Err(Errno::EINVAL));
        }
    }
}
