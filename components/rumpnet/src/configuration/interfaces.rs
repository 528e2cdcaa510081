//! One interface's configuration: what is done when it comes, changes and goes, and when a lease or a router says so.

use alloc::{sync::Arc, vec::Vec};
use core::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::Ordering,
};

use netconfig::{
    Client, Lease, Step,
    resolver::{From, Resolver},
};
use rumpuser::NEVER;
use smoltcp::wire::Icmpv6Message;

use super::{STATE, Settings, Setup, State, dhcp, events::Event, slaac};
use crate::{
    address::{self, Address, AddressFlags, Origin},
    interface::{self, Interface},
    link, multicast,
    neighbour::{
        detection,
        discovery::{self, SOURCE_HARDWARE},
    },
    packet::Packet,
    report::report,
    route::{self, Entry, Protocol},
    service::SECOND,
    tcp,
};

/// All routers on the link.
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Between the first two router solicitations (RFC 4861 10); the pauses double up to an hour (RFC 7559).
const SOLICITATION_INTERVAL: u64 = 4 * SECOND;
const LONGEST_INTERVAL: u64 = 3600 * SECOND;
/// The smallest MTU that a DHCP server can set.
const LEAST_MTU: usize = 576;
/// The preference of routes that DHCP brought, behind those that are configured.
const DHCP_METRIC: u32 = 100;

/// An interface that is configured.
pub(super) struct Managed {
    pub interface: Arc<Interface>,
    pub client: Option<Client>,
    setup: Setup,
    lease: Option<Lease>,
    /// It is on and has a carrier.
    running: bool,
    up: bool,
    solicitations: u32,
    solicit_at: u64,
}

/// Handles an event.
pub(super) fn handle(event: Event, now: u64) {
    let mut state = STATE.lock();
    let Some(state) = &mut *state else { return };
    match event {
        Event::Changed { interface } => changed(state, interface, now),
        Event::Dhcp { interface, message } => {
            with(state, interface, |managed, resolver| {
                let steps =
                    managed.client.as_mut().map(|client| client.receive(now, &message)).unwrap_or_default();
                managed.follow(steps, resolver);
            });
        }
        Event::Router { interface, router, message } => {
            with(state, interface, |managed, resolver| managed.router(router, &message, now, resolver));
        }
        Event::NoRouter { interface, router } => {
            with(state, interface, |managed, _| route::remove_router(&managed.interface, router.into()));
        }
        Event::InUse { interface, address } => {
            with(state, interface, |managed, resolver| {
                let is_leased =
                    managed.lease.as_ref().is_some_and(|lease| IpAddr::V4(lease.address) == address);
                if let Some(client) = managed.client.as_mut().filter(|_| is_leased) {
                    let steps = client.declined(now);
                    managed.follow(steps, resolver);
                }
            });
        }
    }
}

fn with(state: &mut State, index: u32, action: impl FnOnce(&mut Managed, &mut Resolver)) {
    if let Some(managed) = state.managed.iter_mut().find(|managed| managed.interface.index() == index) {
        action(managed, &mut state.resolver);
    }
}

/// Does what is due; returns when the next is.
pub(super) fn run(state: &mut State, now: u64) -> u64 {
    let mut next = NEVER;
    for managed in &mut state.managed {
        if !managed.running {
            continue;
        }
        if let Some(client) = &mut managed.client {
            let steps = client.run(now);
            managed.follow(steps, &mut state.resolver);
        }
        if managed.solicit_at <= now {
            managed.solicit(now);
        }
        let due = managed.client.as_ref().map_or(NEVER, |client| client.due);
        next = next.min(due).min(managed.solicit_at);
    }
    next
}

fn changed(state: &mut State, index: u32, now: u64) {
    let place = state.managed.iter().position(|managed| managed.interface.index() == index);
    match (place, interface::by_index(index)) {
        (None, None) => {}
        (None, Some(interface)) => {
            let mut managed = Managed::new(interface, &state.settings, now);
            managed.begin(&mut state.resolver);
            managed.changed(now);
            state.managed.push(managed);
        }
        (Some(place), None) => {
            let managed = state.managed.remove(place);
            let interface = managed.interface;
            report(format_args!("{}: the device is gone", interface.name()));
            address::remove_all(&interface);
            route::interface_down(index);
            interface.neighbours.clear();
            for from in [From::Configuration, From::Dhcp, From::Router] {
                state.resolver.forget(from, index);
            }
        }
        (Some(place), Some(_)) => state.managed[place].changed(now),
    }
}

