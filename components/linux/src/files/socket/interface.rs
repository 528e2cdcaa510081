//! ioctl(2) on sockets about interfaces, addresses and routes (netdevice(7)), as ifconfig and route use it.

use alloc::{sync::Arc, vec::Vec};
use core::net::{IpAddr, Ipv4Addr};

use rumpkern::{Errno, Result};
use rumpnet::{
    address::{self, Address, Origin},
    interface::{self, Flags, Interface},
    route::{self, Entry, Query},
};

use crate::{
    task::Task,
    user::{UserPtr, read_bytes, write_bytes},
};

/// Bytes in `struct ifreq`.
const REQUEST: usize = 40;
/// Bytes of a name in it.
const NAME: usize = 16;
/// Bytes in `struct rtentry`.
const ROUTE: usize = 120;
const AF_INET: u16 = 2;
const CAP_NET_ADMIN: u32 = 12;

const SIOCADDRT: u32 = 0x890b;
const SIOCDELRT: u32 = 0x890c;
const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCSIFFLAGS: u32 = 0x8914;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCSIFADDR: u32 = 0x8916;
const SIOCGIFDSTADDR: u32 = 0x8917;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCSIFBRDADDR: u32 = 0x891a;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCSIFNETMASK: u32 = 0x891c;
const SIOCGIFMETRIC: u32 = 0x891d;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCSIFMTU: u32 = 0x8922;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCGIFTXQLEN: u32 = 0x8942;
const SIOCETHTOOL: u32 = 0x8946;
const SIOCGIFMAP: u32 = 0x8970;

/// Whether this is about interfaces.
pub fn is_ours(request: u32) -> bool {
    (SIOCADDRT..=SIOCDELRT).contains(&request)
        || (SIOCGIFNAME..=SIOCGIFMAP).contains(&request) && request != 0x894b
}

/// The first IPv4 address of an interface.
fn address_of(interface: &Interface) -> Option<Address> {
    interface.addresses.list().into_iter().find(|entry| entry.address.is_ipv4())
}

fn mask(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0))
}

/// A `struct sockaddr_in` without port.
fn encode(address: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&AF_INET.to_le_bytes());
    bytes[4..8].copy_from_slice(&address.octets());
    bytes
}

fn decode(bytes: &[u8]) -> Result<Ipv4Addr> {
    match bytes {
        [low, high, _, _, a, b, c, d, ..] if u16::from_le_bytes([*low, *high]) == AF_INET => {
            Ok(Ipv4Addr::new(*a, *b, *c, *d))
        }
        _ => Err(Errno::EINVAL),
    }
}

fn number(bytes: &[u8; REQUEST]) -> u32 {
    u32::from_le_bytes([bytes[NAME], bytes[NAME + 1], bytes[NAME + 2], bytes[NAME + 3]])
}

fn named(bytes: &[u8]) -> Result<Arc<Interface>> {
    let name = &bytes[..NAME];
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(NAME);
    // `eth0:1` is an alias of eth0, as old programs write it.
    let name = name[..end].split(|&byte| byte == b':').next().unwrap_or_default();
    core::str::from_utf8(name).ok().and_then(interface::by_name).ok_or(Errno::ENODEV)
}

