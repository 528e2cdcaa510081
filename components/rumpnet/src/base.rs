//! What every socket has: its identity, the options of socket(7), a pending error, and who waits for it.

use alloc::{format, string::String};
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use rumpkern::{Errno, Result, wait::WaitQueue};
use rumpuser::{NEVER, rumpuser_clock_monotonic};
use rumpvfs::{
    file::OpenFlags,
    vnode::{Attributes, Kind},
};

use crate::{
    option::{self, Value},
    socket::{Credentials, Domain, MessageFlags, Style},
};

/// `st_dev` of sockets.
const DEVICE: u64 = 0xfffd;

/// Limits of socket buffers in bytes (net.core in /proc/sys).
pub mod limits {
    use core::sync::atomic::AtomicUsize;

    /// SO_SNDBUF at first.
    pub static SEND_DEFAULT: AtomicUsize = AtomicUsize::new(212_992);
    /// SO_RCVBUF at first.
    pub static RECEIVE_DEFAULT: AtomicUsize = AtomicUsize::new(212_992);
    /// What SO_SNDBUF may be set to (it is then doubled).
    pub static SEND_MOST: AtomicUsize = AtomicUsize::new(212_992);
    /// What SO_RCVBUF may be set to.
    pub static RECEIVE_MOST: AtomicUsize = AtomicUsize::new(212_992);
    /// The longest accept queue.
    pub static BACKLOG_MOST: AtomicUsize = AtomicUsize::new(4096);
}

/// The least that buffers are set to.
const SEND_LEAST: usize = 4608;
const RECEIVE_LEAST: usize = 2304;

/// Names of options at the level SOL_SOCKET (asm-generic/socket.h).
pub mod name {
    #![allow(missing_docs, reason = "the names are Linux's, without SO_")]
    pub const DEBUG: i32 = 1;
    pub const REUSEADDR: i32 = 2;
    pub const TYPE: i32 = 3;
    pub const ERROR: i32 = 4;
    pub const DONTROUTE: i32 = 5;
    pub const BROADCAST: i32 = 6;
    pub const SNDBUF: i32 = 7;
    pub const RCVBUF: i32 = 8;
    pub const KEEPALIVE: i32 = 9;
    pub const OOBINLINE: i32 = 10;
    pub const NO_CHECK: i32 = 11;
    pub const PRIORITY: i32 = 12;
    pub const LINGER: i32 = 13;
    pub const REUSEPORT: i32 = 15;
    pub const PASSCRED: i32 = 16;
    pub const PEERCRED: i32 = 17;
    pub const RCVLOWAT: i32 = 18;
    pub const SNDLOWAT: i32 = 19;
    pub const RCVTIMEO: i32 = 20;
    pub const SNDTIMEO: i32 = 21;
    pub const BINDTODEVICE: i32 = 25;
    pub const ATTACH_FILTER: i32 = 26;
    pub const DETACH_FILTER: i32 = 27;
    pub const TIMESTAMP: i32 = 29;
    pub const ACCEPTCONN: i32 = 30;
    pub const SNDBUFFORCE: i32 = 32;
    pub const RCVBUFFORCE: i32 = 33;
    pub const TIMESTAMPNS: i32 = 35;
    pub const MARK: i32 = 36;
    pub const TIMESTAMPING: i32 = 37;
    pub const PROTOCOL: i32 = 38;
    pub const DOMAIN: i32 = 39;
    pub const RXQ_OVFL: i32 = 40;
    pub const PEEK_OFF: i32 = 42;
    pub const NOFCS: i32 = 43;
    pub const LOCK_FILTER: i32 = 44;
    pub const SELECT_ERR_QUEUE: i32 = 45;
    pub const BUSY_POLL: i32 = 46;
    pub const MAX_PACING_RATE: i32 = 47;
    pub const INCOMING_CPU: i32 = 49;
    pub const ATTACH_REUSEPORT_CBPF: i32 = 51;
    pub const INCOMING_NAPI_ID: i32 = 56;
    pub const COOKIE: i32 = 57;
    pub const PEERGROUPS: i32 = 59;
    pub const ZEROCOPY: i32 = 60;
    pub const BINDTOIFINDEX: i32 = 62;
    pub const TIMESTAMP_NEW: i32 = 63;
    pub const TIMESTAMPNS_NEW: i32 = 64;
    pub const TIMESTAMPING_NEW: i32 = 65;
    pub const RCVTIMEO_NEW: i32 = 66;
    pub const SNDTIMEO_NEW: i32 = 67;
    pub const PREFER_BUSY_POLL: i32 = 69;
    pub const BUSY_POLL_BUDGET: i32 = 70;
    pub const BUF_LOCK: i32 = 72;
}

