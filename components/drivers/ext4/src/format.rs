//! Making a file system on an empty disk.
//!
//! 4 KiB blocks, extents, checksums, a journal; groups carry their own bitmaps and inode table. Inode tables
//! are not cleared: the descriptors say how much of them was never used. The base is written as plain bytes;
//! root, `lost+found` and the journal are then made by the same code that makes them later.

use alloc::{sync::Arc, vec, vec::Vec};
use core::sync::atomic::AtomicBool;

use crate::{
    bytes::{high, le32, low, put_be32, put_le16, put_le32},
    checksum::crc32c,
    device::{BlockDevice, DeviceError},
    directory_entry::FileType,
    error::{Error, Result},
    extent::{Extent, LONGEST, clear_root},
    group::{Descriptor, seal_group, set_bits},
    inode::{Inode, ROOT, TREE, TREE_SIZE, Time, Timestamp, flag, mode},
    journal::{self, CHECKSUM_TYPE_CRC32C},
    names::Owner,
    superblock::{self, Geometry, POSITION, SIZE, compatible, incompatible, read_only_compatible},
    volume::{Options, Volume},
};

/// What to make.
#[derive(Debug, Clone, Copy)]
pub struct FormatOptions<'a> {
    /// The file system's UUID. Must be random: the journal's checksums tell by it what an older file system
    /// left on the disk.
    pub uuid: [u8; 16],
    /// Up to 16 bytes.
    pub label: &'a str,
    /// Tells the time.
    pub clock: fn() -> Timestamp,
}

const BLOCK: usize = 4096;
const BLOCKS_PER_GROUP: u64 = BLOCK as u64 * 8;
const INODE_SIZE: usize = 256;
const DESCRIPTOR_SIZE: usize = 64;
/// One inode for so many bytes, as `mke2fs` does.
const BYTES_PER_INODE: u64 = 16384;
/// Fewest blocks that make sense with a journal.
const LEAST_BLOCKS: u64 = 2048;
/// The first ten inodes are reserved; the eleventh is `lost+found`.
const LOST_AND_FOUND: u32 = 11;
const JOURNAL: u32 = 8;
/// `lost+found` has room from the start: `e2fsck` may need it when nothing can be allocated.
const LOST_AND_FOUND_BLOCKS: u32 = 4;

/// Offsets in the superblock beyond those that [`superblock`] reads.
mod field {
    pub const JOURNAL_INODE: usize = 0xe0;
    pub const JOURNAL_BACKUP_TYPE: usize = 0xfd;
    pub const JOURNAL_BACKUP: usize = 0x10c;
    pub const BLOCK_GROUP: usize = 0x5a;
    pub const COMPATIBLE: usize = 0x5c;
}

/// How many blocks the journal has.
fn journal_blocks(blocks: u64) -> u32 {
    match blocks {
        0..0x8000 => 1024,
        0x8000..0x4_0000 => 4096,
        _ => 16384,
    }
}

/// Makes an ext4 file system; whatever the disk holds is lost.
pub fn format(device: Arc<dyn BlockDevice>, options: &FormatOptions<'_>) -> Result<()> {
    let sector = u64::from(device.block_size());
    if !(512..=BLOCK as u64).contains(&sector) || !sector.is_power_of_two() {
        return Err(Error::Unsupported("sector size of the device"));
    }
    let bytes = device.sectors().saturating_mul(sector);
    let mut base = Base::plan(bytes, options)?;
    base.fill_groups();
    let write = |block: u64, data: &[u8]| device.write(block * (BLOCK as u64 / sector), data);
    // A format that is cut short leaves no file system, rather than half of two.
    write(0, &vec![0; BLOCK])?;
    device.flush()?;
    for group in 0..base.geometry.group_count {
        base.write_group(group, &write)?;
    }
    device.flush()?;
    let mut first = vec![0; BLOCK];
    let start = POSITION as usize;
    first[start..start + SIZE].copy_from_slice(&base.superblock);
    // The journal is not there yet.
    let features = le32(&base.superblock, field::COMPATIBLE) & !compatible::HAS_JOURNAL;
    put_le32(&mut first[start..], field::COMPATIBLE, features);
    superblock::seal(&mut first[start..start + SIZE]);
    write(0, &first)?;
    let mount = Options { read_only: false, clock: options.clock, cache_blocks: 64 };
    let mut volume = Volume::open_bare(device, Arc::new(AtomicBool::new(false)), mount)?;
    volume.operate(|volume| volume.populate(options))?;
    volume.commit()
}

