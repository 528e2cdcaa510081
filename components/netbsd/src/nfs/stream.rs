//! Messages of remote procedure calls on a TCP connection.

use alloc::{vec, vec::Vec};
use core::ffi::c_int;

use rumpuser::rumpuser_clock_monotonic;

use super::rpc::{self, MARK};
use crate::{
    clock::SECOND,
    errno::{EIO, ETIMEDOUT, Errno},
    kernel::Descriptor,
};

/// `SOCK_STREAM`.
pub const STREAM: c_int = 1;
/// `SOL_SOCKET` and its `SO_SNDTIMEO`, `SO_RCVTIMEO`.
const SOCKET: c_int = 0xffff;
const SEND_TIMEOUT: c_int = 0x100b;
const RECEIVE_TIMEOUT: c_int = 0x100c;
/// The longest message.
pub const LONGEST: usize = 8192;

/// How often the patience with one byte is had with a connection.
const AT_MOST: u64 = 5;

/// A connection, and when there is enough of it.
pub struct Stream(Descriptor, u64);

impl Stream {
    /// On a connected socket; the other side may take so many seconds to go on, and a few times as many for everything.
    pub fn new(socket: Descriptor, patience: u32) -> Result<Self, Errno> {
        // `struct timeval`: seconds, microseconds.
        let mut time = [0; 16];
        time[..4].copy_from_slice(&patience.to_le_bytes());
        socket.set_option(SOCKET, SEND_TIMEOUT, &time)?;
        socket.set_option(SOCKET, RECEIVE_TIMEOUT, &time)?;
        let end = u64::from(patience).saturating_mul(AT_MOST * SECOND);
        Ok(Stream(socket, rumpuser_clock_monotonic().saturating_add(end)))
    }

    /// Sends a call and waits for the message that answers it.
    pub fn ask(&self, message: &[u8]) -> Result<Vec<u8>, Errno> {
        self.send(message)?;
        self.receive()
    }

    /// Sends a message.
    pub fn send(&self, message: &[u8]) -> Result<(), Errno> {
        let mut rest = &rpc::record(message)[..];
        while !rest.is_empty() {
            let count = self.0.write(rest)?;
            rest = rest.get(count..).filter(|_| count > 0).ok_or(EIO)?;
        }
        Ok(())
    }

    /// Waits for a message.
    pub fn receive(&self) -> Result<Vec<u8>, Errno> {
        let mut message = Vec::new();
        loop {
            let mark = self.read(MARK)?.try_into().map_err(|_| EIO)?;
            let (length, last) = rpc::marked(mark);
            if message.len().saturating_add(length) > LONGEST || (length == 0 && !last) {
                return Err(EIO);
            }
            message.extend(self.read(length)?);
            if last {
                return Ok(message);
            }
        }
    }

    fn read(&self, length: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; length];
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.0.read(rest)? {
                _ if rumpuser_clock_monotonic() > self.1 => return Err(ETIMEDOUT),
                0 => return Err(EIO),
                count => done += count,
            }
        }
        Ok(bytes)
    }
}
