//! The superblock: what the file system looks like, and which features it uses.
//!
//! Specification: <https://docs.kernel.org/filesystems/ext4/globals.html#super-block>.

use alloc::{string::String, vec::Vec};

use crate::{
    bytes::{join, le16, le32, put_le32},
    checksum::{CRC32C_START, crc32c},
    error::{Error, Result},
};

/// Bytes in a superblock, and where it starts on the disk.
pub const SIZE: usize = 1024;
pub const POSITION: u64 = 1024;
pub const MAGIC: u16 = 0xef53;

/// Offsets of the fields that change while mounted.
pub mod field {
    pub const FREE_BLOCKS_LOW: usize = 0x0c;
    pub const FREE_INODES: usize = 0x10;
    pub const MOUNT_TIME: usize = 0x2c;
    pub const WRITE_TIME: usize = 0x30;
    pub const MOUNT_COUNT: usize = 0x34;
    pub const STATE: usize = 0x3a;
    pub const INCOMPATIBLE: usize = 0x60;
    pub const READ_ONLY_COMPATIBLE: usize = 0x64;
    pub const LAST_ORPHAN: usize = 0xe8;
    pub const FREE_BLOCKS_HIGH: usize = 0x158;
    pub const CHECKSUM: usize = 0x3fc;
}

pub mod compatible {
    pub const HAS_JOURNAL: u32 = 0x4;
    pub const EXTENDED_ATTRIBUTES: u32 = 0x8;
    pub const DIRECTORY_INDEX: u32 = 0x20;
    pub const SPARSE_SUPER2: u32 = 0x200;
}

pub mod incompatible {
    pub const FILE_TYPE: u32 = 0x2;
    pub const RECOVER: u32 = 0x4;
    pub const EXTENTS: u32 = 0x40;
    pub const BITS_64: u32 = 0x80;
    pub const FLEXIBLE_GROUPS: u32 = 0x200;
    pub const CHECKSUM_SEED: u32 = 0x2000;
    pub const SUPPORTED: u32 = FILE_TYPE | RECOVER | EXTENTS | BITS_64 | FLEXIBLE_GROUPS | CHECKSUM_SEED;
    /// Without these the structures differ more than this driver handles.
    pub const REQUIRED: u32 = FILE_TYPE | EXTENTS;
}

pub mod read_only_compatible {
    pub const SPARSE_SUPER: u32 = 0x1;
    pub const LARGE_FILE: u32 = 0x2;
    pub const HUGE_FILE: u32 = 0x8;
    pub const GROUP_CHECKSUM: u32 = 0x10;
    pub const DIRECTORY_LINKS: u32 = 0x20;
    pub const EXTRA_INODE_SIZE: u32 = 0x40;
    pub const METADATA_CHECKSUM: u32 = 0x400;
    pub const SUPPORTED: u32 = SPARSE_SUPER
        | LARGE_FILE
        | HUGE_FILE
        | GROUP_CHECKSUM
        | DIRECTORY_LINKS
        | EXTRA_INODE_SIZE
        | METADATA_CHECKSUM;
}

/// `s_state`: unmounted cleanly.
pub const STATE_CLEAN: u16 = 1;

/// Names as `mke2fs` and `dumpe2fs` spell them, by bit.
const INCOMPATIBLE_NAMES: [(u32, &str); 18] = [
    (0x1, "compression"),
    (0x2, "filetype"),
    (0x4, "needs_recovery"),
    (0x8, "journal_dev"),
    (0x10, "meta_bg"),
    (0x40, "extent"),
    (0x80, "64bit"),
    (0x100, "mmp"),
    (0x200, "flex_bg"),
    (0x400, "ea_inode"),
    (0x1000, "dirdata"),
    (0x2000, "metadata_csum_seed"),
    (0x4000, "large_dir"),
    (0x8000, "inline_data"),
    (0x1_0000, "encrypt"),
    (0x2_0000, "casefold"),
    (0x20, "incompat bit 5"),
    (0x800, "incompat bit 11"),
];

const READ_ONLY_NAMES: [(u32, &str); 13] = [
    (0x4, "btree_dir"),
    (0x80, "snapshot"),
    (0x100, "quota"),
    (0x200, "bigalloc"),
    (0x800, "replica"),
    (0x1000, "read-only"),
    (0x2000, "project"),
    (0x4000, "shared_blocks"),
    (0x8000, "verity"),
    (0x1_0000, "orphan_present"),
    (0x2_0000, "ro_compat bit 17"),
    (0x4_0000, "ro_compat bit 18"),
    (0x8_0000, "ro_compat bit 19"),
];

fn name_features(mut bits: u32, names: &[(u32, &str)]) -> String {
    let mut list = Vec::new();
    for &(bit, name) in names {
        if bits & bit != 0 {
            list.push(String::from(name));
            bits &= !bit;
        }
    }
    if bits != 0 {
        list.push(alloc::format!("{bits:#x}"));
    }
    list.join(", ")
}

