//! Sockets of AF_INET and AF_INET6 as programs see them, over sockets of NetBSD's kernel.
//!
//! The kernel's sockets never wait: whoever has to wait sleeps here, and is woken by what [`crate::events`] hears. What
//! it heard is kept as hints; before a socket is called ready to read, the kernel is asked.

mod option;
mod transfer;

use alloc::{sync::Arc, vec::Vec};
use core::{
    any::Any,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering},
};

use rumpkern::{
    Errno, Result,
    poll::{Events, Observer},
    uio::{Sink, Source},
};
use rumpnet::{
    base::{SocketBase, message_flags},
    inet,
    option::Value,
    packet::Chain,
    socket::{
        Address, Ancillary, Creation, Credentials, Domain, MessageFlags, Outside, Received, Socket, Style,
    },
};
use rumpuser::{rumpuser_copyout, sync::SpinLock};
use rumpvfs::{
    file::{File, OpenFlags},
    vnode::Attributes,
};

use crate::{
    address::{Encoded, INET, INET6},
    call::{Caller, address_of, address_of_mut, int, number},
    events,
};

/// What was heard of a socket. Above them is a count of how often that was.
mod hint {
    /// Something to read, or a connection to accept.
    pub const READ: u64 = 1;
    /// The peer sends no more.
    pub const END: u64 = 2;
    /// There is room to send, or the connection is there.
    pub const WRITE: u64 = 4;
    /// The connection failed.
    pub const FAILED: u64 = 8;
    /// One in the count.
    pub const COUNT: u64 = 16;
}

/// What a stream socket is.
mod state {
    pub const IDLE: u8 = 0;
    pub const CONNECTING: u8 = 1;
    pub const CONNECTED: u8 = 2;
    pub const LISTENING: u8 = 3;
}

/// `SOCK_NONBLOCK`.
const NON_BLOCKING: i32 = 0x2000_0000;
/// `POLLIN | POLLPRI`.
const POLL_READ: u16 = 3;
/// `FIONREAD`.
const AVAILABLE: u64 = 0x4004_667f;
/// `FIONSPACE` and `FIONWRITE` count what can be and what is to be sent.
const UNSENT: u64 = 0x4004_6679;
/// `SIOCATMARK`.
const AT_MARK: u64 = 0x4004_7307;

/// See the module.
pub struct InternetSocket {
    base: SocketBase,
    descriptor: i32,
    token: AtomicU64,
    hints: AtomicU64,
    state: AtomicU8,
    /// connect(2) has said that the connection is there.
    announced: AtomicBool,
    shut_write: AtomicBool,
    shut_read: AtomicBool,
    version6_only: AtomicBool,
    /// Ancillary data that is asked for ([`crate::control`]).
    wishes: AtomicU32,
    /// Options that NetBSD hasn't: level, name, value.
    kept: SpinLock<Vec<(i32, i32, i32)>>,
    /// Calls under way, in steps of two; the lowest bit says that it is closed.
    users: AtomicI32,
}

/// The kernel's socket stays open while there is one.
struct InUse<'a>(&'a InternetSocket);

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        if self.0.users.fetch_sub(2, Ordering::AcqRel) == 3 {
            self.0.release();
        }
    }
}

/// How the network layer reaches these sockets.
pub static OUTSIDE: Outside = Outside { create, of_any, wait_ready: crate::wait_ready };

fn of_any(file: &dyn Any) -> Option<&dyn Socket> {
    file.downcast_ref::<InternetSocket>().map(|socket| socket as &dyn Socket)
}

fn create(wanted: &Creation, domain: Domain, style: Style) -> Result<Arc<dyn Socket>> {
    let protocol = match (style, wanted.protocol) {
        (Style::Stream, 0 | 6) => 6,
        (Style::Datagram, 0 | 17) => 17,
        (Style::Stream | Style::Datagram, _) => return Err(Errno::EPROTONOSUPPORT),
        (Style::Raw, 0) => return Err(Errno::EPROTONOSUPPORT),
        (Style::Raw, protocol) => protocol,
        (Style::SequencedPacket, _) => return Err(Errno::ESOCKTNOSUPPORT),
    };
    crate::wait_ready();
    let family = if domain == Domain::Inet6 { INET6 } else { INET };
    let mut caller = Caller::borrow()?;
    let descriptor = caller
        .call(number::SOCKET, &mut [u64::from(family), int(style as i32 | NON_BLOCKING), int(protocol)])?
        as i32;
    let base = SocketBase::new(domain, style, protocol, wanted.creator);
    let socket = InternetSocket::new(&mut caller, base, descriptor, state::IDLE)?;
    if domain == Domain::Inet6 && style != Style::Raw {
        // Linux's default.
        let _ = socket.set_int(&mut caller, option::IPV6, option::IPV6_V6ONLY, 0);
    }
    Ok(socket)
}

