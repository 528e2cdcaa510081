//! Raw and ping sockets over the loopback.

use std::{vec, vec::Vec};

use super::*;
use crate::interface::testing::eventually;

const NOW: MessageFlags = MessageFlags::DONT_WAIT;

fn send(socket: &RawSocket, data: &[u8], to: &str) -> Result<usize> {
    let to = Address::Internet(SocketAddr::new(to.parse().unwrap(), 0));
    socket.send(&mut Source::kernel(data), Some(&to), Ancillary::default(), NOW)
}

fn receive(socket: &RawSocket) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 2000];
    let mut sink = Sink::kernel(&mut buffer);
    let length = socket.receive(&mut sink, NOW)?.length;
    buffer.truncate(length);
    Ok(buffer)
}

#[test]
fn an_echo_request_is_answered() {
    crate::configuration::start();
    let me = Credentials::default();
    for (domain, protocol, to, kind, reply) in
        [(Domain::Inet, 1, "127.0.0.1", 8, 0), (Domain::Inet6, 58, "::1", 128, 129)]
    {
        let socket = RawSocket::new_ping(domain, protocol, me).unwrap();
        let request = [kind, 0, 0, 0, 0, 0, 0, 7, b'h', b'i'];
        assert_eq!(send(&socket, &request, to), Ok(10));
        let answer = eventually(|| receive(&socket).ok());
        assert_eq!((answer[0], answer[7], &answer[8..]), (reply, 7, &b"hi"[..]));
        assert_eq!(answer[4..6], socket.core.names().local.port().to_be_bytes());
        assert_eq!(send(&socket, &[13, 0, 0, 0, 0, 0, 0, 0], to), Err(Errno::EINVAL));
        assert_eq!(send(&socket, &[kind], to), Err(Errno::EINVAL));
        socket.close();
    }
    assert_eq!(RawSocket::new_ping(Domain::Inet, 58, me).err(), Some(Errno::EPROTONOSUPPORT));
}

#[test]
fn raw_sockets_see_headers_and_filter_types() {
    crate::configuration::start();
    let socket = RawSocket::new(Domain::Inet, 253, Credentials::default()).unwrap();
    assert_eq!(send(&socket, b"payload", "127.0.0.1"), Ok(7));
    let packet = eventually(|| receive(&socket).ok());
    assert_eq!((packet[0], packet[9], &packet[20..]), (0x45, 253, &b"payload"[..]));
    let mut whole = packet.clone();
    whole[12..16].fill(0);
    socket.set_option(level::IP, 3, &[1, 0, 0, 0]).unwrap();
    assert_eq!(send(&socket, &whole, "127.0.0.1"), Ok(whole.len()));
    assert_eq!(eventually(|| receive(&socket).ok())[12..], packet[12..]);
    assert_eq!(send(&socket, &[0x41; 30], "127.0.0.1"), Err(Errno::EINVAL));
    socket.close();

    let icmp = RawSocket::new(Domain::Inet, 1, Credentials::default()).unwrap();
    // All but echo replies.
    icmp.set_option(level::RAW, FILTER, &(!1u32).to_ne_bytes()).unwrap();
    let mut request = [8, 0, 0, 0, 0x12, 0x34, 0, 1];
    let mut sum = crate::checksum::Sum::new();
    sum.add(&request);
    let sum = sum.finish();
    request[2..4].copy_from_slice(&sum.to_be_bytes());
    send(&icmp, &request, "127.0.0.1").unwrap();
    loop {
        let answer = eventually(|| receive(&icmp).ok());
        assert_eq!(answer[20], 0);
        if answer[24..26] == [0x12, 0x34] {
            break;
        }
    }
    icmp.close();
}