/// Writes blocks to the disk.
type WriteBlocks<'a> = dyn Fn(u64, &[u8]) -> Result<(), DeviceError> + 'a;

/// The file system before anything is in it.
struct Base {
    geometry: Geometry,
    superblock: Vec<u8>,
    descriptors: Vec<Descriptor>,
    /// The descriptors as they are on the disk.
    table: Vec<u8>,
}

impl Base {
    fn plan(bytes: u64, options: &FormatOptions<'_>) -> Result<Self> {
        let mut blocks = (bytes / BLOCK as u64).min((1 << 48) - 1);
        loop {
            if blocks < LEAST_BLOCKS {
                return Err(Error::NoSpace);
            }
            let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
            let per_block = (BLOCK / INODE_SIZE) as u64;
            let inodes = (blocks * BLOCK as u64 / BYTES_PER_INODE).div_ceil(groups);
            let inodes = inodes.next_multiple_of(per_block).min(BLOCKS_PER_GROUP);
            let total =
                u32::try_from(inodes * groups).map_err(|_| Error::Unsupported("a device that large"))?;
            let superblock = make_superblock(blocks, inodes as u32, total, options);
            let geometry = Geometry::parse(&superblock, bytes, false)?;
            let last = geometry.group_count - 1;
            // A last group that has hardly more than its own structures is left out.
            let least = overhead(&geometry, last) + 64;
            if last == 0 || u64::from(geometry.blocks_in(last)) >= least {
                return Ok(Base { geometry, superblock, descriptors: Vec::new(), table: Vec::new() });
            }
            blocks = geometry.first_block_of(last);
        }
    }

    fn fill_groups(&mut self) {
        let geometry = &self.geometry;
        let mut free = 0;
        for group in 0..geometry.group_count {
            let start = geometry.first_block_of(group) + superblock_blocks(geometry, group);
            let reserved = if group == 0 { LOST_AND_FOUND } else { 0 };
            let free_inodes = geometry.inodes_per_group - reserved;
            let free_blocks = geometry.blocks_in(group) - overhead(geometry, group) as u32;
            free += u64::from(free_blocks);
            self.descriptors.push(Descriptor {
                block_bitmap: start,
                inode_bitmap: start + 1,
                inode_table: start + 2,
                free_blocks,
                free_inodes,
                directories: if group == 0 { 2 } else { 0 },
                flags: 0,
                unused_inodes: free_inodes,
            });
        }
        let superblock = &mut self.superblock;
        put_le32(superblock, superblock::field::FREE_BLOCKS_LOW, low(free));
        put_le32(superblock, superblock::field::FREE_BLOCKS_HIGH, high(free));
        put_le32(superblock, superblock::field::FREE_INODES, geometry.inode_count - LOST_AND_FOUND);
        superblock::seal(superblock);
        self.table = self.descriptor_table();
    }

    fn bitmaps(&self, group: u32) -> (Vec<u8>, Vec<u8>) {
        let geometry = &self.geometry;
        let bits = BLOCKS_PER_GROUP as u32;
        let (mut blocks, mut inodes) = (vec![0; BLOCK], vec![0; BLOCK]);
        set_bits(&mut blocks, 0, overhead(geometry, group) as u32);
        set_bits(&mut blocks, geometry.blocks_in(group), bits);
        set_bits(&mut inodes, 0, if group == 0 { LOST_AND_FOUND } else { 0 });
        set_bits(&mut inodes, geometry.inodes_per_group, bits);
        (blocks, inodes)
    }

    fn descriptor_table(&self) -> Vec<u8> {
        let size = self.geometry.descriptor_blocks() as usize * BLOCK;
        let mut table = vec![0; size];
        for ((group, descriptor), raw) in
            (0..).zip(&self.descriptors).zip(table.chunks_exact_mut(DESCRIPTOR_SIZE))
        {
            let (blocks, inodes) = self.bitmaps(group);
            descriptor.write(raw);
            seal_group(&self.geometry, group, raw, Some(&blocks), Some(&inodes));
        }
        table
    }