impl InternetSocket {
    /// Takes over a socket of the kernel's.
    fn new(caller: &mut Caller, base: SocketBase, descriptor: i32, state: u8) -> Result<Arc<Self>> {
        let writable =
            if base.style() == Style::Stream && state != state::CONNECTED { 0 } else { hint::WRITE };
        let socket = Arc::new(InternetSocket {
            base,
            descriptor,
            token: AtomicU64::new(0),
            hints: AtomicU64::new(writable),
            state: AtomicU8::new(state),
            announced: AtomicBool::new(state == state::CONNECTED),
            shut_write: AtomicBool::new(false),
            shut_read: AtomicBool::new(false),
            version6_only: AtomicBool::new(false),
            wishes: AtomicU32::new(0),
            kept: SpinLock::new(Vec::new()),
            users: AtomicI32::new(0),
        });
        let token = events::watch(caller, &socket, descriptor)?;
        socket.token.store(token, Ordering::Release);
        Ok(socket)
    }

    /// Keeps the kernel's socket for the duration of a call. EBADF once it is closed.
    fn enter(&self) -> Result<InUse<'_>> {
        let before = self.users.fetch_add(2, Ordering::AcqRel);
        let used = InUse(self);
        if before & 1 == 0 { Ok(used) } else { Err(Errno::EBADF) }
    }

    /// Closes the kernel's socket.
    fn release(&self) {
        // Whoever enters and leaves from now on must not come here again.
        self.users.fetch_add(2, Ordering::AcqRel);
        events::forget(self.token.load(Ordering::Acquire));
        // What close says of a connection's end, nobody is left to hear.
        let _ = crate::call::call(number::CLOSE, &mut [int(self.descriptor)]);
    }

    fn hint(&self, bits: u64) {
        let _ = self.hints.fetch_update(Ordering::AcqRel, Ordering::Acquire, |hints| {
            Some((hints | bits).wrapping_add(hint::COUNT))
        });
    }

    /// Takes a hint back, unless something was heard since it was `before`.
    fn take_back(&self, before: u64, bits: u64) {
        let _ = self.hints.compare_exchange(before, before & !bits, Ordering::AcqRel, Ordering::Relaxed);
    }

    fn hints(&self) -> u64 {
        self.hints.load(Ordering::Acquire)
    }

    /// Something arrived, or nothing will any more.
    pub fn can_receive(&self, end: bool, failed: bool) {
        let mut bits = hint::READ;
        let mut events = Events::IN | Events::RDNORM;
        if end {
            bits |= hint::END;
            events |= Events::RDHUP | Events::HUP;
        }
        if failed {
            bits |= hint::FAILED | hint::WRITE;
            events |= Events::ERR | Events::OUT | Events::WRNORM;
        }
        self.hint(bits);
        self.base.changes.notify(events);
    }

    /// There is room, or the connection is there or failed.
    pub fn can_send(&self, end: bool, failed: bool) {
        let mut bits = hint::WRITE;
        let mut events = Events::OUT | Events::WRNORM;
        if end && failed {
            bits |= hint::FAILED;
            events |= Events::ERR | Events::HUP | Events::IN | Events::RDHUP;
        }
        self.hint(bits);
        self.base.changes.notify(events);
    }

    fn state(&self) -> u8 {
        self.state.load(Ordering::Acquire)
    }

    fn is_stream(&self) -> bool {
        self.base.style() == Style::Stream
    }

    /// Asks the kernel whether there is something to read (or urgent data).
    fn ask(&self) -> Option<Events> {
        let mut caller = Caller::borrow().ok()?;
        let mut request = [self.descriptor as u32, u32::from(POLL_READ)];
        let place = address_of_mut(&mut request);
        caller.call(number::POLL, &mut [place, 1, 0]).ok()?;
        Some(Events::from_bits_truncate(request[1] >> 16))
    }

    /// What is ready to be read, by the hints and the kernel.
    fn readable(&self) -> Events {
        let hints = self.hints();
        if hints & hint::READ == 0 {
            return Events::empty();
        }
        let mut found = Events::IN | Events::RDNORM;
        if hints & hint::END == 0 {
            // Without memory for the question, the hint has to do.
            let asked = self.ask().unwrap_or(Events::IN);
            found = asked & (Events::IN | Events::PRI);
            if found.contains(Events::IN) {
                found |= Events::RDNORM;
            } else {
                self.take_back(hints, hint::READ);
            }
        } else if self.is_stream() {
            found |= Events::RDHUP;
            if self.shut_write.load(Ordering::Relaxed) {
                found |= Events::HUP;
            }
        }
        found
    }

    /// An ioctl that yields an `int`.
    fn ask_int(&self, request: u64) -> Result<i32> {
        let _used = self.enter()?;
        let mut value = 0i32;
        let place = address_of_mut(&mut value);
        crate::call::call(number::IOCTL, &mut [int(self.descriptor), request, place])?;
        Ok(value)
    }

    fn address(&self, which: i32) -> Result<Option<SocketAddr>> {
        let _used = self.enter()?;
        let mut encoded = Encoded::empty();
        let mut length = size_of::<Encoded>() as u32;
        let places = [address_of_mut(&mut encoded), address_of_mut(&mut length)];
        crate::call::call(which, &mut [int(self.descriptor), places[0], places[1]])?;
        Ok(encoded.decode())
    }

    /// A call with an address.
    fn call_with(&self, which: i32, encoded: &Encoded) -> Result<()> {
        let length = encoded.length() as u64;
        crate::call::call(which, &mut [int(self.descriptor), address_of(encoded), length]).map(|_| ())
    }

    fn is_version6_only(&self) -> bool {
        self.version6_only.load(Ordering::Relaxed)
    }

    /// The error that the kernel keeps for the next call.
    fn take_error(&self) -> Result<()> {
        let mut caller = Caller::borrow()?;
        let error = self.get_int(&mut caller, option::SOCKET, option::SO_ERROR)?;
        if error == 0 { Ok(()) } else { Err(crate::errno::translate(error)) }
    }

    /// Where the connection that is being made stands. `None`: it isn't there yet.
    fn progress(&self) -> Option<Result<()>> {
        if self.hints() & (hint::WRITE | hint::FAILED) == 0 {
            return None;
        }
        Some(match self.take_error() {
            Ok(()) => match self.address(number::GETPEERNAME) {
                Ok(_) => {
                    self.state.store(state::CONNECTED, Ordering::Release);
                    Ok(())
                }
                Err(_) => {
                    self.state.store(state::IDLE, Ordering::Release);
                    Err(Errno::ECONNREFUSED)
                }
            },
            Err(error) => {
                self.state.store(state::IDLE, Ordering::Release);
                Err(error)
            }
        })
    }

    /// Waits for the connection that is being made.
    fn wait_connected(&self, no_wait: bool) -> Result<()> {
        if no_wait {
            return self.progress().unwrap_or(Err(Errno::EALREADY));
        }
        match self.base.wait(self.base.send_deadline(false), || self.progress()) {
            Ok(outcome) => outcome,
            Err(Errno::EAGAIN) => Err(Errno::EINPROGRESS),
            Err(error) => Err(error),
        }
    }

    fn connect_stream(&self, encoded: &Encoded, no_wait: bool) -> Result<()> {
        match self.state() {
            state::LISTENING => return Err(Errno::EISCONN),
            state::CONNECTED if self.announced.swap(true, Ordering::AcqRel) => return Err(Errno::EISCONN),
            state::CONNECTED => return Ok(()),
            state::CONNECTING => {
                self.wait_connected(no_wait)?;
                self.announced.store(true, Ordering::Release);
                return Ok(());
            }
            _ => {}
        }
        let before = self.hints();
        self.take_back(before, hint::WRITE | hint::FAILED | hint::END | hint::READ);
        match self.call_with(number::CONNECT, encoded) {
            Ok(()) => {
                self.state.store(state::CONNECTED, Ordering::Release);
                self.hint(hint::WRITE);
            }
            Err(Errno::EINPROGRESS) => {
                self.state.store(state::CONNECTING, Ordering::Release);
                self.watch_sending()?;
                if no_wait {
                    return Err(Errno::EINPROGRESS);
                }
                self.wait_connected(false)?;
            }
            Err(error) => return Err(error),
        }
        self.announced.store(true, Ordering::Release);
        Ok(())
    }

    /// Has the kernel say when there is room to send.
    fn watch_sending(&self) -> Result<()> {
        events::watch_sending(&mut Caller::borrow()?, self.descriptor, self.token.load(Ordering::Acquire))
    }

    fn try_accept(&self) -> Result<Arc<Self>> {
        let mut caller = Caller::borrow()?;
        let descriptor = caller.call(number::ACCEPT, &mut [int(self.descriptor), 0, 0])? as i32;
        let base =
            SocketBase::new(self.base.domain(), Style::Stream, self.base.protocol(), self.base.creator());
        base.inherit(&self.base);
        let socket = Self::new(&mut caller, base, descriptor, state::CONNECTED)?;
        socket.version6_only.store(self.is_version6_only(), Ordering::Relaxed);
        Ok(socket)
    }
}

