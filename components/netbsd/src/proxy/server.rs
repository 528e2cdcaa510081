//! The server's side of the protocol: who a client is, and what it may ask.

use alloc::{boxed::Box, collections::BTreeMap, ffi::CString, sync::Arc, vec, vec::Vec};
use core::sync::atomic::{AtomicUsize, Ordering};

use rumpuser::{rumpuser_clock_monotonic, rumpuser_getrandom, sync::Mutex};

use super::{
    Malformed,
    kernel::{Kernel, Lwp},
    session::{Job, Session, Stream},
    wire::{self, Class, FORK, HEADER, Header, Kind, NAME, PIECE, Refusal, SECRET, handshake},
};
use crate::wait::WaitList;

/// Clients at a time.
const CLIENTS: usize = 32;
/// Processes that wait for forked clients, at most; the oldest makes room.
const PREFORKS: usize = 64;

/// How long a forked client may take to come after its parent has gone, in nanoseconds.
const GRACE: u64 = 10_000_000_000;

/// Connections by number, for the kernel.
static SESSIONS: Mutex<BTreeMap<usize, Arc<Session>>> = Mutex::new(BTreeMap::new());
/// The next connection's number. 0 is none's.
static NEXT: AtomicUsize = AtomicUsize::new(1);

/// All connections.
pub fn sessions() -> Vec<Arc<Session>> {
    SESSIONS.lock().values().cloned().collect()
}

/// The connection of a number.
pub fn session(number: usize) -> Option<Arc<Session>> {
    SESSIONS.lock().get(&number).cloned()
}

/// A secret of 128 bits.
type Secret = [u8; 4 * SECRET];

/// A process that waits for a forked client.
struct Prefork {
    secret: Secret,
    lwp: Lwp,
    /// The connection of the client that forks.
    parent: usize,
}

/// Offers a kernel's system calls.
pub struct Server {
    kernel: Arc<dyn Kernel>,
    banner: Vec<u8>,
    clients: AtomicUsize,
    preforks: Mutex<Vec<Prefork>>,
    taken: WaitList,
    /// How long processes wait for forked clients whose parents have gone, in nanoseconds.
    pub grace: u64,
}

impl Server {
    /// For a kernel, which the banner names as `NetBSD-7.99.34/amd64`.
    pub fn new(kernel: Arc<dyn Kernel>, name: &str) -> Self {
        let mut banner = alloc::format!("RUMPSP-{}-{name}", wire::PROTOCOL).into_bytes();
        banner.truncate(wire::BANNER - 1);
        banner.push(b'\n');
        let (clients, preforks, taken) = (AtomicUsize::new(0), Mutex::new(Vec::new()), WaitList::new());
        Server { kernel, banner, clients, preforks, taken, grace: GRACE }
    }

    /// Serves a connection in threads of its own; drops it if there are too many.
    pub fn accept(self: &Arc<Self>, stream: Arc<dyn Stream>) {
        let server = self.clone();
        if self.clients.fetch_add(1, Ordering::SeqCst) < CLIENTS {
            let main = Box::new(move || {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                server.serve(stream, number);
                server.clients.fetch_sub(1, Ordering::SeqCst);
                server.forget_preforks(number);
            });
            if self.kernel.spawn("sysproxy client", main) {
                return;
            }
        }
        self.clients.fetch_sub(1, Ordering::SeqCst);
    }

    /// Serves a connection until it ends.
    fn serve(&self, stream: Arc<dyn Stream>, number: usize) {
        if !stream.write(&self.banner) {
            return;
        }
        let session = Session::new(number, self.kernel.clone());
        SESSIONS.lock().insert(number, session.clone());
        if session.start_writer(&stream) {
            while self.next(&session, &*stream).is_ok() {}
            session.flush();
        }
        session.finish(&*stream);
        SESSIONS.lock().remove(&number);
    }

    /// Reads and follows one frame; an error ends the connection.
    fn next(&self, session: &Arc<Session>, stream: &dyn Stream) -> Result<(), Malformed> {
        let mut bytes = [0; HEADER];
        fill(stream, &mut bytes)?;
        let header = Header::parse(&bytes, PIECE)?;
        let is = |class: Class| header.class == class as u16;
        if is(Class::Request) {
            let known = session.process().is_some();
            let follow = if known { Self::request } else { Self::greet };
            let result = follow(self, session, stream, header);
            if result.is_err() {
                let why = if known { Refusal::Malformed } else { Refusal::Unknown };
                session.refuse(header.request, why);
            }
            return result;
        }
        let limit = session.limit_of(header.request).ok_or(Malformed)?;
        let body = body(stream, header, limit)?;
        let accepted = is(Class::Response);
        if !accepted && !is(Class::Error) {
            return Err(Malformed);
        }
        session.answer(header.request, accepted.then_some(body));
        Ok(())
    }

