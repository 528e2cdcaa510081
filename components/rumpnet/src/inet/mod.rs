//! What sockets of IPv4 and IPv6 have in common.

use core::sync::atomic::{AtomicU16, Ordering::Relaxed};

static FIRST_UNPRIVILEGED_PORT: AtomicU16 = AtomicU16::new(1024);

/// The first port that any program may bind to (net.ipv4.ip_unprivileged_port_start).
pub fn first_unprivileged_port() -> u16 {
    FIRST_UNPRIVILEGED_PORT.load(Relaxed)
}
