//! Seeing packets and sending them.

use core::sync::atomic::Ordering::Relaxed;

use alloc::vec::Vec;
use rumpkern::{
    Errno, Result,
    poll::Events,
    uio::{Sink, Source},
};

use super::{
    ALL, PacketSocket,
    filter::Subject,
    ring::{Entry, HEADER},
};
use crate::{
    datagram::{Datagram, Metadata},
    device::TransmitError,
    inet::control,
    interface::{
        self, Interface, LINK_HEADER, Posted,
        tap::{Seen, Tap},
    },
    netlink::route::link::hardware_type,
    option::level,
    packet::{Chain, Checksum, Packet},
    socket::{Address, Ancillary, Control, MessageFlags, PacketAddress, Received, Style},
    udp::gather,
};

/// PACKET_AUXDATA.
const AUXDATA: i32 = 8;
/// `TP_STATUS_*`: the program's; cut; the checksum is not filled in; it was found right.
const USER: u32 = 1;
const COPY: u32 = 2;
const CHECKSUM_MISSING: u32 = 8;
const CHECKSUM_VALID: u32 = 128;

/// To whom a packet is (`PACKET_*`).
fn direction(interface: &Interface, incoming: bool, destination: [u8; 6]) -> u8 {
    match destination {
        _ if !incoming => 4,
        _ if interface.is_loopback() => 0,
        [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => 1,
        _ if destination[0] & 1 != 0 => 2,
        _ if destination == interface.hardware() => 0,
        _ => 3,
    }
}

/// A packet as a filter sees it.
struct Seeable<'a> {
    data: &'a Chain,
    address: &'a PacketAddress,
    network: usize,
}

impl Subject for Seeable<'_> {
    fn length(&self) -> usize {
        self.data.len()
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) -> bool {
        self.data.copy_to(offset, bytes) == bytes.len()
    }

    fn network(&self) -> usize {
        self.network
    }

    fn ancillary(&self, offset: u32) -> Option<u32> {
        Some(match offset {
            0 => u32::from(self.address.protocol),
            4 => u32::from(self.address.direction),
            8 => self.address.interface,
            28 => u32::from(self.address.hardware_type),
            36 => rumpuser::rumpuser_cpu() as u32,
            // No VLAN tags were taken off.
            44 | 48 | 60 => 0,
            _ => return None,
        })
    }
}

impl Tap for PacketSocket {
    fn packet(&self, seen: &Seen<'_>) {
        let bound = *self.bound.lock();
        let index = seen.interface.index();
        if bound.protocol == 0
            || bound.interface != 0 && bound.interface != index
            || !seen.incoming && (bound.protocol != ALL || self.ignores_outgoing.load(Relaxed))
        {
            return;
        }
        let mut link = [0; LINK_HEADER];
        let from_header = seen.header.len().min(LINK_HEADER);
        link[..from_header].copy_from_slice(&seen.header[..from_header]);
        if from_header + seen.rest.copy_to(0, &mut link[from_header..]) < LINK_HEADER {
            return;
        }
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, p0, p1] = link;
        let protocol = u16::from_be_bytes([p0, p1]);
        if bound.protocol != ALL && bound.protocol != protocol {
            return;
        }
        let address = PacketAddress {
            protocol,
            interface: index,
            hardware_type: hardware_type(seen.interface),
            direction: direction(seen.interface, seen.incoming, [d0, d1, d2, d3, d4, d5]),
            length: 6,
            address: [s0, s1, s2, s3, s4, s5, 0, 0],
        };
        let mut data = match Chain::copy_of(seen.header) {
            Ok(data) => data,
            Err(_) => return self.lose(),
        };
        data.append(seen.rest.clone());
        let network = if self.base.style() == Style::Datagram {
            data.advance(LINK_HEADER);
            0
        } else {
            LINK_HEADER
        };
        let wire_length = data.len();
        let filter = self.filter.lock().clone();
        if let Some(filter) = filter {
            match filter.run(&Seeable { data: &data, address: &address, network }) {
                0 => return,
                wanted => data.truncate(wanted),
            }
        }
        let mut status = match seen.checksum {
            Checksum::Partial { .. } => CHECKSUM_MISSING,
            Checksum::Verified => CHECKSUM_VALID,
            Checksum::Unknown => 0,
        };
        if data.len() < wire_length {
            status |= COPY;
        }
        let time = rumpvfs::vnode::now().max(0) as u64;
        let ring = self.ring.lock().clone();
        let taken = match ring {
            Some(ring) => {
                let at = (HEADER + 16).next_multiple_of(16) + self.reserve.load(Relaxed) as usize - network;
                data.truncate(ring.frame_size().saturating_sub(at));
                let header = ring_header(&address, &data, (wire_length, at, network), time);
                ring.put(&Entry { header, at, data: &data })
            }
            None => {
                let metadata = Metadata { wire_length, time, status, ..Metadata::default() };
                let datagram = Datagram { data, source: Address::Packet(address), metadata };
                self.queue.push(datagram, self.base.receive_buffer())
            }
        };
        if !taken {
            return self.lose();
        }
        self.taken.fetch_add(1, Relaxed);
        self.base.changes.notify(Events::IN | Events::RDNORM);
    }
}

