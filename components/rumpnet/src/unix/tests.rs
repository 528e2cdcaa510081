//! Unix sockets between threads of the test.

use std::{thread, time::Duration, vec, vec::Vec};

use super::*;
use crate::{interface::testing::eventually, socket::Right};

const ME: Credentials = Credentials { pid: 7, uid: 1000, gid: 100 };

fn send(socket: &UnixSocket, data: &[u8]) -> Result<usize> {
    socket.send(&mut Source::kernel(data), None, Ancillary::default(), MessageFlags::default())
}

fn send_with(socket: &UnixSocket, data: &[u8], rights: Vec<Right>) -> Result<usize> {
    let ancillary = Ancillary { credentials: Some(ME), rights, ..Ancillary::default() };
    socket.send(&mut Source::kernel(data), None, ancillary, MessageFlags::default())
}

fn receive(socket: &UnixSocket, size: usize, flags: MessageFlags) -> Result<(Vec<u8>, Received)> {
    let mut buffer = vec![0; size];
    let mut sink = Sink::kernel(&mut buffer);
    let received = socket.receive(&mut sink, flags)?;
    let length = sink.transferred();
    buffer.truncate(length);
    Ok((buffer, received))
}

fn data(socket: &UnixSocket, size: usize) -> Result<Vec<u8>> {
    receive(socket, size, MessageFlags::DONT_WAIT).map(|(data, _)| data)
}

fn name(text: &str) -> Address {
    Address::Abstract(text.as_bytes().to_vec())
}

#[test]
fn streams_have_no_boundaries_and_end() {
    let (one, other) = UnixSocket::pair(Style::Stream, ME);
    send(&one, b"hello ").unwrap();
    send(&one, b"world").unwrap();
    assert_eq!(other.available(), 11);
    assert_eq!(receive(&other, 5, MessageFlags::PEEK).unwrap().0, b"hello");
    assert_eq!(data(&other, 8).unwrap(), b"hello wo");
    assert_eq!(data(&other, 100).unwrap(), b"rld");
    assert_eq!(data(&other, 100), Err(Errno::EAGAIN));
    one.close();
    assert_eq!(data(&other, 100).unwrap(), b"");
    assert_eq!(send(&other, b"x"), Err(Errno::EPIPE));
    assert!(other.poll().contains(Events::HUP | Events::RDHUP | Events::IN));
}

#[test]
fn unread_data_makes_a_reset() {
    let (one, other) = UnixSocket::pair(Style::Stream, ME);
    send(&one, b"lost").unwrap();
    other.close();
    assert_eq!(data(&one, 10), Err(Errno::ECONNRESET));
    assert_eq!(data(&one, 10).unwrap(), b"");
}

#[test]
fn packets_keep_their_boundaries_and_are_cut() {
    for style in [Style::Datagram, Style::SequencedPacket] {
        let (one, other) = UnixSocket::pair(style, ME);
        send(&one, b"first").unwrap();
        send(&one, b"").unwrap();
        send(&one, b"second").unwrap();
        let (cut, received) = receive(&other, 3, MessageFlags::TRUNCATED).unwrap();
        assert_eq!((cut.as_slice(), received.length), (&b"fir"[..], 5));
        assert!(received.flags.contains(MessageFlags::TRUNCATED));
        assert_eq!(data(&other, 10).unwrap(), b"");
        assert_eq!(data(&other, 10).unwrap(), b"second");
        assert_eq!(send(&one, &vec![0; 300_000]), Err(Errno::EMSGSIZE));
    }
}

#[test]
fn a_full_stream_holds_the_writer_back() {
    let (one, other) = UnixSocket::pair(Style::Stream, ME);
    let big = vec![7u8; 500_000];
    let sent =
        one.send(&mut Source::kernel(&big), None, Ancillary::default(), MessageFlags::DONT_WAIT).unwrap();
    assert!(sent < big.len() && sent >= one.base.send_buffer());
    assert!(!one.poll().contains(Events::OUT));
    let writer = thread::spawn(move || {
        let result = send(&one, &vec![8u8; 100_000]);
        (one, result)
    });
    let all = receive(&other, sent + 100_000, MessageFlags::WAIT_ALL).unwrap().0;
    assert_eq!((all.len(), all[sent]), (sent + 100_000, 8));
    assert_eq!(writer.join().unwrap().1, Ok(100_000));
}

