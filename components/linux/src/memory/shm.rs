//! System V shared memory: shmget(2), shmat(2), shmdt(2), shmctl(2).
//!
//! A segment is a pager; every mapping of it holds a reference, so the number of references tells how often it is
//! attached, through fork, exit and execve.

use alloc::{
    collections::BTreeMap,
    format,
    sync::{Arc, Weak},
};
use core::ops::Range;

use rumpkern::{
    Errno, Result,
    mappings::Mappings,
    vm::{Backing, EntryFlags, Name, Pager, Placement, Request, SharedMemory},
};
use rumpuser::{
    Frame, Protection,
    memory::PAGE_SIZE,
    rumpuser_memory_statistics,
    sync::{Mutex, SpinLock},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::space_of;
use crate::{
    ipc::{
        IPC_CREAT, IPC_EXCL, IPC_INFO, IPC_PRIVATE, IPC_RMID, IPC_SET, IPC_STAT, Permissions, READ, WRITE,
        seconds,
    },
    task::Task,
    user::UserPtr,
};

const SHM_HUGETLB: u32 = 0o4000;

const SHM_RDONLY: u32 = 0o10_000;
const SHM_RND: u32 = 0o20_000;
const SHM_REMAP: u32 = 0o40_000;
const SHM_EXEC: u32 = 0o100_000;

const SHM_LOCK: u32 = 11;
const SHM_UNLOCK: u32 = 12;
const SHM_STAT: u32 = 13;
const SHM_INFO: u32 = 14;
const SHM_STAT_ANY: u32 = 15;

const MODE_DESTROYED: u32 = 0o1000;
const MODE_LOCKED: u32 = 0o2000;
/// Most segments (SHMMNI).
const SEGMENTS_MAX: usize = 4096;
/// Largest segment, and most pages in all (SHMMAX, SHMALL): as Linux's.
const SIZE_MAX: u64 = u64::MAX - (1 << 24);

/// `struct shmid64_ds`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Status {
    permissions: Permissions,
    size: u64,
    attached_at: i64,
    detached_at: i64,
    changed_at: i64,
    creator: i32,
    last: i32,
    attachments: u64,
    unused: [u64; 2],
}

/// `struct shminfo64`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct SystemLimits {
    size_max: u64,
    size_min: u64,
    segments: u64,
    attachments: u64,
    pages: u64,
    unused: [u64; 4],
}

/// `struct shm_info`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct SystemUsage {
    segments: i32,
    padding: i32,
    pages: u64,
    resident: u64,
    swapped: u64,
    swap_attempts: u64,
    swap_successes: u64,
}

/// A segment.
struct Segment {
    memory: Arc<SharedMemory>,
    status: SpinLock<Status>,
}

impl Pager for Segment {
    fn page(&self, index: u64, write: bool) -> Result<Frame> {
        self.memory.page(index, write)
    }

    fn pages(&self, index: u64, write: bool, frames: &mut [Frame]) -> usize {
        self.memory.pages(index, write, frames)
    }

    fn resident(&self, index: u64) -> bool {
        self.memory.resident(index)
    }

    fn discard(&self, pages: Range<u64>) -> Result<()> {
        self.memory.discard(pages)
    }

    fn mappings(&self) -> Option<&Mappings> {
        self.memory.mappings()
    }
}

/// How the table knows a segment.
enum Known {
    /// It can be found.
    Alive(Arc<Segment>),
    /// It was removed, and lives until the last one detaches.
    Removed(Weak<Segment>),
}

impl Known {
    fn get(&self) -> Option<Arc<Segment>> {
        match self {
            Known::Alive(segment) => Some(segment.clone()),
            Known::Removed(segment) => segment.upgrade(),
        }
    }

    /// How often it is attached, given that the caller holds no reference.
    fn attachments(&self) -> usize {
        match self {
            Known::Alive(segment) => Arc::strong_count(segment) - 1,
            Known::Removed(segment) => segment.strong_count(),
        }
    }
}

struct Table {
    segments: BTreeMap<i32, Known>,
    last: i32,
}

