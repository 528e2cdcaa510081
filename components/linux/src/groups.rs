//! Process groups and sessions.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use rumpkern::{Errno, Result};

use crate::{
    process::Process,
    registry,
    signal::{number::*, send},
    task::Task,
};

fn find(task: &Task, pid: i32) -> Result<Arc<Process>> {
    match pid {
        0 => Ok(task.process().clone()),
        1.. => registry::process(pid).ok_or(Errno::ESRCH),
        _ => Err(Errno::ESRCH),
    }
}

/// setpgid(2).
pub fn setpgid(task: &Task, pid: i32, group: i32) -> Result<usize> {
    if group < 0 {
        return Err(Errno::EINVAL);
    }
    let caller = task.process();
    let process = find(task, pid)?;
    let is_child = process.parent().is_some_and(|parent| Arc::ptr_eq(&parent, caller));
    if !Arc::ptr_eq(&process, caller) && !is_child {
        return Err(Errno::ESRCH);
    }
    if is_child && process.executed.load(Ordering::Relaxed) {
        return Err(Errno::EACCES);
    }
    let group = if group == 0 { process.pid() } else { group };
    let leads_session = process.session() == process.pid();
    if leads_session || process.session() != caller.session() {
        return Err(Errno::EPERM);
    }
    let joins = group != process.pid();
    if joins && !registry::group(group).iter().any(|other| other.session() == caller.session()) {
        return Err(Errno::EPERM);
    }
    process.group.store(group, Ordering::Relaxed);
    Ok(0)
}

/// getpgid(2).
pub fn getpgid(task: &Task, pid: i32) -> Result<usize> {
    Ok(find(task, pid)?.group() as usize)
}

/// getpgrp(2).
pub fn getpgrp(task: &Task) -> Result<usize> {
    Ok(task.process().group() as usize)
}

/// setsid(2).
pub fn setsid(task: &Task) -> Result<usize> {
    let process = task.process();
    if !registry::group(process.pid()).is_empty() {
        return Err(Errno::EPERM);
    }
    process.session.store(process.pid(), Ordering::Relaxed);
    process.group.store(process.pid(), Ordering::Relaxed);
    Ok(process.pid() as usize)
}

/// getsid(2).
pub fn getsid(task: &Task, pid: i32) -> Result<usize> {
    Ok(find(task, pid)?.session() as usize)
}

/// Whether a group is orphaned: no member has a parent in another group of the same session, who could continue
/// it. The first process's programs are not: the image's init looks after them.
pub fn is_orphaned(group: i32) -> bool {
    registry::group(group).iter().all(|process| !is_looked_after(process, group))
}

fn is_looked_after(process: &Process, group: i32) -> bool {
    !process.is_zombie()
        && process
            .parent()
            .is_some_and(|parent| parent.group() != group && parent.session() == process.session())
}

/// A process ends: groups that are thereby orphaned and stopped are hung up and continued.
pub fn process_ends(process: &Arc<Process>) {
    let leads_session = process.session() == process.pid();
    if leads_session {
        crate::terminal::session_ends(process.session());
    }
    let children = process.children.lock().clone();
    for child in children {
        let group = child.group();
        let stopped = group != process.group()
            && child.session() == process.session()
            && child.job.lock().stopped_by != 0;
        if stopped {
            send::kernel_to_group(group, SIGHUP);
            send::kernel_to_group(group, SIGCONT);
        }
    }
}
