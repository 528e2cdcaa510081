//! What administrators set for all of TCP (`net.ipv4.tcp_*` in /proc/sys). Sockets begin with the values of the moment
//! in which they are made; the others count at once.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::congestion::Algorithm;

/// A number that can be set.
pub struct Tunable {
    /// Its name behind `net.ipv4.`.
    pub name: &'static str,
    value: AtomicU32,
    range: (u32, u32),
}

impl Tunable {
    const fn new(name: &'static str, value: u32, least: u32, most: u32) -> Self {
        Tunable { name, value: AtomicU32::new(value), range: (least, most) }
    }

    /// Its value.
    #[inline]
    pub fn get(&self) -> u32 {
        self.value.load(Relaxed)
    }

    /// Whether it isn't 0.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.get() != 0
    }

    /// Sets it; false if it cannot have that value.
    pub fn set(&self, value: u64) -> bool {
        let (least, most) = self.range;
        let fits = u32::try_from(value).is_ok_and(|value| (least..=most).contains(&value));
        if fits {
            self.value.store(value as u32, Relaxed);
        }
        fits
    }
}

macro_rules! tunables {
    ($($(#[$documentation:meta])* $constant:ident = $name:literal: $value:expr, $least:expr, $most:expr;)*) => {
        $($(#[$documentation])* pub static $constant: Tunable = Tunable::new($name, $value, $least, $most);)*
        /// All of them.
        pub static ALL: &[&Tunable] = &[$(&$constant),*];
    };
}

tunables! {
    /// Connections that an accept queue has no room for are reset.
    ABORT_ON_OVERFLOW = "tcp_abort_on_overflow": 0, 0, 1;
    /// 0 no ECN, 1 offered and accepted, 2 accepted.
    ECN = "tcp_ecn": 2, 0, 2;
    /// Seconds in FIN-WAIT-2 after close.
    FIN_TIMEOUT = "tcp_fin_timeout": 60, 1, 3600;
    /// Seconds between keep-alive probes.
    KEEP_INTERVAL = "tcp_keepalive_intvl": 75, 1, 32_767;
    /// Keep-alive probes without an answer that end a connection.
    KEEP_COUNT = "tcp_keepalive_probes": 9, 1, 127;
    /// Seconds of silence before the first keep-alive probe.
    KEEP_IDLE = "tcp_keepalive_time": 7200, 1, 32_767;
    /// The most half-open connections of a listener.
    HALF_OPEN_MOST = "tcp_max_syn_backlog": 1024, 1, 65_536;
    /// The most connections in TIME-WAIT.
    TIME_WAIT_MOST = "tcp_max_tw_buckets": 32_768, 0, 262_144;
    /// Whether receive buffers grow.
    MODERATE_RECEIVE_BUFFER = "tcp_moderate_rcvbuf": 1, 0, 1;
    /// TCP_NOTSENT_LOWAT.
    UNSENT_LOW_WATER = "tcp_notsent_lowat": u32::MAX, 0, u32::MAX;
    /// Retransmissions before an established connection is given up.
    RETRIES = "tcp_retries2": 15, 1, 255;
    /// Whether SACK is offered and accepted.
    SACK = "tcp_sack": 1, 0, 1;
    /// Whether the congestion window shrinks while nothing is sent.
    SLOW_START_AFTER_IDLE = "tcp_slow_start_after_idle": 1, 0, 1;
    /// How often a SYN-ACK is sent again.
    ANSWER_RETRIES = "tcp_synack_retries": 5, 0, 30;
    /// How often a SYN is sent again.
    SYN_RETRIES = "tcp_syn_retries": 6, 1, 127;
    /// SYN cookies: 0 never, 1 when the queue of half-open connections is full.
    COOKIES = "tcp_syncookies": 1, 0, 1;
    /// Whether timestamps are offered and accepted.
    TIMESTAMPS = "tcp_timestamps": 1, 0, 2;
    /// Whether window scaling is offered and accepted.
    WINDOW_SCALING = "tcp_window_scaling": 1, 0, 1;
}

/// The sizes of a buffer in bytes: least, at first, at most.
pub type Sizes = [AtomicU32; 3];

/// `tcp_rmem`.
pub static RECEIVE_BUFFER: Sizes = [AtomicU32::new(4096), AtomicU32::new(64 << 10), AtomicU32::new(6 << 20)];
/// `tcp_wmem`.
pub static SEND_BUFFER: Sizes = [AtomicU32::new(4096), AtomicU32::new(128 << 10), AtomicU32::new(4 << 20)];

/// `tcp_congestion_control`, as its number.
static ALGORITHM: AtomicU32 = AtomicU32::new(Algorithm::Cubic as u32);

/// Bytes of a buffer at first.
#[inline]
pub fn first(sizes: &Sizes) -> u32 {
    sizes[1].load(Relaxed)
}

/// Bytes to which a buffer grows.
#[inline]
pub fn most(sizes: &Sizes) -> u32 {
    sizes[2].load(Relaxed)
}

/// The congestion control of new sockets.
pub fn algorithm() -> Algorithm {
    [Algorithm::Reno, Algorithm::Cubic]
        .into_iter()
        .find(|&algorithm| algorithm as u32 == ALGORITHM.load(Relaxed))
        .unwrap_or(Algorithm::Cubic)
}

/// Sets the congestion control of new sockets.
pub fn set_algorithm(algorithm: Algorithm) {
    ALGORITHM.store(algorithm as u32, Relaxed);
}