bitflags::bitflags! {
    /// Options that are on or off.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Switches: u32 {
        /// SO_REUSEADDR.
        const REUSE_ADDRESS = 1;
        /// SO_REUSEPORT.
        const REUSE_PORT = 1 << 1;
        /// SO_BROADCAST.
        const BROADCAST = 1 << 2;
        /// SO_KEEPALIVE.
        const KEEP_ALIVE = 1 << 3;
        /// SO_OOBINLINE.
        const URGENT_INLINE = 1 << 4;
        /// SO_DONTROUTE.
        const DONT_ROUTE = 1 << 5;
        /// SO_PASSCRED.
        const PASS_CREDENTIALS = 1 << 6;
        /// SO_TIMESTAMP.
        const TIMESTAMP = 1 << 7;
        /// SO_TIMESTAMPNS.
        const TIMESTAMP_NANOSECONDS = 1 << 8;
        /// SO_RXQ_OVFL.
        const OVERFLOWS = 1 << 9;
        /// SO_ZEROCOPY.
        const ZERO_COPY = 1 << 10;
        /// SO_DEBUG.
        const DEBUG = 1 << 11;
        /// SO_NO_CHECK.
        const NO_CHECK = 1 << 12;
        /// SO_LOCK_FILTER.
        const LOCK_FILTER = 1 << 13;
        /// SO_SELECT_ERR_QUEUE.
        const SELECT_ERROR_QUEUE = 1 << 14;
        /// SO_NOFCS.
        const NO_FCS = 1 << 15;
        /// SO_PREFER_BUSY_POLL.
        const PREFER_BUSY_POLL = 1 << 16;
        /// SO_SNDBUF was set (SO_BUF_LOCK): no tuning.
        const SEND_BUFFER_SET = 1 << 17;
        /// SO_RCVBUF was set.
        const RECEIVE_BUFFER_SET = 1 << 18;
    }
}

fn switch_of(name: i32) -> Option<Switches> {
    Some(match name {
        name::DEBUG => Switches::DEBUG,
        name::REUSEADDR => Switches::REUSE_ADDRESS,
        name::DONTROUTE => Switches::DONT_ROUTE,
        name::BROADCAST => Switches::BROADCAST,
        name::KEEPALIVE => Switches::KEEP_ALIVE,
        name::OOBINLINE => Switches::URGENT_INLINE,
        name::NO_CHECK => Switches::NO_CHECK,
        name::REUSEPORT => Switches::REUSE_PORT,
        name::PASSCRED => Switches::PASS_CREDENTIALS,
        name::TIMESTAMP | name::TIMESTAMP_NEW => Switches::TIMESTAMP,
        name::TIMESTAMPNS | name::TIMESTAMPNS_NEW => Switches::TIMESTAMP_NANOSECONDS,
        name::RXQ_OVFL => Switches::OVERFLOWS,
        name::NOFCS => Switches::NO_FCS,
        name::LOCK_FILTER => Switches::LOCK_FILTER,
        name::SELECT_ERR_QUEUE => Switches::SELECT_ERROR_QUEUE,
        name::ZEROCOPY => Switches::ZERO_COPY,
        name::PREFER_BUSY_POLL => Switches::PREFER_BUSY_POLL,
        _ => return None,
    })
}

/// See the module.
pub struct SocketBase {
    domain: Domain,
    style: Style,
    protocol: i32,
    inode: u64,
    born: i64,
    creator: Credentials,
    /// Who waits for the socket or watches it.
    pub changes: WaitQueue,
    error: AtomicI32,
    switches: AtomicU32,
    send_buffer: AtomicUsize,
    receive_buffer: AtomicUsize,
    send_timeout: AtomicU64,
    receive_timeout: AtomicU64,
    receive_least: AtomicU32,
    /// `struct linger`: seconds above, the switch below.
    linger: AtomicU64,
    priority: AtomicI32,
    mark: AtomicU32,
    interface: AtomicU32,
    timestamping: AtomicU32,
    peek_offset: AtomicI32,
    busy_poll: AtomicU32,
    incoming_cpu: AtomicI32,
    pacing: AtomicU64,
}

