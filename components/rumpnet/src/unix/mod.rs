//! Unix sockets (unix(7)): streams, datagrams and sequenced packets inside the machine.
//!
//! What was sent to a socket waits in its own queue. A socket knows its peer weakly; no method holds the locks
//! of two sockets at once.

mod connect;
mod names;
mod rights;
mod transfer;

#[cfg(test)]
mod tests;

use alloc::{
    collections::{BTreeMap, VecDeque},
    format,
    string::String,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    any::Any,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use rumpkern::{
    Errno, Result,
    poll::{Events, Observer},
    uio::{Sink, Source},
    wait::WaitQueue,
};
use rumpuser::{NEVER, rumpuser_clock_monotonic, rumpuser_copyout, sync::Mutex};
use rumpvfs::{
    file::{File, OpenFlags},
    vnode::{Attributes, Kind},
};

use crate::socket::{
    Address, Ancillary, Credentials, Domain, MessageFlags, Received, Socket, SocketOption, Style,
};
use rights::InFlight;

/// SO_SNDBUF and SO_RCVBUF at first (net.core.wmem_default).
const DEFAULT_BUFFER: usize = 212_992;
/// What they may be set to (twice net.core.wmem_max).
const BUFFER_RANGE: core::ops::RangeInclusive<u64> = 4608..=425_984;
/// Datagrams that may wait in a queue.
const DATAGRAMS: usize = 512;
/// Connections that may wait to be accepted (net.core.somaxconn).
const MOST_PENDING: usize = 4096;
/// `st_dev` of sockets.
const DEVICE: u64 = 0xfffd;

static INODES: AtomicU64 = AtomicU64::new(1);

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
    error: Option<Errno>,
    peer_credentials: Option<Credentials>,
    /// Whom connections find (set by listen).
    own_credentials: Credentials,
    other_options: BTreeMap<i32, u64>,
}

/// See the module.
pub struct UnixSocket {
    style: Style,
    inode: u64,
    born: i64,
    /// Who made it: sends without credentials of their own bear these.
    creator: Credentials,
    myself: Weak<UnixSocket>,
    state: Mutex<State>,
    changes: WaitQueue,
    closed: AtomicBool,
    send_buffer: AtomicUsize,
    receive_buffer: AtomicUsize,
    send_timeout: AtomicU64,
    receive_timeout: AtomicU64,
    pass_credentials: AtomicBool,
}

impl UnixSocket {
    /// A socket without name or peer.
    pub fn new(style: Style, creator: Credentials) -> Arc<Self> {
        Arc::new_cyclic(|myself| UnixSocket {
            style,
            inode: INODES.fetch_add(1, Ordering::Relaxed),
            born: rumpvfs::vnode::now(),
            creator,
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
                error: None,
                peer_credentials: None,
                own_credentials: creator,
                other_options: BTreeMap::new(),
            }),
            changes: WaitQueue::new(),
            closed: AtomicBool::new(false),
            send_buffer: AtomicUsize::new(DEFAULT_BUFFER),
            receive_buffer: AtomicUsize::new(DEFAULT_BUFFER),
            send_timeout: AtomicU64::new(0),
            receive_timeout: AtomicU64::new(0),
            pass_credentials: AtomicBool::new(false),
        })
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
        self.style == Style::Datagram
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn peer(&self) -> Option<Arc<UnixSocket>> {
        self.state.lock().peer.as_ref().and_then(Weak::upgrade)
    }

    fn deadline(timeout: &AtomicU64, no_wait: bool) -> u64 {
        match timeout.load(Ordering::Relaxed) {
            _ if no_wait => 0,
            0 => NEVER,
            timeout => rumpuser_clock_monotonic().saturating_add(timeout),
        }
    }

    /// Waits on this socket; a deadline of 0 doesn't wait. EAGAIN when the time is up.
    fn wait<T>(&self, deadline: u64, mut look: impl FnMut() -> Option<T>) -> Result<T> {
        if deadline == 0 {
            return look().ok_or(Errno::EAGAIN);
        }
        self.changes.wait(deadline, look).map_err(|error| match error.into() {
            Errno::ETIMEDOUT => Errno::EAGAIN,
            other => other,
        })
    }

    /// Tells the senders that wait that there is room.
    fn tell_senders(&self) {
        let senders = match self.style {
            Style::Datagram => self.state.lock().senders.clone(),
            _ => self.state.lock().peer.iter().cloned().collect(),
        };
        for sender in senders.iter().filter_map(Weak::upgrade) {
            sender.changes.notify(Events::OUT | Events::WRNORM);
        }
        if self.is_datagram() {
            // Those that send without being connected wait here.
            self.changes.wake_all();
        }
    }

    fn no_wait(flags: OpenFlags) -> MessageFlags {
        if flags.contains(OpenFlags::NON_BLOCKING) {
            MessageFlags::DONT_WAIT
        } else {
            MessageFlags::default()
        }
    }

    /// Whether this socket's queue has room for one more message.
    fn has_room(&self, state: &State, send_buffer: usize) -> bool {
        state.bytes < send_buffer && (!self.is_datagram() || state.messages.len() < DATAGRAMS)
    }

    /// The other end vanished.
    fn peer_closed(&self, reset: bool) {
        {
            let mut state = self.state.lock();
            state.shut_receive = true;
            state.shut_send = true;
            if reset {
                state.error = Some(Errno::ECONNRESET);
            }
        }
        self.changes.notify(Events::IN | Events::OUT | Events::HUP | Events::RDHUP);
    }
}

