//! Sending and receiving. Data passes through a buffer of the kernel's, at most [`BUFFER`] bytes at a time.

use alloc::vec;
use core::sync::atomic::Ordering;

use rumpkern::{
    Errno, Result,
    uio::{Sink, Source},
};
use rumpnet::{
    inet,
    packet::Chain,
    socket::{Address, Ancillary, MessageFlags, Received},
};

use super::{InternetSocket, hint, state};
use crate::{
    address::Encoded,
    call::{BUFFER, Caller, address_of, address_of_mut, int, number},
    control,
};

/// `MSG_NOSIGNAL`, `MSG_DONTWAIT`; `MSG_TRUNC` and `MSG_CTRUNC` of NetBSD.
const NO_SIGNAL: u32 = 0x400;
const DONT_WAIT: u32 = 0x80;
const TRUNCATED: u32 = 0x10;
const CONTROL_TRUNCATED: u32 = 0x20;
/// Bytes of ancillary data.
const CONTROL: usize = 512;

/// `struct msghdr`.
#[repr(C)]
#[derive(Default)]
struct MessageHeader {
    name: u64,
    name_length: u32,
    parts: u64,
    part_count: i32,
    control: u64,
    control_length: u32,
    flags: u32,
}

/// Room for ancillary data, aligned as it wants to be.
#[repr(C, align(16))]
struct ControlRoom([u8; CONTROL]);

/// The flags that both systems have, by NetBSD's values.
fn flags_of(flags: MessageFlags) -> u32 {
    // MSG_OOB, MSG_PEEK and MSG_DONTROUTE are the same.
    let same = MessageFlags::OUT_OF_BAND | MessageFlags::PEEK | MessageFlags::DONT_ROUTE;
    (flags & same).bits() | NO_SIGNAL | DONT_WAIT
}

impl InternetSocket {
    /// Waits for a hint. EAGAIN when the time is up; a deadline of 0 doesn't wait.
    pub(super) fn wait_for(&self, wanted: u64, deadline: u64) -> Result<()> {
        let look = || {
            let closed = self.users.load(Ordering::Acquire) & 1 != 0;
            (closed || self.hints() & (wanted | hint::FAILED) != 0).then_some(closed)
        };
        if self.base.wait(deadline, look)? { Err(Errno::EBADF) } else { Ok(()) }
    }

    /// There was no room: from now on, the socket counts as not ready to send until it hears that it is.
    fn no_room(&self, before: u64) -> Result<()> {
        self.take_back(before, hint::WRITE);
        self.watch_sending()
    }

    /// A stream that isn't connected: why it can't be used.
    fn require_connected(&self, sending: bool) -> Result<()> {
        match self.state() {
            state::CONNECTING => match self.progress() {
                Some(outcome) => outcome,
                None => Err(Errno::EAGAIN),
            },
            state::IDLE if sending => Err(Errno::EPIPE),
            state::IDLE | state::LISTENING => Err(Errno::ENOTCONN),
            _ => Ok(()),
        }
    }

    fn wait_connection(&self, sending: bool, deadline: u64) -> Result<()> {
        loop {
            match self.require_connected(sending) {
                Err(Errno::EAGAIN) => self.wait_for(hint::WRITE, deadline)?,
                outcome => return outcome,
            }
        }
    }