/// `struct tpacket2_hdr` without its status, and `struct sockaddr_ll`.
fn ring_header(
    address: &PacketAddress,
    data: &Chain,
    (wire_length, at, network): (usize, usize, usize),
    time: u64,
) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let mut put = |place: usize, bytes: &[u8]| header[place..place + bytes.len()].copy_from_slice(bytes);
    put(4, &(wire_length as u32).to_ne_bytes());
    put(8, &(data.len() as u32).to_ne_bytes());
    put(12, &(at as u16).to_ne_bytes());
    put(14, &((at + network) as u16).to_ne_bytes());
    put(16, &((time / 1_000_000_000) as u32).to_ne_bytes());
    put(20, &((time % 1_000_000_000) as u32).to_ne_bytes());
    put(32, &17u16.to_ne_bytes());
    put(34, &address.protocol.to_be_bytes());
    put(36, &address.interface.to_ne_bytes());
    put(40, &address.hardware_type.to_ne_bytes());
    put(42, &[address.direction, address.length]);
    put(44, &address.address);
    header
}

impl PacketSocket {
    fn lose(&self) {
        self.dropped.fetch_add(1, Relaxed);
    }

    pub(super) fn receive_packet(&self, sink: &mut Sink<'_>, flags: MessageFlags) -> Result<Received> {
        let peek = flags.contains(MessageFlags::PEEK);
        let look = || match self.base.take_error() {
            Err(error) => Some(Err(error)),
            Ok(()) => self.queue.take(peek).map(Ok),
        };
        let datagram = match look() {
            Some(taken) => taken?,
            None if flags.contains(MessageFlags::DONT_WAIT) => {
                interface::poll();
                look().ok_or(Errno::EAGAIN)??
            }
            None => {
                let deadline = self.base.receive_deadline(false);
                interface::wait(&self.base.changes, deadline, look).map_err(|error| {
                    match error.into() {
                        Errno::ETIMEDOUT => Errno::EAGAIN,
                        other => other,
                    }
                })??
            }
        };
        let (length, mut cut) = datagram.deliver(sink, flags)?;
        if sink.transferred() >= datagram.data.len() {
            // A filter's cut is not the program's.
            cut -= MessageFlags::TRUNCATED;
        }
        let mut controls = Vec::new();
        control::common(&self.base, &datagram.metadata, &mut controls);
        if self.auxiliary.load(Relaxed) {
            // struct tpacket_auxdata: status, lengths, where the network header is, VLAN tags.
            let mut bytes = [0; 20];
            let metadata = &datagram.metadata;
            bytes[..4].copy_from_slice(&(metadata.status | USER).to_ne_bytes());
            bytes[4..8].copy_from_slice(&(metadata.wire_length as u32).to_ne_bytes());
            bytes[8..12].copy_from_slice(&(datagram.data.len() as u32).to_ne_bytes());
            let network = if self.base.style() == Style::Datagram { 0 } else { LINK_HEADER as u16 };
            bytes[14..16].copy_from_slice(&network.to_ne_bytes());
            controls.push(Control { level: level::PACKET, kind: AUXDATA, data: bytes.as_slice().into() });
        }
        Ok(Received {
            length,
            source: Some(datagram.source),
            ancillary: Ancillary { controls, ..Ancillary::default() },
            flags: cut,
        })
    }

    pub(super) fn send_packet(
        &self,
        source: &mut Source<'_>,
        to: Option<&Address>,
        posted: &mut Posted,
    ) -> Result<usize> {
        let bound = *self.bound.lock();
        let to = match to {
            Some(Address::Packet(address)) => Some(*address),
            Some(_) => return Err(Errno::EINVAL),
            None => None,
        };
        let index = to.map_or(bound.interface, |address| address.interface);
        let interface = interface::by_index(index).ok_or(Errno::ENXIO)?;
        if !interface.is_up() {
            return Err(Errno::ENETDOWN);
        }
        let length = source.remaining();
        let has_header = self.base.style() == Style::Raw;
        let most = interface.mtu() + if has_header { LINK_HEADER } else { 0 };
        if length > most {
            return Err(Errno::EMSGSIZE);
        }
        let mut payload = gather(source)?;
        let mut packet = Packet::default();
        let header = packet.header.prepend(LINK_HEADER);
        if has_header {
            if payload.copy_to(0, header) < LINK_HEADER {
                return Err(Errno::EINVAL);
            }
            payload.advance(LINK_HEADER);
        } else {
            let address = to.ok_or(Errno::EDESTADDRREQ)?;
            header[..6].copy_from_slice(&address.address[..6]);
            header[6..12].copy_from_slice(&interface.hardware());
            let protocol = if address.protocol == 0 { bound.protocol } else { address.protocol };
            header[12..].copy_from_slice(&protocol.to_be_bytes());
        }
        packet.payload = payload;
        let queue = rumpuser::rumpuser_cpu() % interface.queue_count().max(1);
        *posted |= Posted::by(&interface, queue);
        interface.transmit(queue, &mut packet).map_err(|error| match error {
            TransmitError::Full => Errno::ENOBUFS,
            TransmitError::Refused => Errno::ENETDOWN,
        })?;
        Ok(length)
    }
}
