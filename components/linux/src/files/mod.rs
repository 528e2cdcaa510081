//! Descriptors: the table of a process, and the system calls on open files.

pub mod attributes;
pub mod context;
pub mod descriptor;
pub mod epoll;
pub mod epoll_calls;
pub mod eventfd;
pub mod fcntl;
pub mod handle;
pub mod inotify;
pub mod io;
pub mod ioctl;
pub mod locks;
mod mask;
pub mod mount;
pub mod names;
pub mod open;
pub mod open_file;
pub mod poll;
pub mod signal_io;
pub mod signalfd;
pub mod socket;
pub mod splice;
mod splice_socket;
pub mod stat;
pub mod timerfd;
pub mod xattr;

pub use context::FsContext;
pub use descriptor::DescriptorTable;
pub use open_file::OpenFile;

use alloc::sync::Arc;

use rumpkern::Result;
use rumpvfs::file::{File, OpenFlags};

use crate::{limits::Resource, task::Task};

/// No descriptor is as large.
pub const DESCRIPTOR_LIMIT: usize = descriptor::LIMIT;

/// Gives a file that has no name the task's lowest free descriptor.
pub(crate) fn install(task: &Task, file: Arc<dyn File>, flags: OpenFlags) -> Result<usize> {
    let close_on_exec = flags.contains(OpenFlags::CLOSE_ON_EXEC);
    let file = OpenFile::new(file, flags, None);
    let limit = task.process().limit(Resource::OpenFiles);
    task.files().insert(file, 0, limit, close_on_exec).map(|descriptor| descriptor as usize)
}

/// Gives the task a descriptor table of its own (unshare CLONE_FILES).
#[allow(unsafe_code, reason = "replaces what the task's thread reads without a lock")]
pub(crate) fn unshare(task: &Task) {
    let copy = task.files().fork();
    // SAFETY: called by the task's own thread, between two uses of its descriptors.
    drop(unsafe { task.replace_files(Some(copy)) });
}
