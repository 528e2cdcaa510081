//! File data: where it is, growing, truncating, reading, writing.
//!
//! Data goes straight to the disk, past the metadata cache. New blocks are written before the transaction
//! that refers to them commits ("ordered" mode), so a crash never shows what the blocks held before.

use alloc::{vec, vec::Vec};
use core::ops::Range;

use crate::{
    error::{Error, Result},
    extent::{Extent, LONGEST, Mapping},
    extent_edit::Release,
    inode::{Inode, mode},
    store::Store,
    volume::Volume,
};

/// Extents added by one operation, and removed by one: bounds the size of a transaction.
const MOST_ADDED: usize = 16;
const MOST_REMOVED: u32 = 32;

/// A piece of a read or a write that touches whole blocks only and can be done without the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The first block on the disk; none reads as zeroes.
    pub physical: Option<u64>,
    /// Where the bytes start in that block.
    pub skip: usize,
    /// The part of the caller's buffer.
    pub range: Range<usize>,
}

/// What a write step did.
pub struct Written {
    /// Bytes taken care of.
    pub length: usize,
    /// Those of them that the caller writes to the disk after it has released the lock.
    pub deferred: Vec<Piece>,
}

/// Largest file: block numbers have 32 bits.
fn check_size(end: u64, block_size: usize) -> Result<()> {
    if end > u64::from(u32::MAX) * block_size as u64 { Err(Error::FileTooLarge) } else { Ok(()) }
}

/// Reads a piece of file data.
pub fn read_piece(
    store: &dyn Fn(u64, &mut [u8]) -> Result<()>,
    block_size: usize,
    piece: &Piece,
    buffer: &mut [u8],
) -> Result<()> {
    let target = &mut buffer[piece.range.clone()];
    let Some(mut block) = piece.physical else {
        target.fill(0);
        return Ok(());
    };
    let mut bounce = Vec::new();
    let mut skip = piece.skip;
    let mut target = target;
    while !target.is_empty() {
        let length = if skip == 0 && target.len() >= block_size {
            let length = target.len() / block_size * block_size;
            store(block, &mut target[..length])?;
            length
        } else {
            bounce.resize(block_size, 0);
            store(block, &mut bounce)?;
            let length = target.len().min(block_size - skip);
            target[..length].copy_from_slice(&bounce[skip..skip + length]);
            length
        };
        block += (skip + length).div_ceil(block_size) as u64;
        skip = 0;
        target = &mut target[length..];
    }
    Ok(())
}

/// Writes data from `skip` bytes behind the start of `block` on. The rest of partly written blocks
/// becomes zero in `fresh` blocks, and stays what it is in others.
fn write_data(
    store: &Store,
    block_size: usize,
    block: u64,
    skip: usize,
    data: &[u8],
    fresh: bool,
) -> Result<()> {
    let (mut block, mut skip, mut data) = (block, skip, data);
    while !data.is_empty() {
        let length = if skip == 0 && data.len() >= block_size {
            let length = data.len() / block_size * block_size;
            store.write_direct(block, &data[..length])?;
            length
        } else {
            let mut bounce = vec![0; block_size];
            if !fresh {
                store.read_direct(block, &mut bounce)?;
            }
            let length = data.len().min(block_size - skip);
            bounce[skip..skip + length].copy_from_slice(&data[..length]);
            store.write_direct(block, &bounce)?;
            length
        };
        block += (skip + length).div_ceil(block_size) as u64;
        skip = 0;
        data = &data[length..];
    }
    Ok(())
}

impl Volume {
    /// A regular file's inode.
    pub fn regular_file(&mut self, number: u32) -> Result<Inode> {
        let inode = self.inode(number)?;
        match inode.file_type() {
            mode::REGULAR if inode.has_extents() => Ok(inode),
            mode::REGULAR => Err(Error::Unsupported("a file without extents")),
            mode::DIRECTORY => Err(Error::IsDirectory),
            _ => Err(Error::Invalid("not a regular file")),
        }
    }

