//! Connections over the kernel's own TCP (IPv4).

use alloc::sync::Arc;
use core::{
    ffi::{c_int, c_void},
    net::SocketAddrV4,
};

use super::session::{PATIENCE, Stream};
use crate::{
    user::rump::{
        rump___sysimpl_bind, rump___sysimpl_close, rump___sysimpl_read, rump___sysimpl_setsockopt,
        rump___sysimpl_socket30, rump___sysimpl_write,
    },
    weak::weak,
};

weak! {
    /// Lets others connect to a socket.
    fn rump___sysimpl_listen(c_int, c_int) -> c_int;
    /// Waits for a connection.
    fn rump___sysimpl_accept(c_int, *mut c_void, *mut u32) -> c_int;
    /// Ends a connection.
    fn rump___sysimpl_shutdown(c_int, c_int) -> c_int;
}

/// `AF_INET`, `SOCK_STREAM`.
const INET: c_int = 2;
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
/// `SHUT_RDWR`.
const BOTH: c_int = 2;
/// Connections that wait to be accepted.
const BACKLOG: c_int = 16;
/// How long a client may take to say who it is, in seconds.
const GREETING: u64 = 10;

/// A socket of init's.
struct Socket(c_int);

impl Socket {
    fn set(&self, level: c_int, option: c_int, value: &[u8]) {
        if let Some(set) = rump___sysimpl_setsockopt() {
            // SAFETY: the kernel's function, with a value of the length that is said.
            unsafe { set(self.0, level, option, value.as_ptr().cast(), value.len() as u32) };
        }
    }

    fn set_timeout(&self, option: c_int, seconds: u64) {
        // `struct timeval`: seconds, microseconds.
        let mut value = [0; 16];
        value[..8].copy_from_slice(&seconds.to_le_bytes());
        self.set(SOCKET, option, &value);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(close) = rump___sysimpl_close() {
            // SAFETY: the kernel's function, with a descriptor of our own.
            unsafe { close(self.0) };
        }
    }
}

impl Stream for Socket {
    fn read(&self, buffer: &mut [u8]) -> usize {
        let Some(read) = rump___sysimpl_read() else { return 0 };
        // SAFETY: the kernel's function, with room for as much as is said.
        let count = unsafe { read(self.0, buffer.as_mut_ptr().cast(), buffer.len()) };
        usize::try_from(count).unwrap_or(0)
    }

    fn write(&self, mut bytes: &[u8]) -> bool {
        let Some(write) = rump___sysimpl_write() else { return false };
        while !bytes.is_empty() {
            // SAFETY: the kernel's function, with as many bytes as are said.
            let count = unsafe { write(self.0, bytes.as_ptr().cast(), bytes.len()) };
            match usize::try_from(count).ok().and_then(|count| bytes.get(count..)) {
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
        if let Some(shut_down) = rump___sysimpl_shutdown() {
            // SAFETY: the kernel's function, with a descriptor of our own.
            unsafe { shut_down(self.0, BOTH) };
        }
    }
}

/// A socket that others connect to.
pub struct Listener(Socket);

impl Listener {
    /// Listens at an address; nothing if that can't be had.
    pub fn new(address: SocketAddrV4) -> Option<Self> {
        // SAFETY: the kernel's function.
        let descriptor = unsafe { rump___sysimpl_socket30()?(INET, STREAM, 0) };
        let socket = (descriptor >= 0).then_some(Socket(descriptor))?;
        socket.set(SOCKET, REUSE_ADDRESS, &1i32.to_le_bytes());
        // `struct sockaddr_in`.
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&[16, INET as u8]);
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        bytes[4..8].copy_from_slice(&address.ip().octets());
        let (bind, listen) = (rump___sysimpl_bind()?, rump___sysimpl_listen()?);
        // SAFETY: the kernel's functions, with a whole address.
        let error =
            unsafe { bind(socket.0, bytes.as_ptr().cast(), 16) != 0 || listen(socket.0, BACKLOG) != 0 };
        (!error).then_some(Listener(socket))
    }

    /// Waits for a connection; nothing if there won't be any more.
    pub fn accept(&self) -> Option<Arc<dyn Stream>> {
        // SAFETY: the kernel's function; nobody wants to know the client's address.
        let descriptor =
            unsafe { rump___sysimpl_accept()?(self.0.0, core::ptr::null_mut(), core::ptr::null_mut()) };
        let socket = (descriptor >= 0).then_some(Socket(descriptor))?;
        socket.set(SOCKET, KEEP_ALIVE, &1i32.to_le_bytes());
        socket.set(TCP, NO_DELAY, &1i32.to_le_bytes());
        socket.set_timeout(SEND_TIMEOUT, PATIENCE / 1_000_000_000);
        socket.set_timeout(RECEIVE_TIMEOUT, GREETING);
        Some(Arc::new(socket))
    }
}
