//! System V semaphores: semget(2), semop(2), semtimedop(2), semctl(2).

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, Ordering};

use rumpkern::{
    Errno, Result,
    wait::{WaitError, WaitQueue},
};
use rumpuser::{
    NEVER,
    sync::{Mutex, SpinLock},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    IPC_CREAT, IPC_EXCL, IPC_INFO, IPC_PRIVATE, IPC_RMID, IPC_SET, IPC_STAT, Permissions, READ, WRITE,
    operation::{Obstacle, Operation, SEM_UNDO, Semaphore, Set, State, VALUE_MAX},
    seconds,
};
use crate::{
    process::Process,
    task::Task,
    user::{Timespec, UserPtr},
};

const GETPID: u32 = 11;
const GETVAL: u32 = 12;
const GETALL: u32 = 13;
const GETNCNT: u32 = 14;
const GETZCNT: u32 = 15;
const SETVAL: u32 = 16;
const SETALL: u32 = 17;
const SEM_STAT: u32 = 18;
const SEM_INFO: u32 = 19;
const SEM_STAT_ANY: u32 = 20;

/// Most sets (SEMMNI) and semaphores in a set (SEMMSL): as Linux's.
const SETS_MAX: usize = 32000;
const SET_MAX: usize = 32000;
/// Most semaphores in all.
const SEMAPHORES_MAX: usize = 1 << 20;
/// Most operations in a call (SEMOPM).
const OPERATIONS_MAX: usize = 500;

/// `struct semid64_ds`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Status {
    permissions: Permissions,
    operated_at: i64,
    unused1: u64,
    changed_at: i64,
    unused2: u64,
    count: u64,
    unused: [u64; 2],
}

/// `struct seminfo`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct SystemLimits {
    map: i32,
    sets: i32,
    semaphores: i32,
    undo_structures: i32,
    in_set: i32,
    operations: i32,
    undo_entries: i32,
    used_sets: i32,
    value: i32,
    used_semaphores: i32,
}

struct Table {
    sets: BTreeMap<i32, Arc<Set>>,
    semaphores: usize,
    last: i32,
}

static TABLE: Mutex<Table> = Mutex::new(Table { sets: BTreeMap::new(), semaphores: 0, last: -1 });
/// Whether anything was ever to be undone, so that most exits needn't look.
static UNDO: AtomicBool = AtomicBool::new(false);

fn find(id: i32) -> Result<Arc<Set>> {
    TABLE.lock().sets.get(&id).cloned().ok_or(Errno::EINVAL)
}

/// semget(2).
pub fn semget(task: &Task, key: i32, count: i32, flags: u32) -> Result<usize> {
    let count = usize::try_from(count).ok().filter(|&count| count <= SET_MAX).ok_or(Errno::EINVAL)?;
    let mut table = TABLE.lock();
    let found = table.sets.iter().find(|(_, set)| set.state.lock().permissions.key == key);
    if key != IPC_PRIVATE
        && let Some((&id, set)) = found
    {
        if flags & (IPC_CREAT | IPC_EXCL) == IPC_CREAT | IPC_EXCL {
            return Err(Errno::EEXIST);
        }
        let state = set.state.lock();
        if count > state.semaphores.len() {
            return Err(Errno::EINVAL);
        }
        state.permissions.check(task.credentials(), (flags >> 6 | flags >> 3 | flags) & 7)?;
        return Ok(id as usize);
    }
    if key != IPC_PRIVATE && flags & IPC_CREAT == 0 {
        return Err(Errno::ENOENT);
    }
    if count == 0 {
        return Err(Errno::EINVAL);
    }
    if table.sets.len() >= SETS_MAX || table.semaphores + count > SEMAPHORES_MAX {
        return Err(Errno::ENOSPC);
    }
    let mut semaphores = Vec::new();
    semaphores.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    semaphores.resize(count, Semaphore::default());
    let state = State {
        permissions: Permissions::new(task.credentials(), key, flags),
        operated_at: 0,
        changed_at: seconds(),
        removed: false,
        semaphores,
        adjustments: BTreeMap::new(),
    };
    let id = loop {
        table.last = table.last.checked_add(1).unwrap_or(0);
        if !table.sets.contains_key(&table.last) {
            break table.last;
        }
    };
    let set = Set { state: SpinLock::new(state), changed: WaitQueue::new() };
    table.sets.insert(id, Arc::new(set));
    table.semaphores += count;
    Ok(id as usize)
}