/// Serves a request.
pub fn ioctl(task: &Task, request: u32, argument: usize) -> Result<usize> {
    let changes = matches!(
        request,
        SIOCSIFFLAGS | SIOCSIFADDR | SIOCSIFBRDADDR | SIOCSIFNETMASK | SIOCSIFMTU | SIOCADDRT | SIOCDELRT
    );
    if changes && !task.credentials().capable(CAP_NET_ADMIN) {
        return Err(Errno::EPERM);
    }
    if changes && rumpnet::socket::outside().is_some() {
        return Err(Errno::EOPNOTSUPP);
    }
    match request {
        SIOCGIFCONF => return list(argument),
        SIOCADDRT | SIOCDELRT => return change_route(request == SIOCADDRT, argument),
        _ => {}
    }
    let mut bytes = [0; REQUEST];
    read_bytes(argument, &mut bytes)?;
    if request == SIOCGIFNAME {
        let interface = interface::by_index(number(&bytes)).ok_or(Errno::ENODEV)?;
        let name = interface.name().as_bytes();
        bytes[..NAME].fill(0);
        bytes[..name.len().min(NAME - 1)].copy_from_slice(&name[..name.len().min(NAME - 1)]);
        return write_bytes(argument, &bytes).map(|()| 0);
    }
    let interface = named(&bytes)?;
    if request == SIOCETHTOOL {
        let pointer = u64::from_le_bytes([
            bytes[16], bytes[17], bytes[18], bytes[19], bytes[20], bytes[21], bytes[22], bytes[23],
        ]);
        return ethtool(&interface, pointer as usize);
    }
    let mut put = |value: &[u8]| bytes[NAME..NAME + value.len()].copy_from_slice(value);
    match request {
        SIOCGIFFLAGS => put(&(interface.flags().bits() as u16).to_le_bytes()),
        SIOCGIFINDEX => put(&interface.index().to_le_bytes()),
        SIOCGIFMTU => put(&(interface.mtu() as u32).to_le_bytes()),
        SIOCGIFMETRIC => put(&0u32.to_le_bytes()),
        SIOCGIFTXQLEN => put(&1000u32.to_le_bytes()),
        SIOCGIFMAP => put(&[0; 24]),
        SIOCGIFHWADDR => {
            let kind: u16 = if interface.is_loopback() { 772 } else { 1 };
            put(&kind.to_le_bytes());
            bytes[NAME + 2..NAME + 8].copy_from_slice(&interface.hardware());
        }
        SIOCGIFADDR | SIOCGIFDSTADDR | SIOCGIFBRDADDR | SIOCGIFNETMASK => {
            let entry = address_of(&interface).ok_or(Errno::EADDRNOTAVAIL)?;
            let IpAddr::V4(own) = entry.address else { return Err(Errno::EADDRNOTAVAIL) };
            put(&encode(match request {
                SIOCGIFBRDADDR => entry.broadcast.unwrap_or(Ipv4Addr::UNSPECIFIED),
                SIOCGIFNETMASK => mask(entry.prefix),
                _ => own,
            }));
        }
        SIOCSIFFLAGS => interface.set_up(number(&bytes) & Flags::UP.bits() != 0),
        SIOCSIFMTU => interface.set_mtu(number(&bytes) as usize)?,
        SIOCSIFADDR | SIOCSIFBRDADDR | SIOCSIFNETMASK => {
            change_address(&interface, request, decode(&bytes[NAME..])?)?;
        }
        _ => return Err(Errno::EOPNOTSUPP),
    }
    if !matches!(request, SIOCSIFFLAGS | SIOCSIFMTU | SIOCSIFADDR | SIOCSIFBRDADDR | SIOCSIFNETMASK) {
        write_bytes(argument, &bytes)?;
    }
    Ok(0)
}

/// The prefix of the old classes, which an address without a mask has.
fn class_prefix(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..=127 => 8,
        128..=191 => 16,
        192..=223 => 24,
        _ => 32,
    }
}

fn change_address(interface: &Arc<Interface>, request: u32, value: Ipv4Addr) -> Result<()> {
    let old = address_of(interface);
    let entry = match (request, old.clone()) {
        (SIOCSIFADDR, _) if value.is_unspecified() => {
            let old = old.ok_or(Errno::EADDRNOTAVAIL)?;
            return address::remove(interface, old.address);
        }
        (SIOCSIFADDR, _) => Address::new(value.into(), class_prefix(value), Origin::Static),
        (SIOCSIFNETMASK, Some(old)) => {
            let bits = value.to_bits();
            if bits.leading_ones() + bits.trailing_zeros() < 32 {
                return Err(Errno::EINVAL);
            }
            Address::new(old.address, bits.leading_ones() as u8, old.origin)
        }
        (_, Some(old)) => Address { broadcast: Some(value), ..old },
        (_, None) => return Err(Errno::EADDRNOTAVAIL),
    };
    if let Some(old) = old {
        address::remove(interface, old.address)?;
    }
    address::add(interface, entry)
}

