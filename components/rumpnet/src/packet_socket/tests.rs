//! Packet sockets on the loopback.

use std::{vec, vec::Vec};

use super::*;
use crate::{interface::testing::eventually, socket::PacketAddress, udp::UdpSocket};

const NOW: MessageFlags = MessageFlags::DONT_WAIT;

fn receive(socket: &PacketSocket) -> Result<(Vec<u8>, PacketAddress)> {
    let mut buffer = vec![0; 2000];
    let mut sink = Sink::kernel(&mut buffer);
    let received = socket.receive(&mut sink, NOW)?;
    buffer.truncate(received.length);
    let Some(Address::Packet(source)) = received.source else { panic!("no address") };
    Ok((buffer, source))
}

/// Sends a datagram to a port where nobody is, and returns the port.
fn make_noise(mark: &[u8]) -> u16 {
    let sender = UdpSocket::new(Domain::Inet, Credentials::default());
    sender.bind(Address::Internet("127.0.0.1:0".parse().unwrap())).unwrap();
    let Address::Internet(own) = sender.name() else { panic!("no name") };
    let to = Address::Internet(own);
    sender.send(&mut Source::kernel(mark), Some(&to), Ancillary::default(), NOW).unwrap();
    own.port()
}

/// A filter for UDP over IPv4 from a port, as tcpdump makes it for an Ethernet header.
fn from_port(port: u16, length: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (code, when_true, when_false, value) in [
        (0x28u16, 0u8, 0u8, 12u32),
        (0x15, 0, 3, 0x800),
        (0x28, 0, 0, 34),
        (0x15, 0, 1, u32::from(port)),
        (0x06, 0, 0, length),
        (0x06, 0, 0, 0),
    ] {
        bytes.extend_from_slice(&code.to_ne_bytes());
        bytes.extend_from_slice(&[when_true, when_false]);
        bytes.extend_from_slice(&value.to_ne_bytes());
    }
    bytes
}

#[test]
fn packets_are_seen_going_and_coming_and_filtered() {
    crate::configuration::start();
    let socket = PacketSocket::new(Style::Raw, i32::from(ALL.to_be()), Credentials::default());
    let lo = PacketAddress { protocol: ALL, interface: 1, ..PacketAddress::default() };
    socket.bind(Address::Packet(lo)).unwrap();
    let port = make_noise(b"noise");
    let mut mine = core::iter::from_fn(|| Some(eventually(|| receive(&socket).ok())))
        .filter(|(bytes, _)| bytes.len() > 36 && bytes[34..36] == port.to_be_bytes());
    let seen: Vec<_> = mine.by_ref().take(2).collect();
    assert_eq!(seen.iter().map(|(_, address)| address.direction).collect::<Vec<_>>(), [4, 0]);
    assert!(seen.iter().all(|(bytes, address)| bytes.ends_with(b"noise") && address.hardware_type == 772));
    assert_eq!(socket.set_option(level::SOCKET, name::DETACH_FILTER, &[0; 4]), Err(Errno::ENOENT));
    socket.set_option(level::SOCKET, name::ATTACH_FILTER, &from_port(1, 0)).unwrap();
    // Other tests use the loopback, too: what came before the filter.
    while receive(&socket).is_ok() {}
    make_noise(b"not wanted");
    assert_eq!(receive(&socket).err(), Some(Errno::EAGAIN));
    socket.close();
    make_noise(b"nor seen");
    assert_eq!(receive(&socket).err(), Some(Errno::EAGAIN));
}

#[test]
fn a_ring_is_filled_in_memory() {
    crate::configuration::start();
    let socket = PacketSocket::new(Style::Raw, i32::from(ALL.to_be()), Credentials::default());
    let request = |words: [u32; 4]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    for wrong in [[4096, 1, 100, 40], [4097, 1, 2048, 2], [4096, 1, 2048, 3], [4096, u32::MAX, 2048, 2]] {
        assert_eq!(socket.set_option(level::PACKET, 5, &request(wrong)), Err(Errno::EINVAL), "{wrong:?}");
    }
    assert!(socket.pager().is_err());
    socket.set_option(level::PACKET, 5, &request([8192, 2, 4096, 4])).unwrap();
    let pager = socket.pager().unwrap();
    assert!(pager.page(4, false).is_err());
    make_noise(b"to the ring");
    eventually(|| socket.poll().contains(Events::IN).then_some(()));
    let frame = pager.page(0, false).unwrap();
    let mut header = [0; 68];
    frame.read(0, &mut header);
    let half = |at: usize| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
    assert_eq!((header[0], half(12), half(14)), (1, 66, 80));
    rumpuser::rumpuser_frame_release(frame);
    for _ in 0..10 {
        make_noise(b"more than fits");
    }
    let statistics = socket.option(level::PACKET, 6).unwrap();
    assert!(word(statistics.as_bytes(), 4).unwrap() > 0, "{statistics:?}");
    socket.close();
}
