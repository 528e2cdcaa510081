//! Allocating and freeing blocks and inodes.
//!
//! A block freed by the running transaction is not given out again before that transaction commits: until
//! then a power cut brings back the file that had it, which must find its data unharmed. The image that
//! the bitmap had when the transaction started tells which blocks those are.

use crate::{
    bytes::{join, le32, put_le32},
    error::{Error, Result},
    group::{bit, set_bits},
    superblock::field,
    volume::Volume,
};

/// Looks for `want` clear bits in a row in `from..to`, clear in `before` as well. The first such run, or
/// else the longest: (start, length), length 0 if every bit is set.
fn find_run(bitmap: &[u8], before: Option<&[u8]>, from: u32, to: u32, want: u32) -> (u32, u32) {
    let byte = |index: usize| bitmap[index] | before.map_or(0, |before| before[index]);
    let mut best = (0, 0);
    let mut start = from;
    let mut index = from;
    while index < to {
        let here = byte(index as usize / 8);
        let (free, step) = match here {
            0 if index.is_multiple_of(8) => (true, 8.min(to - index)),
            0xff => (false, 8 - index % 8),
            _ => (here & 1 << (index % 8) == 0, 1),
        };
        index += step;
        if free {
            if index - start >= want {
                return (start, want);
            }
            if index - start > best.1 {
                best = (start, index - start);
            }
        } else {
            start = index;
        }
    }
    best
}

impl Volume {
    /// Changes the superblock; its checksum follows when the transaction commits.
    pub fn modify_superblock(&mut self, change: impl FnOnce(&mut [u8])) -> Result<()> {
        let (block, offset) = self.geometry.superblock_location();
        let data = self.store.modify(block)?;
        change(&mut data[offset..offset + crate::superblock::SIZE]);
        Ok(())
    }

    pub fn free_block_count(&mut self) -> Result<u64> {
        let (block, offset) = self.geometry.superblock_location();
        let data = self.store.read(block)?;
        let superblock = &data[offset..];
        Ok(join(le32(superblock, field::FREE_BLOCKS_LOW), le32(superblock, field::FREE_BLOCKS_HIGH)))
    }

    pub fn free_inode_count(&mut self) -> Result<u32> {
        let (block, offset) = self.geometry.superblock_location();
        Ok(le32(&self.store.read(block)?[offset..], field::FREE_INODES))
    }

    fn count_blocks(&mut self, group: u32, change: i64) -> Result<()> {
        let mut descriptor = self.descriptor(group)?;
        let free = i64::from(descriptor.free_blocks) + change;
        descriptor.free_blocks = u32::try_from(free).map_err(|_| Error::Corrupt("free blocks of a group"))?;
        self.put_descriptor(group, &descriptor)?;
        let total = self
            .free_block_count()?
            .checked_add_signed(change)
            .ok_or(Error::Corrupt("free blocks of the file system"))?;
        self.modify_superblock(|superblock| {
            put_le32(superblock, field::FREE_BLOCKS_LOW, total as u32);
            put_le32(superblock, field::FREE_BLOCKS_HIGH, (total >> 32) as u32);
        })
    }

    fn count_inodes(&mut self, group: u32, change: i32, directories: i32) -> Result<()> {
        let mut descriptor = self.descriptor(group)?;
        let overflow = Error::Corrupt("free inodes of a group");
        descriptor.free_inodes = descriptor.free_inodes.checked_add_signed(change).ok_or(overflow.clone())?;
        descriptor.directories = descriptor.directories.checked_add_signed(directories).ok_or(overflow)?;
        self.put_descriptor(group, &descriptor)?;
        let total = self.free_inode_count()?.checked_add_signed(change);
        let total = total.ok_or(Error::Corrupt("free inodes of the file system"))?;
        self.modify_superblock(|superblock| put_le32(superblock, field::FREE_INODES, total))
    }