impl SocketBase {
    /// A socket's base. `creator` made the socket.
    pub fn new(domain: Domain, style: Style, protocol: i32, creator: Credentials) -> Self {
        static INODES: AtomicU64 = AtomicU64::new(1);
        SocketBase {
            domain,
            style,
            protocol,
            inode: INODES.fetch_add(1, Relaxed),
            born: rumpvfs::vnode::now(),
            creator,
            changes: WaitQueue::new(),
            error: AtomicI32::new(0),
            switches: AtomicU32::new(0),
            send_buffer: AtomicUsize::new(limits::SEND_DEFAULT.load(Relaxed)),
            receive_buffer: AtomicUsize::new(limits::RECEIVE_DEFAULT.load(Relaxed)),
            send_timeout: AtomicU64::new(0),
            receive_timeout: AtomicU64::new(0),
            receive_least: AtomicU32::new(1),
            linger: AtomicU64::new(0),
            priority: AtomicI32::new(0),
            mark: AtomicU32::new(0),
            interface: AtomicU32::new(0),
            timestamping: AtomicU32::new(0),
            peek_offset: AtomicI32::new(-1),
            busy_poll: AtomicU32::new(0),
            incoming_cpu: AtomicI32::new(-1),
            pacing: AtomicU64::new(u64::MAX),
        }
    }

    /// Takes over what a connection inherits of the socket that listens.
    pub fn inherit(&self, listener: &SocketBase) {
        for (own, other) in [
            (&self.switches, &listener.switches),
            (&self.receive_least, &listener.receive_least),
            (&self.mark, &listener.mark),
            (&self.interface, &listener.interface),
            (&self.timestamping, &listener.timestamping),
        ] {
            own.store(other.load(Relaxed), Relaxed);
        }
        for (own, other) in [
            (&self.send_timeout, &listener.send_timeout),
            (&self.receive_timeout, &listener.receive_timeout),
            (&self.linger, &listener.linger),
            (&self.pacing, &listener.pacing),
        ] {
            own.store(other.load(Relaxed), Relaxed);
        }
        self.send_buffer.store(listener.send_buffer(), Relaxed);
        self.receive_buffer.store(listener.receive_buffer(), Relaxed);
        self.priority.store(listener.priority.load(Relaxed), Relaxed);
    }

    /// Its family.
    pub fn domain(&self) -> Domain {
        self.domain
    }

    /// Its type.
    pub fn style(&self) -> Style {
        self.style
    }

    /// Its protocol.
    pub fn protocol(&self) -> i32 {
        self.protocol
    }

    /// Its inode number, by which /proc names it.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Who made it.
    pub fn creator(&self) -> Credentials {
        self.creator
    }

    /// Whether all of `switches` are on.
    #[inline]
    pub fn is_on(&self, switches: Switches) -> bool {
        Switches::from_bits_retain(self.switches.load(Relaxed)).contains(switches)
    }

    /// SO_SNDBUF.
    pub fn send_buffer(&self) -> usize {
        self.send_buffer.load(Relaxed)
    }

    /// SO_RCVBUF.
    pub fn receive_buffer(&self) -> usize {
        self.receive_buffer.load(Relaxed)
    }

    /// SO_RCVLOWAT.
    pub fn receive_least(&self) -> usize {
        self.receive_least.load(Relaxed) as usize
    }

    /// SO_LINGER, in nanoseconds, if it is on.
    pub fn linger(&self) -> Option<u64> {
        let value = self.linger.load(Relaxed);
        (value as u32 != 0).then(|| (value >> 32).saturating_mul(1_000_000_000))
    }

    /// The interface that the socket is bound to (SO_BINDTODEVICE); 0 is none.
    pub fn interface(&self) -> u32 {
        self.interface.load(Relaxed)
    }

    /// Binds it to an interface, by its index; 0 unbinds.
    pub fn set_interface(&self, index: u32) {
        self.interface.store(index, Relaxed);
    }

    /// SO_PRIORITY.
    pub fn priority(&self) -> i32 {
        self.priority.load(Relaxed)
    }

