//! System calls: who a task is (getpid, getuid, setuid and their kin, capabilities).

use core::sync::atomic::Ordering;

use rumpkern::{Errno, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    credentials::{ALL_CAPABILITIES, Credentials},
    task::Task,
    user::UserPtr,
};

const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
/// "Leave it as it is", as an identifier.
const KEEP: u32 = u32::MAX;
/// Supplementary groups, at most (NGROUPS_MAX).
const GROUPS_MAX: i32 = 65_536;

/// getpid(2).
pub fn getpid(task: &Task) -> Result<usize> {
    Ok(task.process().pid() as usize)
}

/// gettid(2).
pub fn gettid(task: &Task) -> Result<usize> {
    Ok(task.tid() as usize)
}

/// getppid(2).
pub fn getppid(task: &Task) -> Result<usize> {
    Ok(task.process().parent_pid() as usize)
}

/// getuid(2).
pub fn getuid(task: &Task) -> Result<usize> {
    Ok(task.credentials().uid as usize)
}

/// geteuid(2).
pub fn geteuid(task: &Task) -> Result<usize> {
    Ok(task.credentials().euid as usize)
}

/// getgid(2).
pub fn getgid(task: &Task) -> Result<usize> {
    Ok(task.credentials().gid as usize)
}

/// getegid(2).
pub fn getegid(task: &Task) -> Result<usize> {
    Ok(task.credentials().egid as usize)
}

/// getresuid(2).
pub fn getresuid(
    task: &Task,
    real: UserPtr<u32>,
    effective: UserPtr<u32>,
    saved: UserPtr<u32>,
) -> Result<usize> {
    let credentials = task.shared_credentials();
    real.write(&credentials.uid)?;
    effective.write(&credentials.euid)?;
    saved.write(&credentials.suid)?;
    Ok(0)
}

/// getresgid(2).
pub fn getresgid(
    task: &Task,
    real: UserPtr<u32>,
    effective: UserPtr<u32>,
    saved: UserPtr<u32>,
) -> Result<usize> {
    let credentials = task.shared_credentials();
    real.write(&credentials.gid)?;
    effective.write(&credentials.egid)?;
    saved.write(&credentials.sgid)?;
    Ok(0)
}

/// Publishes changed credentials: capabilities follow the user identifiers, as capabilities(7) says.
fn commit(task: &Task, mut new: Credentials) {
    let old = task.shared_credentials();
    let had_root = [old.uid, old.euid, old.suid].contains(&0);
    let has_root = [new.uid, new.euid, new.suid].contains(&0);
    if had_root && !has_root && !task.keep_capabilities.load(Ordering::Relaxed) {
        new.permitted = 0;
        new.effective = 0;
        new.ambient = 0;
    }
    if old.euid == 0 && new.euid != 0 {
        new.effective = 0;
    } else if old.euid != 0 && new.euid == 0 {
        new.effective = new.permitted;
    }
    task.process().uid.store(new.uid, Ordering::Relaxed);
    task.publish_credentials(new);
}

fn wanted(new: u32, old: u32) -> u32 {
    if new == KEEP { old } else { new }
}

/// setuid(2).
pub fn setuid(task: &Task, uid: u32) -> Result<usize> {
    let mut new = Credentials::clone(task.credentials());
    if uid == KEEP {
        return Err(Errno::EINVAL);
    }
    if new.capable(CAP_SETUID) {
        (new.uid, new.suid) = (uid, uid);
    } else if uid != new.uid && uid != new.suid {
        return Err(Errno::EPERM);
    }
    (new.euid, new.fsuid) = (uid, uid);
    commit(task, new);
    Ok(0)
}

/// setgid(2).
pub fn setgid(task: &Task, gid: u32) -> Result<usize> {
    let mut new = Credentials::clone(task.credentials());
    if gid == KEEP {
        return Err(Errno::EINVAL);
    }
    if new.capable(CAP_SETGID) {
        (new.gid, new.sgid) = (gid, gid);
    } else if gid != new.gid && gid != new.sgid {
        return Err(Errno::EPERM);
    }
    (new.egid, new.fsgid) = (gid, gid);
    commit(task, new);
    Ok(0)
}

