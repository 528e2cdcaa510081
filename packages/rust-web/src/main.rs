//! A web server: one thread for each CPU, each with its own listening socket (SO_REUSEPORT) and its own epoll
//! instance, so that no connection ever leaves the thread that accepted it.

mod connection;

use std::{
    collections::HashMap,
    env, io,
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    thread,
    time::Instant,
};

use connection::{Connection, Progress};
use mio::{Events, Interest, Poll, Token, net::TcpListener};
use socket2::{Domain, Protocol, Socket, Type};

const LISTENER: Token = Token(0);
const BACKLOG: i32 = 1024;
const EVENTS: usize = 256;
const PORT: u16 = 8002;

fn listener(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

fn serve(mut listener: TcpListener, started: Instant) -> io::Result<()> {
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(EVENTS);
    let mut connections: HashMap<Token, Connection> = HashMap::new();
    let mut next = LISTENER.0;
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    next = next.wrapping_add(1).max(LISTENER.0 + 1);
                    let token = Token(next);
                    let _ = stream.set_nodelay(true);
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    if poll.registry().register(&mut stream, token, interest).is_ok() {
                        connections.insert(token, Connection::new(stream));
                    }
                }
            } else if let Some(connection) = connections.get_mut(&event.token())
                && connection.advance(started) == Progress::Over
            {
                connections.remove(&event.token());
            }
        }
    }
}

fn run() -> io::Result<()> {
    let port = env::var("PORT").ok().and_then(|text| text.parse().ok()).unwrap_or(PORT);
    let started = Instant::now();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let listeners = (0..threads).map(|_| listener(port)).collect::<io::Result<Vec<_>>>()?;
    println!("rust-web: listening on port {port}, threads: {threads}");
    let workers: Vec<_> =
        listeners.into_iter().map(|listener| thread::spawn(move || serve(listener, started))).collect();
    for worker in workers {
        worker.join().map_err(|_| io::Error::other("a thread panicked"))??;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rust-web: {error}");
            ExitCode::FAILURE
        }
    }
}
