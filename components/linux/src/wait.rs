//! System calls: waiting for children (wait4, waitid).

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use rumpkern::{Errno, Result};
use rumpuser::NEVER;

use crate::{
    exit::{self, status},
    process::Process,
    resource::{self, Rusage},
    signal::{SignalInfo, number::*},
    task::Task,
    user::UserPtr,
};

const WNOHANG: u32 = 1;
const WUNTRACED: u32 = 2;
const WEXITED: u32 = 4;
const WCONTINUED: u32 = 8;
const WNOWAIT: u32 = 0x0100_0000;
const WNOTHREAD: u32 = 0x2000_0000;
const WALL: u32 = 0x4000_0000;
const WCLONE: u32 = 0x8000_0000;

/// Which children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Any,
    Process(i32),
    Group(i32),
}

/// A child that changed.
struct Change {
    child: Arc<Process>,
    /// As wait4 reports it.
    status: u32,
    info: SignalInfo,
}

/// The first change that `options` asks for; it is taken unless WNOWAIT. `Err(ECHILD)` if no child matches.
fn look(process: &Process, which: Which, options: u32) -> Result<Option<Change>> {
    let children = process.children.lock();
    let mut any = false;
    for child in children.iter() {
        let matches = match which {
            Which::Any => true,
            Which::Process(pid) => child.pid() == pid,
            Which::Group(group) => child.group() == group,
        };
        let is_clone = child.exit_signal.load(Ordering::Relaxed) != SIGCHLD;
        if !matches || options & WALL == 0 && is_clone != (options & WCLONE != 0) {
            continue;
        }
        any = true;
        if let Some(change) = change_of(child, options) {
            let ended = change.status & 0x7f != 0x7f && change.status != status::CONTINUED;
            drop(children);
            if ended && options & WNOWAIT == 0 {
                exit::reap(process, &change.child);
            }
            return Ok(Some(change));
        }
    }
    if any { Ok(None) } else { Err(Errno::ECHILD) }
}

fn change_of(child: &Arc<Process>, options: u32) -> Option<Change> {
    if child.is_zombie() {
        if options & WEXITED == 0 {
            return None;
        }
        if options & WNOWAIT == 0 && child.reaped.swap(true, Ordering::SeqCst) {
            return None;
        }
        let status = child.status.load(Ordering::Relaxed);
        return Some(Change { child: child.clone(), status, info: exit::child_info(child, status) });
    }
    let mut job = child.job.lock();
    if options & WUNTRACED != 0 && job.stopped_by != 0 && job.stop_unreported {
        job.stop_unreported = options & WNOWAIT != 0;
        let signal = job.stopped_by;
        drop(job);
        let info = exit::job_info(child, SignalInfo::CLD_STOPPED, signal as i32, 0, 0);
        return Some(Change { child: child.clone(), status: status::stopped(signal), info });
    }
    if options & WCONTINUED != 0 && job.continue_unreported {
        job.continue_unreported = options & WNOWAIT != 0;
        drop(job);
        let info = exit::job_info(child, SignalInfo::CLD_CONTINUED, SIGCONT as i32, 0, 0);
        return Some(Change { child: child.clone(), status: status::CONTINUED, info });
    }
    None
}

fn wait(task: &Task, which: Which, options: u32) -> Result<Option<Change>> {
    let process = task.process();
    if options & WNOHANG != 0 {
        return look(process, which, options);
    }
    let found = process.child_changed.wait(NEVER, || look(process, which, options).transpose());
    found.map_err(Errno::from)?.map(Some)
}

/// wait4(2).
pub fn wait4(
    task: &Task,
    pid: i32,
    status: UserPtr<u32>,
    options: u32,
    usage: UserPtr<Rusage>,
) -> Result<usize> {
    if options & !(WNOHANG | WUNTRACED | WCONTINUED | WNOTHREAD | WALL | WCLONE) != 0 {
        return Err(Errno::EINVAL);
    }
    let which = match pid {
        -1 => Which::Any,
        0 => Which::Group(task.process().group()),
        1.. => Which::Process(pid),
        i32::MIN => return Err(Errno::ESRCH),
        _ => Which::Group(-pid),
    };
    let Some(change) = wait(task, which, options | WEXITED)? else { return Ok(0) };
    status.write_if_wanted(&change.status)?;
    usage.write_if_wanted(&resource::usage_of_ended(&change.child))?;
    Ok(change.child.pid() as usize)
}

/// waitid(2).
pub fn waitid(
    task: &Task,
    kind: i32,
    id: i32,
    info: UserPtr<[u8; 128]>,
    options: u32,
    usage: UserPtr<Rusage>,
) -> Result<usize> {
    let known = WNOHANG | WUNTRACED | WEXITED | WCONTINUED | WNOWAIT | WNOTHREAD | WALL | WCLONE;
    if options & !known != 0 || options & (WEXITED | WUNTRACED | WCONTINUED) == 0 {
        return Err(Errno::EINVAL);
    }
    let which = match (kind, id) {
        (0, _) => Which::Any,
        (1, 1..) => Which::Process(id),
        (2, 0) => Which::Group(task.process().group()),
        (2, 1..) => Which::Group(id),
        (3, _) => Which::Process(crate::pidfd::process_of(task, id)?.pid()),
        _ => return Err(Errno::EINVAL),
    };
    let change = wait(task, which, options)?;
    let told = change.as_ref().map_or([0; 128], |change| change.info.to_bytes());
    info.write_if_wanted(&told)?;
    if let Some(change) = &change {
        usage.write_if_wanted(&resource::usage_of_ended(&change.child))?;
    }
    Ok(0)
}