    /// SO_TIMESTAMPING.
    pub fn timestamping(&self) -> u32 {
        self.timestamping.load(Relaxed)
    }

    /// SO_PEEK_OFF; negative is off.
    pub fn peek_offset(&self) -> i32 {
        self.peek_offset.load(Relaxed)
    }

    /// Moves SO_PEEK_OFF, if it is on.
    pub fn move_peek_offset(&self, distance: i32) {
        let _ = self.peek_offset.fetch_update(Relaxed, Relaxed, |offset| {
            (offset >= 0).then(|| offset.saturating_add(distance).max(0))
        });
    }

    /// Leaves an error for the next call.
    pub fn set_error(&self, error: Errno) {
        self.error.store(error.code(), Relaxed);
    }

    /// Whether there is an error.
    #[inline]
    pub fn has_error(&self) -> bool {
        self.error.load(Relaxed) != 0
    }

    /// Takes the error, as a call does.
    #[inline]
    pub fn take_error(&self) -> Result<()> {
        if !self.has_error() {
            return Ok(());
        }
        Errno::from_code(self.error.swap(0, Relaxed)).map_or(Ok(()), Err)
    }

    /// When a send gives up; 0: at once.
    #[inline]
    pub fn send_deadline(&self, no_wait: bool) -> u64 {
        Self::deadline(&self.send_timeout, no_wait)
    }

    /// When a receive gives up; 0: at once.
    #[inline]
    pub fn receive_deadline(&self, no_wait: bool) -> u64 {
        Self::deadline(&self.receive_timeout, no_wait)
    }

    fn deadline(timeout: &AtomicU64, no_wait: bool) -> u64 {
        match timeout.load(Relaxed) {
            _ if no_wait => 0,
            0 => NEVER,
            timeout => rumpuser_clock_monotonic().saturating_add(timeout),
        }
    }

    /// Waits until `look` finds something; a deadline of 0 doesn't wait. EAGAIN when the time is up.
    pub fn wait<T>(&self, deadline: u64, mut look: impl FnMut() -> Option<T>) -> Result<T> {
        if deadline == 0 {
            return look().ok_or(Errno::EAGAIN);
        }
        self.changes.wait(deadline, look).map_err(|error| match error.into() {
            Errno::ETIMEDOUT => Errno::EAGAIN,
            other => other,
        })
    }

    /// fstat(2).
    pub fn attributes(&self) -> Attributes {
        Attributes {
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
        }
    }

    /// The text of /proc/self/fd/N.
    pub fn description(&self) -> String {
        format!("socket:[{}]", self.inode)
    }

    /// An option of the level SOL_SOCKET.
    pub fn option(&self, name: i32) -> Result<Value> {
        if let Some(switch) = switch_of(name) {
            return Ok(Value::switch(self.is_on(switch)));
        }
        Ok(match name {
            name::TYPE => Value::int(self.style as i32),
            name::DOMAIN => Value::int(self.domain as i32),
            name::PROTOCOL => Value::int(self.protocol),
            name::ERROR => Value::int(self.error.swap(0, Relaxed)),
            name::SNDBUF => Value::size(self.send_buffer()),
            name::RCVBUF => Value::size(self.receive_buffer()),
            name::ACCEPTCONN => Value::int(0),
            name::RCVLOWAT => Value::size(self.receive_least()),
            name::SNDLOWAT => Value::int(1),
            name::RCVTIMEO | name::RCVTIMEO_NEW => Value::time(self.receive_timeout.load(Relaxed)),
            name::SNDTIMEO | name::SNDTIMEO_NEW => Value::time(self.send_timeout.load(Relaxed)),
            name::LINGER => Value::bytes(&self.linger.load(Relaxed).to_ne_bytes()),
            name::PRIORITY => Value::int(self.priority()),
            name::MARK => Value::int(self.mark.load(Relaxed) as i32),
            name::TIMESTAMPING | name::TIMESTAMPING_NEW => Value::words(&[self.timestamping(), 0]),
            name::PEEK_OFF => Value::int(self.peek_offset()),
            name::BUSY_POLL => Value::int(self.busy_poll.load(Relaxed) as i32),
            name::BUSY_POLL_BUDGET => Value::int(8),
            name::MAX_PACING_RATE => Value::bytes(&self.pacing.load(Relaxed).to_ne_bytes()),
            name::INCOMING_CPU => Value::int(self.incoming_cpu.load(Relaxed)),
            name::INCOMING_NAPI_ID => Value::int(0),
            name::COOKIE => Value::bytes(&self.inode.to_ne_bytes()),
            name::BINDTOIFINDEX => Value::int(self.interface() as i32),
            name::BUF_LOCK => {
                let (send, receive) = (Switches::SEND_BUFFER_SET, Switches::RECEIVE_BUFFER_SET);
                Value::int(i32::from(self.is_on(send)) | i32::from(self.is_on(receive)) << 1)
            }
            _ => return Err(Errno::ENOPROTOOPT),
        })
    }

