//! System calls: scheduling. Affinity and nice values are real; policies are kept and reported.

use alloc::{sync::Arc, vec};
use core::sync::atomic::Ordering;

use rumpkern::{Errno, Result};
use rumpuser::{CpuSet, rumpuser_cpu, rumpuser_cpu_online, rumpuser_yield};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    registry,
    task::{Policy, Task},
    user::{Timespec, UserPtr, read_bytes, write_bytes},
};

const CAP_SYS_NICE: u32 = 23;
const RESET_ON_FORK: i32 = 0x4000_0000;
const SCHED_FIFO: i32 = 1;
const SCHED_RR: i32 = 2;
const SCHED_DEADLINE: i32 = 6;

fn find(task: &Task, tid: i32) -> Result<Arc<Task>> {
    match tid {
        0 => Ok(task.arc()),
        1.. => registry::task(tid).ok_or(Errno::ESRCH),
        _ => Err(Errno::EINVAL),
    }
}

/// Whether `task` may change how `other` is scheduled.
fn may_change(task: &Task, other: &Task) -> bool {
    let (own, its) = (task.shared_credentials(), other.shared_credentials());
    own.euid == its.uid || own.euid == its.euid || own.capable(CAP_SYS_NICE)
}

/// The CPUs that run, of those on which a thread may; all that run if none of them does.
pub fn allowed(affinity: CpuSet) -> CpuSet {
    let online = rumpuser_cpu_online();
    match affinity & online {
        0 => online,
        allowed => allowed,
    }
}

/// sched_yield(2).
pub fn sched_yield(_task: &Task) -> Result<usize> {
    rumpuser_yield();
    Ok(0)
}

/// sched_setaffinity(2).
pub fn sched_setaffinity(task: &Task, tid: i32, length: usize, mask: usize) -> Result<usize> {
    let other = find(task, tid)?;
    if !may_change(task, &other) {
        return Err(Errno::EPERM);
    }
    let mut bytes = [0; size_of::<CpuSet>()];
    let given = length.min(bytes.len());
    read_bytes(mask, &mut bytes[..given])?;
    let set = CpuSet::from_le_bytes(bytes);
    if set & rumpuser_cpu_online() == 0 {
        return Err(Errno::EINVAL);
    }
    if let Some(thread) = other.thread() {
        thread.set_affinity(set);
    }
    Ok(0)
}

/// sched_getaffinity(2): returns how many bytes it wrote.
pub fn sched_getaffinity(task: &Task, tid: i32, length: usize, mask: usize) -> Result<usize> {
    const SIZE: usize = size_of::<CpuSet>();
    if length < SIZE || !length.is_multiple_of(SIZE) {
        return Err(Errno::EINVAL);
    }
    let other = find(task, tid)?;
    let set = allowed(other.thread().map_or(CpuSet::MAX, |thread| thread.affinity()));
    write_bytes(mask, &set.to_le_bytes())?;
    Ok(SIZE)
}

/// getcpu(2).
pub fn getcpu(_task: &Task, cpu: UserPtr<u32>, node: UserPtr<u32>) -> Result<usize> {
    cpu.write_if_wanted(&(rumpuser_cpu() as u32))?;
    node.write_if_wanted(&0)?;
    Ok(0)
}

fn valid_policy(policy: i32, priority: i32) -> bool {
    match policy {
        SCHED_FIFO | SCHED_RR => (1..=99).contains(&priority),
        0 | 3 | 5 => priority == 0,
        _ => false,
    }
}

fn set_policy(task: &Task, tid: i32, policy: i32, priority: i32) -> Result<usize> {
    let reset_on_fork = policy & RESET_ON_FORK != 0;
    let policy = policy & !RESET_ON_FORK;
    if !valid_policy(policy, priority) {
        return Err(Errno::EINVAL);
    }
    let other = find(task, tid)?;
    let real_time = matches!(policy, SCHED_FIFO | SCHED_RR);
    let privileged = task.credentials().capable(CAP_SYS_NICE);
    if !may_change(task, &other) || real_time && !privileged {
        return Err(Errno::EPERM);
    }
    let mut state = other.policy.lock();
    *state = Policy { policy, priority, reset_on_fork, ..*state };
    Ok(0)
}

