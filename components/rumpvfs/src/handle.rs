//! Files found again by handle instead of by name (open_by_handle_at(2)), as NFS servers do.

use alloc::{sync::Arc, vec::Vec};

use rumpkern::{Errno, Result};

use crate::{
    dentry::Dentry,
    mount::{Location, Mount},
    vnode::{Handle, Kind, Vnode},
};

/// No directory is deeper.
const DEPTH_MAX: usize = 2048;

impl Mount {
    /// The file with a handle, in the file system of this mount. A directory gets its place in the tree back, so
    /// that names in it are looked up, made and removed as ever; another file has no name. ESTALE if there is no
    /// such file any more.
    pub fn by_handle(self: &Arc<Self>, handle: Handle) -> Result<Location> {
        let vnode = self.file_system().by_handle(handle)?;
        let entry = match vnode.kind() {
            Kind::Directory => self.top().descend(vnode)?,
            _ => Dentry::detached(vnode, None, b""),
        };
        Ok(Location { mount: self.clone(), entry })
    }
}

fn inode(vnode: &Arc<dyn Vnode>) -> Result<u64> {
    Ok(vnode.attributes()?.inode)
}

/// The name of the directory with number `child` in `directory`.
fn name_of(directory: &Arc<dyn Vnode>, child: u64) -> Result<Vec<u8>> {
    let mut name = None;
    directory.entries(0, &mut |entry| {
        if entry.inode == child && entry.name != b"." && entry.name != b".." {
            name = Some(entry.name.to_vec());
        }
        name.is_none()
    })?;
    name.ok_or(Errno::ESTALE)
}

impl Dentry {
    /// The entry of a directory somewhere below this one, which is the file system's root.
    fn descend(self: Arc<Self>, directory: Arc<dyn Vnode>) -> Result<Arc<Dentry>> {
        let top = inode(self.vnode())?;
        let mut above = Vec::new();
        let mut at = directory;
        while inode(&at)? != top {
            if above.len() == DEPTH_MAX {
                return Err(Errno::ELOOP);
            }
            let parent = at.parent()?;
            above.push(at);
            at = parent;
        }
        let mut entry = self;
        for vnode in above.iter().rev() {
            let number = inode(vnode)?;
            let name = name_of(entry.vnode(), number)?;
            entry = entry.lookup(&name)?;
            if inode(entry.vnode())? != number {
                // Renamed meanwhile.
                return Err(Errno::ESTALE);
            }
        }
        Ok(entry)
    }
}
