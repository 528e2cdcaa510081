//! Multicast groups of routing sockets: who joined one hears of changes.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::sync::atomic::Ordering::Relaxed;

use once_cell::race::OnceBox;

use super::{Answer, NetlinkSocket, PORTS, ROUTE, message::Builder, route};
use crate::{
    change::{self, Change, Listener},
    interface,
};

/// Groups (`RTMGRP_*`), as bits.
mod group {
    pub const LINK: u32 = 1;
    pub const NEIGHBOUR: u32 = 4;
    pub const ADDRESS4: u32 = 0x10;
    pub const ROUTE4: u32 = 0x40;
    pub const ADDRESS6: u32 = 0x100;
    pub const ROUTE6: u32 = 0x400;
}

struct Teller;

/// Begins to listen, the first time.
pub(super) fn start() {
    static TELLER: OnceBox<Arc<dyn Listener>> = OnceBox::new();
    let mut is_first = false;
    let teller = TELLER.get_or_init(|| {
        is_first = true;
        Box::new(Arc::new(Teller))
    });
    if is_first {
        change::listen(teller);
    }
}

fn members(groups: u32) -> Vec<Arc<NetlinkSocket>> {
    let all: Vec<_> = PORTS
        .lock()
        .iter()
        .filter(|(protocol, _, _)| *protocol == ROUTE)
        .filter_map(|(_, _, socket)| socket.upgrade())
        .collect();
    all.into_iter().filter(|socket| socket.groups.load(Relaxed) & groups != 0).collect()
}

impl Listener for Teller {
    fn changed(&self, change: &Change) {
        let groups = match change {
            Change::Link { .. } => group::LINK,
            Change::Address { address, .. } if address.address.is_ipv4() => group::ADDRESS4,
            Change::Address { .. } => group::ADDRESS6,
            Change::Route { entry, .. } if entry.destination.is_ipv4() => group::ROUTE4,
            Change::Route { .. } => group::ROUTE6,
            Change::Neighbour { .. } => group::NEIGHBOUR,
        };
        for socket in members(groups) {
            let mut answer = Answer { socket: &socket, builder: Builder::default(), id: (0, 0), flags: 0 };
            describe(&mut answer, change);
            let bytes = answer.builder.take();
            if !bytes.is_empty() {
                socket.put(bytes, groups, socket.base.receive_buffer());
            }
        }
    }
}

fn describe(answer: &mut Answer<'_>, change: &Change) {
    match change {
        Change::Link { interface, gone } => {
            if let Some(interface) = interface::by_index(*interface) {
                route::link::describe(answer, &interface, *gone);
            }
        }
        Change::Address { interface, address, gone } => {
            route::address::describe(answer, *interface, address, *gone);
        }
        Change::Route { entry, gone } => route::routes::describe(answer, entry, *gone),
        Change::Neighbour { interface, address, gone } => {
            let Some(found) = interface::by_index(*interface) else { return };
            let list = found.neighbours.list();
            if let Some(entry) = list.iter().find(|entry| entry.address == *address) {
                route::neighbour::describe(answer, *interface, entry, *gone);
            }
        }
    }
}