    pub(super) fn send_stream(&self, source: &mut Source<'_>, flags: MessageFlags) -> Result<usize> {
        let deadline = self.base.send_deadline(flags.contains(MessageFlags::DONT_WAIT));
        if self.state() != state::CONNECTED {
            self.wait_connection(true, deadline)?;
        }
        let given = flags_of(flags);
        let mut sent = 0;
        loop {
            let mut caller = Caller::borrow()?;
            let place = caller.buffer_address();
            let length = match source.take(caller.buffer()) {
                Ok(length) => length,
                Err(_) if sent > 0 => return Ok(sent),
                Err(error) => return Err(error),
            };
            let mut done = 0;
            loop {
                let before = self.hints();
                let arguments = &mut [
                    int(self.descriptor),
                    place + done as u64,
                    (length - done) as u64,
                    u64::from(given),
                    0,
                    0,
                ];
                let result = caller.call(number::SENDTO, arguments);
                let error = match result {
                    Ok(count) => {
                        done += usize::try_from(count).unwrap_or(0);
                        Errno::EAGAIN
                    }
                    Err(Errno::ENOBUFS) => Errno::EAGAIN,
                    Err(error) => error,
                };
                if done >= length {
                    break;
                }
                let waited = if error == Errno::EAGAIN {
                    // The buffer stays this call's own meanwhile.
                    self.no_room(before).and_then(|()| self.wait_for(hint::WRITE, deadline))
                } else {
                    Err(error)
                };
                if let Err(error) = waited {
                    let total = sent + done;
                    return if total > 0 { Ok(total) } else { Err(error) };
                }
            }
            sent += done;
            if source.remaining() == 0 {
                return Ok(sent);
            }
        }
    }

    /// Sends pages, which are copied.
    pub(super) fn send_pages(&self, chain: &mut Chain, flags: MessageFlags) -> Result<usize> {
        let mut bytes = vec![0; chain.len().min(BUFFER)];
        let mut total = 0;
        while !chain.is_empty() {
            let length = chain.copy_to(0, &mut bytes);
            let sent = match self.send_stream(&mut Source::kernel(&bytes[..length]), flags) {
                Ok(sent) => sent,
                Err(_) if total > 0 => break,
                Err(error) => return Err(error),
            };
            chain.advance(sent);
            total += sent;
            if sent < length {
                break;
            }
        }
        Ok(total)
    }

    pub(super) fn receive_stream(&self, sink: &mut Sink<'_>, flags: MessageFlags) -> Result<Received> {
        let deadline = self.base.receive_deadline(flags.contains(MessageFlags::DONT_WAIT));
        if self.state() != state::CONNECTED {
            self.wait_connection(false, deadline)?;
        }
        let given = u64::from(flags_of(flags));
        let all = flags.contains(MessageFlags::WAIT_ALL) && !flags.contains(MessageFlags::PEEK);
        let discards = flags.contains(MessageFlags::TRUNCATED);
        let wanted = sink.remaining();
        let mut length = 0;
        while length < wanted {
            let before = self.hints();
            let mut caller = Caller::borrow()?;
            let place = caller.buffer_address();
            let room = (wanted - length).min(BUFFER);
            let result =
                caller.call(number::RECVFROM, &mut [int(self.descriptor), place, room as u64, given, 0, 0]);
            let error = match result {
                Ok(0) => break,
                Ok(count) => {
                    let count = usize::try_from(count).unwrap_or(0).min(room);
                    if !discards {
                        put_all(sink, &caller.buffer()[..count])?;
                    }
                    length += count;
                    if !all && (count < room || flags.contains(MessageFlags::PEEK)) {
                        break;
                    }
                    continue;
                }
                Err(error) => error,
            };
            drop(caller);
            if error != Errno::EAGAIN || flags.contains(MessageFlags::OUT_OF_BAND) {
                if length > 0 {
                    break;
                }
                return Err(error);
            }
            self.take_back(before, hint::READ);
            if length > 0 && !all {
                break;
            }
            if let Err(error) = self.wait_for(hint::READ, deadline) {
                if length > 0 {
                    break;
                }
                return Err(error);
            }
        }
        Ok(Received { length, source: None, ancillary: Ancillary::default(), flags: MessageFlags::empty() })
    }

