//! Block groups: descriptors, bitmaps, and where the file system's own structures lie.
//!
//! Specification: <https://docs.kernel.org/filesystems/ext4/globals.html#block-group-descriptors>.

use alloc::vec::Vec;

use crate::{
    bytes::{join, le16, le32, put_le16, put_le32},
    checksum::{CRC16_START, crc16, crc32c, crc32c_with_zeroes},
    error::{Error, Result},
    store::Block,
    superblock::{Geometry, field, read_only_compatible},
    volume::Volume,
};

/// `bg_flags`: the inode bitmap and table, or the block bitmap, have never been written.
const INODES_UNINITIALISED: u16 = 1;
const BLOCKS_UNINITIALISED: u16 = 2;
/// Where a descriptor's checksum is.
const CHECKSUM: usize = 0x1e;

/// A group descriptor.
#[derive(Debug, Clone, Copy, Default)]
pub struct Descriptor {
    pub block_bitmap: u64,
    pub inode_bitmap: u64,
    pub inode_table: u64,
    pub free_blocks: u32,
    pub free_inodes: u32,
    pub directories: u32,
    pub flags: u16,
    /// Inodes at the end of the table that were never used.
    pub unused_inodes: u32,
}

impl Descriptor {
    /// `raw` is 32 bytes, or 64 and more.
    pub fn parse(raw: &[u8]) -> Self {
        let wide = raw.len() >= 64;
        let block = |low, high| join(le32(raw, low), if wide { le32(raw, high) } else { 0 });
        let count =
            |low, high| u32::from(le16(raw, low)) | if wide { u32::from(le16(raw, high)) << 16 } else { 0 };
        Descriptor {
            block_bitmap: block(0x00, 0x20),
            inode_bitmap: block(0x04, 0x24),
            inode_table: block(0x08, 0x28),
            free_blocks: count(0x0c, 0x2c),
            free_inodes: count(0x0e, 0x2e),
            directories: count(0x10, 0x30),
            flags: le16(raw, 0x12),
            unused_inodes: count(0x1c, 0x32),
        }
    }

    pub fn write(&self, raw: &mut [u8]) {
        let wide = raw.len() >= 64;
        let blocks = [
            (0x00, 0x20, self.block_bitmap),
            (0x04, 0x24, self.inode_bitmap),
            (0x08, 0x28, self.inode_table),
        ];
        for (low, high, value) in blocks {
            put_le32(raw, low, value as u32);
            if wide {
                put_le32(raw, high, (value >> 32) as u32);
            }
        }
        let counts = [
            (0x0c, 0x2c, self.free_blocks),
            (0x0e, 0x2e, self.free_inodes),
            (0x10, 0x30, self.directories),
            (0x1c, 0x32, self.unused_inodes),
        ];
        for (low, high, value) in counts {
            put_le16(raw, low, value as u16);
            if wide {
                put_le16(raw, high, (value >> 16) as u16);
            }
        }
        put_le16(raw, 0x12, self.flags);
    }
}

/// The checksum of descriptor `group`, by whichever algorithm the file system uses.
pub fn descriptor_checksum(geometry: &Geometry, group: u32, raw: &[u8]) -> u16 {
    if geometry.metadata_checksum() {
        let start = crc32c(geometry.checksum_seed, &group.to_le_bytes());
        return crc32c_with_zeroes(start, raw, CHECKSUM..CHECKSUM + 2) as u16;
    }
    let value = crc16(CRC16_START, &geometry.uuid);
    let value = crc16(value, &group.to_le_bytes());
    crc16(crc16(value, &raw[..CHECKSUM]), &raw[CHECKSUM + 2..])
}

/// Stores the checksum of a descriptor that has changed.
pub fn seal_descriptor(geometry: &Geometry, group: u32, raw: &mut [u8]) {
    if geometry.metadata_checksum() || geometry.has_read_only(read_only_compatible::GROUP_CHECKSUM) {
        let value = descriptor_checksum(geometry, group, raw);
        put_le16(raw, CHECKSUM, value);
    }
}

/// Stores a bitmap's checksum in the descriptor; `low` and `high` say where.
fn put_bitmap_checksum(geometry: &Geometry, raw: &mut [u8], low: usize, high: usize, bitmap: &[u8]) {
    let value = crc32c(geometry.checksum_seed, bitmap);
    put_le16(raw, low, value as u16);
    if raw.len() >= 64 {
        put_le16(raw, high, (value >> 16) as u16);
    }
}

/// Stores the checksums of a group's bitmaps (those given) and the descriptor's own.
pub fn seal_group(
    geometry: &Geometry,
    group: u32,
    raw: &mut [u8],
    block_bitmap: Option<&[u8]>,
    inode_bitmap: Option<&[u8]>,
) {
    if geometry.metadata_checksum() {
        if let Some(bitmap) = block_bitmap {
            let covered = &bitmap[..geometry.blocks_per_group as usize / 8];
            put_bitmap_checksum(geometry, raw, 0x18, 0x38, covered);
        }
        if let Some(bitmap) = inode_bitmap {
            let covered = &bitmap[..geometry.inodes_per_group as usize / 8];
            put_bitmap_checksum(geometry, raw, 0x1a, 0x3a, covered);
        }
    }
    seal_descriptor(geometry, group, raw);
}