    /// Sets an option of the level SOL_SOCKET.
    pub fn set_option(&self, name: i32, value: &[u8]) -> Result<()> {
        let int = option::int(value)?;
        if let Some(switch) = switch_of(name) {
            self.turn(switch, int != 0);
            match name {
                name::TIMESTAMP | name::TIMESTAMP_NEW => self.turn(Switches::TIMESTAMP_NANOSECONDS, false),
                name::TIMESTAMPNS | name::TIMESTAMPNS_NEW => self.turn(Switches::TIMESTAMP, false),
                _ => {}
            }
            return Ok(());
        }
        // As Linux: the size is unsigned, bounded, and twice what was asked for.
        let size = |most: &AtomicUsize| (int as u32 as usize).min(most.load(Relaxed)).saturating_mul(2);
        let forced = || (int.max(0) as usize).min(i32::MAX as usize / 2) * 2;
        match name {
            name::SNDBUF => self.set_send_buffer(size(&limits::SEND_MOST)),
            name::SNDBUFFORCE => self.set_send_buffer(forced()),
            name::RCVBUF => self.set_receive_buffer(size(&limits::RECEIVE_MOST)),
            name::RCVBUFFORCE => self.set_receive_buffer(forced()),
            name::RCVLOWAT => {
                let least = if int < 0 { i32::MAX } else { int.max(1) };
                self.receive_least.store(least as u32, Relaxed);
            }
            name::RCVTIMEO | name::RCVTIMEO_NEW => self.receive_timeout.store(option::time(value)?, Relaxed),
            name::SNDTIMEO | name::SNDTIMEO_NEW => self.send_timeout.store(option::time(value)?, Relaxed),
            name::LINGER => {
                let seconds = option::word(value, 4).ok_or(Errno::EINVAL)?;
                self.linger.store(u64::from(seconds) << 32 | u64::from(int != 0), Relaxed);
            }
            name::PRIORITY => self.priority.store(int, Relaxed),
            name::MARK => self.mark.store(int as u32, Relaxed),
            name::TIMESTAMPING | name::TIMESTAMPING_NEW => {
                // SOF_TIMESTAMPING_MASK.
                if int as u32 & !0x1_ffff != 0 {
                    return Err(Errno::EINVAL);
                }
                self.timestamping.store(int as u32, Relaxed);
            }
            name::PEEK_OFF => self.peek_offset.store(int.max(-1), Relaxed),
            name::BUSY_POLL => {
                self.busy_poll.store(u32::try_from(int).map_err(|_| Errno::EINVAL)?, Relaxed);
            }
            name::BUSY_POLL_BUDGET if (0..=64).contains(&int) => {}
            name::BUSY_POLL_BUDGET => return Err(Errno::EINVAL),
            name::MAX_PACING_RATE => {
                let long = value.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes));
                self.pacing.store(long.unwrap_or(u64::from(int as u32)), Relaxed);
            }
            name::INCOMING_CPU => self.incoming_cpu.store(int, Relaxed),
            name::BUF_LOCK if int & !3 == 0 => {
                self.turn(Switches::SEND_BUFFER_SET, int & 1 != 0);
                self.turn(Switches::RECEIVE_BUFFER_SET, int & 2 != 0);
            }
            name::BUF_LOCK => return Err(Errno::EINVAL),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    fn turn(&self, switch: Switches, on: bool) {
        if on {
            self.switches.fetch_or(switch.bits(), Relaxed);
        } else {
            self.switches.fetch_and(!switch.bits(), Relaxed);
        }
    }