impl File for UnixSocket {
    fn read(&self, sink: &mut Sink<'_>, _offset: u64, flags: OpenFlags) -> Result<usize> {
        self.receive(sink, Self::no_wait(flags)).map(|received| received.length)
    }

    fn write(&self, source: &mut Source<'_>, _offset: &mut u64, flags: OpenFlags) -> Result<usize> {
        self.send(source, None, Ancillary::default(), Self::no_wait(flags))
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
            if state.error.is_some() {
                events |= Events::ERR;
            }
            if state.listener.is_some() {
                return events;
            }
            (events, state.peer.as_ref().and_then(Weak::upgrade))
        };
        let writable = peer.is_none_or(|peer| {
            peer.is_closed() || peer.has_room(&peer.state.lock(), self.send_buffer.load(Ordering::Relaxed))
        });
        if writable {
            events |= Events::OUT | Events::WRNORM | Events::WRBAND;
        }
        events
    }

    fn observe(&self, observer: &Arc<dyn Observer>) {
        self.changes.observe(observer);
    }

    fn unobserve(&self, observer: &Arc<dyn Observer>) {
        self.changes.unobserve(observer);
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
        Ok(Attributes {
            device: DEVICE,
            inode: self.inode,
            kind: Kind::Socket,
            permissions: 0o777,
            links: 1,
            uid: self.creator.uid,
            gid: self.creator.gid,
            rdev: 0,
            size: 0,
            blocks: 0,
            block_size: 4096,
            accessed: self.born,
            modified: self.born,
            changed: self.born,
            born: self.born,
        })
    }

    fn description(&self) -> String {
        format!("socket:[{}]", self.inode)
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
        self.changes.notify(Events::IN | Events::OUT | Events::HUP);
        drop(messages);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        self.close();
    }
}

impl Socket for UnixSocket {
    fn domain(&self) -> Domain {
        Domain::Unix
    }

    fn style(&self) -> Style {
        self.style
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
        let backlog = backlog.min(MOST_PENDING);
        state.own_credentials = caller;
        match &mut state.listener {
            Some(listener) => listener.backlog = backlog,
            None => state.listener = Some(Listener { backlog, pending: VecDeque::new() }),
        }
        drop(state);
        self.changes.notify(Events::OUT);
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
        match self.style {
            Style::Stream => self.send_stream(source, to, ancillary, flags),
            Style::Datagram | Style::SequencedPacket => self.send_message(source, to, ancillary, flags),
        }
    }

    fn receive(&self, sink: &mut Sink<'_>, flags: MessageFlags) -> Result<Received> {
        if flags.contains(MessageFlags::OUT_OF_BAND) {
            return Err(Errno::EOPNOTSUPP);
        }
        match self.style {
            Style::Stream => self.receive_stream(sink, flags),
            Style::Datagram | Style::SequencedPacket => self.receive_message(sink, flags),
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
            peer.changes.notify(Events::IN | Events::OUT | Events::RDHUP | Events::HUP);
        }
        self.changes.notify(Events::IN | Events::OUT | Events::RDHUP | Events::HUP);
        Ok(())
    }

    fn option(&self, option: SocketOption) -> Result<u64> {
        Ok(match option {
            SocketOption::SendBuffer => self.send_buffer.load(Ordering::Relaxed) as u64,
            SocketOption::ReceiveBuffer => self.receive_buffer.load(Ordering::Relaxed) as u64,
            SocketOption::SendTimeout => self.send_timeout.load(Ordering::Relaxed),
            SocketOption::ReceiveTimeout => self.receive_timeout.load(Ordering::Relaxed),
            SocketOption::PassCredentials => u64::from(self.pass_credentials.load(Ordering::Relaxed)),
            SocketOption::Accepts => u64::from(self.state.lock().listener.is_some()),
            SocketOption::Error => {
                self.state.lock().error.take().map_or(0, |error| u64::from(error.code().unsigned_abs()))
            }
            SocketOption::Other(number) => self.state.lock().other_options.get(&number).copied().unwrap_or(0),
        })
    }

    fn set_option(&self, option: SocketOption, value: u64) -> Result<()> {
        let doubled = || {
            let value = value.saturating_mul(2).clamp(*BUFFER_RANGE.start(), *BUFFER_RANGE.end());
            usize::try_from(value).unwrap_or(DEFAULT_BUFFER)
        };
        match option {
            SocketOption::SendBuffer => self.send_buffer.store(doubled(), Ordering::Relaxed),
            SocketOption::ReceiveBuffer => self.receive_buffer.store(doubled(), Ordering::Relaxed),
            SocketOption::SendTimeout => self.send_timeout.store(value, Ordering::Relaxed),
            SocketOption::ReceiveTimeout => self.receive_timeout.store(value, Ordering::Relaxed),
            SocketOption::PassCredentials => self.pass_credentials.store(value != 0, Ordering::Relaxed),
            SocketOption::Accepts | SocketOption::Error => return Err(Errno::ENOPROTOOPT),
            SocketOption::Other(number) => {
                self.state.lock().other_options.insert(number, value);
            }
        }
        Ok(())
    }

    fn available(&self) -> usize {
        let state = self.state.lock();
        match self.style {
            Style::Stream | Style::SequencedPacket => state.bytes,
            Style::Datagram => state.messages.front().map_or(0, |message| message.data.len()),
        }
    }
}
