//! A caller with a root directory, for the tests.
#![allow(dead_code, reason = "every test uses a part of it")]
#![allow(unsafe_code, reason = "the image is laid out in page-aligned memory, as in a payload")]

use std::sync::Arc;

use image::{
    rootfs::RootFs,
    tree::{Attributes, Content, Kind, Node, Tree},
    writer::Layout,
};
use rumpkern::{
    Errno, Result,
    uio::{Sink, Source},
};
use rumpvfs::{
    access::Credentials,
    file::{File, OpenFlags},
    mount::{Location, Mount, MountOptions},
    namei::Lookup,
    names::Opened,
    tmpfs::{Limits, TmpFs},
    vnode::{Attributes as FileAttributes, Creation, FileSystem, Kind as FileKind},
};

pub struct Caller {
    pub root: Location,
    pub directory: Location,
    pub credentials: Credentials,
}

impl Caller {
    pub fn new(file_system: Arc<dyn FileSystem>) -> Self {
        let root = Mount::root(file_system, MountOptions::default());
        Caller { directory: root.clone(), root, credentials: Credentials::root() }
    }

    pub fn tmpfs() -> Self {
        Caller::new(TmpFs::new(Limits { bytes: 64 << 20, files: 10_000 }, 0o755).expect("tmpfs"))
    }

    pub fn over(tree: &Tree) -> Self {
        Caller::new(TmpFs::over(image(tree), Limits { bytes: 64 << 20, files: 10_000 }).expect("a root"))
    }

    pub fn user(&self, uid: u32, gid: u32) -> Caller {
        let credentials = Credentials { uid, gid, groups: Arc::from([]), privileged: false };
        Caller { root: self.root.clone(), directory: self.directory.clone(), credentials }
    }

    pub fn lookup(&self) -> Lookup<'_> {
        Lookup::new(&self.root, &self.directory, &self.credentials)
    }

    pub fn open(&self, path: &str, flags: OpenFlags) -> Result<Opened> {
        self.lookup().open(path.as_bytes(), flags, 0o644)
    }

    pub fn write(&self, path: &str, text: &[u8]) -> Result<()> {
        let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY | OpenFlags::TRUNCATE;
        let opened = self.open(path, flags)?;
        put(&*opened.file, 0, text).map(|_| ())
    }

    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        let opened = self.open(path, OpenFlags::empty())?;
        get(&*opened.file, 0, 1 << 20)
    }

    fn create(&self, path: &str, kind: FileKind, permissions: u32, target: &str) -> Result<()> {
        let creation = Creation { kind, permissions, uid: 0, gid: 0, target: target.as_bytes(), rdev: 0 };
        self.lookup().create(path.as_bytes(), &creation).map(|_| ())
    }

    pub fn mkdir(&self, path: &str) -> Result<()> {
        self.create(path, FileKind::Directory, 0o755, "")
    }

    pub fn mkfifo(&self, path: &str) -> Result<()> {
        self.create(path, FileKind::Fifo, 0o644, "")
    }

    pub fn symlink(&self, target: &str, path: &str) -> Result<()> {
        self.create(path, FileKind::Symlink, 0o777, target)
    }

    pub fn link(&self, old: &str, new: &str) -> Result<()> {
        let target = self.lookup().resolve(old.as_bytes(), false)?;
        self.lookup().link(&target, new.as_bytes())
    }

    pub fn unlink(&self, path: &str) -> Result<()> {
        self.lookup().remove(path.as_bytes(), false)
    }

    pub fn rmdir(&self, path: &str) -> Result<()> {
        self.lookup().remove(path.as_bytes(), true)
    }

    pub fn rename(&self, old: &str, new: &str) -> Result<()> {
        self.lookup().rename(old.as_bytes(), &self.lookup(), new.as_bytes(), false, false)
    }

    pub fn stat(&self, path: &str) -> Result<FileAttributes> {
        self.lookup().resolve(path.as_bytes(), true)?.vnode().attributes()
    }

    pub fn lstat(&self, path: &str) -> Result<FileAttributes> {
        self.lookup().resolve(path.as_bytes(), false)?.vnode().attributes()
    }

    pub fn path_of(&self, path: &str) -> Result<String> {
        let location = self.lookup().resolve(path.as_bytes(), true)?;
        Ok(String::from_utf8_lossy(&location.path(&self.root)).into_owned())
    }

    pub fn list(&self, path: &str) -> Result<Vec<String>> {
        let location = self.lookup().resolve(path.as_bytes(), true)?;
        let mut names = Vec::new();
        location.vnode().entries(0, &mut |entry| {
            names.push(String::from_utf8_lossy(entry.name).into_owned());
            true
        })?;
        names.sort();
        assert_eq!(&names[..2], [".", ".."]);
        Ok(names.split_off(2))
    }
}

pub fn put(file: &dyn File, mut offset: u64, data: &[u8]) -> Result<usize> {
    file.write(&mut Source::kernel(data), &mut offset, OpenFlags::empty())
}

pub fn get(file: &dyn File, offset: u64, length: usize) -> Result<Vec<u8>> {
    let mut data = vec![0; length];
    let done = file.read(&mut Sink::kernel(&mut data), offset, OpenFlags::empty())?;
    data.truncate(done);
    Ok(data)
}

pub fn file(data: &[u8]) -> Node {
    Node { kind: Kind::Regular(Content::Bytes(data.to_vec())), attributes: Attributes::root(0o644) }
}

pub fn link_to(target: &str) -> Node {
    Node { kind: Kind::Symlink(target.as_bytes().to_vec()), attributes: Attributes::root(0o777) }
}

/// Bakes a tree and leaves the result in page-aligned memory for good.
pub fn image(tree: &Tree) -> RootFs<'static> {
    leak(&baked(&Layout::new(tree).expect("a layout")))
}

/// What a layout writes.
pub fn baked(layout: &Layout<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    layout.write(&mut bytes).expect("written");
    bytes
}

/// Leaves a root file system in page-aligned memory for good.
pub fn leak(bytes: &[u8]) -> RootFs<'static> {
    let pages = vec![[0u8; 4096]; bytes.len() / 4096 + 1].leak();
    let start = pages.as_mut_ptr() as usize;
    let skip = start.next_multiple_of(4096) - start;
    // SAFETY: the memory is leaked, and a page longer than what is written to it behind the alignment gap.
    let aligned = unsafe { std::slice::from_raw_parts_mut((start + skip) as *mut u8, bytes.len()) };
    aligned.copy_from_slice(bytes);
    RootFs::parse(aligned).expect("a sound image")
}

pub fn failed<T>(result: Result<T>) -> Errno {
    match result {
        Ok(_) => panic!("it should have failed"),
        Err(error) => error,
    }
}

/// A small generator of pseudo-random numbers (xorshift).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}
