//! From a connection to IP: the cached route, and packets around segments.

use core::net::{IpAddr, SocketAddr};

use rumpkern::{Errno, Result};
use rumpuser::rumpuser_cpu;

use super::{
    control::{Network, Tcb},
    counters,
    segment::{Flags, Segment},
};
use crate::{
    checksum,
    interface::Posted,
    ip::{self, Outgoing, protocol},
    packet::{Chain, Checksum, Packet, Segmentation},
    route::{self, Query, Route},
};

/// What IP is told of a connection's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathSettings {
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// TOS or traffic class, without ECN.
    pub traffic_class: u8,
    /// IPv6's flow label.
    pub flow_label: u32,
    /// Through which interface; 0 for any.
    pub interface: u32,
}

impl Default for PathSettings {
    fn default() -> Self {
        PathSettings { hop_limit: 64, traffic_class: 0, flow_label: 0, interface: 0 }
    }
}

/// How a connection's segments get out.
pub struct Path {
    /// Our end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// What IP is told.
    pub settings: PathSettings,
    route: Option<Route>,
    /// The queue that segments leave by. Devices that learn where a flow belongs bring the peer's by the same.
    pub queue: u16,
    /// What was sent since this was last taken: a flush is due.
    pub sent: Posted,
}

/// Where a TCP header has its checksum.
const CHECKSUM: u16 = 16;

/// Bytes of an IP header without options.
fn ip_header(address: IpAddr) -> usize {
    if address.is_ipv4() { 20 } else { 40 }
}

impl Path {
    /// Between two ends.
    pub fn new(local: SocketAddr, remote: SocketAddr, settings: PathSettings, route: Option<Route>) -> Self {
        Path { local, remote, settings, route, queue: 0, sent: Posted::default() }
    }

    /// The route, looked up again if others may be better now.
    pub fn route(&mut self) -> Result<&Route> {
        if !self.route.as_ref().is_some_and(Route::is_valid) {
            let query = Query {
                destination: self.remote.ip(),
                source: Some(self.local.ip()),
                interface: (self.settings.interface > 0).then_some(self.settings.interface),
            };
            self.route = Some(route::lookup(&query)?);
        }
        self.route.as_ref().ok_or(Errno::EHOSTUNREACH)
    }

    /// The payload of a full segment on this path, without options.
    pub fn segment(&mut self) -> u16 {
        let header = ip_header(self.remote.ip());
        let mtu = self.route().map_or(1500, |route| route.mtu);
        Tcb::path_segment(mtu, header)
    }

    /// The user is at it, on this CPU: the flow moves to its queue, unless something is on its way that would be overtaken.
    #[inline]
    pub fn follow(&mut self, idle: bool) {
        if idle {
            self.queue = rumpuser_cpu() as u16;
        }
    }

    /// The peer answered: the neighbour is there.
    #[inline]
    pub fn confirm(&self) {
        if let Some(route) = &self.route {
            route.confirm();
        }
    }

    fn transmit(&mut self, segment: &Segment, payload: Chain, segment_size: u16) -> Result<()> {
        let (local, remote) = (self.local, self.remote);
        let mut outgoing = Outgoing::new(local.ip(), remote.ip(), protocol::TCP);
        outgoing.hop_limit = self.settings.hop_limit;
        outgoing.traffic_class = self.settings.traffic_class & !3 | if segment.congestion { 2 } else { 0 };
        outgoing.flow_label = self.settings.flow_label;
        outgoing.dont_fragment = true;
        let queue = usize::from(self.queue);
        let route = self.route()?;
        outgoing.queue = queue % route.interface.queue_count().max(1);
        let sent = Posted::by(&route.interface, outgoing.queue);
        let result = send(route, &outgoing, (local.port(), remote.port()), segment, payload, segment_size);
        self.sent |= sent;
        result
    }
}

impl Network for Path {
    fn send(&mut self, segment: &Segment, payload: Chain, segment_size: u16) {
        // What is not sent is as lost: it will be sent again.
        let _ = self.transmit(segment, payload, segment_size);
    }
}

/// Sends one segment.
pub fn send(
    route: &Route,
    outgoing: &Outgoing<'_>,
    ports: (u16, u16),
    segment: &Segment,
    payload: Chain,
    segment_size: u16,
) -> Result<()> {
    counters::tcp::OUT_SEGMENTS.increment();
    let mut packet = Packet { payload, ..Packet::default() };
    segment.write(ports.0, ports.1, &mut packet.header);
    let sum = checksum::pseudo_header(outgoing.source, outgoing.destination, protocol::TCP, packet.len());
    let field = usize::from(CHECKSUM);
    if let Some(bytes) = packet.header.bytes_mut().get_mut(field..field + 2) {
        bytes.copy_from_slice(&sum.to_be_bytes());
    }
    packet.checksum = Checksum::Partial { start: 0, offset: CHECKSUM };
    if packet.payload.len() > usize::from(segment_size) && segment_size > 0 {
        packet.segmentation = Some(Segmentation {
            size: segment_size,
            version6: outgoing.destination.is_ipv6(),
            ecn: segment.flags.contains(Flags::CWR),
        });
    }
    ip::send(route, outgoing, &mut packet)
}

/// Sends a segment that belongs to no connection (a reset, the answer of TIME-WAIT or of a listener) back to where
/// `incoming` came from.
pub fn answer(incoming: &ip::Incoming<'_>, ports: (u16, u16), segment: &Segment) {
    let scoped = matches!(incoming.source, IpAddr::V6(address) if address.is_unicast_link_local());
    let query = Query {
        destination: incoming.source,
        source: Some(incoming.destination),
        interface: scoped.then(|| incoming.interface.index()),
    };
    if let Ok(route) = route::lookup(&query) {
        let mut outgoing = Outgoing::new(incoming.destination, incoming.source, protocol::TCP);
        outgoing.dont_fragment = true;
        outgoing.queue = incoming.queue % route.interface.queue_count().max(1);
        let _ = send(&route, &outgoing, ports, segment, Chain::new(), 0);
    }
}
