//! Replaying the log after a crash: find the committed transactions, collect what they revoke, write
//! what remains to its place.

use alloc::{collections::BTreeMap, vec, vec::Vec};

use super::{
    Journal,
    format::{self, HEADER_SIZE, REVOKE_HEADER_SIZE, REVOKE_LENGTH, Tag, field, kind, tag},
};
use crate::{
    bytes::{be32, be64, put_be32},
    error::{Error, Result},
    store::Store,
};

/// A block of a transaction: where it goes, where it is in the log, and its tag.
struct Logged {
    sequence: u32,
    index: u32,
    tag: Tag,
}

/// What the committed part of the log holds.
#[derive(Default)]
struct Contents {
    blocks: Vec<Logged>,
    /// The last transaction that revoked each block.
    revoked: BTreeMap<u64, u32>,
    transactions: u32,
}

impl Journal {
    /// Whether there is something to replay.
    pub fn needs_recovery(&self) -> bool {
        be32(&self.superblock, field::START) != 0
    }

    /// Writes the committed transactions to their places and leaves the log empty. Returns how many
    /// transactions there were. Interrupted, it starts over at the next mount.
    pub fn recover(&mut self, store: &Store) -> Result<u32> {
        let contents = self.scan(store)?;
        self.replay(store, &contents)?;
        store.flush()?;
        // The number after the last one may have been used by a transaction that was cut short, whose
        // blocks are still in the log: skip it, so that they never look like part of a new one.
        self.sequence = self.sequence.wrapping_add(contents.transactions).wrapping_add(1);
        self.finish(store)?;
        Ok(contents.transactions)
    }

    fn scan(&self, store: &Store) -> Result<Contents> {
        let mut contents = Contents::default();
        let mut pending = Contents::default();
        let mut index = be32(&self.superblock, field::START);
        let mut sequence = self.sequence;
        let mut left = self.capacity();
        let mut data = vec![0; self.block_size];
        while left > 0 {
            self.read(store, index, &mut data)?;
            let block_kind = match format::header(&data) {
                Some((block_kind, number)) if number == sequence => block_kind,
                _ => break,
            };
            index = self.following(index);
            left -= 1;
            match block_kind {
                kind::DESCRIPTOR if self.format.tail_is_right(&data) => {
                    for tag in self.tags(&data) {
                        pending.blocks.push(Logged { sequence, index, tag });
                        index = self.following(index);
                        left = left.saturating_sub(1);
                    }
                }
                kind::REVOKE if self.format.tail_is_right(&data) => {
                    self.revokes(&data, sequence, &mut pending)?
                }
                kind::COMMIT if self.format.commit_is_right(&data) => {
                    contents.blocks.append(&mut pending.blocks);
                    contents.revoked.append(&mut pending.revoked);
                    contents.transactions += 1;
                    sequence = sequence.wrapping_add(1);
                }
                // A block that was being written when the power went: the log ends before it.
                _ => break,
            }
        }
        Ok(contents)
    }

    fn tags(&self, data: &[u8]) -> Vec<Tag> {
        let size = self.format.tag_size();
        let end = self.block_size - self.format.tail_size();
        let mut tags = Vec::new();
        let mut offset = HEADER_SIZE;
        while offset + size <= end {
            let tag = self.format.read_tag(data, offset);
            tags.push(tag);
            offset += size + if tag.flags & tag::SAME_UUID != 0 { 0 } else { 16 };
            if tag.flags & tag::LAST != 0 {
                break;
            }
        }
        tags
    }

    fn revokes(&self, data: &[u8], sequence: u32, contents: &mut Contents) -> Result<()> {
        let size = self.format.revoke_size();
        let end = be32(data, REVOKE_LENGTH) as usize;
        if end < REVOKE_HEADER_SIZE || end > self.block_size - self.format.tail_size() {
            return Err(Error::Corrupt("journal revoke block"));
        }
        for number in data[REVOKE_HEADER_SIZE..end].chunks_exact(size) {
            let block = if size == 8 { be64(number, 0) } else { u64::from(be32(number, 0)) };
            contents.revoked.insert(block, sequence);
        }
        Ok(())
    }

    fn replay(&self, store: &Store, contents: &Contents) -> Result<()> {
        let mut data = vec![0; self.block_size];
        for logged in &contents.blocks {
            let revoked = contents.revoked.get(&logged.tag.block);
            if revoked.is_some_and(|&revoked| revoked.wrapping_sub(logged.sequence) as i32 >= 0) {
                continue;
            }
            self.read(store, logged.index, &mut data)?;
            if self.format.checksummed()
                && self.format.tag_checksum(logged.sequence, &data) != logged.tag.checksum
            {
                return Err(Error::Corrupt("checksum of a block in the journal"));
            }
            if logged.tag.flags & tag::ESCAPED != 0 {
                put_be32(&mut data, 0, format::MAGIC);
            }
            store.write_direct(logged.tag.block, &data)?;
        }
        Ok(())
    }
}
