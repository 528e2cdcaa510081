//! Network interfaces of the rump kernel, as the image's configuration says: IPv4 addresses and a gateway. The
//! configuration's `eth0`, `eth1`... are the kernel's interfaces in its order.

use alloc::{format, string::String, vec, vec::Vec};
use core::{
    ffi::{c_int, c_ulong, c_void},
    net::Ipv4Addr,
};

use image::config::Network;

use crate::{
    host,
    user::rump::{rump___sysimpl_close, rump___sysimpl_write},
    weak::weak,
};

weak! {
    /// Opens a socket.
    fn rump___sysimpl_socket30(c_int, c_int, c_int) -> c_int;
    /// Asks a descriptor something.
    fn rump___sysimpl_ioctl(c_int, c_ulong, *mut c_void) -> c_int;
}

/// `AF_INET`, `AF_ROUTE`; `SOCK_DGRAM`, `SOCK_RAW`.
const INET: c_int = 2;
const ROUTE: c_int = 34;
const DATAGRAM: c_int = 2;
const RAW: c_int = 3;
/// Bytes of an interface's name, of `struct ifreq`, and of an IPv4 socket address.
const NAME: usize = 16;
const REQUEST: usize = 144;
const ADDRESS: usize = 16;
/// `SIOCGIFCONF`, `SIOCGIFFLAGS`, `SIOCSIFFLAGS`, `SIOCAIFADDR`, `SIOCSIFMTU`.
const LIST: c_ulong = 0xc010_6926;
const GET_FLAGS: c_ulong = 0xc090_6911;
const SET_FLAGS: c_ulong = 0x8090_6910;
const ADD_ADDRESS: c_ulong = 0x8040_691a;
const SET_MTU: c_ulong = 0x8090_697f;
/// `IFF_UP`, `IFF_LOOPBACK`.
const UP: u8 = 1;
const LOOPBACK: u8 = 8;
/// Bytes of `struct rt_msghdr`.
const ROUTE_HEADER: usize = 120;

/// A socket of the kernel.
struct Socket(c_int);

impl Socket {
    fn open(family: c_int, kind: c_int) -> Option<Self> {
        // SAFETY: the kernel's function.
        let descriptor = unsafe { rump___sysimpl_socket30()?(family, kind, 0) };
        (descriptor >= 0).then_some(Socket(descriptor))
    }

    /// Asks with a structure as wide as the request's number says.
    fn ask(&self, request: c_ulong, argument: &mut [u8]) -> bool {
        assert!(argument.len() >= (request >> 16 & 0x1fff) as usize, "a request has its structure");
        // SAFETY: the kernel's function, with a structure of the size that it copies.
        rump___sysimpl_ioctl()
            .is_some_and(|ask| unsafe { ask(self.0, request, argument.as_mut_ptr().cast()) } == 0)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(close) = rump___sysimpl_close() {
            // SAFETY: the kernel's function, with a descriptor of our own.
            unsafe { close(self.0) };
        }
    }
}

/// `struct ifreq` with a name.
fn request(name: &[u8]) -> [u8; REQUEST] {
    let mut request = [0; REQUEST];
    request[..name.len().min(NAME - 1)].copy_from_slice(&name[..name.len().min(NAME - 1)]);
    request
}

/// `struct sockaddr_in`.
fn socket_address(address: Ipv4Addr) -> [u8; ADDRESS] {
    let mut bytes = [0; ADDRESS];
    bytes[..2].copy_from_slice(&[ADDRESS as u8, INET as u8]);
    bytes[4..8].copy_from_slice(&address.octets());
    bytes
}

/// An address with the length of its prefix.
fn parse(text: &str) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let (address, length) = text.split_once('/')?;
    let length: u32 = length.parse().ok().filter(|length| *length <= 32)?;
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    Some((address.parse().ok()?, Ipv4Addr::from(mask)))
}

