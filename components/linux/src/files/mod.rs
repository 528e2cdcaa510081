//! Descriptors: the table of a process, and the system calls on open files.

use alloc::sync::Arc;

/// A process's descriptors. Shared between tasks with CLONE_FILES.
#[derive(Default)]
pub struct DescriptorTable {}

impl DescriptorTable {
    /// An empty table.
    pub fn new() -> Arc<Self> {
        Arc::new(DescriptorTable::default())
    }

    /// A copy for fork: the same open files, a table of its own.
    pub fn fork(&self) -> Arc<Self> {
        Arc::new(DescriptorTable {})
    }

    /// Closes what execve closes.
    pub fn close_on_exec(&self) {}

    /// Closes everything, when the last task that uses the table is gone.
    pub fn close_all(&self) {}
}

/// What names are looked up in: root, working directory, umask. Shared between tasks with CLONE_FS.
#[derive(Default)]
pub struct FsContext {}

impl FsContext {
    /// A copy for fork.
    pub fn fork(&self) -> Arc<Self> {
        Arc::new(FsContext {})
    }
}
