//! The proxy with clients over the host's TCP, and a kernel that has only what they call.

use std::{
    ffi::CString,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    kernel::{Kernel, Lwp, Work},
    parse, rumpuser_sp_anonmmap, rumpuser_sp_copyin, rumpuser_sp_copyinstr, rumpuser_sp_copyout,
    rumpuser_sp_raise,
    server::{Server, session},
    session::Stream,
    wire::{self, ARGUMENTS, Class, HEADER, Header, Kind, PIECE, handshake},
};
use crate::errno::{EBUSY, EFAULT, EINTR, ENOSYS, Errno};

impl Stream for TcpStream {
    fn read(&self, buffer: &mut [u8]) -> usize {
        let mut stream = self;
        Read::read(&mut stream, buffer).unwrap_or(0)
    }

    fn write(&self, bytes: &[u8]) -> bool {
        let mut stream = self;
        stream.write_all(bytes).is_ok()
    }

    fn be_patient(&self) {}

    fn shut_down(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }

    fn has_ended(&self) -> bool {
        true
    }
}

#[derive(Default)]
struct Processes {
    /// The sessions of the processes that there are, by number less one; nothing for those that have ended.
    sessions: Vec<Option<usize>>,
    names: Vec<CString>,
    /// Calls that have begun, by process, and whether they were told to end.
    begun: Vec<(usize, bool)>,
    /// Processes without new calls.
    closed: Vec<usize>,
    calls: usize,
    written: Vec<u8>,
}

/// A kernel with processes whose LWPs have their numbers.
#[derive(Default)]
struct Fake {
    processes: Mutex<Processes>,
    changed: Condvar,
}

impl Fake {
    fn add(&self, session: usize) -> Lwp {
        let mut processes = self.processes.lock().expect("no panic");
        processes.sessions.push(Some(session));
        Lwp(processes.sessions.len())
    }

    fn wait(&self, what: &str, ready: impl Fn(&Processes) -> bool) {
        let guard = self.processes.lock().expect("no panic");
        let limit = Duration::from_secs(30);
        let (_guard, timeout) =
            self.changed.wait_timeout_while(guard, limit, |processes| !ready(processes)).expect("no panic");
        assert!(!timeout.timed_out(), "{what} does not happen");
    }

    fn call(&self, process: usize, number: u32, arguments: [u64; ARGUMENTS]) -> (Errno, [i64; 2]) {
        let session = self.processes.lock().expect("no panic").sessions[process - 1];
        let client = session.expect("a process that is there") as *mut _;
        let [first, second, ..] = arguments.map(|word| word as usize);
        let pointer = first as *mut core::ffi::c_void;
        let mut room = vec![0u8; second.min(1 << 20)];
        let (local, mut length) = (room.as_mut_ptr().cast(), room.len());
        let error = match number {
            3 => {
                room.fill(b'r');
                // SAFETY: `room` has as many bytes as are said.
                unsafe { rumpuser_sp_copyout(client, local, pointer, length) }
            }
            // SAFETY: as above.
            4 => unsafe { rumpuser_sp_copyin(client, pointer, local, length) },
            // SAFETY: as above.
            5 => unsafe { rumpuser_sp_copyinstr(client, pointer, local, &mut length) },
            20 => return (0, [process as i64, 7]),
            37 => rumpuser_sp_raise(client, first as i32),
            99 => {
                self.processes.lock().expect("no panic").calls += 1;
                self.changed.notify_all();
                self.wait("the end", |processes| processes.begun.contains(&(process, true)));
                EINTR
            }
            197 => {
                let mut address = core::ptr::null_mut();
                // SAFETY: a place for an address.
                let error = unsafe { rumpuser_sp_anonmmap(client, second, &mut address) };
                return (error, [address as i64, 0]);
            }
            _ => ENOSYS,
        };
        if [4, 5].contains(&number) {
            room.truncate(length);
            self.processes.lock().expect("no panic").written = room;
        }
        (error, [length as i64, 0])
    }
}

impl Kernel for Fake {
    fn spawn(&self, name: &str, work: Work) -> bool {
        thread::Builder::new().name(name.into()).spawn(work).is_ok()
    }