impl Managed {
    fn new(interface: Arc<Interface>, settings: &Settings, now: u64) -> Self {
        let setup = Setup::find(&settings.interfaces, interface.name(), interface.hardware());
        let client = setup.dhcp.then(|| Client::new(interface.hardware(), &settings.host_name, now));
        interface.learnt.dhcp.store(client.is_some(), Ordering::Relaxed);
        Managed {
            interface,
            client,
            setup,
            lease: None,
            running: false,
            up: true,
            solicitations: 0,
            solicit_at: NEVER,
        }
    }

    /// Gives it what is configured.
    fn begin(&mut self, resolver: &mut Resolver) {
        let interface = &self.interface;
        let name = interface.name();
        if let Some(mtu) = self.setup.mtu
            && interface.set_mtu(mtu).is_err()
        {
            report(format_args!("{name}: the device can't have an MTU of {mtu}"));
        }
        multicast::interface_attached(interface);
        let own = slaac::link_local(interface.hardware());
        let _ = address::add(interface, Address::new(own.into(), 64, Origin::Kernel));
        for &(address, prefix) in &self.setup.addresses {
            if address::add(interface, Address::new(address, prefix, Origin::Static)).is_err() {
                report(format_args!("{name}: cannot have the address {address}/{prefix}"));
            }
        }
        self.add_gateways();
        for &server in &self.setup.name_servers {
            resolver.add_server(From::Configuration, interface.index(), server, NEVER);
        }
        if !self.setup.addresses.is_empty() {
            let addresses: Vec<(IpAddr, u8)> = self.setup.addresses.clone();
            say(name, &addresses, &self.setup.gateways, "");
        }
    }

