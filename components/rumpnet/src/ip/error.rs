//! What went wrong with a packet that we sent: ICMP errors and failures of our own, told to the protocol that
//! sent it.

use alloc::sync::Arc;
use core::net::{IpAddr, SocketAddr};

use rumpkern::Errno;

use super::{output::HEADER6, path, protocol, v4, v6};
use crate::{interface::Interface, packet::Packet};

/// What happened to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowErrorKind {
    /// The destination can't be reached, with ICMP's code.
    Unreachable(u8),
    /// A router wants packets of at most so many bytes, IP header included.
    TooBig(usize),
    /// Its hop limit, or the time for its reassembly, was used up; with ICMP's code.
    TimeExceeded(u8),
    /// A header made no sense to somebody; with ICMP's code.
    ParameterProblem(u8),
}

/// An error about a flow of ours.
#[derive(Clone)]
pub struct FlowError<'a> {
    /// Where it was heard of.
    pub interface: &'a Arc<Interface>,
    /// The transport protocol.
    pub protocol: u8,
    /// Our end (port 0 for protocols without).
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// What happened.
    pub kind: FlowErrorKind,
    /// What a socket says.
    pub errno: Errno,
    /// Whether it is one that connections end for, while they are being made.
    pub hard: bool,
    /// Who says so: a router, or the other end; `None` for this machine.
    pub offender: Option<IpAddr>,
    /// ICMP's type and code.
    pub icmp: (u8, u8),
    /// The transport header that was sent, and what followed, as far as it was quoted: 8 bytes at least.
    pub quoted: &'a [u8],
}

/// What a quoted packet is.
struct Quote {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// Where the transport header is.
    transport: usize,
    length: usize,
}

/// Reads an IP packet that may be cut off.
fn quote(bytes: &[u8]) -> Option<Quote> {
    match bytes.first()? >> 4 {
        4 => {
            let header = v4::parse(bytes)?;
            (header.fragment_offset == 0).then_some(Quote {
                source: header.source.into(),
                destination: header.destination.into(),
                protocol: header.protocol,
                transport: header.length,
                length: header.total,
            })
        }
        6 => {
            let header = v6::parse(bytes)?;
            let (mut next, mut at) = (header.next, HEADER6);
            for _ in 0..8 {
                let length = match next {
                    protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                        (usize::from(*bytes.get(at + 1)?) + 1) * 8
                    }
                    protocol::FRAGMENT => {
                        if u16::from_be_bytes([*bytes.get(at + 2)?, *bytes.get(at + 3)?]) & !7 != 0 {
                            return None;
                        }
                        8
                    }
                    _ => break,
                };
                next = *bytes.get(at)?;
                at += length;
            }
            Some(Quote {
                source: header.source.into(),
                destination: header.destination.into(),
                protocol: next,
                transport: at,
                length: HEADER6 + header.payload,
            })
        }
        _ => None,
    }
}

/// Reads arbitrary bytes: for fuzzing.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    if let Some(quote) = quote(bytes) {
        let _ = bytes.get(quote.transport..);
    }
}

/// Tells the protocol of an error that an ICMP message quotes a packet for. `TooBig(0)`: the router didn't say.
pub(crate) fn quoted(
    interface: &Arc<Interface>,
    offender: Option<IpAddr>,
    bytes: &[u8],
    (mut kind, errno, hard): (FlowErrorKind, Errno, bool),
    icmp: (u8, u8),
) {
    let Some(quote) = quote(bytes) else { return };
    let Some(transport) = bytes.get(quote.transport..).filter(|transport| transport.len() >= 8) else {
        return;
    };
    if offender.is_some() && !is_ours(quote.source) {
        return;
    }
    if let FlowErrorKind::TooBig(mtu) = &mut kind
        && *mtu == 0
    {
        *mtu = path::plateau(quote.length);
    }
    if let FlowErrorKind::TooBig(mtu) = kind
        && mtu >= quote.length
    {
        // It would have got through.
        return;
    }
    let ports = match quote.protocol {
        protocol::TCP | protocol::UDP => (
            u16::from_be_bytes([transport[0], transport[1]]),
            u16::from_be_bytes([transport[2], transport[3]]),
        ),
        // The identifier of an echo is the port of a ping socket.
        protocol::ICMP | protocol::ICMPV6 => (u16::from_be_bytes([transport[4], transport[5]]), 0),
        _ => (0, 0),
    };
    let error = FlowError {
        interface,
        protocol: quote.protocol,
        local: SocketAddr::new(quote.source, ports.0),
        remote: SocketAddr::new(quote.destination, ports.1),
        kind,
        errno,
        hard,
        offender,
        icmp,
        quoted: transport,
    };
    let plausible = tell(&error);
    if let FlowErrorKind::TooBig(mtu) = kind
        && plausible
    {
        path::reduce(quote.destination, mtu);
    }
}

fn is_ours(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => v4::is_own(address),
        IpAddr::V6(address) => address.is_loopback() || crate::address::owner(address.into()).is_some(),
    }
}

/// Tells the protocol; returns whether it has such a flow and the quoted packet can be one of it, so that what
/// the message says about the path can be believed.
fn tell(error: &FlowError<'_>) -> bool {
    let raw = crate::raw::error(error);
    match error.protocol {
        protocol::UDP => crate::udp::error(error),
        protocol::ICMP | protocol::ICMPV6 => true,
        protocol::TCP => crate::tcp::error(error),
        _ => raw,
    }
}

/// A packet of ours, from the IP header on, can't be sent after all.
pub(crate) fn unsendable(interface: &Arc<Interface>, packet: &Packet, errno: Errno) {
    let mut bytes = [0; 128];
    let header = packet.header.bytes();
    let length = header.len().min(bytes.len());
    bytes[..length].copy_from_slice(&header[..length]);
    let length = length + packet.payload.copy_to(0, &mut bytes[length..]);
    // As a router would say: host unreachable, or address unreachable.
    let icmp = if bytes[0] >> 4 == 4 { (3, 1) } else { (1, 3) };
    quoted(interface, None, &bytes[..length], (FlowErrorKind::Unreachable(icmp.1), errno, true), icmp);
}
