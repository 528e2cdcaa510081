//! Descriptors: the table of a process, and the system calls on open files.

pub mod attributes;
pub mod boot;
pub mod context;
pub mod descriptor;
pub mod epoll;
pub mod epoll_calls;
pub mod eventfd;
pub mod fcntl;
pub mod io;
pub mod ioctl;
pub mod locks;
mod mask;
pub mod mount;
pub mod names;
pub mod open;
pub mod open_file;
pub mod poll;
pub mod socket;
pub mod splice;
pub mod stat;
pub mod xattr;

pub use context::FsContext;
pub use descriptor::DescriptorTable;
pub use open_file::OpenFile;

use crate::task::Task;

/// Gives the task a descriptor table of its own (unshare CLONE_FILES).
#[allow(unsafe_code, reason = "replaces what the task's thread reads without a lock")]
pub(crate) fn unshare(task: &Task) {
    let copy = task.files().fork();
    // SAFETY: called by the task's own thread, between two uses of its descriptors.
    drop(unsafe { task.replace_files(Some(copy)) });
}
