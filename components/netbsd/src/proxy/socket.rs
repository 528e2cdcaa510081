//! Connections over the kernel's own TCP (IPv4).

use alloc::sync::Arc;
use core::{ffi::c_int, net::SocketAddrV4};

use super::session::{PATIENCE, Stream};
use crate::{kernel::Descriptor, network::addresses};

/// `SOCK_STREAM`.
const STREAM: c_int = 1;
/// `SOL_SOCKET` and its `SO_REUSEADDR`, `SO_KEEPALIVE`, `SO_SNDTIMEO`, `SO_RCVTIMEO`.
const SOCKET: c_int = 0xffff;
const REUSE_ADDRESS: c_int = 4;
const KEEP_ALIVE: c_int = 8;
const SEND_TIMEOUT: c_int = 0x100b;
const RECEIVE_TIMEOUT: c_int = 0x100c;
/// `IPPROTO_TCP` and its `TCP_NODELAY`.
const TCP: c_int = 6;
const NO_DELAY: c_int = 1;
/// Connections that wait to be accepted.
const BACKLOG: c_int = 16;
/// How long a client may take to say who it is, in seconds.
const GREETING: u64 = 10;

/// A socket of init's.
struct Socket(Descriptor);

impl Socket {
    fn set(&self, level: c_int, option: c_int, value: &[u8]) {
        // A socket without it still serves.
        let _ = self.0.set_option(level, option, value);
    }

    fn set_timeout(&self, option: c_int, seconds: u64) {
        // `struct timeval`: seconds, microseconds.
        let mut value = [0; 16];
        value[..8].copy_from_slice(&seconds.to_le_bytes());
        self.set(SOCKET, option, &value);
    }
}

impl Stream for Socket {
    fn read(&self, buffer: &mut [u8]) -> usize {
        self.0.read(buffer).unwrap_or(0)
    }

    fn write(&self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match self.0.write(bytes).ok().and_then(|count| bytes.get(count..)) {
                Some(rest) if rest.len() < bytes.len() => bytes = rest,
                _ => return false,
            }
        }
        true
    }

    fn be_patient(&self) {
        self.set_timeout(RECEIVE_TIMEOUT, 0);
    }

    fn shut_down(&self) {
        // Who closed it already needs no end.
        let _ = self.0.shut_down();
    }

    fn has_ended(&self) -> bool {
        // Once its end is acknowledged, a connection has no peer any more.
        !self.0.has_peer()
    }
}

/// A socket that others connect to.
pub struct Listener(Socket);

impl Listener {
    /// Listens at an address; nothing if that can't be had.
    pub fn new(address: SocketAddrV4) -> Option<Self> {
        let socket = Socket(Descriptor::socket(addresses::INET, STREAM, 0).ok()?);
        socket.set(SOCKET, REUSE_ADDRESS, &1i32.to_le_bytes());
        socket.0.bind(&addresses::inet(*address.ip(), address.port())).ok()?;
        socket.0.listen(BACKLOG).ok()?;
        Some(Listener(socket))
    }

    /// Waits for a connection; nothing if there won't be any more.
    pub fn accept(&self) -> Option<Arc<dyn Stream>> {
        let socket = Socket(self.0.0.accept().ok()?);
        socket.set(SOCKET, KEEP_ALIVE, &1i32.to_le_bytes());
        socket.set(TCP, NO_DELAY, &1i32.to_le_bytes());
        socket.set_timeout(SEND_TIMEOUT, PATIENCE / 1_000_000_000);
        socket.set_timeout(RECEIVE_TIMEOUT, GREETING);
        Some(Arc::new(socket))
    }
}
