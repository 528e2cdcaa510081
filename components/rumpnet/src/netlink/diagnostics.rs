//! Lists of sockets (sock_diag(7)), as `ss` asks for them.

use core::net::{IpAddr, SocketAddr};

use rumpkern::{Errno, Result};

use super::{
    Answer,
    message::{Message, find_word, flag},
    unix_diagnostics,
};
use crate::{
    socket::Domain,
    sockets::{self, Snapshot},
};

/// SOCK_DIAG_BY_FAMILY.
pub(super) const BY_FAMILY: u16 = 20;
/// TCPDIAG_GETSOCK, the older request for TCP.
const TCP_OLD: u16 = 18;
/// DCCPDIAG_GETSOCK: there is no DCCP.
const DCCP_OLD: u16 = 19;
/// INET_DIAG_REQ_PROTOCOL: a protocol whose number takes more than a byte (MPTCP).
const PROTOCOL: u16 = 3;
/// Bytes of `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
const MEMORY_INFO: u16 = 1;
const INFO: u16 = 2;
const CONGESTION: u16 = 4;
const SOCKET_MEMORY: u16 = 7;
const SHUTDOWN: u16 = 8;

/// What is asked for.
struct Request {
    family: u8,
    protocol: i32,
    extensions: u8,
    states: u32,
}

fn read(message: &Message<'_>) -> Result<Request> {
    let bytes = message.payload;
    let byte = |at: usize| bytes.get(at).copied().ok_or(Errno::EINVAL);
    let states = |at: usize| {
        let four = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(Errno::EINVAL)?;
        Ok::<u32, Errno>(u32::from_ne_bytes(*four))
    };
    if message.kind == TCP_OLD {
        // struct inet_diag_req: family, lengths, extensions, the identity (48 bytes), states.
        return Ok(Request { family: byte(0)?, protocol: 6, extensions: byte(3)?, states: states(52)? });
    }
    let long = bytes.get(REQUEST..).and_then(|rest| find_word(rest, PROTOCOL));
    let protocol = match long {
        Some(long) => i32::try_from(long).map_err(|_| Errno::EINVAL)?,
        None => byte(1)?.into(),
    };
    Ok(Request { family: byte(0)?, protocol, extensions: byte(2)?, states: states(4)? })
}

/// Answers a request; true for a dump.
pub(super) fn handle(message: &Message<'_>, answer: &mut Answer<'_>) -> Result<bool> {
    match message.kind {
        BY_FAMILY | TCP_OLD => {}
        DCCP_OLD => return Err(Errno::ENOENT),
        _ => return Err(Errno::EINVAL),
    }
    let request = read(message)?;
    let domain = match i32::from(request.family) {
        family if family == Domain::Inet as i32 => Domain::Inet,
        family if family == Domain::Inet6 as i32 => Domain::Inet6,
        family if family == Domain::Unix as i32 && message.kind == BY_FAMILY => {
            return unix_diagnostics::handle(message, answer);
        }
        // Packet and netlink sockets: /proc lists them.
        _ => return Err(Errno::ENOENT),
    };
    let dumps = message.flags & flag::DUMP == flag::DUMP;
    let wanted = if dumps { None } else { Some(identity(message)?) };
    let mut found = false;
    sockets::for_each(request.protocol, |snapshot| {
        let fits = match wanted {
            Some((local, remote)) => snapshot.local == local && snapshot.remote == remote,
            None => snapshot.domain == domain && request.states >> snapshot.state & 1 == 1,
        };
        if fits && (dumps || !found) {
            found = true;
            describe(answer, &request, snapshot);
        }
    })?;
    if !dumps && !found { Err(Errno::ENOENT) } else { Ok(dumps) }
}

/// The socket that a request without a dump is about.
fn identity(message: &Message<'_>) -> Result<(SocketAddr, SocketAddr)> {
    let bytes = message.payload.first_chunk::<REQUEST>().ok_or(Errno::EINVAL)?;
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let address = |at: usize| -> IpAddr {
        if bytes[0] == Domain::Inet as u8 {
            IpAddr::from([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        } else {
            let mut octets = [0; 16];
            octets.copy_from_slice(&bytes[at..at + 16]);
            IpAddr::from(octets)
        }
    };
    Ok((SocketAddr::new(address(12), port(8)), SocketAddr::new(address(28), port(10))))
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(four) => {
            let mut all = [0; 16];
            all[..4].copy_from_slice(&four.octets());
            all
        }
        IpAddr::V6(six) => six.octets(),
    }
}

/// `struct inet_diag_msg` and what was asked for besides.
fn describe(answer: &mut Answer<'_>, request: &Request, snapshot: &Snapshot) {
    let mut head = [0; 72];
    head[..4].copy_from_slice(&[request.family, snapshot.state, snapshot.timer.kind, snapshot.retransmits]);
    head[4..6].copy_from_slice(&snapshot.local.port().to_be_bytes());
    head[6..8].copy_from_slice(&snapshot.remote.port().to_be_bytes());
    head[8..24].copy_from_slice(&octets(snapshot.local.ip()));
    head[24..40].copy_from_slice(&octets(snapshot.remote.ip()));
    head[40..44].copy_from_slice(&snapshot.interface.to_ne_bytes());
    head[44..52].copy_from_slice(&snapshot.inode.to_ne_bytes());
    for (at, value) in [
        (52, snapshot.timer.milliseconds),
        (56, snapshot.receive_queue),
        (60, snapshot.send_queue),
        (64, snapshot.uid),
        (68, snapshot.inode as u32),
    ] {
        head[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    let builder = answer.begin(BY_FAMILY, &head);
    let wants = |extension: u16| request.extensions >> (extension - 1) & 1 == 1;
    if wants(MEMORY_INFO) {
        builder.attribute(MEMORY_INFO, &[0; 16]);
    }
    if wants(SOCKET_MEMORY) {
        let words =
            [snapshot.receive_queue, snapshot.receive_buffer, snapshot.send_queue, snapshot.send_buffer];
        let mut bytes = [0; 36];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        builder.attribute(SOCKET_MEMORY, &bytes);
    }
    if wants(INFO) && !snapshot.information.is_empty() {
        builder.attribute(INFO, &snapshot.information);
    }
    if wants(CONGESTION) && !snapshot.congestion.is_empty() {
        builder.name(CONGESTION, snapshot.congestion);
    }
    builder.attribute(SHUTDOWN, &[0]);
    builder.end();
}
