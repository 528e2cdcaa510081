//! Memory protection keys (pkeys(7)): as on a CPU that has none.

use rumpkern::{Errno, Result};

use super::mapping;
use crate::task::Task;

/// pkey_mprotect(2): key -1 is mprotect.
pub fn pkey_mprotect(task: &Task, address: usize, length: usize, bits: u32, key: i32) -> Result<usize> {
    if key != -1 {
        return Err(Errno::EINVAL);
    }
    mapping::mprotect(task, address, length, bits)
}

/// pkey_alloc(2).
pub fn pkey_alloc(_task: &Task, flags: u64, rights: u64) -> Result<usize> {
    if flags != 0 || rights & !3 != 0 { Err(Errno::EINVAL) } else { Err(Errno::ENOSPC) }
}

/// pkey_free(2).
pub fn pkey_free(_task: &Task, _key: i32) -> Result<usize> {
    Err(Errno::EINVAL)
}
