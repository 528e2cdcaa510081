//! Files and block devices of the host, as the rump kernel sees them: `rumpuser_open` and its relatives. They are the
//! baked files, which can't be written, and the block devices that the platform registers.

use alloc::{boxed::Box, string::String, sync::Arc, vec::Vec};
use core::{
    ffi::{CStr, c_char, c_int, c_void},
    slice,
    sync::atomic::{AtomicU64, Ordering},
};

use image::rootfs::RootFs;
use rumpuser::{CpuSet, sync::SpinLock};

use crate::{
    errno::{EAGAIN, EBADF, EINVAL, ENOENT, EROFS, Errno},
    thread, upcall,
};

/// What is behind a descriptor.
pub trait Backing: Send + Sync {
    /// Bytes in it.
    fn size(&self) -> u64;
    /// Reads at an offset; returns how many bytes there were.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<usize, Errno>;
    /// Writes at an offset; returns how many bytes went in.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<usize, Errno>;
    /// Writes back what is cached.
    fn flush(&self) -> Result<(), Errno>;
    /// Whether it is a block device.
    fn is_block(&self) -> bool;
}

/// Bytes of the image.
struct Baked(&'static [u8]);

impl Backing for Baked {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<usize, Errno> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or_default();
        let length = rest.len().min(bytes.len());
        bytes[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write(&self, _offset: u64, _bytes: &[u8]) -> Result<usize, Errno> {
        Err(EROFS)
    }

    fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn is_block(&self) -> bool {
        false
    }
}

struct Open {
    backing: Arc<dyn Backing>,
    writable: bool,
    position: AtomicU64,
}

static DEVICES: SpinLock<Vec<(String, Arc<dyn Backing>)>> = SpinLock::new(Vec::new());
static OPEN: SpinLock<Vec<Option<Arc<Open>>>> = SpinLock::new(Vec::new());
static ROOT: SpinLock<Option<RootFs<'static>>> = SpinLock::new(None);

/// Makes a block device known by a path (`/dev/vda`).
pub fn register_device(path: &str, backing: Arc<dyn Backing>) {
    DEVICES.lock().push((path.into(), backing));
}

/// Whether a block device is known by that path.
pub fn is_device(path: &str) -> bool {
    DEVICES.lock().iter().any(|(name, _)| name == path)
}

/// Makes the baked files known.
pub fn set_root(root: RootFs<'static>) {
    *ROOT.lock() = Some(root);
}

fn find(path: &[u8]) -> Option<Arc<dyn Backing>> {
    let device = DEVICES.lock().iter().find(|(name, _)| name.as_bytes() == path).map(|found| found.1.clone());
    if device.is_some() {
        return device;
    }
    Some(Arc::new(Baked(baked(path)?)))
}

/// The bytes of a baked file.
pub fn baked(path: &[u8]) -> Option<&'static [u8]> {
    let root = ROOT.lock();
    let root = root.as_ref()?;
    // The root directory is number 0.
    let mut number = 0;
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        number = root.lookup(root.inode(number)?, name)?;
    }
    root.data(root.inode(number)?)?.plain()
}

fn opened(descriptor: c_int) -> Result<Arc<Open>, Errno> {
    let open = OPEN.lock();
    let slot = usize::try_from(descriptor).ok().and_then(|index| open.get(index));
    slot.and_then(Option::clone).ok_or(EBADF)
}

/// `RUMPUSER_OPEN_ACCMODE`, `RUMPUSER_OPEN_CREATE`.
const ACCESS: c_int = 3;
const CREATE: c_int = 4;

fn open(path: &[u8], mode: c_int) -> Result<c_int, Errno> {
    let writable = mode & ACCESS != 0;
    let backing = find(path).ok_or(if mode & CREATE != 0 { EROFS } else { ENOENT })?;
    if writable && !backing.is_block() {
        return Err(EROFS);
    }
    let new = Arc::new(Open { backing, writable, position: AtomicU64::new(0) });
    let mut open = OPEN.lock();
    let place = open.iter().position(Option::is_none).unwrap_or(open.len());
    if place == open.len() {
        open.push(None);
    }
    open[place] = Some(new);
    Ok(place as c_int)
}

fn number(result: Result<(), Errno>) -> Errno {
    result.err().unwrap_or(0)
}

/// # Safety
/// `path` is a C string, `place` one for an `int`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_open(path: *const c_char, mode: c_int, place: *mut c_int) -> Errno {
    // SAFETY: the caller's promise.
    unsafe { number(open(CStr::from_ptr(path).to_bytes(), mode).map(|descriptor| *place = descriptor)) }
}

/// Closes a descriptor.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpuser_close(descriptor: c_int) -> Errno {
    let mut open = OPEN.lock();
    match usize::try_from(descriptor).ok().and_then(|index| open.get_mut(index)?.take()) {
        Some(closed) => {
            drop(open);
            drop(closed);
            0
        }
        None => EBADF,
    }
}

/// `RUMPUSER_FT_REG`, `RUMPUSER_FT_BLK`.
const REGULAR: c_int = 2;
const BLOCK: c_int = 3;