    fn add_gateways(&self) {
        for &gateway in &self.setup.gateways {
            let unspecified: IpAddr = match gateway {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let entry = Entry {
                gateway: Some(gateway),
                protocol: Protocol::Boot,
                ..Entry::new(unspecified, 0, self.interface.index())
            };
            // With DHCP the subnet may not be known yet.
            if route::add(entry).is_err() && self.client.is_none() {
                report(format_args!("{}: the gateway {gateway} is not on the link", self.interface.name()));
            }
        }
    }

    /// It was turned on or off, or the carrier came or went.
    fn changed(&mut self, now: u64) {
        let interface = &self.interface;
        let (up, running) = (interface.is_up(), interface.is_running());
        if up != core::mem::replace(&mut self.up, up) {
            if up {
                for entry in interface.addresses.list() {
                    route::add_connected(interface, &entry);
                }
                self.add_gateways();
                if let Some(lease) = self.lease.clone() {
                    self.add_routes(&lease);
                }
            } else {
                route::interface_down(interface.index());
            }
        }
        let was_running = core::mem::replace(&mut self.running, running);
        let interface = &self.interface;
        let moved = interface.moved.swap(false, Ordering::SeqCst);
        if running && moved {
            detection::announce_all(interface);
        }
        if running && (moved || !was_running) {
            detection::start_all(interface);
            multicast::report_all(interface);
        }
        match (was_running, running) {
            (false, true) => {
                if let Some(client) = &mut self.client {
                    client.link_changed(now);
                }
                (self.solicitations, self.solicit_at) = (0, now);
            }
            (true, false) => interface.neighbours.clear(),
            _ if !moved => return,
            _ => {}
        }
        route::invalidate();
        if running {
            tcp::path_returned(interface.index());
        }
    }

    /// Asks routers to tell of themselves.
    fn solicit(&mut self, now: u64) {
        let pause = SOLICITATION_INTERVAL << self.solicitations.min(10);
        self.solicitations += 1;
        self.solicit_at = now + pause.min(LONGEST_INTERVAL);
        let interface = &self.interface;
        let own = slaac::link_local(interface.hardware());
        let entry = interface.addresses.find(own.into());
        let source = entry.as_ref().filter(|entry| entry.is_usable()).map_or(Ipv6Addr::UNSPECIFIED, |_| own);
        let surely = entry.is_some_and(|entry| !entry.flags.contains(AddressFlags::TENTATIVE));
        let mut packet = Packet::default();
        if surely && !source.is_unspecified() {
            let option = packet.header.prepend(8);
            option[..2].copy_from_slice(&[SOURCE_HARDWARE, 1]);
            option[2..].copy_from_slice(&interface.hardware());
        }
        packet.header.prepend(8).copy_from_slice(&[Icmpv6Message::RouterSolicit.into(), 0, 0, 0, 0, 0, 0, 0]);
        let hardware = link::group_address(ALL_ROUTERS.into());
        discovery::send(interface, 0, (source, ALL_ROUTERS), hardware, packet);
    }

    /// A router told of itself.
    fn router(&mut self, router: Ipv6Addr, message: &[u8], now: u64, resolver: &mut Resolver) {
        let interface = &self.interface;
        let made = |interface: &Interface| -> Vec<(IpAddr, u8)> {
            let list = interface.addresses.list().into_iter();
            list.filter(|entry| entry.origin == Origin::Router)
                .map(|entry| (entry.address, entry.prefix))
                .collect()
        };
        let before = made(interface);
        slaac::advertised(interface, router, message, now, resolver);
        let new: Vec<(IpAddr, u8)> =
            made(interface).into_iter().filter(|address| !before.contains(address)).collect();
        let lifetime = message.get(6..8).is_some_and(|bytes| bytes != [0, 0]);
        if lifetime {
            self.solicit_at = NEVER;
        }
        if !new.is_empty() {
            let gateways = if lifetime { Vec::from([router.into()]) } else { Vec::new() };
            say(interface.name(), &new, &gateways, " (router advertisement)");
        }
    }

    /// Does what the DHCP client wants.
    fn follow(&mut self, steps: Vec<Step>, resolver: &mut Resolver) {
        for step in steps {
            match step {
                Step::Send { source, server, message } => {
                    dhcp::send(&self.interface, source, server, message);
                }
                Step::Bound { lease, until } => self.bound(lease, until, resolver),
                Step::Lost => self.lost(resolver),
                Step::Silence => {
                    report(format_args!("{}: no DHCP server answers; still asking", self.interface.name()));
                }
            }
        }
    }

    fn lost(&mut self, resolver: &mut Resolver) {
        let Some(lease) = self.lease.take() else { return };
        let interface = &self.interface;
        report(format_args!("{}: the address {} is no longer ours", interface.name(), lease.address));
        route::remove_of(interface.index(), Protocol::Dhcp);
        let _ = address::remove(interface, lease.address.into());
        resolver.forget(From::Dhcp, interface.index());
    }

    fn bound(&mut self, lease: Lease, until: u64, resolver: &mut Resolver) {
        let interface = self.interface.clone();
        let index = interface.index();
        let old = self.lease.replace(lease.clone());
        if let Some(old) =
            old.as_ref().filter(|old| (old.address, old.prefix) != (lease.address, lease.prefix))
        {
            let _ = address::remove(&interface, old.address.into());
        }
        let flags = if until == NEVER { AddressFlags::PERMANENT } else { AddressFlags::empty() };
        let address = Address {
            valid_until: until,
            preferred_until: until,
            flags,
            ..Address::new(lease.address.into(), lease.prefix, Origin::Dhcp)
        };
        if address::add(&interface, address).is_err() {
            report(format_args!("{}: cannot have the address {}", interface.name(), lease.address));
        }
        if let Some(mtu) = lease.mtu.filter(|&mtu| mtu >= LEAST_MTU && self.setup.mtu.is_none()) {
            let _ = interface.set_mtu(mtu);
        }
        let is_new = old.as_ref().is_none_or(|old| {
            (old.address, old.prefix, &old.routers, &old.routes)
                != (lease.address, lease.prefix, &lease.routers, &lease.routes)
        });
        if !is_new {
            return;
        }
        route::remove_of(index, Protocol::Dhcp);
        self.add_gateways();
        let gateways = self.add_routes(&lease);
        tcp::path_returned(index);
        resolver.forget(From::Dhcp, index);
        for &server in &lease.name_servers {
            resolver.add_server(From::Dhcp, index, server.into(), NEVER);
        }
        if let Some(domain) = &lease.domain {
            resolver.add_domain(From::Dhcp, index, domain.clone(), NEVER);
        }
        say(interface.name(), &[(lease.address.into(), lease.prefix)], &gateways, " (DHCP)");
    }

    /// Adds the routes of a lease; returns the default routers.
    fn add_routes(&self, lease: &Lease) -> Vec<IpAddr> {
        let index = self.interface.index();
        let configured: Vec<IpAddr> = self.setup.gateways.iter().copied().filter(IpAddr::is_ipv4).collect();
        let mut routes = lease.routes.clone();
        if routes.is_empty() {
            routes.extend(lease.routers.iter().map(|&router| (Ipv4Addr::UNSPECIFIED, 0, router)));
        }
        let mut gateways = configured.clone();
        for (position, (destination, prefix, router)) in routes.into_iter().enumerate() {
            if prefix == 0 && !configured.is_empty() {
                continue;
            }
            let mut entry = Entry {
                metric: DHCP_METRIC + position as u32,
                protocol: Protocol::Dhcp,
                source: Some(lease.address.into()),
                ..Entry::new(destination.into(), prefix, index)
            };
            if !router.is_unspecified() {
                entry.gateway = Some(router.into());
                // Clouds lend single addresses, with a router beside the subnet.
                if !lease.is_on_link(router) {
                    let _ = route::add(Entry {
                        metric: DHCP_METRIC,
                        protocol: Protocol::Dhcp,
                        source: Some(lease.address.into()),
                        ..Entry::new(router.into(), 32, index)
                    });
                }
                if prefix == 0 && gateways.is_empty() {
                    gateways.push(router.into());
                }
            }
            if let Err(error) = route::add(entry) {
                let name = self.interface.name();
                report(format_args!("{name}: cannot use the router {router} that DHCP named: {error:?}"));
            }
        }
        gateways
    }
}

/// Says which addresses an interface has.
fn say(name: &str, addresses: &[(IpAddr, u8)], gateways: &[IpAddr], how: &str) {
    report(format_args!("{name}: {}{how}", netconfig::describe(addresses, gateways)));
}

#[cfg(test)]
mod tests {
    use rumpuser::rumpuser_clock_monotonic;

