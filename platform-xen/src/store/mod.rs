//! Xenstore: the tree of small strings through which domains and the toolstack find and tell each other. One request is
//! under way at a time; changes of watched nodes are handed on by a thread.

pub(crate) mod connection;
pub mod wire;

use alloc::{borrow::ToOwned, boxed::Box, format, string::String, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use once_cell::race::OnceBox;
use rumpuser::{
    Thread,
    sync::{InterruptLock, Mutex},
};

use crate::{clock, events, hypercall, memory};
use connection::{Connection, Interface};
use wire::{Kind, Message};

const STORE_FRAME: u32 = 1;
const STORE_PORT: u32 = 2;
/// How long an answer may take, in nanoseconds.
const PATIENCE: u64 = 30_000_000_000;
/// How often a transaction is tried that others' changes undo.
const TRIES: usize = 20;

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// There is no xenstore, or it doesn't answer.
    Unreachable,
    /// It says so: a name of `errno.h`.
    Refused(String),
}

/// A request's result.
pub type Result<T> = core::result::Result<T, Error>;

struct Store {
    /// It changes when the domain is restored.
    port: AtomicU32,
    connection: Mutex<Connection>,
    /// Held from a request to its answer.
    busy: Mutex<()>,
    watches: Mutex<Vec<Watched>>,
    next_watch: AtomicU32,
}

type Handler = Arc<dyn Fn(&str) + Send + Sync>;

struct Watched {
    path: String,
    token: String,
    handler: Handler,
}

static STORE: OnceBox<Store> = OnceBox::new();
/// Threads run, so that one may sleep until the daemon answers.
static THREADS: AtomicBool = AtomicBool::new(false);
/// The thread that waits for an answer, and the one that waits for changes.
static WAITING: [InterruptLock<Option<Thread>>; 2] = [const { InterruptLock::new(None) }; 2];
const ANSWER: usize = 0;
const CHANGE: usize = 1;

/// Connects.
pub fn initialise() {
    let (Some(frame), Some(port)) = (memory::parameter(STORE_FRAME), memory::parameter(STORE_PORT)) else {
        return;
    };
    let Ok(port) = u32::try_from(port) else { return };
    let address = bmk::memory::map_firmware(frame * 4096, 4096);
    // SAFETY: xenstore's page, mapped for ever; the structure is made of atomics.
    let interface = unsafe { &*(address as *const Interface) };
    let _ = STORE.set(Box::new(Store {
        port: AtomicU32::new(port),
        connection: Mutex::new(Connection::new(interface)),
        busy: Mutex::new(()),
        watches: Mutex::new(Vec::new()),
        next_watch: AtomicU32::new(0),
    }));
    events::establish(port, Box::new(wake));
}

/// The interrupt: wakes who waits.
fn wake() {
    for slot in &WAITING {
        if let Some(thread) = &*slot.lock() {
            thread.unpark();
        }
    }
}

impl Store {
    /// Moves what can be moved, and then looks.
    fn pump<T>(&self, look: impl FnOnce(&mut Connection) -> T) -> T {
        let mut connection = self.connection.lock();
        let tell = connection.pump();
        let result = look(&mut connection);
        drop(connection);
        if tell {
            events::notify(self.port.load(Ordering::Relaxed));
        }
        result
    }

    fn request(&self, kind: Kind, transaction: u32, payload: &[u8]) -> Result<Vec<u8>> {
        let _busy = self.busy.lock();
        self.request_alone(kind, transaction, payload)
    }

    fn request_alone(&self, kind: Kind, transaction: u32, payload: &[u8]) -> Result<Vec<u8>> {
        if payload.len() > wire::PAYLOAD {
            return Err(Error::Refused("E2BIG".to_owned()));
        }
        let sleeps = THREADS.load(Ordering::Acquire) && bmk::machine::interrupts_enabled();
        if sleeps {
            *WAITING[ANSWER].lock() = Some(rumpuser::rumpuser_thread_current());
        }
        self.connection.lock().request(kind, transaction, payload);
        let limit = clock::system_time().saturating_add(PATIENCE);
        let answer = loop {
            match self.pump(Connection::answer) {
                Ok(Some(answer)) => break Some(answer),
                Err(()) => break None,
                Ok(None) if clock::system_time() > limit => break None,
                Ok(None) if sleeps => {
                    let soon = rumpuser::rumpuser_clock_monotonic() + 1_000_000_000;
                    rumpuser::rumpuser_park(soon);
                }
                Ok(None) => hypercall::yield_cpu(),
            }
        };
        if sleeps {
            let waiting = WAITING[ANSWER].lock().take();
            drop(waiting);
        }
        let Message { kind, payload, .. } = answer.ok_or(Error::Unreachable)?;
        if kind == wire::ERROR {
            return Err(Error::Refused(wire::strings(&payload).into_iter().next().unwrap_or_default()));
        }
        Ok(payload)
    }
}

fn store() -> Result<&'static Store> {
    STORE.get().ok_or(Error::Unreachable)
}

/// A transaction, or none: the scope of requests.
#[derive(Debug, Clone, Copy)]
pub struct Scope(u32);

/// Outside of any transaction.
pub const PLAIN: Scope = Scope(0);