impl File for InternetSocket {
    fn read(&self, sink: &mut Sink<'_>, _offset: u64, flags: OpenFlags) -> Result<usize> {
        self.receive(sink, message_flags(flags)).map(|received| received.length)
    }

    fn write(&self, source: &mut Source<'_>, _offset: &mut u64, flags: OpenFlags) -> Result<usize> {
        self.send(source, None, Ancillary::default(), message_flags(flags))
    }

    fn poll(&self) -> Events {
        let Ok(_used) = self.enter() else { return Events::ERR | Events::HUP };
        let mut events = self.readable();
        let hints = self.hints();
        if hints & hint::WRITE != 0 {
            events |= Events::OUT | Events::WRNORM;
        }
        if hints & hint::FAILED != 0 {
            events |= Events::ERR | Events::HUP | Events::IN | Events::RDHUP;
        }
        if self.is_stream() && self.state() == state::IDLE {
            events |= Events::OUT | Events::WRNORM | Events::HUP;
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
        /// FIONREAD, SIOCOUTQ, SIOCATMARK.
        const FIONREAD: u32 = 0x541b;
        const SIOCOUTQ: u32 = 0x5411;
        const SIOCATMARK: u32 = 0x8905;
        let value = match request {
            FIONREAD if self.state() == state::LISTENING => return Err(Errno::EINVAL),
            FIONREAD => self.ask_int(AVAILABLE)?,
            SIOCOUTQ => self.ask_int(UNSENT)?,
            SIOCATMARK => self.ask_int(AT_MARK)?,
            _ => return Err(Errno::ENOTTY),
        };
        if rumpuser_copyout(&value.to_ne_bytes(), argument) == 0 { Ok(0) } else { Err(Errno::EFAULT) }
    }

    fn attributes(&self) -> Result<Attributes> {
        Ok(self.base.attributes())
    }

    fn description(&self) -> alloc::string::String {
        self.base.description()
    }

    fn close(&self) {
        let before = self.users.fetch_or(1, Ordering::AcqRel);
        if before == 0 {
            self.release();
        } else if before & 1 == 0 {
            // Those in a call leave it.
            self.base.changes.notify(Events::HUP | Events::IN | Events::OUT | Events::ERR);
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for InternetSocket {
    fn drop(&mut self) {
        self.close();
    }
}

impl Socket for InternetSocket {
    fn domain(&self) -> Domain {
        self.base.domain()
    }

    fn style(&self) -> Style {
        self.base.style()
    }

    fn protocol(&self) -> i32 {
        self.base.protocol()
    }

    fn bind(&self, address: Address) -> Result<()> {
        let Address::Internet(address) = address else { return Err(Errno::EAFNOSUPPORT) };
        let _used = self.enter()?;
        self.call_with(number::BIND, &Encoded::new(self.base.domain(), address))
    }

    fn listen(&self, backlog: usize, _caller: Credentials) -> Result<()> {
        let _used = self.enter()?;
        if !self.is_stream() {
            return Err(Errno::EOPNOTSUPP);
        }
        if matches!(self.state(), state::CONNECTING | state::CONNECTED) {
            return Err(Errno::EINVAL);
        }
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        crate::call::call(number::LISTEN, &mut [int(self.descriptor), int(backlog)])?;
        if self.state.swap(state::LISTENING, Ordering::AcqRel) != state::LISTENING {
            // The filter for connections is another than that for data.
            let mut caller = Caller::borrow()?;
            events::watch_again(&mut caller, self.descriptor, self.token.load(Ordering::Acquire))?;
        }
        Ok(())
    }

    fn accept(&self, no_wait: bool) -> Result<Arc<dyn Socket>> {
        let _used = self.enter()?;
        if !self.is_stream() {
            return Err(Errno::EOPNOTSUPP);
        }
        let deadline = self.base.receive_deadline(no_wait);
        loop {
            let before = self.hints();
            match self.try_accept() {
                Ok(socket) => return Ok(socket),
                Err(Errno::EAGAIN) if no_wait => {
                    self.take_back(before, hint::READ);
                    return Err(Errno::EAGAIN);
                }
                Err(Errno::EAGAIN) => self.take_back(before, hint::READ),
                Err(error) => return Err(error),
            }
            self.wait_for(hint::READ, deadline)?;
        }
    }

    fn connect(&self, address: &Address, no_wait: bool, _caller: Credentials) -> Result<()> {
        let _used = self.enter()?;
        if matches!(address, Address::Unnamed) {
            if self.is_stream() {
                return Err(Errno::EOPNOTSUPP);
            }
            // That the address is of no family is said after the connection is dissolved.
            let _ = self.call_with(number::CONNECT, &Encoded::nowhere());
            return Ok(());
        }
        let to = inet::destination(self.base.domain(), self.is_version6_only(), address)?;
        let encoded = Encoded::new(self.base.domain(), to);
        if self.is_stream() {
            self.connect_stream(&encoded, no_wait)
        } else {
            self.call_with(number::CONNECT, &encoded)
        }
    }

    fn name(&self) -> Address {
        let own = self.address(number::GETSOCKNAME).ok().flatten();
        Address::Internet(own.unwrap_or(inet::unspecified(self.base.domain())))
    }

    fn peer_name(&self) -> Result<Address> {
        self.address(number::GETPEERNAME)?.map(Address::Internet).ok_or(Errno::ENOTCONN)
    }

    fn peer_credentials(&self) -> Option<Credentials> {
        None
    }

    fn send(
        &self,
        source: &mut Source<'_>,
        to: Option<&Address>,
        ancillary: Ancillary,
        flags: MessageFlags,
    ) -> Result<usize> {
        let _used = self.enter()?;
        if self.is_stream() {
            self.send_stream(source, flags)
        } else {
            self.send_datagram(source, to, &ancillary, flags)
        }
    }

    fn receive(&self, sink: &mut Sink<'_>, flags: MessageFlags) -> Result<Received> {
        let _used = self.enter()?;
        if flags.contains(MessageFlags::ERROR_QUEUE) {
            return Err(Errno::EAGAIN);
        }
        if self.is_stream() { self.receive_stream(sink, flags) } else { self.receive_datagram(sink, flags) }
    }

    fn send_chain(&self, chain: &mut Chain, flags: MessageFlags) -> Result<usize> {
        let _used = self.enter()?;
        if self.is_stream() { self.send_pages(chain, flags) } else { Err(Errno::EOPNOTSUPP) }
    }

    fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        let _used = self.enter()?;
        if self.state() == state::LISTENING {
            // Those who wait for connections are told that there are none any more.
            self.hint(hint::READ | hint::END);
            // That it has no connection is known.
            let _ = crate::call::call(number::SHUTDOWN, &mut [int(self.descriptor), 2]);
            self.base.changes.notify(Events::IN | Events::HUP);
            return Ok(());
        }
        let how = if read && write { 2 } else { i32::from(write) };
        // SHUT_RD is 0, SHUT_WR 1.
        crate::call::call(number::SHUTDOWN, &mut [int(self.descriptor), int(how)])?;
        self.shut_read.fetch_or(read, Ordering::Relaxed);
        self.shut_write.fetch_or(write, Ordering::Relaxed);
        if read {
            self.hint(hint::READ | hint::END);
        }
        self.base.changes.notify(Events::IN | Events::RDHUP | Events::HUP | Events::OUT);
        Ok(())
    }

    fn option(&self, level: i32, name: i32) -> Result<Value> {
        let _used = self.enter()?;
        self.value_of(level, name)
    }

    fn set_option(&self, level: i32, name: i32, value: &[u8]) -> Result<()> {
        let _used = self.enter()?;
        self.set_value(level, name, value)
    }

    fn available(&self) -> usize {
        self.ask_int(AVAILABLE).ok().and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
    }
}
