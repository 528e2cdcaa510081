//! mount(2), umount2(2), and the file systems that can be mounted by name.

use alloc::{collections::BTreeMap, string::String, sync::Arc, vec::Vec};

use rumpkern::{Errno, Result};
use rumpuser::sync::Mutex;
use rumpvfs::{
    mount::{MountFlags, MountOptions},
    tmpfs::{Limits, TmpFs},
    vnode::FileSystem,
};

use crate::{
    procfs, sysfs,
    task::Task,
    user::{read_path, read_string},
};

use super::context::Names;

/// Makes a file system from the source and the options of mount(2).
pub type Maker = fn(source: &[u8], options: &str) -> Result<Arc<dyn FileSystem>>;

static MAKERS: Mutex<BTreeMap<&'static str, Maker>> = Mutex::new(BTreeMap::new());

/// Makes a type of file system known to mount(2), beside those that are always there.
pub fn register(name: &'static str, maker: Maker) {
    MAKERS.lock().insert(name, maker);
}

/// The types that were made known.
pub fn names() -> Vec<&'static str> {
    MAKERS.lock().keys().copied().collect()
}

/// Makes a file system of a type by its name. ENODEV if there is no such type.
pub fn make(kind: &str, source: &[u8], options: &str) -> Result<Arc<dyn FileSystem>> {
    match kind {
        "tmpfs" | "ramfs" => make_tmpfs(options),
        "devpts" => Ok(rumpdev::tty::devpts()),
        "proc" => Ok(procfs::new()),
        "sysfs" => Ok(sysfs::new()),
        "devtmpfs" => {
            let file_system = TmpFs::new(Limits::default(), 0o755)?;
            rumpdev::nodes::populate(&file_system.root())?;
            Ok(file_system)
        }
        _ => {
            let maker = MAKERS.lock().get(kind).copied().ok_or(Errno::ENODEV)?;
            maker(source, options)
        }
    }
}

/// A number with a suffix as mount(8) takes it.
fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_shl(shift)
}

fn make_tmpfs(options: &str) -> Result<Arc<dyn FileSystem>> {
    let mut limits = Limits::default();
    let mut permissions = 0o1777;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name {
            // A share of the memory is taken as the default share.
            "size" if value.ends_with('%') => {}
            "size" => limits.bytes = size(value).ok_or(Errno::EINVAL)?,
            "nr_inodes" => limits.files = size(value).ok_or(Errno::EINVAL)?,
            "mode" => permissions = u32::from_str_radix(value, 8).map_err(|_| Errno::EINVAL)? & 0o7777,
            _ => {}
        }
    }
    Ok(TmpFs::new(limits, permissions)?)
}

const MS_REMOUNT: u64 = 32;
const MS_BIND: u64 = 4096;
const MS_MOVE: u64 = 8192;
/// MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED.
const MS_PROPAGATION: u64 = 0xf << 17;
const CAP_SYS_ADMIN: u32 = 21;

fn optional_string(address: usize) -> Result<Vec<u8>> {
    if address == 0 { Ok(Vec::new()) } else { read_string(address, 4096, Errno::EINVAL) }
}

/// mount(2).
pub fn mount(
    task: &Task,
    source: usize,
    target: usize,
    kind: usize,
    flags: u64,
    data: usize,
) -> Result<usize> {
    let kind = optional_string(kind)?;
    let source = if source == 0 { Vec::new() } else { read_path(source)? };
    let options = optional_string(data)?;
    let target = read_path(target)?;
    if !task.credentials().capable(CAP_SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let names = Names::new(task)?;
    let point = names.lookup().resolve(&target, true)?;
    let mount_flags = MountFlags::from_bits_truncate(flags as u32);
    if flags & MS_REMOUNT != 0 {
        if !point.is_mount_root() {
            return Err(Errno::EINVAL);
        }
        point.mount.set_flags(mount_flags);
        return Ok(0);
    }
    if flags & MS_BIND != 0 {
        let source = names.lookup().resolve(&source, true)?;
        let mounted = point.bind(&source)?;
        mounted.mount.set_flags(source.mount.flags() | mount_flags);
        return Ok(0);
    }
    if flags & MS_PROPAGATION != 0 {
        // One mount name space: nothing propagates anywhere.
        return if point.is_mount_root() { Ok(0) } else { Err(Errno::EINVAL) };
    }
    if flags & MS_MOVE != 0 {
        return Err(Errno::EINVAL);
    }
    let kind = core::str::from_utf8(&kind).map_err(|_| Errno::ENODEV)?;
    let options = String::from_utf8_lossy(&options).into_owned();
    let file_system = make(kind, &source, &options)?;
    point.mount(file_system, MountOptions { source, flags: mount_flags, options })?;
    Ok(0)
}

/// umount2(2).
pub fn umount2(task: &Task, target: usize, flags: u32) -> Result<usize> {
    const FORCE: u32 = 1;
    const DETACH: u32 = 2;
    const EXPIRE: u32 = 4;
    const NO_FOLLOW: u32 = 8;
    if flags & !(FORCE | DETACH | EXPIRE | NO_FOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & EXPIRE != 0 && flags & (FORCE | DETACH) != 0 {
        return Err(Errno::EINVAL);
    }
    if !task.credentials().capable(CAP_SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let path = read_path(target)?;
    let names = Names::new(task)?;
    let location = names.lookup().resolve(&path, flags & NO_FOLLOW == 0)?;
    if flags & EXPIRE != 0 {
        return Err(Errno::EAGAIN);
    }
    drop(names);
    location.unmount(flags & DETACH != 0)?;
    Ok(0)
}