fn terminated(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

impl Scope {
    /// A node's value. Paths that don't begin with `/` are the domain's own.
    pub fn read(self, path: &str) -> Result<String> {
        let value = store()?.request(Kind::Read, self.0, &terminated(path))?;
        Ok(String::from_utf8_lossy(&value).into_owned())
    }

    /// The names below a node.
    pub fn list(self, path: &str) -> Result<Vec<String>> {
        Ok(wire::strings(&store()?.request(Kind::Directory, self.0, &terminated(path))?))
    }

    /// Sets a node's value.
    pub fn write(self, path: &str, value: &str) -> Result<()> {
        let payload = [path.as_bytes(), &[0], value.as_bytes()].concat();
        store()?.request(Kind::Write, self.0, &payload).map(drop)
    }

    /// Removes a node and all below it.
    pub fn remove(self, path: &str) -> Result<()> {
        store()?.request(Kind::Remove, self.0, &terminated(path)).map(drop)
    }
}

/// Makes several changes at once: `work` is repeated when others came between.
pub fn transaction<T>(mut work: impl FnMut(Scope) -> Result<T>) -> Result<T> {
    let store = store()?;
    for _ in 0..TRIES {
        let number = store.request(Kind::TransactionStart, 0, &[0])?;
        let number = wire::strings(&number).first().and_then(|text| text.parse().ok());
        let scope = Scope(number.ok_or(Error::Unreachable)?);
        let result = work(scope);
        let end = terminated(if result.is_ok() { "T" } else { "F" });
        match (store.request(Kind::TransactionEnd, scope.0, &end), result) {
            (Ok(_), result) => return result,
            (Err(Error::Refused(name)), Ok(_)) if name == "EAGAIN" => {}
            (Err(error), _) => return Err(error),
        }
    }
    Err(Error::Refused("EAGAIN".to_owned()))
}

fn watch_payload(path: &str, token: &str) -> Vec<u8> {
    [terminated(path), terminated(token)].concat()
}

/// A watch; ends when dropped.
pub struct Watch {
    path: String,
    token: String,
}

/// Calls the handler, in a thread, with the path of what has changed at or below a node: once at first, then whenever
/// something changes. Several changes may come as one.
pub fn watch(path: &str, handler: impl Fn(&str) + Send + Sync + 'static) -> Result<Watch> {
    let store = store()?;
    let token = format!("{}", store.next_watch.fetch_add(1, Ordering::Relaxed));
    let watched = Watched { path: path.to_owned(), token: token.clone(), handler: Arc::new(handler) };
    store.watches.lock().push(watched);
    let watch = Watch { path: path.to_owned(), token };
    store.request(Kind::Watch, 0, &watch_payload(path, &watch.token))?;
    Ok(watch)
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Ok(store) = store() else { return };
        let _ = store.request(Kind::Unwatch, 0, &watch_payload(&self.path, &self.token));
        store.watches.lock().retain(|watched| watched.token != self.token);
    }
}

/// Hands on changes, for ever: the body of a thread.
pub fn serve_watches() {
    THREADS.store(true, Ordering::Release);
    let Ok(store) = store() else { return };
    *WAITING[CHANGE].lock() = Some(rumpuser::rumpuser_thread_current());
    loop {
        while let Some(event) = store.pump(Connection::event) {
            let strings = wire::strings(&event.payload);
            let [path, token, ..] = strings.as_slice() else { continue };
            let watches = store.watches.lock();
            let handler =
                watches.iter().find(|watched| watched.token == *token).map(|watched| watched.handler.clone());
            drop(watches);
            if let Some(handler) = handler {
                handler(path);
            }
        }
        rumpuser::rumpuser_park(rumpuser::NEVER);
    }
}

/// Calls `work` while no request is under way, with the way to take xenstore's channel in a restored domain; if it returns
/// true, the watches are set anew.
pub fn pause(work: impl FnOnce(&mut dyn FnMut()) -> bool) {
    let Ok(store) = store() else { return };
    let busy = store.busy.lock();
    let mut connection = store.connection.lock();
    let restored = work(&mut || {
        connection.resume();
        if let Some(port) = memory::parameter(STORE_PORT).and_then(|port| u32::try_from(port).ok()) {
            store.port.store(port, Ordering::Relaxed);
            events::establish(port, Box::new(wake));
        }
    });
    drop(connection);
    drop(busy);
    if restored {
        let watches = store.watches.lock();
        let all: Vec<_> =
            watches.iter().map(|watched| watch_payload(&watched.path, &watched.token)).collect();
        drop(watches);
        for payload in all {
            let _ = store.request(Kind::Watch, 0, &payload);
        }
    }
}

/// Writes a node when the machine ends: whoever has the connection may never let go of it, so this gives up in the end.
pub fn write_at_end(path: &str, value: &str) {
    let Ok(store) = store() else { return };
    let limit = clock::system_time().saturating_add(PATIENCE);
    let _busy = loop {
        if let Some(busy) = store.busy.try_lock() {
            break busy;
        }
        if clock::system_time() > limit {
            return;
        }
        if THREADS.load(Ordering::Acquire) && bmk::machine::interrupts_enabled() {
            rumpuser::rumpuser_park(rumpuser::rumpuser_clock_monotonic() + 1_000_000);
        } else {
            hypercall::yield_cpu();
        }
    };
    let payload = [path.as_bytes(), &[0], value.as_bytes()].concat();
    let _ = store.request_alone(Kind::Write, 0, &payload);
}
