//! Connections through the whole stack, over the loopback.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
    vec,
    vec::Vec,
};

use rumpkern::{
    Errno,
    poll::Events,
    uio::{Sink, Source},
};
use rumpuser::rumpuser_clock_monotonic;

use super::super::{
    Connection, ListenOptions, Listener, PathSettings, ReceiveFlags, SendFlags, Settings, State, table,
};
use super::super::{
    listener::Arrival,
    segment::{Flags, Segment},
};
use crate::{
    interface::{self, testing::eventually},
    ip::Incoming,
    packet::{Chain, Checksum},
    ports::{self, Protocol, Request},
};

fn options() -> ListenOptions {
    ListenOptions {
        backlog: 4,
        reuse_port: false,
        version6_only: false,
        settings: Settings::default(),
        path: PathSettings::default(),
    }
}

fn listen(address: &str, options: &ListenOptions) -> (Arc<Listener>, SocketAddr) {
    crate::configuration::start();
    let request =
        Request { reuse_port: options.reuse_port, ..Request::new(Protocol::Tcp, address.parse().unwrap()) };
    let binding = ports::bind(&request).unwrap();
    let port = binding.port();
    let listener = Listener::new(binding, options).unwrap();
    (listener, SocketAddr::new(address.parse::<SocketAddr>().unwrap().ip(), port))
}

fn connect(remote: SocketAddr) -> Arc<Connection> {
    crate::configuration::start();
    Connection::connect(None, None, remote, Settings::default(), PathSettings::default()).unwrap()
}

fn await_events(connection: &Connection, events: Events) {
    eventually(|| connection.poll().contains(events).then_some(()));
}

fn await_end(connection: &Connection) {
    eventually(|| table::connection(&connection.key).is_none().then_some(()));
}

fn outcome(connection: &Connection) -> rumpkern::Result<bool> {
    eventually(|| Some(connection.established()).filter(|result| *result != Ok(false)))
}

fn accept(listener: &Listener) -> Arc<Connection> {
    eventually(|| listener.accept().ok())
}

fn pair(address: &str) -> (Arc<Listener>, Arc<Connection>, Arc<Connection>) {
    let (listener, local) = listen(address, &options());
    let client = connect(local);
    assert_eq!(outcome(&client), Ok(true));
    let server = accept(&listener);
    (listener, client, server)
}

fn send(connection: &Arc<Connection>, bytes: &[u8]) -> rumpkern::Result<usize> {
    connection.send(&mut Source::kernel(bytes), SendFlags::default())
}

/// Waits for something to receive.
fn receive(connection: &Arc<Connection>, limit: usize) -> rumpkern::Result<Vec<u8>> {
    eventually(|| Some(try_receive(connection, limit)).filter(|result| *result != Err(Errno::EAGAIN)))
}

fn try_receive(connection: &Arc<Connection>, limit: usize) -> rumpkern::Result<Vec<u8>> {
    let mut buffer = vec![0; limit];
    let count = connection.receive(&mut Sink::kernel(&mut buffer), ReceiveFlags::default())?;
    buffer.truncate(count);
    Ok(buffer)
}

#[test]
fn a_conversation() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (listener, client, server) = pair(address);
        assert_eq!((client.remote(), server.local()), (server.local(), client.remote()));
        assert_eq!(try_receive(&server, 10), Err(Errno::EAGAIN));
        assert_eq!(send(&client, b"question"), Ok(8));
        await_events(&server, Events::IN);
        let mut peeked = [0; 4];
        let peek = ReceiveFlags { peek: true, ..ReceiveFlags::default() };
        assert_eq!(server.receive(&mut Sink::kernel(&mut peeked), peek), Ok(4));
        assert_eq!(&peeked, b"ques");
        assert_eq!(receive(&server, 100).unwrap(), b"question");
        assert!(!server.poll().contains(Events::IN) && server.poll().contains(Events::OUT));
        assert_eq!(send(&server, b"answer"), Ok(6));
        server.shutdown(false, true).unwrap();
        assert_eq!(receive(&client, 100).unwrap(), b"answer");
        assert_eq!(receive(&client, 100).unwrap(), b"");
        await_events(&client, Events::RDHUP);
        assert_eq!(send(&server, b"more"), Err(Errno::EPIPE));
        assert_eq!(send(&client, b"bye"), Ok(3));
        client.close(false);
        assert_eq!(receive(&server, 100).unwrap(), b"bye");
        assert_eq!(receive(&server, 100).unwrap(), b"");
        server.close(false);
        listener.close();
        // The first to close waits.
        let waits = || table::waiting().iter().any(|(key, _)| *key == server.key);
        eventually(|| waits().then_some(()));
        await_end(&client);
        await_end(&server);
    }
}

#[test]
fn large_transfers_arrive_whole() {
    let (listener, client, server) = pair("127.0.0.1:0");
    let data: Vec<u8> = (0..3_000_000_u32).map(|index| ((index * 17) >> 3) as u8).collect();
    let (mut sent, mut got) = (0, Vec::new());
    let end = Instant::now() + Duration::from_secs(30);
    while got.len() < data.len() {
        assert!(Instant::now() < end, "{} of {}: {:?} {:?}", got.len(), sent, client.info(), server.info());
        match send(&client, &data[sent..(sent + 200_000).min(data.len())]) {
            Ok(count) => sent += count,
            Err(error) => assert_eq!(error, Errno::EAGAIN),
        }
        while let Ok(bytes) = try_receive(&server, 90_000) {
            if bytes.is_empty() {
                break;
            }
            got.extend(bytes);
        }
        interface::poll();
    }
    assert!(got == data);
    client.close(false);
    server.close(false);
    listener.close();
}

