//! fcntl(2).

use alloc::sync::Arc;

use rumpkern::{Errno, Result};
use rumpvfs::{file::OpenFlags, pipe::PipeEnd};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{limits::Resource, task::Task, user::UserPtr};

use super::{
    locks::{self, Flock},
    open_file::OpenFile,
    signal_io::{OWNER_GROUP, OWNER_PROCESS, OWNER_TASK},
};

const F_DUPFD: i32 = 0;
const F_GETFD: i32 = 1;
const F_SETFD: i32 = 2;
const F_GETFL: i32 = 3;
const F_SETFL: i32 = 4;
const F_GETLK: i32 = 5;
const F_SETLK: i32 = 6;
const F_SETLKW: i32 = 7;
const F_SETOWN: i32 = 8;
const F_GETOWN: i32 = 9;
const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;
const F_OFD_GETLK: i32 = 36;
const F_OFD_SETLK: i32 = 37;
const F_OFD_SETLKW: i32 = 38;
const F_SETLEASE: i32 = 1024;
const F_GETLEASE: i32 = 1025;
const F_DUPFD_QUERY: i32 = 1027;
const F_DUPFD_CLOEXEC: i32 = 1030;
const F_SETPIPE_SZ: i32 = 1031;
const F_GETPIPE_SZ: i32 = 1032;
const F_ADD_SEALS: i32 = 1033;
const F_GET_SEALS: i32 = 1034;
const F_GET_RW_HINT: i32 = 1035;
const F_SET_FILE_RW_HINT: i32 = 1038;

const FD_CLOEXEC: usize = 1;
const F_UNLCK: usize = 2;
const CAP_SYS_RESOURCE: u32 = 24;

/// `struct f_owner_ex`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct OwnerEx {
    kind: i32,
    id: i32,
}

fn duplicate(task: &Task, file: Arc<OpenFile>, from: usize, close_on_exec: bool) -> Result<usize> {
    let limit = task.process().limit(Resource::OpenFiles);
    if from as u64 >= limit {
        return Err(Errno::EINVAL);
    }
    Ok(task.files().insert(file, from, limit, close_on_exec)? as usize)
}

