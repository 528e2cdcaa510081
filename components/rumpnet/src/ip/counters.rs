//! What the internet layer counts, as RFC 4293 names it in `/proc/net/snmp` and `/proc/net/snmp6`.

rumpkern::counters! {
    /// Of both versions.
    pub mod ip {
        IN_HEADER_ERRORS: "Packets with a malformed header",
        IN_ADDRESS_ERRORS: "Packets to or from addresses that can't be",
        IN_UNKNOWN_PROTOCOLS: "Packets of protocols that nobody handles",
        IN_DISCARDS: "Packets dropped for want of memory",
        IN_DELIVERS: "Packets handed to transport protocols",
        OUT_REQUESTS: "Packets that transport protocols sent",
        OUT_DISCARDS: "Packets to send dropped for want of room",
        OUT_NO_ROUTES: "Packets to send without a route",
        REASSEMBLY_REQUIRED: "Fragments received",
        REASSEMBLY_DONE: "Packets reassembled",
        REASSEMBLY_FAILED: "Packets that could not be reassembled",
        FRAGMENTED: "Packets cut into fragments",
        FRAGMENT_FAILED: "Packets that would have to be cut and must not",
        FRAGMENTS_MADE: "Fragments made",
    }
}

rumpkern::counters! {
    /// ICMP of both versions.
    pub mod icmp {
        IN_MESSAGES: "ICMP messages received",
        IN_ERRORS: "ICMP messages with errors",
        IN_CHECKSUM_ERRORS: "ICMP messages with a wrong checksum",
        IN_UNREACHABLE: "Destination unreachable received",
        IN_ECHOS: "Echo requests received",
        IN_ECHO_REPLIES: "Echo replies received",
        OUT_MESSAGES: "ICMP messages sent",
        OUT_UNREACHABLE: "Destination unreachable sent",
        OUT_ECHO_REPLIES: "Echo replies sent",
        OUT_RATE_LIMITED: "ICMP errors not sent because there were many",
        NEIGHBOUR_CONFLICTS: "Messages of machines that use an address of ours",
    }
}

/// Registers the counters, once.
pub(crate) fn register() {
    use core::sync::atomic::{AtomicBool, Ordering};
    static DONE: AtomicBool = AtomicBool::new(false);
    if !DONE.swap(true, Ordering::Relaxed) {
        rumpkern::counter::register(&ip::GROUP);
        rumpkern::counter::register(&icmp::GROUP);
    }
}
