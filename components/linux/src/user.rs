//! Typed access to user memory. Addresses come from the program and may be anything: every access goes through
//! copyin and copyout, which fault instead of crashing, and may sleep (never hold a spin lock).

use alloc::vec::Vec;
use core::marker::PhantomData;

use rumpkern::{Errno, Result, uio::UserRange};
use rumpuser::{
    memory::{PAGE_SIZE, USER_END},
    rumpuser_copyin, rumpuser_copyout,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::argument::FromArgument;

/// The most elements of an iovec array (UIO_MAXIOV).
pub const IOV_MAX: usize = 1024;
/// The most bytes that one read or write moves (MAX_RW_COUNT).
pub const RW_MAX: usize = 0x7fff_f000;
/// The longest path, its NUL included.
pub const PATH_MAX: usize = 4096;

/// A user address of a `T`, not checked before it is used.
pub struct UserPtr<T> {
    address: usize,
    kind: PhantomData<fn(T) -> T>,
}

impl<T> Clone for UserPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for UserPtr<T> {}

impl<T> FromArgument for UserPtr<T> {
    fn from_argument(raw: u64) -> Self {
        UserPtr::new(raw as usize)
    }
}

impl<T> UserPtr<T> {
    /// A pointer to `address`.
    pub const fn new(address: usize) -> Self {
        UserPtr { address, kind: PhantomData }
    }

    /// Where it points.
    pub fn address(self) -> usize {
        self.address
    }

    /// Whether it is null.
    pub fn is_null(self) -> bool {
        self.address == 0
    }

    /// `None` if it is null.
    pub fn non_null(self) -> Option<Self> {
        (!self.is_null()).then_some(self)
    }

    /// The same address as another type's.
    pub fn cast<U>(self) -> UserPtr<U> {
        UserPtr::new(self.address)
    }

    /// A pointer `bytes` behind this one.
    pub fn byte_add(self, bytes: usize) -> Self {
        UserPtr::new(self.address.wrapping_add(bytes))
    }

    /// The pointer to element `index` of the array that this points to.
    pub fn element(self, index: usize) -> Self {
        self.byte_add(index.wrapping_mul(size_of::<T>()))
    }
}

impl<T: FromBytes> UserPtr<T> {
    /// Reads the value.
    #[inline]
    pub fn read(self) -> Result<T>
    where
        T: IntoBytes,
    {
        let mut value = T::new_zeroed();
        read_bytes(self.address, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Reads an array of `count` values; the caller has bounded `count`.
    pub fn read_array(self, count: usize) -> Result<Vec<T>>
    where
        T: IntoBytes + Clone,
    {
        let mut values = Vec::new();
        values.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        values.resize(count, T::new_zeroed());
        read_bytes(self.address, values.as_mut_slice().as_mut_bytes())?;
        Ok(values)
    }
}

impl<T: IntoBytes + Immutable> UserPtr<T> {
    /// Writes the value.
    #[inline]
    pub fn write(self, value: &T) -> Result<()> {
        write_bytes(self.address, value.as_bytes())
    }

    /// Writes the value unless the pointer is null.
    pub fn write_if_wanted(self, value: &T) -> Result<()> {
        if self.is_null() { Ok(()) } else { self.write(value) }
    }

    /// Writes an array.
    pub fn write_array(self, values: &[T]) -> Result<()> {
        write_bytes(self.address, values.as_bytes())
    }
}

/// A zeroed buffer in the kernel, for data on its way. ENOMEM if there is no room.
pub fn buffer(length: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|_| Errno::ENOMEM)?;
    // Copies: code that is compiled for its size would set byte after byte.
    while bytes.len() < length {
        bytes.extend_from_slice(&ZEROS[..(length - bytes.len()).min(ZEROS.len())]);
    }
    Ok(bytes)
}

/// Whether a range is inside the user half (access_ok).
pub fn is_user_range(address: usize, length: usize) -> bool {
    address.checked_add(length).is_some_and(|end| end <= USER_END)
}

/// Fills `bytes` from user memory.
#[inline]
pub fn read_bytes(address: usize, bytes: &mut [u8]) -> Result<()> {
    if rumpuser_copyin(address, bytes) == 0 { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Copies `bytes` to user memory.
#[inline]
pub fn write_bytes(address: usize, bytes: &[u8]) -> Result<()> {
    if rumpuser_copyout(bytes, address) == 0 { Ok(()) } else { Err(Errno::EFAULT) }
}

static ZEROS: [u8; 1024] = [0; 1024];

/// Zeroes user memory.
pub fn clear_bytes(mut address: usize, mut length: usize) -> Result<()> {
    while length > 0 {
        let chunk = length.min(ZEROS.len());
        write_bytes(address, &ZEROS[..chunk])?;
        address = address.wrapping_add(chunk);
        length -= chunk;
    }
    Ok(())
}

/// Reads a NUL-terminated string without its NUL. `too_long` if there is none in `limit` bytes.
pub fn read_string(address: usize, limit: usize, too_long: Errno) -> Result<Vec<u8>> {
    let mut string = Vec::new();
    let mut position = address;
    let mut buffer = [0u8; 256];
    while string.len() < limit {
        // Never across a page: what follows the NUL may not be mapped.
        let in_page = PAGE_SIZE - position % PAGE_SIZE;
        let chunk = &mut buffer[..in_page.min(256).min(limit - string.len())];
        read_bytes(position, chunk)?;
        let end = chunk.iter().position(|&byte| byte == 0);
        string.try_reserve(end.unwrap_or(chunk.len())).map_err(|_| Errno::ENOMEM)?;
        if let Some(end) = end {
            string.extend_from_slice(&chunk[..end]);
            return Ok(string);
        }
        string.extend_from_slice(chunk);
        position = position.wrapping_add(chunk.len());
    }
    Err(too_long)
}

/// Reads a path: ENAMETOOLONG beyond [`PATH_MAX`]. An empty one is for the caller to judge.
pub fn read_path(address: usize) -> Result<Vec<u8>> {
    read_string(address, PATH_MAX, Errno::ENAMETOOLONG)
}

/// Reads a NULL-terminated array of string pointers (argv), as long as their total stays within `limit` bytes.
pub fn read_strings(address: usize, limit: usize) -> Result<Vec<Vec<u8>>> {
    let mut strings = Vec::new();
    let mut left = limit;
    if address == 0 {
        return Ok(strings);
    }
    let array = UserPtr::<usize>::new(address);
    for index in 0.. {
        let pointer = array.element(index).read()?;
        if pointer == 0 {
            break;
        }
        left = left.checked_sub(size_of::<usize>()).ok_or(Errno::E2BIG)?;
        let string = read_string(pointer, left, Errno::E2BIG)?;
        left = left.checked_sub(string.len() + 1).ok_or(Errno::E2BIG)?;
        strings.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        strings.push(string);
    }
    Ok(strings)
}

/// Reads an iovec array: EINVAL for a count beyond [`IOV_MAX`] or a length that is negative as ssize_t, EFAULT for
/// a range outside the user half. The total is cut at [`RW_MAX`].
pub fn read_iovecs(address: usize, count: usize) -> Result<Vec<UserRange>> {
    if count > IOV_MAX {
        return Err(Errno::EINVAL);
    }
    let raw = UserPtr::<[usize; 2]>::new(address).read_array(count)?;
    let mut ranges = Vec::with_capacity(count);
    let mut left = RW_MAX;
    for [base, length] in raw {
        if isize::try_from(length).is_err() {
            return Err(Errno::EINVAL);
        }
        if !is_user_range(base, length) {
            return Err(Errno::EFAULT);
        }
        let length = length.min(left);
        left -= length;
        ranges.push((base, length));
    }
    Ok(ranges)
}

/// `struct timespec`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Timespec {
    /// Seconds.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: i64,
}

impl Timespec {
    /// From nanoseconds.
    pub fn from_nanoseconds(time: u64) -> Self {
        Timespec { seconds: (time / 1_000_000_000) as i64, nanoseconds: (time % 1_000_000_000) as i64 }
    }

    /// To nanoseconds, at most `u64::MAX - 1`; EINVAL if negative or out of form.
    pub fn to_nanoseconds(self) -> Result<u64> {
        if self.seconds < 0 || !(0..1_000_000_000).contains(&self.nanoseconds) {
            return Err(Errno::EINVAL);
        }
        let time =
            (self.seconds as u64).saturating_mul(1_000_000_000).saturating_add(self.nanoseconds as u64);
        Ok(time.min(u64::MAX - 1))
    }
}

/// `struct timeval`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Timeval {
    /// Seconds.
    pub seconds: i64,
    /// 0 to 999,999.
    pub microseconds: i64,
}

impl Timeval {
    /// From nanoseconds.
    pub fn from_nanoseconds(time: u64) -> Self {
        Timeval { seconds: (time / 1_000_000_000) as i64, microseconds: (time % 1_000_000_000 / 1000) as i64 }
    }

    /// To nanoseconds; EINVAL if negative or out of form.
    pub fn to_nanoseconds(self) -> Result<u64> {
        if !(0..1_000_000).contains(&self.microseconds) {
            return Err(Errno::EINVAL);
        }
        Timespec { seconds: self.seconds, nanoseconds: self.microseconds * 1000 }.to_nanoseconds()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn strings_end_at_their_nul_or_their_limit() {
        let text = b"hello\0rest";
        let address = text.as_ptr() as usize;
        assert_eq!(read_string(address, 100, Errno::E2BIG), Ok(b"hello".to_vec()));
        assert_eq!(read_string(address, 5, Errno::E2BIG), Err(Errno::E2BIG));
        assert_eq!(read_string(8, 5, Errno::E2BIG), Err(Errno::EFAULT));
    }

    #[test]
    fn iovecs_are_checked() {
        let raw = [[0x1000usize, 4], [0x2000, usize::MAX]];
        let address = raw.as_ptr() as usize;
        assert_eq!(read_iovecs(address, 1), Ok(vec![(0x1000, 4)]));
        assert_eq!(read_iovecs(address, 2), Err(Errno::EINVAL));
        assert_eq!(read_iovecs(address, 1025), Err(Errno::EINVAL));
        assert_eq!(read_iovecs(16, 1), Err(Errno::EFAULT));
    }

    #[test]
    fn times_are_checked() {
        assert_eq!(Timespec { seconds: 1, nanoseconds: 5 }.to_nanoseconds(), Ok(1_000_000_005));
        assert_eq!(Timespec { seconds: -1, nanoseconds: 0 }.to_nanoseconds(), Err(Errno::EINVAL));
        assert_eq!(Timespec { seconds: 0, nanoseconds: 1_000_000_000 }.to_nanoseconds(), Err(Errno::EINVAL));
        assert_eq!(Timespec { seconds: i64::MAX, nanoseconds: 0 }.to_nanoseconds(), Ok(u64::MAX - 1));
    }
}
