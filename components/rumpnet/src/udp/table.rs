//! Which socket a datagram is for. Connected sockets are found by the hash of both ends, the others by their port.

use alloc::{sync::Arc, vec::Vec};
use core::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use rumpuser::sync::SpinLock;

use super::UdpSocket;
use crate::tcp::hash;

const SHARDS: usize = 256;

/// A socket as the table knows it.
#[derive(Clone)]
struct Entry {
    socket: Arc<UdpSocket>,
    local: SocketAddr,
    remote: Option<SocketAddr>,
    interface: u32,
    /// An IPv6 socket that takes no IPv4.
    version6_only: bool,
    reuse_port: bool,
}

/// A socket has no place in [`TABLE`].
pub(super) const NOWHERE: usize = usize::MAX;

/// The sockets that aren't connected, by port, then those that are, by both ends.
static TABLE: [SpinLock<Vec<Entry>>; 2 * SHARDS] = [const { SpinLock::new(Vec::new()) }; 2 * SHARDS];
/// Connected sockets: without any, nothing needs to be hashed.
static CONNECTED: AtomicUsize = AtomicUsize::new(0);

/// The place of sockets that aren't connected.
fn by_port(port: u16) -> usize {
    usize::from(port) % SHARDS
}

/// The place of a connected one.
fn by_ends(port: u16, remote: SocketAddr) -> usize {
    let [low, high] = hash::address_words(remote.ip());
    let ports = u64::from(port) << 16 | u64::from(remote.port());
    SHARDS + hash::keyed(&[low, high, ports]) as usize % SHARDS
}

/// The places where sockets for a flow may be.
fn places(flow: &Flow) -> impl Iterator<Item = usize> {
    let connected = (CONNECTED.load(Relaxed) > 0).then(|| by_ends(flow.local.port(), flow.remote));
    connected.into_iter().chain([by_port(flow.local.port())])
}

/// Enters a socket, or changes its entry. The caller holds the socket's lock of its binding.
pub(super) fn enter(socket: &Arc<UdpSocket>, version6_only: bool, reuse_port: bool) {
    let names = socket.core.names();
    let entry = Entry {
        socket: socket.clone(),
        local: names.local,
        remote: names.remote,
        interface: socket.core.base.interface(),
        version6_only,
        reuse_port,
    };
    let port = names.local.port();
    let place = names.remote.map_or_else(|| by_port(port), |remote| by_ends(port, remote));
    let before = socket.place.swap(place, Relaxed);
    if place >= SHARDS {
        CONNECTED.fetch_add(1, Relaxed);
    }
    {
        let mut entries = TABLE[place].lock();
        match entries.iter_mut().find(|other| Arc::ptr_eq(&other.socket, socket)) {
            Some(old) => *old = entry,
            None => entries.push(entry),
        }
    }
    // It is found all the time.
    leave(socket, before, before != place);
}

/// Takes a socket out. The caller holds the socket's lock of its binding.
pub(super) fn remove(socket: &UdpSocket) {
    leave(socket, socket.place.swap(NOWHERE, Relaxed), true);
}

/// Takes a socket's entry, if it is `gone`, from a place.
fn leave(socket: &UdpSocket, place: usize, gone: bool) {
    let Some(shard) = TABLE.get(place) else { return };
    if place >= SHARDS {
        CONNECTED.fetch_sub(1, Relaxed);
    }
    if !gone {
        return;
    }
    let mut entries = shard.lock();
    let index = entries.iter().position(|entry| core::ptr::eq(Arc::as_ptr(&entry.socket), socket));
    let gone = index.map(|index| entries.remove(index));
    drop(entries);
    drop(gone);
}

/// Both ends of a datagram, and where it came in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flow {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub interface: u32,
}

impl Entry {
    /// How well the socket fits; `None` if it doesn't.
    fn score(&self, flow: &Flow) -> Option<u32> {
        if self.local.port() != flow.local.port() {
            return None;
        }
        let mut score = 0;
        let local = self.local.ip();
        if local.is_unspecified() {
            match (local, flow.local.ip()) {
                (IpAddr::V4(_), IpAddr::V6(_)) => return None,
                (IpAddr::V6(_), IpAddr::V4(_)) if self.version6_only => return None,
                (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => score += 1,
                _ => {}
            }
        } else if local == flow.local.ip() {
            score += 4;
        } else {
            return None;
        }
        if let Some(remote) = self.remote {
            if remote.ip() != flow.remote.ip() || remote.port() != flow.remote.port() {
                return None;
            }
            score += 8;
        }
        if self.interface != 0 {
            if self.interface != flow.interface {
                return None;
            }
            score += 2;
        }
        Some(score)
    }
}

/// The socket that a datagram is for. Of those that share a port by SO_REUSEPORT, the flow's hash picks one.
pub(super) fn find(flow: &Flow) -> Option<Arc<UdpSocket>> {
    // A connected one fits better than any other.
    places(flow).find_map(|place| find_in(&TABLE[place].lock(), flow))
}

fn find_in(entries: &[Entry], flow: &Flow) -> Option<Arc<UdpSocket>> {
    let mut best: Option<(&Entry, u32)> = None;
    let mut sharing = 0usize;
    for entry in entries {
        let Some(score) = entry.score(flow) else { continue };
        match best {
            Some((_, most)) if score < most => {}
            // Of several alike, the last one to come has it.
            Some((_, most)) if score == most => {
                sharing += usize::from(entry.reuse_port);
                best = Some((entry, score));
            }
            _ => {
                sharing = usize::from(entry.reuse_port);
                best = Some((entry, score));
            }
        }
    }
    let (entry, score) = best?;
    if !entry.reuse_port || sharing < 2 {
        return Some(entry.socket.clone());
    }
    let [low, high] = hash::address_words(flow.remote.ip());
    let pick = hash::keyed(&[low, high, u64::from(flow.remote.port())]) as usize % sharing;
    let mut group = entries.iter().filter(|entry| entry.reuse_port && entry.score(flow) == Some(score));
    group.nth(pick).map(|entry| entry.socket.clone())
}

/// All sockets that a datagram to a group or to all is for.
pub(super) fn find_all(flow: &Flow) -> Vec<Arc<UdpSocket>> {
    let fits = |entry: &&Entry| entry.score(flow).is_some() && entry.socket.wants_group(flow);
    let mut sockets: Vec<Arc<UdpSocket>> = Vec::new();
    for place in places(flow) {
        for entry in TABLE[place].lock().iter().filter(fits) {
            // One that is being connected may be in both places.
            if !sockets.iter().any(|socket| Arc::ptr_eq(socket, &entry.socket)) {
                sockets.push(entry.socket.clone());
            }
        }
    }
    sockets
}

/// The socket that sent something: it is bound to `local`, and not connected elsewhere.
pub(super) fn find_sender(flow: &Flow) -> Option<Arc<UdpSocket>> {
    find(flow)
}

/// Calls `function` with every socket, for /proc and netlink.
pub fn for_each(mut function: impl FnMut(&Arc<UdpSocket>)) {
    for shard in &TABLE {
        let sockets: Vec<_> = shard.lock().iter().map(|entry| entry.socket.clone()).collect();
        sockets.iter().for_each(&mut function);
    }
}

/// How many sockets there are.
pub fn count() -> usize {
    TABLE.iter().map(|shard| shard.lock().len()).sum()
}
