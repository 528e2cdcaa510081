//! System calls: prctl, arch_prctl.

use core::sync::atomic::Ordering;

use rumpkern::{Errno, Result};
use rumpuser::memory::USER_END;

use crate::{
    credentials::ALL_CAPABILITIES,
    signal::number::SIGRTMAX,
    task::{NAME_LENGTH, Task},
    user::{self, UserPtr},
};

const CAP_SETPCAP: u32 = 8;
/// The last capability that Linux 6.1 knows.
const CAP_LAST: u64 = 40;

/// The operations, with linux/prctl.h's numbers.
mod operation {
    pub const SET_PDEATHSIG: i32 = 1;
    pub const GET_PDEATHSIG: i32 = 2;
    pub const GET_DUMPABLE: i32 = 3;
    pub const SET_DUMPABLE: i32 = 4;
    pub const GET_KEEPCAPS: i32 = 7;
    pub const SET_KEEPCAPS: i32 = 8;
    pub const GET_TIMING: i32 = 13;
    pub const SET_TIMING: i32 = 14;
    pub const SET_NAME: i32 = 15;
    pub const GET_NAME: i32 = 16;
    pub const GET_SECCOMP: i32 = 21;
    pub const CAPBSET_READ: i32 = 23;
    pub const CAPBSET_DROP: i32 = 24;
    pub const GET_TSC: i32 = 25;
    pub const SET_TSC: i32 = 26;
    pub const GET_SECUREBITS: i32 = 27;
    pub const SET_TIMERSLACK: i32 = 29;
    pub const GET_TIMERSLACK: i32 = 30;
    pub const SET_CHILD_SUBREAPER: i32 = 36;
    pub const GET_CHILD_SUBREAPER: i32 = 37;
    pub const SET_NO_NEW_PRIVS: i32 = 38;
    pub const GET_NO_NEW_PRIVS: i32 = 39;
    pub const GET_TID_ADDRESS: i32 = 40;
    pub const SET_THP_DISABLE: i32 = 41;
    pub const GET_THP_DISABLE: i32 = 42;
    pub const CAP_AMBIENT: i32 = 47;
    pub const SET_IO_FLUSHER: i32 = 57;
    pub const GET_IO_FLUSHER: i32 = 58;
    pub const SET_VMA: i32 = 0x5356_4d41;
    pub const SET_PTRACER: i32 = 0x5961_6d61;
}

