//! The metadata block cache, and in it the running transaction.
//!
//! Every metadata block is read and changed through here. A block has up to three images: the one in
//! the cache (what operations see), the one the running transaction started from, and the newest
//! committed one that waits to be written to its place (a *checkpoint*). Images are shared and copied
//! on write, so keeping an older one costs a copy only when the block changes.
//!
//! An operation that fails is undone block by block, so a transaction holds whole operations only.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    vec,
    vec::Vec,
};
use core::ops::Bound;

use crate::{
    device::BlockDevice,
    error::{Error, Result},
};

/// An image of a block.
pub type Block = Arc<[u8]>;

struct Entry {
    data: Block,
    /// The checksum was found right, or the contents are ours.
    verified: bool,
    /// Used since the eviction hand last passed.
    recent: bool,
}

/// What a block was before the current operation touched it.
struct Undo {
    entry: Option<(Block, bool)>,
    running: Option<Option<Block>>,
    revoked: bool,
}

/// The whole state of metadata blocks; see the module's description.
pub struct Store {
    device: Arc<dyn BlockDevice>,
    block_size: usize,
    block_count: u64,
    capacity: usize,
    entries: BTreeMap<u64, Entry>,
    hand: u64,
    /// Changed blocks, with the image they had when the transaction started (none: newly made).
    running: BTreeMap<u64, Option<Block>>,
    /// Freed blocks that the log must not bring back.
    revoked: BTreeSet<u64>,
    /// Committed images that are not yet in their place.
    checkpoint: BTreeMap<u64, Block>,
    operation: Option<BTreeMap<u64, Undo>>,
}

/// What a transaction writes.
pub struct Changes {
    pub blocks: Vec<(u64, Block)>,
    pub revoked: Vec<u64>,
}

impl Store {
    /// `capacity` bounds the number of unchanged blocks kept.
    pub fn new(device: Arc<dyn BlockDevice>, block_size: usize, block_count: u64, capacity: usize) -> Self {
        Store {
            device,
            block_size,
            block_count,
            capacity: capacity.max(16),
            entries: BTreeMap::new(),
            hand: 0,
            running: BTreeMap::new(),
            revoked: BTreeSet::new(),
            checkpoint: BTreeMap::new(),
            operation: None,
        }
    }

    fn sector(&self, block: u64) -> u64 {
        block * (self.block_size as u64 / u64::from(self.device.block_size()))
    }

    fn check(&self, block: u64, count: u64) -> Result<()> {
        match block.checked_add(count) {
            Some(end) if end <= self.block_count => Ok(()),
            _ => Err(Error::Corrupt("block number beyond the end of the file system")),
        }
    }

    /// Reads whole blocks from the disk, past the cache. For file data and the log.
    pub fn read_direct(&self, block: u64, buffer: &mut [u8]) -> Result<()> {
        self.check(block, (buffer.len() / self.block_size) as u64)?;
        Ok(self.device.read(self.sector(block), buffer)?)
    }

    /// Writes whole blocks to the disk, past the cache. For file data and the log.
    pub fn write_direct(&self, block: u64, data: &[u8]) -> Result<()> {
        self.check(block, (data.len() / self.block_size) as u64)?;
        Ok(self.device.write(self.sector(block), data)?)
    }

    pub fn flush(&self) -> Result<()> {
        Ok(self.device.flush()?)
    }

    /// The present image of a block.
    pub fn read(&mut self, block: u64) -> Result<Block> {
        if let Some(entry) = self.entries.get_mut(&block) {
            entry.recent = true;
            return Ok(entry.data.clone());
        }
        let (data, verified) = match self.checkpoint.get(&block) {
            Some(image) => (image.clone(), true),
            None => {
                let mut buffer = vec![0; self.block_size];
                self.read_direct(block, &mut buffer)?;
                (Block::from(buffer), false)
            }
        };
        self.evict();
        self.entries.insert(block, Entry { data: data.clone(), verified, recent: true });
        Ok(data)
    }

    /// Whether the block is in the cache and its checksum was found right.
    pub fn is_verified(&self, block: u64) -> bool {
        self.entries.get(&block).is_some_and(|entry| entry.verified)
    }

    /// The block's checksum was found right: no need to look again while it is in the cache.
    pub fn set_verified(&mut self, block: u64) {
        if let Some(entry) = self.entries.get_mut(&block) {
            entry.verified = true;
        }
    }

    /// [`read`](Self::read), with a check the first time the block comes from the disk.
    pub fn read_verified(
        &mut self,
        block: u64,
        wrong: &'static str,
        verify: impl FnOnce(&[u8]) -> bool,
    ) -> Result<Block> {
        let data = self.read(block)?;
        if !self.is_verified(block) {
            if !verify(&data) {
                return Err(Error::Corrupt(wrong));
            }
            self.set_verified(block);
        }
        Ok(data)
    }