/// fcntl(2).
pub fn fcntl(task: &Task, descriptor: i32, command: i32, argument: usize) -> Result<usize> {
    let file = task.files().get(descriptor)?;
    match command {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            return duplicate(task, file, argument as u32 as usize, command == F_DUPFD_CLOEXEC);
        }
        F_GETFD => return Ok(usize::from(task.files().close_on_exec_of(descriptor)?)),
        F_SETFD => {
            task.files().set_close_on_exec(descriptor, argument & FD_CLOEXEC != 0)?;
            return Ok(0);
        }
        F_GETFL => return Ok(file.flags().bits() as usize),
        F_DUPFD_QUERY => {
            let other = task.files().get(argument as i32)?;
            return Ok(usize::from(Arc::ptr_eq(&file, &other)));
        }
        _ if file.is_path() => return Err(Errno::EBADF),
        _ => {}
    }
    match command {
        F_SETFL => {
            let flags = OpenFlags::from_bits_truncate(argument as u32);
            file.set_flags(flags);
            file.signals.set_flags(&**file.file(), flags, descriptor);
            Ok(0)
        }
        F_GETLK | F_OFD_GETLK => {
            let flock = UserPtr::<Flock>::new(argument);
            let answer = locks::get(task, &file, flock.read()?, command == F_OFD_GETLK)?;
            flock.write(&answer).map(|()| 0)
        }
        F_SETLK | F_SETLKW | F_OFD_SETLK | F_OFD_SETLKW => {
            let flock = UserPtr::<Flock>::new(argument).read()?;
            let by_description = matches!(command, F_OFD_SETLK | F_OFD_SETLKW);
            let wait = matches!(command, F_SETLKW | F_OFD_SETLKW);
            locks::set(task, &file, flock, by_description, wait).map(|()| 0)
        }
        F_SETOWN => set_owner(task, &file, argument as i32).map(|()| 0),
        F_GETOWN => Ok(owner_number(&file) as isize as usize),
        F_SETOWN_EX => {
            let owner = UserPtr::<OwnerEx>::new(argument).read()?;
            if !(OWNER_TASK..=OWNER_GROUP).contains(&owner.kind) {
                return Err(Errno::EINVAL);
            }
            set_owner_of(task, &file, owner.kind, owner.id).map(|()| 0)
        }
        F_GETOWN_EX => {
            let owner = file.signals.owner();
            UserPtr::new(argument).write(&OwnerEx { kind: owner.kind, id: owner.id }).map(|()| 0)
        }
        F_SETSIG => {
            let signal = i32::try_from(argument).ok().filter(|signal| (0..=64).contains(signal));
            let signal = signal.ok_or(Errno::EINVAL)?;
            file.signals.set_owner(&**file.file(), |current| current.signal = signal);
            Ok(0)
        }
        F_GETSIG => Ok(file.signals.owner().signal as usize),
        F_GETLEASE => Ok(F_UNLCK),
        F_SETLEASE if argument == F_UNLCK => Err(Errno::EAGAIN),
        F_SETPIPE_SZ => {
            let end = file.downcast::<PipeEnd>().ok_or(Errno::EBADF)?;
            let bytes = argument as u32 as usize;
            end.pipe().set_capacity(bytes, task.credentials().capable(CAP_SYS_RESOURCE))
        }
        F_GETPIPE_SZ => Ok(file.downcast::<PipeEnd>().ok_or(Errno::EBADF)?.pipe().capacity()),
        F_GET_SEALS => Ok(file.vnode().ok_or(Errno::EINVAL)?.seals()? as usize),
        F_ADD_SEALS => {
            let vnode = file.vnode().ok_or(Errno::EINVAL)?;
            if !file.flags().writable() {
                return Err(Errno::EPERM);
            }
            vnode.add_seals(u32::try_from(argument).map_err(|_| Errno::EINVAL)?).map(|()| 0)
        }
        F_GET_RW_HINT..=F_SET_FILE_RW_HINT => rw_hint(command, argument),
        _ => Err(Errno::EINVAL),
    }
}

/// Lifetime hints are taken and forgotten: what is asked for later is "not set".
fn rw_hint(command: i32, argument: usize) -> Result<usize> {
    const LARGEST: u64 = 5;
    let pointer = UserPtr::<u64>::new(argument);
    let sets = (command - F_GET_RW_HINT) % 2 == 1;
    if !sets {
        return pointer.write(&0).map(|()| 0);
    }
    if pointer.read()? > LARGEST { Err(Errno::EINVAL) } else { Ok(0) }
}

fn check_exists(kind: i32, id: i32) -> Result<()> {
    use crate::registry;
    let exists = match kind {
        _ if id == 0 => true,
        OWNER_TASK => registry::task(id).is_some(),
        OWNER_PROCESS => registry::process(id).is_some(),
        _ => !registry::group(id).is_empty(),
    };
    if exists { Ok(()) } else { Err(Errno::ESRCH) }
}

/// The owner as F_SETOWN and the ioctls have it: a process, or minus a group.
pub(super) fn owner_number(file: &OpenFile) -> i32 {
    let owner = file.signals.owner();
    if owner.kind == OWNER_GROUP { owner.id.wrapping_neg() } else { owner.id }
}

/// See [`owner_number`].
pub(super) fn set_owner(task: &Task, file: &OpenFile, number: i32) -> Result<()> {
    if number >= 0 {
        return set_owner_of(task, file, OWNER_PROCESS, number);
    }
    set_owner_of(task, file, OWNER_GROUP, number.checked_neg().ok_or(Errno::EINVAL)?)
}

fn set_owner_of(task: &Task, file: &OpenFile, kind: i32, id: i32) -> Result<()> {
    check_exists(kind, id)?;
    let credentials = task.credentials();
    let set_by = (credentials.uid, credentials.euid);
    file.signals.set_owner(&**file.file(), |owner| {
        (owner.kind, owner.id, owner.set_by) = (kind, id, set_by);
    });
    Ok(())
}
