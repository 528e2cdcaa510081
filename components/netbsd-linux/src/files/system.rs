//! The system calls for files, by descriptor and by a name in a directory's descriptor.

use alloc::vec::Vec;
use core::ffi::c_char;

use rumpkern::{Errno, Result};

use super::layout::{STATISTICS, Stat};
use crate::call::{BUFFER, Caller, address_of, address_of_mut, call, int, number};

/// `O_RDONLY`, `O_RDWR`, `O_NONBLOCK`, `O_NOFOLLOW`, `O_CREAT`, `O_EXCL`, `O_NOCTTY`, `O_DIRECTORY`.
pub const READ: i32 = 0;
pub const READ_WRITE: i32 = 2;
const NO_WAIT: i32 = 4;
const NO_FOLLOW: i32 = 0x100;
pub const CREATE: i32 = 0x200 | 0x800;
const NO_TERMINAL: i32 = 0x8000;
pub const DIRECTORY: i32 = 0x20_0000;
/// `AT_FDCWD`, `AT_SYMLINK_NOFOLLOW`, `AT_REMOVEDIR`.
pub const NOWHERE: i32 = -100;
const LINK_ITSELF: i32 = 0x200;
const REMOVE_DIRECTORY: i32 = 0x800;
/// The longest name.
const NAME_MOST: usize = 255;
/// `PATH_MAX`.
const PATH_MOST: usize = 1024;
/// `MNT_FORCE`.
const FORCE: i32 = 0x8_0000;

/// A name as C wants it.
#[derive(Clone)]
pub struct Name(Vec<u8>);

impl Name {
    /// ENAMETOOLONG; EINVAL if there is a zero in it.
    pub fn new(name: &[u8]) -> Result<Self> {
        Self::terminated(name, NAME_MOST)
    }

    /// A path, for instance the target of a symbolic link.
    pub fn path(path: &[u8]) -> Result<Self> {
        Self::terminated(path, PATH_MOST - 1)
    }

    fn terminated(name: &[u8], most: usize) -> Result<Self> {
        if name.len() > most {
            return Err(Errno::ENAMETOOLONG);
        }
        if name.contains(&0) {
            return Err(Errno::EINVAL);
        }
        let mut bytes = Vec::with_capacity(name.len() + 1);
        bytes.extend_from_slice(name);
        bytes.push(0);
        Ok(Name(bytes))
    }

    /// For functions of C.
    pub fn as_c(&self) -> *const c_char {
        self.0.as_ptr().cast()
    }

    fn address(&self) -> u64 {
        address_of(&self.0[..])
    }
}

/// openat(2), never following a symbolic link.
pub fn open(at: i32, name: &Name, flags: i32, mode: u32) -> Result<i32> {
    let flags = flags | NO_FOLLOW | NO_WAIT | NO_TERMINAL;
    call(number::OPENAT, &mut [int(at), name.address(), int(flags), u64::from(mode)])
        .map(|descriptor| descriptor as i32)
}

/// close(2).
pub fn close(descriptor: i32) {
    // What it says of earlier writes, whoever wants to know asks fsync.
    let _ = call(number::CLOSE, &mut [int(descriptor)]);
}

/// fstat(2).
pub fn stat(descriptor: i32) -> Result<Stat> {
    let mut stat = Stat::default();
    let place = address_of_mut(&mut stat);
    call(number::FSTAT, &mut [int(descriptor), place])?;
    Ok(stat)
}

/// fstatat(2) of what has the name itself.
pub fn stat_at(at: i32, name: &Name) -> Result<Stat> {
    let mut stat = Stat::default();
    let place = address_of_mut(&mut stat);
    call(number::FSTATAT, &mut [int(at), name.address(), place, int(LINK_ITSELF)])?;
    Ok(stat)
}

/// Of a file system: its first words, as [`super::layout::statistics`] takes them.
pub fn statistics(descriptor: i32) -> Result<[u8; STATISTICS]> {
    /// `ST_WAIT`.
    const WAIT: i32 = 1;
    let mut caller = Caller::borrow()?;
    let place = caller.buffer_address();
    caller.call(number::FSTATVFS1, &mut [int(descriptor), place, int(WAIT)])?;
    caller.buffer().first_chunk().copied().ok_or(Errno::EIO)
}

/// Reads at an offset into the caller's buffer, up to `length` bytes; returns how many.
pub fn read(caller: &mut Caller, descriptor: i32, length: usize, offset: u64) -> Result<usize> {
    transfer(caller, number::PREAD, descriptor, length, offset)
}

/// Writes from the caller's buffer.
pub fn write(caller: &mut Caller, descriptor: i32, length: usize, offset: u64) -> Result<usize> {
    transfer(caller, number::PWRITE, descriptor, length, offset)
}

fn transfer(caller: &mut Caller, number: i32, descriptor: i32, length: usize, offset: u64) -> Result<usize> {
    let length = length.min(BUFFER);
    let offset = i64::try_from(offset).map_err(|_| Errno::EFBIG)?;
    let place = caller.buffer_address();
    let done = caller.call(number, &mut [int(descriptor), place, length as u64, 0, offset as u64])?;
    usize::try_from(done).map(|done| done.min(length)).map_err(|_| Errno::EIO)
}