/// SIOCGIFCONF: `struct ifconf` with a buffer for requests, of interfaces with an IPv4 address.
fn list(argument: usize) -> Result<usize> {
    let [length, buffer] = UserPtr::<[u64; 2]>::new(argument).read()?;
    let room = (length as u32 as i32).max(0) as usize;
    let mut all: Vec<u8> = Vec::new();
    for interface in interface::list() {
        let Some(IpAddr::V4(own)) = address_of(&interface).map(|entry| entry.address) else { continue };
        let mut one = [0; REQUEST];
        let name = interface.name().as_bytes();
        one[..name.len().min(NAME - 1)].copy_from_slice(&name[..name.len().min(NAME - 1)]);
        one[NAME..NAME + 16].copy_from_slice(&encode(own));
        all.extend_from_slice(&one);
    }
    let mut told = all.len();
    if buffer != 0 {
        told = told.min(room / REQUEST * REQUEST);
        write_bytes(buffer as usize, &all[..told])?;
    }
    UserPtr::<i32>::new(argument).write(&(told as i32))?;
    Ok(0)
}

/// `struct rtentry`: destination, gateway and mask at 8, 24 and 40; flags at 56; the device's name is pointed to at 88.
fn change_route(adds: bool, argument: usize) -> Result<usize> {
    const GATEWAY: u16 = 2;
    const HOST: u16 = 4;
    let mut bytes = [0; ROUTE];
    read_bytes(argument, &mut bytes)?;
    let destination = decode(&bytes[8..])?;
    let flags = u16::from_le_bytes([bytes[56], bytes[57]]);
    let prefix = if flags & HOST != 0 {
        32
    } else {
        u32::from_be_bytes([bytes[44], bytes[45], bytes[46], bytes[47]]).leading_ones() as u8
    };
    let gateway = if flags & GATEWAY != 0 { Some(IpAddr::V4(decode(&bytes[24..])?)) } else { None };
    let mut pointer = [0; 8];
    pointer.copy_from_slice(&bytes[88..96]);
    let device = match u64::from_le_bytes(pointer) as usize {
        0 => None,
        address => {
            let mut name = crate::user::read_string(address, NAME, Errno::EINVAL)?;
            name.resize(NAME, 0);
            Some(named(&name)?.index())
        }
    };
    if !adds {
        return route::remove(destination.into(), prefix, gateway, device, None).map(|()| 0);
    }
    let interface = match (device, gateway) {
        (Some(index), _) => index,
        (None, Some(gateway)) => route::lookup(&Query::to(gateway))?.interface.index(),
        (None, None) => return Err(Errno::ENODEV),
    };
    let mut entry = Entry::new(destination.into(), prefix, interface);
    entry.gateway = gateway;
    route::add(entry)?;
    Ok(0)
}

/// The questions of ethtool(8) that programs ask.
fn ethtool(interface: &Interface, address: usize) -> Result<usize> {
    const GSET: u32 = 1;
    const GDRVINFO: u32 = 3;
    const GLINK: u32 = 10;
    match UserPtr::<u32>::new(address).read()? {
        GLINK => UserPtr::<u32>::new(address + 4).write(&u32::from(interface.is_running()))?,
        GDRVINFO => {
            let properties = interface.device().properties();
            let mut bytes = [0; 192];
            let mut put = |at: usize, text: &str| {
                let text = &text.as_bytes()[..text.len().min(31)];
                bytes[at..at + text.len()].copy_from_slice(text);
            };
            put(0, properties.driver);
            put(96, &properties.location);
            write_bytes(address + 4, &bytes)?;
        }
        GSET => {
            let (speed, full) = interface.device().link_speed().unwrap_or((0xffff_ffff, true));
            // struct ethtool_cmd: the speed's halves at 12 and 28, duplex at 14.
            let mut bytes = [0; 40];
            bytes[8..10].copy_from_slice(&(speed as u16).to_le_bytes());
            bytes[10] = u8::from(full);
            bytes[24..26].copy_from_slice(&((speed >> 16) as u16).to_le_bytes());
            write_bytes(address + 4, &bytes)?;
        }
        _ => return Err(Errno::EOPNOTSUPP),
    }
    Ok(0)
}
