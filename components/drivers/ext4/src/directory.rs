//! Directories: blocks of variable-length entries.
//!
//! Specification: <https://docs.kernel.org/filesystems/ext4/dynamic.html#directory-entries>. Hashed
//! directories keep their entries in ordinary blocks, so looking up, listing, removing and replacing
//! entries ignore the index. Adding one turns the index into empty blocks first: an index that misses an
//! entry would be wrong, a directory without one is merely searched from its start.

use alloc::vec::Vec;

use crate::{
    bytes::{le16, le32, put_le16, put_le32},
    checksum::crc32c,
    error::{Error, Result},
    extent::Extent,
    inode::{Inode, flag, mode},
    store::Block,
    volume::Volume,
};

/// Longest name.
pub const LONGEST_NAME: usize = 255;
/// Bytes of an entry before its name.
const HEADER: usize = 8;
/// Bytes at the end of a block that hold its checksum, shaped like an unused entry.
pub const TAIL: usize = 12;
/// The file type that marks them.
const TAIL_TYPE: u8 = 0xde;
/// The header of an index root: after the entries `.` and `..`.
const INDEX_ROOT: usize = 24;

/// What an entry says about the file's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileType {
    /// Not said.
    Unknown,
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A Unix socket's name.
    Socket,
    /// A symbolic link.
    Symlink,
}

impl FileType {
    fn from_raw(raw: u8) -> Self {
        match raw {
            1 => FileType::Regular,
            2 => FileType::Directory,
            3 => FileType::CharacterDevice,
            4 => FileType::BlockDevice,
            5 => FileType::Fifo,
            6 => FileType::Socket,
            7 => FileType::Symlink,
            _ => FileType::Unknown,
        }
    }

    fn raw(self) -> u8 {
        self as u8
    }

    /// The type that an inode's mode says.
    pub fn of_mode(raw: u16) -> Self {
        match raw & mode::TYPE {
            mode::REGULAR => FileType::Regular,
            mode::DIRECTORY => FileType::Directory,
            mode::CHARACTER => FileType::CharacterDevice,
            mode::BLOCK => FileType::BlockDevice,
            mode::FIFO => FileType::Fifo,
            mode::SOCKET => FileType::Socket,
            mode::SYMLINK => FileType::Symlink,
            _ => FileType::Unknown,
        }
    }
}

/// An entry in a block.
#[derive(Debug, Clone, Copy)]
struct Raw {
    offset: usize,
    inode: u32,
    length: usize,
    name_length: usize,
    file_type: u8,
}

impl Raw {
    fn name<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        &data[self.offset + HEADER..self.offset + HEADER + self.name_length]
    }

    /// Bytes that the entry needs; the rest of its length is free.
    fn needed(&self) -> usize {
        if self.inode == 0 { 0 } else { size_for(self.name_length) }
    }
}

/// Bytes that an entry with a name of this length takes.
fn size_for(name_length: usize) -> usize {
    (HEADER + name_length).next_multiple_of(4)
}

/// The entries of a block, each checked to lie within it.
struct RawEntries<'a> {
    data: &'a [u8],
    offset: usize,
}

impl Iterator for RawEntries<'_> {
    type Item = Result<Raw>;

    fn next(&mut self) -> Option<Result<Raw>> {
        let (data, offset) = (self.data, self.offset);
        if offset >= data.len() {
            return None;
        }
        let wrong = Some(Err(Error::Corrupt("directory entry")));
        self.offset = data.len();
        if offset + HEADER > data.len() {
            return wrong;
        }
        let entry = Raw {
            offset,
            inode: le32(data, offset),
            length: usize::from(le16(data, offset + 4)),
            name_length: usize::from(data[offset + 6]),
            file_type: data[offset + 7],
        };
        if entry.length < size_for(entry.name_length)
            || !entry.length.is_multiple_of(4)
            || offset + entry.length > data.len()
        {
            return wrong;
        }
        self.offset = offset + entry.length;
        Some(Ok(entry))
    }
}

fn entries(data: &[u8]) -> RawEntries<'_> {
    RawEntries { data, offset: 0 }
}

fn write_entry(data: &mut [u8], offset: usize, length: usize, inode: u32, name: &[u8], file_type: FileType) {
    put_le32(data, offset, inode);
    put_le16(data, offset + 4, length as u16);
    data[offset + 6] = name.len() as u8;
    data[offset + 7] = file_type.raw();
    data[offset + HEADER..offset + HEADER + name.len()].copy_from_slice(name);
}

