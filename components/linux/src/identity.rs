//! System calls: who a task is (getpid, getuid and their kin).

use rumpkern::Result;

use crate::task::Task;

/// getpid(2).
pub fn getpid(task: &Task) -> Result<usize> {
    Ok(task.process().pid() as usize)
}

/// gettid(2).
pub fn gettid(task: &Task) -> Result<usize> {
    Ok(task.tid() as usize)
}

/// getppid(2).
pub fn getppid(task: &Task) -> Result<usize> {
    Ok(task.process().parent_pid() as usize)
}
