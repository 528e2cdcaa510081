//! Lists of Unix sockets (sock_diag(7), `struct unix_diag_req`).

use alloc::vec::Vec;

use rumpkern::{Errno, Result};

use super::{
    Answer,
    diagnostics::BY_FAMILY,
    message::{Message, flag},
};
use crate::{
    socket::Domain,
    unix::{Snapshot, sockets},
};

/// Bytes of the request.
const REQUEST: usize = 24;
/// Attributes (`UNIX_DIAG_*`), and the bits that ask for them (`UDIAG_SHOW_*`).
const NAME: u16 = 0;
const PEER: u16 = 2;
const PENDING: u16 = 3;
const QUEUES: u16 = 4;
const MEMORY: u16 = 5;
const SHUTDOWN: u16 = 6;
const USER: u16 = 7;
const SHOW_NAME: u32 = 1;
const SHOW_PEER: u32 = 4;
const SHOW_PENDING: u32 = 8;
const SHOW_QUEUES: u32 = 16;
const SHOW_MEMORY: u32 = 32;
const SHOW_USER: u32 = 64;

/// Linux's numbers of TCP's states stand for the states of all sockets.
fn state(socket: &Snapshot) -> u8 {
    match (socket.listening, socket.connected) {
        (true, _) => 10,
        (_, true) => 1,
        _ => 7,
    }
}

/// Answers a request; true for a dump.
pub(super) fn handle(message: &Message<'_>, answer: &mut Answer<'_>) -> Result<bool> {
    let request = message.payload.first_chunk::<REQUEST>().ok_or(Errno::EINVAL)?;
    let word =
        |at: usize| u32::from_ne_bytes([request[at], request[at + 1], request[at + 2], request[at + 3]]);
    let (states, inode, show) = (word(4), word(8), word(12));
    let dumps = message.flags & flag::DUMP == flag::DUMP;
    let fits = |socket: &&Snapshot| match dumps {
        true => states >> state(socket) & 1 == 1,
        false => socket.inode as u32 == inode,
    };
    let sockets = sockets();
    let mut found = sockets.iter().filter(fits).peekable();
    if !dumps && found.peek().is_none() {
        return Err(Errno::ENOENT);
    }
    found.for_each(|socket| describe(answer, show, socket));
    Ok(dumps)
}

/// `struct unix_diag_msg` and what was asked for besides.
fn describe(answer: &mut Answer<'_>, show: u32, socket: &Snapshot) {
    let mut head = [0; 16];
    head[..3].copy_from_slice(&[Domain::Unix as u8, socket.style as u8, state(socket)]);
    head[4..8].copy_from_slice(&(socket.inode as u32).to_ne_bytes());
    head[8..].copy_from_slice(&socket.inode.to_ne_bytes());
    let builder = answer.begin(BY_FAMILY, &head);
    let mut words = |kind, values: &[u32]| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        builder.attribute(kind, &bytes);
    };
    if show & SHOW_PEER != 0 && socket.peer != 0 {
        words(PEER, &[socket.peer as u32]);
    }
    if show & SHOW_PENDING != 0 && socket.listening {
        let pending: Vec<u32> = socket.pending.iter().map(|&inode| inode as u32).collect();
        words(PENDING, &pending);
    }
    if show & SHOW_QUEUES != 0 {
        words(QUEUES, &[socket.receive_queue, socket.send_queue]);
    }
    if show & SHOW_MEMORY != 0 {
        let (receive, send) = socket.buffers;
        words(MEMORY, &[socket.receive_queue, receive, socket.send_queue, send, 0, 0, 0, 0, 0]);
    }
    if show & SHOW_USER != 0 {
        words(USER, &[socket.uid]);
    }
    if show & SHOW_NAME != 0 && !socket.name.is_empty() {
        builder.attribute(NAME, &socket.name);
    }
    builder.attribute(SHUTDOWN, &[socket.shut]);
    builder.end();
}
