//! The server: one kernel thread, a few clients at a time, and no memory that they could make it use.

use alloc::{boxed::Box, string::ToString, sync::Arc, vec::Vec};
use core::{
    net::{Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
};

use rumpkern::{
    Result,
    poll::{Events, Observer},
    uio::{Sink, Source},
    wait::WaitQueue,
};
use rumpnet::socket::{Address, Ancillary, Creation, Credentials, Domain, MessageFlags, Socket, Style};
use rumpuser::{CpuSet, NEVER, ThreadSpec, rumpuser_clock_monotonic, rumpuser_thread_create};

use crate::{
    conversation::{Conversation, Stream},
    render,
};

/// Clients at a time; the oldest goes when another comes.
const CLIENTS: usize = 16;
/// Connections that wait to be accepted.
const BACKLOG: usize = 128;
/// A text is given out again for so long, in nanoseconds: asking often costs little.
const FRESH: u64 = 100_000_000;

/// Starts the server on all addresses. EADDRINUSE, ENOMEM, or what sockets give.
pub fn start(port: u16) -> Result<()> {
    let listener = listen(port)?;
    rumpuser_thread_create(ThreadSpec {
        name: "metrics".to_string(),
        affinity: CpuSet::MAX,
        main: Box::new(move || Server::new(listener).run()),
    })?;
    Ok(())
}

/// A socket that listens for IPv6 and IPv4.
fn listen(port: u16) -> Result<Arc<dyn Socket>> {
    let creation = Creation {
        domain: Domain::Inet6 as i32,
        style: Style::Stream as i32,
        protocol: 0,
        raw: false,
        creator: Credentials::default(),
    };
    let socket = creation.socket()?;
    socket.bind(Address::Internet(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))))?;
    socket.listen(BACKLOG, Credentials::default())?;
    Ok(socket)
}

/// Tells the thread that a socket has something.
struct Bell {
    rung: AtomicBool,
    queue: WaitQueue,
}

impl Observer for Bell {
    fn notify(&self, _events: Events) {
        self.rung.store(true, Ordering::Release);
        self.queue.wake_all();
    }
}

/// A client's connection. Closed when dropped.
struct Connection {
    socket: Arc<dyn Socket>,
    observer: Arc<dyn Observer>,
}

impl Stream for Connection {
    fn receive(&self, buffer: &mut [u8]) -> Result<usize> {
        Ok(self.socket.receive(&mut Sink::kernel(buffer), MessageFlags::DONT_WAIT)?.length)
    }

    fn send(&self, bytes: &[u8]) -> Result<usize> {
        let flags = MessageFlags::DONT_WAIT | MessageFlags::NO_SIGNAL;
        self.socket.send(&mut Source::kernel(bytes), None, Ancillary::default(), flags)
    }

    fn end(&self) {
        // A connection that is gone already shows in the next receive.
        let _ = self.socket.shutdown(false, true);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.socket.unobserve(&self.observer);
        self.socket.close();
    }
}

struct Server {
    listener: Arc<dyn Socket>,
    bell: Arc<Bell>,
    clients: Vec<Conversation<Connection>>,
    /// The last text, and when it was made.
    text: Option<(u64, Arc<Vec<u8>>)>,
}

impl Server {
    fn new(listener: Arc<dyn Socket>) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), queue: WaitQueue::new() });
        Server { listener, bell, clients: Vec::with_capacity(CLIENTS), text: None }
    }

    fn run(&mut self) {
        let observer: Arc<dyn Observer> = self.bell.clone();
        self.listener.observe(&observer);
        loop {
            let deadline = self.clients.iter().map(Conversation::deadline).min().unwrap_or(NEVER);
            let rung = || self.bell.rung.swap(false, Ordering::Acquire).then_some(());
            // A deadline that passes is as good a reason to look.
            let _ = self.bell.queue.wait(deadline, rung);
            self.accept(&observer);
            let now = rumpuser_clock_monotonic();
            let text = &mut self.text;
            self.clients.retain_mut(|client| !client.go_on(now, || fresh(text, now)));
            if self.clients.is_empty() {
                self.text = None;
            }
        }
    }

    fn accept(&mut self, observer: &Arc<dyn Observer>) {
        while let Ok(socket) = self.listener.accept(true) {
            if self.clients.len() == CLIENTS {
                self.clients.remove(0);
            }
            socket.observe(observer);
            let connection = Connection { socket, observer: observer.clone() };
            self.clients.push(Conversation::new(connection, rumpuser_clock_monotonic()));
        }
    }
}

/// The last text if it is recent, otherwise a new one.
fn fresh(text: &mut Option<(u64, Arc<Vec<u8>>)>, now: u64) -> Arc<Vec<u8>> {
    match text {
        Some((made, last)) if now.saturating_sub(*made) < FRESH => last.clone(),
        _ => {
            let new = Arc::new(render());
            *text = Some((now, new.clone()));
            new
        }
    }
}