    use super::*;
    use crate::{
        device::Offloads,
        interface::{
            flush,
            testing::{TestDevice, eventually},
        },
    };

    /// The ARP requests for its own address that a device has sent, and all its neighbour advertisements.
    fn announcements(device: &TestDevice) -> (usize, usize) {
        flush();
        let sent = device.take_sent();
        let own = |bytes: &[u8]| bytes.get(12..14) == Some(&[8, 6]) && bytes[28..32] == bytes[38..42];
        let advertises = |bytes: &[u8]| bytes.get(12..14) == Some(&[0x86, 0xdd]) && bytes[54] == 136;
        let count = |kind: &dyn Fn(&[u8]) -> bool| sent.iter().filter(|sent| kind(&sent.bytes)).count();
        (count(&own), count(&advertises))
    }

    #[test]
    fn a_machine_that_moved_says_where_it_is() {
        let device = TestDevice::new(Offloads::empty(), 1);
        let interface = interface::attach(device.clone()).unwrap();
        let settings =
            Settings { host_name: Default::default(), interfaces: Vec::new(), resolver_changed: |_| {} };
        let mut managed = Managed::new(interface.clone(), &settings, 0);
        let now = rumpuser_clock_monotonic();
        managed.begin(&mut Resolver::new());
        let own = Address::new("192.0.2.77".parse().unwrap(), 24, Origin::Static);
        address::add(&interface, own).unwrap();
        managed.changed(now);
        // Nobody else has the link-local address.
        eventually(|| {
            let list = interface.addresses.list();
            list.iter().all(|entry| !entry.flags.contains(AddressFlags::TENTATIVE)).then_some(())
        });
        announcements(&device);
        managed.changed(now);
        assert_eq!(announcements(&device), (0, 0));
        device.set_moved();
        eventually(|| interface.moved.load(Ordering::SeqCst).then_some(()));
        managed.changed(now);
        assert_eq!(announcements(&device), (1, 1));
        managed.changed(now);
        assert_eq!(announcements(&device).1, 0);
    }
}
