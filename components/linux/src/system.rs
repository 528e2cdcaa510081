//! System calls: the machine and the system as a whole (uname, sysinfo, getrandom, reboot, ...).

use alloc::vec::Vec;

use rumpkern::{Errno, Result};
use rumpuser::{
    Halt, rumpuser_clock_monotonic, rumpuser_getrandom, rumpuser_interrupted, rumpuser_memory_statistics,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    rc, registry,
    task::Task,
    user::{self, UserPtr},
    uts,
};

const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_BOOT: u32 = 22;
/// Bytes in a field of `struct utsname`, its NUL included.
const NAME: usize = 65;

fn padded(text: &[u8]) -> [u8; NAME] {
    let mut field = [0; NAME];
    let length = text.len().min(NAME - 1);
    field[..length].copy_from_slice(&text[..length]);
    field
}

/// uname(2).
pub fn uname(_task: &Task, result: UserPtr<[[u8; NAME]; 6]>) -> Result<usize> {
    let fields = [
        padded(uts::SYSTEM.as_bytes()),
        padded(&uts::host_name()),
        padded(uts::RELEASE.as_bytes()),
        padded(uts::VERSION.as_bytes()),
        padded(uts::MACHINE.as_bytes()),
        padded(&uts::domain_name()),
    ];
    result.write(&fields)?;
    Ok(0)
}

/// The name that sethostname or setdomainname gives.
fn new_name(task: &Task, address: usize, length: i32) -> Result<Vec<u8>> {
    if !task.credentials().capable(CAP_SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let length = usize::try_from(length).ok().filter(|&length| length < NAME).ok_or(Errno::EINVAL)?;
    UserPtr::<u8>::new(address).read_array(length)
}

/// sethostname(2).
pub fn sethostname(task: &Task, name: usize, length: i32) -> Result<usize> {
    uts::set_host_name(&new_name(task, name, length)?).map(|()| 0)
}

/// setdomainname(2).
pub fn setdomainname(task: &Task, name: usize, length: i32) -> Result<usize> {
    uts::set_domain_name(&new_name(task, name, length)?).map(|()| 0)
}

/// `struct sysinfo`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct SysInfo {
    uptime: i64,
    loads: [u64; 3],
    total_memory: u64,
    free_memory: u64,
    shared_memory: u64,
    buffers: u64,
    total_swap: u64,
    free_swap: u64,
    processes: u16,
    padding: u16,
    padding2: u32,
    total_high: u64,
    free_high: u64,
    unit: u32,
    padding3: u32,
}

/// sysinfo(2).
pub fn sysinfo(_task: &Task, result: UserPtr<SysInfo>) -> Result<usize> {
    let memory = rumpuser_memory_statistics();
    let info = SysInfo {
        uptime: (rumpuser_clock_monotonic() / 1_000_000_000) as i64,
        total_memory: memory.total,
        free_memory: memory.free,
        processes: u16::try_from(registry::task_count()).unwrap_or(u16::MAX),
        unit: 1,
        ..Default::default()
    };
    result.write(&info)?;
    Ok(0)
}

/// getrandom(2).
pub fn getrandom(_task: &Task, buffer: usize, length: usize, flags: u32) -> Result<usize> {
    const NONBLOCK_RANDOM_INSECURE: u32 = 7;
    const RANDOM_INSECURE: u32 = 6;
    const CHUNK: usize = 256;
    if flags & !NONBLOCK_RANDOM_INSECURE != 0 || flags & RANDOM_INSECURE == RANDOM_INSECURE {
        return Err(Errno::EINVAL);
    }
    let length = length.min(i32::MAX as usize);
    let mut bytes = [0; CHUNK];
    let mut done = 0;
    while done < length {
        let chunk = &mut bytes[..CHUNK.min(length - done)];
        rumpuser_getrandom(chunk);
        if let Err(error) = user::write_bytes(buffer.wrapping_add(done), chunk) {
            return if done == 0 { Err(error) } else { Ok(done) };
        }
        done += chunk.len();
        if done > CHUNK && rumpuser_interrupted() {
            break;
        }
    }
    Ok(done)
}

/// syslog(2): the kernel's log is the console, nothing is kept.
pub fn syslog(task: &Task, action: i32, _buffer: usize, length: i32) -> Result<usize> {
    const READ_ALL: i32 = 3;
    const READ_CLEAR: i32 = 4;
    const SIZE_UNREAD: i32 = 9;
    const SIZE_BUFFER: i32 = 10;
    if !(0..=SIZE_BUFFER).contains(&action) || matches!(action, 2..=READ_CLEAR) && length < 0 {
        return Err(Errno::EINVAL);
    }
    if action != READ_ALL
        && action != SIZE_UNREAD
        && action != SIZE_BUFFER
        && !task.credentials().capable(CAP_SYS_ADMIN)
    {
        return Err(Errno::EPERM);
    }
    Ok(if action == SIZE_BUFFER { 1 << 14 } else { 0 })
}