    /// Where the bytes `offset..offset + length` of a file are, up to its end.
    pub fn map_read(&mut self, number: u32, offset: u64, length: usize) -> Result<Vec<Piece>> {
        let inode = self.regular_file(number)?;
        let block_size = self.geometry.block_size as u64;
        let length = inode.size().saturating_sub(offset).min(length as u64) as usize;
        check_size(offset.saturating_add(length as u64), self.geometry.block_size)?;
        let mut pieces = Vec::new();
        let mut done = 0;
        while done < length {
            let position = offset + done as u64;
            let mapping = self.map_block(&inode, (position / block_size) as u32)?;
            let skip = (position % block_size) as usize;
            let available = u64::from(mapping.length) * block_size - skip as u64;
            let take = available.min((length - done) as u64) as usize;
            let physical = mapping.physical.filter(|_| !mapping.unwritten);
            pieces.push(Piece { physical, skip, range: done..done + take });
            done += take;
        }
        Ok(pieces)
    }

    /// One step of a write: takes at least one byte of `data`, and no more than fits a transaction. The
    /// times stay unless `touch`.
    pub fn write_step(&mut self, number: u32, offset: u64, data: &[u8], touch: bool) -> Result<Written> {
        let mut inode = self.regular_file(number)?;
        let block_size = self.geometry.block_size;
        let end = offset.checked_add(data.len() as u64).ok_or(Error::FileTooLarge)?;
        check_size(end, block_size)?;
        let mut written = Written { length: 0, deferred: Vec::new() };
        let mut added = 0;
        while written.length < data.len() && added < MOST_ADDED {
            let position = offset + written.length as u64;
            let logical = (position / block_size as u64) as u32;
            let skip = (position % block_size as u64) as usize;
            let rest = data.len() - written.length;
            let wanted = (skip + rest).div_ceil(block_size).min(LONGEST as usize - 1) as u32;
            let mapping = self.map_block(&inode, logical)?;
            let count = wanted.min(mapping.length);
            let (physical, count, fresh) = match self.blocks_to_write(&mut inode, logical, count, mapping) {
                // What came so far is kept; the next step says that there is no space.
                Err(Error::NoSpace) if written.length > 0 => break,
                blocks => blocks?,
            };
            added += usize::from(fresh);
            let length = rest.min(count as usize * block_size - skip);
            let range = written.length..written.length + length;
            let whole_blocks = skip == 0 && length.is_multiple_of(block_size);
            if !fresh && whole_blocks && position + length as u64 <= inode.size() {
                written.deferred.push(Piece { physical: Some(physical), skip, range });
            } else {
                write_data(&self.store, block_size, physical, skip, &data[range], fresh)?;
                self.data_written();
            }
            written.length += length;
        }
        let end = offset + written.length as u64;
        let grows = end > inode.size();
        if grows {
            inode.set_size(end);
        }
        if added > 0 || grows {
            self.changed_files.insert(number);
        }
        if touch {
            inode.touch((self.clock)());
        }
        if touch || grows || added > 0 {
            self.put_inode(&mut inode)?;
        }
        Ok(written)
    }

    /// Blocks to write `count` blocks of the file to: (first, how many, whether they are new).
    fn blocks_to_write(
        &mut self,
        inode: &mut Inode,
        logical: u32,
        count: u32,
        mapping: Mapping,
    ) -> Result<(u64, u32, bool)> {
        match mapping.physical {
            Some(physical) if mapping.unwritten => {
                self.mark_written(inode, logical, count)?;
                Ok((physical, count, true))
            }
            Some(physical) => Ok((physical, count, false)),
            None => {
                let (physical, count) = self.allocate_data(inode, logical, count, false)?;
                Ok((physical, count, true))
            }
        }
    }