/// semop(2).
pub fn semop(task: &Task, id: i32, operations: UserPtr<Operation>, count: usize) -> Result<usize> {
    semtimedop(task, id, operations, count, UserPtr::new(0))
}

/// semtimedop(2).
pub fn semtimedop(
    task: &Task,
    id: i32,
    operations: UserPtr<Operation>,
    count: usize,
    timeout: UserPtr<Timespec>,
) -> Result<usize> {
    if count == 0 || id < 0 {
        return Err(Errno::EINVAL);
    }
    if count > OPERATIONS_MAX {
        return Err(Errno::E2BIG);
    }
    let operations = operations.read_array(count)?;
    let deadline = match timeout.non_null() {
        Some(timeout) => task.deadline_after(timeout.read()?.to_nanoseconds()?),
        None => NEVER,
    };
    let set = find(id)?;
    let pid = task.process().pid();
    {
        let state = set.state.lock();
        let last = operations.iter().map(|operation| usize::from(operation.index)).max();
        if last >= Some(state.semaphores.len()) {
            return Err(Errno::EFBIG);
        }
        let alters = operations.iter().any(|operation| operation.change != 0);
        state.permissions.check(task.credentials(), if alters { WRITE } else { READ })?;
    }
    if operations.iter().any(|operation| operation.flags & SEM_UNDO != 0) {
        UNDO.store(true, Ordering::Relaxed);
    }
    let mut counted: Option<Obstacle> = None;
    let forget = |state: &mut State, counted: &mut Option<Obstacle>| {
        if let Some(obstacle) = counted.take() {
            let waiting = state.semaphores[obstacle.index].waiting(obstacle.zero);
            *waiting = waiting.saturating_sub(1);
        }
    };
    let outcome = set.changed.wait(deadline, || {
        let mut state = set.state.lock();
        forget(&mut state, &mut counted);
        if state.removed {
            return Some(Err(Errno::EIDRM));
        }
        match state.attempt(&operations, pid) {
            Ok(Some(obstacle)) => {
                *state.semaphores[obstacle.index].waiting(obstacle.zero) += 1;
                counted = Some(obstacle);
                None
            }
            Ok(None) => {
                state.operated_at = seconds();
                Some(Ok(()))
            }
            Err(error) => Some(Err(error)),
        }
    });
    forget(&mut set.state.lock(), &mut counted);
    match outcome {
        Ok(result) => result?,
        Err(WaitError::TimedOut) => return Err(Errno::EAGAIN),
        Err(WaitError::Interrupted) => return Err(Errno::EINTR),
    }
    if operations.iter().any(|operation| operation.change != 0) {
        set.changed.wake_all();
    }
    Ok(0)
}

/// A process ended: what it asked to be undone is undone.
pub fn process_ends(process: &Process) {
    if !UNDO.load(Ordering::Relaxed) {
        return;
    }
    let sets: Vec<_> = TABLE.lock().sets.values().cloned().collect();
    for set in sets {
        if set.state.lock().undo(process.pid()) {
            set.changed.wake_all();
        }
    }
}

fn system(buffer: usize, usage: bool) -> Result<usize> {
    let table = TABLE.lock();
    let highest = table.sets.last_key_value().map_or(0, |(&id, _)| id as usize);
    let mut limits = SystemLimits {
        map: (SETS_MAX * SET_MAX) as i32,
        sets: SETS_MAX as i32,
        semaphores: (SETS_MAX * SET_MAX) as i32,
        undo_structures: (SETS_MAX * SET_MAX) as i32,
        in_set: SET_MAX as i32,
        operations: OPERATIONS_MAX as i32,
        undo_entries: OPERATIONS_MAX as i32,
        used_sets: 20,
        value: VALUE_MAX,
        used_semaphores: VALUE_MAX,
    };
    if usage {
        limits.used_sets = table.sets.len() as i32;
        limits.used_semaphores = table.semaphores as i32;
    }
    drop(table);
    UserPtr::new(buffer).write(&limits)?;
    Ok(highest)
}

