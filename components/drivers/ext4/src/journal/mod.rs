//! The jbd2 journal: transactions are written to a circular log before their blocks go to their places.
//!
//! `format` has the block formats, `recovery` replays the log of a file system that was not unmounted.
//! Committed blocks are kept in memory until the log or that memory runs full; then all of them are
//! written to their places and the log starts anew behind its head. So the log's tail moves rarely,
//! and a commit costs two flushes.

mod format;
mod recovery;

use alloc::{string::String, vec, vec::Vec};

pub use format::{CHECKSUM_TYPE_CRC32C, feature, field, kind, put_header, superblock_checksum};
use format::{
    COMMIT_NANOSECONDS, COMMIT_SECONDS, Format, HEADER_SIZE, REVOKE_HEADER_SIZE, REVOKE_LENGTH, Tag, tag,
};

use crate::{
    bytes::{be32, put_be32, put_be64},
    error::{Error, Result},
    inode::Timestamp,
    store::{Changes, Store},
};

/// A contiguous piece of the log: (first block in the log, first block on the disk, blocks).
pub type Piece = (u32, u64, u32);

/// The log of a mounted file system.
pub struct Journal {
    pieces: Vec<Piece>,
    block_size: usize,
    superblock: Vec<u8>,
    format: Format,
    /// First block of the circular part, and the end of it.
    first: u32,
    end: u32,
    /// Where the next transaction goes, and its number.
    head: u32,
    sequence: u32,
    /// Blocks between the log's tail and its head.
    used: u32,
}

impl Journal {
    /// Opens the log that lies in `pieces`, without replaying it.
    pub fn open(store: &Store, pieces: Vec<Piece>, block_size: usize) -> Result<Self> {
        let length = pieces.last().map_or(0, |&(start, _, count)| start + count);
        let mut journal = Journal {
            pieces,
            block_size,
            superblock: vec![0; block_size],
            format: Format { features: 0, seed: 0 },
            first: 1,
            end: length,
            head: 1,
            sequence: 1,
            used: 0,
        };
        let mut superblock = vec![0; block_size];
        journal.read(store, 0, &mut superblock)?;
        journal.superblock = superblock;
        journal.check_superblock(length)?;
        Ok(journal)
    }

