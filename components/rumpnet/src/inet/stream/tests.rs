//! Stream sockets over the loopback.

use std::{string::ToString, thread, time::Duration, vec, vec::Vec};

use super::*;
use crate::{
    base::name,
    interface::testing::eventually,
    option::level,
    socket::{Credentials, MessageFlags},
};

const NOW: MessageFlags = MessageFlags::DONT_WAIT;
const WAIT: MessageFlags = MessageFlags::empty();

fn socket(domain: Domain) -> Arc<StreamSocket> {
    crate::configuration::start();
    StreamSocket::new(domain, Credentials::default())
}

fn at(text: &str) -> Address {
    Address::Internet(text.parse().unwrap())
}

fn listener(domain: Domain, text: &str) -> (Arc<StreamSocket>, SocketAddr) {
    let socket = socket(domain);
    socket.bind(at(text)).unwrap();
    socket.listen(16, Credentials::default()).unwrap();
    let Address::Internet(local) = socket.name() else { panic!("no name") };
    (socket, local)
}

fn connect(socket: &StreamSocket, to: SocketAddr, no_wait: bool) -> Result<()> {
    socket.connect(&Address::Internet(to), no_wait, Credentials::default())
}

fn pair() -> (Arc<StreamSocket>, Arc<dyn Socket>) {
    let (server, local) = listener(Domain::Inet, "127.0.0.1:0");
    let client = socket(Domain::Inet);
    connect(&client, local, false).unwrap();
    let accepted = server.accept(false).unwrap();
    (client, accepted)
}

fn send(socket: &dyn Socket, data: &[u8], flags: MessageFlags) -> Result<usize> {
    socket.send(&mut Source::kernel(data), None, Ancillary::default(), flags)
}

fn receive(socket: &dyn Socket, size: usize, flags: MessageFlags) -> Result<Vec<u8>> {
    let mut buffer = vec![0; size];
    let mut sink = Sink::kernel(&mut buffer);
    let length = socket.receive(&mut sink, flags)?.length;
    buffer.truncate(length);
    Ok(buffer)
}

fn option(socket: &dyn Socket, level: i32, name: i32, value: i32) {
    socket.set_option(level, name, &value.to_ne_bytes()).unwrap();
}

fn error_of(socket: &dyn Socket) -> i32 {
    crate::option::int(socket.option(level::SOCKET, name::ERROR).unwrap().as_bytes()).unwrap()
}

#[test]
fn a_conversation_and_its_end() {
    let (client, server) = pair();
    assert_eq!(send(&*client, b"hello", WAIT), Ok(5));
    assert_eq!(receive(&*server, 100, MessageFlags::PEEK), Ok(b"hello".to_vec()));
    assert_eq!(receive(&*server, 2, WAIT), Ok(b"he".to_vec()));
    assert_eq!(server.available(), 3);
    assert_eq!(receive(&*server, 100, WAIT), Ok(b"llo".to_vec()));
    assert_eq!(receive(&*server, 100, NOW), Err(Errno::EAGAIN));
    client.shutdown(false, true).unwrap();
    eventually(|| server.poll().contains(Events::IN | Events::RDHUP).then_some(()));
    assert!(!server.poll().contains(Events::HUP));
    assert_eq!(receive(&*server, 100, WAIT), Ok(vec![]));
    assert_eq!(send(&*client, b"x", WAIT), Err(Errno::EPIPE));
    assert_eq!(send(&*server, b"bye", WAIT), Ok(3));
    server.close();
    assert_eq!(receive(&*client, 100, WAIT), Ok(b"bye".to_vec()));
    assert_eq!(receive(&*client, 100, WAIT), Ok(vec![]));
    eventually(|| client.poll().contains(Events::HUP).then_some(()));
}

