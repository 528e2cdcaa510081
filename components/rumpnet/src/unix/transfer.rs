//! Sending and receiving on Unix sockets.

use alloc::{sync::Arc, vec::Vec};

use rumpkern::{
    Errno, Result,
    poll::Events,
    uio::{Sink, Source},
};

use super::{Message, State, UnixSocket, names, rights::InFlight};
use crate::base::Switches;
use crate::socket::{Address, Ancillary, Credentials, MessageFlags, Received, Style};

/// How much of a stream goes into one message.
const SEGMENT: usize = 32 << 10;

static ZEROS: [u8; 1024] = [0; 1024];

/// Reads up to `length` bytes of a message's data.
fn gather(source: &mut Source<'_>, length: usize) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    data.try_reserve_exact(length).map_err(|_| Errno::ENOBUFS)?;
    // The standard library's loop for this is not compiled for speed.
    while data.len() < length {
        data.extend_from_slice(&ZEROS[..(length - data.len()).min(ZEROS.len())]);
    }
    let mut done = 0;
    while done < length {
        match source.take(&mut data[done..]) {
            Ok(0) => break,
            Ok(size) => done += size,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    data.truncate(done);
    Ok(data)
}

impl UnixSocket {
    /// Whom a connected socket sends to. EPIPE, ENOTCONN, or an error that came meanwhile.
    fn connected_peer(&self) -> Result<Arc<UnixSocket>> {
        let state = self.state.lock();
        if state.shut_send {
            return Err(Errno::EPIPE);
        }
        if !state.connected {
            return Err(Errno::ENOTCONN);
        }
        state.peer.as_ref().and_then(|peer| peer.upgrade()).ok_or(Errno::EPIPE)
    }

    pub(super) fn send_stream(
        &self,
        source: &mut Source<'_>,
        to: Option<&Address>,
        ancillary: Ancillary,
        flags: MessageFlags,
    ) -> Result<usize> {
        if to.is_some() {
            return Err(if self.state.lock().connected { Errno::EISCONN } else { Errno::EOPNOTSUPP });
        }
        let peer = self.connected_peer()?;
        let credentials = ancillary.credentials.or(Some(self.base.creator()));
        let mut rights = InFlight::new(ancillary.rights)?;
        let deadline = self.base.send_deadline(flags.contains(MessageFlags::DONT_WAIT));
        let limit = self.base.send_buffer();
        let mut done = 0;
        while source.remaining() > 0 {
            let room = self.base.wait(deadline, || {
                if self.state.lock().shut_send {
                    return Some(Err(Errno::EPIPE));
                }
                let state = peer.state.lock();
                if state.shut_receive {
                    return Some(Err(Errno::EPIPE));
                }
                let room = limit.saturating_sub(state.bytes);
                (room > 0).then_some(Ok(room))
            });
            let sent = room.and_then(|room| room).and_then(|room| {
                let data = gather(source, source.remaining().min(room).min(SEGMENT))?;
                let size = data.len();
                peer.push_stream(data, credentials, core::mem::take(&mut rights))?;
                Ok(size)
            });
            match sent {
                Ok(0) => break,
                Ok(size) => done += size,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn push_stream(&self, data: Vec<u8>, credentials: Option<Credentials>, rights: InFlight) -> Result<()> {
        {
            let mut state = self.state.lock();
            if state.shut_receive {
                return Err(Errno::EPIPE);
            }
            state.bytes += data.len();
            match state.messages.back_mut() {
                Some(last)
                    if rights.is_empty()
                        && last.rights.is_empty()
                        && last.credentials == credentials
                        && last.data.len() + data.len() <= SEGMENT =>
                {
                    last.data.extend_from_slice(&data);
                }
                _ => {
                    let message = Message { data, start: 0, credentials, rights, source: Address::Unnamed };
                    state.messages.push_back(message);
                }
            }
        }
        self.base.changes.notify(Events::IN | Events::RDNORM);
        Ok(())
    }

    /// Sends one message: a datagram, or a packet of a sequence.
    pub(super) fn send_message(
        &self,
        source: &mut Source<'_>,
        to: Option<&Address>,
        ancillary: Ancillary,
        flags: MessageFlags,
    ) -> Result<usize> {
        let peer = match to {
            Some(_) if !self.is_datagram() && self.state.lock().connected => return Err(Errno::EISCONN),
            Some(_) if !self.is_datagram() => return Err(Errno::EOPNOTSUPP),
            Some(address) => {
                let peer = names::find(address)?;
                if !peer.is_datagram() {
                    return Err(Errno::EPROTOTYPE);
                }
                if !peer.accepts_from(self) {
                    return Err(Errno::EPERM);
                }
                peer
            }
            None => match self.connected_peer() {
                Err(Errno::EPIPE) if self.is_datagram() && !self.state.lock().shut_send => {
                    return Err(Errno::ECONNREFUSED);
                }
                other => other?,
            },
        };
        if self.state.lock().shut_send {
            return Err(Errno::EPIPE);
        }
        let limit = self.base.send_buffer();
        if source.remaining() > limit.saturating_sub(32) {
            return Err(Errno::EMSGSIZE);
        }
        let length = source.remaining();
        let mut data = gather(source, length)?;
        if data.len() < length {
            return Err(Errno::EFAULT);
        }
        let mut rights = InFlight::new(ancillary.rights)?;
        let credentials = ancillary.credentials.or(Some(self.base.creator()));
        let name = if self.is_datagram() { self.state.lock().name.clone() } else { Address::Unnamed };
        let deadline = self.base.send_deadline(flags.contains(MessageFlags::DONT_WAIT));
        let mut attempt = || {
            if !self.is_datagram() && self.state.lock().shut_send {
                return Some(Err(Errno::EPIPE));
            }
            let mut state = peer.state.lock();
            if peer.is_closed() {
                return Some(Err(if self.is_datagram() { Errno::ECONNREFUSED } else { Errno::EPIPE }));
            }
            if state.shut_receive {
                return Some(Err(Errno::EPIPE));
            }
            if !peer.has_room(&state, limit) {
                return None;
            }
            state.bytes += data.len();
            let message = Message {
                data: core::mem::take(&mut data),
                start: 0,
                credentials,
                rights: core::mem::take(&mut rights),
                source: name.clone(),
            };
            state.messages.push_back(message);
            Some(Ok(()))
        };
        // Datagrams wait at the receiver, packets at the sender, where the news of room arrives.
        let place = if self.is_datagram() { &*peer } else { self };
        place.base.wait(deadline, &mut attempt)??;
        peer.base.changes.notify(Events::IN | Events::RDNORM);
        Ok(length)
    }

    /// What a receiver finds instead of data.
    fn without_data(&self, state: &mut State) -> Option<Result<()>> {
        if let Err(error) = self.base.take_error() {
            return Some(Err(error));
        }
        if state.shut_receive {
            return Some(Ok(()));
        }
        if self.base.style() != Style::Datagram && !state.connected {
            return Some(Err(if state.listener.is_some() || self.base.style() == Style::Stream {
                Errno::EINVAL
            } else {
                Errno::ENOTCONN
            }));
        }
        None
    }

    pub(super) fn receive_stream(&self, sink: &mut Sink<'_>, flags: MessageFlags) -> Result<Received> {
        let mut received = Received {
            length: 0,
            source: None,
            ancillary: Ancillary::default(),
            flags: MessageFlags::default(),
        };
        let peek = flags.contains(MessageFlags::PEEK);
        let wants_all = flags.contains(MessageFlags::WAIT_ALL) && !peek;
        let offset = if peek { self.base.peek_offset().max(0) as usize } else { 0 };
        let deadline = self.base.receive_deadline(flags.contains(MessageFlags::DONT_WAIT));
        if sink.remaining() == 0 {
            let state = self.state.lock();
            if !state.connected {
                return Err(Errno::EINVAL);
            }
            return Ok(received);
        }
        loop {
            let outcome = self.base.wait(deadline, || {
                let mut state = self.state.lock();
                if !state.messages.is_empty() && (offset == 0 || state.bytes > offset) {
                    return Some(self.take_stream(&mut state, sink, flags, &mut received));
                }
                self.without_data(&mut state).map(|end| end.map(|()| true))
            });
            match outcome.and_then(|outcome| outcome) {
                Ok(ended) => {
                    if ended || sink.remaining() == 0 || !wants_all {
                        break;
                    }
                    self.tell_senders();
                }
                Err(error) if received.length == 0 => return Err(error),
                Err(_) => break,
            }
        }
        if received.length > 0 && !peek {
            self.tell_senders();
        }
        let moved = i32::try_from(received.length).unwrap_or(i32::MAX);
        self.base.move_peek_offset(if peek { moved } else { -moved });
        Ok(received)
    }

    /// Takes what the queue has; whether the receive ends here whatever was asked for.
    fn take_stream(
        &self,
        state: &mut State,
        sink: &mut Sink<'_>,
        flags: MessageFlags,
        received: &mut Received,
    ) -> Result<bool> {
        let peek = flags.contains(MessageFlags::PEEK);
        let mut looked = 0;
        let mut skip = if peek { self.base.peek_offset().max(0) as usize } else { 0 };
        while sink.remaining() > 0 {
            let Some(message) = state.messages.get_mut(looked) else { break };
            if skip > 0 && skip >= message.left().len() {
                skip -= message.left().len();
                looked += 1;
                continue;
            }
            // Messages with open files, or of others, are not mixed.
            let different = received.ancillary.credentials.is_some()
                && received.ancillary.credentials != message.credentials
                && self.base.is_on(Switches::PASS_CREDENTIALS);
            if received.length > 0 && (!message.rights.is_empty() || different)
                || !received.ancillary.rights.is_empty()
            {
                return Ok(true);
            }
            let size = match sink.put(&message.left()[skip..]) {
                Ok(size) => size,
                Err(error) if received.length == 0 => return Err(error),
                Err(_) => return Ok(true),
            };
            received.length += size;
            received.ancillary.credentials = message.credentials;
            if peek {
                received.ancillary.rights = message.rights.peek();
                looked += 1;
                skip = 0;
                continue;
            }
            if !message.rights.is_empty() {
                received.ancillary.rights = message.rights.take();
            }
            message.start += size;
            let finished = message.left().is_empty();
            state.bytes -= size;
            if finished {
                state.messages.pop_front();
            }
        }
        Ok(false)
    }

    /// Receives one message: a datagram, or a packet of a sequence.
    pub(super) fn receive_message(&self, sink: &mut Sink<'_>, flags: MessageFlags) -> Result<Received> {
        let peek = flags.contains(MessageFlags::PEEK);
        let deadline = self.base.receive_deadline(flags.contains(MessageFlags::DONT_WAIT));
        let received = self.base.wait(deadline, || {
            let mut state = self.state.lock();
            if !state.messages.is_empty() {
                return Some(Self::take_message(&mut state, sink, flags));
            }
            self.without_data(&mut state).map(|end| {
                end.map(|()| Received {
                    length: 0,
                    source: None,
                    ancillary: Ancillary::default(),
                    flags: MessageFlags::default(),
                })
            })
        })??;
        if !peek {
            self.tell_senders();
        }
        Ok(received)
    }

    fn take_message(state: &mut State, sink: &mut Sink<'_>, flags: MessageFlags) -> Result<Received> {
        let peek = flags.contains(MessageFlags::PEEK);
        let Some(message) = state.messages.front_mut() else { return Err(Errno::EAGAIN) };
        let wanted = message.data.len().min(sink.remaining());
        let mut done = 0;
        let mut fault = None;
        while done < wanted && fault.is_none() {
            match sink.put(&message.data[done..wanted]) {
                Ok(size) => done += size,
                Err(error) => fault = Some(error),
            }
        }
        let length = message.data.len();
        let received = Received {
            length: if flags.contains(MessageFlags::TRUNCATED) { length } else { done },
            source: Some(message.source.clone()).filter(|source| !matches!(source, Address::Unnamed)),
            ancillary: Ancillary {
                credentials: message.credentials,
                controls: Vec::new(),
                rights: if peek || fault.is_some() { message.rights.peek() } else { message.rights.take() },
            },
            flags: if done < length { MessageFlags::TRUNCATED } else { MessageFlags::default() },
        };
        if let Some(error) = fault {
            return Err(error);
        }
        if !peek {
            state.bytes -= length;
            state.messages.pop_front();
        }
        Ok(received)
    }
}