    /// Where the log lies.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    fn check_superblock(&mut self, length: u32) -> Result<()> {
        let superblock = &self.superblock;
        match format::header(superblock) {
            Some((kind::SUPERBLOCK, _)) => {}
            Some((kind::SUPERBLOCK_V1, _)) => return Err(Error::Unsupported("version 1 journal")),
            _ => return Err(Error::Corrupt("journal superblock")),
        }
        let features = be32(superblock, field::INCOMPATIBLE);
        if features & !feature::SUPPORTED != 0 {
            let unknown = features & !feature::SUPPORTED;
            let names =
                if unknown == 0x20 { String::from("fast_commit") } else { alloc::format!("{unknown:#x}") };
            return Err(Error::UnsupportedFeatures(alloc::format!("journal: {names}")));
        }
        self.format = Format::new(features, &superblock[field::UUID..field::UUID + 16]);
        if self.format.checksummed()
            && (superblock[field::CHECKSUM_TYPE] != CHECKSUM_TYPE_CRC32C
                || be32(superblock, field::CHECKSUM) != superblock_checksum(superblock))
        {
            return Err(Error::Corrupt("journal superblock checksum"));
        }
        self.first = be32(superblock, field::FIRST);
        self.end = be32(superblock, field::LENGTH);
        self.sequence = be32(superblock, field::SEQUENCE);
        let start = be32(superblock, field::START);
        let consistent = be32(superblock, field::BLOCK_SIZE) as usize == self.block_size
            && self.first >= 1
            && self.end <= length
            && self.end > self.first.saturating_add(16)
            && (start == 0 || (start >= self.first && start < self.end));
        if !consistent {
            return Err(Error::Corrupt("journal geometry"));
        }
        self.head = self.first;
        Ok(())
    }

    /// Where block `index` of the log is on the disk.
    fn location(&self, index: u32) -> Result<u64> {
        let piece = self.pieces.partition_point(|&(start, _, _)| start <= index).checked_sub(1);
        match piece.and_then(|piece| self.pieces.get(piece)) {
            Some(&(start, block, count)) if index - start < count => Ok(block + u64::from(index - start)),
            _ => Err(Error::Corrupt("the journal has a hole")),
        }
    }

    fn read(&self, store: &Store, index: u32, buffer: &mut [u8]) -> Result<()> {
        store.read_direct(self.location(index)?, buffer)
    }

    fn following(&self, index: u32) -> u32 {
        if index + 1 >= self.end { self.first } else { index + 1 }
    }

    fn capacity(&self) -> u32 {
        self.end - self.first
    }

    /// The transaction size at which to commit: a quarter of the log, so that an operation that starts
    /// just below it still fits.
    pub fn transaction_limit(&self) -> usize {
        (self.capacity() / 4) as usize
    }

    /// Turns on the format features that `metadata_checksum` and `bits_64` of the file system ask for.
    /// The log must be empty.
    pub fn choose_features(&mut self, metadata_checksum: bool, bits_64: bool) {
        let mut features = self.format.features | feature::REVOKE;
        if bits_64 {
            features |= feature::BITS_64;
        }
        features &= !(feature::CHECKSUM_V2 | feature::CHECKSUM_V3);
        if metadata_checksum {
            features |= feature::CHECKSUM_V3;
            self.superblock[field::CHECKSUM_TYPE] = CHECKSUM_TYPE_CRC32C;
        }
        put_be32(&mut self.superblock, field::INCOMPATIBLE, features);
        // The version 1 checksum can't be combined with these.
        let compatible = be32(&self.superblock, field::COMPATIBLE) & !feature::COMPATIBLE_CHECKSUM;
        put_be32(&mut self.superblock, field::COMPATIBLE, compatible);
        self.format = Format::new(features, &self.superblock[field::UUID..field::UUID + 16]);
    }

    /// Writes where the log starts; `start` zero means that it is empty.
    fn write_superblock(&mut self, store: &Store, start: u32) -> Result<()> {
        put_be32(&mut self.superblock, field::START, start);
        put_be32(&mut self.superblock, field::SEQUENCE, self.sequence);
        if self.format.checksummed() {
            let value = superblock_checksum(&self.superblock);
            put_be32(&mut self.superblock, field::CHECKSUM, value);
        }
        store.write_direct(self.location(0)?, &self.superblock)?;
        store.flush()
    }

    /// Starts an empty log that is in use from now on.
    pub fn start(&mut self, store: &Store) -> Result<()> {
        self.used = 0;
        self.write_superblock(store, self.head)
    }

    /// Marks the log empty, for unmounting.
    pub fn finish(&mut self, store: &Store) -> Result<()> {
        self.used = 0;
        self.head = self.first;
        self.write_superblock(store, 0)
    }

    fn tags_per_descriptor(&self) -> usize {
        // The first tag is followed by the UUID.
        (self.block_size - HEADER_SIZE - 16 - self.format.tail_size()) / self.format.tag_size()
    }

    fn revokes_per_block(&self) -> usize {
        (self.block_size - REVOKE_HEADER_SIZE - self.format.tail_size()) / self.format.revoke_size()
    }

    fn blocks_needed(&self, changes: &Changes) -> usize {
        changes.blocks.len()
            + changes.blocks.len().div_ceil(self.tags_per_descriptor())
            + changes.revoked.len().div_ceil(self.revokes_per_block())
            + 1
    }

    /// Whether the transaction fits behind the head without a checkpoint.
    pub fn has_room(&self, changes: &Changes) -> bool {
        self.blocks_needed(changes) < (self.capacity() - self.used) as usize
    }

    /// Writes a transaction and makes it, and all file data written so far, durable.
    pub fn commit(&mut self, store: &Store, changes: &Changes, now: Timestamp) -> Result<()> {
        if !self.has_room(changes) {
            return Err(Error::Corrupt("a transaction does not fit into the journal"));
        }
        let mut writer =
            Writer { journal: self, store, index: self.head, pending: Vec::new(), start: self.head };
        writer.write_revokes(&changes.revoked)?;
        writer.write_blocks(changes)?;
        writer.write_pending()?;
        let mut head = writer.index;
        // One flush for the data of files and for the log; the commit block only after it.
        store.flush()?;
        let mut commit = vec![0; self.block_size];
        put_header(&mut commit, kind::COMMIT, self.sequence);
        put_be64(&mut commit, COMMIT_SECONDS, now.seconds as u64);
        put_be32(&mut commit, COMMIT_NANOSECONDS, now.nanoseconds);
        self.format.seal_commit(&mut commit);
        store.write_direct(self.location(head)?, &commit)?;
        store.flush()?;
        head = self.following(head);
        self.used += self.blocks_needed(changes) as u32;
        self.head = head;
        self.sequence = self.sequence.wrapping_add(1);
        Ok(())
    }
}

