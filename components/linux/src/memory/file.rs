//! memfd_create(2): files that live in memory and have no name.

use alloc::sync::Arc;

use linux_raw_sys::general::{MFD_ALLOW_SEALING, MFD_CLOEXEC, MFD_EXEC, MFD_HUGETLB, MFD_NOEXEC_SEAL};
use rumpkern::{Errno, Result};
use rumpuser::sync::Mutex;
use rumpvfs::{
    file::OpenFlags,
    tmpfs::{Limits, TmpFs, seal},
};

use crate::{
    files::{OpenFile, context::credentials, open::install},
    task::Task,
    user::read_string,
};

/// The longest name, without its NUL.
const NAME_MAX: usize = 249;

/// The file system that memory files are in; it is mounted nowhere.
fn file_system() -> Result<Arc<TmpFs>> {
    static FILES: Mutex<Option<Arc<TmpFs>>> = Mutex::new(None);
    let mut files = FILES.lock();
    if let Some(files) = &*files {
        return Ok(files.clone());
    }
    Ok(files.insert(TmpFs::new(Limits::default(), 0o1777)?).clone())
}

/// memfd_create(2).
pub fn memfd_create(task: &Task, name: usize, flags: u32) -> Result<usize> {
    let exclusive = MFD_EXEC | MFD_NOEXEC_SEAL;
    if flags & !(MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | exclusive) != 0
        || flags & exclusive == exclusive
    {
        return Err(Errno::EINVAL);
    }
    let name = read_string(name, NAME_MAX + 1, Errno::EINVAL)?;
    if flags & MFD_HUGETLB != 0 {
        // No large pages are set aside.
        return Err(Errno::ENOMEM);
    }
    let sealed = flags & MFD_NOEXEC_SEAL != 0;
    let sealable = flags & MFD_ALLOW_SEALING != 0 || sealed;
    let permissions = if sealed { 0o666 } else { 0o777 };
    let opened = file_system()?.memory_file(&name, &credentials(task), permissions, sealable)?;
    if sealed {
        opened.location.vnode().add_seals(seal::EXECUTE)?;
    }
    let file =
        OpenFile::new(opened.file, OpenFlags::READ_WRITE | OpenFlags::LARGE_FILE, Some(opened.location));
    install(task, file, flags & MFD_CLOEXEC != 0)
}
