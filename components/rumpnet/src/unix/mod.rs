//! Unix sockets (unix(7)): streams, datagrams and sequenced packets inside the machine.
//!
//! What was sent to a socket waits in its own queue. A socket knows its peer weakly; no method holds the locks
//! of two sockets at once.

mod connect;
mod list;
mod names;
mod rights;
mod transfer;

#[cfg(test)]
mod tests;

use alloc::{
    collections::VecDeque,
    string::String,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    any::Any,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use rumpkern::{
    Errno, Result,
    poll::{Events, Observer},
    uio::{Sink, Source},
};
use rumpuser::{rumpuser_copyout, sync::Mutex};
use rumpvfs::{
    file::{File, OpenFlags},
    vnode::Attributes,
};

use crate::{
    base::{SocketBase, Switches, limits, message_flags, name},
    option::{Value, level},
    socket::{Address, Ancillary, Credentials, Domain, MessageFlags, Received, Socket, Style},
};
pub use list::{Snapshot, all as sockets};
use rights::InFlight;

/// Datagrams that may wait in a queue (`net.unix.max_dgram_qlen`).
pub static DATAGRAMS: AtomicUsize = AtomicUsize::new(512);

/// What was sent and not yet received.
struct Message {
    data: Vec<u8>,
    /// Bytes of `data` that were received already (streams).
    start: usize,
    credentials: Option<Credentials>,
    rights: InFlight,
    source: Address,
}

impl Message {
    fn left(&self) -> &[u8] {
        &self.data[self.start..]
    }
}

struct Listener {
    backlog: usize,
    pending: VecDeque<Arc<UnixSocket>>,
}

struct State {
    name: Address,
    peer: Option<Weak<UnixSocket>>,
    /// Sockets whose peer this is, to be told of room (datagrams).
    senders: Vec<Weak<UnixSocket>>,
    /// Was connected, whether or not the peer is still there.
    connected: bool,
    listener: Option<Listener>,
    messages: VecDeque<Message>,
    bytes: usize,
    shut_receive: bool,
    shut_send: bool,
    peer_credentials: Option<Credentials>,
    /// Whom connections find (set by listen).
    own_credentials: Credentials,
}

/// See the module.
pub struct UnixSocket {
    /// Sends without credentials of their own bear those of its creator.
    base: SocketBase,
    myself: Weak<UnixSocket>,
    state: Mutex<State>,
    closed: AtomicBool,
}

impl UnixSocket {
    /// A socket without name or peer.
    pub fn new(style: Style, creator: Credentials) -> Arc<Self> {
        let socket = Arc::new_cyclic(|myself| UnixSocket {
            base: SocketBase::new(Domain::Unix, style, 0, creator),
            myself: myself.clone(),
            state: Mutex::new(State {
                name: Address::Unnamed,
                peer: None,
                senders: Vec::new(),
                connected: false,
                listener: None,
                messages: VecDeque::new(),
                bytes: 0,
                shut_receive: false,
                shut_send: false,
                peer_credentials: None,
                own_credentials: creator,
            }),
            closed: AtomicBool::new(false),
        });
        list::add(&socket);
        socket
    }

    /// socketpair(2).
    pub fn pair(style: Style, creator: Credentials) -> (Arc<Self>, Arc<Self>) {
        let (one, other) = (UnixSocket::new(style, creator), UnixSocket::new(style, creator));
        for (socket, peer) in [(&one, &other), (&other, &one)] {
            let mut state = socket.state.lock();
            state.peer = Some(Arc::downgrade(peer));
            state.connected = true;
            state.peer_credentials = Some(creator);
            state.senders.push(Arc::downgrade(peer));
        }
        (one, other)
    }

    fn is_datagram(&self) -> bool {
        self.base.style() == Style::Datagram
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn peer(&self) -> Option<Arc<UnixSocket>> {
        self.state.lock().peer.as_ref().and_then(Weak::upgrade)
    }

    /// Tells the senders that wait that there is room.
    fn tell_senders(&self) {
        let senders = match self.base.style() {
            Style::Datagram => self.state.lock().senders.clone(),
            _ => self.state.lock().peer.iter().cloned().collect(),
        };
        for sender in senders.iter().filter_map(Weak::upgrade) {
            sender.base.changes.notify(Events::OUT | Events::WRNORM);
        }
        if self.is_datagram() {
            // Those that send without being connected wait here.
            self.base.changes.wake_all();
        }
    }

    /// Whether this socket's queue has room for one more message.
    fn has_room(&self, state: &State, send_buffer: usize) -> bool {
        state.bytes < send_buffer
            && (!self.is_datagram() || state.messages.len() < DATAGRAMS.load(Ordering::Relaxed))
    }

    /// The other end vanished.
    fn peer_closed(&self, reset: bool) {
        {
            let mut state = self.state.lock();
            state.shut_receive = true;
            state.shut_send = true;
            if reset {
                self.base.set_error(Errno::ECONNRESET);
            }
        }
        self.base.changes.notify(Events::IN | Events::OUT | Events::HUP | Events::RDHUP);
    }
}

impl File for UnixSocket {
    fn read(&self, sink: &mut Sink<'_>, _offset: u64, flags: OpenFlags) -> Result<usize> {
        self.receive(sink, message_flags(flags)).map(|received| received.length)
    }

    fn write(&self, source: &mut Source<'_>, _offset: &mut u64, flags: OpenFlags) -> Result<usize> {
        self.send(source, None, Ancillary::default(), message_flags(flags))
    }

    fn poll(&self) -> Events {
        let (mut events, peer) = {
            let state = self.state.lock();
            let mut events = Events::empty();
            let has_pending = state.listener.as_ref().is_some_and(|listener| !listener.pending.is_empty());
            if !state.messages.is_empty() || state.shut_receive || has_pending {
                events |= Events::IN | Events::RDNORM;
            }
            if state.shut_receive {
                events |= Events::RDHUP;
            }
            if state.shut_receive && state.shut_send
                || !self.is_datagram() && !state.connected && state.listener.is_none()
            {
                events |= Events::HUP;
            }
            if self.base.has_error() {
                events |= Events::ERR;
            }
            if state.listener.is_some() {
                return events;
            }
            (events, state.peer.as_ref().and_then(Weak::upgrade))
        };
        let writable = peer.is_none_or(|peer| {
            peer.is_closed() || peer.has_room(&peer.state.lock(), self.base.send_buffer())
        });
        if writable {
            events |= Events::OUT | Events::WRNORM | Events::WRBAND;
        }
        events
    }

    fn observe(&self, observer: &Arc<dyn Observer>) {
        self.base.changes.observe(observer);
    }

    fn unobserve(&self, observer: &Arc<dyn Observer>) {
        self.base.changes.unobserve(observer);
    }

    fn ioctl(&self, request: u32, argument: usize) -> Result<usize> {
        const SIOCINQ: u32 = 0x541b;
        const SIOCOUTQ: u32 = 0x5411;
        const SIOCATMARK: u32 = 0x8905;
        let value = match request {
            SIOCINQ if self.state.lock().listener.is_some() => return Err(Errno::EINVAL),
            SIOCINQ => self.available(),
            SIOCOUTQ => self.peer().map_or(0, |peer| peer.state.lock().bytes),
            SIOCATMARK => 0,
            _ => return Err(Errno::ENOTTY),
        };
        let value = i32::try_from(value).unwrap_or(i32::MAX);
        if rumpuser_copyout(&value.to_le_bytes(), argument) == 0 { Ok(0) } else { Err(Errno::EFAULT) }
    }

    fn attributes(&self) -> Result<Attributes> {
        Ok(self.base.attributes())
    }

    fn description(&self) -> String {
        self.base.description()
    }

    fn close(&self) {
        if self.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        let (name, peer, messages, pending) = {
            let mut state = self.state.lock();
            state.shut_receive = true;
            state.shut_send = true;
            let pending = state.listener.take().map(|listener| listener.pending).unwrap_or_default();
            state.bytes = 0;
            let messages = core::mem::take(&mut state.messages);
            (core::mem::replace(&mut state.name, Address::Unnamed), state.peer.take(), messages, pending)
        };
        names::unregister(&name, self);
        if let Some(peer) = peer.and_then(|peer| peer.upgrade()) {
            if !self.is_datagram() {
                peer.peer_closed(!messages.is_empty());
            } else {
                let mut state = peer.state.lock();
                state.senders.retain(|sender| !core::ptr::eq(sender.as_ptr(), self));
            }
        }
        for connection in pending {
            // Nobody will accept it: the one who connected reads a reset.
            if let Some(peer) = connection.peer() {
                peer.peer_closed(true);
            }
            connection.closed.store(true, Ordering::SeqCst);
        }
        self.tell_senders();
        self.base.changes.notify(Events::IN | Events::OUT | Events::HUP);
        drop(messages);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        self.close();
        list::remove(self);
    }
}

impl Socket for UnixSocket {
    fn domain(&self) -> Domain {
        Domain::Unix
    }

    fn style(&self) -> Style {
        self.base.style()
    }

    fn bind(&self, address: Address) -> Result<()> {
        if !matches!(self.state.lock().name, Address::Unnamed) {
            return Err(Errno::EINVAL);
        }
        let name = match address {
            Address::Unnamed => names::register_any(&self.myself)?,
            address => {
                names::register(&address, &self.myself)?;
                address
            }
        };
        self.state.lock().name = name;
        Ok(())
    }

    fn listen(&self, backlog: usize, caller: Credentials) -> Result<()> {
        if self.is_datagram() {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut state = self.state.lock();
        if state.connected || matches!(state.name, Address::Unnamed) {
            return Err(Errno::EINVAL);
        }
        let backlog = backlog.min(limits::BACKLOG_MOST.load(Ordering::Relaxed));
        state.own_credentials = caller;
        match &mut state.listener {
            Some(listener) => listener.backlog = backlog,
            None => state.listener = Some(Listener { backlog, pending: VecDeque::new() }),
        }
        drop(state);
        self.base.changes.notify(Events::OUT);
        Ok(())
    }

    fn accept(&self, no_wait: bool) -> Result<Arc<dyn Socket>> {
        self.accept_connection(no_wait)
    }

    fn connect(&self, address: &Address, no_wait: bool, caller: Credentials) -> Result<()> {
        if self.is_datagram() {
            self.connect_datagram(address)
        } else {
            self.connect_stream(address, no_wait, caller)
        }
    }

    fn name(&self) -> Address {
        self.state.lock().name.clone()
    }

    fn peer_name(&self) -> Result<Address> {
        let state = self.state.lock();
        match state.peer.as_ref().and_then(Weak::upgrade) {
            Some(peer) => {
                drop(state);
                Ok(peer.name())
            }
            None if state.connected => Ok(Address::Unnamed),
            None => Err(Errno::ENOTCONN),
        }
    }

    fn peer_credentials(&self) -> Option<Credentials> {
        self.state.lock().peer_credentials
    }

    fn send(
        &self,
        source: &mut Source<'_>,
        to: Option<&Address>,
        ancillary: Ancillary,
        flags: MessageFlags,
    ) -> Result<usize> {
        if flags.contains(MessageFlags::OUT_OF_BAND) {
            return Err(Errno::EOPNOTSUPP);
        }
        match self.base.style() {
            Style::Stream => self.send_stream(source, to, ancillary, flags),
            _ => self.send_message(source, to, ancillary, flags),
        }
    }

    fn receive(&self, sink: &mut Sink<'_>, flags: MessageFlags) -> Result<Received> {
        if flags.contains(MessageFlags::OUT_OF_BAND) {
            return Err(Errno::EOPNOTSUPP);
        }
        match self.base.style() {
            Style::Stream => self.receive_stream(sink, flags),
            _ => self.receive_message(sink, flags),
        }
    }

    fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        let peer = {
            let mut state = self.state.lock();
            if !self.is_datagram() && !state.connected && state.listener.is_none() {
                return Err(Errno::ENOTCONN);
            }
            state.shut_receive |= read;
            state.shut_send |= write;
            state.peer.as_ref().and_then(Weak::upgrade)
        };
        if let Some(peer) = peer.filter(|_| !self.is_datagram()) {
            {
                let mut state = peer.state.lock();
                state.shut_receive |= write;
                state.shut_send |= read;
            }
            peer.base.changes.notify(Events::IN | Events::OUT | Events::RDHUP | Events::HUP);
        }
        self.base.changes.notify(Events::IN | Events::OUT | Events::RDHUP | Events::HUP);
        Ok(())
    }

    fn option(&self, level: i32, name: i32) -> Result<Value> {
        if level != level::SOCKET {
            return Err(Errno::EOPNOTSUPP);
        }
        match name {
            name::ACCEPTCONN => Ok(Value::switch(self.state.lock().listener.is_some())),
            name::PEERCRED => {
                let unknown = Credentials { pid: 0, uid: u32::MAX, gid: u32::MAX };
                let peer = self.peer_credentials().unwrap_or(unknown);
                Ok(Value::words(&[peer.pid as u32, peer.uid, peer.gid]))
            }
            name::PEERGROUPS => self.peer_credentials().map(|_| Value::bytes(&[])).ok_or(Errno::ENODATA),
            name => self.base.option(name),
        }
    }

    fn set_option(&self, level: i32, name: i32, value: &[u8]) -> Result<()> {
        if level == level::SOCKET { self.base.set_option(name, value) } else { Err(Errno::EOPNOTSUPP) }
    }

    fn available(&self) -> usize {
        let state = self.state.lock();
        match self.base.style() {
            Style::Stream | Style::SequencedPacket => state.bytes,
            _ => state.messages.front().map_or(0, |message| message.data.len()),
        }
    }

    fn passes_credentials(&self) -> bool {
        self.base.is_on(Switches::PASS_CREDENTIALS)
    }
}