/// Reads a directory from its start; `each` gets its entries, as [`super::layout::entries`] takes them.
pub fn read_directory(descriptor: i32, mut each: impl FnMut(&[u8])) -> Result<()> {
    let mut caller = Caller::borrow()?;
    caller.call(number::LSEEK, &mut [int(descriptor), 0, 0, 0])?;
    loop {
        let place = caller.buffer_address();
        let length = caller.call(number::GETDENTS, &mut [int(descriptor), place, BUFFER as u64])?;
        match usize::try_from(length).unwrap_or(0).min(BUFFER) {
            0 => return Ok(()),
            length => each(&caller.buffer()[..length]),
        }
    }
}

/// readlinkat(2).
pub fn read_link(at: i32, name: &Name) -> Result<Vec<u8>> {
    let mut caller = Caller::borrow()?;
    let place = caller.buffer_address();
    let length = caller.call(number::READLINKAT, &mut [int(at), name.address(), place, PATH_MOST as u64])?;
    let length = usize::try_from(length).unwrap_or(0).min(PATH_MOST);
    Ok(caller.buffer()[..length].to_vec())
}

/// fsync(2).
pub fn sync(descriptor: i32) -> Result<()> {
    call(number::FSYNC, &mut [int(descriptor)]).map(|_| ())
}

/// ftruncate(2).
pub fn truncate(descriptor: i32, size: u64) -> Result<()> {
    let size = i64::try_from(size).map_err(|_| Errno::EFBIG)?;
    call(number::FTRUNCATE, &mut [int(descriptor), 0, size as u64]).map(|_| ())
}

/// Something with attributes: a descriptor, or a name.
pub enum Of<'a> {
    /// An open file.
    Descriptor(i32),
    /// What has a name in a directory.
    Name(i32, &'a Name),
}

impl Of<'_> {
    /// fchmod(2).
    pub fn set_permissions(&self, permissions: u32) -> Result<()> {
        let mode = u64::from(permissions);
        match *self {
            Of::Descriptor(descriptor) => call(number::FCHMOD, &mut [int(descriptor), mode]),
            Of::Name(at, name) => {
                call(number::FCHMODAT, &mut [int(at), name.address(), mode, int(LINK_ITSELF)])
            }
        }
        .map(|_| ())
    }

    /// fchown(2).
    pub fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let [uid, gid] = [uid, gid].map(|id| u64::from(id.unwrap_or(u32::MAX)));
        match *self {
            Of::Descriptor(descriptor) => call(number::FCHOWN, &mut [int(descriptor), uid, gid]),
            Of::Name(at, name) => {
                call(number::FCHOWNAT, &mut [int(at), name.address(), uid, gid, int(LINK_ITSELF)])
            }
        }
        .map(|_| ())
    }

    /// futimens(2).
    pub fn set_times(&self, times: &[[i64; 2]; 2]) -> Result<()> {
        let times = address_of(times);
        match *self {
            Of::Descriptor(descriptor) => call(number::FUTIMENS, &mut [int(descriptor), times]),
            Of::Name(at, name) => {
                call(number::UTIMENSAT, &mut [int(at), name.address(), times, int(LINK_ITSELF)])
            }
        }
        .map(|_| ())
    }
}

/// mkdirat(2).
pub fn make_directory(at: i32, name: &Name, mode: u32) -> Result<()> {
    call(number::MKDIRAT, &mut [int(at), name.address(), u64::from(mode)]).map(|_| ())
}

/// symlinkat(2).
pub fn make_link(at: i32, name: &Name, target: &Name) -> Result<()> {
    call(number::SYMLINKAT, &mut [target.address(), int(at), name.address()]).map(|_| ())
}

/// mkfifoat(2).
pub fn make_fifo(at: i32, name: &Name, mode: u32) -> Result<()> {
    call(number::MKFIFOAT, &mut [int(at), name.address(), u64::from(mode)]).map(|_| ())
}

/// mknodat(2); the mode has the type.
pub fn make_device(at: i32, name: &Name, mode: u32, device: u64) -> Result<()> {
    call(number::MKNODAT, &mut [int(at), name.address(), u64::from(mode), 0, device]).map(|_| ())
}

/// linkat(2).
pub fn link(from: (i32, &Name), to: (i32, &Name)) -> Result<()> {
    let arguments = &mut [int(from.0), from.1.address(), int(to.0), to.1.address(), 0];
    call(number::LINKAT, arguments).map(|_| ())
}

/// renameat(2).
pub fn rename(from: (i32, &Name), to: (i32, &Name)) -> Result<()> {
    let arguments = &mut [int(from.0), from.1.address(), int(to.0), to.1.address()];
    call(number::RENAMEAT, arguments).map(|_| ())
}

/// unlinkat(2).
pub fn remove(at: i32, name: &Name, directory: bool) -> Result<()> {
    let flags = if directory { REMOVE_DIRECTORY } else { 0 };
    call(number::UNLINKAT, &mut [int(at), name.address(), int(flags)]).map(|_| ())
}

/// Unmounts, even if files are open or the disk is gone; then with the error that the disk gave.
pub fn unmount(path: &Name) -> Result<()> {
    let unmount = |flags| call(number::UNMOUNT, &mut [path.address(), flags]).map(|_| ());
    unmount(0).or_else(|error| {
        let forced = unmount(int(FORCE));
        if error == Errno::EBUSY { forced } else { Err(error) }
    })
}