    fn new_process(&self, session: usize, name: CString) -> Result<(Lwp, i32), Errno> {
        self.processes.lock().expect("no panic").names.push(name);
        let lwp = self.add(session);
        Ok((lwp, lwp.0 as i32))
    }

    fn copy_process(&self, session: usize, _of: Lwp) -> Result<Lwp, Errno> {
        Ok(self.add(session))
    }

    fn adopt_process(&self, session: usize, copy: Lwp) -> Result<(Lwp, i32), Errno> {
        self.release(copy);
        let lwp = self.add(session);
        Ok((lwp, lwp.0 as i32))
    }

    fn release(&self, lwp: Lwp) {
        let gone = self.processes.lock().expect("no panic").sessions[lwp.0 - 1].take();
        assert!(gone.is_some(), "{lwp:?} is released once");
        self.changed.notify_all();
    }

    fn end_others(&self, lwp: Lwp) {
        let told = |call: &mut (usize, bool)| call.1 |= call.0 == lwp.0;
        self.processes.lock().expect("no panic").begun.iter_mut().for_each(told);
        // Calls that begin now are neither told nor refused.
        thread::sleep(Duration::from_millis(2));
        self.processes.lock().expect("no panic").closed.push(lwp.0);
        self.changed.notify_all();
    }

    fn executed(&self, lwp: Lwp, name: CString) {
        let mut processes = self.processes.lock().expect("no panic");
        processes.closed.retain(|&other| other != lwp.0);
        processes.names.push(name);
    }

    fn system_call(
        &self,
        process: i32,
        gate: &rumpuser::sync::Mutex<()>,
        number: u32,
        arguments: [u64; ARGUMENTS],
    ) -> (Errno, [i64; 2]) {
        let process = process as usize;
        {
            let _gate = gate.lock();
            let mut processes = self.processes.lock().expect("no panic");
            if processes.closed.contains(&process) {
                return (EBUSY, [-1, 0]);
            }
            processes.begun.push((process, false));
        }
        let result = self.call(process, number, arguments);
        let mut processes = self.processes.lock().expect("no panic");
        let at = processes.begun.iter().position(|&(other, _)| other == process).expect("it began");
        processes.begun.remove(at);
        result
    }
}

/// A server, and the kernel behind it.
struct Bench {
    kernel: Arc<Fake>,
    server: Arc<Server>,
    listener: TcpListener,
}

impl Bench {
    fn new() -> Self {
        let kernel = Arc::new(Fake::default());
        let mut server = Server::new(kernel.clone(), "NetBSD-0.99/amd64");
        server.grace = 50_000_000;
        let server = Arc::new(server);
        Bench { kernel, server, listener: TcpListener::bind("127.0.0.1:0").expect("a port") }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.listener.local_addr().expect("an address")).expect("connected");
        let (accepted, _) = self.listener.accept().expect("a connection");
        self.server.accept(Arc::new(accepted));
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        Client { stream, next: 100 }
    }

    /// A client that is known.
    fn guest(&self) -> Client {
        let mut client = self.connect();
        assert_eq!(client.banner(), "RUMPSP-0.4-NetBSD-0.99/amd64\n");
        let request = client.send(Kind::Handshake, handshake::GUEST, b"guest\0");
        let (header, body) = client.receive().expect("an answer");
        assert_eq!((header.class, header.request, body.as_slice()), (1, request, &[0; 4][..]));
        client
    }

    /// Waits until all processes have ended.
    fn all_end(&self) {
        self.kernel.wait("the end of all processes", |processes| {
            processes.sessions.iter().all(|session| session.is_none())
        });
    }
}

struct Client {
    stream: TcpStream,
    next: u64,
}