static TABLE: Mutex<Table> = Mutex::new(Table { segments: BTreeMap::new(), last: -1 });

impl Table {
    /// Forgets removed segments that nobody has attached.
    fn sweep(&mut self) {
        self.segments
            .retain(|_, known| !matches!(known, Known::Removed(segment) if segment.strong_count() == 0));
    }

    fn by_key(&self, key: i32) -> Option<(i32, &Arc<Segment>)> {
        self.segments.iter().find_map(|(&id, known)| match known {
            Known::Alive(segment) if segment.status.lock().permissions.key == key => Some((id, segment)),
            _ => None,
        })
    }

    fn create(&mut self, task: &Task, key: i32, size: usize, flags: u32) -> Result<i32> {
        if size == 0 || size as u64 > SIZE_MAX {
            return Err(Errno::EINVAL);
        }
        if flags & SHM_HUGETLB != 0 || size as u64 > rumpuser_memory_statistics().total {
            return Err(Errno::ENOMEM);
        }
        if self.segments.len() >= SEGMENTS_MAX {
            return Err(Errno::ENOSPC);
        }
        let permissions = Permissions::new(task.credentials(), key, flags);
        let status = Status {
            permissions,
            size: size as u64,
            changed_at: seconds(),
            creator: task.process().pid(),
            ..Status::default()
        };
        let memory = SharedMemory::new(size.div_ceil(PAGE_SIZE) as u64);
        let segment = Arc::new(Segment { memory, status: SpinLock::new(status) });
        loop {
            self.last = self.last.checked_add(1).unwrap_or(0);
            if !self.segments.contains_key(&self.last) {
                break;
            }
        }
        self.segments.insert(self.last, Known::Alive(segment));
        Ok(self.last)
    }
}

/// shmget(2).
pub fn shmget(task: &Task, key: i32, size: usize, flags: u32) -> Result<usize> {
    let mut table = TABLE.lock();
    table.sweep();
    if key != IPC_PRIVATE
        && let Some((id, segment)) = table.by_key(key)
    {
        if flags & (IPC_CREAT | IPC_EXCL) == IPC_CREAT | IPC_EXCL {
            return Err(Errno::EEXIST);
        }
        let status = *segment.status.lock();
        if size as u64 > status.size {
            return Err(Errno::EINVAL);
        }
        let wanted = (flags >> 6 | flags >> 3 | flags) & 7;
        status.permissions.check(task.credentials(), wanted)?;
        return Ok(id as usize);
    }
    if key != IPC_PRIVATE && flags & IPC_CREAT == 0 {
        return Err(Errno::ENOENT);
    }
    Ok(table.create(task, key, size, flags)? as usize)
}

/// shmat(2).
pub fn shmat(task: &Task, id: i32, address: usize, flags: u32) -> Result<usize> {
    let segment = TABLE.lock().segments.get(&id).and_then(Known::get).ok_or(Errno::EINVAL)?;
    let placement = if address == 0 {
        if flags & SHM_REMAP != 0 {
            return Err(Errno::EINVAL);
        }
        Placement::Anywhere
    } else {
        let rounded = address & !(PAGE_SIZE - 1);
        if rounded != address && flags & SHM_RND == 0 {
            return Err(Errno::EINVAL);
        }
        if flags & SHM_REMAP != 0 { Placement::Fixed(rounded) } else { Placement::FixedNoReplace(rounded) }
    };
    let status = *segment.status.lock();
    let read_only = flags & SHM_RDONLY != 0;
    status.permissions.check(task.credentials(), if read_only { READ } else { READ | WRITE })?;
    let mut protection = Protection::READ;
    protection.set(Protection::WRITE, !read_only);
    protection.set(Protection::EXECUTE, flags & SHM_EXEC != 0);
    let name = Name {
        path: format!("/SYSV{:08x} (deleted)", status.permissions.key).into_bytes(),
        device: 0,
        inode: id as u64,
    };
    let request = Request {
        placement,
        maximum: if read_only { Protection::all() - Protection::WRITE } else { Protection::all() },
        flags: EntryFlags::SHARED,
        backing: Backing::Pager { pager: segment.clone(), first: 0 },
        name: Some(Arc::new(name)),
        ..Request::anonymous(status.size as usize, protection)
    };
    let start = space_of(task)?.map(request).map_err(|error| match error {
        Errno::EEXIST => Errno::EINVAL,
        error => error,
    })?;
    let mut status = segment.status.lock();
    status.attached_at = seconds();
    status.last = task.process().pid();
    Ok(start)
}