/// Where an entry is: its block on the disk and the offset in it.
#[derive(Debug, Clone, Copy)]
pub struct Location {
    block: u64,
    offset: usize,
}

/// An entry that was looked up.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    pub inode: u32,
    pub location: Location,
}

/// One entry, as a listing shows it.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The inode number; check it before use.
    pub inode: u32,
    /// The name.
    pub name: &'a [u8],
    /// The file's type, as the entry says.
    pub file_type: FileType,
    /// Where to go on after this entry. Stays valid while entries come and go.
    pub next: u64,
}

/// A name that may be given to an entry.
pub fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > LONGEST_NAME {
        return Err(Error::NameTooLong);
    }
    if name.is_empty() || name == b"." || name == b".." || name.iter().any(|&byte| byte == 0 || byte == b'/')
    {
        return Err(Error::Invalid("name"));
    }
    Ok(())
}

impl Volume {
    fn has_tail(&self, data: &[u8]) -> bool {
        let tail = data.len() - TAIL;
        self.geometry.metadata_checksum()
            && le32(data, tail) == 0
            && le16(data, tail + 4) == TAIL as u16
            && le16(data, tail + 6) == u16::from_le_bytes([0, TAIL_TYPE])
    }

    /// How much of a block entries may take.
    fn room_in(&self, data: &[u8]) -> usize {
        if self.has_tail(data) { data.len() - TAIL } else { data.len() }
    }

    fn room_in_new(&self) -> usize {
        self.geometry.block_size - if self.geometry.metadata_checksum() { TAIL } else { 0 }
    }

    /// Makes `data` a block whose entries end at `room`, and stores its checksum.
    fn seal_directory_block(&self, inode: &Inode, data: &mut [u8]) {
        if !self.geometry.metadata_checksum() {
            return;
        }
        let tail = data.len() - TAIL;
        put_le32(data, tail, 0);
        put_le16(data, tail + 4, TAIL as u16);
        data[tail + 6] = 0;
        data[tail + 7] = TAIL_TYPE;
        let value = crc32c(inode.checksum_seed(self.geometry.checksum_seed), &data[..tail]);
        put_le32(data, tail + 8, value);
    }

    fn block_count_of(&self, inode: &Inode) -> Result<u32> {
        let blocks = inode.size().div_ceil(self.geometry.block_size as u64);
        u32::try_from(blocks).map_err(|_| Error::Corrupt("directory size"))
    }

    /// Block `index` of a directory: where it is, and its contents. None for a hole.
    fn directory_block(&mut self, inode: &Inode, index: u32) -> Result<Option<(u64, Block)>> {
        let Some(block) = self.map_block(inode, index)?.physical else { return Ok(None) };
        let data = self.store.read(block)?;
        if !self.store.is_verified(block) && self.geometry.metadata_checksum() {
            let tail = data.len() - TAIL;
            if self.has_tail(&data) {
                let value = crc32c(inode.checksum_seed(self.geometry.checksum_seed), &data[..tail]);
                if le32(&data, tail + 8) != value {
                    return Err(Error::Corrupt("directory block checksum"));
                }
            } else if inode.flags() & flag::INDEX == 0 {
                return Err(Error::Corrupt("directory block without checksum"));
            }
        }
        self.store.set_verified(block);
        Ok(Some((block, data)))
    }

    /// Looks up a name, and on the way a place where an entry of `size` bytes would fit.
    fn scan(&mut self, inode: &Inode, name: &[u8], size: usize) -> Result<(Option<Found>, Option<Location>)> {
        let mut slot = None;
        for index in 0..self.block_count_of(inode)? {
            let Some((block, data)) = self.directory_block(inode, index)? else { continue };
            let room = self.room_in(&data);
            for entry in entries(&data[..room]) {
                let entry = entry?;
                let location = Location { block, offset: entry.offset };
                if entry.inode != 0 && entry.name(&data) == name {
                    return Ok((Some(Found { inode: entry.inode, location }), slot));
                }
                if slot.is_none() && entry.length - entry.needed() >= size {
                    slot = Some(location);
                }
            }
        }
        Ok((None, slot))
    }

