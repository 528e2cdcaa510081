//! Extended attributes (xattr(7)).

use alloc::vec::Vec;

use rumpkern::{Errno, Result};
use rumpvfs::{access::Credentials, mount::Location};

use crate::{
    task::Task,
    user::{buffer, read_bytes, read_path, read_string, write_bytes},
};

use super::{
    context::{Names, credentials},
    open::place,
};

const NAME_MAX: usize = 256;
const SIZE_MAX: usize = 65536;

/// What a call acts on, and the caller.
struct Target {
    location: Location,
    credentials: Credentials,
}

fn by_path(task: &Task, path: usize, follow: bool) -> Result<Target> {
    let path = read_path(path)?;
    let names = Names::new(task)?;
    let location = names.lookup().resolve(&path, follow)?;
    Ok(Target { location, credentials: names.credentials().clone() })
}

fn by_descriptor(task: &Task, descriptor: i32) -> Result<Target> {
    let file = task.files().get_io(descriptor)?;
    Ok(Target { location: place(&file)?, credentials: credentials(task) })
}

fn name(address: usize) -> Result<Vec<u8>> {
    let name = read_string(address, NAME_MAX, Errno::ERANGE)?;
    if name.is_empty() { Err(Errno::ERANGE) } else { Ok(name) }
}

/// Gives a value to the program; a size of 0 asks for the length.
fn give(value: &[u8], to: usize, size: usize) -> Result<usize> {
    if size == 0 {
        return Ok(value.len());
    }
    if value.len() > size {
        return Err(Errno::ERANGE);
    }
    write_bytes(to, value)?;
    Ok(value.len())
}

fn set(target: &Target, attribute: usize, from: usize, size: usize, flags: u32) -> Result<usize> {
    const CREATE: u32 = 1;
    const REPLACE: u32 = 2;
    if flags & !(CREATE | REPLACE) != 0 {
        return Err(Errno::EINVAL);
    }
    let name = name(attribute)?;
    if size > SIZE_MAX {
        return Err(Errno::E2BIG);
    }
    let mut value = buffer(size)?;
    read_bytes(from, &mut value)?;
    let (create, replace) = (flags & CREATE != 0, flags & REPLACE != 0);
    target.location.set_xattr(&target.credentials, &name, &value, create, replace)?;
    Ok(0)
}

fn get(target: &Target, attribute: usize, to: usize, size: usize) -> Result<usize> {
    let value = target.location.get_xattr(&target.credentials, &name(attribute)?)?;
    give(&value, to, size)
}

fn list(target: &Target, to: usize, size: usize) -> Result<usize> {
    let mut names = Vec::new();
    for name in target.location.list_xattrs(&target.credentials)? {
        names.extend_from_slice(&name);
        names.push(0);
    }
    give(&names, to, size)
}

fn remove(target: &Target, attribute: usize) -> Result<usize> {
    target.location.remove_xattr(&target.credentials, &name(attribute)?)?;
    Ok(0)
}

/// setxattr(2).
pub fn setxattr(
    task: &Task,
    path: usize,
    name: usize,
    from: usize,
    size: usize,
    flags: u32,
) -> Result<usize> {
    set(&by_path(task, path, true)?, name, from, size, flags)
}

/// lsetxattr(2).
pub fn lsetxattr(
    task: &Task,
    path: usize,
    name: usize,
    from: usize,
    size: usize,
    flags: u32,
) -> Result<usize> {
    set(&by_path(task, path, false)?, name, from, size, flags)
}

/// fsetxattr(2).
pub fn fsetxattr(task: &Task, file: i32, name: usize, from: usize, size: usize, flags: u32) -> Result<usize> {
    set(&by_descriptor(task, file)?, name, from, size, flags)
}

/// getxattr(2).
pub fn getxattr(task: &Task, path: usize, name: usize, to: usize, size: usize) -> Result<usize> {
    get(&by_path(task, path, true)?, name, to, size)
}

/// lgetxattr(2).
pub fn lgetxattr(task: &Task, path: usize, name: usize, to: usize, size: usize) -> Result<usize> {
    get(&by_path(task, path, false)?, name, to, size)
}

/// fgetxattr(2).
pub fn fgetxattr(task: &Task, file: i32, name: usize, to: usize, size: usize) -> Result<usize> {
    get(&by_descriptor(task, file)?, name, to, size)
}

/// listxattr(2).
pub fn listxattr(task: &Task, path: usize, to: usize, size: usize) -> Result<usize> {
    list(&by_path(task, path, true)?, to, size)
}

/// llistxattr(2).
pub fn llistxattr(task: &Task, path: usize, to: usize, size: usize) -> Result<usize> {
    list(&by_path(task, path, false)?, to, size)
}

/// flistxattr(2).
pub fn flistxattr(task: &Task, file: i32, to: usize, size: usize) -> Result<usize> {
    list(&by_descriptor(task, file)?, to, size)
}

/// removexattr(2).
pub fn removexattr(task: &Task, path: usize, name: usize) -> Result<usize> {
    remove(&by_path(task, path, true)?, name)
}

/// lremovexattr(2).
pub fn lremovexattr(task: &Task, path: usize, name: usize) -> Result<usize> {
    remove(&by_path(task, path, false)?, name)
}

/// fremovexattr(2).
pub fn fremovexattr(task: &Task, file: i32, name: usize) -> Result<usize> {
    remove(&by_descriptor(task, file)?, name)
}
