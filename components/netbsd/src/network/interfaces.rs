//! The kernel's interfaces: which there are, their addresses, and routes through them (netintro(4), route(4)).

use alloc::{string::String, vec, vec::Vec};
use core::{
    ffi::{c_int, c_ulong},
    net::{IpAddr, Ipv4Addr},
};

use netconfig::HardwareAddress;

use super::addresses::{self, INET, INET6, LINK, ROUTE};
use crate::{
    errno::{EINVAL, Errno},
    kernel::Descriptor,
};

/// `SOCK_DGRAM`, `SOCK_RAW`.
pub const DATAGRAM: c_int = 2;
/// See [`DATAGRAM`].
pub const RAW: c_int = 3;
/// Bytes of an interface's name, and of `struct ifreq`.
const NAME: usize = 16;
const REQUEST: usize = 144;
/// Bytes of what a `struct ifreq` has in a list: a name and any socket address.
const MOST: usize = 64;
/// `SIOCGIFCONF`, `SIOCGIFFLAGS`, `SIOCSIFFLAGS`, `SIOCAIFADDR`, `SIOCDIFADDR`, `SIOCAIFADDR_IN6`, `SIOCSIFMTU`.
const LIST: c_ulong = 0xc010_6926;
const GET_FLAGS: c_ulong = 0xc090_6911;
const SET_FLAGS: c_ulong = 0x8090_6910;
const ADD_ADDRESS: c_ulong = 0x8040_691a;
const REMOVE_ADDRESS: c_ulong = 0x8090_6919;
const ADD_ADDRESS6: c_ulong = 0x8080_696b;
const SET_MTU: c_ulong = 0x8090_697f;
/// `IFF_UP`, `IFF_LOOPBACK`.
const UP: u8 = 1;
const LOOPBACK: u8 = 8;
/// Bytes of `struct rt_msghdr`, and its version.
const ROUTE_HEADER: usize = 120;
const ROUTE_VERSION: u8 = 4;
/// `RTM_ADD`, `RTM_DELETE`.
const ADD: u8 = 1;
const DELETE: u8 = 2;
/// `RTF_UP | RTF_STATIC`, `RTF_GATEWAY`, `RTF_HOST`.
const STATIC: u32 = 0x801;
const GATEWAY: u32 = 2;
const HOST: u32 = 4;
/// Destination and gateway follow; a mask too.
const PARTS: u32 = 3;
const MASK: u32 = 4;

/// An Ethernet interface.
#[derive(Debug, Clone)]
pub struct Interface {
    /// The kernel's name (`vioif0`).
    pub name: String,
    /// The kernel's number.
    pub index: u32,
    /// Its hardware address.
    pub hardware: HardwareAddress,
}

/// The interfaces with hardware addresses, in the kernel's order.
pub fn list() -> Vec<Interface> {
    let Ok((socket, entries)) = entries() else { return Vec::new() };
    let mut found = Vec::new();
    for interface in entries.chunks_exact(REQUEST).filter_map(from_entry) {
        let mut flags = request(&interface.name);
        let loops = socket.ask(GET_FLAGS, &mut flags).is_ok() && flags[NAME] & LOOPBACK != 0;
        if !loops {
            found.push(interface);
        }
    }
    found
}

/// A name and an address each, as `struct ifreq`.
fn entries() -> Result<(Descriptor, Vec<u8>), Errno> {
    let socket = Descriptor::socket(INET, DATAGRAM, 0)?;
    let mut list = vec![0u8; MOST * REQUEST];
    // `struct ifconf`: the length, then where the list goes.
    let mut argument = [0; 16];
    argument[..4].copy_from_slice(&(list.len() as u32).to_le_bytes());
    argument[8..].copy_from_slice(&(list.as_mut_ptr() as u64).to_le_bytes());
    socket.ask(LIST, &mut argument)?;
    let length = u32::from_le_bytes([argument[0], argument[1], argument[2], argument[3]]) as usize;
    list.truncate(length);
    Ok((socket, list))
}

