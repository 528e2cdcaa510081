//! UDP sockets over the loopback.

use std::{thread, time::Duration, vec, vec::Vec};

use super::*;
use crate::{inet::canonical, socket::Control};

/// Whether two addresses are the same, one of them as a program sees it.
fn same(one: SocketAddr, other: SocketAddr) -> bool {
    canonical(one) == canonical(other)
}

fn socket(domain: Domain) -> Arc<UdpSocket> {
    crate::configuration::start();
    UdpSocket::new(domain, Credentials::default())
}

fn at(text: &str) -> Address {
    Address::Internet(text.parse().unwrap())
}

fn bound(domain: Domain, text: &str) -> (Arc<UdpSocket>, SocketAddr) {
    let socket = socket(domain);
    socket.bind(at(text)).unwrap();
    let local = socket.core.names().local;
    (socket, local)
}

fn send(socket: &UdpSocket, data: &[u8], to: Option<SocketAddr>) -> Result<usize> {
    let to = to.map(Address::Internet);
    crate::icmp::refill();
    socket.send(&mut Source::kernel(data), to.as_ref(), Ancillary::default(), MessageFlags::default())
}

fn receive(socket: &UdpSocket, flags: MessageFlags) -> Result<(Vec<u8>, SocketAddr, Received)> {
    let mut buffer = vec![0; 70_000];
    let mut sink = Sink::kernel(&mut buffer);
    let mut received = socket.receive(&mut sink, flags)?;
    let length = sink.transferred();
    buffer.truncate(length);
    let Some(Address::Internet(source)) = received.source.take() else { panic!("no source") };
    Ok((buffer, source, received))
}

fn option(socket: &UdpSocket, level: i32, name: i32, value: i32) {
    socket.set_option(level, name, &value.to_ne_bytes()).unwrap();
}

const NOW: MessageFlags = MessageFlags::DONT_WAIT;

#[test]
fn datagrams_of_all_sizes_arrive() {
    for (domain, address) in [(Domain::Inet, "127.0.0.1:0"), (Domain::Inet6, "[::1]:0")] {
        let (one, one_at) = bound(domain, address);
        let (other, other_at) = bound(domain, address);
        for size in [0, 1, 100, 4096, 9000, 65_000] {
            let data: Vec<u8> = (0..size).map(|index| index as u8).collect();
            assert_eq!(send(&one, &data, Some(other_at)), Ok(size));
            let (received, source, _) = receive(&other, NOW).unwrap();
            assert!(received == data && same(source, one_at));
        }
        assert_eq!(send(&one, &vec![0; 65_536], Some(other_at)), Err(Errno::EMSGSIZE));
        assert_eq!(receive(&other, NOW).err(), Some(Errno::EAGAIN));
    }
}