/// setreuid(2).
pub fn setreuid(task: &Task, real: u32, effective: u32) -> Result<usize> {
    let old = task.shared_credentials();
    let privileged = old.capable(CAP_SETUID);
    let may_real = real == KEEP || [old.uid, old.euid].contains(&real);
    let may_effective = effective == KEEP || [old.uid, old.euid, old.suid].contains(&effective);
    if !(privileged || may_real && may_effective) {
        return Err(Errno::EPERM);
    }
    let mut new = Credentials::clone(&old);
    new.uid = wanted(real, old.uid);
    new.euid = wanted(effective, old.euid);
    if real != KEEP || effective != KEEP && effective != old.uid {
        new.suid = new.euid;
    }
    new.fsuid = new.euid;
    commit(task, new);
    Ok(0)
}

/// setregid(2).
pub fn setregid(task: &Task, real: u32, effective: u32) -> Result<usize> {
    let old = task.shared_credentials();
    let privileged = old.capable(CAP_SETGID);
    let may_real = real == KEEP || [old.gid, old.egid].contains(&real);
    let may_effective = effective == KEEP || [old.gid, old.egid, old.sgid].contains(&effective);
    if !(privileged || may_real && may_effective) {
        return Err(Errno::EPERM);
    }
    let mut new = Credentials::clone(&old);
    new.gid = wanted(real, old.gid);
    new.egid = wanted(effective, old.egid);
    if real != KEEP || effective != KEEP && effective != old.gid {
        new.sgid = new.egid;
    }
    new.fsgid = new.egid;
    commit(task, new);
    Ok(0)
}

/// setresuid(2).
pub fn setresuid(task: &Task, real: u32, effective: u32, saved: u32) -> Result<usize> {
    let old = task.shared_credentials();
    let own = [old.uid, old.euid, old.suid, KEEP];
    if !old.capable(CAP_SETUID) && ![real, effective, saved].iter().all(|id| own.contains(id)) {
        return Err(Errno::EPERM);
    }
    let mut new = Credentials::clone(&old);
    new.uid = wanted(real, old.uid);
    new.euid = wanted(effective, old.euid);
    new.suid = wanted(saved, old.suid);
    new.fsuid = new.euid;
    commit(task, new);
    Ok(0)
}

/// setresgid(2).
pub fn setresgid(task: &Task, real: u32, effective: u32, saved: u32) -> Result<usize> {
    let old = task.shared_credentials();
    let own = [old.gid, old.egid, old.sgid, KEEP];
    if !old.capable(CAP_SETGID) && ![real, effective, saved].iter().all(|id| own.contains(id)) {
        return Err(Errno::EPERM);
    }
    let mut new = Credentials::clone(&old);
    new.gid = wanted(real, old.gid);
    new.egid = wanted(effective, old.egid);
    new.sgid = wanted(saved, old.sgid);
    new.fsgid = new.egid;
    commit(task, new);
    Ok(0)
}

/// setfsuid(2): returns the old one, whether it worked or not.
pub fn setfsuid(task: &Task, uid: u32) -> Result<usize> {
    let old = task.shared_credentials();
    if old.capable(CAP_SETUID) && uid != KEEP || [old.uid, old.euid, old.suid].contains(&uid) {
        commit(task, Credentials { fsuid: uid, ..Credentials::clone(&old) });
    }
    Ok(old.fsuid as usize)
}

/// setfsgid(2): returns the old one, whether it worked or not.
pub fn setfsgid(task: &Task, gid: u32) -> Result<usize> {
    let old = task.shared_credentials();
    if old.capable(CAP_SETGID) && gid != KEEP || [old.gid, old.egid, old.sgid].contains(&gid) {
        commit(task, Credentials { fsgid: gid, ..Credentials::clone(&old) });
    }
    Ok(old.fsgid as usize)
}