/// reboot(2).
pub fn reboot(task: &Task, magic: u32, magic2: u32, command: u32) -> Result<usize> {
    const MAGIC: u32 = 0xfee1_dead;
    const MAGIC2: [u32; 4] = [672_274_793, 85_072_278, 369_367_448, 537_993_216];
    if !task.credentials().capable(CAP_SYS_BOOT) {
        return Err(Errno::EPERM);
    }
    if magic != MAGIC || !MAGIC2.contains(&magic2) {
        return Err(Errno::EINVAL);
    }
    match command {
        // Power off, halt.
        0x4321_fedc | 0xcdef_0123 => rc::finish(Halt::PowerOff(0)),
        // Restart, with or without a command for the firmware.
        0x0123_4567 | 0xa1b2_c3d4 => rc::finish(Halt::Reboot),
        // Ctrl-Alt-Del on or off: there is no keyboard.
        0 | 0x89ab_cdef => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// personality(2): plain Linux, and nothing else.
pub fn personality(_task: &Task, persona: u32) -> Result<usize> {
    const QUERY: u32 = u32::MAX;
    /// ADDR_NO_RANDOMIZE and others that only ask for less.
    const HARMLESS: u32 = 0x0ff0_0000 & !0x0010_0000 | 0x0004_0000;
    if persona == QUERY || persona & !HARMLESS == 0 { Ok(0) } else { Err(Errno::EINVAL) }
}

/// vhangup(2).
pub fn vhangup(task: &Task) -> Result<usize> {
    const CAP_SYS_TTY_CONFIG: u32 = 26;
    if !task.credentials().capable(CAP_SYS_TTY_CONFIG) {
        return Err(Errno::EPERM);
    }
    crate::terminal::session_ends(task.process().session());
    Ok(0)
}

/// kcmp(2), as far as processes share things.
pub fn kcmp(task: &Task, first: i32, second: i32, kind: i32, index: u64, index2: u64) -> Result<usize> {
    use alloc::sync::Arc;
    let find = |pid: i32| registry::task(pid).ok_or(Errno::ESRCH);
    let (first, second) = (find(first)?, find(second)?);
    let place = |task: &Arc<Task>, index: u64| -> Result<usize> {
        Ok(match kind {
            0 => {
                let files = task.shared_files().ok_or(Errno::EBADF)?;
                Arc::as_ptr(&files.get(i32::try_from(index).map_err(|_| Errno::EBADF)?)?) as usize
            }
            1 => task.process().space_identity(),
            2 => task.shared_files().map_or(0, |files| Arc::as_ptr(&files) as usize),
            3 => task.shared_filesystem().map_or(0, |context| Arc::as_ptr(&context) as usize),
            4 => Arc::as_ptr(&task.process().actions()) as usize,
            5 => task.tid() as usize,
            6 => Arc::as_ptr(task) as usize,
            _ => return Err(Errno::EINVAL),
        })
    };
    let _ = task;
    let (first, second) = (place(&first, index)?, place(&second, index2)?);
    Ok(match first.cmp(&second) {
        core::cmp::Ordering::Equal => 0,
        core::cmp::Ordering::Less => 1,
        core::cmp::Ordering::Greater => 2,
    })
}

/// ptrace(2): nobody traces anybody.
pub fn ptrace(_task: &Task) -> Result<usize> {
    Err(Errno::EPERM)
}

/// Calls that programs try and do without, so that their absence is no news: rseq(2).
pub fn refused(_task: &Task) -> Result<usize> {
    Err(Errno::ENOSYS)
}

/// seccomp(2): filters are not supported.
pub fn seccomp(_task: &Task) -> Result<usize> {
    Err(Errno::EINVAL)
}

/// unshare(2): what threads share; there are no namespaces.
pub fn unshare(task: &Task, flags: u64) -> Result<usize> {
    use linux_raw_sys::general::{
        CLONE_FILES, CLONE_FS, CLONE_SIGHAND, CLONE_SYSVSEM, CLONE_THREAD, CLONE_VM,
    };
    let harmless = CLONE_FILES | CLONE_FS | CLONE_SYSVSEM | CLONE_SIGHAND | CLONE_THREAD | CLONE_VM;
    if flags & !u64::from(harmless) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & u64::from(CLONE_SIGHAND | CLONE_THREAD | CLONE_VM) != 0
        && task.process().tasks.lock().len() > 1
    {
        return Err(Errno::EINVAL);
    }
    if flags & u64::from(CLONE_FILES) != 0 {
        crate::files::unshare(task);
    }
    if flags & u64::from(CLONE_FS) != 0 {
        task.unshare_filesystem();
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysinfo_has_linux_s_size() {
        assert_eq!(size_of::<SysInfo>(), 112);
        assert_eq!(core::mem::offset_of!(SysInfo, processes), 80);
        assert_eq!(core::mem::offset_of!(SysInfo, unit), 104);
    }
}
