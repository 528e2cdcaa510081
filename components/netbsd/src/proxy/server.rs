//! The server's side of the protocol: who a client is, and what it may ask.

use alloc::{boxed::Box, collections::BTreeMap, ffi::CString, sync::Arc, vec, vec::Vec};
use core::sync::atomic::{AtomicUsize, Ordering};

use rumpuser::{rumpuser_getrandom, sync::Mutex};

use super::{
    Malformed,
    kernel::{Kernel, Lwp},
    session::{Job, Session, Stream},
    wire::{self, Class, FORK, HEADER, Header, Kind, NAME, PIECE, Refusal, SECRET, handshake},
};

/// Clients at a time.
const CLIENTS: usize = 32;
/// Processes that wait for forked clients, at most; the oldest makes room.
const PREFORKS: usize = 64;

/// Connections by number, for the kernel.
static SESSIONS: Mutex<BTreeMap<usize, Arc<Session>>> = Mutex::new(BTreeMap::new());
/// The next connection's number. 0 is none's.
static NEXT: AtomicUsize = AtomicUsize::new(1);

/// The connection of a number.
pub fn session(number: usize) -> Option<Arc<Session>> {
    SESSIONS.lock().get(&number).cloned()
}

/// A secret of 128 bits.
type Secret = [u8; 4 * SECRET];

/// Offers a kernel's system calls.
pub struct Server {
    kernel: Arc<dyn Kernel>,
    banner: Vec<u8>,
    clients: AtomicUsize,
    preforks: Mutex<Vec<(Secret, Lwp)>>,
}

impl Server {
    /// For a kernel, which the banner names as `NetBSD-7.99.34/amd64`.
    pub fn new(kernel: Arc<dyn Kernel>, name: &str) -> Self {
        let mut banner = alloc::format!("RUMPSP-{}-{name}", wire::PROTOCOL).into_bytes();
        banner.truncate(wire::BANNER - 1);
        banner.push(b'\n');
        Server { kernel, banner, clients: AtomicUsize::new(0), preforks: Mutex::new(Vec::new()) }
    }

    /// Serves a connection in threads of its own; drops it if there are too many.
    pub fn accept(self: &Arc<Self>, stream: Arc<dyn Stream>) {
        let server = self.clone();
        if self.clients.fetch_add(1, Ordering::SeqCst) < CLIENTS {
            let main = Box::new(move || {
                server.serve(stream);
                server.clients.fetch_sub(1, Ordering::SeqCst);
            });
            if self.kernel.spawn("sysproxy client", main) {
                return;
            }
        }
        self.clients.fetch_sub(1, Ordering::SeqCst);
    }

    /// Serves a connection until it ends.
    fn serve(&self, stream: Arc<dyn Stream>) {
        if !stream.write(&self.banner) {
            return;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
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
            let Some((lwp, _)) = session.process() else { return Err(Malformed) };
            if session.is_executing(true) {
                session.refuse(request, Refusal::InExecute);
            } else {
                self.kernel.end_others(lwp);
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
        preforks.push((secret, copy));
        drop(preforks);
        if let Some((_, lwp)) = oldest {
            self.kernel.release(lwp);
        }
        session.send(wire::frame(Class::Response, Kind::Prefork, request, 0, &[&secret]));
    }

    fn take_prefork(&self, secret: &Secret) -> Option<Lwp> {
        let same = |other: &Secret| secret.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0;
        let mut preforks = self.preforks.lock();
        let at = preforks.iter().position(|(other, _)| same(other))?;
        Some(preforks.remove(at).1)
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
