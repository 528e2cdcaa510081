//! getsockopt(2) and setsockopt(2).

use alloc::vec::Vec;

use rumpkern::{Errno, Result};
use rumpnet::socket::{Credentials, Socket, SocketOption};

use crate::{
    task::Task,
    user::{Timeval, UserPtr, write_bytes},
};

use super::socket_of;

const SOL_SOCKET: i32 = 1;
const SO_REUSEADDR: i32 = 2;
const SO_TYPE: i32 = 3;
const SO_ERROR: i32 = 4;
const SO_DONTROUTE: i32 = 5;
const SO_BROADCAST: i32 = 6;
const SO_SNDBUF: i32 = 7;
const SO_RCVBUF: i32 = 8;
const SO_KEEPALIVE: i32 = 9;
const SO_OOBINLINE: i32 = 10;
const SO_PRIORITY: i32 = 12;
const SO_LINGER: i32 = 13;
const SO_REUSEPORT: i32 = 15;
const SO_PASSCRED: i32 = 16;
const SO_PEERCRED: i32 = 17;
const SO_RCVLOWAT: i32 = 18;
const SO_SNDLOWAT: i32 = 19;
const SO_RCVTIMEO: i32 = 20;
const SO_SNDTIMEO: i32 = 21;
const SO_TIMESTAMP: i32 = 29;
const SO_ACCEPTCONN: i32 = 30;
const SO_PEERSEC: i32 = 31;
const SO_SNDBUFFORCE: i32 = 32;
const SO_RCVBUFFORCE: i32 = 33;
const SO_MARK: i32 = 36;
const SO_PROTOCOL: i32 = 38;
const SO_DOMAIN: i32 = 39;
const SO_PEERGROUPS: i32 = 59;
const SO_RCVTIMEO_NEW: i32 = 66;
const SO_SNDTIMEO_NEW: i32 = 67;

fn time_option(name: i32) -> SocketOption {
    if matches!(name, SO_RCVTIMEO | SO_RCVTIMEO_NEW) {
        SocketOption::ReceiveTimeout
    } else {
        SocketOption::SendTimeout
    }
}

/// The value of an option as bytes.
fn value(socket: &dyn Socket, name: i32) -> Result<Vec<u8>> {
    let int = |value: i32| Ok(value.to_le_bytes().to_vec());
    let kept = |option: SocketOption| int(i32::try_from(socket.option(option)?).unwrap_or(i32::MAX));
    match name {
        SO_TYPE => int(socket.style() as i32),
        SO_DOMAIN => int(socket.domain() as i32),
        SO_PROTOCOL => int(0),
        SO_ERROR => kept(SocketOption::Error),
        SO_SNDBUF => kept(SocketOption::SendBuffer),
        SO_RCVBUF => kept(SocketOption::ReceiveBuffer),
        SO_PASSCRED => kept(SocketOption::PassCredentials),
        SO_ACCEPTCONN => kept(SocketOption::Accepts),
        SO_RCVLOWAT | SO_SNDLOWAT => int(1),
        SO_RCVTIMEO | SO_SNDTIMEO | SO_RCVTIMEO_NEW | SO_SNDTIMEO_NEW => {
            let time = Timeval::from_nanoseconds(socket.option(time_option(name))?);
            Ok(zerocopy::IntoBytes::as_bytes(&time).to_vec())
        }
        SO_LINGER => Ok(socket.option(SocketOption::Other(name))?.to_le_bytes().to_vec()),
        SO_PEERCRED => {
            let unknown = Credentials { pid: 0, uid: u32::MAX, gid: u32::MAX };
            let peer = socket.peer_credentials().unwrap_or(unknown);
            Ok([peer.pid as u32, peer.uid, peer.gid].iter().flat_map(|word| word.to_le_bytes()).collect())
        }
        SO_PEERGROUPS => {
            socket.peer_credentials().ok_or(Errno::ENODATA)?;
            Ok(Vec::new())
        }
        SO_PEERSEC => Err(Errno::ENOPROTOOPT),
        SO_REUSEADDR | SO_DONTROUTE | SO_BROADCAST | SO_KEEPALIVE | SO_OOBINLINE | SO_PRIORITY
        | SO_REUSEPORT | SO_TIMESTAMP | SO_MARK => kept(SocketOption::Other(name)),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

/// getsockopt(2).
pub fn getsockopt(
    task: &Task,
    descriptor: i32,
    level: i32,
    name: i32,
    to: usize,
    length: UserPtr<i32>,
) -> Result<usize> {
    let file = task.files().get_io(descriptor)?;
    let socket = socket_of(&file)?;
    let room = usize::try_from(length.read()?).map_err(|_| Errno::EINVAL)?;
    if level != SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP);
    }
    let bytes = value(socket, name)?;
    let size = bytes.len().min(room);
    write_bytes(to, &bytes[..size])?;
    length.write(&(size as i32))?;
    Ok(0)
}

/// setsockopt(2).
pub fn setsockopt(
    task: &Task,
    descriptor: i32,
    level: i32,
    name: i32,
    from: usize,
    length: i32,
) -> Result<usize> {
    let file = task.files().get_io(descriptor)?;
    let socket = socket_of(&file)?;
    let length = usize::try_from(length).map_err(|_| Errno::EINVAL)?;
    if level != SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP);
    }
    if length < 4 {
        return Err(Errno::EINVAL);
    }
    let int = UserPtr::<i32>::new(from).read()?;
    let kept = u64::from(int.unsigned_abs());
    match name {
        SO_SNDBUF | SO_SNDBUFFORCE => socket.set_option(SocketOption::SendBuffer, u64::from(int as u32))?,
        SO_RCVBUF | SO_RCVBUFFORCE => {
            socket.set_option(SocketOption::ReceiveBuffer, u64::from(int as u32))?
        }
        SO_PASSCRED => socket.set_option(SocketOption::PassCredentials, kept)?,
        SO_RCVTIMEO | SO_SNDTIMEO | SO_RCVTIMEO_NEW | SO_SNDTIMEO_NEW => {
            if length < size_of::<Timeval>() {
                return Err(Errno::EINVAL);
            }
            let time = UserPtr::<Timeval>::new(from).read()?;
            if !(0..1_000_000).contains(&time.microseconds) {
                return Err(Errno::EDOM);
            }
            // A negative time is none at all: the call gives up at once.
            let time = if time.seconds < 0 { 1 } else { time.to_nanoseconds()? };
            socket.set_option(time_option(name), time)?;
        }
        SO_LINGER => {
            if length < 8 {
                return Err(Errno::EINVAL);
            }
            let linger = UserPtr::<u64>::new(from).read()?;
            socket.set_option(SocketOption::Other(name), linger)?;
        }
        SO_REUSEADDR | SO_DONTROUTE | SO_BROADCAST | SO_KEEPALIVE | SO_OOBINLINE | SO_REUSEPORT
        | SO_TIMESTAMP => socket.set_option(SocketOption::Other(name), u64::from(int != 0))?,
        SO_PRIORITY | SO_MARK | SO_RCVLOWAT => socket.set_option(SocketOption::Other(name), kept)?,
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(0)
}
