//! TCP_INFO (`struct tcp_info`), and whose a connection is.

use crate::{
    base::SocketBase,
    socket::Domain,
    tcp::{Connection, Info, State, owner::Owner},
};

use super::StreamSocket;

/// Bytes of `struct tcp_info` (Linux 6.1).
pub const SIZE: usize = 232;

/// A socket takes a connection or listener.
pub(super) fn remember(owner: &Owner, base: &SocketBase) {
    owner.set(base.inode(), base.creator().uid, base.domain() == Domain::Inet6);
}

/// It lets it go.
pub(super) fn forget(connection: &Connection) {
    let owner = &connection.owner;
    owner.set(0, owner.uid(), owner.is_version6());
}

/// The value of TCP_INFO.
pub(super) fn of(socket: &StreamSocket) -> [u8; SIZE] {
    if let Some(connection) = socket.connection() {
        return encode(&connection.info());
    }
    let mut bytes = [0; SIZE];
    match socket.listener() {
        // A listener shows its accept queue where others show segments.
        Some(listener) => {
            let (waiting, most) = listener.backlog();
            bytes[0] = State::Listen as u8;
            put(&mut bytes, 24, waiting as u32);
            put(&mut bytes, 28, most as u32);
        }
        None => bytes[0] = State::Closed as u8,
    }
    bytes
}

fn put(bytes: &mut [u8; SIZE], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}

fn put_long(bytes: &mut [u8; SIZE], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
}

/// Numbers about a connection as `struct tcp_info` has them.
pub fn encode(info: &Info) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    bytes[..8].copy_from_slice(&[
        info.state as u8,
        info.congestion_state,
        info.attempts,
        0,
        info.backoff,
        info.options,
        info.scales.0 & 15 | info.scales.1 << 4,
        0,
    ]);
    let (round_trip, variation, least_round_trip) = info.round_trip;
    for (at, value) in [
        (8, info.timeout),
        // tcpi_ato: 40 ms.
        (12, 40_000),
        (16, info.segments.0),
        (20, info.segments.1),
        (24, info.unacknowledged),
        (28, info.sacked),
        (32, info.lost),
        (44, info.idle.0),
        (52, info.idle.1),
        (56, info.idle.1),
        (60, info.segments.0 + 40),
        (64, info.receive_space),
        (68, round_trip),
        (72, variation),
        (76, info.windows.1),
        (80, info.windows.0),
        (84, info.segments.0),
        (88, 3),
        (96, info.receive_space),
        (100, info.retransmissions),
        (144, info.send_queue.1 as u32),
        (148, least_round_trip),
        (228, info.send_window),
    ] {
        put(&mut bytes, at, value);
    }
    put_long(&mut bytes, 112, u64::MAX);
    put_long(&mut bytes, 120, info.totals.0);
    put_long(&mut bytes, 128, info.totals.1);
    put_long(&mut bytes, 200, info.totals.0 + info.send_queue.0.saturating_sub(info.send_queue.1) as u64);
    bytes
}
