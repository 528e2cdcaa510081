//! Sending on raw and ping sockets.

use core::{
    net::{IpAddr, SocketAddr},
    sync::atomic::Ordering::Relaxed,
};

use rumpkern::{Errno, Result, uio::Source};

use super::{HEADERS_ONLY, RawSocket, without_port};
use crate::{
    checksum::{Sum, pseudo_header},
    inet::control::Wishes,
    interface::Posted,
    ip::{self, protocol},
    packet::{Chain, Packet},
    route::Route,
    socket::{Address, Ancillary, Domain, MessageFlags},
    udp::gather,
};

/// The largest packet.
const LARGEST: usize = 65_535;
/// Types of echo requests.
const ECHO: u8 = 8;
const ECHO6: u8 = 128;
/// Bytes of an echo's header.
const ECHO_HEADER: usize = 8;

impl RawSocket {
    pub(super) fn send_message(
        &self,
        source: &mut Source<'_>,
        to: Option<&Address>,
        ancillary: &Ancillary,
        flags: MessageFlags,
        posted: &mut Posted,
    ) -> Result<usize> {
        self.core.check_send(flags)?;
        let length = source.remaining();
        if length > LARGEST {
            return Err(Errno::EMSGSIZE);
        }
        let to = to.filter(|address| !matches!(address, Address::Unnamed));
        let destination = without_port(self.core.destination(to)?);
        let wishes = Wishes::read(&ancillary.controls)?;
        let payload = gather(source)?;
        let route = self.core.route_to(destination, &wishes)?;
        if self.pings {
            self.send_echo(&route, destination, &wishes, payload, posted)?;
        } else if self.includes_header() {
            self.send_whole(&route, payload, posted)?;
        } else {
            self.send_payload(&route, destination, &wishes, payload, posted)?;
        }
        Ok(length)
    }

    /// An echo request: the identifier and the checksum are ours.
    fn send_echo(
        &self,
        route: &Route,
        destination: SocketAddr,
        wishes: &Wishes,
        mut payload: Chain,
        posted: &mut Posted,
    ) -> Result<()> {
        let version4 = destination.is_ipv4();
        if !payload.pull_up(ECHO_HEADER) {
            return Err(Errno::EINVAL);
        }
        let mut header = [0; ECHO_HEADER];
        payload.copy_to(0, &mut header);
        let (kind, number) = if version4 { (ECHO, protocol::ICMP) } else { (ECHO6, protocol::ICMPV6) };
        if header[0] != kind || header[1] != 0 {
            return Err(Errno::EINVAL);
        }
        header[4..6].copy_from_slice(&self.ensure_identifier()?.to_be_bytes());
        header[2..4].fill(0);
        let length = payload.len();
        payload.advance(ECHO_HEADER);
        let mut sum = match version4 {
            true => Sum::new(),
            false => Sum::from_folded(pseudo_header(route.source, destination.ip(), number, length)),
        };
        sum.add(&header);
        sum.add_chain(&payload, 0);
        header[2..4].copy_from_slice(&sum.finish().to_be_bytes());
        let mut packet = Packet { payload, ..Packet::default() };
        packet.header.prepend(ECHO_HEADER).copy_from_slice(&header);
        self.core.output(route, destination.ip(), number, wishes, &mut packet, posted)
    }

    /// What goes behind an IP header of the kernel's.
    fn send_payload(
        &self,
        route: &Route,
        destination: SocketAddr,
        wishes: &Wishes,
        mut payload: Chain,
        posted: &mut Posted,
    ) -> Result<()> {
        let number = self.core.base.protocol() as u8;
        if let (IpAddr::V6(_), Ok(at)) = (destination.ip(), usize::try_from(self.checksum_at.load(Relaxed))) {
            let length = payload.len();
            if length < at + 2 {
                return Err(Errno::EINVAL);
            }
            let mut bytes = alloc::vec![0; length];
            payload.copy_to(0, &mut bytes);
            bytes[at..at + 2].fill(0);
            let mut sum = Sum::from_folded(pseudo_header(route.source, destination.ip(), number, length));
            sum.add(&bytes);
            bytes[at..at + 2].copy_from_slice(&sum.finish().to_be_bytes());
            payload = Chain::copy_of(&bytes)?;
        }
        let mut packet = Packet { payload, ..Packet::default() };
        self.core.output(route, destination.ip(), number, wishes, &mut packet, posted)
    }

    /// A packet with its IP header, in which the kernel fills in what Linux fills in.
    fn send_whole(&self, route: &Route, mut payload: Chain, posted: &mut Posted) -> Result<()> {
        let total = payload.len();
        let queue = rumpuser::rumpuser_cpu() % route.interface.queue_count().max(1);
        let length = match self.core.base.domain() {
            Domain::Inet => {
                let first = payload.first().first().copied().unwrap_or(0);
                usize::from(first & 15) * 4
            }
            _ => 40,
        };
        if length < 20 || !payload.pull_up(length) {
            return Err(Errno::EINVAL);
        }
        let mut packet = Packet::default();
        {
            let header = packet.header.prepend(length);
            payload.copy_to(0, header);
            if self.core.base.domain() == Domain::Inet {
                header[2..4].copy_from_slice(&(total as u16).to_be_bytes());
                if header[12..16] == [0; 4]
                    && let IpAddr::V4(source) = route.source
                {
                    header[12..16].copy_from_slice(&source.octets());
                }
                if header[4..6] == [0; 2] {
                    header[4..6].copy_from_slice(&(crate::random::word() as u16).to_be_bytes());
                }
                header[10..12].fill(0);
                let mut sum = Sum::new();
                sum.add(header);
                header[10..12].copy_from_slice(&sum.finish().to_be_bytes());
            }
        }
        payload.advance(length);
        packet.payload = payload;
        debug_assert!(self.core.base.protocol() <= HEADERS_ONLY);
        *posted |= Posted::by(&route.interface, queue);
        ip::output::send_with_header(route, queue, &mut packet)
    }
}
