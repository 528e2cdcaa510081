//! System calls: resource limits and usage (getrlimit, prlimit64, getrusage, times).

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use rumpkern::{Errno, Result};
use rumpuser::rumpuser_clock_monotonic;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    exec_image::apply_limits,
    limits::{self, Limit, Resource},
    process::{Process, Usage},
    registry,
    task::Task,
    user::{Timeval, UserPtr},
};

/// Clock ticks per second, for times(2).
const TICKS: u64 = 100;
const CAP_SYS_RESOURCE: u32 = 24;

/// `struct rusage`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are getrusage(2)'s, spelt out")]
pub struct Rusage {
    pub user: Timeval,
    pub system: Timeval,
    pub maximum_resident: u64,
    pub unused: [u64; 3],
    pub minor_faults: u64,
    pub major_faults: u64,
    pub swaps: u64,
    pub blocks_in: u64,
    pub blocks_out: u64,
    pub messages: [u64; 2],
    pub signals: u64,
    pub voluntary_switches: u64,
    pub involuntary_switches: u64,
}

impl From<Usage> for Rusage {
    fn from(usage: Usage) -> Self {
        Rusage {
            user: Timeval::from_nanoseconds(usage.user),
            system: Timeval::from_nanoseconds(usage.system),
            maximum_resident: usage.resident * 4,
            minor_faults: usage.minor_faults,
            ..Default::default()
        }
    }
}

/// What a process used so far, living tasks included.
pub fn usage_of(process: &Process) -> Usage {
    let mut usage = *process.usage.lock();
    for task in process.tasks() {
        let (user, system) = task.cpu_time();
        usage.user += user;
        usage.system += system;
    }
    usage.minor_faults = process.faults.load(Ordering::Relaxed);
    if let Some(space) = process.space() {
        usage.resident = usage.resident.max(space.pmap().resident() as u64);
    }
    usage
}

/// What wait4 tells of a process that ended.
pub fn usage_of_ended(process: &Process) -> Rusage {
    let (own, children) = (*process.usage.lock(), *process.children_usage.lock());
    Usage {
        user: own.user + children.user,
        system: own.system + children.system,
        resident: own.resident.max(children.resident),
        minor_faults: own.minor_faults + children.minor_faults,
    }
    .into()
}

/// getrusage(2).
pub fn getrusage(task: &Task, who: i32, result: UserPtr<Rusage>) -> Result<usize> {
    let process = task.process();
    let usage = match who {
        0 => usage_of(process),
        -1 => *process.children_usage.lock(),
        1 => {
            let (user, system) = task.cpu_time();
            Usage { user, system, ..usage_of(process) }
        }
        _ => return Err(Errno::EINVAL),
    };
    result.write(&usage.into())?;
    Ok(0)
}

/// times(2).
pub fn times(task: &Task, result: UserPtr<[u64; 4]>) -> Result<usize> {
    let ticks = |time: u64| time / (1_000_000_000 / TICKS);
    let (own, children) = (usage_of(task.process()), *task.process().children_usage.lock());
    let all = [own.user, own.system, children.user, children.system].map(ticks);
    result.write_if_wanted(&all)?;
    Ok(ticks(rumpuser_clock_monotonic()) as usize)
}

fn check(task: &Task, resource: u32, old: Limit, new: Limit) -> Result<()> {
    if new.soft > new.hard {
        return Err(Errno::EINVAL);
    }
    if new.hard > old.hard && !task.credentials().capable(CAP_SYS_RESOURCE) {
        return Err(Errno::EPERM);
    }
    let most = crate::files::DESCRIPTOR_LIMIT as u64;
    if resource == Resource::OpenFiles as u32 && new.hard > most && new.hard != old.hard {
        return Err(Errno::EPERM);
    }
    Ok(())
}

fn change(task: &Task, process: &Arc<Process>, resource: u32, new: Limit) -> Result<()> {
    process.with_limits(|limits| {
        let slot = limits.0.get_mut(resource as usize).ok_or(Errno::EINVAL)?;
        check(task, resource, *slot, new)?;
        *slot = new;
        Ok::<(), Errno>(())
    })?;
    if let Some(space) = process.space() {
        apply_limits(&space, &process.limits());
    }
    if resource == Resource::Cpu as u32 {
        crate::timers::limit_cpu(process);
    }
    Ok(())
}

/// getrlimit(2).
pub fn getrlimit(task: &Task, resource: u32, result: UserPtr<Limit>) -> Result<usize> {
    let limit = *task.process().limits().0.get(resource as usize).ok_or(Errno::EINVAL)?;
    result.write(&limit)?;
    Ok(0)
}

/// setrlimit(2).
pub fn setrlimit(task: &Task, resource: u32, new: UserPtr<Limit>) -> Result<usize> {
    change(task, task.process(), resource, new.read()?)?;
    Ok(0)
}

/// prlimit64(2).
pub fn prlimit64(
    task: &Task,
    pid: i32,
    resource: u32,
    new: UserPtr<Limit>,
    old: UserPtr<Limit>,
) -> Result<usize> {
    if resource as usize >= limits::COUNT {
        return Err(Errno::EINVAL);
    }
    let process = match pid {
        0 => task.process().clone(),
        _ => registry::process(pid).ok_or(Errno::ESRCH)?,
    };
    if !Arc::ptr_eq(&process, task.process()) {
        let own = task.credentials();
        let uid = process.uid.load(Ordering::Relaxed);
        if own.uid != uid && !own.capable(CAP_SYS_RESOURCE) {
            return Err(Errno::EPERM);
        }
    }
    let before = process.limits().0[resource as usize];
    if !new.is_null() {
        change(task, &process, resource, new.read()?)?;
    }
    old.write_if_wanted(&before)?;
    Ok(0)
}
