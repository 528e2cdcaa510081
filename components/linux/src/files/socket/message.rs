//! Sending and receiving: sendto, sendmsg, sendmmsg, recvfrom, recvmsg, recvmmsg.

use alloc::{sync::Arc, vec::Vec};

use rumpkern::{
    Errno, Result,
    uio::{Sink, Source, UserRange},
};
use rumpnet::socket::{
    Ancillary, Control as Element, Credentials, Domain, MessageFlags, Received, Right, Socket,
};
use rumpuser::{NEVER, rumpuser_clock_monotonic};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    limits::Resource,
    registry,
    signal::number::SIGPIPE,
    task::Task,
    user::{Timespec, UserPtr, buffer, is_user_range, read_bytes, read_iovecs, write_bytes},
};

use super::{address, credentials, message_flags, socket_of};
use crate::files::{mask::raise, open_file::OpenFile};

const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const SCM_CREDENTIALS: i32 = 2;
/// Bytes in `struct cmsghdr`.
const HEADER: usize = 16;
/// Open files in one message (SCM_MAX_FD).
const RIGHTS_MAX: usize = 253;
/// Ancillary data in one message (net.core.optmem_max).
const CONTROL_MAX: usize = 20_480;
/// Messages in one sendmmsg or recvmmsg.
const MESSAGES_MAX: u32 = 1024;
const RW_MAX: usize = crate::user::RW_MAX;
const CAP_SYS_ADMIN: u32 = 21;

/// `struct msghdr` (x86-64).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct MessageHeader {
    name: usize,
    name_length: i32,
    padding: u32,
    vectors: usize,
    vector_count: usize,
    control: usize,
    control_length: usize,
    flags: u32,
    tail: u32,
}

/// `struct mmsghdr`.
const MMSG_SIZE: usize = size_of::<MessageHeader>() + 8;

fn vectors(header: &MessageHeader) -> Result<Vec<UserRange>> {
    read_iovecs(header.vectors, header.vector_count).map_err(|error| match error {
        Errno::EINVAL if header.vector_count > crate::user::IOV_MAX => Errno::EMSGSIZE,
        other => other,
    })
}

