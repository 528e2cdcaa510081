//! devpts: the file system of /dev/pts, with an entry for each pseudo-terminal.

use alloc::{string::ToString, sync::Arc};
use core::any::Any;

use rumpkern::{Errno, Result};
use rumpvfs::{
    file::{File, OpenFlags},
    vnode::{AttributeChanges, Attributes, DirectoryEntry, FileSystem, Kind, Statistics, Vnode},
};

use super::pty;

const MAGIC: u64 = 0x1cd1;
/// `st_dev` of the file system.
const DEVICE: u64 = 0x17;
const ROOT_INODE: u64 = 1;
const PTMX_INODE: u64 = 2;
/// Inode numbers of slaves start here.
const FIRST_INODE: u64 = 3;

/// The mounted file system.
pub struct DevPts {
    root: Arc<Root>,
}

/// The file system, ready to be mounted at /dev/pts.
pub fn devpts() -> Arc<dyn FileSystem> {
    Arc::new(DevPts { root: Arc::new(Root) })
}

impl FileSystem for DevPts {
    fn name(&self) -> &'static str {
        "devpts"
    }

    fn root(&self) -> Arc<dyn Vnode> {
        self.root.clone()
    }

    fn volatile(&self) -> bool {
        true
    }
}

fn statistics() -> Statistics {
    Statistics { magic: MAGIC, block_size: 4096, name_length: 255, ..Statistics::default() }
}

fn attributes(inode: u64, kind: Kind, permissions: u32, rdev: u64, time: i64) -> Attributes {
    Attributes {
        device: DEVICE,
        inode,
        kind,
        permissions,
        links: if kind == Kind::Directory { 2 } else { 1 },
        uid: 0,
        gid: if kind == Kind::Character && rdev >> 8 == 136 { 5 } else { 0 },
        rdev,
        size: 0,
        blocks: 0,
        block_size: 1024,
        accessed: time,
        modified: time,
        changed: time,
        born: time,
    }
}

struct Root;

impl Vnode for Root {
    fn attributes(&self) -> Result<Attributes> {
        Ok(attributes(ROOT_INODE, Kind::Directory, 0o755, 0, 0))
    }

    fn kind(&self) -> Kind {
        Kind::Directory
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Vnode>> {
        if name == b"ptmx" {
            return Ok(Arc::new(Node { number: None }));
        }
        let number: u32 =
            core::str::from_utf8(name).ok().and_then(|name| name.parse().ok()).ok_or(Errno::ENOENT)?;
        // "+1" and "01" parse, and are not names.
        if number.to_string().as_bytes() != name || pty::made(number).is_none() {
            return Err(Errno::ENOENT);
        }
        Ok(Arc::new(Node { number: Some(number) }))
    }

    fn parent(&self) -> Result<Arc<dyn Vnode>> {
        Ok(Arc::new(Root))
    }

    fn entries(&self, position: u64, visit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool) -> Result<()> {
        let fixed: [(&[u8], u64, Kind); 3] = [
            (b".", ROOT_INODE, Kind::Directory),
            (b"..", ROOT_INODE, Kind::Directory),
            (b"ptmx", PTMX_INODE, Kind::Character),
        ];
        for (index, (name, inode, kind)) in (1u64..).zip(fixed).skip_while(|(index, _)| *index <= position) {
            if !visit(DirectoryEntry { name, inode, kind, next: index }) {
                return Ok(());
            }
        }
        let from = u32::try_from(position.saturating_sub(3)).unwrap_or(u32::MAX);
        for number in pty::numbers(from) {
            let name = number.to_string();
            let entry = DirectoryEntry {
                name: name.as_bytes(),
                inode: FIRST_INODE + u64::from(number),
                kind: Kind::Character,
                next: 4 + u64::from(number),
            };
            if !visit(entry) {
                break;
            }
        }
        Ok(())
    }

    fn open(self: Arc<Self>, _flags: OpenFlags) -> Result<Arc<dyn File>> {
        Err(Errno::EISDIR)
    }

    fn statistics(&self) -> Result<Statistics> {
        Ok(statistics())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A slave, or (without a number) ptmx.
struct Node {
    number: Option<u32>,
}

impl Vnode for Node {
    fn attributes(&self) -> Result<Attributes> {
        Ok(match self.number {
            None => attributes(PTMX_INODE, Kind::Character, 0o666, 5 << 8 | 2, 0),
            Some(number) => {
                let made = pty::made(number).ok_or(Errno::ENOENT)?;
                let inode = FIRST_INODE + u64::from(number);
                attributes(inode, Kind::Character, 0o620, pty::slave_device(number), made)
            }
        })
    }

    fn kind(&self) -> Kind {
        Kind::Character
    }

    /// Owner and permissions don't stick: every program may be trusted with its terminal here.
    fn set_attributes(&self, changes: &AttributeChanges) -> Result<()> {
        if changes.size.is_some() { Err(Errno::EINVAL) } else { Ok(()) }
    }

    fn open(self: Arc<Self>, flags: OpenFlags) -> Result<Arc<dyn File>> {
        match self.number {
            None => pty::open_master(),
            Some(number) => pty::open_slave(number, flags),
        }
    }

    fn statistics(&self) -> Result<Statistics> {
        Ok(statistics())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
