//! Network interfaces of the rump kernel, as the image's configuration says. The configuration's `eth0`, `eth1`... are
//! the kernel's interfaces in its order; its own names (`vioif0`) are understood as well.

pub(crate) mod addresses;
mod announcement;
mod frame;
mod interfaces;
mod lease;
mod resolver;
mod routers;

use alloc::{format, string::String, vec::Vec};
use core::{
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use image::config::Configuration;
use netconfig::Setup;
use rumpuser::{rumpuser_clock_monotonic, sync::Mutex};

use self::interfaces::Interface;
pub(crate) use self::interfaces::{DATAGRAM, request};
pub use self::resolver::Changed;
use crate::{errno::Errno, host, kernel, virtual_interface, wait::WaitList};

/// How long programs wait for an address by DHCP. Most need none to begin.
const PATIENCE: u64 = 1_000_000_000;
/// Parameters of the kernel: addresses are used at once, as long as nobody is heard to have them; routers are listened to.
const PARAMETERS: [(&str, &str); 2] = [("net.inet.ip.dad_count", "0"), ("net.inet6.ip6.accept_rtadv", "1")];

/// Interfaces that wait for their first lease, and who waits for them.
static PENDING: AtomicUsize = AtomicUsize::new(0);
static PROGRESS: WaitList = WaitList::new();
/// What is configured, for interfaces that come later, and the host's name.
static SETTINGS: Mutex<(Vec<Setup>, String)> = Mutex::new((Vec::new(), String::new()));

/// Configures the interfaces, and waits for a while until they have their addresses. Whoever doesn't read the kernel's
/// `/etc/resolv.conf` has `changed` take its text.
pub fn configure(configuration: &Configuration, changed: Option<Changed>) {
    let follows = virtual_interface::create();
    let found = interfaces::list();
    if found.is_empty() && !follows {
        return;
    }
    for (name, value) in PARAMETERS {
        // A kernel without the protocol, or of a release without the parameter, needs it not.
        let _ = kernel::set_parameter(name, value);
    }
    resolver::start(configuration, changed);
    let setups: Vec<Setup> = configuration
        .networks
        .iter()
        .map(|network| {
            Setup::read(network, |what, value| {
                say(&network.interface, &format!("the {what} {value} can't be read"));
            })
        })
        .collect();
    *SETTINGS.lock() = (setups.clone(), configuration.hostname.clone());
    for (interface, setup) in assign(found.clone(), &setups) {
        begin(interface, setup, &configuration.hostname);
    }
    routers::start(found);
    if follows {
        virtual_interface::watch();
    }
    let deadline = rumpuser_clock_monotonic() + PATIENCE;
    while PENDING.load(Ordering::Acquire) > 0
        && PROGRESS.wait(deadline, || PENDING.load(Ordering::Acquire) > 0)
    {}
}

fn find(name: &str) -> Option<Interface> {
    interfaces::list().into_iter().find(|interface| interface.name == name)
}

/// An interface has come, or is back: configures it as those there were at the start.
pub(crate) fn came(name: &str) {
    let (setups, host_name) = SETTINGS.lock().clone();
    let assigned = assign(interfaces::list(), &setups);
    let Some((interface, setup)) = assigned.into_iter().find(|(interface, _)| interface.name == name) else {
        return;
    };
    begin(interface.clone(), setup, &host_name);
    routers::start([interface].into());
}

/// An interface has lost its device, and is off until it is back.
pub(crate) fn went(name: &str) {
    let Some(interface) = find(name) else { return };
    match interface.turn(false) {
        Ok(()) => say(name, "its device is gone"),
        Err(error) => complain(name, "the interface off", error),
    }
    resolver::lost(interface.index);
}

/// An interface is at another place of the network: has its neighbours told, by `send`, and asks whether its lease holds.
pub(crate) fn moved(name: &str, send: impl Fn(&[u8])) {
    let Some(interface) = find(name) else { return };
    for address in interface.addresses() {
        send(&announcement::frame(interface.hardware, address));
    }
    lease::confirm(interface.index);
}

/// One of the interfaces that are waited for is ready, or was given up.
fn ready() {
    PENDING.fetch_sub(1, Ordering::AcqRel);
    PROGRESS.wake_all();
}

/// Which settings are for which interface.
fn assign(found: Vec<Interface>, setups: &[Setup]) -> Vec<(Interface, Setup)> {
    let own = |interface: &Interface| {
        setups.iter().find(|setup| {
            setup.hardware == Some(interface.hardware)
                || (setup.hardware.is_none() && setup.name == interface.name)
        })
    };
    let taken: Vec<&str> =
        found.iter().filter_map(|interface| own(interface).map(|setup| setup.name.as_str())).collect();
    let mut names = (0..).map(|number| format!("eth{number}")).filter(|name| !taken.contains(&name.as_str()));
    let mut assigned = Vec::new();
    for interface in &found {
        let setup = match own(interface) {
            Some(setup) => setup.clone(),
            None => {
                let name = names.next().unwrap_or_default();
                Setup::find(setups, &name, interface.hardware)
            }
        };
        assigned.push((interface.clone(), setup));
    }
    assigned
}

/// Gives an interface what is configured, and starts what gets the rest.
fn begin(interface: Interface, setup: Setup, host_name: &str) {
    let name = interface.name.clone();
    if let Some(mtu) = setup.mtu
        && let Err(error) = interface.set_mtu(mtu)
    {
        complain(&name, &format!("the MTU {mtu}"), error);
    }
    if let Err(error) = interface.turn(true) {
        return complain(&name, "the interface on", error);
    }
    for &(address, prefix) in &setup.addresses {
        if let Err(error) = interface.add_address(address, prefix) {
            complain(&name, &format!("the address {address}/{prefix}"), error);
        }
    }
    for &gateway in &setup.gateways {
        // With DHCP the subnet may not be known yet.
        if let Err(error) = interface.add_route(gateway_of_all(gateway), 0, gateway)
            && !(setup.dhcp && gateway.is_ipv4())
        {
            complain(&name, &format!("the gateway {gateway}"), error);
        }
    }
    for &server in &setup.name_servers {
        resolver::configured(interface.index, server);
    }
    if !setup.addresses.is_empty() {
        tell(&name, &setup.addresses, &setup.gateways, "");
    }
    if setup.dhcp {
        PENDING.fetch_add(1, Ordering::AcqRel);
        lease::start(interface, setup, host_name);
    }
}

/// The destination of a default route in a gateway's family.
fn gateway_of_all(gateway: IpAddr) -> IpAddr {
    match gateway {
        IpAddr::V4(_) => core::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => core::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

pub(crate) fn say(name: &str, what: &str) {
    host::console(format!("{name}: {what}\n").as_bytes());
}

fn complain(name: &str, what: &str, error: Errno) {
    say(name, &format!("cannot set {what}: {}", kernel::explain(error)));
}

/// Says which addresses an interface has.
fn tell(name: &str, addresses: &[(IpAddr, u8)], gateways: &[IpAddr], how: &str) {
    say(name, &format!("{}{how}", netconfig::describe(addresses, gateways)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_to_the_interfaces_that_no_settings_name() {
        let interface = |name: &str, last: u8| Interface {
            name: name.into(),
            index: last.into(),
            hardware: [2, 0, 0, 0, 0, last],
        };
        let setup = |name: &str, hardware: Option<u8>, mtu| Setup {
            name: name.into(),
            hardware: hardware.map(|last| [2, 0, 0, 0, 0, last]),
            mtu: Some(mtu),
            ..Setup::default()
        };
        let found =
            [interface("vioif0", 1), interface("vioif1", 2), interface("wm0", 3), interface("wm1", 4)];
        let setups = [setup("eth0", Some(2), 1), setup("eth1", None, 2), setup("wm1", None, 3)];
        let mtus: Vec<Option<usize>> =
            assign(found.into(), &setups).iter().map(|(_, setup)| setup.mtu).collect();
        // The first of the others is eth1, the next eth2, which has no settings.
        assert_eq!(mtus, [Some(2), Some(1), None, Some(3)]);
    }
}