/// sched_setscheduler(2).
pub fn sched_setscheduler(task: &Task, tid: i32, policy: i32, priority: UserPtr<i32>) -> Result<usize> {
    let priority = priority.read()?;
    set_policy(task, tid, policy, priority)
}

/// sched_getscheduler(2).
pub fn sched_getscheduler(task: &Task, tid: i32) -> Result<usize> {
    let state = *find(task, tid)?.policy.lock();
    let flag = if state.reset_on_fork { RESET_ON_FORK } else { 0 };
    Ok((state.policy | flag) as usize)
}

/// sched_setparam(2).
pub fn sched_setparam(task: &Task, tid: i32, priority: UserPtr<i32>) -> Result<usize> {
    let priority = priority.read()?;
    let policy = find(task, tid)?.policy.lock().policy;
    set_policy(task, tid, policy, priority)
}

/// sched_getparam(2).
pub fn sched_getparam(task: &Task, tid: i32, priority: UserPtr<i32>) -> Result<usize> {
    let state = *find(task, tid)?.policy.lock();
    priority.write(&state.priority)?;
    Ok(0)
}

fn priority_range(policy: i32) -> Result<(usize, usize)> {
    match policy {
        SCHED_FIFO | SCHED_RR => Ok((1, 99)),
        0 | 3 | 5 | SCHED_DEADLINE => Ok((0, 0)),
        _ => Err(Errno::EINVAL),
    }
}

/// sched_get_priority_max(2).
pub fn sched_get_priority_max(_task: &Task, policy: i32) -> Result<usize> {
    Ok(priority_range(policy)?.1)
}

/// sched_get_priority_min(2).
pub fn sched_get_priority_min(_task: &Task, policy: i32) -> Result<usize> {
    Ok(priority_range(policy)?.0)
}

/// sched_rr_get_interval(2).
pub fn sched_rr_get_interval(task: &Task, tid: i32, result: UserPtr<Timespec>) -> Result<usize> {
    let policy = find(task, tid)?.policy.lock().policy;
    let quantum = if policy == SCHED_FIFO { 0 } else { 100_000_000 };
    result.write(&Timespec::from_nanoseconds(quantum))?;
    Ok(0)
}

/// `struct sched_attr`, first version.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    deadline: [u64; 3],
}

/// sched_setattr(2).
pub fn sched_setattr(task: &Task, tid: i32, attributes: usize, flags: u32) -> Result<usize> {
    const FLAG_RESET: u64 = 1;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let size = UserPtr::<u32>::new(attributes).read()? as usize;
    let size = if size == 0 { size_of::<Attributes>() } else { size };
    if !(size_of::<Attributes>()..=rumpuser::memory::PAGE_SIZE).contains(&size) {
        return Err(Errno::E2BIG);
    }
    let mut rest = vec![0u8; size - size_of::<Attributes>()];
    read_bytes(attributes.wrapping_add(size_of::<Attributes>()), &mut rest)?;
    let wanted = UserPtr::<Attributes>::new(attributes).read()?;
    let reset = if wanted.flags & FLAG_RESET != 0 { RESET_ON_FORK } else { 0 };
    set_policy(task, tid, wanted.policy as i32 | reset, wanted.priority as i32)?;
    if matches!(wanted.policy, 0 | 3) {
        set_nice(task, &*find(task, tid)?, wanted.nice)?;
    }
    Ok(0)
}

/// sched_getattr(2).
pub fn sched_getattr(task: &Task, tid: i32, result: usize, size: u32, flags: u32) -> Result<usize> {
    let length = size_of::<Attributes>();
    if flags != 0 || (size as usize) < length || size as usize > rumpuser::memory::PAGE_SIZE {
        return Err(Errno::EINVAL);
    }
    let other = find(task, tid)?;
    let state = *other.policy.lock();
    let attributes = Attributes {
        size: length as u32,
        policy: state.policy as u32,
        flags: u64::from(state.reset_on_fork),
        nice: i32::from(other.nice.load(Ordering::Relaxed)),
        priority: state.priority as u32,
        deadline: [0; 3],
    };
    UserPtr::new(result).write(&attributes)?;
    Ok(0)
}