/// The address in an entry of the list, if it is the interface's.
fn address_of(name: &str, entry: &[u8]) -> Option<IpAddr> {
    if request(name)[..NAME] != *entry.get(..NAME)? {
        return None;
    }
    match addresses::of_socket(&entry[NAME..])? {
        // The kernel keeps the interface's number in link-local ones.
        IpAddr::V6(address) if address.is_unicast_link_local() => {
            let mut segments = address.segments();
            segments[1] = 0;
            Some(IpAddr::from(segments))
        }
        address => Some(address),
    }
}

/// An entry of the list that tells of an Ethernet interface's hardware: a name and `struct sockaddr_dl`.
fn from_entry(entry: &[u8]) -> Option<Interface> {
    let name: Vec<u8> = entry.get(..NAME)?.iter().copied().take_while(|&byte| byte != 0).collect();
    let address = &entry[NAME..];
    let &[_, family, i0, i1, _, name_length, length, _] = address.first_chunk()?;
    if family != LINK || length != 6 {
        return None;
    }
    let start = 8 + usize::from(name_length);
    Some(Interface {
        name: String::from_utf8(name).ok()?,
        index: u16::from_le_bytes([i0, i1]).into(),
        hardware: address.get(start..start + 6)?.try_into().ok()?,
    })
}

/// `struct ifreq` with a name.
pub fn request(name: &str) -> [u8; REQUEST] {
    let mut request = [0; REQUEST];
    let length = name.len().min(NAME - 1);
    request[..length].copy_from_slice(&name.as_bytes()[..length]);
    request
}

impl Interface {
    fn socket(&self) -> Result<Descriptor, Errno> {
        Descriptor::socket(INET, DATAGRAM, 0)
    }

    /// Turns it on or off.
    pub fn turn(&self, on: bool) -> Result<(), Errno> {
        let socket = self.socket()?;
        let mut flags = request(&self.name);
        socket.ask(GET_FLAGS, &mut flags)?;
        flags[NAME] = if on { flags[NAME] | UP } else { flags[NAME] & !UP };
        socket.ask(SET_FLAGS, &mut flags)
    }

    /// Sets the MTU in bytes.
    pub fn set_mtu(&self, mtu: usize) -> Result<(), Errno> {
        let mut argument = request(&self.name);
        let mtu = u32::try_from(mtu).map_err(|_| EINVAL)?;
        argument[NAME..NAME + 4].copy_from_slice(&mtu.to_le_bytes());
        self.socket()?.ask(SET_MTU, &mut argument)
    }

    /// Its addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let Ok((_, entries)) = entries() else { return Vec::new() };
        entries.chunks_exact(REQUEST).filter_map(|entry| address_of(&self.name, entry)).collect()
    }

    /// Gives it an address.
    pub fn add_address(&self, address: IpAddr, prefix: u8) -> Result<(), Errno> {
        let mask = addresses::mask(address, prefix);
        let mut alias = request(&self.name)[..NAME].to_vec();
        match (address, mask) {
            (IpAddr::V4(address), IpAddr::V4(mask)) => {
                // `struct ifaliasreq`: name, address, broadcast address, mask.
                let broadcast = Ipv4Addr::from(u32::from(address) | !u32::from(mask));
                for part in [address, broadcast, mask] {
                    alias.extend(addresses::inet(part, 0));
                }
                self.socket()?.ask(ADD_ADDRESS, &mut alias)
            }
            (IpAddr::V6(address), IpAddr::V6(mask)) => {
                // `struct in6_aliasreq`: name, address, the other end's, mask, flags, times and lifetimes.
                alias.extend(addresses::inet6(address, 0));
                alias.extend([0; 28]);
                alias.extend(addresses::inet6(mask, 0));
                alias.extend([0; 4 + 16]);
                // For ever, and preferred as long.
                alias.extend([0xff; 8]);
                Descriptor::socket(INET6, DATAGRAM, 0)?.ask(ADD_ADDRESS6, &mut alias)
            }
            _ => Err(EINVAL),
        }
    }

    /// Takes an IPv4 address away.
    pub fn remove_address(&self, address: Ipv4Addr) -> Result<(), Errno> {
        let mut argument = request(&self.name);
        argument[NAME..NAME + 16].copy_from_slice(&addresses::inet(address, 0));
        self.socket()?.ask(REMOVE_ADDRESS, &mut argument)
    }

    /// Adds a route to a network through a router.
    pub fn add_route(&self, destination: IpAddr, prefix: u8, router: IpAddr) -> Result<(), Errno> {
        self.change_route(ADD, destination, prefix, router)
    }

    /// Removes what [`Interface::add_route`] added.
    pub fn remove_route(&self, destination: IpAddr, prefix: u8, router: IpAddr) -> Result<(), Errno> {
        self.change_route(DELETE, destination, prefix, router)
    }

    fn change_route(&self, what: u8, destination: IpAddr, prefix: u8, router: IpAddr) -> Result<(), Errno> {
        let socket = Descriptor::socket(ROUTE, RAW, 0)?;
        let message = route_message(what, destination, prefix, router, self.index);
        socket.write(&message).map(|_| ())
    }
}

