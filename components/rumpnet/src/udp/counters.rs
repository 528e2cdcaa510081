//! What UDP counts (RFC 4113; /proc/net/snmp).

rumpkern::counters! {
    /// Both versions of IP together.
    pub mod udp {
        IN_DATAGRAMS: "Datagrams delivered to sockets",
        NO_PORTS: "Datagrams for ports without a socket",
        IN_ERRORS: "Datagrams that were malformed",
        OUT_DATAGRAMS: "Datagrams sent",
        RCVBUF_ERRORS: "Datagrams dropped because a socket's buffer was full",
        SNDBUF_ERRORS: "Datagrams not sent for lack of memory",
        IN_CHECKSUM_ERRORS: "Datagrams with a wrong checksum",
    }
}
