//! System calls: descriptors that refer to processes (pidfd_open, pidfd_send_signal).

use alloc::{string::String, sync::Arc};
use core::any::Any;

use rumpkern::{
    Errno, Result,
    poll::{Events, Observer},
};
use rumpvfs::file::{File, OpenFlags};

use crate::{
    process::Process,
    registry,
    signal::{SignalInfo, calls},
    task::Task,
    user::UserPtr,
};

const PIDFD_NONBLOCK: u32 = 0o4000;

/// The file behind a descriptor that refers to a process; readable once the process has ended.
pub struct ProcessFile {
    process: Arc<Process>,
}

impl ProcessFile {
    /// The process.
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }
}

impl File for ProcessFile {
    fn poll(&self) -> Events {
        if self.process.is_zombie() { Events::IN | Events::RDNORM } else { Events::empty() }
    }

    fn observe(&self, observer: &Arc<dyn Observer>) {
        self.process.ended.observe(observer);
    }

    fn unobserve(&self, observer: &Arc<dyn Observer>) {
        self.process.ended.unobserve(observer);
    }

    fn description(&self) -> String {
        String::from("anon_inode:[pidfd]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Makes a descriptor for a process.
pub fn install(task: &Task, process: &Arc<Process>, flags: u32) -> Result<usize> {
    let file = Arc::new(ProcessFile { process: process.clone() });
    let flags = if flags & PIDFD_NONBLOCK != 0 { OpenFlags::NON_BLOCKING } else { OpenFlags::empty() };
    crate::files::install(task, file, flags | OpenFlags::READ_WRITE | OpenFlags::CLOSE_ON_EXEC)
}

/// The process that a descriptor refers to.
pub fn process_of(task: &Task, descriptor: i32) -> Result<Arc<Process>> {
    let file = task.files().get(descriptor)?;
    let file = file.downcast::<ProcessFile>().ok_or(Errno::EBADF)?;
    Ok(file.process.clone())
}

/// pidfd_open(2).
pub fn pidfd_open(task: &Task, pid: i32, flags: u32) -> Result<usize> {
    if pid <= 0 || flags & !PIDFD_NONBLOCK != 0 {
        return Err(Errno::EINVAL);
    }
    let Some(process) = registry::process(pid) else {
        let is_task = registry::task(pid).is_some();
        return Err(if is_task { Errno::EINVAL } else { Errno::ESRCH });
    };
    install(task, &process, flags)
}

/// pidfd_send_signal(2).
pub fn pidfd_send_signal(
    task: &Task,
    descriptor: i32,
    signal: i32,
    info: UserPtr<SignalInfo>,
    flags: u32,
) -> Result<usize> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let process = process_of(task, descriptor)?;
    if process.is_zombie() {
        return Err(Errno::ESRCH);
    }
    if info.is_null() {
        return calls::kill(task, process.pid(), signal);
    }
    let info = calls::read_info(task, process.pid(), signal, info)?;
    calls::queue_to(task, &process, info)
}