#[test]
fn over_the_loopback_nothing_is_on_its_way_when_a_call_returns() {
    let threads: Vec<_> = (0..4)
        .map(|number| {
            thread::spawn(move || {
                for round in 0..500 {
                    let (server, local) = listener(Domain::Inet, "127.0.0.1:0");
                    let client = socket(Domain::Inet);
                    let no_wait = (number + round) % 2 == 0;
                    let expected = if no_wait { Err(Errno::EINPROGRESS) } else { Ok(()) };
                    assert_eq!(connect(&client, local, no_wait), expected);
                    assert!(client.poll().contains(Events::OUT) && server.poll().contains(Events::IN));
                    let accepted = server.accept(true).unwrap();
                    assert_eq!(send(&*client, b"question", WAIT), Ok(8));
                    assert!(accepted.poll().contains(Events::IN));
                    assert_eq!(receive(&*accepted, 100, NOW), Ok(b"question".to_vec()));
                    assert_eq!(send(&*accepted, b"answer", WAIT), Ok(6));
                    assert_eq!(receive(&*client, 100, NOW), Ok(b"answer".to_vec()));
                    client.shutdown(false, true).unwrap();
                    assert!(accepted.poll().contains(Events::IN | Events::RDHUP));
                    server.close();
                    let refused = socket(Domain::Inet);
                    assert_eq!(connect(&refused, local, true), Err(Errno::EINPROGRESS));
                    assert_eq!(error_of(&*refused), Errno::ECONNREFUSED.code());
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn large_transfers_wait_for_each_other() {
    let (client, server) = pair();
    let data: Vec<u8> = (0..3_000_000u32).map(|index| (index / 7) as u8).collect();
    let copy = data.clone();
    let writer = thread::spawn(move || {
        assert_eq!(send(&*client, &copy, WAIT), Ok(copy.len()));
        client.close();
    });
    let mut received = Vec::new();
    loop {
        let piece = receive(&*server, 70_000, WAIT).unwrap();
        if piece.is_empty() {
            break;
        }
        received.extend(piece);
    }
    writer.join().unwrap();
    assert!(received == data);
}

#[test]
fn a_non_blocking_connect_is_told_apart_from_a_refused_one() {
    let (server, local) = listener(Domain::Inet, "127.0.0.1:0");
    let client = socket(Domain::Inet);
    assert!(client.poll().contains(Events::OUT | Events::HUP));
    assert_eq!(connect(&client, local, true), Err(Errno::EINPROGRESS));
    let _accepted = server.accept(false).unwrap();
    assert!(client.poll().contains(Events::OUT));
    assert_eq!(error_of(&*client), 0);
    assert_eq!(connect(&client, local, true), Ok(()));
    assert_eq!(connect(&client, local, true), Err(Errno::EISCONN));

    server.close();
    let refused = socket(Domain::Inet);
    assert_eq!(connect(&refused, local, true), Err(Errno::EINPROGRESS));
    let all = Events::ERR | Events::HUP | Events::OUT | Events::IN;
    eventually(|| refused.poll().contains(all).then_some(()));
    assert_eq!(error_of(&*refused), Errno::ECONNREFUSED.code());
    assert_eq!(error_of(&*refused), 0);
    let blocking = socket(Domain::Inet);
    assert_eq!(connect(&blocking, local, false), Err(Errno::ECONNREFUSED));
    // The socket can be used again.
    let (server, local) = listener(Domain::Inet, "127.0.0.1:0");
    assert_eq!(connect(&blocking, local, false), Ok(()));
    server.accept(false).unwrap();
}

#[test]
fn an_ipv6_listener_takes_ipv4() {
    let (server, local) = listener(Domain::Inet6, "[::]:0");
    let client = socket(Domain::Inet);
    connect(&client, SocketAddr::new("127.0.0.1".parse().unwrap(), local.port()), false).unwrap();
    let accepted = server.accept(false).unwrap();
    let Ok(Address::Internet(peer)) = accepted.peer_name() else { panic!("no peer") };
    assert!(peer.ip().to_string().starts_with("::ffff:127.0.0.1"), "{peer}");
    let Address::Internet(own) = accepted.name() else { panic!("no name") };
    assert_eq!(own.port(), local.port());
}

#[test]
fn options_are_inherited_and_bounded() {
    let (server, local) = listener(Domain::Inet, "127.0.0.1:0");
    option(&*server, level::TCP, 1, 1);
    option(&*server, level::SOCKET, name::KEEPALIVE, 1);
    let client = socket(Domain::Inet);
    connect(&client, local, false).unwrap();
    let accepted = server.accept(false).unwrap();
    assert_eq!(accepted.option(level::TCP, 1), Ok(Value::int(1)));
    assert_eq!(accepted.option(level::SOCKET, name::KEEPALIVE), Ok(Value::int(1)));
    assert_eq!(server.option(level::SOCKET, name::ACCEPTCONN), Ok(Value::int(1)));
    assert_eq!(accepted.option(level::TCP, 11).unwrap().as_bytes()[0], 1);
    for (name, wrong) in [(4, 0), (5, 40_000), (6, 128), (2, 5), (18, -1)] {
        let value = i32::to_ne_bytes(wrong);
        assert_eq!(client.set_option(level::TCP, name, &value), Err(Errno::EINVAL), "{name}");
    }
    assert_eq!(client.set_option(level::TCP, 13, b"unheard-of"), Err(Errno::ENOENT));
    assert_eq!(client.set_option(level::TCP, 31, b"tls"), Err(Errno::ENOENT));
    assert_eq!(client.set_option(282, 1, &[0; 4]), Err(Errno::ENOPROTOOPT));
    client.set_option(level::TCP, 13, b"reno").unwrap();
    assert_eq!(&client.option(level::TCP, 13).unwrap().as_bytes()[..5], b"reno\0");
}

#[test]
fn reads_wait_for_as_much_as_they_want() {
    let (client, server) = pair();
    let writer = thread::spawn(move || {
        for piece in [b"ab", b"cd", b"ef"] {
            send(&*client, piece, WAIT).unwrap();
            thread::sleep(Duration::from_millis(2));
        }
        client
    });
    assert_eq!(receive(&*server, 6, MessageFlags::WAIT_ALL), Ok(b"abcdef".to_vec()));
    let client = writer.join().unwrap();
    option(&*client, level::TCP, 1, 1);
    option(&*server, level::SOCKET, name::RCVLOWAT, 3);
    send(&*client, b"gh", WAIT).unwrap();
    assert!(!server.poll().contains(Events::IN));
    send(&*client, b"i", WAIT).unwrap();
    eventually(|| server.poll().contains(Events::IN).then_some(()));
    let mut nothing = [];
    let mut sink = Sink::kernel(&mut nothing);
    assert_eq!(server.receive(&mut sink, WAIT).unwrap().length, 0);
    assert_eq!(receive(&*server, 9, MessageFlags::TRUNCATED | NOW).unwrap().len(), 3);
    assert_eq!(server.available(), 0);
    server.set_option(level::SOCKET, name::RCVTIMEO, Value::time(2_000_000).as_bytes()).unwrap();
    assert_eq!(receive(&*server, 1, WAIT), Err(Errno::EAGAIN));
}

#[test]
fn urgent_data_is_apart() {
    let (client, server) = pair();
    send(&*client, b"ab!", MessageFlags::OUT_OF_BAND).unwrap();
    send(&*client, b"cd", WAIT).unwrap();
    eventually(|| server.poll().contains(Events::PRI).then_some(()));
    assert_eq!(receive(&*server, 1, MessageFlags::OUT_OF_BAND), Ok(b"!".to_vec()));
    assert_eq!(receive(&*server, 9, WAIT), Ok(b"ab".to_vec()));
    assert_eq!(receive(&*server, 9, WAIT), Ok(b"cd".to_vec()));
    assert_eq!(receive(&*server, 1, MessageFlags::OUT_OF_BAND), Err(Errno::EINVAL));
}

#[test]
fn closing_without_lingering_resets() {
    let (client, server) = pair();
    client.set_option(level::SOCKET, name::LINGER, &[1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    client.close();
    eventually(|| server.poll().contains(Events::ERR | Events::HUP).then_some(()));
    assert_eq!(receive(&*server, 1, WAIT), Err(Errno::ECONNRESET));
    assert_eq!(send(&*server, b"x", WAIT), Err(Errno::EPIPE));
}

#[test]
fn pages_pass_without_a_copy() {
    let (client, server) = pair();
    let mut chain = Chain::copy_of(&[7; 5000]).unwrap();
    assert_eq!(client.send_chain(&mut chain, WAIT), Ok(5000));
    assert!(chain.is_empty());
    let taken = server.take_chain(10_000, WAIT).unwrap();
    assert_eq!(taken.len(), 5000);
    server.return_chain(taken.slice(4000..5000));
    assert_eq!(receive(&*server, 2000, WAIT).unwrap(), vec![7; 1000]);
}

#[test]
fn a_send_without_a_copy_is_acknowledged_in_the_error_queue() {
    let (client, _server) = pair();
    option(&*client, level::SOCKET, name::ZEROCOPY, 1);
    send(&*client, b"one", MessageFlags::ZERO_COPY).unwrap();
    send(&*client, b"two", MessageFlags::ZERO_COPY).unwrap();
    assert!(client.poll().contains(Events::ERR));
    let mut nothing = [];
    let received = client.receive(&mut Sink::kernel(&mut nothing), MessageFlags::ERROR_QUEUE).unwrap();
    assert_eq!(received.ancillary.controls[0].data[4..16], [5, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert!(!client.poll().contains(Events::ERR));
}

#[test]
fn a_look_goes_on_where_the_last_one_ended() {
    let (client, server) = pair();
    server.set_option(level::SOCKET, name::PEEK_OFF, &0i32.to_ne_bytes()).unwrap();
    send(&*client, b"abcdef", WAIT).unwrap();
    assert_eq!(receive(&*server, 2, MessageFlags::PEEK), Ok(b"ab".to_vec()));
    assert_eq!(receive(&*server, 2, MessageFlags::PEEK), Ok(b"cd".to_vec()));
    assert_eq!(receive(&*server, 3, WAIT), Ok(b"abc".to_vec()));
    assert_eq!(receive(&*server, 9, MessageFlags::PEEK), Ok(b"ef".to_vec()));
    assert_eq!(receive(&*server, 9, MessageFlags::PEEK | NOW), Err(Errno::EAGAIN));
    let writer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(3));
        send(&*client, b"gh", WAIT).unwrap();
        client
    });
    assert_eq!(receive(&*server, 9, MessageFlags::PEEK), Ok(b"gh".to_vec()));
    drop(writer.join());
    assert_eq!(receive(&*server, 9, MessageFlags::PEEK), Ok(vec![]));
    assert_eq!(receive(&*server, 9, WAIT), Ok(b"defgh".to_vec()));
}

#[test]
fn a_listener_waits_for_data_before_it_accepts() {
    let (server, local) = listener(Domain::Inet, "127.0.0.1:0");
    option(&*server, level::TCP, 9, 5);
    assert_eq!(server.option(level::TCP, 9), Ok(Value::int(7)));
    let client = socket(Domain::Inet);
    connect(&client, local, false).unwrap();
    assert_eq!(server.accept(true).err(), Some(Errno::EAGAIN));
    send(&*client, b"data", WAIT).unwrap();
    let accepted = server.accept(false).unwrap();
    assert_eq!(receive(&*accepted, 9, WAIT), Ok(b"data".to_vec()));
}

#[test]
fn misuse_is_refused() {
    let lonely = socket(Domain::Inet);
    assert_eq!(receive(&*lonely, 1, WAIT), Err(Errno::ENOTCONN));
    assert_eq!(send(&*lonely, b"x", WAIT), Err(Errno::EPIPE));
    assert_eq!(lonely.shutdown(true, true), Err(Errno::ENOTCONN));
    assert_eq!(lonely.accept(true).err(), Some(Errno::EINVAL));
    assert_eq!(lonely.peer_name().err(), Some(Errno::ENOTCONN));
    let (server, local) = listener(Domain::Inet, "127.0.0.1:0");
    assert_eq!(server.accept(true).err(), Some(Errno::EAGAIN));
    assert_eq!(server.bind(at("127.0.0.1:0")), Err(Errno::EINVAL));
    assert_eq!(connect(&server, local, true), Err(Errno::EISCONN));
    let other = socket(Domain::Inet);
    assert_eq!(other.bind(Address::Internet(local)), Err(Errno::EADDRINUSE));
    assert_eq!(other.bind(at("203.0.113.9:0")), Err(Errno::EADDRNOTAVAIL));
    server.listen(5, Credentials::default()).unwrap();
    server.shutdown(true, false).unwrap();
    assert_eq!(server.accept(false).err(), Some(Errno::EINVAL));
}

#[test]
fn a_waiting_accept_wakes_up() {
    let (server, local) = listener(Domain::Inet6, "[::1]:0");
    let waiting = {
        let server = server.clone();
        thread::spawn(move || server.accept(false).map(|_| ()))
    };
    thread::sleep(Duration::from_millis(3));
    connect(&socket(Domain::Inet6), local, false).unwrap();
    assert_eq!(waiting.join().unwrap(), Ok(()));
}