    /// Looks up a name.
    pub fn find_entry(&mut self, directory: &Inode, name: &[u8]) -> Result<Option<Found>> {
        if name.len() > LONGEST_NAME {
            return Err(Error::NameTooLong);
        }
        let found = self.scan(directory, name, usize::MAX)?.0;
        match found {
            Some(found) if found.inode > self.geometry.inode_count => {
                Err(Error::Corrupt("inode number of an entry"))
            }
            found => Ok(found),
        }
    }

    /// Adds an entry. The caller has seen that there is none of this name, and writes the directory's inode.
    pub fn add_entry(
        &mut self,
        directory: &mut Inode,
        name: &[u8],
        inode: u32,
        file_type: FileType,
    ) -> Result<()> {
        check_name(name)?;
        if directory.flags() & flag::INDEX != 0 {
            self.drop_index(directory)?;
        }
        let size = size_for(name.len());
        let (found, slot) = self.scan(directory, name, size)?;
        if found.is_some() {
            return Err(Error::Exists);
        }
        let Some(Location { block, offset }) = slot else {
            return self.append_block(directory, |data, room| {
                write_entry(data, 0, room, inode, name, file_type);
            });
        };
        let data = self.store.modify(block)?;
        let length = usize::from(le16(data, offset + 4));
        let used = if le32(data, offset) == 0 { 0 } else { size_for(usize::from(data[offset + 6])) };
        if used > 0 {
            put_le16(data, offset + 4, used as u16);
        }
        write_entry(data, offset + used, length - used, inode, name, file_type);
        self.reseal(directory, block)
    }

    fn reseal(&mut self, directory: &Inode, block: u64) -> Result<()> {
        let mut data = self.store.read(block)?;
        if self.has_tail(&data) {
            // Sealed in a copy of our own, because the cache's cannot be borrowed beside `self`.
            let copy = alloc::sync::Arc::make_mut(&mut data);
            self.seal_directory_block(directory, copy);
            let tail = copy.len() - TAIL;
            let checksum = le32(copy, tail + 8);
            put_le32(self.store.modify(block)?, tail + 8, checksum);
        }
        Ok(())
    }

    /// Adds a block to a directory, filled by `fill` (which gets the room for entries).
    fn append_block(&mut self, directory: &mut Inode, fill: impl FnOnce(&mut [u8], usize)) -> Result<()> {
        let logical = self.block_count_of(directory)?;
        let block_size = self.geometry.block_size;
        if (u64::from(logical) + 1) * block_size as u64 > u64::from(u32::MAX) {
            return Err(Error::FileTooLarge);
        }
        let goal = match logical.checked_sub(1) {
            Some(last) => self.map_block(directory, last)?.physical.map_or(0, |block| block + 1),
            None => self.inode_goal(directory),
        };
        let physical = self.allocate_metadata(goal)?;
        self.insert_extent(directory, Extent { logical, length: 1, physical, unwritten: false })?;
        directory.add_blocks(1, block_size);
        directory.set_size((u64::from(logical) + 1) * block_size as u64);
        let mut data = alloc::vec![0; block_size];
        fill(&mut data, self.room_in_new());
        self.seal_directory_block(directory, &mut data);
        self.store.modify(physical)?.copy_from_slice(&data);
        Ok(())
    }

    /// The first block of a new directory.
    pub fn start_directory(&mut self, directory: &mut Inode, parent: u32) -> Result<()> {
        let number = directory.number;
        self.append_block(directory, |data, room| {
            write_entry(data, 0, size_for(1), number, b".", FileType::Directory);
            write_entry(data, size_for(1), room - size_for(1), parent, b"..", FileType::Directory);
        })
    }

    /// Removes the entry at `location`.
    pub fn remove_entry(&mut self, directory: &Inode, location: Location) -> Result<()> {
        let data = self.store.read(location.block)?;
        let mut previous = None;
        for entry in entries(&data[..self.room_in(&data)]) {
            let entry = entry?;
            if entry.offset < location.offset {
                previous = Some(entry);
                continue;
            }
            if entry.offset != location.offset {
                break;
            }
            let data = self.store.modify(location.block)?;
            // The space goes to the entry before, so offsets of the others do not change.
            match previous {
                Some(previous) => {
                    put_le16(data, previous.offset + 4, (previous.length + entry.length) as u16)
                }
                None => put_le32(data, entry.offset, 0),
            }
            return self.reseal(directory, location.block);
        }
        Err(Error::Corrupt("directory entry"))
    }

