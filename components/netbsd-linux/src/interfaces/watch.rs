//! Keeping the likenesses as NetBSD's interfaces are: a thread reads a socket of route(4), which tells of changes.

use alloc::{boxed::Box, string::String, sync::Arc, vec, vec::Vec};

use netbsd::thread;
use rumpkern::{Errno, Result};
use rumpnet::{
    address::{self, Address, AddressFlags, Origin},
    interface::{self, Interface},
    route::{self, Entry, Protocol},
};
use rumpuser::CpuSet;

use super::{
    Likeness,
    messages::{self, Seen, Way},
};
use crate::call::{Caller, address_of, address_of_mut, call, int, number};

/// `PF_ROUTE`, `SOCK_RAW`; `CTL_NET`; `NET_RT_DUMP`, `NET_RT_IFLIST`.
const ROUTE: i32 = 34;
const RAW: i32 = 3;
const NETWORK: i32 = 4;
const ROUTES: i32 = 1;
const INTERFACES: i32 = 5;
/// Bytes of a list at most.
const LIST: usize = 1 << 20;
/// Lists are asked for again when they have grown meanwhile.
const TRIES: usize = 4;
/// Bytes of a message at most.
const MESSAGE: u64 = 2048;

/// A likeness.
struct Pair {
    device: Arc<Likeness>,
    interface: Arc<Interface>,
}

/// Makes the likenesses, and keeps them from now on. The network is configured.
pub fn start() -> Result<()> {
    // First, so that no change is missed.
    let socket = call(number::SOCKET, &mut [int(ROUTE), int(RAW), 0])? as i32;
    let mut pairs = Vec::new();
    refresh(&mut pairs);
    thread::spawn(String::from("interfaces"), CpuSet::MAX, Box::new(move || follow(socket, pairs)))?;
    Ok(())
}

fn follow(socket: i32, mut pairs: Vec<Pair>) {
    // An LWP for itself: the thread has it all the time.
    let Ok(mut caller) = Caller::borrow() else { return };
    loop {
        let place = caller.buffer_address();
        match caller.call(number::RECVFROM, &mut [int(socket), place, MESSAGE, 0, 0, 0]) {
            // ENOBUFS: messages were lost; what they told is looked for now.
            Ok(_) | Err(Errno::EINTR | Errno::ENOBUFS) => refresh(&mut pairs),
            Err(_) => return,
        }
    }
}

/// A list of the kernel's.
fn list(what: i32) -> Result<Vec<u8>> {
    let name = [NETWORK, ROUTE, 0, 0, what, 0];
    for _ in 0..TRIES {
        let mut length = 0u64;
        let place = address_of_mut(&mut length);
        call(number::SYSCTL, &mut [address_of(&name), 6, 0, place, 0, 0])?;
        let room = usize::try_from(length).unwrap_or(LIST).saturating_add(4096).min(LIST);
        let mut bytes = vec![0u8; room];
        let mut length = room as u64;
        let places = [address_of_mut(&mut bytes[..]), address_of_mut(&mut length)];
        match call(number::SYSCTL, &mut [address_of(&name), 6, places[0], places[1], 0, 0]) {
            Ok(_) => {
                bytes.truncate(length as usize);
                return Ok(bytes);
            }
            Err(Errno::ENOMEM) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::ENOMEM)
}

/// What an interface has counted.
pub fn traffic(index: u32) -> Option<[u64; 4]> {
    let all = messages::interfaces(&list(INTERFACES).ok()?);
    all.iter().find(|seen| seen.index == index).map(|seen| seen.traffic)
}

fn refresh(pairs: &mut Vec<Pair>) {
    // Without memory for the question, what was known stays.
    let Ok(bytes) = list(INTERFACES) else { return };
    for seen in messages::interfaces(&bytes) {
        if !pairs.iter().any(|pair| pair.device.index() == seen.index) {
            let device = Arc::new(Likeness::new(&seen));
            let Some(interface) = interface::attach(device.clone()) else { continue };
            pairs.push(Pair { device, interface });
        }
        if let Some(pair) = pairs.iter().find(|pair| pair.device.index() == seen.index) {
            liken(pair, &seen);
        }
    }
    if let Ok(bytes) = list(ROUTES) {
        liken_routes(pairs, &messages::ways(&bytes));
    }
}

/// Errors leave the likeness without what it can't have; there is nobody to tell.
fn liken(pair: &Pair, seen: &Seen) {
    let interface = &pair.interface;
    pair.device.set_carrier(seen.carrier);
    let _ = interface.set_mtu(seen.mtu);
    interface.set_up(seen.up);
    let present = interface.addresses.list();
    let is_seen = |entry: &Address| seen.addresses.contains(&(entry.address, entry.prefix));
    for gone in present.iter().filter(|entry| !is_seen(entry)) {
        let _ = address::remove(interface, gone.address);
    }
    for &(new, prefix) in &seen.addresses {
        if !present.iter().any(|entry| (entry.address, entry.prefix) == (new, prefix)) {
            let mut entry = Address::new(new, prefix, Origin::Static);
            entry.flags |= AddressFlags::NO_DETECTION;
            let _ = address::add(interface, entry);
        }
    }
}

fn liken_routes(pairs: &[Pair], ways: &[Way]) {
    let wanted: Vec<Entry> = ways
        .iter()
        .filter_map(|way| {
            let pair = pairs.iter().find(|pair| pair.device.index() == way.index)?;
            let mut entry = Entry::new(way.destination, way.prefix, pair.interface.index());
            entry.gateway = Some(way.gateway);
            entry.protocol = Protocol::Boot;
            Some(entry)
        })
        .collect();
    let present: Vec<Entry> = route::list().into_iter().filter(|entry| entry.gateway.is_some()).collect();
    for gone in present.iter().filter(|entry| !wanted.contains(entry)) {
        let _ = route::remove(gone.destination, gone.prefix, gone.gateway, Some(gone.interface), None);
    }
    for new in wanted.into_iter().filter(|entry| !present.contains(entry)) {
        let _ = route::add(new);
    }
}