    pub(super) fn send_datagram(
        &self,
        source: &mut Source<'_>,
        to: Option<&Address>,
        ancillary: &Ancillary,
        flags: MessageFlags,
    ) -> Result<usize> {
        let length = source.remaining();
        if length > BUFFER {
            return Err(Errno::EMSGSIZE);
        }
        let domain = self.base.domain();
        let to = match to {
            Some(address) => {
                Some(Encoded::new(domain, inet::destination(domain, self.is_version6_only(), address)?))
            }
            None => None,
        };
        let mut room = ControlRoom([0; CONTROL]);
        let control = control::encode(domain, &ancillary.controls, &mut room.0)?;
        let deadline = self.base.send_deadline(flags.contains(MessageFlags::DONT_WAIT));
        let mut caller = Caller::borrow()?;
        let place = caller.buffer_address();
        if source.take(caller.buffer())? < length {
            return Err(Errno::EFAULT);
        }
        let part = [place, length as u64];
        let mut header =
            MessageHeader { parts: address_of(&part), part_count: 1, ..MessageHeader::default() };
        if let Some(to) = &to {
            (header.name, header.name_length) = (address_of(to), to.length() as u32);
        }
        if control > 0 {
            (header.control, header.control_length) = (address_of(&room), control as u32);
        }
        loop {
            let before = self.hints();
            let arguments = &mut [int(self.descriptor), address_of(&header), u64::from(flags_of(flags))];
            match caller.call(number::SENDMSG, arguments) {
                Ok(_) => return Ok(length),
                Err(Errno::EAGAIN) => {
                    self.no_room(before)?;
                    self.wait_for(hint::WRITE, deadline)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn receive_datagram(&self, sink: &mut Sink<'_>, flags: MessageFlags) -> Result<Received> {
        let deadline = self.base.receive_deadline(flags.contains(MessageFlags::DONT_WAIT));
        let given = u64::from(flags_of(flags));
        loop {
            let before = self.hints();
            let mut caller = Caller::borrow()?;
            let part = [caller.buffer_address(), BUFFER as u64];
            let mut from = Encoded::empty();
            let mut room = ControlRoom([0; CONTROL]);
            let mut header = MessageHeader {
                name: address_of_mut(&mut from),
                name_length: size_of::<Encoded>() as u32,
                parts: address_of(&part),
                part_count: 1,
                control: address_of_mut(&mut room),
                control_length: CONTROL as u32,
                flags: 0,
            };
            let place = address_of_mut(&mut header);
            let error = match caller.call(number::RECVMSG, &mut [int(self.descriptor), place, given]) {
                Ok(count) => {
                    let count = usize::try_from(count).unwrap_or(0).min(BUFFER);
                    let fits = count.min(sink.remaining());
                    put_all(sink, &caller.buffer()[..fits])?;
                    let mut told = MessageFlags::empty();
                    if fits < count || header.flags & TRUNCATED != 0 {
                        told |= MessageFlags::TRUNCATED;
                    }
                    if header.flags & CONTROL_TRUNCATED != 0 {
                        told |= MessageFlags::CONTROL_TRUNCATED;
                    }
                    let length = if flags.contains(MessageFlags::TRUNCATED) { count } else { fits };
                    let control = &room.0[..(header.control_length as usize).min(CONTROL)];
                    let wishes = self.wishes.load(Ordering::Relaxed);
                    let controls = control::decode(self.base.domain(), wishes, control);
                    return Ok(Received {
                        length,
                        source: from.decode().map(Address::Internet),
                        ancillary: Ancillary { controls, ..Ancillary::default() },
                        flags: told,
                    });
                }
                Err(error) => error,
            };
            drop(caller);
            if error != Errno::EAGAIN {
                return Err(error);
            }
            self.take_back(before, hint::READ);
            if self.hints() & hint::END != 0 {
                return Ok(Received {
                    length: 0,
                    source: None,
                    ancillary: Ancillary::default(),
                    flags: MessageFlags::empty(),
                });
            }
            self.wait_for(hint::READ, deadline)?;
        }
    }
}

/// Hands over all of it. EFAULT if nothing could be.
fn put_all(sink: &mut Sink<'_>, bytes: &[u8]) -> Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match sink.put(&bytes[done..])? {
            0 => break,
            count => done += count,
        }
    }
    Ok(())
}
