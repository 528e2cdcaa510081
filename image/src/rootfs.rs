//! The baked root file system: read-only, sorted, page-aligned.
//!
//! A [`Superblock`], then [`Inode`]s (number 0 is the root directory), [`Entry`]s (those of one directory
//! are adjacent and sorted by name), names, and file data: page-aligned and padded with zeros, so that
//! a page of a file can be mapped as it is, or compressed ([`crate::compressed`]).

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout,
    little_endian::{I64, U32, U64},
};

use crate::compressed::Compressed;

/// Begins every root file system.
pub const MAGIC: [u8; 8] = *b"RUMPFS01";
/// The alignment of file data.
pub const PAGE: usize = 4096;

/// File type bits of `mode` (POSIX `S_IFMT` and its values on Linux).
pub const MODE_TYPE: u32 = 0o170_000;
/// A directory.
pub const MODE_DIRECTORY: u32 = 0o040_000;
/// A regular file.
pub const MODE_REGULAR: u32 = 0o100_000;
/// A symbolic link.
pub const MODE_SYMLINK: u32 = 0o120_000;

/// `stored` of data that stands as it is.
pub const STORED_PLAIN: u32 = 0;
/// `stored` of regular files whose data is compressed.
pub const STORED_COMPRESSED: u32 = 1;

/// Where the tables are, from the start of the root file system.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Superblock {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// Offset of the inode table.
    pub inodes: U64,
    /// Inodes in it.
    pub inode_count: U32,
    /// Entries in the entry table.
    pub entry_count: U32,
    /// Offset of the entry table.
    pub entries: U64,
    /// Offset of the names.
    pub names: U64,
    /// Bytes of names.
    pub names_length: U64,
}

/// A file, directory, symbolic link, device node, FIFO or socket.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Inode {
    /// Type and permissions, as `st_mode`.
    pub mode: U32,
    /// Owner.
    pub uid: U32,
    /// Group.
    pub gid: U32,
    /// Hard links.
    pub links: U32,
    /// Bytes of data; directories: number of entries.
    pub size: U64,
    /// Regular files: offset of the data (page-aligned if plain). Symbolic links: offset of the target.
    /// Directories: index of the first entry. Device nodes: `st_rdev`.
    pub data: U64,
    /// Modification time, seconds since 1970.
    pub modified: I64,
    /// Directories: the inode number of the parent; otherwise 0.
    pub parent: U32,
    /// How the data of a regular file is stored: [`STORED_PLAIN`] or [`STORED_COMPRESSED`].
    pub stored: U32,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Entry {
    /// Offset in the names.
    pub name: U32,
    /// Bytes in the name, 1 to 255.
    pub length: U32,
    /// The inode's number.
    pub inode: U32,
}

/// The root file system is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the baked root file system is damaged: {0}")]
pub struct Damaged(pub(crate) &'static str);

/// The data of a regular file.
#[derive(Debug, Clone, Copy)]
pub enum Data<'a> {
    /// As it is; the bytes behind it, up to the page boundary, are zeros.
    Plain(&'a [u8]),
    /// Compressed.
    Compressed(Compressed<'a>),
}

impl<'a> Data<'a> {
    /// The bytes, if they stand as they are.
    pub fn plain(self) -> Option<&'a [u8]> {
        match self {
            Data::Plain(bytes) => Some(bytes),
            Data::Compressed(_) => None,
        }
    }

    /// All of it.
    #[cfg(feature = "std")]
    pub fn bytes(self) -> Result<std::borrow::Cow<'a, [u8]>, Damaged> {
        Ok(match self {
            Data::Plain(bytes) => bytes.into(),
            Data::Compressed(compressed) => compressed.to_vec()?.into(),
        })
    }
}

/// A checked view of a root file system.
#[derive(Debug, Clone, Copy)]
pub struct RootFs<'a> {
    bytes: &'a [u8],
    inodes: &'a [Inode],
    entries: &'a [Entry],
    names: &'a [u8],
}

impl<'a> RootFs<'a> {
    /// Checks the tables' bounds; what the inodes and entries refer to is checked at each use.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Damaged> {
        let (superblock, _) = Superblock::read_from_prefix(bytes).map_err(|_| Damaged("no superblock"))?;
        if superblock.magic != MAGIC {
            return Err(Damaged("wrong magic"));
        }
        let from = |offset: U64| bytes.get(usize::try_from(offset.get()).ok()?..);
        let inodes = from(superblock.inodes)
            .and_then(|tail| {
                <[Inode]>::ref_from_prefix_with_elems(tail, superblock.inode_count.get() as usize).ok()
            })
            .ok_or(Damaged("inode table out of bounds"))?
            .0;
        let entries = from(superblock.entries)
            .and_then(|tail| {
                <[Entry]>::ref_from_prefix_with_elems(tail, superblock.entry_count.get() as usize).ok()
            })
            .ok_or(Damaged("entry table out of bounds"))?
            .0;
        let names = from(superblock.names)
            .and_then(|tail| tail.get(..usize::try_from(superblock.names_length.get()).ok()?))
            .ok_or(Damaged("names out of bounds"))?;
        if inodes.is_empty() {
            return Err(Damaged("no root directory"));
        }
        Ok(RootFs { bytes, inodes, entries, names })
    }

    /// The inode with this number.
    pub fn inode(&self, number: u32) -> Option<&'a Inode> {
        self.inodes.get(number as usize)
    }

    /// How many inodes there are.
    pub fn inode_count(&self) -> usize {
        self.inodes.len()
    }

    /// The entries of a directory, sorted by name.
    pub fn entries(&self, directory: &Inode) -> &'a [Entry] {
        let range = || {
            let first = usize::try_from(directory.data.get()).ok()?;
            self.entries.get(first..first.checked_add(usize::try_from(directory.size.get()).ok()?)?)
        };
        if directory.mode.get() & MODE_TYPE == MODE_DIRECTORY { range().unwrap_or_default() } else { &[] }
    }

    /// An entry's name.
    pub fn name(&self, entry: &Entry) -> &'a [u8] {
        let first = entry.name.get() as usize;
        first
            .checked_add(entry.length.get() as usize)
            .and_then(|end| self.names.get(first..end))
            .unwrap_or_default()
    }

    /// Looks a name up in a directory.
    pub fn lookup(&self, directory: &Inode, name: &[u8]) -> Option<u32> {
        let entries = self.entries(directory);
        let index = entries.binary_search_by(|entry| self.name(entry).cmp(name)).ok()?;
        Some(entries[index].inode.get())
    }

    /// The data of a regular file.
    pub fn data(&self, inode: &Inode) -> Option<Data<'a>> {
        if inode.mode.get() & MODE_TYPE != MODE_REGULAR {
            return None;
        }
        match inode.stored.get() {
            STORED_PLAIN => self.plain(inode).map(Data::Plain),
            STORED_COMPRESSED => {
                let start = usize::try_from(inode.data.get()).ok()?;
                Compressed::parse(self.bytes.get(start..)?, inode.size.get()).map(Data::Compressed)
            }
            _ => None,
        }
    }

    /// The target of a symbolic link.
    pub fn target(&self, inode: &Inode) -> Option<&'a [u8]> {
        (inode.mode.get() & MODE_TYPE == MODE_SYMLINK).then(|| self.plain(inode)).flatten()
    }

    fn plain(&self, inode: &Inode) -> Option<&'a [u8]> {
        let start = usize::try_from(inode.data.get()).ok()?;
        self.bytes.get(start..start.checked_add(usize::try_from(inode.size.get()).ok()?)?)
    }
}
