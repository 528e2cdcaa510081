//! Neighbours: RTM_GETNEIGH, RTM_NEWNEIGH, RTM_DELNEIGH.

use alloc::sync::Arc;
use core::net::IpAddr;

use rumpkern::{Errno, Result};
use rumpuser::rumpuser_clock_monotonic;

use super::{family, header, kind, word};
use crate::{
    interface::{self, Interface},
    neighbour::Snapshot,
    netlink::{
        Answer,
        message::{Message, find, find_address},
    },
};

/// Bytes of `struct ndmsg`.
const HEADER: usize = 12;
const DESTINATION: u16 = 1;
const LINK_ADDRESS: u16 = 2;
const CACHE_INFO: u16 = 3;
const PROBES: u16 = 4;
/// NTF_ROUTER.
const ROUTER: u8 = 0x80;
/// RTN_UNICAST.
const UNICAST: u8 = 1;

fn family_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { family::INET } else { family::INET6 }
}

/// Describes a neighbour in an answer or a notification.
pub(crate) fn describe(answer: &mut Answer<'_>, interface: u32, entry: &Snapshot, gone: bool) {
    let mut head = [0; HEADER];
    head[0] = family_of(entry.address);
    head[4..8].copy_from_slice(&interface.to_ne_bytes());
    head[8..10].copy_from_slice(&(entry.state as u16).to_ne_bytes());
    head[10] = if entry.router { ROUTER } else { 0 };
    head[11] = UNICAST;
    let builder = answer.begin(if gone { kind::DELNEIGH } else { kind::NEWNEIGH }, &head);
    builder.address(DESTINATION, entry.address);
    if let Some(hardware) = entry.hardware {
        builder.attribute(LINK_ADDRESS, &hardware);
    }
    builder.word(PROBES, 0);
    // struct nda_cacheinfo: hundredths of a second since it was confirmed, used, changed; and the references.
    let age = rumpuser_clock_monotonic().saturating_sub(entry.updated) / 10_000_000;
    let age = u32::try_from(age).unwrap_or(u32::MAX).to_ne_bytes();
    let mut cache = [0; 16];
    for place in [0, 4, 8] {
        cache[place..place + 4].copy_from_slice(&age);
    }
    builder.attribute(CACHE_INFO, &cache);
    builder.end();
}

/// RTM_GETNEIGH.
pub(super) fn get(message: &Message<'_>, dumps: bool, answer: &mut Answer<'_>) -> Result<bool> {
    let (head, end) = header::<HEADER>(message);
    let index = word(&head, 4);
    if !dumps {
        let wanted = find_address(&message.payload[end..], DESTINATION)?.ok_or(Errno::EINVAL)?;
        let interface = interface::by_index(index).ok_or(Errno::ENODEV)?;
        let list = interface.neighbours.list();
        let entry = list.iter().find(|entry| entry.address == wanted).ok_or(Errno::ENOENT)?;
        describe(answer, index, entry, false);
        return Ok(false);
    }
    for interface in interface::list() {
        if index != 0 && index != interface.index() {
            continue;
        }
        for entry in interface.neighbours.list() {
            if head[0] == family::UNSPEC || head[0] == family_of(entry.address) {
                describe(answer, interface.index(), &entry, false);
            }
        }
    }
    Ok(true)
}

fn subject(message: &Message<'_>) -> Result<(Arc<Interface>, IpAddr)> {
    let (head, end) = header::<HEADER>(message);
    let interface = interface::by_index(word(&head, 4)).ok_or(Errno::ENODEV)?;
    let address = find_address(&message.payload[end..], DESTINATION)?.ok_or(Errno::EINVAL)?;
    Ok((interface, address))
}

/// RTM_NEWNEIGH: fixes a neighbour's hardware address.
pub(super) fn add(message: &Message<'_>) -> Result<bool> {
    let (_, end) = header::<HEADER>(message);
    let (interface, address) = subject(message)?;
    let hardware = find(&message.payload[end..], LINK_ADDRESS).and_then(|bytes| bytes.try_into().ok());
    interface.neighbours.fix(&interface, address, hardware.ok_or(Errno::EINVAL)?)?;
    Ok(false)
}

/// RTM_DELNEIGH.
pub(super) fn remove(message: &Message<'_>) -> Result<bool> {
    let (interface, address) = subject(message)?;
    interface.neighbours.remove(&interface, address)?;
    Ok(false)
}
