//! The sockets.

use alloc::{format, string::String, vec::Vec};
use core::{
    fmt::Write,
    net::{IpAddr, SocketAddr},
};

use rumpnet::{
    netlink, packet_socket,
    socket::Domain,
    sockets::{self, Snapshot},
};

const TCP: i32 = 6;
const UDP: i32 = 17;
const RAW: i32 = 255;
/// `TCP_LISTEN`.
const LISTEN: u8 = 10;
/// `TCP_TIME_WAIT`.
const TIME_WAIT: u8 = 6;

fn end(address: SocketAddr) -> String {
    match address.ip() {
        IpAddr::V4(four) => format!("{:08X}:{:04X}", u32::from_ne_bytes(four.octets()), address.port()),
        IpAddr::V6(six) => {
            let mut text = String::new();
            for word in six.octets().chunks_exact(4) {
                let word = word.first_chunk().map_or(0, |word| u32::from_ne_bytes(*word));
                let _ = write!(text, "{word:08X}");
            }
            let _ = write!(text, ":{:04X}", address.port());
            text
        }
    }
}

fn heading(domain: Domain, rest: &str) -> String {
    match domain {
        Domain::Inet6 => format!(
            "  sl  {:<38}{:<38}st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode{rest}\n",
            "local_address", "remote_address"
        ),
        _ => format!(
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode{rest}\n"
        ),
    }
}

fn line(number: usize, socket: &Snapshot) -> String {
    format!(
        "{number:4}: {} {} {:02X} {:08X}:{:08X} {:02X}:{:08X} {:08X} {:5} {:8} {} 1 0000000000000000",
        end(socket.local),
        end(socket.remote),
        socket.state,
        if socket.state == LISTEN { 0 } else { socket.send_queue },
        socket.receive_queue,
        socket.timer.kind,
        socket.timer.milliseconds / 10,
        socket.retransmits,
        socket.uid,
        0,
        socket.inode
    )
}

fn table(protocol: i32, domain: Domain) -> String {
    let is_tcp = protocol == TCP;
    let mut text = heading(domain, if is_tcp { "" } else { " ref pointer drops" });
    let mut number = 0;
    let _ = sockets::for_each(protocol, |socket| {
        if socket.domain != domain {
            return;
        }
        let line = line(number, socket);
        number += 1;
        if is_tcp {
            // Retransmission timeout, delayed acknowledgement, its mode, congestion window, slow start threshold.
            let line = format!("{line} 20 4 0 10 -1");
            let _ = writeln!(text, "{line:<149}");
        } else {
            let line = format!("{line} {}", socket.drops);
            let _ = writeln!(text, "{line:<127}");
        }
    });
    text
}

/// /proc/net/tcp.
pub(super) fn tcp() -> String {
    table(TCP, Domain::Inet)
}

/// /proc/net/tcp6.
pub(super) fn tcp6() -> String {
    table(TCP, Domain::Inet6)
}

/// /proc/net/udp.
pub(super) fn udp() -> String {
    table(UDP, Domain::Inet)
}

/// /proc/net/udp6.
pub(super) fn udp6() -> String {
    table(UDP, Domain::Inet6)
}

/// /proc/net/raw.
pub(super) fn raw() -> String {
    table(RAW, Domain::Inet)
}

/// /proc/net/raw6.
pub(super) fn raw6() -> String {
    table(RAW, Domain::Inet6)
}

/// /proc/net/packet.
pub(super) fn packet() -> String {
    let mut text = String::from("sk       RefCnt Type Proto  Iface R Rmem   User   Inode\n");
    for socket in packet_socket::list() {
        let _ = writeln!(
            text,
            "0000000000000000 {:<6} {:<4} {:04x}   {:<5} 1 {:<6} {:<6} {:<6}",
            2, socket.style, socket.protocol, socket.interface, socket.waiting, socket.uid, socket.inode
        );
    }
    text
}

/// /proc/net/netlink.
pub(super) fn netlink() -> String {
    let mut text = String::from(
        "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n",
    );
    for socket in netlink::list() {
        let _ = writeln!(
            text,
            "0000000000000000 {:<3} {:<10} {:08x} {:<8} {:<8} {:<5} {:<8} {:<8} {:<8}",
            socket.protocol,
            socket.port,
            socket.groups,
            socket.waiting,
            0,
            0,
            2,
            socket.dropped,
            socket.inode
        );
    }
    text
}

/// How many sockets of a protocol and family there are: in use, without a descriptor, in TIME-WAIT.
fn count(protocol: i32, domain: Domain) -> (usize, usize, usize) {
    let (mut used, mut orphans, mut waiting) = (0, 0, 0);
    let _ = sockets::for_each(protocol, |socket| {
        if socket.domain == domain {
            match (socket.state, socket.inode) {
                (TIME_WAIT, _) => waiting += 1,
                (_, 0) if protocol == TCP => orphans += 1,
                _ => used += 1,
            }
        }
    });
    (used, orphans, waiting)
}

/// /proc/net/sockstat.
pub(super) fn totals() -> String {
    let (tcp, orphans, waiting) = count(TCP, Domain::Inet);
    let (udp, _, _) = count(UDP, Domain::Inet);
    let (raw, _, _) = count(RAW, Domain::Inet);
    let six = [TCP, UDP, RAW].map(|protocol| count(protocol, Domain::Inet6).0);
    let all = tcp + udp + raw + six.iter().sum::<usize>() + netlink::list().len();
    let allocated = tcp + six[0] + orphans;
    format!(
        "sockets: used {all}\nTCP: inuse {tcp} orphan {orphans} tw {waiting} alloc {allocated} mem 0\n\
         UDP: inuse {udp} mem 0\nUDPLITE: inuse 0\nRAW: inuse {raw}\nFRAG: inuse 0 memory 0\n"
    )
}

/// /proc/net/sockstat6.
pub(super) fn totals6() -> String {
    let [tcp, udp, raw] = [TCP, UDP, RAW].map(|protocol| count(protocol, Domain::Inet6).0);
    format!(
        "TCP6: inuse {tcp}\nUDP6: inuse {udp}\nUDPLITE6: inuse 0\nRAW6: inuse {raw}\nFRAG6: inuse 0 memory 0\n"
    )
}

/// /proc/net/unix.
pub(super) fn unix() -> Vec<u8> {
    let mut text = Vec::from(b"Num       RefCount Protocol Flags    Type St Inode Path\n");
    for socket in rumpnet::unix::sockets() {
        let flags = if socket.listening { 0x10000 } else { 0 };
        let state = if socket.connected { 3 } else { 1 };
        let (style, inode) = (socket.style as i32, socket.inode);
        let line =
            format!("0000000000000000: 00000002 00000000 {flags:08X} {style:04X} {state:02X} {inode:5}");
        text.extend_from_slice(line.as_bytes());
        if !socket.name.is_empty() {
            text.push(b' ');
            // Zero bytes of abstract names are shown so.
            text.extend(socket.name.iter().map(|&byte| if byte == 0 { b'@' } else { byte }));
        }
        text.push(b'\n');
    }
    text
}