impl Client {
    fn banner(&mut self) -> String {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).expect("a banner");
            line.push(byte[0]);
        }
        String::from_utf8(line).expect("text")
    }

    fn raw(&mut self, bytes: &[u8]) {
        // It may have been cut off.
        let _ = self.stream.write_all(bytes);
    }

    fn send(&mut self, kind: Kind, value: u32, body: &[u8]) -> u64 {
        self.next += 1;
        self.raw(&wire::frame(Class::Request, kind, self.next, value, &[body]));
        self.next
    }

    fn answer(&mut self, class: Class, kind: Kind, request: u64, body: &[u8]) {
        self.raw(&wire::frame(class, kind, request, 0, &[body]));
    }

    /// A frame; nothing at the end.
    fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let mut bytes = [0; HEADER];
        self.stream.read_exact(&mut bytes).ok()?;
        let header = Header::parse(&bytes, 1 << 20).expect("a header");
        let mut body = vec![0; header.length];
        self.stream.read_exact(&mut body).ok()?;
        Some((header, body))
    }

    fn call(&mut self, number: u32, arguments: &[u64]) -> u64 {
        let bytes: Vec<u8> = arguments.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.send(Kind::SystemCall, number, &bytes)
    }

    /// The error and the first value of a system call's answer.
    #[track_caller]
    fn result(&mut self, request: u64) -> (i32, i64) {
        let (header, body) = self.receive().expect("an answer");
        assert_eq!((header.class, header.kind, header.request, body.len()), (1, 1, request, 24));
        let word = |at: usize| i64::from_le_bytes(body[at..at + 8].try_into().expect("a word"));
        (word(0) as i32, word(8))
    }
}

#[test]
fn clients_call_and_their_memory_is_copied() {
    let bench = Bench::new();
    let mut client = bench.guest();
    assert_eq!(bench.kernel.processes.lock().expect("no panic").names[0].to_bytes(), b"guest");
    let request = client.call(20, &[]);
    assert_eq!(client.result(request), (0, 1));
    let request = client.call(1000, &[]);
    assert_eq!(client.result(request).0, ENOSYS);

    // More than a piece goes in several.
    let length = PIECE + 10;
    let request = client.call(4, &[0x1000, length as u64]);
    for (address, size) in [(0x1000, PIECE), (0x1000 + PIECE, 10)] {
        let (header, body) = client.receive().expect("a request");
        assert_eq!((header.class, header.kind, body), (0, 2, wire::copy_request(size, address).to_vec()));
        client.answer(Class::Response, Kind::CopyIn, header.request, &vec![b'w'; size]);
    }
    assert_eq!(client.result(request), (0, length as i64));
    assert_eq!(bench.kernel.processes.lock().expect("no panic").written, vec![b'w'; length]);

    let request = client.call(5, &[0x2000, 256]);
    let (header, body) = client.receive().expect("a request");
    assert_eq!((header.kind, body), (3, wire::copy_request(256, 0x2000).to_vec()));
    client.answer(Class::Response, Kind::CopyIn, header.request, b"/etc/motd\0");
    assert_eq!(client.result(request), (0, 10));

    let request = client.call(3, &[0x3000, 5]);
    let (header, body) = client.receive().expect("a request");
    assert_eq!((header.kind, &body[..16]), (4, &wire::copy_request(5, 0x3000)[..]));
    assert_eq!(&body[16..], b"rrrrr");
    assert_eq!(client.result(request), (0, 5));

    let request = client.call(197, &[0, 8192]);
    let (header, body) = client.receive().expect("a request");
    assert_eq!((header.kind, body), (6, 8192u64.to_le_bytes().to_vec()));
    client.answer(Class::Response, Kind::Map, header.request, &0x7000u64.to_le_bytes());
    assert_eq!(client.result(request), (0, 0x7000));

    let request = client.call(37, &[15, 0]);
    let (header, _) = client.receive().expect("a request");
    assert_eq!((header.kind, header.value), (8, 15));
    assert_eq!(client.result(request).0, 0);
    drop(client);
    bench.all_end();
}

#[test]
fn a_client_may_refuse_to_be_read() {
    let bench = Bench::new();
    let mut client = bench.guest();
    let request = client.call(4, &[0x1000, 8]);
    let (header, _) = client.receive().expect("a request");
    client.answer(Class::Error, Kind::CopyIn, header.request, b"");
    assert_eq!(client.result(request).0, EFAULT);
    // So may one that gives less than was asked for.
    let request = client.call(4, &[0x1000, 8]);
    let (header, _) = client.receive().expect("a request");
    client.answer(Class::Response, Kind::CopyIn, header.request, b"short");
    assert_eq!(client.result(request).0, EFAULT);
}