    fn write_group(&self, group: u32, write: &WriteBlocks<'_>) -> Result<()> {
        let geometry = &self.geometry;
        let start = geometry.first_block_of(group);
        if geometry.has_superblock(group) {
            write(start + 1, &self.table)?;
            if group > 0 {
                let mut copy = vec![0; BLOCK];
                copy[..SIZE].copy_from_slice(&self.superblock);
                put_le16(&mut copy, field::BLOCK_GROUP, group as u16);
                superblock::seal(&mut copy[..SIZE]);
                write(start, &copy)?;
            }
        }
        let (mut bitmaps, inodes) = self.bitmaps(group);
        bitmaps.extend_from_slice(&inodes);
        let descriptor = &self.descriptors[group as usize];
        write(descriptor.block_bitmap, &bitmaps)?;
        if group == 0 {
            // The reserved inodes count as used.
            write(descriptor.inode_table, &vec![0; BLOCK])?;
        }
        Ok(())
    }
}

/// Blocks at the start of a group that hold the superblock and the descriptors.
fn superblock_blocks(geometry: &Geometry, group: u32) -> u64 {
    if geometry.has_superblock(group) { 1 + geometry.descriptor_blocks() } else { 0 }
}

/// Blocks of a group that hold the file system's own structures.
fn overhead(geometry: &Geometry, group: u32) -> u64 {
    superblock_blocks(geometry, group) + 2 + geometry.inode_table_blocks()
}

fn make_superblock(blocks: u64, inodes_per_group: u32, inodes: u32, options: &FormatOptions<'_>) -> Vec<u8> {
    let now = (options.clock)().seconds as u32;
    let mut data = vec![0; SIZE];
    let log_block_size = BLOCK.trailing_zeros() - 10;
    let incompatible = incompatible::FILE_TYPE | incompatible::EXTENTS | incompatible::BITS_64;
    let read_only = read_only_compatible::SPARSE_SUPER
        | read_only_compatible::LARGE_FILE
        | read_only_compatible::HUGE_FILE
        | read_only_compatible::DIRECTORY_LINKS
        | read_only_compatible::EXTRA_INODE_SIZE
        | read_only_compatible::METADATA_CHECKSUM;
    let compatible = compatible::HAS_JOURNAL | compatible::EXTENDED_ATTRIBUTES | compatible::DIRECTORY_INDEX;
    let words = [
        (0x00, inodes),
        (0x04, low(blocks)),
        (0x150, high(blocks)),
        (0x18, log_block_size),
        (0x1c, log_block_size),
        (0x20, BLOCKS_PER_GROUP as u32),
        (0x24, BLOCKS_PER_GROUP as u32),
        (0x28, inodes_per_group),
        (0x30, now),
        (0x40, now),
        // The revision with variable inode sizes and features.
        (0x4c, 1),
        (0x54, LOST_AND_FOUND),
        (field::COMPATIBLE, compatible),
        (superblock::field::INCOMPATIBLE, incompatible),
        (superblock::field::READ_ONLY_COMPATIBLE, read_only),
        (field::JOURNAL_INODE, JOURNAL),
        // Default mount options: user attributes, ACLs.
        (0x100, 0xc),
        (0x108, now),
        // Directory hashes are of signed characters.
        (0x160, 1),
    ];
    for (offset, value) in words {
        put_le32(&mut data, offset, value);
    }
    let halves = [
        // No check is forced after some number of mounts.
        (0x36, u16::MAX),
        (0x38, superblock::MAGIC),
        (superblock::field::STATE, superblock::STATE_CLEAN),
        // On errors: continue.
        (0x3c, 1),
        (0x58, INODE_SIZE as u16),
        (0xfe, DESCRIPTOR_SIZE as u16),
        (0x15c, 32),
        (0x15e, 32),
    ];
    for (offset, value) in halves {
        put_le16(&mut data, offset, value);
    }
    data[0x68..0x78].copy_from_slice(&options.uuid);
    let label = &options.label.as_bytes()[..options.label.len().min(16)];
    data[0x78..0x78 + label.len()].copy_from_slice(label);
    // The seed and the default (half MD4) of directory hashes.
    for (index, word) in data[0xec..0xfc].chunks_exact_mut(4).enumerate() {
        word.copy_from_slice(&crc32c(index as u32, &options.uuid).to_le_bytes());
    }
    data[0xfc] = 1;
    // Checksums are CRC32C.
    data[0x175] = 1;
    superblock::seal(&mut data);
    data
}

