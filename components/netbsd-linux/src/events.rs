//! Readiness of sockets: a thread sits in a kqueue of the kernel and tells the sockets what it hears.

use alloc::{
    boxed::Box,
    collections::BTreeMap,
    string::String,
    sync::{Arc, Weak},
};
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use netbsd::thread;
use rumpkern::{Errno, Result};
use rumpuser::{CpuSet, sync::SpinLock};

use crate::{
    call::{Caller, address_of, address_of_mut, int, number},
    socket::InternetSocket,
};

/// `EVFILT_READ`, `EVFILT_WRITE`.
const READ: u32 = 0;
const WRITE: u32 = 1;
/// `EV_ADD`, `EV_DELETE`, `EV_ONESHOT`, `EV_CLEAR`, `EV_EOF`.
const ADD: u32 = 1;
const DELETE: u32 = 2;
const ONE_SHOT: u32 = 0x10;
const CLEAR: u32 = 0x20;
const END: u32 = 0x8000;
/// Events that are taken at a time.
const BATCH: usize = 64;

/// `struct kevent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    descriptor: u64,
    filter: u32,
    flags: u32,
    filter_flags: u32,
    data: i64,
    token: u64,
}

/// The kqueue.
static QUEUE: AtomicI32 = AtomicI32::new(-1);
static NEXT: AtomicU64 = AtomicU64::new(1);
/// The sockets that are watched, by their tokens.
static WATCHED: SpinLock<BTreeMap<u64, Weak<InternetSocket>>> = SpinLock::new(BTreeMap::new());

/// Starts the thread.
pub fn start() -> Result<()> {
    let queue = crate::call::call(number::KQUEUE, &mut [])?;
    QUEUE.store(queue as i32, Ordering::Release);
    thread::spawn(String::from("sockets"), CpuSet::MAX, Box::new(serve))?;
    Ok(())
}

fn change(caller: &mut Caller, descriptor: i32, filter: u32, flags: u32, token: u64) -> Result<()> {
    let event = Event { descriptor: descriptor as u64, filter, flags, filter_flags: 0, data: 0, token };
    let queue = int(QUEUE.load(Ordering::Acquire));
    caller.call(number::KEVENT, &mut [queue, address_of(&event), 1, 0, 0, 0]).map(|_| ())
}

/// Watches a new socket for what arrives; returns its token.
pub fn watch(caller: &mut Caller, socket: &Arc<InternetSocket>, descriptor: i32) -> Result<u64> {
    let token = NEXT.fetch_add(1, Ordering::Relaxed);
    WATCHED.lock().insert(token, Arc::downgrade(socket));
    change(caller, descriptor, READ, ADD | CLEAR, token).inspect_err(|_| forget(token))?;
    Ok(token)
}

/// Watches a socket that has become a listening one: from now on, connections are what arrives.
pub fn watch_again(caller: &mut Caller, descriptor: i32, token: u64) -> Result<()> {
    change(caller, descriptor, READ, DELETE, token)?;
    change(caller, descriptor, READ, ADD | CLEAR, token)
}

/// Has the socket told once when it can send, or when its connection is there.
pub fn watch_sending(caller: &mut Caller, descriptor: i32, token: u64) -> Result<()> {
    change(caller, descriptor, WRITE, ADD | ONE_SHOT, token)
}

/// The socket is closed.
pub fn forget(token: u64) {
    let gone = WATCHED.lock().remove(&token);
    drop(gone);
}

fn serve() {
    let mut events = [Event::default(); BATCH];
    let queue = int(QUEUE.load(Ordering::Acquire));
    loop {
        // An LWP for itself: the thread has it all the time.
        let Ok(mut caller) = Caller::borrow() else { return };
        loop {
            let place = address_of_mut(&mut events);
            match caller.call(number::KEVENT, &mut [queue, 0, 0, place, BATCH as u64, 0]) {
                Ok(count) => {
                    let count = usize::try_from(count).unwrap_or(0).min(BATCH);
                    events[..count].iter().for_each(tell);
                }
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
    }
}

fn tell(event: &Event) {
    let socket = WATCHED.lock().get(&event.token).and_then(Weak::upgrade);
    if let Some(socket) = socket {
        let end = event.flags & END != 0;
        let failed = end && event.filter_flags != 0;
        if event.filter == READ {
            socket.can_receive(end, failed);
        } else {
            socket.can_send(end, failed);
        }
    }
}
