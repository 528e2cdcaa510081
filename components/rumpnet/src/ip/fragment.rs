//! Cutting packets that are larger than the path's MTU (RFC 791 3.2, RFC 8200 4.5).

use core::net::IpAddr;

use rumpkern::{Errno, Result};

use super::{Outgoing, counters, output, protocol};
use crate::{
    checksum::Sum,
    link,
    packet::{Chain, Checksum, Fragment, Packet},
    route::Route,
};

/// Sends a packet in fragments. `headers` is the length of the IP header.
#[cold]
pub(super) fn send(
    route: &Route,
    outgoing: &Outgoing<'_>,
    headers: usize,
    packet: &mut Packet,
) -> Result<()> {
    let version4 = outgoing.destination.is_ipv4();
    if outgoing.dont_fragment {
        counters::ip::FRAGMENT_FAILED.increment();
        return Err(Errno::EMSGSIZE);
    }
    let mut whole = core::mem::take(packet);
    complete_checksum(&mut whole);
    let data = whole.into_chain().map_err(|_| Errno::ENOBUFS)?;
    let extra = if version4 { 0 } else { 8 };
    let room = route.mtu.saturating_sub(headers + extra) & !7;
    if room == 0 {
        return Err(Errno::EMSGSIZE);
    }
    let identification = output::identification(outgoing.source, outgoing.destination);
    let mut offset = 0;
    while offset < data.len() {
        let length = room.min(data.len() - offset);
        let more = offset + length < data.len();
        let mut piece = Packet { payload: compact(data.slice(offset..offset + length)), ..Packet::default() };
        match (outgoing.source, outgoing.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let field = (offset / 8) as u16 | if more { output::MORE_FRAGMENTS } else { 0 };
                output::header4(&mut piece, outgoing, (source, destination), identification as u16, field);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = piece.header.prepend(8);
                header[0] = outgoing.protocol;
                header[1] = 0;
                header[2..4].copy_from_slice(&(offset as u16 | u16::from(more)).to_be_bytes());
                header[4..8].copy_from_slice(&identification.to_be_bytes());
                output::header6(&mut piece, outgoing, (source, destination), protocol::FRAGMENT);
            }
            _ => return Err(Errno::EINVAL),
        }
        let kind = if version4 { link::IPV4 } else { link::IPV6 };
        output::resolve(&route.interface, &route.neighbour, outgoing.queue, kind, &mut piece)?;
        counters::ip::FRAGMENTS_MADE.increment();
        offset += length;
    }
    counters::ip::FRAGMENTED.increment();
    Ok(())
}

/// Sums what the device would have.
fn complete_checksum(packet: &mut Packet) {
    let Checksum::Partial { start, offset } = packet.checksum else { return };
    packet.checksum = Checksum::Unknown;
    let (start, field) = (usize::from(start), usize::from(start + offset));
    let header = packet.header.bytes_mut();
    if field + 2 > header.len() {
        return;
    }
    let mut sum = Sum::new();
    sum.add(&header[start..]);
    sum.add_chain(&packet.payload, 0);
    let sum = match sum.finish() {
        // UDP's zero means that there is none; for others both are zero.
        0 => 0xffff,
        sum => sum,
    };
    header[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Devices take a bounded number of pieces: many small ones become one.
fn compact(chain: Chain) -> Chain {
    if chain.fragments().len() <= 4 {
        return chain;
    }
    let mut copy = Chain::new();
    let mut piece: Option<Fragment> = None;
    for fragment in chain.fragments() {
        let mut bytes = fragment.bytes();
        while !bytes.is_empty() {
            let mut target = match piece.take().or_else(|| Fragment::new(0).ok()) {
                Some(target) => target,
                None => return chain,
            };
            let count = target.append(bytes);
            bytes = &bytes[count..];
            if target.room() == 0 {
                copy.push(target);
            } else {
                piece = Some(target);
            }
        }
    }
    if let Some(piece) = piece {
        copy.push(piece);
    }
    copy
}
