//! What the protocols counted.

use alloc::{format, string::String};
use core::fmt::Write;

use rumpnet::{
    ip::counters::{icmp, ip},
    tcp::{self, counters::tcp as segments},
    udp::counters::udp,
};

/// A line of names and one of values.
fn pair(text: &mut String, group: &str, values: &[(&str, u64)]) {
    let _ = write!(text, "{group}:");
    values.iter().for_each(|(name, _)| {
        let _ = write!(text, " {name}");
    });
    let _ = write!(text, "\n{group}:");
    values.iter().for_each(|(_, value)| {
        let _ = write!(text, " {value}");
    });
    text.push('\n');
}

/// /proc/net/snmp. The counters are of both versions of IP.
pub(super) fn snmp() -> String {
    let mut text = String::new();
    pair(
        &mut text,
        "Ip",
        &[
            ("Forwarding", 2),
            ("DefaultTTL", 64),
            ("InReceives", ip::IN_DELIVERS.value() + ip::IN_HEADER_ERRORS.value()),
            ("InHdrErrors", ip::IN_HEADER_ERRORS.value()),
            ("InAddrErrors", ip::IN_ADDRESS_ERRORS.value()),
            ("ForwDatagrams", 0),
            ("InUnknownProtos", ip::IN_UNKNOWN_PROTOCOLS.value()),
            ("InDiscards", ip::IN_DISCARDS.value()),
            ("InDelivers", ip::IN_DELIVERS.value()),
            ("OutRequests", ip::OUT_REQUESTS.value()),
            ("OutDiscards", ip::OUT_DISCARDS.value()),
            ("OutNoRoutes", ip::OUT_NO_ROUTES.value()),
            ("ReasmTimeout", 0),
            ("ReasmReqds", ip::REASSEMBLY_REQUIRED.value()),
            ("ReasmOKs", ip::REASSEMBLY_DONE.value()),
            ("ReasmFails", ip::REASSEMBLY_FAILED.value()),
            ("FragOKs", ip::FRAGMENTED.value()),
            ("FragFails", ip::FRAGMENT_FAILED.value()),
            ("FragCreates", ip::FRAGMENTS_MADE.value()),
        ],
    );
    pair(
        &mut text,
        "Icmp",
        &[
            ("InMsgs", icmp::IN_MESSAGES.value()),
            ("InErrors", icmp::IN_ERRORS.value()),
            ("InCsumErrors", icmp::IN_CHECKSUM_ERRORS.value()),
            ("InDestUnreachs", icmp::IN_UNREACHABLE.value()),
            ("InEchos", icmp::IN_ECHOS.value()),
            ("InEchoReps", icmp::IN_ECHO_REPLIES.value()),
            ("OutMsgs", icmp::OUT_MESSAGES.value()),
            ("OutDestUnreachs", icmp::OUT_UNREACHABLE.value()),
            ("OutEchoReps", icmp::OUT_ECHO_REPLIES.value()),
        ],
    );
    pair(
        &mut text,
        "Tcp",
        &[
            ("RtoAlgorithm", 1),
            ("RtoMin", 200),
            ("RtoMax", 120_000),
            ("ActiveOpens", segments::ACTIVE_OPENS.value()),
            ("PassiveOpens", segments::PASSIVE_OPENS.value()),
            ("AttemptFails", segments::ATTEMPT_FAILURES.value()),
            ("EstabResets", segments::ESTABLISHED_RESETS.value()),
            ("CurrEstab", tcp::table::count().0 as u64),
            ("InSegs", segments::IN_SEGMENTS.value()),
            ("OutSegs", segments::OUT_SEGMENTS.value()),
            ("RetransSegs", segments::RETRANSMITTED.value()),
            ("InErrs", segments::IN_ERRORS.value()),
            ("OutRsts", segments::OUT_RESETS.value()),
            ("InCsumErrors", segments::IN_CHECKSUM_ERRORS.value()),
        ],
    );
    pair(&mut text, "Udp", &datagrams());
    text
}

fn datagrams() -> [(&'static str, u64); 7] {
    [
        ("InDatagrams", udp::IN_DATAGRAMS.value()),
        ("NoPorts", udp::NO_PORTS.value()),
        ("InErrors", udp::IN_ERRORS.value()),
        ("OutDatagrams", udp::OUT_DATAGRAMS.value()),
        ("RcvbufErrors", udp::RCVBUF_ERRORS.value()),
        ("SndbufErrors", udp::SNDBUF_ERRORS.value()),
        ("InCsumErrors", udp::IN_CHECKSUM_ERRORS.value()),
    ]
}

/// /proc/net/snmp6: a name and a value on each line. What is counted is counted for both versions.
pub(super) fn snmp6() -> String {
    let mut text = String::new();
    let layer = [
        ("Ip6InDelivers", ip::IN_DELIVERS.value()),
        ("Ip6InHdrErrors", ip::IN_HEADER_ERRORS.value()),
        ("Ip6OutRequests", ip::OUT_REQUESTS.value()),
        ("Icmp6InMsgs", icmp::IN_MESSAGES.value()),
        ("Icmp6OutMsgs", icmp::OUT_MESSAGES.value()),
    ];
    for (name, value) in layer {
        let _ = writeln!(text, "{name:<32}\t{value}");
    }
    for (name, value) in datagrams() {
        let name = format!("Udp6{name}");
        let _ = writeln!(text, "{name:<32}\t{value}");
    }
    text
}

/// /proc/net/netstat.
pub(super) fn netstat() -> String {
    let mut text = String::new();
    pair(
        &mut text,
        "TcpExt",
        &[
            ("SyncookiesSent", segments::COOKIES_SENT.value()),
            ("SyncookiesRecv", segments::COOKIES_RECEIVED.value()),
            ("SyncookiesFailed", segments::COOKIES_FAILED.value()),
            ("TW", segments::TIME_WAIT.value()),
            ("TWRecycled", segments::TIME_WAIT_RECYCLED.value()),
            ("ListenOverflows", segments::LISTEN_OVERFLOWS.value()),
            ("ListenDrops", segments::LISTEN_DROPS.value()),
            ("TCPAbortOnTimeout", segments::TIMEOUTS.value()),
            ("TCPTimeWaitOverflow", segments::TIME_WAIT_OVERFLOW.value()),
            ("TCPRcvQDrop", segments::MEMORY_PRESSURE.value()),
        ],
    );
    pair(&mut text, "IpExt", &[("InNoRoutes", 0)]);
    text
}