#[test]
fn forked_clients_are_known_by_their_secret() {
    let bench = Bench::new();
    let mut parent = bench.guest();
    parent.send(Kind::Prefork, 0, b"");
    let (header, secret) = parent.receive().expect("a secret");
    assert_eq!((header.class, header.kind, secret.len()), (1, 7, 16));
    let greeting = |secret: &[u8], gives_up: u8| [secret, &[gives_up, 0, 0, 0]].concat();
    let greet = |body: &[u8]| {
        let mut child = bench.connect();
        child.banner();
        child.send(Kind::Handshake, handshake::FORK, body);
        let answer = child.receive().map(|(header, _)| (header.class, header.value));
        (child, answer)
    };
    assert_eq!(greet(&greeting(&[0; 16], 0)).1, Some((2, 3)), "a secret that there isn't");
    let (mut child, answer) = greet(&greeting(&secret, 0));
    assert_eq!(answer, Some((1, 0)));
    let request = child.call(20, &[]);
    assert_eq!(child.result(request), (0, 3));
    assert_eq!(greet(&greeting(&secret, 0)).1, Some((2, 3)), "a secret that was used");
    parent.send(Kind::Prefork, 0, b"");
    let (_, secret) = parent.receive().expect("a secret");
    greet(&greeting(&secret, 1));
    drop((parent, child));
    bench.all_end();
}

#[test]
fn another_program_begins_when_all_calls_have_ended() {
    let bench = Bench::new();
    let mut client = bench.guest();
    let blocked = client.call(99, &[]);
    bench.kernel.wait("the call", |processes| processes.calls == 1);
    let request = client.send(Kind::Handshake, handshake::EXECUTE, b"other\0");
    assert_eq!(client.result(blocked).0, EINTR);
    let (header, body) = client.receive().expect("an answer");
    assert_eq!((header.class, header.kind, header.request, body.len()), (1, 0, request, 4));
    let name = bench.kernel.processes.lock().expect("no panic").names.last().cloned();
    assert_eq!(name.as_deref(), Some(c"other"));
    let request = client.call(20, &[]);
    assert_eq!(client.result(request), (0, 1));
}

#[test]
fn what_waits_ends_with_the_connection() {
    let bench = Bench::new();
    let mut client = bench.guest();
    client.call(99, &[]);
    client.call(99, &[]);
    bench.kernel.wait("the calls", |processes| processes.calls == 2);
    client.call(4, &[0x1000, 8]);
    client.receive().expect("a request, which is never answered");
    drop(client);
    bench.all_end();
}

#[test]
fn calls_that_begin_as_the_connection_ends_end_too() {
    let bench = Bench::new();
    for _ in 0..50 {
        let mut client = bench.guest();
        client.call(99, &[]);
    }
    bench.all_end();
}

#[test]
fn processes_wait_for_forked_clients_only_for_a_while() {
    let bench = Bench::new();
    let mut parent = bench.guest();
    parent.send(Kind::Prefork, 0, b"");
    parent.receive().expect("a secret");
    drop(parent);
    bench.all_end();
}

#[test]
fn clients_get_what_was_sent_before_the_kernel_ends() {
    let bench = Bench::new();
    let mut client = bench.guest();
    let number = bench.kernel.processes.lock().expect("no panic").sessions[0].expect("a process");
    let session = session(number).expect("a connection");
    assert!((1..=9).all(|signal| session.raise(signal)));
    session.close();
    for signal in 1..=9 {
        assert_eq!(client.receive().expect("a signal").0.value, signal);
    }
    assert!(client.receive().is_none(), "the connection ends");
    bench.all_end();
}

