//! What TCP counts. The names of `/proc/net/snmp` (Tcp) and `/proc/net/netstat` (TcpExt) are in the help texts.

rumpkern::counters! {
    /// TCP.
    pub mod tcp {
        ACTIVE_OPENS: "Connections begun here (Tcp ActiveOpens)",
        PASSIVE_OPENS: "Connections accepted (Tcp PassiveOpens)",
        ATTEMPT_FAILURES: "Connections that never came about (Tcp AttemptFails)",
        ESTABLISHED_RESETS: "Established connections that ended by a reset (Tcp EstabResets)",
        IN_SEGMENTS: "Segments received (Tcp InSegs)",
        OUT_SEGMENTS: "Segments sent, large ones counted once (Tcp OutSegs)",
        RETRANSMITTED: "Segments sent again (Tcp RetransSegs)",
        IN_ERRORS: "Segments with malformed headers (Tcp InErrs)",
        IN_CHECKSUM_ERRORS: "Segments with a wrong checksum (Tcp InCsumErrors)",
        OUT_RESETS: "Resets sent (Tcp OutRsts)",
        COOKIES_SENT: "SYN cookies sent (TcpExt SyncookiesSent)",
        COOKIES_RECEIVED: "SYN cookies that came back (TcpExt SyncookiesRecv)",
        COOKIES_FAILED: "Acknowledgements that were no SYN cookies (TcpExt SyncookiesFailed)",
        LISTEN_OVERFLOWS: "Connections that found an accept queue full (TcpExt ListenOverflows)",
        LISTEN_DROPS: "SYNs and acknowledgements dropped by listeners (TcpExt ListenDrops)",
        TIME_WAIT: "Connections that went through TIME-WAIT (TcpExt TW)",
        TIME_WAIT_RECYCLED: "Connections in TIME-WAIT that a new one replaced (TcpExt TWRecycled)",
        TIME_WAIT_OVERFLOW: "Connections in TIME-WAIT that were dropped early (TcpExt TCPTimeWaitOverflow)",
        TIMEOUTS: "Connections given up after a timeout (TcpExt TCPAbortOnTimeout)",
        MEMORY_PRESSURE: "Segments dropped because buffers took too much memory (TcpExt TCPRcvQDrop)",
    }
}

/// Registers the counters, once.
pub(crate) fn register() {
    use core::sync::atomic::{AtomicBool, Ordering};
    static DONE: AtomicBool = AtomicBool::new(false);
    if !DONE.swap(true, Ordering::Relaxed) {
        rumpkern::counter::register(&tcp::GROUP);
    }
}
