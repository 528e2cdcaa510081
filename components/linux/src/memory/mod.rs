//! The system calls on memory: mappings, advice and locks, policies, other processes' memory, memory files, and
//! System V shared memory. The address space itself is [`rumpkern::vm::Space`].

pub mod advice;
pub mod file;
pub mod keys;
pub mod mapping;
pub mod policy;
pub mod remote;
pub mod shm;

use alloc::sync::Arc;

use linux_raw_sys::general::{PROT_EXEC, PROT_READ, PROT_WRITE};
use rumpkern::{Errno, Result};
use rumpuser::Protection;

use crate::{space::Space, task::Task};

/// May lock any amount of memory.
const CAP_IPC_LOCK: u32 = 14;

/// The caller's space.
fn space_of(task: &Task) -> Result<Arc<Space>> {
    task.process().space().ok_or(Errno::ESRCH)
}

/// The protection that `PROT_*` bits ask for; other bits are not looked at.
fn protection(bits: u32) -> Protection {
    let mut protection = Protection::empty();
    protection.set(Protection::READ, bits & PROT_READ != 0);
    protection.set(Protection::WRITE, bits & PROT_WRITE != 0);
    protection.set(Protection::EXECUTE, bits & PROT_EXEC != 0);
    protection
}
