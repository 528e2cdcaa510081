//! The socket calls.

mod address;
pub mod interface;
mod message;
mod options;

use alloc::sync::Arc;

use rumpkern::{Errno, Result};
use rumpnet::socket::{self, Address, Creation, Credentials, MessageFlags, Socket};
use rumpvfs::file::{File, OpenFlags};

use crate::{task::Task, user::UserPtr};

use super::{
    open::{install_anonymous, install_pair},
    open_file::OpenFile,
};

pub use message::{recvfrom, recvmmsg, recvmsg, sendmmsg, sendmsg, sendto};
pub use options::{getsockopt, setsockopt};

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

const CAP_NET_RAW: u32 = 13;

fn creation(task: &Task, domain: i32, kind: i32, protocol: i32) -> Creation {
    Creation {
        domain,
        style: kind & SOCK_TYPE_MASK,
        protocol,
        raw: task.credentials().capable(CAP_NET_RAW),
        creator: credentials(task),
    }
}

/// socket(2).
pub fn socket(task: &Task, domain: i32, kind: i32, protocol: i32) -> Result<usize> {
    let flags = open_flags(kind)?;
    install_anonymous(task, creation(task, domain, kind, protocol).socket()?, flags)
}

/// socketpair(2).
pub fn socketpair(
    task: &Task,
    domain: i32,
    kind: i32,
    protocol: i32,
    descriptors: UserPtr<[i32; 2]>,
) -> Result<usize> {
    let flags = open_flags(kind)?;
    let (one, other) = creation(task, domain, kind, protocol).pair()?;
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