/// prctl(2).
pub fn prctl(
    task: &Task,
    what: i32,
    argument: usize,
    second: usize,
    third: usize,
    fourth: usize,
) -> Result<usize> {
    use operation::*;
    let process = task.process();
    let as_flag = || match argument {
        0 | 1 => Ok(argument == 1),
        _ => Err(Errno::EINVAL),
    };
    match what {
        SET_PDEATHSIG => {
            let signal =
                u32::try_from(argument).ok().filter(|&signal| signal <= SIGRTMAX).ok_or(Errno::EINVAL)?;
            task.parent_death_signal.store(signal, Ordering::Relaxed);
        }
        GET_PDEATHSIG => {
            UserPtr::new(argument).write(&task.parent_death_signal.load(Ordering::Relaxed))?;
        }
        GET_DUMPABLE => return Ok(process.dumpable.load(Ordering::Relaxed) as usize),
        SET_DUMPABLE => process.dumpable.store(u32::from(as_flag()?), Ordering::Relaxed),
        GET_KEEPCAPS => return Ok(usize::from(task.keep_capabilities.load(Ordering::Relaxed))),
        SET_KEEPCAPS => task.keep_capabilities.store(as_flag()?, Ordering::Relaxed),
        GET_TIMING | GET_SECCOMP | GET_SECUREBITS | GET_IO_FLUSHER => return Ok(0),
        SET_TIMING | SET_IO_FLUSHER if argument != 0 => return Err(Errno::EINVAL),
        SET_TIMING | SET_IO_FLUSHER | SET_PTRACER => {}
        SET_NAME => {
            let mut name = [0; NAME_LENGTH];
            for (index, byte) in name[..NAME_LENGTH - 1].iter_mut().enumerate() {
                *byte = UserPtr::<u8>::new(argument.wrapping_add(index)).read()?;
                if *byte == 0 {
                    break;
                }
            }
            task.set_name(&name);
        }
        GET_NAME => user::write_bytes(argument, &task.name_bytes())?,
        CAPBSET_READ if argument as u64 > CAP_LAST => return Err(Errno::EINVAL),
        CAPBSET_READ => return Ok((task.credentials().bounding >> argument & 1) as usize),
        CAPBSET_DROP => {
            if !task.credentials().capable(CAP_SETPCAP) {
                return Err(Errno::EPERM);
            }
            if argument as u64 > CAP_LAST {
                return Err(Errno::EINVAL);
            }
            let mut credentials = task.credentials().clone();
            credentials.bounding &= !(1 << argument);
            task.publish_credentials(credentials);
        }
        // The time-stamp counter can be read.
        GET_TSC => UserPtr::new(argument).write(&1i32)?,
        SET_TSC if argument == 1 => {}
        SET_TSC => return Err(Errno::EINVAL),
        SET_TIMERSLACK => {
            let slack = if argument == 0 { 50_000 } else { argument as u64 };
            task.timer_slack.store(slack, Ordering::Relaxed);
        }
        GET_TIMERSLACK => return Ok(task.timer_slack.load(Ordering::Relaxed) as usize),
        SET_CHILD_SUBREAPER => process.subreaper.store(argument != 0, Ordering::Relaxed),
        GET_CHILD_SUBREAPER => {
            UserPtr::new(argument).write(&i32::from(process.subreaper.load(Ordering::Relaxed)))?;
        }
        SET_NO_NEW_PRIVS => {
            if argument != 1 || second != 0 || third != 0 || fourth != 0 {
                return Err(Errno::EINVAL);
            }
            task.no_new_privileges.store(true, Ordering::Relaxed);
        }
        GET_NO_NEW_PRIVS => return Ok(usize::from(task.no_new_privileges.load(Ordering::Relaxed))),
        GET_TID_ADDRESS => UserPtr::new(argument).write(&task.clear_child_tid.load(Ordering::Relaxed))?,
        SET_THP_DISABLE => process.huge_pages_disabled.store(argument != 0, Ordering::Relaxed),
        GET_THP_DISABLE => return Ok(usize::from(process.huge_pages_disabled.load(Ordering::Relaxed))),
        CAP_AMBIENT => return ambient(task, argument, second),
        // Names of anonymous memory are not kept, as in a Linux without CONFIG_ANON_VMA_NAME.
        SET_VMA => return Err(Errno::EINVAL),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

fn ambient(task: &Task, action: usize, capability: usize) -> Result<usize> {
    const IS_SET: usize = 1;
    const RAISE: usize = 2;
    const LOWER: usize = 3;
    const CLEAR_ALL: usize = 4;
    if action != CLEAR_ALL && capability as u64 > CAP_LAST {
        return Err(Errno::EINVAL);
    }
    let mut credentials = task.credentials().clone();
    let bit = if action == CLEAR_ALL { ALL_CAPABILITIES } else { 1 << capability };
    match action {
        IS_SET => return Ok(usize::from(credentials.ambient & bit != 0)),
        RAISE if credentials.permitted & credentials.inheritable & bit == 0 => return Err(Errno::EPERM),
        RAISE => credentials.ambient |= bit,
        LOWER | CLEAR_ALL => credentials.ambient &= !bit,
        _ => return Err(Errno::EINVAL),
    }
    task.publish_credentials(credentials);
    Ok(0)
}

/// arch_prctl(2).
pub fn arch_prctl(task: &Task, what: i32, argument: usize) -> Result<usize> {
    const SET_GS: i32 = 0x1001;
    const SET_FS: i32 = 0x1002;
    const GET_FS: i32 = 0x1003;
    const GET_GS: i32 = 0x1004;
    const GET_CPUID: i32 = 0x1011;
    match what {
        SET_FS | SET_GS if argument >= USER_END => return Err(Errno::EPERM),
        SET_FS => task.with_context(|context| context.registers.fs_base = argument as u64),
        SET_GS => task.with_context(|context| context.registers.gs_base = argument as u64),
        GET_FS => {
            let base = task.with_context(|context| context.registers.fs_base);
            UserPtr::new(argument).write(&base)?;
        }
        GET_GS => {
            let base = task.with_context(|context| context.registers.gs_base);
            UserPtr::new(argument).write(&base)?;
        }
        GET_CPUID => return Ok(1),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}