/// # Safety
/// `path` is a C string; `size` and `kind` are null or places.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_getfileinfo(
    path: *const c_char,
    size: *mut u64,
    kind: *mut c_int,
) -> Errno {
    // SAFETY: the caller's promise.
    unsafe {
        let Some(backing) = find(CStr::from_ptr(path).to_bytes()) else { return ENOENT };
        if !size.is_null() {
            *size = backing.size();
        }
        if !kind.is_null() {
            *kind = if backing.is_block() { BLOCK } else { REGULAR };
        }
    }
    0
}

/// `RUMPUSER_BIO_READ`, `RUMPUSER_BIO_SYNC`.
const READ: c_int = 1;
const SYNC: c_int = 4;

fn transfer(
    file: &Open,
    operation: c_int,
    data: *mut u8,
    length: usize,
    offset: u64,
) -> Result<usize, Errno> {
    if operation & READ != 0 {
        // SAFETY: the caller of `rumpuser_bio` gives memory of this length.
        file.backing.read(offset, unsafe { slice::from_raw_parts_mut(data, length) })
    } else if file.writable {
        // SAFETY: as above.
        let written = file.backing.write(offset, unsafe { slice::from_raw_parts(data, length) })?;
        if operation & SYNC != 0 {
            file.backing.flush()?;
        }
        Ok(written)
    } else {
        Err(EBADF)
    }
}

/// `rump_biodone_fn`.
type Done = unsafe extern "C" fn(*mut c_void, usize, c_int);

/// The parts of a transfer that goes on by itself.
struct Transfer {
    file: Arc<Open>,
    operation: c_int,
    data: *mut u8,
    length: usize,
    offset: u64,
    done: Done,
    argument: *mut c_void,
}

// SAFETY: the memory belongs to the transfer until it is done.
unsafe impl Send for Transfer {}

impl Transfer {
    fn run(self) {
        let result = transfer(&self.file, self.operation, self.data, self.length, self.offset);
        let (count, error) = result.map_or_else(|error| (0, error), |count| (count, 0));
        // SAFETY: the kernel's function and argument.
        upcall::with_cpu(|| unsafe { (self.done)(self.argument, count, error) });
    }
}

/// Reads or writes a block device; `done` is told when that is finished.
///
/// # Safety
/// `data` has `length` bytes until `done` is called.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_bio(
    descriptor: c_int,
    operation: c_int,
    data: *mut c_void,
    length: usize,
    offset: i64,
    done: Done,
    argument: *mut c_void,
) {
    let started = opened(descriptor).and_then(|file| {
        let offset = u64::try_from(offset).map_err(|_| EINVAL)?;
        let work = Transfer { file, operation, data: data.cast(), length, offset, done, argument };
        thread::spawn(String::from("block"), CpuSet::MAX, Box::new(move || work.run())).map_err(|_| EAGAIN)
    });
    if let Err(error) = started {
        // SAFETY: the kernel's function and argument; the caller has a virtual CPU.
        unsafe { done(argument, 0, error) };
    }
}

/// `struct rumpuser_iovec`.
#[repr(C)]
pub struct Part {
    base: *mut u8,
    length: usize,
}

/// Moves the parts one after the other; returns how many bytes.
fn move_parts(
    file: &Open,
    parts: &[Part],
    offset: i64,
    mut one: impl FnMut(&Part, u64) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    // `RUMPUSER_IOV_NOSEEK` is -1: go on where the last one ended.
    let start = u64::try_from(offset).unwrap_or_else(|_| file.position.load(Ordering::Relaxed));
    let mut total = 0;
    for part in parts {
        let count =
            upcall::without_cpu(core::ptr::null_mut(), || one(part, start.saturating_add(total as u64)))?;
        total += count;
        if count < part.length {
            break;
        }
    }
    if offset < 0 {
        file.position.store(start.saturating_add(total as u64), Ordering::Relaxed);
    }
    Ok(total)
}

/// # Safety
/// There are `count` parts, each of writable memory; `moved` is a place.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_iovread(
    descriptor: c_int,
    parts: *const Part,
    count: usize,
    offset: i64,
    moved: *mut usize,
) -> Errno {
    number(opened(descriptor).and_then(|file| {
        // SAFETY: the caller's promise.
        unsafe {
            let parts = slice::from_raw_parts(parts, count);
            *moved = move_parts(&file, parts, offset, |part, at| {
                file.backing.read(at, slice::from_raw_parts_mut(part.base, part.length))
            })?;
        }
        Ok(())
    }))
}

/// # Safety
/// There are `count` parts, each of readable memory; `moved` is a place.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_iovwrite(
    descriptor: c_int,
    parts: *const Part,
    count: usize,
    offset: i64,
    moved: *mut usize,
) -> Errno {
    number(opened(descriptor).and_then(|file| {
        if !file.writable {
            return Err(EBADF);
        }
        // SAFETY: the caller's promise.
        unsafe {
            let parts = slice::from_raw_parts(parts, count);
            *moved = move_parts(&file, parts, offset, |part, at| {
                file.backing.write(at, slice::from_raw_parts(part.base, part.length))
            })?;
        }
        Ok(())
    }))
}

/// Writes back what is cached.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpuser_syncfd(descriptor: c_int, _flags: c_int, _start: u64, _length: u64) -> Errno {
    number(
        opened(descriptor)
            .and_then(|file| upcall::without_cpu(core::ptr::null_mut(), || file.backing.flush())),
    )
}