/// What of the superblock does not change while mounted, checked.
#[derive(Debug, Clone)]
pub struct Geometry {
    pub block_size: usize,
    pub block_count: u64,
    pub reserved_blocks: u64,
    pub first_data_block: u64,
    pub blocks_per_group: u32,
    pub inodes_per_group: u32,
    pub inode_count: u32,
    pub inode_size: usize,
    /// `s_want_extra_isize`, limited to what an inode has room for.
    pub extra_inode_size: u16,
    pub first_inode: u32,
    pub descriptor_size: usize,
    pub reserved_descriptor_blocks: u64,
    pub group_count: u32,
    pub compatible: u32,
    pub incompatible: u32,
    pub read_only_compatible: u32,
    pub uuid: [u8; 16],
    pub checksum_seed: u32,
    pub journal_inode: u32,
    pub backup_groups: [u32; 2],
}

/// The superblock's own checksum.
pub fn checksum(superblock: &[u8]) -> u32 {
    crc32c(CRC32C_START, &superblock[..field::CHECKSUM])
}

/// Whether the superblock carries CRC32C checksums.
fn checksummed(superblock: &[u8]) -> bool {
    le32(superblock, field::READ_ONLY_COMPATIBLE) & read_only_compatible::METADATA_CHECKSUM != 0
}

/// Whether the checksum, if there is one, is right.
pub fn checksum_is_right(superblock: &[u8]) -> bool {
    !checksummed(superblock) || le32(superblock, field::CHECKSUM) == checksum(superblock)
}

/// Whether two superblocks agree in what never changes while mounted.
pub fn describe_the_same(one: &[u8], other: &[u8]) -> bool {
    let fixed = [0x00..0x0c, 0x14..0x2c, 0x38..0x3a, 0x4c..0x5a, 0x5c..0x60, 0x68..0x78, 0xfe..0x100];
    fixed.into_iter().all(|range| one[range.clone()] == other[range])
}

/// Stores the checksum of a superblock that has changed.
pub fn seal(superblock: &mut [u8]) {
    if checksummed(superblock) {
        let value = checksum(superblock);
        put_le32(superblock, field::CHECKSUM, value);
    }
}

impl Geometry {
    /// Reads and checks a superblock of a disk of `device_bytes`; not its checksum.
    pub fn parse(superblock: &[u8], device_bytes: u64, read_only: bool) -> Result<Self> {
        if superblock.len() < SIZE || le16(superblock, 0x38) != MAGIC {
            return Err(Error::NotExt4);
        }
        let incompatible = le32(superblock, field::INCOMPATIBLE);
        let read_only_compatible = le32(superblock, field::READ_ONLY_COMPATIBLE);
        Self::check_features(incompatible, read_only_compatible, read_only)?;

        let log_block_size = le32(superblock, 0x18);
        if log_block_size > 2 {
            return Err(Error::Unsupported("blocks larger than 4 KiB"));
        }
        let block_size = 1024usize << log_block_size;
        let bits_64 = incompatible & incompatible::BITS_64 != 0;
        let high = |offset| if bits_64 { le32(superblock, offset) } else { 0 };
        let block_count = join(le32(superblock, 0x4), high(0x150));
        let descriptor_size = if bits_64 { usize::from(le16(superblock, 0xfe)) } else { 32 };
        let revision = le32(superblock, 0x4c);
        let inode_size = if revision == 0 { 128 } else { usize::from(le16(superblock, 0x58)) };
        let metadata_checksum = read_only_compatible & read_only_compatible::METADATA_CHECKSUM != 0;
        if metadata_checksum && superblock[0x175] != 1 {
            return Err(Error::Unsupported("unknown checksum algorithm"));
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&superblock[0x68..0x78]);
        let checksum_seed = if incompatible & incompatible::CHECKSUM_SEED != 0 {
            le32(superblock, 0x270)
        } else {
            crc32c(CRC32C_START, &uuid)
        };

        let mut geometry = Geometry {
            block_size,
            block_count,
            reserved_blocks: join(le32(superblock, 0x8), high(0x154)),
            first_data_block: u64::from(le32(superblock, 0x14)),
            blocks_per_group: le32(superblock, 0x20),
            inodes_per_group: le32(superblock, 0x28),
            inode_count: le32(superblock, 0x0),
            inode_size,
            extra_inode_size: le16(superblock, 0x15e).max(32),
            first_inode: if revision == 0 { 11 } else { le32(superblock, 0x54) },
            descriptor_size,
            reserved_descriptor_blocks: u64::from(le16(superblock, 0xce)),
            group_count: 0,
            compatible: le32(superblock, 0x5c),
            incompatible,
            read_only_compatible,
            uuid,
            checksum_seed,
            journal_inode: le32(superblock, 0xe0),
            backup_groups: [le32(superblock, 0x24c), le32(superblock, 0x250)],
        };
        geometry.check(device_bytes)?;
        Ok(geometry)
    }