/// A 4-byte number in ancillary data.
fn word(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..offset + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// The credentials that a program claims; only those that are its own, unless it is privileged.
fn claimed(task: &Task, bytes: &[u8]) -> Result<Credentials> {
    if bytes.len() != 12 {
        return Err(Errno::EINVAL);
    }
    let claim = Credentials { pid: word(bytes, 0) as i32, uid: word(bytes, 4), gid: word(bytes, 8) };
    let own = task.credentials();
    let privileged = own.capable(CAP_SYS_ADMIN);
    let pid = claim.pid == task.process().pid() || privileged;
    let uid = [own.uid, own.euid, own.suid].contains(&claim.uid) || privileged;
    let gid = [own.gid, own.egid, own.sgid].contains(&claim.gid) || privileged;
    if !pid || !uid || !gid {
        return Err(Errno::EPERM);
    }
    if claim.pid != task.process().pid() && registry::process(claim.pid).is_none() {
        return Err(Errno::ESRCH);
    }
    Ok(claim)
}

/// What travels beside a message for which the program gives nothing: the sender, where that is of interest.
fn without_control(task: &Task, socket: &dyn Socket) -> Ancillary {
    let credentials = (socket.domain() == Domain::Unix).then(|| credentials(task));
    Ancillary { credentials, ..Ancillary::default() }
}

/// Reads the ancillary data of a message to send.
fn read_control(task: &Task, socket: &dyn Socket, address: usize, length: usize) -> Result<Ancillary> {
    let mut ancillary = without_control(task, socket);
    if address == 0 || length == 0 {
        return Ok(ancillary);
    }
    if length > CONTROL_MAX {
        return Err(Errno::ENOBUFS);
    }
    let mut bytes = buffer(length)?;
    read_bytes(address, &mut bytes)?;
    let mut rest = &bytes[..];
    while rest.len() >= HEADER {
        let size = word(rest, 0) as usize | (word(rest, 4) as usize) << 32;
        if size < HEADER || size > rest.len() {
            return Err(Errno::EINVAL);
        }
        let (level, kind) = (word(rest, 8) as i32, word(rest, 12) as i32);
        let data = &rest[HEADER..size];
        if level == SOL_SOCKET && socket.domain() == Domain::Unix {
            match kind {
                SCM_RIGHTS => {
                    for descriptor in data.chunks_exact(4) {
                        let file = task.files().get_io(word(descriptor, 0) as i32)?;
                        ancillary.rights.push(file as Right);
                    }
                    if ancillary.rights.len() > RIGHTS_MAX {
                        return Err(Errno::EINVAL);
                    }
                }
                SCM_CREDENTIALS => ancillary.credentials = Some(claimed(task, data)?),
                _ => return Err(Errno::EINVAL),
            }
        } else if socket.domain() != Domain::Unix {
            ancillary.controls.push(Element { level, kind, data: data.into() });
        }
        rest = rest.get(size.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(ancillary)
}

/// Room for ancillary data in user memory, and what was written there.
struct Control {
    address: usize,
    room: usize,
    used: usize,
    cut: bool,
}

impl Control {
    /// Adds an element; what doesn't fit is cut.
    fn put(&mut self, level: i32, kind: i32, data: &[u8]) -> Result<()> {
        if self.room < self.used + HEADER {
            self.cut = true;
            return Ok(());
        }
        let size = (HEADER + data.len()).min(self.room - self.used);
        self.cut |= size < HEADER + data.len();
        let mut bytes = (size as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(&level.to_le_bytes());
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&data[..size - HEADER]);
        write_bytes(self.address.wrapping_add(self.used), &bytes)?;
        self.used += size.next_multiple_of(8).min(self.room - self.used);
        Ok(())
    }

    /// How many descriptors fit.
    fn descriptors(&self) -> usize {
        self.room.saturating_sub(self.used + HEADER) / 4
    }
}

/// Gives received open files descriptors, as many as there is room for.
fn install_rights(task: &Task, control: &mut Control, rights: Vec<Right>, close_on_exec: bool) -> Result<()> {
    if rights.is_empty() {
        return Ok(());
    }
    let limit = task.process().limit(Resource::OpenFiles);
    let fit = control.descriptors();
    control.cut |= fit < rights.len();
    let mut descriptors: Vec<u8> = Vec::new();
    for right in rights.into_iter().take(fit) {
        let Ok(file) = Arc::downcast::<OpenFile>(right) else { continue };
        match task.files().insert(file, 0, limit, close_on_exec) {
            Ok(descriptor) => descriptors.extend(descriptor.to_le_bytes()),
            Err(_) => {
                control.cut = true;
                break;
            }
        }
    }
    if descriptors.is_empty() { Ok(()) } else { control.put(SOL_SOCKET, SCM_RIGHTS, &descriptors) }
}

fn send(
    task: &Task,
    file: &OpenFile,
    source: &mut Source<'_>,
    to: Option<Vec<u8>>,
    ancillary: Ancillary,
    flags: u32,
) -> Result<usize> {
    let socket = socket_of(file)?;
    let flags = message_flags(file, flags);
    let to = match to {
        Some(bytes) => Some(address::to_reach(task, socket, &bytes)?),
        None => None,
    };
    let result = socket.send(source, to.as_ref(), ancillary, flags);
    if result == Err(Errno::EPIPE) && !flags.contains(MessageFlags::NO_SIGNAL) {
        raise(task, SIGPIPE);
    }
    result
}

/// sendto(2).
pub fn sendto(
    task: &Task,
    descriptor: i32,
    from: usize,
    length: usize,
    flags: u32,
    to: usize,
    to_length: i32,
) -> Result<usize> {
    if !is_user_range(from, length) {
        return Err(Errno::EFAULT);
    }
    let file = task.files().get_io(descriptor)?;
    let ancillary = without_control(task, socket_of(&file)?);
    let address = if to == 0 { None } else { Some(address::read(to, to_length)?) };
    let mut source = Source::user(from, length.min(RW_MAX));
    send(task, &file, &mut source, address, ancillary, flags)
}

fn send_header(task: &Task, file: &OpenFile, header: &MessageHeader, flags: u32) -> Result<usize> {
    let ranges = vectors(header)?;
    let address = if header.name == 0 || header.name_length == 0 {
        None
    } else {
        Some(address::read(header.name, header.name_length)?)
    };
    let ancillary = read_control(task, socket_of(file)?, header.control, header.control_length)?;
    send(task, file, &mut Source::vectors(&ranges), address, ancillary, flags)
}

/// sendmsg(2).
pub fn sendmsg(task: &Task, descriptor: i32, header: UserPtr<MessageHeader>, flags: u32) -> Result<usize> {
    let file = task.files().get_io(descriptor)?;
    socket_of(&file)?;
    send_header(task, &file, &header.read()?, flags)
}

/// sendmmsg(2).
pub fn sendmmsg(
    task: &Task,
    descriptor: i32,
    headers: UserPtr<MessageHeader>,
    count: u32,
    flags: u32,
) -> Result<usize> {
    let file = task.files().get_io(descriptor)?;
    socket_of(&file)?;
    let count = count.min(MESSAGES_MAX) as usize;
    for index in 0..count {
        let at = headers.byte_add(index * MMSG_SIZE);
        let sent = at
            .read()
            .and_then(|header| send_header(task, &file, &header, flags))
            .and_then(|size| at.byte_add(size_of::<MessageHeader>()).cast::<u32>().write(&(size as u32)));
        match sent {
            Ok(()) => {}
            Err(error) if index == 0 => return Err(error),
            Err(_) => return Ok(index),
        }
    }
    Ok(count)
}

/// recvfrom(2).
pub fn recvfrom(
    task: &Task,
    descriptor: i32,
    to: usize,
    length: usize,
    flags: u32,
    source: usize,
    source_length: UserPtr<i32>,
) -> Result<usize> {
    if !is_user_range(to, length) {
        return Err(Errno::EFAULT);
    }
    let file = task.files().get_io(descriptor)?;
    let socket = socket_of(&file)?;
    let mut sink = Sink::user(to, length.min(RW_MAX));
    let received = socket.receive(&mut sink, message_flags(&file, flags))?;
    if source != 0 {
        match &received.source {
            Some(address) => address::write(address, source, source_length)?,
            None => source_length.write(&0)?,
        }
    }
    Ok(received.length)
}

/// Receives one message; returns its length and the flags to tell.
fn receive_header(task: &Task, file: &OpenFile, at: UserPtr<MessageHeader>, flags: u32) -> Result<usize> {
    let socket: &dyn Socket = socket_of(file)?;
    let header = at.read()?;
    let ranges = vectors(&header)?;
    if header.name_length < 0 {
        return Err(Errno::EINVAL);
    }
    let asked = message_flags(file, flags);
    let Received { length, source, mut ancillary, flags: mut told } =
        socket.receive(&mut Sink::vectors(&ranges), asked)?;
    let room = if header.control == 0 { 0 } else { header.control_length.min(isize::MAX as usize) };
    let mut control = Control { address: header.control, room, used: 0, cut: false };
    if socket.passes_credentials() {
        let nobody = Credentials { pid: 0, uid: 65534, gid: 65534 };
        let from = ancillary.credentials.unwrap_or(nobody);
        let words = [from.pid as u32, from.uid, from.gid];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        control.put(SOL_SOCKET, SCM_CREDENTIALS, &bytes)?;
    }
    for element in &ancillary.controls {
        control.put(element.level, element.kind, &element.data)?;
    }
    let rights = core::mem::take(&mut ancillary.rights);
    install_rights(task, &mut control, rights, asked.contains(MessageFlags::CLOSE_ON_EXEC))?;
    if control.cut {
        told |= MessageFlags::CONTROL_TRUNCATED;
    }
    if asked.contains(MessageFlags::CLOSE_ON_EXEC) {
        told |= MessageFlags::CLOSE_ON_EXEC;
    }
    if header.name != 0 {
        let size = match &source {
            Some(source) => address::write_in(source, header.name, header.name_length as usize)?,
            None => 0,
        };
        at.byte_add(8).cast::<u32>().write(&size)?;
    }
    at.byte_add(40).cast::<usize>().write(&control.used)?;
    at.byte_add(48).cast::<u32>().write(&told.bits())?;
    Ok(length)
}

/// recvmsg(2).
pub fn recvmsg(task: &Task, descriptor: i32, header: UserPtr<MessageHeader>, flags: u32) -> Result<usize> {
    let file = task.files().get_io(descriptor)?;
    receive_header(task, &file, header, flags)
}

/// recvmmsg(2). The time is looked at between messages, as in Linux.
pub fn recvmmsg(
    task: &Task,
    descriptor: i32,
    headers: UserPtr<MessageHeader>,
    count: u32,
    mut flags: u32,
    timeout: UserPtr<Timespec>,
) -> Result<usize> {
    let file = task.files().get_io(descriptor)?;
    socket_of(&file)?;
    let deadline = match timeout.non_null() {
        Some(timeout) => rumpuser_clock_monotonic().saturating_add(timeout.read()?.to_nanoseconds()?),
        None => NEVER,
    };
    let count = count.min(MESSAGES_MAX) as usize;
    let mut done = 0;
    while done < count {
        let at = headers.byte_add(done * MMSG_SIZE);
        let received = receive_header(task, &file, at, flags)
            .and_then(|size| at.byte_add(size_of::<MessageHeader>()).cast::<u32>().write(&(size as u32)));
        match received {
            Ok(()) => done += 1,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
        if flags & MessageFlags::WAIT_FOR_ONE.bits() != 0 {
            flags |= MessageFlags::DONT_WAIT.bits();
        }
        if rumpuser_clock_monotonic() >= deadline {
            break;
        }
    }
    Ok(done)
}
