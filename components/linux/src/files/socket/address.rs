//! `struct sockaddr` to addresses and back.

use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use rumpkern::{Errno, Result};
use rumpnet::socket::{Address, Domain, PacketAddress, Socket};
use rumpvfs::{
    access,
    vnode::{Creation, Kind},
};

use crate::{
    task::Task,
    user::{UserPtr, read_bytes, write_bytes},
};

use super::super::context::Names;

/// Bytes in `struct sockaddr_storage`.
const STORAGE: usize = 128;
/// Bytes in `struct sockaddr_un`.
const UNIX_SIZE: usize = 110;
/// Bytes in `struct sockaddr_in`.
const INET_SIZE: usize = 16;
/// Bytes in `struct sockaddr_in6` as in RFC 2133, before sin6_scope_id came.
const INET6_LEAST: usize = 24;
/// Bytes in `struct sockaddr_nl`.
const NETLINK_SIZE: usize = 12;
/// Bytes in `struct sockaddr_ll`.
const PACKET_SIZE: usize = 20;
/// Bytes in `struct sockaddr_ll` before the hardware address.
const PACKET_HEAD: usize = 12;
const FAMILY_SIZE: usize = 2;
const AF_UNSPEC: u16 = 0;
const CAP_NET_BIND_SERVICE: u32 = 10;

/// The bytes of an address argument.
pub fn read(address: usize, length: i32) -> Result<Vec<u8>> {
    let length = usize::try_from(length).ok().filter(|&length| length <= STORAGE).ok_or(Errno::EINVAL)?;
    let mut bytes = alloc::vec![0; length];
    read_bytes(address, &mut bytes)?;
    Ok(bytes)
}

/// A Unix address that is not yet looked up.
enum UnixName<'a> {
    Unnamed,
    Path(&'a [u8]),
    Abstract(&'a [u8]),
}

fn family(bytes: &[u8]) -> Result<u16> {
    bytes.first_chunk().map(|family| u16::from_le_bytes(*family)).ok_or(Errno::EINVAL)
}

/// The `N` bytes at `offset`, of an address that was found long enough.
fn field<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N]> {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).copied().ok_or(Errno::EINVAL)
}

fn unix_name(bytes: &[u8]) -> Result<UnixName<'_>> {
    if family(bytes)? != Domain::Unix as u16 || bytes.len() > UNIX_SIZE {
        return Err(Errno::EINVAL);
    }
    match &bytes[FAMILY_SIZE..] {
        [] => Ok(UnixName::Unnamed),
        [0, name @ ..] => Ok(UnixName::Abstract(name)),
        path => {
            let end = path.iter().position(|&byte| byte == 0).unwrap_or(path.len());
            Ok(UnixName::Path(&path[..end]))
        }
    }
}

fn inet(bytes: &[u8]) -> Result<SocketAddr> {
    if bytes.len() < INET_SIZE {
        return Err(Errno::EINVAL);
    }
    let address = Ipv4Addr::from(field::<4>(bytes, 4)?);
    Ok(SocketAddr::V4(SocketAddrV4::new(address, u16::from_be_bytes(field(bytes, 2)?))))
}

fn inet6(bytes: &[u8]) -> Result<SocketAddr> {
    if bytes.len() < INET6_LEAST {
        return Err(Errno::EINVAL);
    }
    let address = Ipv6Addr::from(field::<16>(bytes, 8)?);
    let port = u16::from_be_bytes(field(bytes, 2)?);
    let flow = u32::from_be_bytes(field(bytes, 4)?);
    let scope = field(bytes, 24).map_or(0, u32::from_le_bytes);
    Ok(SocketAddr::V6(SocketAddrV6::new(address, port, flow, scope)))
}

fn packet(bytes: &[u8]) -> Result<PacketAddress> {
    if bytes.len() < PACKET_HEAD {
        return Err(Errno::EINVAL);
    }
    let mut address = [0; 8];
    let given = &bytes[PACKET_HEAD..bytes.len().min(PACKET_SIZE)];
    address[..given.len()].copy_from_slice(given);
    Ok(PacketAddress {
        protocol: u16::from_be_bytes(field(bytes, 2)?),
        interface: u32::from_le_bytes(field(bytes, 4)?),
        hardware_type: u16::from_le_bytes(field(bytes, 8)?),
        direction: bytes[10],
        length: bytes[11],
        address,
    })
}

