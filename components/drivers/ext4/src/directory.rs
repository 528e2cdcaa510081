//! Directories: looking up, adding, removing and listing entries.
//!
//! Hashed directories keep their entries in ordinary blocks, so looking up, listing, removing and replacing
//! entries ignore the index on the disk. Adding one turns it into empty blocks first (`directory_unindex`).
//! Large directories are searched by an index in memory, `name_index`.

use crate::{
    bytes::{le16, le32, put_le16, put_le32},
    checksum::crc32c,
    directory_entry::{FileType, HEADER, LONGEST_NAME, check_name, entries, size_for, write_entry},
    error::{Error, Result},
    extent::Extent,
    inode::{Inode, flag},
    name_index::{LEAST_BLOCKS, NameIndex},
    store::Block,
    volume::Volume,
};

/// Bytes at the end of a block that hold its checksum, shaped like an unused entry.
pub const TAIL: usize = 12;
/// The file type that marks them.
const TAIL_TYPE: u8 = 0xde;

/// Where an entry is: its block on the disk and the offset in it.
#[derive(Debug, Clone, Copy)]
pub struct Location {
    /// Which block of the directory.
    logical: u32,
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

    pub fn room_in_new(&self) -> usize {
        self.geometry.block_size - if self.geometry.metadata_checksum() { TAIL } else { 0 }
    }

