//! IP: input with its checks, output with its headers, what ICMP errors say of our flows.

pub mod counters;
pub mod deliver;
pub mod error;
pub mod fragment;
pub mod output;
pub mod path;
pub mod reassembly;
pub mod v4;
pub mod v6;

use alloc::sync::Arc;
use core::net::IpAddr;

pub use self::{
    error::{FlowError, FlowErrorKind},
    output::send,
};
use crate::{
    checksum,
    interface::Interface,
    packet::{Chain, Checksum},
};

/// Protocol numbers (IANA).
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6: nothing follows.
    pub const NO_NEXT: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// A packet that was received, for the transport protocols. Its data begins with the transport header.
#[derive(Clone, Copy)]
pub struct Incoming<'a> {
    /// Where it came in.
    pub interface: &'a Arc<Interface>,
    /// On which of its queues.
    pub queue: usize,
    /// The sender.
    pub source: IpAddr,
    /// Whom it was sent to.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// TOS or traffic class, with ECN in the two lowest bits.
    pub traffic_class: u8,
    /// The transport protocol.
    pub protocol: u8,
    /// It was sent to several machines, by its IP or its link address: nothing may be answered with an error.
    pub multicast_or_broadcast: bool,
    /// What is known of the transport checksum: [`Checksum::Verified`] or [`Checksum::Unknown`].
    pub checksum: Checksum,
    /// Not 0: the packet is several joined, with this much transport payload in all but the last.
    pub segment_size: u16,
    /// The IP header, with options or extension headers.
    pub header: &'a [u8],
}

impl Incoming<'_> {
    /// Whether the transport checksum is right. `data` is all of it from the transport header on.
    #[inline]
    pub fn verify(&self, data: &Chain) -> bool {
        self.checksum == Checksum::Verified
            || checksum::is_right(self.source, self.destination, self.protocol, data)
    }
}

/// How a packet is to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// The sender.
    pub source: IpAddr,
    /// Whom it is sent to, of the same version.
    pub destination: IpAddr,
    /// The transport protocol.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// TOS or traffic class, with ECN in the two lowest bits.
    pub traffic_class: u8,
    /// It must not be cut into fragments.
    pub dont_fragment: bool,
    /// On which queue of the interface.
    pub queue: usize,
    /// IPv6's flow label.
    pub flow_label: u32,
    /// IPv4 options, padded to four bytes; at most 40.
    pub options: &'a [u8],
}

impl Outgoing<'_> {
    /// With the usual values.
    pub const fn new(source: IpAddr, destination: IpAddr, protocol: u8) -> Self {
        Outgoing {
            source,
            destination,
            protocol,
            hop_limit: 64,
            traffic_class: 0,
            dont_fragment: false,
            queue: 0,
            flow_label: 0,
            options: &[],
        }
    }
}

#[cfg(test)]
mod tests;
