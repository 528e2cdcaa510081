//! /proc/net: tables with their headings.

use rumpvfs::generated::{Entry, Fixed};

/// The directory.
pub(super) fn directory() -> Entry {
    let mut fixed = Fixed::new();
    for (name, text) in [
        (
            "dev",
            "Inter-|   Receive                                                |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo \
             colls carrier compressed\n    \
             lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     \
             0       0          0\n",
        ),
        ("if_inet6", ""),
        (
            "netlink",
            "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n",
        ),
        ("packet", "sk       RefCnt Type Proto  Iface R Rmem   User   Inode\n"),
        ("route", "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"),
        ("tcp", INET),
        ("tcp6", INET6),
        ("udp", INET),
        ("udp6", INET6),
        ("unix", "Num       RefCount Protocol Flags    Type St Inode Path\n"),
    ] {
        fixed.add(name, Entry::constant(text));
    }
    Entry::directory(fixed)
}

const INET: &str =
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
const INET6: &str = "  sl  local_address                         remote_address                        st tx_queue \
                     rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