    fn evict(&mut self) {
        let mut steps = 2 * self.entries.len();
        while self.entries.len() >= self.capacity + self.running.len() && steps > 0 {
            steps -= 1;
            let next = self.entries.range((Bound::Excluded(self.hand), Bound::Unbounded)).next();
            let Some((&block, _)) = next.or_else(|| self.entries.iter().next()) else { return };
            self.hand = block;
            if self.running.contains_key(&block) {
                continue;
            }
            match self.entries.get_mut(&block) {
                Some(entry) if entry.recent => entry.recent = false,
                _ => drop(self.entries.remove(&block)),
            }
        }
    }

    fn remember(&mut self, block: u64) {
        if let Some(operation) = &mut self.operation {
            operation.entry(block).or_insert_with(|| Undo {
                entry: self.entries.get(&block).map(|entry| (entry.data.clone(), entry.verified)),
                running: self.running.get(&block).cloned(),
                revoked: self.revoked.contains(&block),
            });
        }
    }

    /// The block's image, to be changed as part of the running transaction.
    pub fn modify(&mut self, block: u64) -> Result<&mut [u8]> {
        let before = self.read(block)?;
        self.remember(block);
        self.running.entry(block).or_insert(Some(before));
        self.revoked.remove(&block);
        let entry = self.entries.get_mut(&block).ok_or(Error::Corrupt("block cache"))?;
        Ok(Arc::make_mut(&mut entry.data))
    }

    /// A newly allocated block of zeroes, part of the running transaction.
    pub fn create(&mut self, block: u64) -> Result<&mut [u8]> {
        self.check(block, 1)?;
        self.remember(block);
        self.evict();
        self.running.entry(block).or_insert(None);
        self.revoked.remove(&block);
        let data = Block::from(vec![0; self.block_size]);
        self.entries.insert(block, Entry { data, verified: true, recent: true });
        let entry = self.entries.get_mut(&block).ok_or(Error::Corrupt("block cache"))?;
        Ok(Arc::make_mut(&mut entry.data))
    }

    /// A metadata block has been freed: nothing of it is written any more, and the log must not bring
    /// an older image back over what the block is used for next.
    pub fn forget(&mut self, block: u64) {
        self.remember(block);
        self.entries.remove(&block);
        self.running.remove(&block);
        if self.checkpoint.contains_key(&block) {
            self.revoked.insert(block);
        }
    }

    /// The image that the block had when the running transaction started, if it has changed since.
    pub fn committed_image(&self, block: u64) -> Option<Block> {
        self.running.get(&block).cloned().flatten()
    }

    pub fn begin_operation(&mut self) {
        self.operation = Some(BTreeMap::new());
    }

    pub fn end_operation(&mut self) {
        self.operation = None;
    }

    /// Undoes everything since [`begin_operation`](Self::begin_operation).
    pub fn roll_back(&mut self) {
        for (block, undo) in self.operation.take().unwrap_or_default() {
            match undo.entry {
                Some((data, verified)) => {
                    self.entries.insert(block, Entry { data, verified, recent: true });
                }
                None => drop(self.entries.remove(&block)),
            }
            match undo.running {
                Some(image) => drop(self.running.insert(block, image)),
                None => drop(self.running.remove(&block)),
            }
            if undo.revoked {
                self.revoked.insert(block);
            } else {
                self.revoked.remove(&block);
            }
        }
    }

    /// How many blocks the running transaction has changed.
    pub fn running_len(&self) -> usize {
        self.running.len() + self.revoked.len() / 64
    }

    pub fn is_changed(&self, block: u64) -> bool {
        self.running.contains_key(&block)
    }

    pub fn is_clean(&self) -> bool {
        self.running.is_empty() && self.revoked.is_empty()
    }

    /// What the running transaction holds, for the log.
    pub fn changes(&self) -> Changes {
        let blocks = self
            .running
            .keys()
            .filter_map(|block| self.entries.get(block).map(|entry| (*block, entry.data.clone())));
        Changes { blocks: blocks.collect(), revoked: self.revoked.iter().copied().collect() }
    }

    /// `changes` are durable in the log: the running transaction is empty again, and its blocks wait
    /// to be written to their places.
    pub fn committed(&mut self, changes: Changes) {
        for block in &changes.revoked {
            self.checkpoint.remove(block);
        }
        self.checkpoint.extend(changes.blocks);
        self.running.clear();
        self.revoked.clear();
    }

    pub fn checkpoint_len(&self) -> usize {
        self.checkpoint.len()
    }

    /// Writes the committed blocks to their places, neighbours together, and makes them durable.
    pub fn write_checkpoint(&mut self) -> Result<()> {
        const LONGEST: usize = 256 << 10;
        let mut buffer: Vec<u8> = Vec::new();
        let mut start = 0;
        for (&block, image) in &self.checkpoint {
            let next = start + (buffer.len() / self.block_size) as u64;
            if !buffer.is_empty() && (block != next || buffer.len() >= LONGEST) {
                self.write_direct(start, &buffer)?;
                buffer.clear();
            }
            if buffer.is_empty() {
                start = block;
            }
            buffer.extend_from_slice(image);
        }
        if !buffer.is_empty() {
            self.write_direct(start, &buffer)?;
        }
        self.flush()?;
        self.checkpoint.clear();
        Ok(())
    }
}
