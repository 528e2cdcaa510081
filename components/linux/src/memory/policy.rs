//! Memory policies (numa(7)): there is one node, 0, so every valid policy comes to the same.

use rumpkern::{Errno, Result};
use rumpuser::memory::PAGE_SIZE;

use super::space_of;
use crate::{
    registry,
    task::Task,
    user::{UserPtr, is_user_range, write_bytes},
};

const MODE_MAX: u32 = 6; // MPOL_PREFERRED_MANY and MPOL_WEIGHTED_INTERLEAVE
const MODE_DEFAULT: u32 = 0;
const MODE_LOCAL: u32 = 4;
const MODE_FLAGS: u32 = 0xe000; // MPOL_F_STATIC_NODES, MPOL_F_RELATIVE_NODES, MPOL_F_NUMA_BALANCING
const GET_NODE: u32 = 1;
const GET_BY_ADDRESS: u32 = 2;
const GET_ALLOWED: u32 = 4;
/// The longest node mask, in bits.
const MASK_BITS_MAX: usize = PAGE_SIZE * 8;

/// Checks a policy: a known mode, and for those that need nodes, a mask that has node 0 and no other.
fn check(mode: u32, mask: usize, bits: usize) -> Result<()> {
    let mode = mode & !MODE_FLAGS;
    if mode > MODE_MAX {
        return Err(Errno::EINVAL);
    }
    let mut nodes = 0u64;
    if mask != 0 && bits > 1 {
        if bits > MASK_BITS_MAX {
            return Err(Errno::EINVAL);
        }
        // The last bit doesn't count, as ever.
        let used = bits - 1;
        for word in 0..used.div_ceil(64) {
            let mut value = UserPtr::<u64>::new(mask.wrapping_add(word * 8)).read()?;
            if word == used / 64 {
                value &= (1 << (used % 64)) - 1;
            }
            if word > 0 && value != 0 {
                return Err(Errno::EINVAL);
            }
            nodes |= value;
        }
    }
    match mode {
        MODE_DEFAULT | MODE_LOCAL if nodes == 0 => Ok(()),
        // MPOL_PREFERRED without nodes is local.
        1 if nodes == 0 => Ok(()),
        MODE_DEFAULT | MODE_LOCAL => Err(Errno::EINVAL),
        _ if nodes == 1 => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

/// set_mempolicy(2).
pub fn set_mempolicy(_task: &Task, mode: u32, mask: usize, bits: usize) -> Result<usize> {
    check(mode, mask, bits)?;
    Ok(0)
}

/// mbind(2).
pub fn mbind(
    task: &Task,
    address: usize,
    length: usize,
    mode: u32,
    mask: usize,
    bits: usize,
    flags: u32,
) -> Result<usize> {
    if flags & !7 != 0 || !address.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    check(mode, mask, bits)?;
    if length > 0 && !space_of(task)?.is_mapped(address) {
        return Err(Errno::EFAULT);
    }
    Ok(0)
}

/// get_mempolicy(2).
pub fn get_mempolicy(
    task: &Task,
    mode: UserPtr<i32>,
    mask: usize,
    bits: usize,
    address: usize,
    flags: u32,
) -> Result<usize> {
    if flags & !(GET_NODE | GET_BY_ADDRESS | GET_ALLOWED) != 0
        || flags & GET_ALLOWED != 0 && flags & (GET_NODE | GET_BY_ADDRESS) != 0
        || flags & GET_BY_ADDRESS == 0 && address != 0
        || mask != 0 && bits == 0
        || bits > MASK_BITS_MAX
    {
        return Err(Errno::EINVAL);
    }
    if flags & GET_NODE != 0 && flags & GET_BY_ADDRESS == 0 {
        // The next node of an interleave policy, which the caller doesn't have.
        return Err(Errno::EINVAL);
    }
    if flags & GET_BY_ADDRESS != 0 && !space_of(task)?.is_mapped(address) {
        return Err(Errno::EFAULT);
    }
    // The default policy, or node 0.
    mode.write_if_wanted(&0)?;
    if mask != 0 {
        let mut nodes = alloc::vec![0u8; bits.div_ceil(64) * 8];
        nodes[0] = u8::from(flags & GET_ALLOWED != 0);
        write_bytes(mask, &nodes)?;
    }
    Ok(0)
}

/// migrate_pages(2): no page is anywhere else.
pub fn migrate_pages(task: &Task, pid: i32, _bits: usize, _old: usize, _new: usize) -> Result<usize> {
    if pid != 0 && pid != task.process().pid() && registry::process(pid).is_none() {
        return Err(Errno::ESRCH);
    }
    Ok(0)
}

/// move_pages(2): says for each page that it is on node 0, or that it isn't there.
pub fn move_pages(
    task: &Task,
    pid: i32,
    count: usize,
    pages: UserPtr<usize>,
    nodes: UserPtr<i32>,
    status: UserPtr<i32>,
    flags: u32,
) -> Result<usize> {
    /// MPOL_MF_MOVE and MPOL_MF_MOVE_ALL.
    const KNOWN: u32 = 6;
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    let own = pid == 0 || pid == task.process().pid();
    let process = if own { task.process().clone() } else { registry::process(pid).ok_or(Errno::ESRCH)? };
    let space = process.space().ok_or(Errno::ESRCH)?;
    if count > usize::MAX / 8 || !is_user_range(pages.address(), count * 8) {
        return Err(Errno::EFAULT);
    }
    for index in 0..count {
        let address = pages.element(index).read()?;
        if !nodes.is_null() && nodes.element(index).read()? != 0 {
            return Err(Errno::ENODEV);
        }
        let answer = match space.pmap().query(address) {
            Some(_) => 0,
            None if space.is_mapped(address) => -Errno::ENOENT.code(),
            None => -Errno::EFAULT.code(),
        };
        status.element(index).write(&answer)?;
    }
    Ok(0)
}
