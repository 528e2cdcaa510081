//! mmap(2), munmap(2), mprotect(2), mremap(2), brk(2).

use alloc::sync::Arc;

use linux_raw_sys::general::{
    MAP_32BIT, MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_GROWSDOWN, MAP_HUGETLB, MAP_LOCKED,
    MAP_NONBLOCK, MAP_NORESERVE, MAP_POPULATE, MAP_PRIVATE, MAP_SHARED, MAP_SHARED_VALIDATE, MAP_STACK,
    MAP_TYPE, MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE, PROT_EXEC, PROT_GROWSDOWN, PROT_GROWSUP,
    PROT_READ, PROT_SEM, PROT_WRITE,
};
use rumpkern::{
    Errno, Result,
    vm::{Backing, Destination, EntryFlags, Limit, Lock, Name, Placement, Request},
};
use rumpuser::{
    Protection,
    memory::{PAGE_SIZE, USER_END},
};
use rumpvfs::{mount::MountFlags, tmpfs::seal, vnode::Kind};

use super::{CAP_IPC_LOCK, protection, space_of};
use crate::{files::OpenFile, task::Task};

/// Where MAP_32BIT mappings end.
const END_32BIT: usize = 1 << 31;

/// What MAP_SHARED_VALIDATE accepts (MAP_SYNC is for persistent memory, which there is none of).
const KNOWN: u32 = MAP_TYPE
    | MAP_32BIT
    | MAP_ANONYMOUS
    | MAP_FIXED
    | MAP_FIXED_NOREPLACE
    | MAP_GROWSDOWN
    | MAP_LOCKED
    | MAP_NONBLOCK
    | MAP_NORESERVE
    | MAP_POPULATE
    | MAP_STACK;

/// mmap(2).
pub fn mmap(
    task: &Task,
    address: usize,
    length: usize,
    bits: u32,
    flags: u32,
    descriptor: i32,
    offset: usize,
) -> Result<usize> {
    if !offset.is_multiple_of(PAGE_SIZE) || length == 0 {
        return Err(Errno::EINVAL);
    }
    let shared = match flags & MAP_TYPE {
        MAP_PRIVATE => false,
        MAP_SHARED => true,
        MAP_SHARED_VALIDATE if flags & !KNOWN != 0 => return Err(Errno::EOPNOTSUPP),
        MAP_SHARED_VALIDATE => true,
        _ => return Err(Errno::EINVAL),
    };
    if flags & MAP_HUGETLB != 0 {
        // No large pages are set aside (vm.nr_hugepages is 0).
        return Err(Errno::ENOMEM);
    }
    let placement = if flags & MAP_FIXED_NOREPLACE != 0 {
        Placement::FixedNoReplace(address)
    } else if flags & MAP_FIXED != 0 {
        Placement::Fixed(address)
    } else if flags & MAP_32BIT != 0 {
        Placement::Below(END_32BIT)
    } else if address != 0 {
        Placement::Hint(address)
    } else {
        Placement::Anywhere
    };
    let mut request = Request { placement, ..Request::anonymous(length, protection(bits)) };
    request.flags.set(EntryFlags::SHARED, shared);
    request.flags.set(EntryFlags::NO_RESERVE, flags & MAP_NORESERVE != 0);
    if flags & MAP_ANONYMOUS != 0 {
        request.flags.set(EntryFlags::GROWS_DOWN, flags & MAP_GROWSDOWN != 0 && !shared);
    } else {
        let file = task.files().get_io(descriptor)?;
        let first = (offset / PAGE_SIZE) as u64;
        (request.backing, request.maximum, request.name) =
            back_by_file(task, &file, first, request.protection, shared)?;
    }

    let space = space_of(task)?;
    if flags & MAP_LOCKED != 0 && !task.credentials().capable(CAP_IPC_LOCK) {
        let limit = space.limit(Limit::Locked);
        if limit == 0 {
            return Err(Errno::EPERM);
        }
        if space.usage().locked.saturating_add(length) > limit {
            return Err(Errno::EAGAIN);
        }
    }
    let start = space.map(request)?;
    if flags & MAP_LOCKED != 0 {
        // That not all pages could be had is no failure here.
        let _ = space.lock(start, length, Lock::Populate, true);
    } else if flags & MAP_POPULATE != 0 && flags & MAP_NONBLOCK == 0 {
        space.populate(start..start + length.next_multiple_of(PAGE_SIZE), false);
    }
    Ok(start)
}