/// Writes consecutive blocks of the log, as few requests as possible.
struct Writer<'a> {
    journal: &'a Journal,
    store: &'a Store,
    index: u32,
    pending: Vec<u8>,
    start: u32,
}

impl Writer<'_> {
    fn push(&mut self, data: &[u8]) -> Result<()> {
        const LONGEST: usize = 256 << 10;
        let journal = self.journal;
        let contiguous = self.pending.is_empty()
            || (self.index > self.start
                && journal.location(self.index)?
                    == journal.location(self.start)? + u64::from(self.index - self.start)
                && self.pending.len() < LONGEST);
        if !contiguous {
            self.write_pending()?;
        }
        if self.pending.is_empty() {
            self.start = self.index;
        }
        self.pending.extend_from_slice(data);
        self.index = journal.following(self.index);
        Ok(())
    }

    fn write_pending(&mut self) -> Result<()> {
        if !self.pending.is_empty() {
            self.store.write_direct(self.journal.location(self.start)?, &self.pending)?;
            self.pending.clear();
        }
        Ok(())
    }

    fn write_revokes(&mut self, revoked: &[u64]) -> Result<()> {
        let journal = self.journal;
        let size = journal.format.revoke_size();
        for numbers in revoked.chunks(journal.revokes_per_block()) {
            let mut data = vec![0; journal.block_size];
            put_header(&mut data, kind::REVOKE, journal.sequence);
            let length = REVOKE_HEADER_SIZE + numbers.len() * size;
            put_be32(&mut data, REVOKE_LENGTH, length as u32);
            for (position, &number) in numbers.iter().enumerate() {
                let offset = REVOKE_HEADER_SIZE + position * size;
                if size == 8 {
                    put_be64(&mut data, offset, number);
                } else {
                    put_be32(&mut data, offset, number as u32);
                }
            }
            journal.format.seal_tail(&mut data);
            self.push(&data)?;
        }
        Ok(())
    }

    fn write_blocks(&mut self, changes: &Changes) -> Result<()> {
        let journal = self.journal;
        for blocks in changes.blocks.chunks(journal.tags_per_descriptor()) {
            let mut descriptor = vec![0; journal.block_size];
            put_header(&mut descriptor, kind::DESCRIPTOR, journal.sequence);
            let mut images = Vec::with_capacity(blocks.len());
            let mut offset = HEADER_SIZE;
            for (position, (block, image)) in blocks.iter().enumerate() {
                let mut flags = if position == 0 { 0 } else { tag::SAME_UUID };
                if position + 1 == blocks.len() {
                    flags |= tag::LAST;
                }
                // A data block that looks like a block of the log is written with its magic zeroed.
                let mut image = image.clone();
                if be32(&image, 0) == format::MAGIC {
                    flags |= tag::ESCAPED;
                    put_be32(alloc::sync::Arc::make_mut(&mut image), 0, 0);
                }
                let checksum = journal.format.tag_checksum(journal.sequence, &image);
                journal.format.write_tag(&mut descriptor, offset, Tag { block: *block, flags, checksum });
                offset += journal.format.tag_size();
                if position == 0 {
                    let uuid = &journal.superblock[field::UUID..field::UUID + 16];
                    descriptor[offset..offset + 16].copy_from_slice(uuid);
                    offset += 16;
                }
                images.push(image);
            }
            journal.format.seal_tail(&mut descriptor);
            self.push(&descriptor)?;
            for image in images {
                self.push(&image)?;
            }
        }
        Ok(())
    }
}