#[test]
fn connections_are_made_and_refused() {
    let listener = UnixSocket::new(Style::Stream, ME);
    let client = UnixSocket::new(Style::Stream, ME);
    assert_eq!(client.connect(&name("connections"), false, ME), Err(Errno::ECONNREFUSED));
    assert_eq!(listener.listen(1, ME), Err(Errno::EINVAL));
    listener.bind(name("connections")).unwrap();
    assert_eq!(client.connect(&name("connections"), false, ME), Err(Errno::ECONNREFUSED));
    listener.listen(1, ME).unwrap();
    assert!(matches!(listener.accept(true), Err(Errno::EAGAIN)));
    let datagrams = UnixSocket::new(Style::Datagram, ME);
    assert_eq!(datagrams.connect(&name("connections"), false, ME), Err(Errno::EPROTOTYPE));
    client.connect(&name("connections"), false, ME).unwrap();
    assert_eq!(client.connect(&name("connections"), false, ME), Err(Errno::EISCONN));
    assert!(listener.poll().contains(Events::IN));
    let server = listener.accept(false).unwrap();
    assert_eq!(server.peer_credentials(), Some(ME));
    send(&client, b"hi").unwrap();
    let mut buffer = [0; 2];
    server.receive(&mut Sink::kernel(&mut buffer), MessageFlags::default()).unwrap();
    assert_eq!(&buffer, b"hi");
    let other = UnixSocket::new(Style::Stream, ME);
    assert_eq!(other.bind(name("connections")), Err(Errno::EADDRINUSE));
    listener.close();
    assert_eq!(other.bind(name("connections")), Ok(()));
}

#[test]
fn a_backlog_fills_and_a_closed_listener_resets() {
    let listener = UnixSocket::new(Style::Stream, ME);
    listener.bind(name("backlog")).unwrap();
    listener.listen(0, ME).unwrap();
    let first = UnixSocket::new(Style::Stream, ME);
    first.connect(&name("backlog"), true, ME).unwrap();
    let second = UnixSocket::new(Style::Stream, ME);
    assert_eq!(second.connect(&name("backlog"), true, ME), Err(Errno::EAGAIN));
    let waiting = thread::spawn(move || second.connect(&name("backlog"), false, ME));
    thread::sleep(Duration::from_millis(5));
    drop(listener.accept(false).unwrap());
    assert_eq!(waiting.join().unwrap(), Ok(()));
    let third = UnixSocket::new(Style::Stream, ME);
    drop(listener.accept(false));
    third.connect(&name("backlog"), false, ME).unwrap();
    listener.close();
    assert_eq!(data(&third, 10), Err(Errno::ECONNRESET));
}

#[test]
fn datagrams_tell_their_source() {
    let receiver = UnixSocket::new(Style::Datagram, ME);
    receiver.bind(name("receiver")).unwrap();
    let sender = UnixSocket::new(Style::Datagram, ME);
    assert_eq!(send(&sender, b"x"), Err(Errno::ENOTCONN));
    sender.bind(Address::Unnamed).unwrap();
    let to = name("receiver");
    sender
        .send(&mut Source::kernel(b"one"), Some(&to), Ancillary::default(), MessageFlags::default())
        .unwrap();
    let (text, received) = receive(&receiver, 10, MessageFlags::default()).unwrap();
    assert_eq!(text, b"one");
    assert!(matches!(received.source, Some(Address::Abstract(name)) if name.len() == 5));
    sender.connect(&to, false, ME).unwrap();
    let mut sent = 0;
    while sender.send(&mut Source::kernel(b"x"), None, Ancillary::default(), MessageFlags::DONT_WAIT).is_ok()
    {
        sent += 1;
    }
    assert_eq!(sent, DATAGRAMS.load(Ordering::Relaxed));
    assert!(!sender.poll().contains(Events::OUT));
    data(&receiver, 10).unwrap();
    assert!(sender.poll().contains(Events::OUT));
    receiver.close();
    assert_eq!(send(&sender, b"x"), Err(Errno::ECONNREFUSED));
}

