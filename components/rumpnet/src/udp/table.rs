//! Which socket a datagram is for.

use alloc::{sync::Arc, vec::Vec};
use core::net::{IpAddr, SocketAddr};

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

/// The sockets by port.
static TABLE: [SpinLock<Vec<Entry>>; SHARDS] = [const { SpinLock::new(Vec::new()) }; SHARDS];

fn shard(port: u16) -> &'static SpinLock<Vec<Entry>> {
    &TABLE[usize::from(port) % SHARDS]
}

/// Enters a socket, or changes its entry.
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
    let mut entries = shard(names.local.port()).lock();
    match entries.iter_mut().find(|other| Arc::ptr_eq(&other.socket, socket)) {
        Some(old) => *old = entry,
        None => entries.push(entry),
    }
}

/// Takes a socket out.
pub(super) fn remove(socket: &UdpSocket, port: u16) {
    let mut entries = shard(port).lock();
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
    let entries = shard(flow.local.port()).lock();
    let mut best: Option<(&Entry, u32)> = None;
    let mut sharing = 0usize;
    for entry in entries.iter() {
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
    let entries = shard(flow.local.port()).lock();
    let fits = |entry: &&Entry| entry.score(flow).is_some() && entry.socket.wants_group(flow);
    entries.iter().filter(fits).map(|entry| entry.socket.clone()).collect()
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
