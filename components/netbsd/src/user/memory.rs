//! Memory of programs: `mmap` and its relatives, on one address space that all threads share.
//!
//! Pages of anonymous mappings come at their first use. What the kernel runs on, stacks, has them from the start: a use by
//! code that holds the locks of memory could not be served.

use alloc::{sync::Arc, vec::Vec};
use core::{
    ffi::{c_char, c_int, c_void},
    ops::Range,
};

use rumpuser::{
    MemoryStatistics, OutOfMemory, Pmap, Protection,
    memory::PAGE_SIZE,
    memory::USER_END,
    rumpuser_frame_alloc, rumpuser_memory_statistics, rumpuser_pmap_activate, rumpuser_pmap_create,
    sync::{Mutex, SpinLock},
};

use super::{areas::Areas, lwp::failed, rump};
use crate::{
    errno::{EBADF, EINVAL, ENODEV, ENOMEM, Errno},
    thread::set_errno,
    weak::alias,
};

/// Where mappings begin that ask for no address.
const START: usize = 0x1000_0000_0000;
const END: usize = USER_END;
/// The lowest address that is ever mapped.
pub const FIRST: usize = PAGE_SIZE;

/// `PROT_WRITE`, `PROT_EXEC`; any protection allows reading.
const WRITE: c_int = 2;
const EXECUTE: c_int = 4;
/// `MAP_FIXED`.
const FIXED: c_int = 0x10;
/// `MAP_ANON`.
const ANONYMOUS: c_int = 0x1000;
/// `MAP_SHARED`.
const SHARED: c_int = 1;
/// `MAP_NORESERVE`.
const UNLIMITED: c_int = 0x40;
/// `MADV_FREE`.
const FREE: c_int = 6;
/// `MAP_ALIGNED(n)`: the binary logarithm of the alignment.
const ALIGNMENT_SHIFT: u32 = 24;
/// What `mmap` returns when it fails.
const FAILED: *mut c_void = usize::MAX as *mut c_void;

/// The part of the memory that programs' mappings leave to the kernel.
const KEPT: u64 = 32;

static SPACE: SpinLock<Option<Arc<dyn Pmap>>> = SpinLock::new(None);
/// Where the next search for room begins; the lock is held while mappings are made and removed.
static NEXT: Mutex<usize> = Mutex::new(START);
/// Anonymous mappings. Pages come to them under this lock, and don't to what was taken out.
static AREAS: SpinLock<Areas> = SpinLock::new(Areas::new());
/// Pages that come with the one at the stack pointer, below it: what code of the kernel needs there, and can't wait for.
const STACK_AHEAD: usize = 16;

/// What came of the first use of a page.
#[derive(Debug, PartialEq, Eq)]
pub enum Touch {
    /// The page is there now.
    Done,
    /// It may not be used so.
    Forbidden,
    /// Nothing is mapped there.
    Absent,
    /// There is no memory for it.
    NoMemory,
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
    fault(address, Protection::READ, 0);
    Some(space()?.query(address & !(PAGE_SIZE - 1))?.0)
}

/// A use of an address that the page tables didn't allow; `stack` is the stack pointer there.
pub fn fault(address: usize, wanted: Protection, stack: usize) -> Touch {
    let page = address & !(PAGE_SIZE - 1);
    let Some(space) = SPACE.lock().clone().filter(|_| (FIRST..END).contains(&address)) else {
        return Touch::Absent;
    };
    let areas = AREAS.lock();
    let Some((range, allowed)) = areas.overlapping(&(page..page + PAGE_SIZE)) else {
        return match space.query(page) {
            Some((_, allowed)) if allowed.contains(wanted) => Touch::Done,
            Some(_) => Touch::Forbidden,
            None => Touch::Absent,
        };
    };
    if !allowed.contains(wanted) {
        return Touch::Forbidden;
    }
    if range.contains(&stack) && address.abs_diff(stack) < PAGE_SIZE {
        for below in (range.start..page).rev().step_by(PAGE_SIZE).take(STACK_AHEAD) {
            let below = below & !(PAGE_SIZE - 1);
            if space.query(below).is_some() || supply(&*space, below, allowed).is_err() {
                break;
            }
        }
    }
    match space.query(page) {
        // Another thread was faster, or is about to change the protection of the page as it did that of the area.
        Some((_, present)) if present.contains(wanted) => Touch::Done,
        Some(_) => {
            space.protect(page..page + PAGE_SIZE, allowed);
            Touch::Done
        }
        None if supply(&*space, page, allowed).is_ok() => Touch::Done,
        None => Touch::NoMemory,
    }
}

