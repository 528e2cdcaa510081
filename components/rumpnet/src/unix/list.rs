//! All Unix sockets, as /proc and netlink list them.

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    vec::Vec,
};

use rumpuser::sync::Mutex;

use super::{Listener, UnixSocket};
use crate::socket::{Address, Style};

/// By their inodes.
static SOCKETS: Mutex<BTreeMap<u64, Weak<UnixSocket>>> = Mutex::new(BTreeMap::new());

/// A socket.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its inode.
    pub inode: u64,
    /// Its type.
    pub style: Style,
    /// Whether it listens.
    pub listening: bool,
    /// Whether it is connected.
    pub connected: bool,
    /// Its name as in `struct sockaddr_un`: a path, or a zero byte and an abstract name; empty without one.
    pub name: Vec<u8>,
    /// The inode of its peer, or 0.
    pub peer: u64,
    /// Inodes of the peers of connections that wait to be accepted.
    pub pending: Vec<u64>,
    /// Bytes that wait to be read; in a listening socket, connections that wait.
    pub receive_queue: u32,
    /// Bytes that wait at the peer; in a listening socket, the most that may wait.
    pub send_queue: u32,
    /// SO_RCVBUF and SO_SNDBUF.
    pub buffers: (u32, u32),
    /// The user.
    pub uid: u32,
    /// 1: it will receive no more, 2: nor send.
    pub shut: u8,
}

/// Adds a socket.
pub(super) fn add(socket: &Arc<UnixSocket>) {
    SOCKETS.lock().insert(socket.base.inode(), Arc::downgrade(socket));
}

/// Removes a socket.
pub(super) fn remove(socket: &UnixSocket) {
    SOCKETS.lock().remove(&socket.base.inode());
}

fn name_bytes(name: &Address) -> Vec<u8> {
    match name {
        Address::Path(path, _) => path.clone(),
        Address::Abstract(name) => [&[0], &name[..]].concat(),
        _ => Vec::new(),
    }
}

fn describe(socket: &UnixSocket) -> Snapshot {
    let base = &socket.base;
    let (mut snapshot, peer, pending) = {
        let state = socket.state.lock();
        let pending: Vec<_> = state.listener.iter().flat_map(|listener| listener.pending.clone()).collect();
        let backlog = |listener: &Listener| (listener.pending.len() as u32, listener.backlog as u32);
        let (receive_queue, send_queue) = state.listener.as_ref().map_or((state.bytes as u32, 0), backlog);
        let snapshot = Snapshot {
            inode: base.inode(),
            style: base.style(),
            listening: state.listener.is_some(),
            connected: state.connected,
            name: name_bytes(&state.name),
            peer: 0,
            pending: Vec::new(),
            receive_queue,
            send_queue,
            buffers: (base.receive_buffer() as u32, base.send_buffer() as u32),
            uid: base.creator().uid,
            shut: u8::from(state.shut_receive) | u8::from(state.shut_send) << 1,
        };
        (snapshot, state.peer.as_ref().and_then(Weak::upgrade), pending)
    };
    if let Some(peer) = peer {
        snapshot.peer = peer.base.inode();
        snapshot.send_queue = peer.state.lock().bytes as u32;
    }
    snapshot.pending =
        pending.iter().filter_map(|waiting| waiting.peer()).map(|peer| peer.base.inode()).collect();
    snapshot
}

/// Every socket, in order of the inodes.
pub fn all() -> Vec<Snapshot> {
    let sockets: Vec<_> = SOCKETS.lock().values().filter_map(Weak::upgrade).collect();
    sockets.iter().filter(|socket| !socket.is_closed()).map(|socket| describe(socket)).collect()
}
