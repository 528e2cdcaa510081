//! Arguments of ioctl(2) in user memory.

use rumpkern::{Errno, Result};
use rumpuser::{rumpuser_copyin, rumpuser_copyout};

/// Reads `N` bytes at a user address.
pub fn read<const N: usize>(address: usize) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    if rumpuser_copyin(address, &mut bytes) == 0 { Ok(bytes) } else { Err(Errno::EFAULT) }
}

/// Writes to a user address.
pub fn write(address: usize, bytes: &[u8]) -> Result<()> {
    if rumpuser_copyout(bytes, address) == 0 { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Reads an `int`.
pub fn read_int(address: usize) -> Result<i32> {
    read(address).map(i32::from_le_bytes)
}

/// Writes an `int`.
pub fn write_int(address: usize, value: i32) -> Result<()> {
    write(address, &value.to_le_bytes())
}