#[test]
fn nobody_listens() {
    let (listener, address) = listen("127.0.0.1:0", &options());
    listener.close();
    let client = connect(address);
    assert_eq!(outcome(&client), Err(Errno::ECONNREFUSED));
    assert_eq!(client.state(), State::Closed);
    client.close(false);
}

#[test]
fn a_segment_that_overtakes_its_connection_is_the_connection_s() {
    let (listener, address) = listen("127.0.0.1:0", &options());
    let client = connect(address);
    let server = eventually(|| listener.accept().ok());
    let interface = interface::loopback();
    let incoming = Incoming {
        interface: &interface,
        queue: 0,
        source: client.local().ip(),
        destination: address.ip(),
        hop_limit: 64,
        traffic_class: 0,
        protocol: 6,
        multicast_or_broadcast: false,
        checksum: Checksum::Verified,
        segment_size: 0,
        header: &[],
    };
    // As if nobody had been found before the client's acknowledgement was looked at on another CPU.
    let segment = Segment { flags: Flags::ACK, ..Segment::default() };
    let (key, hash) = (server.key, server.key.hash());
    let now = rumpuser_clock_monotonic();
    let arrival = Arrival { incoming: &incoming, key, hash, now, segment: &segment, after: None };
    assert!(listener.input(&arrival, Chain::new()));
    client.close(true);
    await_end(&server);
    assert!(!listener.input(&arrival, Chain::new()));
}

#[test]
fn a_full_backlog_drops_and_a_closed_listener_resets() {
    let (listener, address) = listen("127.0.0.1:0", &ListenOptions { backlog: 1, ..options() });
    let clients: Vec<_> = (0..4).map(|_| connect(address)).collect();
    eventually(|| (listener.backlog() == (2, 1)).then_some(()));
    // Others may think that they are connected: answered before the listener was full, but not taken.
    let taken = |client: &&Arc<Connection>| {
        table::connection(&table::Key::new(client.remote(), client.local())).is_some()
    };
    let taken: Vec<_> = clients.iter().filter(taken).collect();
    assert_eq!(taken.len(), 2);
    listener.close();
    assert!(taken.iter().all(|client| receive(client, 1) == Err(Errno::ECONNRESET)));
    assert_eq!(listener.accept().map(|_| ()), Err(Errno::EINVAL));
    clients.iter().for_each(|client| client.close(true));
}

#[test]
fn a_dual_listener_takes_both_versions() {
    let (listener, address) = listen("[::]:0", &options());
    let client = connect(SocketAddr::new("127.0.0.1".parse().unwrap(), address.port()));
    assert_eq!(outcome(&client), Ok(true));
    assert!(accept(&listener).local().is_ipv4());
    let six = connect(SocketAddr::new("::1".parse().unwrap(), address.port()));
    assert!(accept(&listener).remote().is_ipv6());
    client.close(true);
    six.close(true);
    listener.close();
    let (listener, address) = listen("[::]:0", &ListenOptions { version6_only: true, ..options() });
    let client = connect(SocketAddr::new("127.0.0.1".parse().unwrap(), address.port()));
    assert_eq!(outcome(&client), Err(Errno::ECONNREFUSED));
    listener.close();
}

#[test]
fn connections_spread_over_listeners_that_share_a_port() {
    let shared = ListenOptions { reuse_port: true, backlog: 100, ..options() };
    let (first, address) = listen("127.0.0.1:0", &shared);
    let request = Request { reuse_port: true, ..Request::new(Protocol::Tcp, address) };
    let second = Listener::new(ports::bind(&request).unwrap(), &shared).unwrap();
    let clients: Vec<_> = (0..60).map(|_| connect(address)).collect();
    let waiting = || (first.backlog().0, second.backlog().0);
    let (one, other) = eventually(|| Some(waiting()).filter(|(one, other)| one + other == 60));
    assert!(one > 10 && other > 10, "{one} and {other}");
    first.close();
    second.close();
    clients.iter().for_each(|client| client.close(true));
}

#[test]
fn unread_data_makes_a_close_a_reset() {
    let (listener, client, server) = pair("127.0.0.1:0");
    send(&client, b"nobody reads this").unwrap();
    server.close(false);
    assert_eq!(receive(&client, 10), Err(Errno::ECONNRESET));
    await_events(&client, Events::HUP);
    client.close(false);
    listener.close();
}

#[test]
fn urgent_data_goes_through() {
    let (listener, client, server) = pair("127.0.0.1:0");
    send(&client, b"abc").unwrap();
    client.send(&mut Source::kernel(b"d!"), SendFlags { urgent: true, ..SendFlags::default() }).unwrap();
    send(&client, b"ef").unwrap();
    await_events(&server, Events::PRI);
    assert_eq!(server.receive_urgent(false), Ok(b'!'));
    assert_eq!(receive(&server, 100).unwrap(), b"abcd");
    assert!(server.at_mark());
    assert_eq!(receive(&server, 100).unwrap(), b"ef");
    client.close(false);
    server.close(false);
    listener.close();
}

#[test]
fn many_connections_leave_nothing_behind() {
    let (listener, address) = listen("127.0.0.1:0", &options());
    for round in 0..300 {
        let client = connect(address);
        let server = accept(&listener);
        send(&client, b"x").unwrap();
        assert_eq!(receive(&server, 10).unwrap(), b"x");
        match round % 3 {
            0 => {
                client.close(false);
                server.close(false);
            }
            1 => {
                server.close(false);
                client.close(false);
            }
            _ => server.close(true),
        }
        for connection in [&client, &server] {
            await_end(connection);
            eventually(|| (Arc::strong_count(connection) == 1).then_some(()));
        }
    }
    listener.close();
}
