//! The socket calls.

mod address;
mod message;
mod options;

use alloc::sync::Arc;

use rumpkern::{Errno, Result};
use rumpnet::{
    socket::{self, Address, Credentials, MessageFlags, Socket, Style},
    unix::UnixSocket,
};
use rumpvfs::file::{File, OpenFlags};

use crate::{task::Task, user::UserPtr};

use super::{
    open::{install_anonymous, install_pair},
    open_file::OpenFile,
};

pub use message::{recvfrom, recvmmsg, recvmsg, sendmmsg, sendmsg, sendto};
pub use options::{getsockopt, setsockopt};

const AF_UNIX: i32 = 1;
/// Families that Linux has room for (AF_MAX).
const AF_MAX: i32 = 46;
const SOCK_TYPE_MASK: i32 = 0xf;

/// The caller, as sockets see it.
fn credentials(task: &Task) -> Credentials {
    let from = task.credentials();
    Credentials { pid: task.process().pid(), uid: from.euid, gid: from.egid }
}

/// The socket behind an open file. ENOTSOCK if it is none.
fn socket_of(file: &OpenFile) -> Result<&dyn Socket> {
    socket::of_file(&**file.file())
}

/// What SOCK_NONBLOCK and SOCK_CLOEXEC make of a descriptor.
fn open_flags(kind: i32) -> Result<OpenFlags> {
    let flags = OpenFlags::from_bits((kind & !SOCK_TYPE_MASK) as u32).ok_or(Errno::EINVAL)?;
    if (OpenFlags::NON_BLOCKING | OpenFlags::CLOSE_ON_EXEC).contains(flags) {
        Ok(flags | OpenFlags::READ_WRITE)
    } else {
        Err(Errno::EINVAL)
    }
}

fn style(kind: i32) -> Result<Style> {
    const SOCK_RAW: i32 = 3;
    match kind & SOCK_TYPE_MASK {
        1 => Ok(Style::Stream),
        // A raw Unix socket is a datagram socket.
        2 | SOCK_RAW => Ok(Style::Datagram),
        5 => Ok(Style::SequencedPacket),
        0 | 11.. => Err(Errno::EINVAL),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}

/// Checks family, type and protocol, and gives the style of a Unix socket.
fn check_kind(domain: i32, kind: i32, protocol: i32) -> Result<(Style, OpenFlags)> {
    let flags = open_flags(kind)?;
    if !(0..AF_MAX).contains(&domain) {
        return Err(Errno::EAFNOSUPPORT);
    }
    if !(0..11).contains(&(kind & SOCK_TYPE_MASK)) {
        return Err(Errno::EINVAL);
    }
    if domain != AF_UNIX {
        return Err(Errno::EAFNOSUPPORT);
    }
    if protocol != 0 && protocol != AF_UNIX {
        return Err(Errno::EPROTONOSUPPORT);
    }
    Ok((style(kind)?, flags))
}

/// socket(2).
pub fn socket(task: &Task, domain: i32, kind: i32, protocol: i32) -> Result<usize> {
    let (style, flags) = check_kind(domain, kind, protocol)?;
    install_anonymous(task, UnixSocket::new(style, credentials(task)), flags)
}

/// socketpair(2).
pub fn socketpair(
    task: &Task,
    domain: i32,
    kind: i32,
    protocol: i32,
    descriptors: UserPtr<[i32; 2]>,
) -> Result<usize> {
    let (style, flags) = check_kind(domain, kind, protocol)?;
    let (one, other) = UnixSocket::pair(style, credentials(task));
    install_pair(task, descriptors, (one, flags), (other, flags))
}

/// bind(2).
pub fn bind(task: &Task, descriptor: i32, address: usize, length: i32) -> Result<usize> {
    let file = task.files().get_io(descriptor)?;
    let socket = socket_of(&file)?;
    let bytes = address::read(address, length)?;
    socket.bind(address::to_bind(task, socket, &bytes)?)?;
    Ok(0)
}

/// listen(2).
pub fn listen(task: &Task, descriptor: i32, backlog: i32) -> Result<usize> {
    let file = task.files().get_io(descriptor)?;
    let backlog = usize::try_from(backlog).unwrap_or(usize::MAX);
    socket_of(&file)?.listen(backlog, credentials(task))?;
    Ok(0)
}

fn is_non_blocking(file: &OpenFile) -> bool {
    file.flags().contains(OpenFlags::NON_BLOCKING)
}

/// connect(2).
pub fn connect(task: &Task, descriptor: i32, address: usize, length: i32) -> Result<usize> {
    let file = task.files().get_io(descriptor)?;
    let socket = socket_of(&file)?;
    let bytes = address::read(address, length)?;
    let address = address::to_reach(task, socket, &bytes)?;
    socket.connect(&address, is_non_blocking(&file), credentials(task))?;
    Ok(0)
}

/// accept4(2).
pub fn accept4(task: &Task, descriptor: i32, to: usize, length: UserPtr<i32>, flags: i32) -> Result<usize> {
    if flags & SOCK_TYPE_MASK != 0 {
        return Err(Errno::EINVAL);
    }
    let flags = open_flags(flags)?;
    let file = task.files().get_io(descriptor)?;
    let connection = socket_of(&file)?.accept(is_non_blocking(&file))?;
    if to != 0 {
        let peer = connection.peer_name().unwrap_or(Address::Unnamed);
        if let Err(error) = address::write(&peer, to, length) {
            connection.close();
            return Err(error);
        }
    }
    let file: Arc<dyn File> = connection;
    install_anonymous(task, file, flags)
}

/// accept(2).
pub fn accept(task: &Task, descriptor: i32, to: usize, length: UserPtr<i32>) -> Result<usize> {
    accept4(task, descriptor, to, length, 0)
}

/// getsockname(2).
pub fn getsockname(task: &Task, descriptor: i32, to: usize, length: UserPtr<i32>) -> Result<usize> {
    let file = task.files().get_io(descriptor)?;
    address::write(&socket_of(&file)?.name(), to, length)?;
    Ok(0)
}

/// getpeername(2).
pub fn getpeername(task: &Task, descriptor: i32, to: usize, length: UserPtr<i32>) -> Result<usize> {
    let file = task.files().get_io(descriptor)?;
    address::write(&socket_of(&file)?.peer_name()?, to, length)?;
    Ok(0)
}

/// shutdown(2).
pub fn shutdown(task: &Task, descriptor: i32, how: i32) -> Result<usize> {
    let file = task.files().get_io(descriptor)?;
    let (read, write) = match how {
        0 => (true, false),
        1 => (false, true),
        2 => (true, true),
        _ => return Err(Errno::EINVAL),
    };
    socket_of(&file)?.shutdown(read, write)?;
    Ok(0)
}

/// The flags of a transfer on an open file.
fn message_flags(file: &OpenFile, flags: u32) -> MessageFlags {
    let mut flags = MessageFlags::from_bits_truncate(flags);
    if is_non_blocking(file) {
        flags |= MessageFlags::DONT_WAIT;
    }
    flags
}