/// An address of a family that has no names to look up. `is_bind`: AF_UNSPEC with no address is any IPv4
/// address, as old programs write it.
fn plain(domain: Domain, bytes: &[u8], is_bind: bool) -> Result<Address> {
    let family = family(bytes)?;
    let wrong = if is_bind { Errno::EAFNOSUPPORT } else { Errno::EINVAL };
    match domain {
        Domain::Inet if bytes.len() < INET_SIZE => Err(Errno::EINVAL),
        Domain::Inet if family == Domain::Inet as u16 => Ok(Address::Internet(inet(bytes)?)),
        Domain::Inet if is_bind && family == AF_UNSPEC && field::<4>(bytes, 4)? == [0; 4] => {
            Ok(Address::Internet(inet(bytes)?))
        }
        Domain::Inet => Err(Errno::EAFNOSUPPORT),
        Domain::Inet6 if bytes.len() < INET6_LEAST && family != Domain::Inet as u16 => Err(Errno::EINVAL),
        Domain::Inet6 if family == Domain::Inet6 as u16 => Ok(Address::Internet(inet6(bytes)?)),
        // An IPv4 address is as good as its mapped form, to reach somebody.
        Domain::Inet6 if family == Domain::Inet as u16 && !is_bind => Ok(Address::Internet(inet(bytes)?)),
        Domain::Inet6 => Err(Errno::EAFNOSUPPORT),
        Domain::Packet if bytes.len() < PACKET_HEAD => Err(Errno::EINVAL),
        Domain::Packet if family != Domain::Packet as u16 => Err(wrong),
        Domain::Packet => Ok(Address::Packet(packet(bytes)?)),
        Domain::Netlink if bytes.len() < NETLINK_SIZE => Err(Errno::EINVAL),
        Domain::Netlink if family != Domain::Netlink as u16 => Err(Errno::EINVAL),
        Domain::Netlink => Ok(Address::Netlink {
            port: u32::from_le_bytes(field(bytes, 4)?),
            groups: u32::from_le_bytes(field(bytes, 8)?),
        }),
        Domain::Unix => Err(Errno::EINVAL),
    }
}

/// An address to bind to; a path is created, as a socket.
pub fn to_bind(task: &Task, socket: &dyn Socket, bytes: &[u8]) -> Result<Address> {
    if socket.domain() != Domain::Unix {
        let address = plain(socket.domain(), bytes, true)?;
        if let Address::Internet(internet) = &address
            && (1..rumpnet::inet::first_unprivileged_port()).contains(&internet.port())
            && !task.credentials().capable(CAP_NET_BIND_SERVICE)
        {
            return Err(Errno::EACCES);
        }
        return Ok(address);
    }
    match unix_name(bytes)? {
        UnixName::Unnamed => Ok(Address::Unnamed),
        UnixName::Abstract(name) => Ok(Address::Abstract(name.to_vec())),
        UnixName::Path(path) => {
            if !matches!(socket.name(), Address::Unnamed) {
                return Err(Errno::EINVAL);
            }
            let permissions = 0o777 & !task.filesystem().umask();
            let creation = Creation { kind: Kind::Socket, permissions, uid: 0, gid: 0, target: b"", rdev: 0 };
            let location =
                Names::new(task)?.lookup().create(path, &creation).map_err(|error| match error {
                    Errno::EEXIST => Errno::EADDRINUSE,
                    other => other,
                })?;
            Ok(Address::Path(path.to_vec(), location.vnode().clone()))
        }
    }
}

/// An address to send to or connect to. ECONNREFUSED if the path is no socket's.
pub fn to_reach(task: &Task, socket: &dyn Socket, bytes: &[u8]) -> Result<Address> {
    if family(bytes)? == AF_UNSPEC && socket.domain() != Domain::Packet {
        return Ok(Address::Unnamed);
    }
    if socket.domain() != Domain::Unix {
        return plain(socket.domain(), bytes, false);
    }
    match unix_name(bytes)? {
        UnixName::Unnamed => Err(Errno::EINVAL),
        UnixName::Abstract(name) => Ok(Address::Abstract(name.to_vec())),
        UnixName::Path(path) => {
            let names = Names::new(task)?;
            let location = names.lookup().resolve(path, true)?;
            names.credentials().check(location.vnode(), access::WRITE)?;
            if location.vnode().kind() != Kind::Socket {
                return Err(Errno::ECONNREFUSED);
            }
            Ok(Address::Path(path.to_vec(), location.vnode().clone()))
        }
    }
}

/// An address as programs see it.
struct Encoded {
    bytes: [u8; STORAGE],
    length: usize,
}

impl Encoded {
    fn new(family: Domain) -> Self {
        let mut encoded = Encoded { bytes: [0; STORAGE], length: 0 };
        encoded.add(&(family as u16).to_le_bytes());
        encoded
    }