impl Volume {
    /// Makes what every file system has.
    fn populate(&mut self, options: &FormatOptions<'_>) -> Result<()> {
        let mut root = self.blank_inode(ROOT, mode::DIRECTORY | 0o755);
        self.start_directory(&mut root, ROOT)?;
        root.set_links(3);
        self.put_inode(&mut root)?;
        let mut lost = self.blank_inode(LOST_AND_FOUND, mode::DIRECTORY | 0o700);
        self.start_directory(&mut lost, ROOT)?;
        for _ in 1..LOST_AND_FOUND_BLOCKS {
            self.append_empty_block(&mut lost)?;
        }
        lost.set_links(2);
        self.put_inode(&mut lost)?;
        self.add_entry(&mut root, b"lost+found", LOST_AND_FOUND, FileType::Directory)?;
        self.put_inode(&mut root)?;
        self.make_journal(options)
    }

    fn blank_inode(&mut self, number: u32, mode: u16) -> Inode {
        let mut inode = Inode::blank(number, self.geometry.inode_size, self.geometry.extra_inode_size);
        inode.set_mode(mode);
        let owner = Owner::default();
        inode.set_uid(owner.uid);
        inode.set_gid(owner.gid);
        inode.set_flags(flag::EXTENTS);
        clear_root(&mut inode);
        let now = (self.clock)();
        for time in [Time::Access, Time::Change, Time::Modification, Time::Creation] {
            inode.set_time(time, now);
        }
        inode
    }

    fn make_journal(&mut self, options: &FormatOptions<'_>) -> Result<()> {
        let length = journal_blocks(self.geometry.block_count);
        let mut inode = self.blank_inode(JOURNAL, mode::REGULAR | 0o600);
        inode.set_links(1);
        let mut logical = 0;
        while logical < length {
            let (physical, count) = self.allocate_blocks(0, (length - logical).min(LONGEST))?;
            if logical == 0 {
                self.store.write_direct(physical, &journal_superblock(length, options.uuid))?;
            }
            self.insert_extent(&mut inode, Extent { logical, length: count, physical, unwritten: false })?;
            inode.add_blocks(i64::from(count), BLOCK);
            logical += count;
        }
        inode.set_size(u64::from(length) * BLOCK as u64);
        self.put_inode(&mut inode)?;
        self.modify_superblock(|superblock| {
            let features = le32(superblock, field::COMPATIBLE) | compatible::HAS_JOURNAL;
            put_le32(superblock, field::COMPATIBLE, features);
            // A copy of the journal's inode, in case the inode table is lost.
            superblock[field::JOURNAL_BACKUP_TYPE] = 1;
            let backup = &mut superblock[field::JOURNAL_BACKUP..];
            backup[..TREE_SIZE].copy_from_slice(&inode.raw[TREE..TREE + TREE_SIZE]);
            put_le32(backup, TREE_SIZE, high(inode.size()));
            put_le32(backup, TREE_SIZE + 4, low(inode.size()));
        })
    }
}

fn journal_superblock(length: u32, uuid: [u8; 16]) -> Vec<u8> {
    use journal::{feature, field, kind};
    let mut data = vec![0; BLOCK];
    journal::put_header(&mut data, kind::SUPERBLOCK, 0);
    let words = [
        (field::BLOCK_SIZE, BLOCK as u32),
        (field::LENGTH, length),
        (field::FIRST, 1),
        (field::SEQUENCE, 1),
        (field::INCOMPATIBLE, feature::REVOKE | feature::BITS_64 | feature::CHECKSUM_V3),
        (field::USERS, 1),
    ];
    for (offset, value) in words {
        put_be32(&mut data, offset, value);
    }
    data[field::UUID..field::UUID + 16].copy_from_slice(&uuid);
    data[field::CHECKSUM_TYPE] = CHECKSUM_TYPE_CRC32C;
    let value = journal::superblock_checksum(&data);
    put_be32(&mut data, field::CHECKSUM, value);
    data
}
