//! I/O to and from memory of the kernel or of a user process (NetBSD: struct uio and uiomove).

use rumpuser::{Frame, memory::PAGE_SIZE, rumpuser_copyin, rumpuser_copyout};

use crate::{Errno, Result};

/// A range of user memory: (address, length). Not checked before it is used.
pub type UserRange = (usize, usize);

/// Where the data of a read goes.
pub struct Sink<'a> {
    target: Target<'a>,
    remaining: usize,
    transferred: usize,
}

enum Target<'a> {
    Kernel(&'a mut [u8]),
    User { ranges: &'a [UserRange], offset: usize },
    One(UserRange),
}

/// Where the data of a write comes from.
pub struct Source<'a> {
    origin: Origin<'a>,
    remaining: usize,
    transferred: usize,
}

enum Origin<'a> {
    Kernel(&'a [u8]),
    User { ranges: &'a [UserRange], offset: usize },
    One(UserRange),
}

/// Steps through `ranges` from `offset` in the first: calls `copy(address, done, length)`, which returns how
/// many bytes it could not copy, for at most `length` bytes. Returns the bytes copied.
fn walk(
    ranges: &mut &[UserRange],
    offset: &mut usize,
    length: usize,
    mut copy: impl FnMut(usize, usize, usize) -> usize,
) -> usize {
    let mut done = 0;
    while done < length {
        let Some(&(base, size)) = ranges.first() else { break };
        let chunk = (size - *offset).min(length - done);
        if chunk > 0 {
            let missed = copy(base.wrapping_add(*offset), done, chunk);
            *offset += chunk - missed;
            done += chunk - missed;
            if missed > 0 {
                break;
            }
        }
        if *offset == size {
            *ranges = &ranges[1..];
            *offset = 0;
        }
    }
    done
}

fn total(ranges: &[UserRange]) -> usize {
    ranges.iter().fold(0, |sum, &(_, length)| sum.saturating_add(length))
}

impl<'a> Sink<'a> {
    /// Into kernel memory.
    pub fn kernel(buffer: &'a mut [u8]) -> Self {
        let remaining = buffer.len();
        Sink { target: Target::Kernel(buffer), remaining, transferred: 0 }
    }

    /// Into one range of user memory.
    pub fn user(address: usize, length: usize) -> Self {
        Sink { target: Target::One((address, length)), remaining: length, transferred: 0 }
    }

    /// Into several ranges, in order.
    pub fn vectors(ranges: &'a [UserRange]) -> Self {
        Sink { target: Target::User { ranges, offset: 0 }, remaining: total(ranges), transferred: 0 }
    }

    /// Room left, in bytes.
    pub fn remaining(&self) -> usize {
        self.remaining
    }

    /// Bytes taken so far.
    pub fn transferred(&self) -> usize {
        self.transferred
    }

    /// Takes as much of `data` as there is room for; returns how much. EFAULT if user memory took nothing.
    pub fn put(&mut self, data: &[u8]) -> Result<usize> {
        let length = data.len().min(self.remaining);
        if length == 0 {
            return Ok(0);
        }
        let done = match &mut self.target {
            Target::Kernel(buffer) => {
                buffer[self.transferred..self.transferred + length].copy_from_slice(&data[..length]);
                length
            }
            Target::One((base, _)) => {
                length - rumpuser_copyout(&data[..length], base.wrapping_add(self.transferred))
            }
            Target::User { ranges, offset } => walk(ranges, offset, length, |address, from, size| {
                rumpuser_copyout(&data[from..from + size], address)
            }),
        };
        self.remaining -= done;
        self.transferred += done;
        if done == 0 { Err(Errno::EFAULT) } else { Ok(done) }
    }

    /// Takes from a frame that the caller holds a reference on.
    #[allow(unsafe_code, reason = "hands a frame's bytes to the copy routine")]
    pub fn put_frame(&mut self, frame: Frame, offset: usize, length: usize) -> Result<usize> {
        assert!(offset + length <= PAGE_SIZE);
        // SAFETY: the caller holds a reference; the bytes are only copied.
        let bytes = unsafe { frame.bytes() };
        self.put(&bytes[offset..offset + length])
    }

    /// Takes `length` zeros (as many as there is room for).
    pub fn put_zeros(&mut self, length: usize) -> Result<usize> {
        static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
        let mut done = 0;
        while done < length && self.remaining > 0 {
            match self.put(&ZEROS[..(length - done).min(PAGE_SIZE)]) {
                Ok(size) => done += size,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }
}

impl<'a> Source<'a> {
    /// From kernel memory.
    pub fn kernel(buffer: &'a [u8]) -> Self {
        Source { origin: Origin::Kernel(buffer), remaining: buffer.len(), transferred: 0 }
    }

    /// From one range of user memory.
    pub fn user(address: usize, length: usize) -> Self {
        Source { origin: Origin::One((address, length)), remaining: length, transferred: 0 }
    }

    /// From several ranges, in order.
    pub fn vectors(ranges: &'a [UserRange]) -> Self {
        Source { origin: Origin::User { ranges, offset: 0 }, remaining: total(ranges), transferred: 0 }
    }

    /// Data left, in bytes.
    pub fn remaining(&self) -> usize {
        self.remaining
    }

    /// Bytes given so far.
    pub fn transferred(&self) -> usize {
        self.transferred
    }

    /// Fills as much of `data` as there is; returns how much. EFAULT if user memory gave nothing.
    pub fn take(&mut self, data: &mut [u8]) -> Result<usize> {
        let length = data.len().min(self.remaining);
        if length == 0 {
            return Ok(0);
        }
        let done = match &mut self.origin {
            Origin::Kernel(buffer) => {
                data[..length].copy_from_slice(&buffer[self.transferred..self.transferred + length]);
                length
            }
            Origin::One((base, _)) => {
                length - rumpuser_copyin(base.wrapping_add(self.transferred), &mut data[..length])
            }
            Origin::User { ranges, offset } => walk(ranges, offset, length, |address, to, size| {
                rumpuser_copyin(address, &mut data[to..to + size])
            }),
        };
        self.remaining -= done;
        self.transferred += done;
        if done == 0 { Err(Errno::EFAULT) } else { Ok(done) }
    }

    /// Gives to a frame that the caller holds a reference on and that no other kernel code writes now.
    #[allow(unsafe_code, reason = "hands a frame's bytes to the copy routine")]
    pub fn take_frame(&mut self, frame: Frame, offset: usize, length: usize) -> Result<usize> {
        assert!(offset + length <= PAGE_SIZE);
        // SAFETY: the caller holds a reference; the bytes are only copied.
        let bytes = unsafe { frame.bytes_mut() };
        self.take(&mut bytes[offset..offset + length])
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::{vec, vec::Vec};

    #[test]
    fn vectors_are_filled_in_order() {
        let (mut first, mut second) = (vec![0u8; 3], vec![0u8; 4]);
        let ranges = [(first.as_mut_ptr() as usize, 3), (0x10, 0), (second.as_mut_ptr() as usize, 4)];
        let mut sink = Sink::vectors(&ranges);
        assert_eq!(sink.put(b"ab"), Ok(2));
        assert_eq!(sink.put(b"cdefgh"), Ok(5));
        assert_eq!(sink.remaining(), 0);
        assert_eq!((first.as_slice(), second.as_slice()), (&b"abc"[..], &b"defg"[..]));
    }

    #[test]
    fn a_bad_address_faults_after_what_could_be_copied() {
        let mut good = vec![0u8; 2];
        let ranges = [(good.as_mut_ptr() as usize, 2), (0x10, 8)];
        let mut sink = Sink::vectors(&ranges);
        assert_eq!(sink.put(b"abcd"), Ok(2));
        assert_eq!(sink.put(b"cd"), Err(Errno::EFAULT));
        let mut source = Source::user(0x10, 4);
        let mut bytes = Vec::from([0u8; 4]);
        assert_eq!(source.take(&mut bytes), Err(Errno::EFAULT));
    }
}
