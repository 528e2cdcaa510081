//! Memory of programs: `mmap` and its relatives, on one address space that all threads share.
//!
//! Mappings that may not be accessed are address space alone. The pages of others are there from the start: programs use the stack below their stack pointer (the red zone), which a page fault
//! in the kernel's own mode would overwrite, so no page can wait for its first use.

use alloc::sync::Arc;
use core::{
    ffi::{c_char, c_int, c_void},
    ops::Range,
};

use rumpuser::{
    MemoryStatistics, Pmap, Protection,
    memory::PAGE_SIZE,
    memory::USER_END,
    rumpuser_frame_alloc, rumpuser_memory_statistics, rumpuser_pmap_activate, rumpuser_pmap_create,
    sync::{Mutex, SpinLock},
};

use super::{lwp::failed, reserved::Reserved, rump};
use crate::{
    errno::{EBADF, EINVAL, ENODEV, ENOMEM, Errno},
    thread::set_errno,
    weak::alias,
};

/// Where mappings begin that ask for no address.
const START: usize = 0x1000_0000_0000;
const END: usize = USER_END;

/// `PROT_WRITE`, `PROT_EXEC`; any protection allows reading.
const WRITE: c_int = 2;
const EXECUTE: c_int = 4;
/// `MAP_FIXED`.
const FIXED: c_int = 0x10;
/// `MAP_ANON`.
const ANONYMOUS: c_int = 0x1000;
/// `MAP_SHARED`.
const SHARED: c_int = 1;
/// `MAP_ALIGNED(n)`: the binary logarithm of the alignment.
const ALIGNMENT_SHIFT: u32 = 24;
/// What `mmap` returns when it fails.
const FAILED: *mut c_void = usize::MAX as *mut c_void;

/// The part of the memory that programs' mappings leave to the kernel.
const KEPT: u64 = 32;

static SPACE: SpinLock<Option<Arc<dyn Pmap>>> = SpinLock::new(None);
/// What is known beside the page tables; the lock is held while mappings are made and removed.
static LAYOUT: Mutex<Layout> = Mutex::new(Layout { next: START, reserved: Reserved::new() });

struct Layout {
    /// Where the next search for room begins.
    next: usize,
    reserved: Reserved,
}

/// The programs' address space, made when it is first asked for.
fn space() -> Option<Arc<dyn Pmap>> {
    if let Some(space) = &*SPACE.lock() {
        return Some(space.clone());
    }
    let made = rumpuser_pmap_create().ok()?;
    Some(SPACE.lock().get_or_insert(made).clone())
}

/// Makes the programs' memory visible to the calling thread, if there are programs in this address space.
pub fn enter_address_space() {
    let space = SPACE.lock().clone();
    if space.is_some() {
        rumpuser_pmap_activate(space);
    }
}

/// Makes the programs' address space.
pub fn create_address_space() {
    // Without memory for it, every mapping fails.
    let _ = space();
}

/// The frame of a program's address; `None` for the kernel's.
pub fn frame_at(address: usize) -> Option<rumpuser::Frame> {
    if address >= END {
        return None;
    }
    Some(space()?.query(address & !(PAGE_SIZE - 1))?.0)
}

fn protection(bits: c_int) -> Protection {
    let mut protection = Protection::empty();
    protection.set(Protection::READ, bits != 0);
    protection.set(Protection::WRITE, bits & WRITE != 0);
    protection.set(Protection::EXECUTE, bits & EXECUTE != 0);
    protection
}

/// Whole pages around `length` bytes at `address`, inside the user half.
fn range(address: usize, length: usize) -> Option<Range<usize>> {
    let end = address.checked_add(length)?.checked_next_multiple_of(PAGE_SIZE)?;
    (address.is_multiple_of(PAGE_SIZE) && length > 0 && end <= END).then_some(address..end)
}

/// Room for `length` bytes from `from` on.
fn find_room(
    space: &dyn Pmap,
    reserved: &Reserved,
    from: usize,
    length: usize,
    alignment: usize,
) -> Option<usize> {
    let mut address = from.checked_next_multiple_of(alignment)?;
    loop {
        let wanted = range(address, length)?;
        let mut used = reserved.overlapping(&wanted).map(|taken| taken.end);
        space.for_each(wanted, &mut |page, _, _| used = used.max(Some(page + PAGE_SIZE)));
        match used {
            None => return Some(address),
            Some(end) => address = end.checked_next_multiple_of(alignment)?,
        }
    }
}