/// A message of route(4). Without a router, the destination is on the link.
fn route_message(what: u8, destination: IpAddr, prefix: u8, router: IpAddr, index: u32) -> Vec<u8> {
    let mut message = vec![0u8; ROUTE_HEADER];
    let on_link = router.is_unspecified();
    let mut flags = STATIC | if on_link { 0 } else { GATEWAY };
    let is_host = prefix == if destination.is_ipv4() { 32 } else { 128 };
    if is_host {
        flags |= HOST;
    }
    message.extend(addresses::for_route(destination, index));
    if on_link {
        // `struct sockaddr_dl` with the interface's number alone.
        let mut link = vec![0; 24];
        link[..4].copy_from_slice(&[20, LINK, index as u8, (index >> 8) as u8]);
        message.extend(link);
    } else {
        message.extend(addresses::for_route(router, index));
    }
    let mut parts = PARTS;
    if !is_host {
        parts |= MASK;
        message.extend(addresses::for_route(addresses::mask(destination, prefix), index));
    }
    let length = (message.len() as u16).to_le_bytes();
    message[..4].copy_from_slice(&[length[0], length[1], ROUTE_VERSION, what]);
    message[8..12].copy_from_slice(&flags.to_le_bytes());
    message[12..16].copy_from_slice(&parts.to_le_bytes());
    message[20..24].copy_from_slice(&1u32.to_le_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_the_list_are_read() {
        let mut entry = [0; REQUEST];
        entry[..6].copy_from_slice(b"vioif0");
        entry[NAME..NAME + 8].copy_from_slice(&[20, LINK, 2, 0, 6, 6, 6, 0]);
        entry[NAME + 8..NAME + 20].copy_from_slice(b"vioif0\x52\x54\x00\x12\x34\x56");
        let interface = from_entry(&entry).expect("an Ethernet interface");
        assert_eq!((interface.name.as_str(), interface.index), ("vioif0", 2));
        assert_eq!(interface.hardware, [0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        // A name that reaches beyond the entry, other families, interfaces without hardware addresses.
        entry[NAME + 5] = 255;
        assert!(from_entry(&entry).is_none());
        entry[NAME + 5] = 6;
        entry[NAME + 6] = 0;
        assert!(from_entry(&entry).is_none());
        entry[NAME + 1] = INET;
        assert!(from_entry(&entry).is_none());
        entry[NAME..NAME + 28].copy_from_slice(&addresses::inet6("fe80:3::5".parse().unwrap(), 0));
        assert_eq!(address_of("vioif0", &entry), Some("fe80::5".parse().unwrap()));
        assert_eq!((address_of("vioif", &entry), address_of("vioif0", &entry[..NAME + 20])), (None, None));
        assert_eq!(request("a_name_that_is_too_long")[13..17], *b"s_\0\0");
    }

    #[test]
    fn routes_have_their_layout() {
        let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        let message = route_message(ADD, any, 0, Ipv4Addr::new(10, 0, 0, 1).into(), 2);
        assert_eq!((message.len(), &message[..4]), (ROUTE_HEADER + 48, &[168, 0, 4, 1][..]));
        assert_eq!(message[8], 3);
        assert_eq!(message[ROUTE_HEADER + 20..ROUTE_HEADER + 24], [10, 0, 0, 1]);
        let host = Ipv4Addr::new(10, 0, 0, 1).into();
        let message = route_message(DELETE, host, 32, any, 2);
        assert_eq!((message[8], message[ROUTE_HEADER + 17], message[ROUTE_HEADER + 18]), (5, LINK, 2));
    }
}
