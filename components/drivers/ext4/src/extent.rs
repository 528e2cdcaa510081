//! The extent tree: which blocks of the disk hold a file's blocks. Reading it.
//!
//! Specification: <https://docs.kernel.org/filesystems/ext4/dynamic.html#extent-tree>. `extent_edit`
//! changes the tree.

use alloc::vec::Vec;

use crate::{
    bytes::{join, le16, le32, put_le16, put_le32},
    checksum::crc32c,
    error::{Error, Result},
    inode::{Inode, TREE, TREE_SIZE},
    store::Block,
    volume::Volume,
};

pub const MAGIC: u16 = 0xf30a;
/// Bytes in a node's header, and in each entry.
pub const ENTRY: usize = 12;
/// No tree needs to be deeper.
pub const MOST_LEVELS: u16 = 5;
/// Longest extent; `ee_len` above this marks blocks that are allocated but read as zeroes.
pub const LONGEST: u32 = 1 << 15;

/// A run of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub logical: u32,
    pub length: u32,
    pub physical: u64,
    pub unwritten: bool,
}

impl Extent {
    pub fn end(&self) -> u64 {
        u64::from(self.logical) + u64::from(self.length)
    }

    /// The longest extent of this kind.
    pub fn limit(&self) -> u32 {
        if self.unwritten { LONGEST - 1 } else { LONGEST }
    }

    fn parse(entry: &[u8]) -> Self {
        let raw = u32::from(le16(entry, 4));
        let unwritten = raw > LONGEST;
        Extent {
            logical: le32(entry, 0),
            length: if unwritten { raw - LONGEST } else { raw },
            physical: join(le32(entry, 8), u32::from(le16(entry, 6))),
            unwritten,
        }
    }

    pub fn write(&self, entry: &mut [u8]) {
        put_le32(entry, 0, self.logical);
        put_le16(entry, 4, if self.unwritten { self.length + LONGEST } else { self.length } as u16);
        put_le16(entry, 6, (self.physical >> 32) as u16);
        put_le32(entry, 8, self.physical as u32);
    }
}

/// What a block of a file maps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// The block on the disk; none in a hole.
    pub physical: Option<u64>,
    /// How many blocks from here on are alike.
    pub length: u32,
    /// Allocated, but reads as zeroes.
    pub unwritten: bool,
}

/// Where a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Root,
    Block(u64),
}

/// A checked node: the entries of a leaf, or the (key, block) pairs of an index node.
#[derive(Debug)]
pub struct Node {
    pub place: Place,
    pub depth: u16,
    /// How many entries fit.
    pub most: usize,
    pub entries: Entries,
}

#[derive(Debug)]
pub enum Entries {
    Extents(Vec<Extent>),
    Children(Vec<(u32, u64)>),
}

impl Node {
    pub fn first_key(&self) -> Option<u32> {
        match &self.entries {
            Entries::Extents(extents) => extents.first().map(|extent| extent.logical),
            Entries::Children(children) => children.first().map(|child| child.0),
        }
    }

    fn write(&self, data: &mut [u8]) {
        put_le16(data, 0, MAGIC);
        put_le16(data, 4, self.most as u16);
        put_le16(data, 6, self.depth);
        let count = match &self.entries {
            Entries::Extents(extents) => {
                for (extent, entry) in extents.iter().zip(data[ENTRY..].chunks_exact_mut(ENTRY)) {
                    extent.write(entry);
                }
                extents.len()
            }
            Entries::Children(children) => {
                for (&(key, block), entry) in children.iter().zip(data[ENTRY..].chunks_exact_mut(ENTRY)) {
                    put_le32(entry, 0, key);
                    put_le32(entry, 4, block as u32);
                    put_le32(entry, 8, (block >> 32) as u32 & 0xffff);
                }
                children.len()
            }
        };
        put_le16(data, 2, count as u16);
    }
}

/// Where a node's checksum is, or none where the header is not a node's.
fn checksum_offset(data: &[u8]) -> Option<usize> {
    let offset = ENTRY + usize::from(le16(data, 4)) * ENTRY;
    (offset + 4 <= data.len()).then_some(offset)
}

/// Makes the root of an empty tree.
pub fn clear_root(inode: &mut Inode) {
    let root = &mut inode.raw[TREE..TREE + TREE_SIZE];
    root.fill(0);
    put_le16(root, 0, MAGIC);
    put_le16(root, 4, 4);
}

