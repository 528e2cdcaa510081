//! Numbers about a connection (TCP_INFO, `/proc/net/tcp`, sock_diag).

use rumpuser::NEVER;

use super::control::State;

/// Times in microseconds, sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// The state.
    pub state: State,
    /// 0 all is well, 3 repairing losses, 4 after a timeout (TCP_CA_*).
    pub congestion_state: u8,
    /// Retransmissions or probes in a row without an answer.
    pub attempts: u8,
    /// How often the timeout was doubled.
    pub backoff: u8,
    /// TCPI_OPT_*: 1 timestamps, 2 SACK, 4 window scale, 8 ECN.
    pub options: u8,
    /// The shift of the peer's window, and of ours.
    pub scales: (u8, u8),
    /// The retransmission timeout.
    pub timeout: u32,
    /// Payload of a full segment sent, and of the largest received.
    pub segments: (u32, u32),
    /// Segments on their way, reported by SACK, lost, sent again and not acknowledged.
    pub unacknowledged: u32,
    /// See above.
    pub sacked: u32,
    /// See above.
    pub lost: u32,
    /// Segments sent again, ever.
    pub retransmissions: u32,
    /// Since the last data was sent, and anything was received, milliseconds.
    pub idle: (u32, u32),
    /// Round-trip time, its deviation, the least.
    pub round_trip: (u32, u32, u32),
    /// Congestion window and slow start threshold, in segments.
    pub windows: (u32, u32),
    /// The peer's window.
    pub send_window: u32,
    /// The receive buffer's size.
    pub receive_space: u32,
    /// Bytes acknowledged, and received in order.
    pub totals: (u64, u64),
    /// Bytes queued for sending: not acknowledged, never sent.
    pub send_queue: (usize, usize),
    /// Bytes to be read.
    pub receive_queue: usize,
    /// Which timer runs: 0 none, 1 retransmission, 2 keep-alive, 4 zero window probe; and when it is due, in
    /// nanoseconds from now.
    pub timer: (u8, u64),
    /// The limits of the buffers: send, receive.
    pub buffers: (u32, u32),
}

/// The timer that is due first, of (kind, deadline).
pub(super) fn first_timer(timers: [(u8, u64); 2], now: u64) -> (u8, u64) {
    let (kind, deadline) = if timers[0].1 <= timers[1].1 { timers[0] } else { timers[1] };
    if deadline == NEVER { (0, 0) } else { (kind, deadline.saturating_sub(now)) }
}