/// Sets bits `from..to`.
pub fn set_bits(bitmap: &mut [u8], from: u32, to: u32) {
    for bit in from..to {
        bitmap[bit as usize / 8] |= 1 << (bit % 8);
    }
}

pub fn bit(bitmap: &[u8], index: u32) -> bool {
    bitmap[index as usize / 8] & 1 << (index % 8) != 0
}

impl Volume {
    /// The block that holds a group's descriptor, and where in it.
    fn descriptor_location(&self, group: u32) -> (u64, usize) {
        let per_block = self.geometry.block_size / self.geometry.descriptor_size;
        let block = self.geometry.first_data_block + 1 + u64::from(group) / per_block as u64;
        (block, group as usize % per_block * self.geometry.descriptor_size)
    }

    pub fn descriptor(&mut self, group: u32) -> Result<Descriptor> {
        let (block, offset) = self.descriptor_location(group);
        let data = self.store.read(block)?;
        Ok(Descriptor::parse(&data[offset..offset + self.geometry.descriptor_size]))
    }

    /// Changes a descriptor; its checksum follows when the transaction commits.
    pub fn put_descriptor(&mut self, group: u32, descriptor: &Descriptor) -> Result<()> {
        let (block, offset) = self.descriptor_location(group);
        let size = self.geometry.descriptor_size;
        descriptor.write(&mut self.store.modify(block)?[offset..offset + size]);
        self.changed_groups.insert(group);
        Ok(())
    }

    /// Checks every descriptor, and notes where the file system's own structures lie: no file may
    /// claim those blocks. Returns how many blocks and inodes are free.
    pub fn load_groups(&mut self) -> Result<(u64, u32)> {
        let geometry = self.geometry.clone();
        let with_checksum =
            geometry.metadata_checksum() || geometry.has_read_only(read_only_compatible::GROUP_CHECKSUM);
        let mut zones = Vec::new();
        let (mut free_blocks, mut free_inodes) = (0, 0u32);
        for group in 0..geometry.group_count {
            let (block, offset) = self.descriptor_location(group);
            let data = self.store.read(block)?;
            let raw = &data[offset..offset + geometry.descriptor_size];
            if with_checksum && le16(raw, CHECKSUM) != descriptor_checksum(&geometry, group, raw) {
                return Err(Error::Corrupt("group descriptor checksum"));
            }
            let descriptor = Descriptor::parse(raw);
            if geometry.has_superblock(group) {
                let start = geometry.first_block_of(group);
                zones.push((
                    start,
                    start + 1 + geometry.descriptor_blocks() + geometry.reserved_descriptor_blocks,
                ));
            }
            let table_blocks = geometry.inode_table_blocks();
            let structures = [
                (descriptor.block_bitmap, 1),
                (descriptor.inode_bitmap, 1),
                (descriptor.inode_table, table_blocks),
            ];
            for (start, count) in structures {
                if start <= geometry.first_data_block || start.saturating_add(count) > geometry.block_count {
                    return Err(Error::Corrupt("group descriptor points outside the file system"));
                }
                zones.push((start, start + count));
            }
            if descriptor.free_blocks > geometry.blocks_in(group)
                || descriptor.free_inodes > geometry.inodes_per_group
                || descriptor.unused_inodes > geometry.inodes_per_group
            {
                return Err(Error::Corrupt("group descriptor counts"));
            }
            free_blocks += u64::from(descriptor.free_blocks);
            free_inodes = free_inodes.saturating_add(descriptor.free_inodes);
        }
        self.system_zones = zones;
        self.merge_zones();
        Ok((free_blocks, free_inodes))
    }

    /// Adds blocks that no file may claim (the journal's).
    pub fn add_system_zone(&mut self, start: u64, end: u64) {
        self.system_zones.push((start, end));
        self.merge_zones();
    }

    fn merge_zones(&mut self) {
        self.system_zones.sort_unstable();
        self.system_zones.dedup_by(|next, previous| {
            let adjacent = next.0 <= previous.1;
            if adjacent {
                previous.1 = previous.1.max(next.1);
            }
            adjacent
        });
    }

    /// Fails if a file, directory or extent block may not be in `start..start + count`.
    pub fn check_blocks(&self, start: u64, count: u64) -> Result<()> {
        let end = start.checked_add(count).filter(|&end| end <= self.geometry.block_count);
        let Some(end) =
            end.filter(|_| start > self.geometry.first_data_block || self.geometry.block_size > 1024)
        else {
            return Err(Error::Corrupt("block number outside the file system"));
        };
        let after = self.system_zones.partition_point(|zone| zone.1 <= start);
        match self.system_zones.get(after) {
            Some(zone) if zone.0 < end => {
                Err(Error::Corrupt("a file claims blocks of the file system's own"))
            }
            _ => Ok(()),
        }
    }