impl Volume {
    /// Reads and checks the node at `place`; `depth` is what its parent says it must be.
    pub fn extent_node(&mut self, inode: &Inode, place: Place, depth: Option<u16>) -> Result<Node> {
        let data = match place {
            Place::Root => Block::from(&inode.raw[TREE..TREE + TREE_SIZE]),
            Place::Block(block) => {
                self.check_blocks(block, 1)?;
                let seed = self
                    .geometry
                    .metadata_checksum()
                    .then(|| inode.checksum_seed(self.geometry.checksum_seed));
                self.store.read_verified(block, "extent block checksum", |data| {
                    match (seed, checksum_offset(data)) {
                        (None, _) => true,
                        (Some(seed), Some(offset)) => le32(data, offset) == crc32c(seed, &data[..offset]),
                        (Some(_), None) => false,
                    }
                })?
            }
        };
        let count = usize::from(le16(&data, 2));
        let most = usize::from(le16(&data, 4));
        let found = le16(&data, 6);
        let fits = most > 0 && most < data.len() / ENTRY && count <= most;
        if le16(&data, 0) != MAGIC
            || !fits
            || found > MOST_LEVELS
            || depth.is_some_and(|depth| depth != found)
        {
            return Err(Error::Corrupt("extent node"));
        }
        let entries = data[ENTRY..].chunks_exact(ENTRY).take(count);
        let entries = if found == 0 {
            Entries::Extents(entries.map(Extent::parse).collect())
        } else {
            Entries::Children(
                entries
                    .map(|entry| (le32(entry, 0), join(le32(entry, 4), u32::from(le16(entry, 8)))))
                    .collect(),
            )
        };
        self.check_entries(&entries)?;
        Ok(Node { place, depth: found, most, entries })
    }

    fn check_entries(&self, entries: &Entries) -> Result<()> {
        let mut end = 0;
        match entries {
            Entries::Extents(extents) => {
                for extent in extents {
                    if extent.length == 0 || u64::from(extent.logical) < end || extent.end() > 1 << 32 {
                        return Err(Error::Corrupt("extents out of order"));
                    }
                    end = extent.end();
                    self.check_blocks(extent.physical, u64::from(extent.length))?;
                }
            }
            Entries::Children(children) => {
                for child in children {
                    if u64::from(child.0) < end {
                        return Err(Error::Corrupt("extent index out of order"));
                    }
                    end = u64::from(child.0) + 1;
                }
            }
        }
        Ok(())
    }

    /// Writes a node that has changed.
    pub fn put_extent_node(&mut self, inode: &mut Inode, node: &Node) -> Result<()> {
        match node.place {
            Place::Root => node.write(&mut inode.raw[TREE..TREE + TREE_SIZE]),
            Place::Block(block) => {
                let seed = inode.checksum_seed(self.geometry.checksum_seed);
                let with_checksum = self.geometry.metadata_checksum();
                let data = self.store.modify(block)?;
                node.write(data);
                if with_checksum && let Some(offset) = checksum_offset(data) {
                    let value = crc32c(seed, &data[..offset]);
                    put_le32(data, offset, value);
                }
            }
        }
        Ok(())
    }

    /// What block `logical` of the file maps to, and how many blocks from there on are alike.
    pub fn map_block(&mut self, inode: &Inode, logical: u32) -> Result<Mapping> {
        if !inode.has_extents() {
            return Err(Error::Unsupported("an inode without extents"));
        }
        let mut node = self.extent_node(inode, Place::Root, None)?;
        let mut end = 1u64 << 32;
        loop {
            let children = match &node.entries {
                Entries::Extents(extents) => return Ok(find_extent(extents, logical, end)),
                Entries::Children(children) => children,
            };
            let after = children.partition_point(|child| child.0 <= logical);
            if let Some(next) = children.get(after) {
                end = end.min(u64::from(next.0));
            }
            let Some(child) = after.checked_sub(1).and_then(|index| children.get(index)) else {
                return Ok(hole(logical, end));
            };
            node = self.extent_node(inode, Place::Block(child.1), Some(node.depth - 1))?;
        }
    }

    /// Every extent of a file, up to `most` of them.
    pub fn extents(&mut self, inode: &Inode, most: usize) -> Result<Vec<Extent>> {
        let mut found = Vec::new();
        let mut logical = 0u64;
        while logical < 1 << 32 {
            let mapping = self.map_block(inode, logical as u32)?;
            if let Some(physical) = mapping.physical {
                if found.len() == most {
                    return Err(Error::Corrupt("too many extents"));
                }
                let (logical, unwritten) = (logical as u32, mapping.unwritten);
                found.push(Extent { logical, length: mapping.length, physical, unwritten });
            }
            logical += u64::from(mapping.length);
        }
        Ok(found)
    }
}

fn hole(logical: u32, end: u64) -> Mapping {
    let length = end.saturating_sub(u64::from(logical)).clamp(1, u64::from(u32::MAX));
    Mapping { physical: None, length: length as u32, unwritten: false }
}

/// Looks into a leaf that is responsible for the blocks up to `end`.
fn find_extent(extents: &[Extent], logical: u32, end: u64) -> Mapping {
    let after = extents.partition_point(|extent| extent.logical <= logical);
    if let Some(extent) = after.checked_sub(1).and_then(|index| extents.get(index))
        && u64::from(logical) < extent.end()
    {
        let skipped = logical - extent.logical;
        let physical = Some(extent.physical + u64::from(skipped));
        return Mapping { physical, length: extent.length - skipped, unwritten: extent.unwritten };
    }
    let next = extents.get(after).map_or(end, |extent| u64::from(extent.logical).min(end));
    hole(logical, next)
}