    /// Adds what there is room for.
    fn add(&mut self, bytes: &[u8]) {
        let count = bytes.len().min(STORAGE - self.length);
        self.bytes[self.length..self.length + count].copy_from_slice(&bytes[..count]);
        self.length += count;
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn encode(address: &Address) -> Encoded {
    match address {
        Address::Unnamed => Encoded::new(Domain::Unix),
        Address::Path(path, _) => {
            let mut encoded = Encoded::new(Domain::Unix);
            encoded.add(path);
            encoded.add(&[0]);
            encoded
        }
        Address::Abstract(name) => {
            let mut encoded = Encoded::new(Domain::Unix);
            encoded.add(&[0]);
            encoded.add(name);
            encoded
        }
        Address::Internet(SocketAddr::V4(address)) => {
            let mut encoded = Encoded::new(Domain::Inet);
            encoded.add(&address.port().to_be_bytes());
            encoded.add(&address.ip().octets());
            encoded.add(&[0; 8]);
            encoded
        }
        Address::Internet(SocketAddr::V6(address)) => {
            let mut encoded = Encoded::new(Domain::Inet6);
            encoded.add(&address.port().to_be_bytes());
            encoded.add(&address.flowinfo().to_be_bytes());
            encoded.add(&address.ip().octets());
            encoded.add(&address.scope_id().to_le_bytes());
            encoded
        }
        Address::Packet(address) => {
            let mut encoded = Encoded::new(Domain::Packet);
            encoded.add(&address.protocol.to_be_bytes());
            encoded.add(&address.interface.to_le_bytes());
            encoded.add(&address.hardware_type.to_le_bytes());
            encoded.add(&[address.direction, address.length]);
            encoded.add(&address.address);
            encoded
        }
        Address::Netlink { port, groups } => {
            let mut encoded = Encoded::new(Domain::Netlink);
            encoded.add(&[0; 2]);
            encoded.add(&port.to_le_bytes());
            encoded.add(&groups.to_le_bytes());
            encoded
        }
    }
}

/// Writes an address as far as there is room, and its real length.
pub fn write(address: &Address, to: usize, length: UserPtr<i32>) -> Result<()> {
    let room = usize::try_from(length.read()?).map_err(|_| Errno::EINVAL)?;
    let encoded = encode(address);
    let bytes = encoded.as_bytes();
    write_bytes(to, &bytes[..bytes.len().min(room)])?;
    length.write(&(bytes.len() as i32))
}

/// Writes an address for recvmsg, which has its room and its length in a header; returns the length.
pub fn write_in(address: &Address, to: usize, room: usize) -> Result<u32> {
    let encoded = encode(address);
    let bytes = encoded.as_bytes();
    write_bytes(to, &bytes[..bytes.len().min(room)])?;
    Ok(bytes.len() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(domain: Domain, address: &Address) -> Result<Address> {
        plain(domain, encode(address).as_bytes(), false)
    }

    #[test]
    fn internet_addresses_come_back() {
        for (domain, text) in [
            (Domain::Inet, "10.0.2.15:8080"),
            (Domain::Inet6, "[2001:db8::1]:53"),
            (Domain::Inet6, "[fe80::1%3]:1"),
        ] {
            let internet: SocketAddr = text.parse().unwrap();
            match again(domain, &Address::Internet(internet)).unwrap() {
                Address::Internet(found) => assert_eq!(found, internet),
                _ => panic!("{text} became something else"),
            }
        }
    }

    #[test]
    fn links_and_netlink_ports_come_back() {
        let packet = PacketAddress {
            protocol: 0x800,
            interface: 2,
            hardware_type: 1,
            direction: 4,
            length: 6,
            address: [1, 2, 3, 4, 5, 6, 0, 0],
        };
        assert!(
            matches!(again(Domain::Packet, &Address::Packet(packet)), Ok(Address::Packet(found)) if found == packet)
        );
        let netlink = Address::Netlink { port: 77, groups: 5 };
        assert!(matches!(again(Domain::Netlink, &netlink), Ok(Address::Netlink { port: 77, groups: 5 })));
    }

    #[test]
    fn short_addresses_and_other_families_are_refused() {
        let four = encode(&Address::Internet("1.2.3.4:5".parse().unwrap()));
        assert_eq!(plain(Domain::Inet, &four.as_bytes()[..15], true).err(), Some(Errno::EINVAL));
        assert_eq!(plain(Domain::Inet, &[0; 1], true).err(), Some(Errno::EINVAL));
        assert_eq!(plain(Domain::Inet6, four.as_bytes(), true).err(), Some(Errno::EAFNOSUPPORT));
        assert!(plain(Domain::Inet6, four.as_bytes(), false).is_ok());
        let six = encode(&Address::Internet("[::1]:5".parse().unwrap()));
        assert_eq!(plain(Domain::Inet, six.as_bytes(), true).err(), Some(Errno::EAFNOSUPPORT));
        assert!(plain(Domain::Inet6, &six.as_bytes()[..24], true).is_ok());
        assert!(plain(Domain::Inet, &[0; 16], true).is_ok());
        assert_eq!(plain(Domain::Inet, &[0; 16], false).err(), Some(Errno::EAFNOSUPPORT));
    }
}
