//! Robust futexes: when a task ends, those it holds are marked and their waiters woken (get_robust_list(2)).

use core::sync::atomic::Ordering;

use linux_raw_sys::general::{FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS};
use rumpkern::{Errno, Result};
use rumpuser::{rumpuser_user_compare_exchange, rumpuser_user_load};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::wake_address;
use crate::{registry, task::Task, user::UserPtr};

/// `struct robust_list_head`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Head {
    next: usize,
    futex_offset: usize,
    pending: usize,
}

/// A list that is longer is taken for a loop.
const LIMIT: usize = 2048;

/// set_robust_list(2).
pub fn set_robust_list(task: &Task, head: usize, length: usize) -> Result<usize> {
    if length != size_of::<Head>() {
        return Err(Errno::EINVAL);
    }
    task.robust_list.store(head, Ordering::Relaxed);
    Ok(0)
}

/// get_robust_list(2).
pub fn get_robust_list(task: &Task, tid: i32, head: UserPtr<usize>, length: UserPtr<usize>) -> Result<usize> {
    let other = if tid == 0 { task.arc() } else { registry::task(tid).ok_or(Errno::ESRCH)? };
    length.write(&size_of::<Head>())?;
    head.write(&other.robust_list.load(Ordering::Relaxed))?;
    Ok(0)
}

/// Gives up what the ending task's list names. Stops at the first thing that is wrong with the list.
pub fn walk(task: &Task) {
    let at = task.robust_list.swap(0, Ordering::Relaxed);
    if at == 0 {
        return;
    }
    let Ok(head) = UserPtr::<Head>::new(at).read() else { return };
    // The lowest bit of a link tells PI futexes.
    let mut link = head.next;
    for _ in 0..LIMIT {
        let entry = link & !1;
        if entry == at {
            break;
        }
        // Read first: once the word is marked, another task may take the entry and unlink it.
        let next = UserPtr::<usize>::new(entry).read();
        if entry != head.pending & !1
            && give_up(task, entry.wrapping_add(head.futex_offset), false, link & 1 != 0).is_err()
        {
            return;
        }
        let Ok(next) = next else { return };
        link = next;
    }
    if head.pending & !1 != 0 {
        let address = (head.pending & !1).wrapping_add(head.futex_offset);
        // Nothing is left to do after a fault.
        let _ = give_up(task, address, true, head.pending & 1 != 0);
    }
}

fn give_up(task: &Task, address: usize, pending: bool, inherits: bool) -> Result<()> {
    if !address.is_multiple_of(4) {
        return Err(Errno::EFAULT);
    }
    let mut word = rumpuser_user_load(address)?;
    loop {
        if pending && !inherits && word == 0 {
            // The task freed it and ended before it woke anybody.
            wake_address(task, address);
            return Ok(());
        }
        if word & FUTEX_TID_MASK != task.tid() as u32 {
            return Ok(());
        }
        let found = rumpuser_user_compare_exchange(address, word, word & FUTEX_WAITERS | FUTEX_OWNER_DIED)?;
        if found == word {
            break;
        }
        word = found;
    }
    if word & FUTEX_WAITERS != 0 && !inherits {
        wake_address(task, address);
    }
    Ok(())
}
