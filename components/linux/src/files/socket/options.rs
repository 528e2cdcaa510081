//! getsockopt(2) and setsockopt(2): moves values between programs and sockets, which know what they mean, and
//! checks who may set them.

use alloc::vec::Vec;

use rumpkern::{Errno, Result};
use rumpnet::{
    base::name,
    option::{Value, int, level},
};

use crate::{
    task::Task,
    user::{UserPtr, buffer, read_bytes, write_bytes},
};

use super::socket_of;

/// Values longer than this are cut, except lists of multicast sources.
const VALUE_MAX: usize = 256;
/// The longest list of multicast sources (net.core.optmem_max).
const LIST_MAX: usize = 20_480;
/// Instructions of a packet filter (BPF_MAXINSNS), of 8 bytes each.
const FILTER_MAX: usize = 4096;
const CAP_NET_ADMIN: u32 = 12;
const PACKET_HDRLEN: i32 = 11;
const IP_TRANSPARENT: i32 = 19;
const IPV6_TRANSPARENT: i32 = 75;

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
    let value = if (level, name) == (level::PACKET, PACKET_HDRLEN) {
        ring_header_length(UserPtr::new(to))?
    } else {
        socket.option(level, name)?
    };
    let mut bytes = value.as_bytes();
    // Small numbers fit into a byte at the levels of IP.
    if matches!(level, level::IP | level::IPV6)
        && (1..4).contains(&room)
        && int(bytes).is_ok_and(|value| (0..256).contains(&value))
    {
        bytes = &bytes[..1];
    }
    let size = bytes.len().min(room);
    write_bytes(to, &bytes[..size])?;
    length.write(&(size as i32))?;
    Ok(0)
}

/// PACKET_HDRLEN is asked for a version of the ring, which stands where the answer goes: only the second is there.
fn ring_header_length(version: UserPtr<i32>) -> Result<Value> {
    const TPACKET_V2: i32 = 1;
    /// Bytes of `struct tpacket2_hdr`; the address follows.
    const HEADER: i32 = 32;
    if version.read()? == TPACKET_V2 { Ok(Value::int(HEADER)) } else { Err(Errno::EINVAL) }
}

/// Reads the instructions that a `struct sock_fprog` points to.
fn read_filter(address: usize, length: usize) -> Result<Vec<u8>> {
    const PROGRAM: usize = 16;
    if length < PROGRAM {
        return Err(Errno::EINVAL);
    }
    let [count, instructions] = UserPtr::<[usize; 2]>::new(address).read()?;
    let count = usize::from(count as u16);
    if !(1..=FILTER_MAX).contains(&count) {
        return Err(Errno::EINVAL);
    }
    let mut bytes = buffer(count * 8)?;
    read_bytes(instructions, &mut bytes)?;
    Ok(bytes)
}

fn is_privileged(level: i32, name: i32, value: &[u8]) -> bool {
    match (level, name) {
        (level::SOCKET, name::SNDBUFFORCE | name::RCVBUFFORCE | name::MARK | name::DEBUG) => true,
        (level::SOCKET, name::PRIORITY) => int(value).is_ok_and(|priority| !(0..=6).contains(&priority)),
        (level::IP, IP_TRANSPARENT) | (level::IPV6, IPV6_TRANSPARENT) => true,
        _ => false,
    }
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
    let value = if level == level::SOCKET && matches!(name, name::ATTACH_FILTER | name::ATTACH_REUSEPORT_CBPF)
    {
        read_filter(from, length)?
    } else {
        let is_list = matches!(level, level::IP | level::IPV6) && (41..=48).contains(&name);
        let mut value = buffer(length.min(if is_list { LIST_MAX } else { VALUE_MAX }))?;
        read_bytes(from, &mut value)?;
        value
    };
    if is_privileged(level, name, &value) && !task.credentials().capable(CAP_NET_ADMIN) {
        return Err(Errno::EPERM);
    }
    socket.set_option(level, name, &value)?;
    Ok(0)
}
