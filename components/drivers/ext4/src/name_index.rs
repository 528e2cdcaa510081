//! An index in memory over the entries of a large directory: which block a name may be in, and which has
//! room. Made when a directory is first searched; the disk knows nothing of it.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use crate::checksum::{CRC32C_START, crc32c};

/// Smaller directories are searched as fast without.
pub const LEAST_BLOCKS: u32 = 3;
/// Entries that all indexes together may hold: about 2 MiB.
const MOST_ENTRIES: usize = 100_000;

/// The index of one directory.
#[derive(Default)]
pub struct NameIndex {
    /// (hash of a name, block of the directory).
    names: BTreeSet<(u32, u32)>,
    /// The largest room for an entry in each block.
    room: Vec<u16>,
}

impl NameIndex {
    pub fn hash(name: &[u8]) -> u32 {
        crc32c(CRC32C_START, name)
    }

    /// The blocks that may hold a name.
    pub fn candidates(&self, name: &[u8]) -> Vec<u32> {
        let hash = Self::hash(name);
        self.names.range((hash, 0)..=(hash, u32::MAX)).map(|&(_, block)| block).collect()
    }

    /// A block with room for an entry.
    pub fn block_with_room(&self, size: usize) -> Option<u32> {
        self.room.iter().position(|&room| usize::from(room) >= size).map(|block| block as u32)
    }

    pub fn blocks(&self) -> usize {
        self.room.len()
    }

    pub fn set_room(&mut self, block: u32, room: usize) {
        let block = block as usize;
        if self.room.len() <= block {
            self.room.resize(block + 1, 0);
        }
        self.room[block] = room.min(usize::from(u16::MAX)) as u16;
    }

    pub fn add(&mut self, name: &[u8], block: u32) {
        self.names.insert((Self::hash(name), block));
    }

    pub fn remove(&mut self, name: &[u8], block: u32) {
        self.names.remove(&(Self::hash(name), block));
    }
}

/// The indexes of the directories in use.
#[derive(Default)]
pub struct NameIndexes {
    indexes: BTreeMap<u32, NameIndex>,
    /// Those changed by the operation under way: if it is undone, they are wrong.
    changed: BTreeSet<u32>,
}

impl NameIndexes {
    /// The index of a directory of `blocks` blocks, if there is one.
    pub fn get(&self, directory: u32, blocks: u32) -> Option<&NameIndex> {
        self.indexes.get(&directory).filter(|index| index.blocks() == blocks as usize)
    }

    /// The index of a directory that is changing, if there is one.
    pub fn change(&mut self, directory: u32) -> Option<&mut NameIndex> {
        let index = self.indexes.get_mut(&directory)?;
        self.changed.insert(directory);
        Some(index)
    }

    pub fn insert(&mut self, directory: u32, index: NameIndex) {
        let total = |indexes: &BTreeMap<u32, NameIndex>| {
            indexes.values().map(|index| index.names.len()).sum::<usize>()
        };
        self.indexes.remove(&directory);
        while total(&self.indexes) + index.names.len() > MOST_ENTRIES && self.indexes.pop_first().is_some() {}
        self.indexes.insert(directory, index);
        // An operation under way may have changed the blocks this was made from.
        self.changed.insert(directory);
    }

    pub fn remove(&mut self, directory: u32) {
        self.indexes.remove(&directory);
    }

    /// An operation starts, or has succeeded.
    pub fn keep(&mut self) {
        self.changed.clear();
    }

    /// The operation was undone.
    pub fn roll_back(&mut self) {
        for directory in core::mem::take(&mut self.changed) {
            self.indexes.remove(&directory);
        }
    }
}