fn set_nice(task: &Task, other: &Task, nice: i32) -> Result<()> {
    let nice = nice.clamp(-20, 19) as i8;
    if !may_change(task, other) {
        return Err(Errno::EPERM);
    }
    if nice < other.nice.load(Ordering::Relaxed) && !task.credentials().capable(CAP_SYS_NICE) {
        return Err(Errno::EACCES);
    }
    other.nice.store(nice, Ordering::Relaxed);
    if let Some(thread) = other.thread() {
        thread.set_nice(nice);
    }
    Ok(())
}

/// The tasks that getpriority and setpriority mean.
fn chosen(task: &Task, which: i32, who: i32) -> Result<vec::Vec<Arc<Task>>> {
    Ok(match which {
        0 => registry::task(if who == 0 { task.tid() } else { who }).into_iter().collect(),
        1 => {
            let group = if who == 0 { task.process().group() } else { who };
            registry::group(group).iter().flat_map(|process| process.tasks()).collect()
        }
        2 => {
            let uid = if who == 0 { task.credentials().uid } else { who as u32 };
            let own = |process: &Arc<crate::process::Process>| process.uid.load(Ordering::Relaxed) == uid;
            registry::processes().into_iter().filter(own).flat_map(|process| process.tasks()).collect()
        }
        _ => return Err(Errno::EINVAL),
    })
}

/// getpriority(2): the kernel's form, 20 less the nice value.
pub fn getpriority(task: &Task, which: i32, who: i32) -> Result<usize> {
    let tasks = chosen(task, which, who)?;
    let best = tasks.iter().map(|task| 20 - i32::from(task.nice.load(Ordering::Relaxed))).max();
    best.map(|priority| priority as usize).ok_or(Errno::ESRCH)
}

/// setpriority(2).
pub fn setpriority(task: &Task, which: i32, who: i32, nice: i32) -> Result<usize> {
    let mut result = Err(Errno::ESRCH);
    for other in chosen(task, which, who)? {
        match set_nice(task, &other, nice) {
            Ok(()) if result == Err(Errno::ESRCH) => result = Ok(0),
            Ok(()) => {}
            Err(error) => result = Err(error),
        }
    }
    result
}

/// ioprio_get(2).
pub fn ioprio_get(task: &Task, which: i32, who: i32) -> Result<usize> {
    // 1, 2, 3: process, group, user, as for getpriority.
    let tasks = chosen(task, which - 1, who)?;
    tasks.first().map(|task| task.policy.lock().io as usize).ok_or(Errno::ESRCH)
}

/// ioprio_set(2).
pub fn ioprio_set(task: &Task, which: i32, who: i32, priority: i32) -> Result<usize> {
    let (class, level) = (priority >> 13, priority & 0x1fff);
    if !(0..=3).contains(&class) || level > 7 || class == 0 && level != 0 {
        return Err(Errno::EINVAL);
    }
    let tasks = chosen(task, which - 1, who)?;
    if tasks.is_empty() {
        return Err(Errno::ESRCH);
    }
    for other in tasks {
        if !may_change(task, &other) {
            return Err(Errno::EPERM);
        }
        other.policy.lock().io = priority;
    }
    Ok(0)
}

/// membarrier(2).
pub fn membarrier(task: &Task, command: i32, flags: u32, _cpu: i32) -> Result<usize> {
    const GLOBAL: i32 = 1;
    const GLOBAL_EXPEDITED: i32 = 2;
    const PRIVATE_EXPEDITED: i32 = 8;
    /// Query, global, and the expedited commands with their registrations.
    const SUPPORTED: i32 = 0x1f;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    match command {
        0 => Ok(SUPPORTED as usize),
        GLOBAL | GLOBAL_EXPEDITED | PRIVATE_EXPEDITED => {
            synchronise(task)?;
            Ok(0)
        }
        // Registrations.
        4 | 16 => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// Makes every CPU pass through the kernel: the calling thread runs on each in turn.
fn synchronise(task: &Task) -> Result<()> {
    let thread = task.thread().ok_or(Errno::ESRCH)?;
    let before = thread.affinity();
    for cpu in (0..64).filter(|cpu| rumpuser_cpu_online() & 1 << cpu != 0) {
        // Running there means that whatever ran there was switched out, which orders its memory accesses.
        thread.set_affinity(1 << cpu);
    }
    thread.set_affinity(before);
    Ok(())
}
