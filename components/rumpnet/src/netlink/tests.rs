//! Questions as `ip` and `ss` ask them.

use std::{vec, vec::Vec};

use super::{
    message::{attributes, find, find_address, find_name, messages},
    *,
};

fn socket(protocol: i32) -> Arc<NetlinkSocket> {
    crate::configuration::start();
    NetlinkSocket::new(Style::Raw, protocol, Credentials::default()).unwrap()
}

fn ask(socket: &NetlinkSocket, kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut builder = Builder::default();
    builder.begin(kind, flags | flag::REQUEST, (0, 5), payload);
    builder.end();
    let request = builder.take();
    let no_wait = MessageFlags::DONT_WAIT;
    socket.send(&mut Source::kernel(&request), None, Ancillary::default(), no_wait).unwrap();
    let mut all = Vec::new();
    loop {
        let mut buffer = vec![0; 32 << 10];
        let mut sink = Sink::kernel(&mut buffer);
        match socket.receive(&mut sink, no_wait) {
            Ok(received) => all.extend_from_slice(&buffer[..received.length]),
            Err(error) => {
                assert_eq!(error, Errno::EAGAIN);
                return all;
            }
        }
    }
}

#[test]
fn the_loopback_is_listed_and_found_by_name() {
    let socket = socket(ROUTE);
    let dump = ask(&socket, route::kind::GETLINK, flag::DUMP, &[0; 16]);
    let all: Vec<_> = messages(&dump).collect();
    let first = all.first().unwrap();
    assert_eq!((first.kind, first.flags, first.sequence), (route::kind::NEWLINK, flag::MULTI, 5));
    assert_eq!(find_name(&first.payload[16..], 3), Some("lo"));
    assert_eq!(find(&first.payload[16..], 23).unwrap().len(), 24 * 8);
    assert_eq!(all.last().unwrap().kind, message::DONE);
    // Of each message the port is the asker's.
    let Address::Netlink { port, .. } = socket.name() else { panic!() };
    assert!(port != 0 && all.iter().all(|message| message.port == port));

    let mut by_name = vec![0; 16];
    by_name.extend_from_slice(&[7, 0, 3, 0, b'l', b'o', 0, 0]);
    let answer = ask(&socket, route::kind::GETLINK, 0, &by_name);
    assert_eq!(messages(&answer).count(), 1);
    by_name[20] = b'x';
    let answer = ask(&socket, route::kind::GETLINK, 0, &by_name);
    let error = messages(&answer).next().unwrap();
    assert_eq!((error.kind, &error.payload[..4]), (message::ERROR, &(-19i32).to_ne_bytes()[..]));
}

#[test]
fn addresses_are_listed_by_family() {
    let socket = socket(ROUTE);
    // As glibc asks: struct rtgenmsg alone.
    for (family, wanted) in [(2u8, "127.0.0.1"), (10, "::1")] {
        let dump = ask(&socket, route::kind::GETADDR, flag::DUMP, &[family]);
        let mut found = messages(&dump).filter(|message| message.kind == route::kind::NEWADDR);
        assert!(found.all(|message| message.payload[0] == family));
        let mut found = messages(&dump).filter(|message| message.kind == route::kind::NEWADDR);
        assert!(
            found.any(|message| {
                find_address(&message.payload[8..], 1) == Ok(Some(wanted.parse().unwrap()))
            })
        );
    }
}