    fn check_features(incompatible: u32, read_only_compatible: u32, read_only: bool) -> Result<()> {
        let unknown = incompatible & !incompatible::SUPPORTED;
        if unknown != 0 {
            return Err(Error::UnsupportedFeatures(name_features(unknown, &INCOMPATIBLE_NAMES)));
        }
        if incompatible & incompatible::REQUIRED != incompatible::REQUIRED {
            return Err(Error::Unsupported("a file system without the extent and filetype features"));
        }
        let unknown = read_only_compatible & !read_only_compatible::SUPPORTED;
        // These say no more than that a driver without them must not write.
        if unknown != 0 && !read_only {
            return Err(Error::UnsupportedFeatures(name_features(unknown, &READ_ONLY_NAMES)));
        }
        Ok(())
    }

    fn check(&mut self, device_bytes: u64) -> Result<()> {
        let bits = self.block_size as u32 * 8;
        let power_of_two_within = |value: usize, least: usize| {
            value.is_power_of_two() && value >= least && value <= self.block_size
        };
        let least_descriptor = if self.has_incompatible(incompatible::BITS_64) { 64 } else { 32 };
        let consistent = self.blocks_per_group > 0
            && self.blocks_per_group <= bits
            && self.blocks_per_group.is_multiple_of(8)
            && self.inodes_per_group > 0
            && self.inodes_per_group <= bits
            && self.inodes_per_group.is_multiple_of(8)
            && power_of_two_within(self.inode_size, 128)
            && power_of_two_within(self.descriptor_size, least_descriptor)
            && self.first_data_block == u64::from(self.block_size == 1024)
            && self.block_count > self.first_data_block
            && self.block_count < 1 << 48
            && self.first_inode >= 11
            && self.first_inode <= self.inodes_per_group;
        if !consistent {
            return Err(Error::Corrupt("superblock geometry"));
        }
        if self.block_count.saturating_mul(self.block_size as u64) > device_bytes {
            return Err(Error::Corrupt("the file system is larger than the device"));
        }
        let groups = (self.block_count - self.first_data_block).div_ceil(u64::from(self.blocks_per_group));
        self.group_count = u32::try_from(groups).map_err(|_| Error::Corrupt("number of groups"))?;
        if u64::from(self.inode_count) != groups * u64::from(self.inodes_per_group) {
            return Err(Error::Corrupt("number of inodes"));
        }
        let room = self.inode_size.saturating_sub(128) as u16;
        self.extra_inode_size = self.extra_inode_size.min(room) & !3;
        Ok(())
    }

    pub fn has_incompatible(&self, feature: u32) -> bool {
        self.incompatible & feature != 0
    }

    pub fn has_read_only(&self, feature: u32) -> bool {
        self.read_only_compatible & feature != 0
    }

    pub fn has_compatible(&self, feature: u32) -> bool {
        self.compatible & feature != 0
    }

    pub fn metadata_checksum(&self) -> bool {
        self.has_read_only(read_only_compatible::METADATA_CHECKSUM)
    }

    /// The block that holds the superblock, and where in it.
    pub fn superblock_location(&self) -> (u64, usize) {
        (POSITION / self.block_size as u64, (POSITION % self.block_size as u64) as usize)
    }

    /// Blocks of the inode table of one group.
    pub fn inode_table_blocks(&self) -> u64 {
        (self.inodes_per_group as usize * self.inode_size).div_ceil(self.block_size) as u64
    }

    /// Blocks of the group descriptor table.
    pub fn descriptor_blocks(&self) -> u64 {
        (self.group_count as usize * self.descriptor_size).div_ceil(self.block_size) as u64
    }

    /// The group of a block, and its bit in the group's bitmap.
    pub fn group_of(&self, block: u64) -> (u32, u32) {
        let relative = block.saturating_sub(self.first_data_block);
        let per_group = u64::from(self.blocks_per_group);
        ((relative / per_group) as u32, (relative % per_group) as u32)
    }

    pub fn first_block_of(&self, group: u32) -> u64 {
        self.first_data_block + u64::from(group) * u64::from(self.blocks_per_group)
    }

    /// How many blocks the group has; the last one may be short.
    pub fn blocks_in(&self, group: u32) -> u32 {
        let left = self.block_count.saturating_sub(self.first_block_of(group));
        left.min(u64::from(self.blocks_per_group)) as u32
    }

    /// Whether the group starts with a copy of the superblock and of the descriptors.
    pub fn has_superblock(&self, group: u32) -> bool {
        if group == 0 {
            return true;
        }
        if self.has_compatible(compatible::SPARSE_SUPER2) {
            return self.backup_groups.contains(&group);
        }
        if group == 1 || !self.has_read_only(read_only_compatible::SPARSE_SUPER) {
            return true;
        }
        [3, 5, 7].iter().any(|&base| {
            let mut power = base;
            while power < group {
                power = power.saturating_mul(base);
            }
            power == group
        })
    }
}