    fn verify_bitmap(&self, raw: &[u8], low: usize, high: usize, bitmap: &[u8]) -> bool {
        if !self.geometry.metadata_checksum() {
            return true;
        }
        let value = crc32c(self.geometry.checksum_seed, bitmap);
        le16(raw, low) == value as u16 && (raw.len() < 64 || le16(raw, high) == (value >> 16) as u16)
    }

    /// The group's block bitmap, made if it was never written.
    pub fn block_bitmap(&mut self, group: u32) -> Result<Block> {
        let mut descriptor = self.descriptor(group)?;
        if descriptor.flags & BLOCKS_UNINITIALISED == 0 {
            let (block, offset) = self.descriptor_location(group);
            let raw = self.store.read(block)?;
            let raw = raw[offset..offset + self.geometry.descriptor_size].to_vec();
            let covered = self.geometry.blocks_per_group as usize / 8;
            if !self.store.is_verified(descriptor.block_bitmap) {
                let data = self.store.read(descriptor.block_bitmap)?;
                if !self.verify_bitmap(&raw, 0x18, 0x38, &data[..covered]) {
                    return Err(Error::Corrupt("block bitmap checksum"));
                }
                self.store.set_verified(descriptor.block_bitmap);
            }
            return self.store.read(descriptor.block_bitmap);
        }
        let first = self.geometry.first_block_of(group);
        let count = self.geometry.blocks_in(group);
        let end = first + u64::from(count);
        let mut ranges = Vec::new();
        for &(start, stop) in &self.system_zones {
            let (from, to) = (start.max(first), stop.min(end));
            if from < to {
                ranges.push(((from - first) as u32, (to - first) as u32));
            }
        }
        let bits = self.geometry.block_size as u32 * 8;
        let bitmap = self.store.create(descriptor.block_bitmap)?;
        for (from, to) in ranges {
            set_bits(bitmap, from, to);
        }
        set_bits(bitmap, count, bits);
        descriptor.flags &= !BLOCKS_UNINITIALISED;
        self.put_descriptor(group, &descriptor)?;
        self.store.read(descriptor.block_bitmap)
    }

    /// The group's inode bitmap, made if it was never written.
    pub fn inode_bitmap(&mut self, group: u32) -> Result<Block> {
        let mut descriptor = self.descriptor(group)?;
        if descriptor.flags & INODES_UNINITIALISED == 0 {
            let (block, offset) = self.descriptor_location(group);
            let raw = self.store.read(block)?;
            let raw = raw[offset..offset + self.geometry.descriptor_size].to_vec();
            let covered = self.geometry.inodes_per_group as usize / 8;
            if !self.store.is_verified(descriptor.inode_bitmap) {
                let data = self.store.read(descriptor.inode_bitmap)?;
                if !self.verify_bitmap(&raw, 0x1a, 0x3a, &data[..covered]) {
                    return Err(Error::Corrupt("inode bitmap checksum"));
                }
                self.store.set_verified(descriptor.inode_bitmap);
            }
            return self.store.read(descriptor.inode_bitmap);
        }
        let bits = self.geometry.block_size as u32 * 8;
        let inodes = self.geometry.inodes_per_group;
        set_bits(self.store.create(descriptor.inode_bitmap)?, inodes, bits);
        descriptor.flags &= !INODES_UNINITIALISED;
        descriptor.unused_inodes = inodes;
        self.put_descriptor(group, &descriptor)?;
        self.store.read(descriptor.inode_bitmap)
    }

    /// Brings the checksums of the changed groups and of the superblock up to date, before a commit.
    pub fn seal_groups(&mut self) -> Result<()> {
        let geometry = self.geometry.clone();
        for group in core::mem::take(&mut self.changed_groups) {
            let descriptor = self.descriptor(group)?;
            let mut bitmaps = [None, None];
            for (slot, block) in [descriptor.block_bitmap, descriptor.inode_bitmap].into_iter().enumerate() {
                if self.store.is_changed(block) {
                    bitmaps[slot] = Some(self.store.read(block)?);
                }
            }
            let (block, offset) = self.descriptor_location(group);
            let raw = &mut self.store.modify(block)?[offset..offset + geometry.descriptor_size];
            seal_group(&geometry, group, raw, bitmaps[0].as_deref(), bitmaps[1].as_deref());
        }
        let (block, _) = geometry.superblock_location();
        if self.store.is_changed(block) {
            let now = (self.clock)().seconds as u32;
            self.modify_superblock(|superblock| {
                put_le32(superblock, field::WRITE_TIME, now);
                crate::superblock::seal(superblock);
            })?;
        }
        Ok(())
    }
}