/// Maps zeroed, writable pages, if that leaves the kernel some. The caller holds [`LAYOUT`].
fn fill(space: &dyn Pmap, range: Range<usize>) -> Result<(), Errno> {
    let MemoryStatistics { total, free } = rumpuser_memory_statistics();
    if range.len() as u64 > free.saturating_sub(total / KEPT) {
        return Err(ENOMEM);
    }
    for page in range.clone().step_by(PAGE_SIZE) {
        let entered = rumpuser_frame_alloc()
            .and_then(|frame| space.enter(page, frame, Protection::READ | Protection::WRITE));
        if entered.is_err() {
            space.remove(range.start..page + PAGE_SIZE);
            return Err(ENOMEM);
        }
    }
    Ok(())
}

/// Copies a file into mapped pages; what lies behind its end stays zero.
fn read_file(range: &Range<usize>, descriptor: c_int, offset: i64) -> Result<(), Errno> {
    let read = rump::rump___sysimpl_pread().ok_or(ENODEV)?;
    let mut done = 0;
    while done < range.len() {
        let place = (range.start + done) as *mut c_void;
        // SAFETY: the pages are mapped and writable in the calling thread's address space.
        match unsafe { read(descriptor, place, range.len() - done, offset.saturating_add(done as i64)) } {
            0 => break,
            count if count > 0 => done += count as usize,
            _ => return Err(EBADF),
        }
    }
    Ok(())
}

/// Maps memory. A file is copied: what is written to a shared mapping doesn't reach it, so that is refused.
fn map(
    address: usize,
    length: usize,
    bits: c_int,
    flags: c_int,
    descriptor: c_int,
    offset: i64,
) -> Result<usize, Errno> {
    let of_file = flags & ANONYMOUS == 0;
    if of_file && flags & SHARED != 0 && bits & WRITE != 0 {
        return Err(ENODEV);
    }
    let space = space().ok_or(ENOMEM)?;
    let mut layout = LAYOUT.lock();
    let alignment = 1usize.checked_shl(flags as u32 >> ALIGNMENT_SHIFT).unwrap_or(0).max(PAGE_SIZE);
    let range = if flags & FIXED != 0 {
        let range = range(address, length).filter(|range| range.start > 0).ok_or(EINVAL)?;
        layout.reserved.remove(&range);
        space.remove(range.clone());
        range
    } else {
        range(0, length).ok_or(EINVAL)?;
        let found = find_room(&*space, &layout.reserved, layout.next, length, alignment)
            .or_else(|| find_room(&*space, &layout.reserved, START, length, alignment))
            .ok_or(ENOMEM)?;
        range(found, length).ok_or(ENOMEM)?
    };
    let reserve = bits == 0 && !of_file;
    if reserve {
        layout.reserved.add(range.clone());
    } else {
        fill(&*space, range.clone())?;
    }
    if flags & FIXED == 0 {
        layout.next = range.end;
    }
    drop(layout);
    if reserve {
        return Ok(range.start);
    }
    if of_file && let Err(error) = read_file(&range, descriptor, offset) {
        space.remove(range);
        return Err(error);
    }
    if protection(bits) != Protection::READ | Protection::WRITE {
        space.protect(range.clone(), protection(bits));
    }
    Ok(range.start)
}

/// Maps memory.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn mmap(
    address: *mut c_void,
    length: usize,
    protection: c_int,
    flags: c_int,
    descriptor: c_int,
    offset: i64,
) -> *mut c_void {
    match map(address as usize, length, protection, flags, descriptor, offset) {
        Ok(address) => address as *mut c_void,
        Err(error) => {
            set_errno(error);
            FAILED
        }
    }
}

fn change(
    address: *mut c_void,
    length: usize,
    work: impl FnOnce(&dyn Pmap, &mut Reserved, Range<usize>) -> Result<(), Errno>,
) -> c_int {
    let (Some(space), Some(range)) = (space(), range(address as usize, length)) else {
        return failed(EINVAL);
    };
    let mut layout = LAYOUT.lock();
    match work(&*space, &mut layout.reserved, range) {
        Ok(()) => 0,
        Err(error) => failed(error),
    }
}

/// Unmaps memory.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn munmap(address: *mut c_void, length: usize) -> c_int {
    change(address, length, |space, reserved, range| {
        reserved.remove(&range);
        space.remove(range);
        Ok(())
    })
}

/// Changes the protection of mapped memory, which gets pages if it had none (`ENOMEM`: then nothing has changed). Memory of
/// the heap and of the image keeps its own.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn mprotect(address: *mut c_void, length: usize, bits: c_int) -> c_int {
    if address as usize >= END {
        return 0;
    }
    change(address, length, |space, reserved, range| {
        if bits != 0 {
            let parts = reserved.remove(&range);
            for (index, part) in parts.iter().enumerate() {
                if let Err(error) = fill(space, part.clone()) {
                    parts[..index].iter().for_each(|filled| space.remove(filled.clone()));
                    parts.into_iter().for_each(|part| reserved.add(part));
                    return Err(error);
                }
            }
        }
        space.protect(range, protection(bits));
        Ok(())
    })
}