#[test]
fn rights_travel_with_their_bytes() {
    let (one, other) = UnixSocket::pair(Style::Stream, ME);
    let right: Right = Arc::new(5u8);
    send(&one, b"plain").unwrap();
    send_with(&one, b"with", vec![right.clone()]).unwrap();
    send(&one, b"after").unwrap();
    assert_eq!(data(&other, 100).unwrap(), b"plain");
    let (text, received) = receive(&other, 100, MessageFlags::default()).unwrap();
    assert_eq!((text.as_slice(), received.ancillary.rights.len()), (&b"with"[..], 1));
    assert_eq!(received.ancillary.credentials, Some(ME));
    drop(received);
    assert_eq!(data(&other, 100).unwrap(), b"after");
    send_with(&one, b"unread", vec![right.clone()]).unwrap();
    other.close();
    // Whoever is dropping others meanwhile, drops these.
    eventually(|| (Arc::strong_count(&right) == 1).then_some(()));
}

#[test]
fn a_long_chain_of_sockets_in_flight_is_dropped_without_recursion() {
    let mut inner: Option<Right> = None;
    for _ in 0..10_000 {
        let (one, other) = UnixSocket::pair(Style::Stream, ME);
        send_with(&one, b"x", inner.take().into_iter().collect()).unwrap();
        inner = Some(Arc::new((one, other)));
    }
    drop(inner);
}

#[test]
fn shutdown_ends_one_direction() {
    let (one, other) = UnixSocket::pair(Style::Stream, ME);
    send(&one, b"rest").unwrap();
    one.shutdown(false, true).unwrap();
    assert_eq!(send(&one, b"x"), Err(Errno::EPIPE));
    assert_eq!(data(&other, 10).unwrap(), b"rest");
    assert_eq!(data(&other, 10).unwrap(), b"");
    assert!(other.poll().contains(Events::RDHUP | Events::OUT));
    assert!(!other.poll().contains(Events::HUP));
    send(&other, b"back").unwrap();
    assert_eq!(data(&one, 10).unwrap(), b"back");
    let lonely = UnixSocket::new(Style::Stream, ME);
    assert_eq!(lonely.shutdown(true, true), Err(Errno::ENOTCONN));
}

#[test]
fn a_receive_timeout_ends_the_wait() {
    let (one, _other) = UnixSocket::pair(Style::Stream, ME);
    one.set_option(level::SOCKET, name::RCVTIMEO, Value::time(2_000_000).as_bytes()).unwrap();
    assert_eq!(receive(&one, 1, MessageFlags::default()).map(|(data, _)| data), Err(Errno::EAGAIN));
}

#[test]
fn a_look_goes_on_where_the_last_one_ended() {
    let (one, other) = UnixSocket::pair(Style::Stream, ME);
    other.set_option(level::SOCKET, name::PEEK_OFF, &1i32.to_ne_bytes()).unwrap();
    send(&one, b"abc").unwrap();
    send(&one, b"def").unwrap();
    let look =
        |size| receive(&other, size, MessageFlags::PEEK | MessageFlags::DONT_WAIT).map(|(data, _)| data);
    assert_eq!(look(3), Ok(b"bcd".to_vec()));
    assert_eq!(look(1), Ok(b"e".to_vec()));
    assert_eq!(data(&other, 2).unwrap(), b"ab");
    assert_eq!(look(9), Ok(b"f".to_vec()));
    assert_eq!(look(9), Err(Errno::EAGAIN));
    assert_eq!(data(&other, 9).unwrap(), b"cdef");
}