#[test]
fn the_way_to_an_own_address_is_local() {
    let socket = socket(ROUTE);
    let mut request = vec![2, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    request.extend_from_slice(&[8, 0, 1, 0, 127, 0, 0, 1]);
    let answer = ask(&socket, route::kind::GETROUTE, 0, &request);
    let message = messages(&answer).next().unwrap();
    assert_eq!((message.kind, message.payload[7]), (route::kind::NEWROUTE, 2));
    assert_eq!(attributes(&message.payload[12..]).find(|&(kind, _)| kind == 4).unwrap().1, [1, 0, 0, 0]);
}

#[test]
fn what_is_unknown_or_forbidden_is_refused() {
    let root = socket(ROUTE);
    let code = |answer: &[u8]| {
        let message = messages(answer).next().unwrap();
        assert_eq!(message.kind, message::ERROR);
        -i32::from_ne_bytes(message.payload[..4].try_into().unwrap())
    };
    assert_eq!(code(&ask(&root, 998, 0, &[0; 16])), Errno::EOPNOTSUPP.code());
    let user = Credentials { uid: 1000, ..Credentials::default() };
    let other = NetlinkSocket::new(Style::Raw, ROUTE, user).unwrap();
    assert_eq!(code(&ask(&other, route::kind::NEWADDR, 0, &[0; 8])), Errno::EPERM.code());
    assert_eq!(code(&ask(&root, route::kind::NEWADDR, 0, &[2, 24, 0, 0, 1, 0, 0, 0])), Errno::EINVAL.code());
    assert_eq!(code(&ask(&root, route::kind::GETADDR, flag::ACK, &[])), Errno::EINVAL.code());
    assert_eq!(NetlinkSocket::new(Style::Raw, 9, user).err(), Some(Errno::EPROTONOSUPPORT));
}

#[test]
fn udp_sockets_are_listed() {
    let socket = socket(SOCK_DIAG);
    let server = crate::udp::UdpSocket::new(Domain::Inet, Credentials::default());
    server.bind(Address::Internet("127.0.0.1:0".parse().unwrap())).unwrap();
    let Address::Internet(local) = server.name() else { panic!() };
    let mut request = vec![0; 56];
    (request[0], request[1]) = (2, 17);
    request[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    let dump = ask(&socket, 20, flag::DUMP, &request);
    assert!(messages(&dump).any(|message| {
        message.kind == 20 && message.payload[4..6] == local.port().to_be_bytes() && message.payload[1] == 7
    }));
}

#[test]
fn unix_sockets_are_listed() {
    let socket = socket(SOCK_DIAG);
    let listener = crate::unix::UnixSocket::new(Style::Stream, Credentials::default());
    listener.bind(Address::Abstract(b"listed".to_vec())).unwrap();
    listener.listen(9, Credentials::default()).unwrap();
    let client = crate::unix::UnixSocket::new(Style::Stream, Credentials::default());
    client.connect(&listener.name(), true, Credentials::default()).unwrap();
    let mut request = vec![1, 0, 0, 0];
    // Listening ones; names and queues.
    request.extend_from_slice(&(1u32 << 10).to_ne_bytes());
    request.extend_from_slice(&[0; 4]);
    request.extend_from_slice(&(1u32 | 16).to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    let dump = ask(&socket, 20, flag::DUMP, &request);
    let named = |message: &Message<'_>| find(&message.payload[16..], 0) == Some(b"\0listed");
    let found = messages(&dump).filter(|message| message.kind == 20).find(named).unwrap();
    assert_eq!(found.payload[..3], [1, 1, 10]);
    assert_eq!(find(&found.payload[16..], 4).unwrap(), [1, 0, 0, 0, 9, 0, 0, 0]);
    // By the inode, its peer.
    let inode = client.attributes().unwrap().inode as u32;
    request[8..12].copy_from_slice(&inode.to_ne_bytes());
    request[12..16].copy_from_slice(&4u32.to_ne_bytes());
    let answer = ask(&socket, 20, 0, &request);
    let found = messages(&answer).next().unwrap();
    assert_eq!((found.kind, found.payload[2]), (20, 1));
    assert!(find(&found.payload[16..], 2).is_some());
    request[8..12].copy_from_slice(&[0; 4]);
    assert_eq!(messages(&ask(&socket, 20, 0, &request)).next().unwrap().kind, message::ERROR);
}