    /// Makes `data` a block whose entries end at `room`, and stores its checksum.
    pub fn seal_directory_block(&self, inode: &Inode, data: &mut [u8]) {
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
    pub fn directory_block(&mut self, inode: &Inode, index: u32) -> Result<Option<(u64, Block)>> {
        match self.map_block(inode, index)?.physical {
            Some(block) => Ok(Some((block, self.checked_block(inode, block)?))),
            None => Ok(None),
        }
    }

    /// The first block from `index` on that is not in a hole: (index, where it is, contents).
    fn next_block(&mut self, inode: &Inode, mut index: u32) -> Result<Option<(u32, u64, Block)>> {
        let count = self.block_count_of(inode)?;
        while index < count {
            let mapping = self.map_block(inode, index)?;
            if let Some(block) = mapping.physical {
                return Ok(Some((index, block, self.checked_block(inode, block)?)));
            }
            index = index.saturating_add(mapping.length);
        }
        Ok(None)
    }

    fn checked_block(&mut self, inode: &Inode, block: u64) -> Result<Block> {
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
        Ok(data)
    }

    /// Looks up a name, and a place where an entry of `size` bytes would fit.
    fn scan(&mut self, inode: &Inode, name: &[u8], size: usize) -> Result<(Option<Found>, Option<Location>)> {
        let blocks = self.block_count_of(inode)?;
        if blocks >= LEAST_BLOCKS {
            return self.scan_by_index(inode, name, size, blocks);
        }
        let (mut next, mut slot) = (0, None);
        while let Some((logical, block, data)) = self.next_block(inode, next)? {
            next = logical + 1;
            let (found, place) = self.scan_block(logical, block, &data, name, size)?;
            slot = slot.or(place);
            if found.is_some() {
                return Ok((found, slot));
            }
        }
        Ok((None, slot))
    }

    fn scan_block(
        &self,
        logical: u32,
        block: u64,
        data: &[u8],
        name: &[u8],
        size: usize,
    ) -> Result<(Option<Found>, Option<Location>)> {
        let mut slot = None;
        for entry in entries(&data[..self.room_in(data)]) {
            let entry = entry?;
            let location = Location { logical, block, offset: entry.offset };
            if entry.inode != 0 && entry.name(data) == name {
                return Ok((Some(Found { inode: entry.inode, location }), slot));
            }
            if slot.is_none() && entry.length - entry.needed() >= size {
                slot = Some(location);
            }
        }
        Ok((None, slot))
    }

    fn scan_by_index(
        &mut self,
        inode: &Inode,
        name: &[u8],
        size: usize,
        blocks: u32,
    ) -> Result<(Option<Found>, Option<Location>)> {
        if self.name_indexes.get(inode.number, blocks).is_none() {
            self.make_name_index(inode, blocks)?;
        }
        let Some(index) = self.name_indexes.get(inode.number, blocks) else {
            return Err(Error::Corrupt("directory size"));
        };
        let mut candidates = index.candidates(name);
        candidates.extend(index.block_with_room(size));
        let mut slot = None;
        for logical in candidates {
            if let Some((block, data)) = self.directory_block(inode, logical)? {
                let (found, place) = self.scan_block(logical, block, &data, name, size)?;
                slot = slot.or(place);
                if found.is_some() {
                    return Ok((found, slot));
                }
            }
        }
        Ok((None, slot))
    }

    fn make_name_index(&mut self, inode: &Inode, blocks: u32) -> Result<()> {
        let mut index = NameIndex::default();
        let mut next = 0;
        while let Some((logical, _, data)) = self.next_block(inode, next)? {
            next = logical + 1;
            let mut room = 0;
            for entry in entries(&data[..self.room_in(&data)]) {
                let entry = entry?;
                room = room.max(entry.length - entry.needed());
                if entry.inode != 0 {
                    index.add(entry.name(&data), logical);
                }
            }
            index.set_room(logical, room);
        }
        if index.blocks() < blocks as usize {
            index.set_room(blocks - 1, 0);
        }
        self.name_indexes.insert(inode.number, index);
        Ok(())
    }

    /// An entry of this name came or went.
    fn update_name_index(&mut self, directory: &Inode, location: Location, name: &[u8]) -> Result<()> {
        let data = self.store.read(location.block)?;
        let room_for_entries = self.room_in(&data);
        let Some(index) = self.name_indexes.change(directory.number) else { return Ok(()) };
        let hash = NameIndex::hash(name);
        let (mut room, mut present) = (0, false);
        for entry in entries(&data[..room_for_entries]) {
            let entry = entry?;
            room = room.max(entry.length - entry.needed());
            // Another name may have the same hash.
            present |= entry.inode != 0 && NameIndex::hash(entry.name(&data)) == hash;
        }
        index.set_room(location.logical, room);
        if present {
            index.add(name, location.logical);
        } else {
            index.remove(name, location.logical);
        }
        Ok(())
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
        let Some(location) = slot else {
            let (logical, block) = self.append_block(directory, |data, room| {
                write_entry(data, 0, room, inode, name, file_type);
            })?;
            let location = Location { logical, block, offset: 0 };
            return self.update_name_index(directory, location, name);
        };
        let Location { block, offset, .. } = location;
        let data = self.store.modify(block)?;
        let length = usize::from(le16(data, offset + 4));
        let used = if le32(data, offset) == 0 { 0 } else { size_for(usize::from(data[offset + 6])) };
        if used > 0 {
            put_le16(data, offset + 4, used as u16);
        }
        write_entry(data, offset + used, length - used, inode, name, file_type);
        self.reseal(directory, block)?;
        self.update_name_index(directory, location, name)
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

    /// Adds a block to a directory, filled by `fill` (which gets the room for entries). Returns which of
    /// the directory's blocks it is, and where it is.
    fn append_block(
        &mut self,
        directory: &mut Inode,
        fill: impl FnOnce(&mut [u8], usize),
    ) -> Result<(u32, u64)> {
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
        Ok((logical, physical))
    }

    /// Adds a block without entries.
    pub fn append_empty_block(&mut self, directory: &mut Inode) -> Result<()> {
        self.append_block(directory, |data, room| put_le16(data, 4, room as u16))?;
        Ok(())
    }

    /// The first block of a new directory.
    pub fn start_directory(&mut self, directory: &mut Inode, parent: u32) -> Result<()> {
        let number = directory.number;
        self.append_block(directory, |data, room| {
            write_entry(data, 0, size_for(1), number, b".", FileType::Directory);
            write_entry(data, size_for(1), room - size_for(1), parent, b"..", FileType::Directory);
        })?;
        Ok(())
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
            let name = entry.name(&data).to_vec();
            let data = self.store.modify(location.block)?;
            // The space goes to the entry before, so offsets of the others do not change.
            match previous {
                Some(previous) => {
                    put_le16(data, previous.offset + 4, (previous.length + entry.length) as u16)
                }
                None => put_le32(data, entry.offset, 0),
            }
            self.reseal(directory, location.block)?;
            return self.update_name_index(directory, location, &name);
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
        let mut next = u32::try_from(cookie / block_size).unwrap_or(u32::MAX);
        while let Some((index, _, data)) = self.next_block(directory, next)? {
            next = index + 1;
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
}