/// Maps a zeroed page.
fn supply(space: &dyn Pmap, page: usize, protection: Protection) -> Result<(), OutOfMemory> {
    space.enter(page, rumpuser_frame_alloc()?, protection)
}

/// Gives the pages around a range memory, as far as they are of anonymous mappings; those before the first that gets none.
pub fn touch(range: Range<usize>) -> Result<(), OutOfMemory> {
    let end = range.end.min(END);
    for page in (range.start & !(PAGE_SIZE - 1)..end).step_by(PAGE_SIZE) {
        if fault(page, Protection::READ, 0) == Touch::NoMemory {
            return Err(OutOfMemory);
        }
    }
    Ok(())
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
fn find_room(space: &dyn Pmap, areas: &Areas, from: usize, length: usize, alignment: usize) -> Option<usize> {
    let mut address = from.checked_next_multiple_of(alignment)?;
    loop {
        let wanted = range(address, length)?;
        let mut used = areas.overlapping(&wanted).map(|(taken, _)| taken.end);
        space.for_each(wanted, &mut |page, _, _| used = used.max(Some(page + PAGE_SIZE)));
        match used {
            None => return Some(address),
            Some(end) => address = end.checked_next_multiple_of(alignment)?,
        }
    }
}

/// Whether there is memory for so many bytes now, and some left for the kernel.
fn has_memory(length: usize) -> Result<(), Errno> {
    let MemoryStatistics { total, free } = rumpuser_memory_statistics();
    if length as u64 > free.saturating_sub(total / KEPT) { Err(ENOMEM) } else { Ok(()) }
}

/// Maps zeroed, writable pages. The caller holds [`NEXT`].
fn fill(space: &dyn Pmap, range: Range<usize>) -> Result<(), Errno> {
    has_memory(range.len())?;
    for page in range.clone().step_by(PAGE_SIZE) {
        if supply(space, page, Protection::READ | Protection::WRITE).is_err() {
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
    let mut next = NEXT.lock();
    let alignment = 1usize.checked_shl(flags as u32 >> ALIGNMENT_SHIFT).unwrap_or(0).max(PAGE_SIZE);
    let range = if flags & FIXED != 0 {
        let range = range(address, length).filter(|range| range.start > 0).ok_or(EINVAL)?;
        AREAS.lock().remove(&range);
        space.remove(range.clone());
        range
    } else {
        range(0, length).ok_or(EINVAL)?;
        let areas = AREAS.lock();
        let found = find_room(&*space, &areas, *next, length, alignment)
            .or_else(|| find_room(&*space, &areas, START, length, alignment))
            .ok_or(ENOMEM)?;
        range(found, length).ok_or(ENOMEM)?
    };
    if of_file {
        fill(&*space, range.clone())?;
    } else {
        if bits != 0 && flags & UNLIMITED == 0 {
            has_memory(range.len())?;
        }
        AREAS.lock().add(range.clone(), protection(bits));
    }
    if flags & FIXED == 0 {
        *next = range.end;
    }
    drop(next);
    if of_file {
        if let Err(error) = read_file(&range, descriptor, offset) {
            space.remove(range);
            return Err(error);
        }
        if protection(bits) != Protection::READ | Protection::WRITE {
            space.protect(range.clone(), protection(bits));
        }
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
    work: impl FnOnce(&dyn Pmap, Range<usize>) -> Result<(), Errno>,
) -> c_int {
    let (Some(space), Some(range)) = (space(), range(address as usize, length)) else {
        return failed(EINVAL);
    };
    let _guard = NEXT.lock();
    match work(&*space, range) {
        Ok(()) => 0,
        Err(error) => failed(error),
    }
}

/// Unmaps memory.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn munmap(address: *mut c_void, length: usize) -> c_int {
    change(address, length, |space, range| {
        AREAS.lock().remove(&range);
        space.remove(range);
        Ok(())
    })
}

/// Changes the protection of mapped memory. Address space that becomes memory needs some to be there (`ENOMEM`: then nothing
/// has changed). Memory of the heap and of the image keeps its own.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn mprotect(address: *mut c_void, length: usize, bits: c_int) -> c_int {
    if address as usize >= END {
        return 0;
    }
    change(address, length, |space, range| {
        let mut areas = AREAS.lock();
        if bits != 0 {
            let without = areas.within(&range).filter(|(_, protection)| protection.is_empty());
            has_memory(without.map(|(part, _)| part.len()).sum())?;
        }
        areas.protect(&range, protection(bits));
        drop(areas);
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

/// Which pages have memory. That of the heap and of the image has.
///
/// # Safety
/// `vector` has a byte for each page.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn mincore(address: *mut c_void, length: usize, vector: *mut c_char) -> c_int {
    let start = address as usize;
    for index in 0..length.div_ceil(PAGE_SIZE) {
        let page = start.saturating_add(index * PAGE_SIZE);
        let present = page >= END || space().is_some_and(|space| space.query(page).is_some());
        // SAFETY: the caller's promise.
        unsafe { vector.add(index).write(present.into()) };
    }
    0
}

/// Takes the memory of what is no longer needed (`MADV_FREE`); other advice changes nothing.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int {
    if advice != FREE || address as usize >= END {
        return 0;
    }
    change(address, length, |space, range| {
        // Pages of files stay as they are.
        let parts: Vec<_> = AREAS.lock().within(&range).collect();
        parts.into_iter().for_each(|(part, _)| space.remove(part));
        Ok(())
    })
}

/// Gives pages their memory.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn mlock(address: *const c_void, length: usize) -> c_int {
    match touch(address as usize..(address as usize).saturating_add(length)) {
        Ok(()) => 0,
        Err(OutOfMemory) => failed(ENOMEM),
    }
}

macro_rules! nothing_to_do {
    ($($name:ident($($argument:ty),*);)*) => { $(
        /// What is in memory stays there.
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub extern "C" fn $name($(_: $argument),*) -> c_int {
            0
        }
    )* };
}

nothing_to_do! {
    minherit(*mut c_void, usize, c_int);
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

    const READ: Protection = Protection::READ;
    const NO_ACCESS: Protection = Protection::empty();

    #[test]
    fn what_may_not_be_accessed_is_address_space_alone() {
        // More than any machine has.
        let length = 1 << 40;
        let start = map(0, length, 0, ANONYMOUS, -1, 0).expect("address space");
        let other = map(0, 4096, 0, ANONYMOUS, -1, 0).expect("address space");
        assert!(other >= start + length && byte(start).is_none());
        assert_eq!(fault(start, READ, 0), Touch::Forbidden);
        assert_eq!(mprotect((start + 8192) as *mut c_void, 4096, 3), 0);
        assert_eq!(
            [8192, 4096, 12_288].map(|offset| fault(start + offset, READ, 0)),
            [Touch::Done, Touch::Forbidden, Touch::Forbidden]
        );
        assert_eq!((byte(start + 8192), byte(start + 4096), byte(start + 12_288)), (Some(0), None, None));
        // All of it can't be had, and then nothing has changed; what has pages already keeps them.
        assert_eq!(mprotect(start as *mut c_void, length, 3), -1);
        assert_eq!((byte(start + 8192), fault(start, READ, 0)), (Some(0), Touch::Forbidden));
        assert_eq!(map(0, length, 3, ANONYMOUS, -1, 0), Err(ENOMEM));
        assert_eq!(mprotect((start + 8192) as *mut c_void, 8192, 3), 0);
        assert_eq!(map(start + 4096, 4096, 3, ANONYMOUS | FIXED, -1, 0), Ok(start + 4096));
        assert_eq!((fault(start + 4096, READ, 0), byte(start + 4096)), (Touch::Done, Some(0)));
        assert_eq!(munmap(start as *mut c_void, length), 0);
        assert!(byte(start + 8192).is_none() && byte(start + 4096).is_none());
        assert_eq!(fault(start + 8192, READ, 0), Touch::Absent);
        assert_eq!(map(start, length, 0, ANONYMOUS | FIXED, -1, 0), Ok(start));
        assert_eq!(munmap(start as *mut c_void, length) + munmap(other as *mut c_void, 4096), 0);
    }

    #[test]
    fn pages_come_and_go() {
        let first = map(0, 10_000, 3, ANONYMOUS, -1, 0).expect("memory");
        let second = map(0, 1, 3, ANONYMOUS | 16 << ALIGNMENT_SHIFT, -1, 0).expect("memory");
        assert_eq!((first % PAGE_SIZE, second % (1 << 16)), (0, 0));
        assert!(second >= first + 12_288);
        assert_eq!(byte(first + 12_287), None);
        touch(first..first + 12_288).expect("memory");
        assert_eq!(
            (byte(first + 12_287), byte(first + 12_288).is_none()),
            (Some(0), first + 12_288 != second)
        );
        let space = space().expect("memory");
        assert_eq!(mprotect(first as *mut c_void, 4096, 0), 0);
        assert_eq!(space.query(first).map(|(_, protection)| protection), Some(NO_ACCESS));
        assert_eq!(fault(first, READ, 0), Touch::Forbidden);
        assert_eq!(map(first, 4096, 1, ANONYMOUS | FIXED, -1, 0), Ok(first));
        assert_eq!(
            (fault(first, Protection::WRITE, 0), fault(first, READ, 0)),
            (Touch::Forbidden, Touch::Done)
        );
        assert_eq!(space.query(first).map(|(_, protection)| protection), Some(READ));
        assert_eq!(madvise((first + 4096) as *mut c_void, 4096, FREE), 0);
        assert_eq!((byte(first), byte(first + 4096), byte(first + 8192)), (Some(0), None, Some(0)));
        assert_eq!(munmap(first as *mut c_void, 12_288), 0);
        assert!(byte(first).is_none());
        for (address, length, flags) in
            [(0, 0, ANONYMOUS), (1, 4096, ANONYMOUS | FIXED), (0, usize::MAX, ANONYMOUS)]
        {
            assert_eq!(map(address, length, 3, flags, -1, 0), Err(EINVAL));
        }
        assert_eq!(map(0, 4096, 3, SHARED, 3, 0), Err(ENODEV));
    }

    #[test]
    fn a_sparse_mapping_has_the_memory_that_is_used() {
        let start = map(0, 1 << 40, 3, ANONYMOUS | UNLIMITED, -1, 0).expect("address space");
        let stack = start + (1 << 30);
        assert_eq!(fault(stack - 8, Protection::WRITE, stack), Touch::Done);
        // As a stack, it gets some pages ahead.
        let ahead = STACK_AHEAD * PAGE_SIZE;
        assert_eq!((byte(stack - 1), byte(stack - ahead), byte(stack)), (Some(0), Some(0), None));
        assert_eq!(byte(stack - ahead - 2 * PAGE_SIZE), None);
        assert_eq!(munmap(start as *mut c_void, 1 << 40), 0);
    }
}
