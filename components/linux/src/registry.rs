//! All processes and tasks by identifier.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use core::sync::atomic::Ordering;

use rumpkern::{Errno, Result};
use rumpuser::{
    rumpuser_memory_statistics,
    sync::{Mutex, RwLock},
};

use crate::{process::Process, task::Task};

/// Identifiers are smaller (PID_MAX_LIMIT).
pub const PID_MAX: i32 = 4 << 20;

static PROCESSES: RwLock<BTreeMap<i32, Arc<Process>>> = RwLock::new(BTreeMap::new());
static TASKS: RwLock<BTreeMap<i32, Arc<Task>>> = RwLock::new(BTreeMap::new());
/// The last identifier that was given, and whether numbers may be in use as those of groups and sessions: they were
/// given more than once.
static LAST: Mutex<(i32, bool)> = Mutex::new((0, false));

/// How many tasks there may be: an eighth of the memory in stacks of 16 KiB, as Linux computes threads-max.
pub fn most_tasks() -> usize {
    (rumpuser_memory_statistics().total / (8 * 16384)).clamp(64, PID_MAX as u64 / 2) as usize
}

/// An identifier that no process, task, group or session has. EAGAIN if there is none.
pub fn allocate() -> Result<i32> {
    let mut last = LAST.lock();
    let mut tries = 0;
    loop {
        let (number, again) = &mut *last;
        let wraps = *number >= PID_MAX - 1;
        *number = if wraps { 2 } else { *number + 1 };
        *again |= wraps;
        if !*again || !is_taken(*number) {
            return Ok(*number);
        }
        tries += 1;
        if tries > 1 << 16 {
            return Err(Errno::EAGAIN);
        }
    }
}

fn is_taken(number: i32) -> bool {
    let processes = PROCESSES.read();
    processes.contains_key(&number)
        || TASKS.read().contains_key(&number)
        || processes.values().any(|process| process.group() == number || process.session() == number)
}

/// Adds a process.
pub fn add_process(process: &Arc<Process>) {
    PROCESSES.write().insert(process.pid(), process.clone());
}

/// Removes a process that was reaped.
pub fn remove_process(pid: i32) {
    PROCESSES.write().remove(&pid);
}

/// Adds a task.
pub fn add_task(task: &Arc<Task>) {
    TASKS.write().insert(task.tid(), task.clone());
}

/// Removes a task that has ended.
pub fn remove_task(tid: i32) {
    TASKS.write().remove(&tid);
}

/// The process with an identifier, zombies included.
pub fn process(pid: i32) -> Option<Arc<Process>> {
    PROCESSES.read().get(&pid).cloned()
}

/// The task with an identifier.
pub fn task(tid: i32) -> Option<Arc<Task>> {
    TASKS.read().get(&tid).cloned()
}

/// All processes in order of their identifiers.
pub fn processes() -> Vec<Arc<Process>> {
    PROCESSES.read().values().cloned().collect()
}

/// The processes of a group.
pub fn group(group: i32) -> Vec<Arc<Process>> {
    PROCESSES.read().values().filter(|process| process.group() == group).cloned().collect()
}

/// How many tasks there are.
pub fn task_count() -> usize {
    TASKS.read().len()
}

/// How many tasks a user has.
pub fn count_of_user(uid: u32) -> usize {
    let is_own = |task: &&Arc<Task>| task.process().uid.load(Ordering::Relaxed) == uid;
    TASKS.read().values().filter(is_own).count()
}
