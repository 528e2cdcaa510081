//! Sending datagrams.

use core::net::SocketAddr;

use alloc::sync::Arc;
use rumpkern::{Errno, Result, uio::Source};
use rumpuser::memory::PAGE_SIZE;

use super::{HEADER, PROTOCOL, UdpSocket, counters::udp};
use crate::{
    checksum,
    inet::control::Wishes,
    interface::Posted,
    ip::protocol,
    packet::{Chain, Checksum, Fragment, Packet},
    route::Route,
    socket::{Address, Ancillary, MessageFlags},
};

/// The largest payload over IPv4 and over IPv6.
const LARGEST4: usize = 65535 - 20 - HEADER;
const LARGEST6: usize = 65535 - HEADER;
/// Datagrams that one send with UDP_SEGMENT makes (UDP_MAX_SEGMENTS).
const SEGMENTS: usize = 128;

/// A datagram that grows until the cork goes.
pub(super) struct Corked {
    destination: SocketAddr,
    wishes: Wishes,
    payload: Chain,
}

/// Reads a whole message. ENOBUFS, EFAULT.
pub(crate) fn gather(source: &mut Source<'_>) -> Result<Chain> {
    let mut chain = Chain::new();
    while source.remaining() > 0 {
        let mut fragment = Fragment::new(0).map_err(|_| Errno::ENOBUFS)?;
        while fragment.room() > 0 && source.remaining() > 0 {
            let limit = fragment.room().min(PAGE_SIZE);
            if fragment.append_from(source, limit)? == 0 {
                return Err(Errno::EFAULT);
            }
        }
        chain.push(fragment);
    }
    Ok(chain)
}

impl UdpSocket {
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
        if length > LARGEST6 {
            return Err(Errno::EMSGSIZE);
        }
        let to = to.filter(|address| !matches!(address, Address::Unnamed));
        let holds =
            self.cork.load(core::sync::atomic::Ordering::Relaxed) || flags.contains(MessageFlags::MORE);
        let mut corked = self.corked.lock();
        if holds || corked.is_some() {
            if corked.is_none() {
                let destination = self.destination(to)?;
                let wishes = Wishes::read(&ancillary.controls)?;
                *corked = Some(Corked { destination, wishes, payload: Chain::new() });
            }
            let payload = gather(source)?;
            if let Some(waiting) = corked.as_mut() {
                if waiting.payload.len() + payload.len() > LARGEST6 {
                    *corked = None;
                    return Err(Errno::EMSGSIZE);
                }
                waiting.payload.append(payload);
            }
            if !holds && let Some(ready) = corked.take() {
                self.transmit(ready.destination, &ready.wishes, ready.payload, posted)?;
            }
            return Ok(length);
        }
        drop(corked);
        let destination = self.destination(to)?;
        let wishes = if ancillary.controls.is_empty() {
            Wishes::default()
        } else {
            Wishes::read(&ancillary.controls)?
        };
        let payload = gather(source)?;
        self.transmit(destination, &wishes, payload, posted)?;
        Ok(length)
    }

    fn destination(&self, to: Option<&Address>) -> Result<SocketAddr> {
        let destination = self.core.destination(to)?;
        if destination.port() == 0 { Err(Errno::EINVAL) } else { Ok(destination) }
    }

    /// Sends what the cork held back.
    pub(super) fn push_corked(&self, posted: &mut Posted) -> Result<()> {
        match self.corked.lock().take() {
            Some(ready) => self.transmit(ready.destination, &ready.wishes, ready.payload, posted),
            None => Ok(()),
        }
    }

    fn transmit(
        &self,
        destination: SocketAddr,
        wishes: &Wishes,
        payload: Chain,
        posted: &mut Posted,
    ) -> Result<()> {
        self.ensure_port()?;
        let route = self.core.route_to(destination, wishes)?;
        let own = self.segment_size.load(core::sync::atomic::Ordering::Relaxed);
        let segment = usize::from(wishes.segment_size.unwrap_or(own));
        if segment == 0 || payload.len() <= segment {
            return self.transmit_one(&route, destination, wishes, payload, posted);
        }
        if payload.len().div_ceil(segment) > SEGMENTS || segment + HEADER > route.mtu {
            return Err(Errno::EINVAL);
        }
        let mut start = 0;
        while start < payload.len() {
            let end = (start + segment).min(payload.len());
            self.transmit_one(&route, destination, wishes, payload.slice(start..end), posted)?;
            start = end;
        }
        Ok(())
    }

    fn transmit_one(
        &self,
        route: &Arc<Route>,
        destination: SocketAddr,
        wishes: &Wishes,
        payload: Chain,
        posted: &mut Posted,
    ) -> Result<()> {
        let most = if destination.is_ipv4() { LARGEST4 } else { LARGEST6 };
        if payload.len() > most {
            return Err(Errno::EMSGSIZE);
        }
        let length = HEADER + payload.len();
        let local = self.core.names().local.port();
        let sum = checksum::pseudo_header(route.source, destination.ip(), PROTOCOL as u8, length);
        let mut packet =
            Packet { payload, checksum: Checksum::Partial { start: 0, offset: 6 }, ..Packet::default() };
        let header = packet.header.prepend(HEADER);
        header[..2].copy_from_slice(&local.to_be_bytes());
        header[2..4].copy_from_slice(&destination.port().to_be_bytes());
        header[4..6].copy_from_slice(&(length as u16).to_be_bytes());
        header[6..].copy_from_slice(&sum.to_be_bytes());
        let result = self.core.output(route, destination.ip(), protocol::UDP, wishes, &mut packet, posted);
        match result {
            Ok(()) => udp::OUT_DATAGRAMS.increment(),
            Err(Errno::ENOBUFS) => udp::SNDBUF_ERRORS.increment(),
            Err(_) => {}
        }
        result
    }
}