fn remove(task: &Task, id: i32) -> Result<usize> {
    let mut table = TABLE.lock();
    let set = table.sets.get(&id).cloned().ok_or(Errno::EINVAL)?;
    let mut state = set.state.lock();
    state.permissions.require_owner(task.credentials())?;
    state.removed = true;
    let count = state.semaphores.len();
    drop(state);
    table.semaphores = table.semaphores.saturating_sub(count);
    let removed = table.sets.remove(&id);
    drop(table);
    set.changed.wake_all();
    drop(removed);
    Ok(0)
}

/// SETVAL and SETALL.
fn set_values(task: &Task, set: &Set, first: usize, values: &[u16]) -> Result<usize> {
    if values.iter().any(|&value| i32::from(value) > VALUE_MAX) {
        return Err(Errno::ERANGE);
    }
    let pid = task.process().pid();
    let mut state = set.state.lock();
    state.permissions.check(task.credentials(), WRITE)?;
    if state.removed {
        return Err(Errno::EIDRM);
    }
    for (index, &value) in values.iter().enumerate() {
        state.set(first + index, value, pid);
    }
    state.changed_at = seconds();
    drop(state);
    set.changed.wake_all();
    Ok(0)
}

/// semctl(2).
pub fn semctl(task: &Task, id: i32, index: i32, command: u32, argument: usize) -> Result<usize> {
    match command {
        IPC_INFO | SEM_INFO => return system(argument, command == SEM_INFO),
        IPC_RMID => return remove(task, id),
        _ => {}
    }
    let set = find(id)?;
    let who = task.credentials();
    let count = set.state.lock().semaphores.len();
    match command {
        IPC_STAT | SEM_STAT | SEM_STAT_ANY => {
            let state = set.state.lock();
            if command != SEM_STAT_ANY {
                state.permissions.check(who, READ)?;
            }
            let status = Status {
                permissions: state.permissions,
                operated_at: state.operated_at,
                changed_at: state.changed_at,
                count: count as u64,
                ..Status::default()
            };
            drop(state);
            UserPtr::new(argument).write(&status)?;
            return Ok(if command == IPC_STAT { 0 } else { id as usize });
        }
        IPC_SET => {
            let wanted = UserPtr::<Status>::new(argument).read()?.permissions;
            let mut state = set.state.lock();
            state.permissions.require_owner(who)?;
            state.permissions.set(&wanted);
            state.changed_at = seconds();
            return Ok(0);
        }
        GETALL => {
            let mut values = Vec::new();
            values.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
            let state = set.state.lock();
            state.permissions.check(who, READ)?;
            values.extend(state.semaphores.iter().map(|semaphore| semaphore.value));
            drop(state);
            return UserPtr::new(argument).write_array(&values).map(|()| 0);
        }
        SETALL => {
            let values = UserPtr::<u16>::new(argument).read_array(count)?;
            return set_values(task, &set, 0, &values);
        }
        _ => {}
    }
    let index = usize::try_from(index).ok().filter(|&index| index < count).ok_or(Errno::EINVAL)?;
    if command == SETVAL {
        let value = u16::try_from(argument as i32).map_err(|_| Errno::ERANGE)?;
        return set_values(task, &set, index, &[value]);
    }
    let state = set.state.lock();
    let semaphore = state.semaphores[index];
    let value = match command {
        GETVAL => usize::from(semaphore.value),
        GETPID => semaphore.last as usize,
        GETNCNT => semaphore.wait_more as usize,
        GETZCNT => semaphore.wait_zero as usize,
        _ => return Err(Errno::EINVAL),
    };
    state.permissions.check(who, READ)?;
    Ok(value)
}