    fn allocate_data(
        &mut self,
        inode: &mut Inode,
        logical: u32,
        count: u32,
        unwritten: bool,
    ) -> Result<(u64, u32)> {
        let goal = match logical.checked_sub(1) {
            Some(before) => self.map_block(inode, before)?.physical.map(|block| block + 1),
            None => None,
        };
        let goal = goal.unwrap_or_else(|| self.inode_goal(inode));
        let (physical, length) = self.allocate_blocks(goal, count)?;
        self.insert_extent(inode, Extent { logical, length, physical, unwritten })?;
        inode.add_blocks(i64::from(length), self.geometry.block_size);
        Ok((physical, length))
    }

    /// One step of reserving space: returns the offset up to which it is done. `keep_size`: the file's
    /// size stays, even if the space is behind its end.
    pub fn allocate_step(&mut self, number: u32, offset: u64, end: u64, keep_size: bool) -> Result<u64> {
        let mut inode = self.regular_file(number)?;
        let block_size = self.geometry.block_size as u64;
        check_size(end, self.geometry.block_size)?;
        let mut position = offset;
        let mut added = 0;
        while position < end && added < MOST_ADDED {
            let logical = (position / block_size) as u32;
            let wanted = (end.div_ceil(block_size) - u64::from(logical)).min(u64::from(LONGEST) - 1) as u32;
            let mapping = self.map_block(&inode, logical)?;
            let count = if mapping.physical.is_some() {
                mapping.length
            } else {
                added += 1;
                self.allocate_data(&mut inode, logical, wanted.min(mapping.length), true)?.1
            };
            position = (u64::from(logical) + u64::from(count)) * block_size;
        }
        self.changed_files.insert(number);
        let done = position.min(end);
        if !keep_size && done > inode.size() {
            inode.set_size(done);
        }
        inode.touch((self.clock)());
        self.put_inode(&mut inode)?;
        Ok(done)
    }

    /// Zeroes a part of a block, if the block is allocated and written.
    fn zero_part(&mut self, inode: &Inode, range: Range<u64>) -> Result<()> {
        let block_size = self.geometry.block_size as u64;
        if range.is_empty() {
            return Ok(());
        }
        let mapping = self.map_block(inode, (range.start / block_size) as u32)?;
        if let (Some(physical), false) = (mapping.physical, mapping.unwritten) {
            let zeroes = vec![0; (range.end - range.start) as usize];
            let skip = (range.start % block_size) as usize;
            write_data(&self.store, block_size as usize, physical, skip, &zeroes, false)?;
            self.data_written();
        }
        Ok(())
    }

    /// Sets a file's size. Returns whether blocks behind it remain to be freed, with
    /// [`truncate_step`](Self::truncate_step); the inode is in the orphan list until then.
    pub fn set_size(&mut self, number: u32, size: u64) -> Result<bool> {
        let mut inode = self.regular_file(number)?;
        check_size(size, self.geometry.block_size)?;
        let block_size = self.geometry.block_size as u64;
        let shrinks = size < inode.size();
        if shrinks && !size.is_multiple_of(block_size) {
            // What is behind the end reads as zeroes if the file grows again.
            self.zero_part(&inode, size..size.next_multiple_of(block_size))?;
        }
        self.changed_files.insert(number);
        inode.set_size(size);
        inode.touch((self.clock)());
        // Blocks reserved behind the old end go, too.
        let incomplete = shrinks && !self.free_tail(&mut inode)?;
        if incomplete {
            self.add_orphan(&mut inode)?;
        }
        self.put_inode(&mut inode)?;
        Ok(incomplete)
    }

    /// Frees some blocks behind a file's end; returns whether that was all.
    fn free_tail(&mut self, inode: &mut Inode) -> Result<bool> {
        let from = inode.size().div_ceil(self.geometry.block_size as u64);
        let release = if inode.is_regular() { Release::Data } else { Release::Metadata };
        self.remove_extents(inode, from..u64::MAX, release, MOST_REMOVED)
    }

