//! What a socket of any family can do.

use alloc::{sync::Arc, vec::Vec};
use core::any::Any;

use rumpkern::{
    Errno, Result,
    uio::{Sink, Source},
};
use rumpvfs::{file::File, vnode::Vnode};

/// Address families, with Linux's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Domain {
    /// AF_UNIX.
    Unix = 1,
    /// AF_INET.
    Inet = 2,
    /// AF_INET6.
    Inet6 = 10,
}

/// Socket types, with Linux's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Style {
    /// SOCK_STREAM.
    Stream = 1,
    /// SOCK_DGRAM.
    Datagram = 2,
    /// SOCK_SEQPACKET.
    SequencedPacket = 5,
}

/// Where a socket is, or is to be.
#[derive(Clone)]
pub enum Address {
    /// Nowhere.
    Unnamed,
    /// A Unix socket with a name in the file system: the name that was used, and what it leads to.
    Path(Vec<u8>, Arc<dyn Vnode>),
    /// A Unix socket in the abstract name space.
    Abstract(Vec<u8>),
    /// An IPv4 or IPv6 address (IPv4 as its mapped form) and port.
    Internet {
        /// The address.
        address: [u8; 16],
        /// The port.
        port: u16,
    },
}

/// Who is at the other end (SO_PEERCRED, SCM_CREDENTIALS).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The process.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// An open file on its way to another process (SCM_RIGHTS). The personality knows what it really is.
pub type Right = Arc<dyn Any + Send + Sync>;

/// What travels beside the data of a message.
#[derive(Default, Clone)]
pub struct Ancillary {
    /// Who sent it, if known.
    pub credentials: Option<Credentials>,
    /// Open files.
    pub rights: Vec<Right>,
}

bitflags::bitflags! {
    /// `MSG_*`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct MessageFlags: u32 {
        /// Urgent data.
        const OUT_OF_BAND = 0x1;
        /// Look, don't take.
        const PEEK = 0x2;
        /// No route.
        const DONT_ROUTE = 0x4;
        /// Ancillary data was cut.
        const CONTROL_TRUNCATED = 0x8;
        /// The message was cut; asked for: return its real length.
        const TRUNCATED = 0x20;
        /// Never wait.
        const DONT_WAIT = 0x40;
        /// End of a record.
        const END_OF_RECORD = 0x80;
        /// Wait for everything.
        const WAIT_ALL = 0x100;
        /// Errors from the queue.
        const ERROR_QUEUE = 0x2000;
        /// No SIGPIPE.
        const NO_SIGNAL = 0x4000;
        /// More follows.
        const MORE = 0x8000;
        /// recvmmsg: wait for the first only.
        const WAIT_FOR_ONE = 0x10000;
        /// Received descriptors are closed on execve.
        const CLOSE_ON_EXEC = 0x4000_0000;
    }
}

/// What was received.
pub struct Received {
    /// Bytes put into the sink, or with [`MessageFlags::TRUNCATED`] asked for, the length of the message.
    pub length: usize,
    /// Who sent it, for sockets without a connection.
    pub source: Option<Address>,
    /// What came with it.
    pub ancillary: Ancillary,
    /// What happened ([`MessageFlags::TRUNCATED`]).
    pub flags: MessageFlags,
}

/// A socket option that sockets keep themselves; others are the personality's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketOption {
    /// SO_SNDBUF, in bytes.
    SendBuffer,
    /// SO_RCVBUF.
    ReceiveBuffer,
    /// SO_SNDTIMEO, nanoseconds; 0 is never.
    SendTimeout,
    /// SO_RCVTIMEO.
    ReceiveTimeout,
    /// SO_PASSCRED.
    PassCredentials,
    /// SO_ACCEPTCONN.
    Accepts,
    /// SO_ERROR: reading clears it.
    Error,
    /// SO_REUSEADDR, SO_KEEPALIVE and others that mean nothing here: kept, by number.
    Other(i32),
}

/// A socket. As a [`File`], reads and writes are receives and sends without flags.
pub trait Socket: File {
    /// Its family.
    fn domain(&self) -> Domain;
    /// Its type.
    fn style(&self) -> Style;
    /// Gives it an address.
    fn bind(&self, address: Address) -> Result<()>;
    /// Makes it accept connections.
    fn listen(&self, backlog: usize, caller: Credentials) -> Result<()>;
    /// Takes a connection; waits for one unless `no_wait`.
    fn accept(&self, no_wait: bool) -> Result<Arc<dyn Socket>>;
    /// Connects it; [`Address::Unnamed`] dissolves a datagram socket's connection.
    fn connect(&self, address: &Address, no_wait: bool, caller: Credentials) -> Result<()>;
    /// Its own address.
    fn name(&self) -> Address;
    /// The other end's address. ENOTCONN without one.
    fn peer_name(&self) -> Result<Address>;
    /// The other end's credentials.
    fn peer_credentials(&self) -> Option<Credentials>;
    /// Sends a message; `to` for sockets without a connection.
    fn send(
        &self,
        source: &mut Source<'_>,
        to: Option<&Address>,
        ancillary: Ancillary,
        flags: MessageFlags,
    ) -> Result<usize>;
    /// Receives a message.
    fn receive(&self, sink: &mut Sink<'_>, flags: MessageFlags) -> Result<Received>;
    /// Ends reading, writing or both.
    fn shutdown(&self, read: bool, write: bool) -> Result<()>;
    /// An option's value.
    fn option(&self, option: SocketOption) -> Result<u64>;
    /// Sets an option.
    fn set_option(&self, option: SocketOption, value: u64) -> Result<()>;
    /// Bytes that a receive would give.
    fn available(&self) -> usize;
}

/// The socket behind a file. ENOTSOCK if it is none.
pub fn of_file(file: &dyn File) -> Result<&dyn Socket> {
    match file.as_any().downcast_ref::<crate::unix::UnixSocket>() {
        Some(socket) => Ok(socket),
        None => Err(Errno::ENOTSOCK),
    }
}