    /// Makes the entry at `location` name another inode.
    pub fn replace_entry(
        &mut self,
        directory: &Inode,
        location: Location,
        inode: u32,
        file_type: FileType,
    ) -> Result<()> {
        let data = self.store.modify(location.block)?;
        put_le32(data, location.offset, inode);
        data[location.offset + 7] = file_type.raw();
        self.reseal(directory, location.block)
    }

    /// Whether a directory holds nothing but `.` and `..`.
    pub fn directory_is_empty(&mut self, directory: &Inode) -> Result<bool> {
        let mut empty = true;
        self.list(directory, 0, &mut |entry| {
            empty = entry.name == b"." || entry.name == b"..";
            empty
        })?;
        Ok(empty)
    }

    /// Calls `visit` with the entries from `cookie` on, until it returns false. The cookie is 0 or an
    /// [`Entry::next`].
    pub fn list(
        &mut self,
        directory: &Inode,
        cookie: u64,
        visit: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Result<()> {
        let block_size = self.geometry.block_size as u64;
        let first = u32::try_from(cookie / block_size).unwrap_or(u32::MAX);
        for index in first..self.block_count_of(directory)? {
            let Some((_, data)) = self.directory_block(directory, index)? else { continue };
            let room = self.room_in(&data);
            let start = u64::from(index) * block_size;
            for entry in entries(&data[..room]) {
                let entry = entry?;
                // An entry may have become part of the one before it since the cookie was given out.
                if entry.inode == 0 || start + (entry.offset as u64) < cookie {
                    continue;
                }
                let shown = Entry {
                    inode: entry.inode,
                    name: entry.name(&data),
                    file_type: FileType::from_raw(entry.file_type),
                    next: start + (entry.offset + HEADER) as u64,
                };
                if !visit(&shown) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Turns a hashed directory into a plain one.
    fn drop_index(&mut self, directory: &mut Inode) -> Result<()> {
        let Some((root, data)) = self.directory_block(directory, 0)? else {
            return Err(Error::Corrupt("directory index"));
        };
        let levels = data[INDEX_ROOT + 6];
        let info = usize::from(data[INDEX_ROOT + 5]);
        if levels > 2 || info != 8 || le32(&data, INDEX_ROOT) != 0 {
            return Err(Error::Corrupt("directory index"));
        }
        let mut nodes = Vec::new();
        if levels > 0 {
            self.index_nodes(directory, &data, INDEX_ROOT + info, levels, &mut nodes)?;
        }
        let room = self.room_in_new();
        for block in nodes {
            let mut empty = alloc::vec![0; self.geometry.block_size];
            put_le16(&mut empty, 4, room as u16);
            self.seal_directory_block(directory, &mut empty);
            self.store.modify(block)?.copy_from_slice(&empty);
        }
        let mut plain = data.to_vec();
        plain[INDEX_ROOT..].fill(0);
        put_le16(&mut plain, size_for(1) + 4, (room - size_for(1)) as u16);
        self.seal_directory_block(directory, &mut plain);
        self.store.modify(root)?.copy_from_slice(&plain);
        directory.set_flags(directory.flags() & !flag::INDEX);
        Ok(())
    }

    /// Collects the blocks of the index nodes below the node whose entries start at `offset`.
    fn index_nodes(
        &mut self,
        directory: &Inode,
        data: &[u8],
        offset: usize,
        levels: u8,
        nodes: &mut Vec<u64>,
    ) -> Result<()> {
        let count = usize::from(le16(data, offset + 2));
        if count == 0 || offset + count * 8 > data.len() {
            return Err(Error::Corrupt("directory index"));
        }
        for index in 0..count {
            let logical = le32(data, offset + index * 8 + 4);
            let child = self.directory_block(directory, logical)?;
            let Some((block, child)) = child.filter(|(block, _)| !nodes.contains(block)) else {
                return Err(Error::Corrupt("directory index"));
            };
            // An index node looks like one unused entry that fills the block.
            if le32(&child, 0) != 0 || usize::from(le16(&child, 4)) != child.len() {
                return Err(Error::Corrupt("directory index"));
            }
            nodes.push(block);
            if levels > 1 {
                self.index_nodes(directory, &child, HEADER, levels - 1, nodes)?;
            }
        }
        Ok(())
    }
}