    fn set_send_buffer(&self, size: usize) {
        self.turn(Switches::SEND_BUFFER_SET, true);
        self.send_buffer.store(size.max(SEND_LEAST), Relaxed);
    }

    fn set_receive_buffer(&self, size: usize) {
        self.turn(Switches::RECEIVE_BUFFER_SET, true);
        self.receive_buffer.store(size.max(RECEIVE_LEAST), Relaxed);
    }
}

/// What the flags of an open file mean for a transfer by read or write.
#[inline]
pub fn message_flags(flags: OpenFlags) -> MessageFlags {
    if flags.contains(OpenFlags::NON_BLOCKING) { MessageFlags::DONT_WAIT } else { MessageFlags::default() }
}

/// What every socket with messages answers alike as a [`File`](rumpvfs::file::File), for its `impl`; the argument leads
/// from the socket to its [`SocketBase`].
macro_rules! message_file {
    ($($base:ident).+) => {
        fn read(
            &self,
            sink: &mut rumpkern::uio::Sink<'_>,
            _offset: u64,
            flags: rumpvfs::file::OpenFlags,
        ) -> rumpkern::Result<usize> {
            use crate::{base::message_flags, socket::Socket};
            self.receive(sink, message_flags(flags)).map(|received| received.length)
        }

        fn write(
            &self,
            source: &mut rumpkern::uio::Source<'_>,
            _offset: &mut u64,
            flags: rumpvfs::file::OpenFlags,
        ) -> rumpkern::Result<usize> {
            use crate::{base::message_flags, socket::Socket};
            self.send(source, None, Default::default(), message_flags(flags))
        }

        fn observe(&self, observer: &alloc::sync::Arc<dyn rumpkern::poll::Observer>) {
            self.$($base).+.changes.observe(observer);
        }

        fn unobserve(&self, observer: &alloc::sync::Arc<dyn rumpkern::poll::Observer>) {
            self.$($base).+.changes.unobserve(observer);
        }

        fn attributes(&self) -> rumpkern::Result<rumpvfs::vnode::Attributes> {
            Ok(self.$($base).+.attributes())
        }

        fn description(&self) -> alloc::string::String {
            self.$($base).+.description()
        }

        fn as_any(&self) -> &dyn core::any::Any {
            self
        }
    };
}
pub(crate) use message_file;

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> SocketBase {
        SocketBase::new(Domain::Inet, Style::Datagram, 17, Credentials::default())
    }

    #[test]
    fn sizes_are_doubled_and_bounded() {
        let base = base();
        for (asked, given) in [(10_000, 20_000), (268_435_456, 425_984), (0, SEND_LEAST), (-1, 425_984)] {
            base.set_option(name::SNDBUF, &i32::to_ne_bytes(asked)).unwrap();
            assert_eq!(base.send_buffer(), given);
        }
    }

    #[test]
    fn timestamps_are_of_one_kind() {
        let base = base();
        base.set_option(name::TIMESTAMP, &[1, 0, 0, 0]).unwrap();
        base.set_option(name::TIMESTAMPNS, &[1, 0, 0, 0]).unwrap();
        assert_eq!(base.option(name::TIMESTAMP), Ok(Value::int(0)));
        assert_eq!(base.option(name::TIMESTAMPNS), Ok(Value::int(1)));
    }

    #[test]
    fn an_error_is_reported_once() {
        let base = base();
        base.set_error(Errno::ECONNREFUSED);
        assert_eq!(base.take_error(), Err(Errno::ECONNREFUSED));
        assert_eq!(base.take_error(), Ok(()));
        assert_eq!(base.option(name::ERROR), Ok(Value::int(0)));
    }

    #[test]
    fn lingering_keeps_its_time_while_off() {
        let base = base();
        assert_eq!(base.set_option(name::LINGER, &[1, 0, 0, 0]), Err(Errno::EINVAL));
        base.set_option(name::LINGER, &[1, 0, 0, 0, 5, 0, 0, 0]).unwrap();
        assert_eq!(base.linger(), Some(5_000_000_000));
        base.set_option(name::LINGER, &[0, 0, 0, 0, 5, 0, 0, 0]).unwrap();
        assert_eq!((base.linger(), base.option(name::LINGER).unwrap().as_bytes()[4]), (None, 5));
    }
}
