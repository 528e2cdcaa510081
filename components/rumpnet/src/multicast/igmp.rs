//! IGMP: routers learn which groups are wanted (RFC 3376, and RFC 2236 while an older router asks).

use alloc::sync::Arc;
use core::net::{IpAddr, Ipv4Addr};

use super::{ALL_HOSTS, News, answer, heard};
use crate::{
    checksum::{self, Sum},
    interface::Interface,
    ip::{Incoming, Outgoing, counters, output, protocol},
    link,
    packet::{Chain, Packet},
    service::{MILLISECOND, SECOND},
};

const QUERY: u8 = 0x11;
const REPORT2: u8 = 0x16;
const LEAVE2: u8 = 0x17;
const REPORT3: u8 = 0x22;

/// Where reports of version 3 go.
const ROUTERS3: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
/// Where version 2 says goodbye.
const ALL_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
/// The IP option that has routers look (RFC 2113).
const ROUTER_ALERT: [u8; 4] = [0x94, 4, 0, 0];
/// For how long an older router counts as present: twice the usual query interval and an answer's time.
const OLDER_PRESENT: u64 = 260 * SECOND;

/// A query, in tenths of seconds.
struct Query {
    group: Ipv4Addr,
    within: u64,
    older: bool,
}

fn parse(bytes: &[u8]) -> Option<(u8, Query)> {
    let &[kind, code, _, _, a, b, c, d] = bytes.first_chunk::<8>()?;
    let older = bytes.len() < 12;
    let within = match code {
        // Version 1 answers within ten seconds.
        0 if older => 100,
        128.. if !older => u64::from(code & 0xf | 0x10) << ((code >> 4 & 7) + 3),
        _ => code.into(),
    };
    Some((kind, Query { group: Ipv4Addr::new(a, b, c, d), within, older }))
}

/// Takes a message.
pub(crate) fn input(incoming: &Incoming<'_>, mut data: Chain) {
    let length = data.len();
    if incoming.interface.is_loopback() || length > 1500 || !data.pull_up(length) {
        return;
    }
    if checksum::of(data.first()) != 0 {
        counters::ip::IN_HEADER_ERRORS.increment();
        return;
    }
    let Some((kind, query)) = parse(data.first()) else { return };
    match kind {
        QUERY => {
            if query.older {
                incoming.interface.groups.older4.set(OLDER_PRESENT);
            }
            let group = (!query.group.is_unspecified()).then_some(IpAddr::V4(query.group));
            answer(incoming.interface, true, group, query.within * 100 * MILLISECOND);
        }
        // Another machine has told already.
        REPORT2 => heard(incoming.interface, query.group.into()),
        _ => {}
    }
}

/// Reads arbitrary bytes: for fuzzing.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let _ = parse(bytes);
}

/// Tells of a group.
pub(super) fn tell(interface: &Arc<Interface>, group: Ipv4Addr, news: News) {
    if group == ALL_HOSTS {
        return;
    }
    let mut packet = Packet::default();
    let older = interface.groups.older4.is_set();
    let destination = match (older, news) {
        (false, _) => ROUTERS3,
        (true, News::Left) => ALL_ROUTERS,
        (true, _) => group,
    };
    if older {
        let message = packet.header.prepend(8);
        message.fill(0);
        message[0] = if news == News::Left { LEAVE2 } else { REPORT2 };
        message[4..].copy_from_slice(&group.octets());
    } else {
        let message = packet.header.prepend(16);
        message.fill(0);
        message[0] = REPORT3;
        message[7] = 1;
        message[8] = news.record();
        message[12..].copy_from_slice(&group.octets());
    }
    let mut sum = Sum::new();
    sum.add(packet.header.bytes());
    packet.header.bytes_mut()[2..4].copy_from_slice(&sum.finish().to_be_bytes());
    let own = interface.addresses.list().into_iter().find_map(|entry| match entry.address {
        IpAddr::V4(address) if entry.is_usable() => Some(address),
        _ => None,
    });
    let source = own.unwrap_or(Ipv4Addr::UNSPECIFIED);
    let outgoing = Outgoing {
        hop_limit: 1,
        traffic_class: 0xc0,
        options: &ROUTER_ALERT,
        ..Outgoing::new(source.into(), destination.into(), protocol::IGMP)
    };
    output::header4(&mut packet, &outgoing, (source, destination), 0, output::DONT_FRAGMENT);
    let hardware = link::group_address(destination.into());
    let _ = link::output(interface, 0, hardware, link::IPV4, &mut packet);
}