/// What a mapping of `file` shows, what it may be protected by, and what it is called.
fn back_by_file(
    task: &Task,
    file: &OpenFile,
    first: u64,
    wanted: Protection,
    shared: bool,
) -> Result<(Backing, Protection, Option<Arc<Name>>)> {
    let flags = file.flags();
    if !flags.readable() {
        return Err(Errno::EACCES);
    }
    let mut maximum = Protection::all();
    if shared && !flags.writable() {
        maximum -= Protection::WRITE;
        if wanted.contains(Protection::WRITE) {
            return Err(Errno::EACCES);
        }
    }
    let seals = file.vnode().and_then(|vnode| vnode.seals().ok()).unwrap_or(0);
    if shared && seals & (seal::WRITE | seal::FUTURE_WRITE) != 0 {
        maximum -= Protection::WRITE;
        if wanted.contains(Protection::WRITE) {
            return Err(Errno::EPERM);
        }
    }
    if file.location().is_some_and(|location| location.mount.flags().contains(MountFlags::NO_EXECUTE)) {
        maximum -= Protection::EXECUTE;
        if wanted.contains(Protection::EXECUTE) {
            return Err(Errno::EPERM);
        }
    }
    let pager = file.file().pager()?;
    let name = name_of(task, file);
    let anonymous = !shared && file.vnode().is_some_and(|vnode| vnode.kind() == Kind::Character);
    // A private mapping of /dev/zero is plain memory.
    let zeros = anonymous && name.as_ref().is_some_and(|name| name.path == b"/dev/zero");
    let backing = if zeros { Backing::Anonymous } else { Backing::Pager { pager, first } };
    Ok((backing, maximum, name))
}

/// What /proc/self/maps says of a mapped file.
fn name_of(task: &Task, file: &OpenFile) -> Option<Arc<Name>> {
    let path = match file.location() {
        Some(location) => location.path(&task.filesystem().root().ok()?),
        None => file.file().description().into_bytes(),
    };
    let (device, inode) =
        file.attributes().map_or((0, 0), |attributes| (attributes.device, attributes.inode));
    Some(Arc::new(Name { path, device, inode }))
}

/// munmap(2).
pub fn munmap(task: &Task, address: usize, length: usize) -> Result<usize> {
    space_of(task)?.unmap(address, length)?;
    Ok(0)
}

/// mprotect(2).
pub fn mprotect(task: &Task, address: usize, length: usize, bits: u32) -> Result<usize> {
    let known = PROT_READ | PROT_WRITE | PROT_EXEC | PROT_SEM | PROT_GROWSDOWN | PROT_GROWSUP;
    // Nothing grows upwards on this architecture.
    if bits & !known != 0 || bits & PROT_GROWSUP != 0 {
        return Err(Errno::EINVAL);
    }
    space_of(task)?.protect(address, length, protection(bits), bits & PROT_GROWSDOWN != 0)?;
    Ok(0)
}

/// mremap(2).
pub fn mremap(
    task: &Task,
    old: usize,
    old_length: usize,
    new_length: usize,
    flags: u32,
    new: usize,
) -> Result<usize> {
    let (may_move, fixed) = (flags & MREMAP_MAYMOVE != 0, flags & MREMAP_FIXED != 0);
    let keep_old = flags & MREMAP_DONTUNMAP != 0;
    if flags & !(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP) != 0 || (fixed || keep_old) && !may_move {
        return Err(Errno::EINVAL);
    }
    let destination = match (fixed, may_move) {
        (true, _) => Destination::Fixed(new),
        (_, true) => Destination::Anywhere,
        _ => Destination::Same,
    };
    space_of(task)?.remap(old, old_length, new_length, destination, keep_old)
}

/// remap_file_pages(2): the protection stays as it is, so none may be given.
pub fn remap_file_pages(
    task: &Task,
    start: usize,
    length: usize,
    bits: u32,
    first: u64,
    _flags: u32,
) -> Result<usize> {
    if bits != 0 {
        return Err(Errno::EINVAL);
    }
    space_of(task)?.remap_object(start, length, first)?;
    Ok(0)
}

/// brk(2): always returns where the heap ends.
pub fn brk(task: &Task, end: usize) -> Result<usize> {
    let end = if end < USER_END { end } else { 0 };
    Ok(space_of(task)?.set_break(end))
}