    /// Allocates up to `want` blocks in a row, as near after `goal` as it goes: (first, count).
    pub fn allocate_blocks(&mut self, goal: u64, want: u32) -> Result<(u64, u32)> {
        /// With a run at hand, how many more groups are searched for a long enough one.
        const PATIENCE: u32 = 16;
        let in_range = goal >= self.geometry.first_data_block && goal < self.geometry.block_count;
        let (first_group, goal_bit) = if in_range { self.geometry.group_of(goal) } else { (0, 0) };
        let groups = self.geometry.group_count;
        let mut best = (0, 0, 0);
        let mut left = PATIENCE;
        // The group of the goal is looked at twice: from the goal on, and at the end as a whole.
        for step in 0..=groups {
            let group = (first_group + step) % groups;
            let descriptor = self.descriptor(group)?;
            if descriptor.free_blocks == 0 {
                continue;
            }
            let bitmap = self.block_bitmap(group)?;
            let before = self.store.committed_image(descriptor.block_bitmap);
            let end = self.geometry.blocks_in(group);
            let from = if step == 0 { goal_bit } else { 0 };
            // Continuing right at the goal keeps a file in one piece, even if it is a short one.
            let (mut start, mut length) = (0, 0);
            if step == 0 && goal_bit < end {
                (start, length) =
                    find_run(&bitmap, before.as_deref(), from, (from + want.min(end)).min(end), want);
                if start != from {
                    length = 0;
                }
            }
            if length == 0 {
                (start, length) = find_run(&bitmap, before.as_deref(), from, end, want);
            } else {
                best = (group, start, length);
                break;
            }
            if length > best.2 {
                best = (group, start, length);
            }
            if best.2 >= want {
                break;
            }
            if best.2 > 0 {
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
        let (group, start, length) = best;
        if length == 0 {
            return Err(Error::NoSpace);
        }
        let block = self.geometry.first_block_of(group) + u64::from(start);
        self.check_blocks(block, u64::from(length))?;
        let bitmap_block = self.descriptor(group)?.block_bitmap;
        set_bits(self.store.modify(bitmap_block)?, start, start + length);
        self.count_blocks(group, -i64::from(length))?;
        Ok((block, length))
    }

    /// Allocates one block of zeroes for metadata.
    pub fn allocate_metadata(&mut self, goal: u64) -> Result<u64> {
        let (block, _) = self.allocate_blocks(goal, 1)?;
        self.store.create(block)?;
        Ok(block)
    }

    /// Frees blocks. `metadata`: they went through the cache, so the log may hold them.
    pub fn free_blocks(&mut self, start: u64, count: u64, metadata: bool) -> Result<()> {
        self.check_blocks(start, count)?;
        let end = start + count;
        let mut block = start;
        while block < end {
            let (group, first) = self.geometry.group_of(block);
            let length = (end - block).min(u64::from(self.geometry.blocks_per_group - first)) as u32;
            let bitmap = self.block_bitmap(group)?;
            if (first..first + length).any(|index| !bit(&bitmap, index)) {
                return Err(Error::Corrupt("freeing a block that is free"));
            }
            drop(bitmap);
            let bitmap_block = self.descriptor(group)?.block_bitmap;
            let bitmap = self.store.modify(bitmap_block)?;
            for index in first..first + length {
                bitmap[index as usize / 8] &= !(1 << (index % 8));
            }
            self.count_blocks(group, i64::from(length))?;
            block += u64::from(length);
        }
        if metadata {
            (start..end).for_each(|block| self.store.forget(block));
        }
        Ok(())
    }

    /// The group where a new directory goes: top-level ones are spread, others stay near their parent.
    fn directory_group(&mut self, parent: u32) -> Result<u32> {
        if parent != crate::inode::ROOT {
            return Ok((parent - 1) / self.geometry.inodes_per_group);
        }
        let mut best = (0, 0);
        for group in 0..self.geometry.group_count {
            let descriptor = self.descriptor(group)?;
            if descriptor.free_inodes > 0 && descriptor.free_blocks > best.1 {
                best = (group, descriptor.free_blocks);
            }
        }
        Ok(best.0)
    }

    /// Allocates an inode number near `parent`.
    pub fn allocate_inode(&mut self, parent: u32, directory: bool) -> Result<u32> {
        let per_group = self.geometry.inodes_per_group;
        let start = if directory { self.directory_group(parent)? } else { (parent - 1) / per_group };
        let groups = self.geometry.group_count;
        for step in 0..groups {
            let group = (start + step) % groups;
            if self.descriptor(group)?.free_inodes == 0 {
                continue;
            }
            let bitmap = self.inode_bitmap(group)?;
            let first = if group == 0 { self.geometry.first_inode - 1 } else { 0 };
            let (index, length) = find_run(&bitmap, None, first, per_group, 1);
            drop(bitmap);
            if length == 0 {
                continue;
            }
            let mut descriptor = self.descriptor(group)?;
            set_bits(self.store.modify(descriptor.inode_bitmap)?, index, index + 1);
            descriptor.unused_inodes = descriptor.unused_inodes.min(per_group - index - 1);
            self.put_descriptor(group, &descriptor)?;
            self.count_inodes(group, -1, i32::from(directory))?;
            return Ok(group * per_group + index + 1);
        }
        Err(Error::NoSpace)
    }

    pub fn free_inode(&mut self, number: u32, directory: bool) -> Result<()> {
        let per_group = self.geometry.inodes_per_group;
        let (group, index) = ((number - 1) / per_group, (number - 1) % per_group);
        if !bit(&self.inode_bitmap(group)?, index) {
            return Err(Error::Corrupt("freeing an inode that is free"));
        }
        let bitmap_block = self.descriptor(group)?.inode_bitmap;
        self.store.modify(bitmap_block)?[index as usize / 8] &= !(1 << (index % 8));
        self.count_inodes(group, 1, -i32::from(directory))
    }

    /// Whether the inode bitmap says that the inode is in use.
    pub fn inode_in_use(&mut self, number: u32) -> Result<bool> {
        let per_group = self.geometry.inodes_per_group;
        let (group, index) = ((number - 1) / per_group, (number - 1) % per_group);
        Ok(bit(&self.inode_bitmap(group)?, index))
    }
}

#[cfg(test)]
mod tests {
    use super::find_run;

    #[test]
    fn runs_are_found() {
        assert_eq!(find_run(&[0xff, 0x0f, 0x00], None, 0, 24, 12), (12, 12));
        assert_eq!(find_run(&[0xff, 0x0f, 0x00], None, 0, 24, 5), (12, 5));
        assert_eq!(find_run(&[0xf0, 0x01, 0xfe], None, 0, 24, 30), (9, 8));
        assert_eq!(find_run(&[0xf0, 0x01, 0xfe], Some(&[0, 0xf0, 0]), 5, 24, 30), (9, 3));
        assert_eq!(find_run(&[0xff, 0xff], None, 3, 16, 1), (0, 0));
        assert_eq!(find_run(&[0, 0], None, 3, 16, 100), (3, 13));
    }
}
