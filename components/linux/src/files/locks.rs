//! What becomes of file locks when files are closed.

use alloc::sync::Arc;

use super::{descriptor::DescriptorTable, open_file::OpenFile};

/// A process closed a descriptor: its record locks on the file go (fcntl(2)).
pub(super) fn release_record_locks(_table: &DescriptorTable, _file: &Arc<OpenFile>) {}

/// An open file is gone: so is its flock(2) lock.
pub(super) fn release_flock(_file: &OpenFile) {}