    /// The first request of a client: who it is.
    fn greet(&self, session: &Arc<Session>, stream: &dyn Stream, header: Header) -> Result<(), Malformed> {
        if header.kind != Kind::Handshake as u16 {
            return Err(Malformed);
        }
        let made = match header.value {
            handshake::GUEST => {
                let name = name(body(stream, header, NAME)?);
                self.kernel.new_process(session.number, name).map_err(|_| Refusal::ForkFailed)
            }
            handshake::FORK => {
                let body = body(stream, header, FORK)?;
                let (secret, gives_up) = body.split_first_chunk::<{ 4 * SECRET }>().ok_or(Malformed)?;
                match (self.take_prefork(secret), gives_up) {
                    (None, _) => Err(Refusal::NoPrefork),
                    (Some(lwp), [0, 0, 0, 0]) => {
                        self.kernel.adopt_process(session.number, lwp).map_err(|_| Refusal::ForkFailed)
                    }
                    (Some(lwp), _) => {
                        self.kernel.release(lwp);
                        return Err(Malformed);
                    }
                }
            }
            _ => return Err(Malformed),
        };
        match made {
            Ok(process) => {
                session.set_process(process);
                stream.be_patient();
                session.send(wire::welcome(header.request));
                Ok(())
            }
            Err(why) => {
                session.refuse(header.request, why);
                session.flush();
                // Nothing more is said to it.
                session.cut();
                Err(Malformed)
            }
        }
    }

    /// A request of a client that is known.
    fn request(&self, session: &Arc<Session>, stream: &dyn Stream, header: Header) -> Result<(), Malformed> {
        let Header { request, value, .. } = header;
        let is = |kind: Kind| header.kind == kind as u16;
        if is(Kind::SystemCall) {
            let body = body(stream, header, wire::ARGUMENTS * 8)?;
            session.schedule(request, Job::Call(request, value, wire::arguments(&body)?));
        } else if is(Kind::Prefork) {
            body(stream, header, 0)?;
            self.prefork(session, request);
        } else if is(Kind::Handshake) && value == handshake::EXECUTE {
            let name = name(body(stream, header, NAME)?);
            if session.is_executing(true) {
                session.refuse(request, Refusal::InExecute);
            } else {
                session.end_calls();
                session.schedule(request, Job::Execute(request, name));
            }
        } else {
            return Err(Malformed);
        }
        Ok(())
    }

    /// Copies a client's process for one that it will fork.
    fn prefork(&self, session: &Session, request: u64) {
        if session.is_executing(false) {
            return session.refuse(request, Refusal::InExecute);
        }
        let Some((lwp, _)) = session.process() else { return };
        let Ok(copy) = self.kernel.copy_process(session.number, lwp) else {
            return session.refuse(request, Refusal::ForkFailed);
        };
        let mut secret = Secret::default();
        rumpuser_getrandom(&mut secret);
        let mut preforks = self.preforks.lock();
        let oldest = (preforks.len() >= PREFORKS).then(|| preforks.remove(0));
        preforks.push(Prefork { secret, lwp: copy, parent: session.number });
        drop(preforks);
        if let Some(oldest) = oldest {
            self.kernel.release(oldest.lwp);
        }
        session.send(wire::frame(Class::Response, Kind::Prefork, request, 0, &[&secret]));
    }

    fn take_prefork(&self, secret: &Secret) -> Option<Lwp> {
        let same = |other: &Secret| secret.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0;
        let mut preforks = self.preforks.lock();
        let at = preforks.iter().position(|prefork| same(&prefork.secret))?;
        let prefork = preforks.remove(at);
        drop(preforks);
        self.taken.wake_all();
        Some(prefork.lwp)
    }

    /// Ends the processes that wait for a client's forked ones, if those don't come soon.
    fn forget_preforks(&self, parent: usize) {
        let of_parent =
            |preforks: &Vec<Prefork>| preforks.iter().position(|prefork| prefork.parent == parent);
        let deadline = rumpuser_clock_monotonic().saturating_add(self.grace);
        let waits = || of_parent(&self.preforks.lock()).is_some();
        while waits() && rumpuser_clock_monotonic() < deadline {
            self.taken.wait(deadline, waits);
        }
        loop {
            let mut preforks = self.preforks.lock();
            let Some(at) = of_parent(&preforks) else { break };
            let prefork = preforks.remove(at);
            drop(preforks);
            self.kernel.release(prefork.lwp);
        }
    }
}

/// A frame's body, of at most `limit` bytes.
fn body(stream: &dyn Stream, header: Header, limit: usize) -> Result<Vec<u8>, Malformed> {
    if header.length > limit {
        return Err(Malformed);
    }
    let mut body = vec![0; header.length];
    fill(stream, &mut body)?;
    Ok(body)
}

/// Reads until the buffer is full.
fn fill(stream: &dyn Stream, mut buffer: &mut [u8]) -> Result<(), Malformed> {
    while !buffer.is_empty() {
        let read = stream.read(buffer);
        if read == 0 || read > buffer.len() {
            return Err(Malformed);
        }
        buffer = &mut buffer[read..];
    }
    Ok(())
}

/// A client's name: what is printable of it.
fn name(bytes: Vec<u8>) -> CString {
    let printable = bytes.into_iter().take_while(|&byte| byte != 0).filter(u8::is_ascii_graphic);
    CString::new(printable.collect::<Vec<_>>()).unwrap_or_default()
}
