//! `struct sockaddr` to addresses and back.

use alloc::vec::Vec;

use rumpkern::{Errno, Result};
use rumpnet::socket::{Address, Domain, Socket};
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
const FAMILY_SIZE: usize = 2;
const AF_UNSPEC: u16 = 0;
const AF_UNIX: u16 = Domain::Unix as u16;

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
    match bytes {
        [low, high, ..] => Ok(u16::from_le_bytes([*low, *high])),
        _ => Err(Errno::EINVAL),
    }
}

fn unix_name(bytes: &[u8]) -> Result<UnixName<'_>> {
    if family(bytes)? != AF_UNIX || bytes.len() > UNIX_SIZE {
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

/// An address to bind to; a path is created, as a socket.
pub fn to_bind(task: &Task, socket: &dyn Socket, bytes: &[u8]) -> Result<Address> {
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
pub fn to_reach(task: &Task, bytes: &[u8]) -> Result<Address> {
    if family(bytes)? == AF_UNSPEC {
        return Ok(Address::Unnamed);
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

fn encode(address: &Address) -> Vec<u8> {
    let mut bytes = AF_UNIX.to_le_bytes().to_vec();
    match address {
        Address::Path(path, _) => {
            bytes.extend_from_slice(path);
            bytes.push(0);
        }
        Address::Abstract(name) => {
            bytes.push(0);
            bytes.extend_from_slice(name);
        }
        Address::Unnamed | Address::Internet { .. } => {}
    }
    bytes
}

/// Writes an address as far as there is room, and its real length.
pub fn write(address: &Address, to: usize, length: UserPtr<i32>) -> Result<()> {
    let room = usize::try_from(length.read()?).map_err(|_| Errno::EINVAL)?;
    let bytes = encode(address);
    write_bytes(to, &bytes[..bytes.len().min(room)])?;
    length.write(&(bytes.len() as i32))
}

/// Writes an address for recvmsg, which has its room and its length in a header; returns the length.
pub fn write_in(address: &Address, to: usize, room: usize) -> Result<u32> {
    let bytes = encode(address);
    write_bytes(to, &bytes[..bytes.len().min(room)])?;
    Ok(bytes.len() as u32)
}