/// The kernel's interfaces, without the loopback.
fn interfaces(socket: &Socket) -> Vec<Vec<u8>> {
    let mut list = vec![0u8; 64 * REQUEST];
    // `struct ifconf`: the length, then where the list goes.
    let mut argument = [0; 16];
    argument[..4].copy_from_slice(&(list.len() as u32).to_le_bytes());
    argument[8..].copy_from_slice(&(list.as_mut_ptr() as u64).to_le_bytes());
    if !socket.ask(LIST, &mut argument) {
        return Vec::new();
    }
    let length = u32::from_le_bytes([argument[0], argument[1], argument[2], argument[3]]) as usize;
    let mut names: Vec<Vec<u8>> = Vec::new();
    for entry in list[..length.min(list.len())].chunks_exact(REQUEST) {
        let name: Vec<u8> = entry[..NAME].iter().copied().take_while(|&byte| byte != 0).collect();
        let mut flags = request(&name);
        let loops = socket.ask(GET_FLAGS, &mut flags) && flags[NAME] & LOOPBACK != 0;
        if !name.is_empty() && !loops && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Configures the interfaces.
pub fn configure(networks: &[Network]) {
    let Some(socket) = Socket::open(INET, DATAGRAM) else { return };
    for (index, name) in interfaces(&socket).iter().enumerate() {
        let wanted = format!("eth{index}");
        let Some(network) = networks.iter().find(|network| network.interface == wanted) else { continue };
        for address in &network.addresses {
            match parse(address) {
                Some((address, mask)) if set(&socket, name, address, mask) => {}
                _ => complain(name, address),
            }
        }
        if let Some(mtu) = network.mtu {
            let mut argument = request(name);
            argument[NAME..NAME + 4].copy_from_slice(&u32::from(mtu).to_le_bytes());
            if !socket.ask(SET_MTU, &mut argument) {
                complain(name, "mtu");
            }
        }
        for gateway in network.gateways.iter().filter_map(|gateway| gateway.parse().ok()) {
            if !add_default_route(gateway) {
                complain(name, "gateway");
            }
        }
    }
}

fn complain(name: &[u8], what: &str) {
    host::console(format!("{}: cannot set {what}\n", String::from_utf8_lossy(name)).as_bytes());
}

/// Gives an interface an address and turns it on.
fn set(socket: &Socket, name: &[u8], address: Ipv4Addr, mask: Ipv4Addr) -> bool {
    // `struct ifaliasreq`: name, address, broadcast address, mask.
    let broadcast = Ipv4Addr::from(u32::from(address) | !u32::from(mask));
    let mut alias = request(name)[..NAME].to_vec();
    for part in [address, broadcast, mask] {
        alias.extend(socket_address(part));
    }
    let mut flags = request(name);
    let known = socket.ask(GET_FLAGS, &mut flags);
    flags[NAME] |= UP;
    socket.ask(ADD_ADDRESS, &mut alias) && known && socket.ask(SET_FLAGS, &mut flags)
}

/// Adds a route for everything that has no other (route(4)).
fn add_default_route(gateway: Ipv4Addr) -> bool {
    let (Some(socket), Some(write)) = (Socket::open(ROUTE, RAW), rump___sysimpl_write()) else {
        return false;
    };
    let mut message = vec![0u8; ROUTE_HEADER];
    for address in [Ipv4Addr::UNSPECIFIED, gateway, Ipv4Addr::UNSPECIFIED] {
        message.extend(socket_address(address));
    }
    let length = (message.len() as u16).to_le_bytes();
    // Length, version 4, `RTM_ADD`.
    message[..4].copy_from_slice(&[length[0], length[1], 4, 1]);
    // `RTF_UP | RTF_GATEWAY | RTF_STATIC`; destination, gateway and mask follow.
    message[8..12].copy_from_slice(&0x803u32.to_le_bytes());
    message[12..16].copy_from_slice(&7u32.to_le_bytes());
    message[20..24].copy_from_slice(&1u32.to_le_bytes());
    // SAFETY: the kernel's function, with a whole message.
    unsafe { write(socket.0, message.as_ptr().cast(), message.len()) == message.len() as isize }
}

/// The name of an interface as C wants it, for tests of the layout.
#[cfg(test)]
fn name_of(request: &[u8; REQUEST]) -> alloc::ffi::CString {
    alloc::ffi::CString::new(
        request[..NAME].iter().copied().take_while(|&byte| byte != 0).collect::<Vec<_>>(),
    )
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let expected = (Ipv4Addr::new(10, 0, 2, 15), Ipv4Addr::new(255, 255, 255, 0));
        assert_eq!(parse("10.0.2.15/24"), Some(expected));
        assert_eq!(parse("1.2.3.4/0").map(|(_, mask)| mask), Some(Ipv4Addr::UNSPECIFIED));
        assert!(parse("1.2.3.4/33").is_none() && parse("fd00::1/64").is_none() && parse("dhcp").is_none());
        assert_eq!(name_of(&request(b"vioif0")).as_bytes(), b"vioif0");
        assert_eq!(name_of(&request(b"a_name_that_is_too_long")).as_bytes().len(), 15);
    }
}
