//! Addresses: RTM_GETADDR, RTM_NEWADDR and RTM_DELADDR.

use alloc::sync::Arc;
use core::net::IpAddr;

use rumpkern::{Errno, Result};

use super::{deadline_in, family, header, kind, seconds_until, word};
use crate::{
    address::{self, Address, AddressFlags, Origin},
    interface::{self, Interface},
    netlink::{
        Answer,
        message::{Message, find, find_address, find_word, flag},
    },
};

/// Bytes of `struct ifaddrmsg`.
const HEADER: usize = 8;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const LABEL: u16 = 3;
const BROADCAST: u16 = 4;
const CACHE_INFO: u16 = 6;
const FLAGS: u16 = 8;

/// `RT_SCOPE_*` of an address.
pub(crate) fn scope(address: IpAddr) -> u8 {
    match address {
        _ if address.is_loopback() => 254,
        IpAddr::V6(six) if address::is_link_local(six) => 253,
        IpAddr::V4(four) if four.is_link_local() => 253,
        _ => 0,
    }
}

fn family_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { family::INET } else { family::INET6 }
}

/// Describes an address in an answer or a notification.
pub(crate) fn describe(answer: &mut Answer<'_>, interface: u32, entry: &Address, gone: bool) {
    let mut head =
        [family_of(entry.address), entry.prefix, entry.flags.bits() as u8, scope(entry.address), 0, 0, 0, 0];
    head[4..].copy_from_slice(&interface.to_ne_bytes());
    let builder = answer.begin(if gone { kind::DELADDR } else { kind::NEWADDR }, &head);
    builder.address(ADDRESS, entry.address);
    if entry.address.is_ipv4() {
        builder.address(LOCAL, entry.address);
        if let Some(broadcast) = entry.broadcast {
            builder.address(BROADCAST, broadcast.into());
        }
        if let Some(interface) = interface::by_index(interface) {
            builder.name(LABEL, interface.name());
        }
    }
    builder.word(FLAGS, entry.flags.bits());
    // struct ifa_cacheinfo: the times are in hundredths of a second.
    let hundredths = |time: u64| (time / 10_000_000) as u32;
    let mut cache = [0; 16];
    for (place, value) in cache.chunks_exact_mut(4).zip([
        seconds_until(entry.preferred_until),
        seconds_until(entry.valid_until),
        hundredths(entry.created),
        hundredths(entry.updated),
    ]) {
        place.copy_from_slice(&value.to_ne_bytes());
    }
    builder.attribute(CACHE_INFO, &cache);
    builder.end();
}

/// RTM_GETADDR: of one family or all, of one interface or all.
pub(super) fn get(message: &Message<'_>, dumps: bool, answer: &mut Answer<'_>) -> Result<bool> {
    let (head, end) = header::<HEADER>(message);
    if !dumps {
        let wanted = find_address(&message.payload[end..], ADDRESS)?.ok_or(Errno::EINVAL)?;
        let interface = address::owner(wanted).ok_or(Errno::EADDRNOTAVAIL)?;
        let entry = interface.addresses.find(wanted).ok_or(Errno::EADDRNOTAVAIL)?;
        describe(answer, interface.index(), &entry, false);
        return Ok(false);
    }
    let index = word(&head, 4);
    for interface in interface::list() {
        if index != 0 && index != interface.index() {
            continue;
        }
        for entry in interface.addresses.list() {
            if head[0] == family::UNSPEC || head[0] == family_of(entry.address) {
                describe(answer, interface.index(), &entry, false);
            }
        }
    }
    Ok(true)
}

/// The interface and address of a request.
fn subject(message: &Message<'_>) -> Result<(Arc<Interface>, IpAddr)> {
    let (head, end) = header::<HEADER>(message);
    let attributes = &message.payload[end..];
    let interface = interface::by_index(word(&head, 4)).ok_or(Errno::ENODEV)?;
    let given = match find_address(attributes, LOCAL)? {
        Some(local) => Some(local),
        None => find_address(attributes, ADDRESS)?,
    };
    let address = given.ok_or(Errno::EINVAL)?;
    if head[0] != family_of(address) { Err(Errno::EINVAL) } else { Ok((interface, address)) }
}

/// RTM_NEWADDR.
pub(super) fn add(message: &Message<'_>) -> Result<bool> {
    let (head, end) = header::<HEADER>(message);
    let attributes = &message.payload[end..];
    let (interface, wanted) = subject(message)?;
    if interface.addresses.find(wanted).is_some()
        && (message.flags & flag::EXCL != 0 || message.flags & flag::REPLACE == 0)
    {
        return Err(Errno::EEXIST);
    }
    let mut entry = Address::new(wanted, head[1], Origin::Static);
    if let Some(IpAddr::V4(broadcast)) = find_address(attributes, BROADCAST)? {
        entry.broadcast = Some(broadcast);
    }
    let flags = find_word(attributes, FLAGS).unwrap_or(u32::from(head[2]));
    let settable = AddressFlags::NO_DETECTION | AddressFlags::OPTIMISTIC | AddressFlags::NO_PREFIX_ROUTE;
    entry.flags |= AddressFlags::from_bits_truncate(flags) & settable;
    if let Some(cache) = find(attributes, CACHE_INFO) {
        let (preferred, valid) = (word(cache, 0), word(cache, 4));
        if valid == 0 || preferred > valid {
            return Err(Errno::EINVAL);
        }
        entry.preferred_until = deadline_in(preferred);
        entry.valid_until = deadline_in(valid);
        entry.flags.set(AddressFlags::PERMANENT, valid == u32::MAX);
    }
    address::add(&interface, entry)?;
    Ok(false)
}

/// RTM_DELADDR.
pub(super) fn remove(message: &Message<'_>) -> Result<bool> {
    let (interface, wanted) = subject(message)?;
    address::remove(&interface, wanted)?;
    Ok(false)
}