    /// Goes on with freeing the blocks behind a file's end. Returns whether more remain; when none do,
    /// the inode leaves the orphan list.
    pub fn truncate_step(&mut self, number: u32) -> Result<bool> {
        let mut inode = self.inode(number)?;
        let complete = !inode.has_extents() || self.free_tail(&mut inode)?;
        if complete {
            self.remove_orphan(&mut inode)?;
        }
        self.put_inode(&mut inode)?;
        Ok(!complete)
    }

    /// One step of making a hole. Returns whether more remains.
    pub fn punch_step(&mut self, number: u32, range: Range<u64>) -> Result<bool> {
        let mut inode = self.regular_file(number)?;
        let block_size = self.geometry.block_size as u64;
        let end = range.end.min(inode.size().next_multiple_of(block_size));
        if range.start >= end {
            return Ok(false);
        }
        let (first, last) = (range.start.next_multiple_of(block_size), end / block_size * block_size);
        if first > last {
            self.zero_part(&inode, range.start..end)?;
        } else {
            self.zero_part(&inode, range.start..first)?;
            self.zero_part(&inode, last..end)?;
        }
        self.changed_files.insert(number);
        let blocks = first / block_size..last / block_size;
        let complete =
            blocks.is_empty() || self.remove_extents(&mut inode, blocks, Release::Data, MOST_REMOVED)?;
        inode.touch((self.clock)());
        self.put_inode(&mut inode)?;
        Ok(!complete)
    }

    /// The first offset from `offset` on that has data (or, with `hole`, that has none); none if there is
    /// no such before the end of the file. The end itself counts as a hole.
    pub fn seek(&mut self, number: u32, offset: u64, hole: bool) -> Result<Option<u64>> {
        let inode = self.regular_file(number)?;
        let block_size = self.geometry.block_size as u64;
        let mut position = offset;
        while position < inode.size() {
            let block = position / block_size;
            let mapping = self.map_block(&inode, block as u32)?;
            if hole == (mapping.physical.is_none() || mapping.unwritten) {
                return Ok(Some(position));
            }
            position = (block + u64::from(mapping.length)) * block_size;
        }
        Ok((hole && offset < inode.size()).then(|| inode.size()))
    }

    /// A symbolic link's target.
    pub fn link_target(&mut self, number: u32) -> Result<Vec<u8>> {
        let inode = self.inode(number)?;
        if inode.file_type() != mode::SYMLINK {
            return Err(Error::Invalid("not a symbolic link"));
        }
        let length = usize::try_from(inode.size()).unwrap_or(usize::MAX);
        if !inode.has_extents() {
            let target = inode.raw[crate::inode::TREE..][..crate::inode::TREE_SIZE].get(..length);
            return target.map(<[u8]>::to_vec).ok_or(Error::Corrupt("symbolic link"));
        }
        let block = self.map_block(&inode, 0)?.physical.ok_or(Error::Corrupt("symbolic link"))?;
        let data = self.store.read(block)?;
        data.get(..length).map(<[u8]>::to_vec).ok_or(Error::Corrupt("symbolic link"))
    }

    /// Gives a new symbolic link its target. The caller writes the inode.
    pub fn set_link_target(&mut self, inode: &mut Inode, target: &[u8]) -> Result<()> {
        if target.is_empty() {
            return Err(Error::NotFound);
        }
        if target.len() >= self.geometry.block_size {
            return Err(Error::NameTooLong);
        }
        inode.set_size(target.len() as u64);
        if target.len() < crate::inode::TREE_SIZE {
            inode.raw[crate::inode::TREE..][..target.len()].copy_from_slice(target);
            return Ok(());
        }
        inode.set_flags(inode.flags() | crate::inode::flag::EXTENTS);
        crate::extent::clear_root(inode);
        let physical = self.allocate_metadata(self.inode_goal(inode))?;
        self.store.modify(physical)?[..target.len()].copy_from_slice(target);
        inode.add_blocks(1, self.geometry.block_size);
        self.insert_extent(inode, Extent { logical: 0, length: 1, physical, unwritten: false })
    }
}