/// getgroups(2).
pub fn getgroups(task: &Task, size: i32, list: UserPtr<u32>) -> Result<usize> {
    let credentials = task.shared_credentials();
    let count = credentials.groups.len();
    if size < 0 || size > 0 && (size as usize) < count {
        return Err(Errno::EINVAL);
    }
    if size > 0 {
        list.write_array(&credentials.groups)?;
    }
    Ok(count)
}

/// setgroups(2).
pub fn setgroups(task: &Task, size: i32, list: UserPtr<u32>) -> Result<usize> {
    let old = task.shared_credentials();
    if !old.capable(CAP_SETGID) {
        return Err(Errno::EPERM);
    }
    if !(0..=GROUPS_MAX).contains(&size) {
        return Err(Errno::EINVAL);
    }
    let mut groups = list.read_array(size as usize)?;
    groups.sort_unstable();
    commit(task, Credentials { groups, ..Credentials::clone(&old) });
    Ok(0)
}

/// `struct __user_cap_header_struct`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct CapabilityHeader {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`: effective, permitted, inheritable; the upper halves follow in a second one.
type CapabilityData = [[u32; 3]; 2];

const CAPABILITY_VERSIONS: [u32; 3] = [0x1998_0330, 0x2007_1026, 0x2008_0522];

/// How many data structures follow, for the version that a header names; an unknown one is answered with ours.
fn capability_count(header: UserPtr<CapabilityHeader>) -> Result<(CapabilityHeader, usize)> {
    let mut parsed = header.read()?;
    if let Some(index) = CAPABILITY_VERSIONS.iter().position(|&version| version == parsed.version) {
        return Ok((parsed, if index == 0 { 1 } else { 2 }));
    }
    parsed.version = CAPABILITY_VERSIONS[2];
    header.write(&parsed)?;
    Err(Errno::EINVAL)
}

/// capget(2).
pub fn capget(task: &Task, header: UserPtr<CapabilityHeader>, data: UserPtr<[u32; 3]>) -> Result<usize> {
    let (header, count) = match capability_count(header) {
        // A null pointer asks for the version alone.
        Err(Errno::EINVAL) if data.is_null() => return Ok(0),
        other => other?,
    };
    if header.pid < 0 {
        return Err(Errno::EINVAL);
    }
    let credentials = match header.pid {
        0 => task.shared_credentials(),
        pid => crate::registry::task(pid).ok_or(Errno::ESRCH)?.shared_credentials(),
    };
    let sets = [credentials.effective, credentials.permitted, credentials.inheritable];
    let halves: CapabilityData = [sets.map(|set| set as u32), sets.map(|set| (set >> 32) as u32)];
    if !data.is_null() {
        data.write_array(&halves[..count])?;
    }
    Ok(0)
}

/// capset(2).
pub fn capset(task: &Task, header: UserPtr<CapabilityHeader>, data: UserPtr<[u32; 3]>) -> Result<usize> {
    let (header, count) = capability_count(header)?;
    if header.pid != 0 && header.pid != task.tid() {
        return Err(Errno::EPERM);
    }
    let halves = data.read_array(count)?;
    let set = |index: usize| {
        let low = halves.first().map_or(0, |half| half[index]);
        let high = halves.get(1).map_or(0, |half| half[index]);
        (u64::from(low) | u64::from(high) << 32) & ALL_CAPABILITIES
    };
    let (effective, permitted, inheritable) = (set(0), set(1), set(2));
    let mut new = Credentials::clone(task.credentials());
    if permitted & !new.permitted != 0 || effective & !permitted != 0 {
        return Err(Errno::EPERM);
    }
    new.ambient &= permitted & inheritable;
    (new.effective, new.permitted, new.inheritable) = (effective, permitted, inheritable);
    task.publish_credentials(new);
    Ok(0)
}