#[test]
fn malformed_input_ends_the_connection_alone() {
    let bench = Bench::new();
    let good = wire::frame(Class::Request, Kind::Handshake, 1, handshake::GUEST, &[b"bad\0"]);
    let length = |frame: &[u8], length: u64| [&length.to_le_bytes()[..], &frame[8..]].concat();
    let request = |kind: Kind, value: u32, body: &[u8]| wire::frame(Class::Request, kind, 2, value, &[body]);
    let mut strange = request(Kind::SystemCall, 20, b"");
    strange[16] = 9;
    let known: Vec<Vec<u8>> = vec![
        length(&good, 0),
        length(&good, 23),
        length(&good, u64::MAX),
        length(&good, 1 << 40),
        request(Kind::SystemCall, 20, &[0; ARGUMENTS * 8 + 1]),
        request(Kind::Handshake, handshake::GUEST, b"again\0"),
        request(Kind::Handshake, 77, b""),
        request(Kind::Handshake, handshake::EXECUTE, &[b'x'; 5000]),
        request(Kind::Prefork, 0, b"body"),
        request(Kind::CopyIn, 0, b""),
        strange,
        wire::frame(Class::Response, Kind::CopyIn, 0, 0, &[b"nobody asked"]),
        wire::frame(Class::Error, Kind::CopyIn, u64::MAX, 0, &[]),
    ];
    let unknown = [
        request(Kind::SystemCall, 20, b""),
        request(Kind::Handshake, 1, b""),
        request(Kind::Handshake, handshake::FORK, &[0; 19]),
        request(Kind::Handshake, handshake::FORK, &[0; 21]),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
    ];
    for (greeted, bytes) in
        known.iter().map(|bytes| (true, bytes)).chain(unknown.iter().map(|bytes| (false, bytes)))
    {
        let mut client = bench.connect();
        client.banner();
        if greeted {
            client.raw(&good);
            client.receive().expect("an answer");
        }
        client.raw(bytes);
        while client.receive().is_some() {}
    }
    // An answer that is longer than what was asked for.
    let mut client = bench.guest();
    client.call(4, &[0x1000, 8]);
    let (header, _) = client.receive().expect("a request");
    client.answer(Class::Response, Kind::CopyIn, header.request, &[0; 9]);
    while client.receive().is_some() {}
    bench.all_end();
    let mut client = bench.guest();
    let request = client.call(20, &[]);
    assert_eq!(client.result(request).0, 0);
}

#[test]
fn noise_does_no_harm() {
    let bench = Bench::new();
    let mut seed = 1u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 33
    };
    for _ in 0..200 {
        let mut client = bench.guest();
        for _ in 0..4 {
            let body: Vec<u8> = (0..random() % 200).map(|_| random() as u8).collect();
            let class =
                [Class::Request, Class::Request, Class::Response, Class::Error][random() as usize % 4];
            let kind =
                [Kind::SystemCall, Kind::Prefork, Kind::Handshake, Kind::CopyIn][random() as usize % 4];
            let mut frame = wire::frame(class, kind, random(), random() as u32 % 4, &[&body]);
            if random() % 4 == 0 {
                let at = random() as usize % frame.len();
                frame[at] = random() as u8;
            }
            client.raw(&frame);
        }
        let _ = client.stream.shutdown(Shutdown::Write);
        // What it is sent doesn't matter; it may be cut off with something unread.
        let _ = client.stream.read_to_end(&mut Vec::new());
    }
    let mut client = bench.guest();
    let request = client.call(20, &[]);
    assert_eq!(client.result(request).0, 0);
}

#[test]
fn too_many_clients_are_turned_away() {
    let bench = Bench::new();
    let clients: Vec<_> = (0..32).map(|_| bench.guest()).collect();
    let mut one_more = bench.connect();
    assert_eq!(Read::read(&mut one_more.stream, &mut [0]).unwrap_or(0), 0);
    drop(clients);
    bench.all_end();
}

#[test]
fn too_many_calls_are_refused() {
    let bench = Bench::new();
    let mut client = bench.guest();
    let refused = AtomicUsize::new(0);
    for _ in 0..200 {
        client.call(99, &[]);
    }
    // Each is made, waits for a thread, or is refused at once.
    while refused.load(Ordering::Relaxed) < 200 - 32 - 32 {
        let (header, _) = client.receive().expect("a refusal");
        assert_eq!((header.class, header.value), (2, 1));
        refused.fetch_add(1, Ordering::Relaxed);
    }
    drop(client);
    bench.all_end();
}

#[test]
fn addresses() {
    assert_eq!(parse(b"tcp://0.0.0.0:12345/").map(|address| address.port()), Some(12345));
    assert_eq!(parse(b"tcp://10.0.2.15:80").map(|address| address.ip().octets()), Some([10, 0, 2, 15]));
    assert!(parse(b"tcp://*:1/").is_some() && parse(b"tcp://0:65535").is_some());
    for wrong in
        ["", "unix:///tmp/x", "tcp://", "tcp://0", "tcp://0:0", "tcp://0:65536", "tcp://0:+1", "tcp://x:1"]
    {
        assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
    }
}