#[test]
fn what_is_sent_to_this_machine_has_arrived_when_send_returns() {
    let threads: Vec<_> = (0..4_u32)
        .map(|number| {
            thread::spawn(move || {
                let (own, own_at) = bound(Domain::Inet, "127.0.0.1:0");
                let to = Address::Internet(own_at);
                for round in 0..5000_u32 {
                    let data = [number.to_ne_bytes(), round.to_ne_bytes()].concat();
                    let mut source = Source::kernel(&data);
                    let sent =
                        own.send(&mut source, Some(&to), Ancillary::default(), MessageFlags::default());
                    assert_eq!(sent, Ok(8));
                    assert!(own.poll().contains(Events::IN), "round {round}");
                    let mut buffer = [0; 16];
                    let received = own.receive(&mut Sink::kernel(&mut buffer), NOW);
                    assert_eq!(received.map(|received| received.length), Ok(8));
                    assert_eq!(buffer[..8], data);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn an_ipv6_socket_hears_ipv4_unless_it_says_no() {
    let (both, both_at) = bound(Domain::Inet6, "[::]:0");
    let four = socket(Domain::Inet);
    let to = SocketAddr::new("127.0.0.1".parse().unwrap(), both_at.port());
    send(&four, b"four", Some(to)).unwrap();
    let (data, source, _) = receive(&both, NOW).unwrap();
    assert_eq!(data, b"four");
    assert!(source.is_ipv6() && canonical(source).is_ipv4());
    assert_eq!(send(&both, b"back", Some(source)), Ok(4));
    assert_eq!(receive(&four, NOW).unwrap().0, b"back");
    both.close();

    let only = socket(Domain::Inet6);
    option(&only, level::IPV6, 26, 1);
    only.bind(at("[::]:0")).unwrap();
    assert_eq!(only.set_option(level::IPV6, 26, &[0; 4]), Err(Errno::EINVAL));
    let port = only.core.names().local.port();
    send(&four, b"lost", Some(SocketAddr::new("127.0.0.1".parse().unwrap(), port))).unwrap();
    assert_eq!(receive(&only, NOW).err(), Some(Errno::EAGAIN));
}

#[test]
fn a_connected_socket_hears_its_peer_only_and_of_its_absence() {
    let (server, server_at) = bound(Domain::Inet, "127.0.0.1:0");
    let client = socket(Domain::Inet);
    client.connect(&Address::Internet(server_at), false, Credentials::default()).unwrap();
    let client_at = client.core.names().local;
    assert_eq!(client_at.ip(), server_at.ip());
    let stranger = socket(Domain::Inet);
    send(&stranger, b"no", Some(client_at)).unwrap();
    send(&server, b"yes", Some(client_at)).unwrap();
    assert_eq!(receive(&client, NOW).unwrap().0, b"yes");
    assert_eq!(receive(&client, NOW).err(), Some(Errno::EAGAIN));
    server.close();
    send(&client, b"anybody?", None).unwrap();
    assert!(client.poll().contains(Events::ERR));
    assert_eq!(receive(&client, NOW).err(), Some(Errno::ECONNREFUSED));
    client.connect(&Address::Unnamed, false, Credentials::default()).unwrap();
    assert!(client.core.names().local.ip().is_unspecified());
    assert_eq!(client.core.names().local.port(), 0);
    assert_eq!(send(&client, b"whom?", None), Err(Errno::EDESTADDRREQ));
}

#[test]
fn errors_wait_in_their_queue_if_asked_for() {
    let nobody = "127.0.0.1:7114".parse().unwrap();
    let client = socket(Domain::Inet);
    option(&client, level::IP, 11, 1);
    send(&client, b"hello", Some(nobody)).unwrap();
    let (data, about, received) = receive(&client, MessageFlags::ERROR_QUEUE).unwrap();
    assert_eq!((data.as_slice(), about), (&b"hello"[..], nobody));
    let control = &received.ancillary.controls[0];
    assert_eq!((control.level, control.kind, control.data[0], control.data[4]), (0, 11, 111, 2));
    assert_eq!(client.core.base.take_error(), Ok(()));
}

#[test]
fn ancillary_data_comes_as_asked_for() {
    let (server, server_at) = bound(Domain::Inet, "127.0.0.1:0");
    for name in [8, 12, 13] {
        option(&server, level::IP, name, 1);
    }
    option(&server, level::SOCKET, base::name::TIMESTAMP, 1);
    let client = socket(Domain::Inet);
    option(&client, level::IP, 2, 7);
    let tos = Control { level: level::IP, kind: 1, data: [0x10].as_slice().into() };
    let ancillary = Ancillary { controls: [tos].into(), ..Ancillary::default() };
    let to = Address::Internet(server_at);
    client.send(&mut Source::kernel(b"x"), Some(&to), ancillary, NOW).unwrap();
    let (_, _, received) = receive(&server, NOW).unwrap();
    let find = |level, kind| {
        let mut controls = received.ancillary.controls.iter();
        controls.find(|control| (control.level, control.kind) == (level, kind)).unwrap().data.clone()
    };
    assert_eq!(find(level::IP, 2).as_slice(), [7, 0, 0, 0]);
    assert_eq!(find(level::IP, 1).as_slice(), [0x10]);
    assert_eq!(find(level::IP, 8).as_slice(), [1, 0, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1]);
    assert_ne!(find(level::SOCKET, base::name::TIMESTAMP)[..8], [0; 8]);
}

#[test]
fn ports_are_shared_by_those_who_agree() {
    let (one, at_one) = bound(Domain::Inet, "127.0.0.1:0");
    let other = socket(Domain::Inet);
    assert_eq!(other.bind(Address::Internet(at_one)).err(), Some(Errno::EADDRINUSE));
    one.close();
    let group: Vec<_> = (0..2)
        .map(|_| {
            let member = socket(Domain::Inet);
            option(&member, level::SOCKET, base::name::REUSEPORT, 1);
            member.bind(Address::Internet(at_one)).unwrap();
            member
        })
        .collect();
    for _ in 0..64 {
        send(&socket(Domain::Inet), b"x", Some(at_one)).unwrap();
    }
    let counts: Vec<_> =
        group.iter().map(|member| core::iter::from_fn(|| receive(member, NOW).ok()).count()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 64);
    assert!(counts.iter().all(|&count| count > 5), "{counts:?}");
}

#[test]
fn a_corked_datagram_grows_and_a_segmented_one_is_cut() {
    let (server, server_at) = bound(Domain::Inet, "127.0.0.1:0");
    let client = socket(Domain::Inet);
    client.connect(&Address::Internet(server_at), false, Credentials::default()).unwrap();
    let more = |data: &[u8]| {
        client.send(&mut Source::kernel(data), None, Ancillary::default(), MessageFlags::MORE).unwrap();
    };
    more(b"one ");
    more(b"two ");
    assert_eq!(receive(&server, NOW).err(), Some(Errno::EAGAIN));
    send(&client, b"three", None).unwrap();
    assert_eq!(receive(&server, NOW).unwrap().0, b"one two three");
    option(&client, level::UDP, UDP_SEGMENT, 3);
    send(&client, b"abcdefgh", None).unwrap();
    let pieces: Vec<_> = core::iter::from_fn(|| receive(&server, NOW).ok()).map(|piece| piece.0).collect();
    assert_eq!(pieces, [&b"abc"[..], b"def", b"gh"]);
}

#[test]
fn a_full_buffer_drops() {
    let (server, server_at) = bound(Domain::Inet, "127.0.0.1:0");
    option(&server, level::SOCKET, base::name::RCVBUF, 2000);
    let client = socket(Domain::Inet);
    for _ in 0..20 {
        send(&client, &[0; 500], Some(server_at)).unwrap();
    }
    let count = core::iter::from_fn(|| receive(&server, NOW).ok()).count();
    assert!((1..20).contains(&count), "{count}");
}

#[test]
fn a_receiver_sleeps_until_something_comes() {
    let (server, server_at) = bound(Domain::Inet, "127.0.0.1:0");
    let waiting = thread::spawn(move || receive(&server, MessageFlags::default()).map(|found| found.0));
    thread::sleep(Duration::from_millis(5));
    send(&socket(Domain::Inet), b"wake up", Some(server_at)).unwrap();
    assert_eq!(waiting.join().unwrap(), Ok(b"wake up".to_vec()));
}

#[test]
fn groups_reach_all_members() {
    let group: SocketAddr = "239.1.2.3:0".parse().unwrap();
    let members: Vec<_> = (0..2)
        .map(|_| {
            let member = socket(Domain::Inet);
            option(&member, level::SOCKET, base::name::REUSEADDR, 1);
            member.bind(at("0.0.0.0:7113")).unwrap();
            // struct ip_mreqn: the group, any address, the loopback.
            let mut request = [0; 12];
            request[..4].copy_from_slice(&[239, 1, 2, 3]);
            request[8] = 1;
            member.set_option(level::IP, 35, &request).unwrap();
            assert_eq!(member.set_option(level::IP, 35, &request), Err(Errno::EADDRINUSE));
            member
        })
        .collect();
    let client = socket(Domain::Inet);
    client.set_option(level::IP, 32, &[0, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0]).unwrap();
    send(&client, b"all", Some(SocketAddr::new(group.ip(), 7113))).unwrap();
    for member in &members {
        assert_eq!(receive(member, NOW).unwrap().0, b"all");
        member.close();
    }
}

#[test]
fn connected_sockets_that_share_a_port_hear_their_own_peers() {
    const PEERS: usize = 50;
    const REUSE_ADDRESS: i32 = 2;
    let open = |local: &str| {
        let socket = socket(Domain::Inet);
        option(&socket, level::SOCKET, REUSE_ADDRESS, 1);
        socket.bind(at(local)).unwrap();
        socket
    };
    let server = open("127.0.0.1:0");
    let shared = server.core.names().local;
    let pairs: Vec<_> = (0..PEERS)
        .map(|_| {
            let (peer, peer_at) = bound(Domain::Inet, "127.0.0.1:0");
            let ours = open(&std::format!("{shared}"));
            ours.connect(&Address::Internet(peer_at), false, Credentials::default()).unwrap();
            (peer, ours)
        })
        .collect();
    assert!(table::count() >= 2 * PEERS);
    for (index, (peer, _)) in pairs.iter().enumerate() {
        send(peer, &[index as u8], Some(shared)).unwrap();
    }
    for (index, (_, ours)) in pairs.iter().enumerate() {
        assert_eq!(receive(ours, NOW).unwrap().0, [index as u8]);
        assert_eq!(receive(ours, NOW).err(), Some(Errno::EAGAIN));
    }
    let (stranger, _) = bound(Domain::Inet, "127.0.0.1:0");
    // One that is not connected any more shares with the first, and the last to come has what is for nobody else.
    let (peer, ours) = &pairs[0];
    ours.connect(&Address::Unnamed, false, Credentials::default()).unwrap();
    for sender in [&stranger, peer] {
        send(sender, b"all", Some(shared)).unwrap();
        assert_eq!(receive(ours, NOW).unwrap().0, b"all");
    }
    pairs.iter().for_each(|(_, ours)| ours.close());
    send(&stranger, b"first", Some(shared)).unwrap();
    assert_eq!(receive(&server, NOW).unwrap().0, b"first");
    server.close();
    send(&stranger, b"nobody", Some(shared)).unwrap();
    assert_eq!(table::find(&table::Flow { local: shared, remote: shared, interface: 1 }).map(|_| ()), None);
}

#[test]
fn datagrams_that_belong_together_are_joined_on_request() {
    let (one, _) = bound(Domain::Inet, "127.0.0.1:0");
    let (other, other_at) = bound(Domain::Inet, "127.0.0.1:0");
    option(&other, level::UDP, UDP_GRO, 1);
    assert_eq!(other.option(level::UDP, UDP_GRO), Ok(Value::int(1)));
    option(&one, level::UDP, UDP_SEGMENT, 100);
    assert_eq!(send(&one, &[7; 450], Some(other_at)), Ok(450));
    let (data, _, received) = receive(&other, NOW).unwrap();
    assert_eq!(data, vec![7; 450]);
    let control = &received.ancillary.controls[0];
    assert_eq!((control.level, control.kind, &control.data[..]), (level::UDP, UDP_GRO, &[100, 0, 0, 0][..]));
    option(&other, level::UDP, UDP_GRO, 0);
    assert_eq!(send(&one, &[7; 450], Some(other_at)), Ok(450));
    assert_eq!(receive(&other, NOW).unwrap().0.len(), 100);
}