/// Nothing is written back: shared mappings of files can't be written.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn _sys___msync13(_address: *mut c_void, _length: usize, _flags: c_int) -> c_int {
    0
}

alias! {
    // libpthread has its own, which may be cancelled.
    __msync13 = _sys___msync13;
    _mmap = mmap;
}

/// Every page is in memory.
///
/// # Safety
/// `vector` has a byte for each page.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn mincore(_address: *mut c_void, length: usize, vector: *mut c_char) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { core::ptr::write_bytes(vector, 1, length.div_ceil(PAGE_SIZE)) };
    0
}

macro_rules! nothing_to_do {
    ($($name:ident($($argument:ty),*);)*) => { $(
        /// All memory is in memory, and advice changes nothing.
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub extern "C" fn $name($(_: $argument),*) -> c_int {
            0
        }
    )* };
}

nothing_to_do! {
    madvise(*mut c_void, usize, c_int);
    minherit(*mut c_void, usize, c_int);
    mlock(*const c_void, usize);
    munlock(*const c_void, usize);
    mlockall(c_int);
    munlockall();
}

/// A part of the programs' memory as the kernel sees it, for tests.
#[cfg(test)]
fn byte(address: usize) -> Option<u8> {
    let (frame, _) = space()?.query(address & !(PAGE_SIZE - 1))?;
    // SAFETY: a frame is mapped and has so many bytes.
    Some(unsafe { rumpuser::rumpuser_frame_address(frame).add(address % PAGE_SIZE).read() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_accessed_is_address_space_alone() {
        // More than any machine has.
        let length = 1 << 40;
        let start = map(0, length, 0, ANONYMOUS, -1, 0).expect("address space");
        let other = map(0, 4096, 0, ANONYMOUS, -1, 0).expect("address space");
        assert!(other >= start + length && byte(start).is_none());
        assert_eq!(mprotect((start + 8192) as *mut c_void, 4096, 3), 0);
        assert_eq!((byte(start + 8192), byte(start + 4096), byte(start + 12_288)), (Some(0), None, None));
        // All of it can't be had, and then nothing has changed; what has pages already keeps them.
        assert_eq!(mprotect(start as *mut c_void, length, 3), -1);
        assert_eq!((byte(start + 8192), byte(start)), (Some(0), None));
        assert_eq!(map(0, length, 3, ANONYMOUS, -1, 0), Err(ENOMEM));
        assert_eq!(mprotect((start + 8192) as *mut c_void, 8192, 3), 0);
        assert_eq!(map(start + 4096, 4096, 3, ANONYMOUS | FIXED, -1, 0), Ok(start + 4096));
        assert_eq!(byte(start + 4096), Some(0));
        assert_eq!(munmap(start as *mut c_void, length), 0);
        assert!(byte(start + 8192).is_none() && byte(start + 4096).is_none());
        assert_eq!(map(start, length, 0, ANONYMOUS | FIXED, -1, 0), Ok(start));
        assert_eq!(munmap(start as *mut c_void, length) + munmap(other as *mut c_void, 4096), 0);
    }

    #[test]
    fn pages_come_and_go() {
        let first = map(0, 10_000, 3, ANONYMOUS, -1, 0).expect("memory");
        let second = map(0, 1, 3, ANONYMOUS | 16 << ALIGNMENT_SHIFT, -1, 0).expect("memory");
        assert_eq!((first % PAGE_SIZE, second % (1 << 16)), (0, 0));
        assert!(second >= first + 12_288);
        assert_eq!(
            (byte(first + 12_287), byte(first + 12_288).is_none()),
            (Some(0), first + 12_288 != second)
        );
        let space = space().expect("memory");
        assert_eq!(mprotect(first as *mut c_void, 4096, 0), 0);
        assert_eq!(space.query(first).map(|(_, protection)| protection), Some(Protection::empty()));
        assert_eq!(map(first, 4096, 1, ANONYMOUS | FIXED, -1, 0), Ok(first));
        assert_eq!(space.query(first).map(|(_, protection)| protection), Some(Protection::READ));
        assert_eq!(munmap(first as *mut c_void, 12_288), 0);
        assert!(byte(first).is_none());
        for (address, length, flags) in
            [(0, 0, ANONYMOUS), (1, 4096, ANONYMOUS | FIXED), (0, usize::MAX, ANONYMOUS)]
        {
            assert_eq!(map(address, length, 3, flags, -1, 0), Err(EINVAL));
        }
        assert_eq!(map(0, 4096, 3, SHARED, 3, 0), Err(ENODEV));
    }
}