/// shmdt(2).
pub fn shmdt(task: &Task, address: usize) -> Result<usize> {
    let space = space_of(task)?;
    let (pager, _, _) = space.find_pager(address).ok_or(Errno::EINVAL)?;
    let segment = {
        let table = TABLE.lock();
        let identity = pager.identity();
        table.segments.values().filter_map(Known::get).find(|segment| segment.identity() == identity)
    };
    let segment = segment.ok_or(Errno::EINVAL)?;
    drop(pager);
    space.unmap_object(address)?;
    {
        let mut status = segment.status.lock();
        status.detached_at = seconds();
        status.last = task.process().pid();
    }
    drop(segment);
    TABLE.lock().sweep();
    Ok(0)
}

/// shmctl(2).
pub fn shmctl(task: &Task, id: i32, command: u32, buffer: usize) -> Result<usize> {
    let who = task.credentials();
    let mut table = TABLE.lock();
    table.sweep();
    let highest = table.segments.last_key_value().map_or(0, |(&id, _)| id as usize);
    match command {
        IPC_INFO => {
            let limits = SystemLimits {
                size_max: SIZE_MAX,
                size_min: 1,
                segments: SEGMENTS_MAX as u64,
                attachments: SEGMENTS_MAX as u64,
                pages: SIZE_MAX,
                ..SystemLimits::default()
            };
            drop(table);
            UserPtr::new(buffer).write(&limits)?;
            return Ok(highest);
        }
        SHM_INFO => {
            let mut usage = SystemUsage { segments: table.segments.len() as i32, ..SystemUsage::default() };
            for segment in table.segments.values().filter_map(Known::get) {
                usage.pages += segment.memory.size();
                usage.resident += segment.memory.resident_pages() as u64;
            }
            drop(table);
            UserPtr::new(buffer).write(&usage)?;
            return Ok(highest);
        }
        _ => {}
    }
    let known = table.segments.get(&id).ok_or(Errno::EINVAL)?;
    let attachments = known.attachments() as u64;
    let segment = known.get().ok_or(Errno::EINVAL)?;
    let status = *segment.status.lock();
    match command {
        IPC_STAT | SHM_STAT | SHM_STAT_ANY => {
            drop(table);
            if command != SHM_STAT_ANY {
                status.permissions.check(who, READ)?;
            }
            UserPtr::new(buffer).write(&Status { attachments, ..status })?;
            Ok(if command == IPC_STAT { 0 } else { id as usize })
        }
        IPC_SET => {
            drop(table);
            let wanted = UserPtr::<Status>::new(buffer).read()?.permissions;
            status.permissions.require_owner(who)?;
            let mut status = segment.status.lock();
            status.permissions.set(&wanted);
            status.changed_at = seconds();
            Ok(0)
        }
        IPC_RMID => {
            status.permissions.require_owner(who)?;
            let mut status = segment.status.lock();
            status.permissions.mode |= MODE_DESTROYED;
            status.permissions.key = IPC_PRIVATE;
            drop(status);
            let removed = table.segments.insert(id, Known::Removed(Arc::downgrade(&segment)));
            drop(segment);
            drop(removed);
            table.sweep();
            Ok(0)
        }
        SHM_LOCK | SHM_UNLOCK => {
            status.permissions.require_owner(who)?;
            let mode = &mut segment.status.lock().permissions.mode;
            *mode = if command == SHM_LOCK { *mode | MODE_LOCKED } else { *mode & !MODE_LOCKED };
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}
