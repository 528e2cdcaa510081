//! Inodes as they are on disk.
//!
//! Specification: <https://docs.kernel.org/filesystems/ext4/dynamic.html#index-nodes>.

use alloc::{vec, vec::Vec};

use crate::{
    bytes::{join, le16, le32, put_le16, put_le32},
    checksum::{crc32c, crc32c_with_zeroes},
    error::{Error, Result},
    superblock::read_only_compatible,
    volume::Volume,
};

/// The root directory's inode number.
pub const ROOT: u32 = 2;
/// Most links of an inode (`EXT4_LINK_MAX`).
pub const MOST_LINKS: u16 = 65000;

/// `i_mode`: the file's type.
pub mod mode {
    pub const TYPE: u16 = 0o170_000;
    pub const FIFO: u16 = 0o010_000;
    pub const CHARACTER: u16 = 0o020_000;
    pub const DIRECTORY: u16 = 0o040_000;
    pub const BLOCK: u16 = 0o060_000;
    pub const REGULAR: u16 = 0o100_000;
    pub const SYMLINK: u16 = 0o120_000;
    pub const SOCKET: u16 = 0o140_000;
}

/// `i_flags`.
pub mod flag {
    pub const IMMUTABLE: u32 = 0x10;
    pub const APPEND: u32 = 0x20;
    pub const INDEX: u32 = 0x1000;
    pub const HUGE_FILE: u32 = 0x4_0000;
    pub const EXTENTS: u32 = 0x8_0000;
}

/// Where the root of the extent tree (or a short symbolic link's target) is, and its size.
pub const TREE: usize = 0x28;
pub const TREE_SIZE: usize = 60;

/// A point in time, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Seconds since 1970.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// The time fields: (offset, offset of the extra bits).
#[derive(Debug, Clone, Copy)]
pub enum Time {
    Access,
    Change,
    Modification,
    Creation,
}

impl Time {
    fn offsets(self) -> (usize, usize) {
        match self {
            Time::Access => (0x08, 0x8c),
            Time::Change => (0x0c, 0x84),
            Time::Modification => (0x10, 0x88),
            Time::Creation => (0x90, 0x94),
        }
    }
}

/// An inode: its number and a copy of its bytes.
#[derive(Debug, Clone)]
pub struct Inode {
    pub number: u32,
    pub raw: Vec<u8>,
}

impl Inode {
    pub fn mode(&self) -> u16 {
        le16(&self.raw, 0x00)
    }

    pub fn set_mode(&mut self, mode: u16) {
        put_le16(&mut self.raw, 0x00, mode);
    }

    pub fn file_type(&self) -> u16 {
        self.mode() & mode::TYPE
    }

    pub fn is_directory(&self) -> bool {
        self.file_type() == mode::DIRECTORY
    }

    pub fn is_regular(&self) -> bool {
        self.file_type() == mode::REGULAR
    }

    pub fn uid(&self) -> u32 {
        u32::from(le16(&self.raw, 0x02)) | u32::from(le16(&self.raw, 0x78)) << 16
    }

    pub fn set_uid(&mut self, uid: u32) {
        put_le16(&mut self.raw, 0x02, uid as u16);
        put_le16(&mut self.raw, 0x78, (uid >> 16) as u16);
    }

    pub fn gid(&self) -> u32 {
        u32::from(le16(&self.raw, 0x18)) | u32::from(le16(&self.raw, 0x7a)) << 16
    }

    pub fn set_gid(&mut self, gid: u32) {
        put_le16(&mut self.raw, 0x18, gid as u16);
        put_le16(&mut self.raw, 0x7a, (gid >> 16) as u16);
    }

    pub fn size(&self) -> u64 {
        join(le32(&self.raw, 0x04), if self.is_directory() { 0 } else { le32(&self.raw, 0x6c) })
    }

    pub fn set_size(&mut self, size: u64) {
        put_le32(&mut self.raw, 0x04, size as u32);
        put_le32(&mut self.raw, 0x6c, (size >> 32) as u32);
    }

    pub fn links(&self) -> u16 {
        le16(&self.raw, 0x1a)
    }

    pub fn set_links(&mut self, links: u16) {
        put_le16(&mut self.raw, 0x1a, links);
    }

    pub fn flags(&self) -> u32 {
        le32(&self.raw, 0x20)
    }

    pub fn set_flags(&mut self, flags: u32) {
        put_le32(&mut self.raw, 0x20, flags);
    }

    pub fn has_extents(&self) -> bool {
        self.flags() & flag::EXTENTS != 0
    }

    /// When the inode was deleted; in the orphan list, the number of the next orphan.
    pub fn deletion_time(&self) -> u32 {
        le32(&self.raw, 0x14)
    }

    pub fn set_deletion_time(&mut self, value: u32) {
        put_le32(&mut self.raw, 0x14, value);
    }

    pub fn generation(&self) -> u32 {
        le32(&self.raw, 0x64)
    }

    pub fn set_generation(&mut self, generation: u32) {
        put_le32(&mut self.raw, 0x64, generation);
    }

    /// The block of extended attributes, or 0.
    pub fn attribute_block(&self) -> u64 {
        join(le32(&self.raw, 0x68), u32::from(le16(&self.raw, 0x76)))
    }

    pub fn set_attribute_block(&mut self, block: u64) {
        put_le32(&mut self.raw, 0x68, block as u32);
        put_le16(&mut self.raw, 0x76, (block >> 32) as u16);
    }

    /// Space used, in 512-byte units.
    pub fn sectors(&self, block_size: usize) -> u64 {
        let count = join(le32(&self.raw, 0x1c), u32::from(le16(&self.raw, 0x74)));
        if self.flags() & flag::HUGE_FILE != 0 {
            count.saturating_mul(block_size as u64 / 512)
        } else {
            count
        }
    }

    /// Adds to the space used (in blocks).
    pub fn add_blocks(&mut self, change: i64, block_size: usize) {
        let unit = if self.flags() & flag::HUGE_FILE != 0 { 1 } else { block_size as i64 / 512 };
        let count = join(le32(&self.raw, 0x1c), u32::from(le16(&self.raw, 0x74)));
        let count = count.saturating_add_signed(change * unit).min((1 << 48) - 1);
        put_le32(&mut self.raw, 0x1c, count as u32);
        put_le16(&mut self.raw, 0x74, (count >> 32) as u16);
    }

    /// How far the fields beyond the first 128 bytes go.
    fn end_of_fields(&self) -> usize {
        if self.raw.len() > 128 { 128 + usize::from(le16(&self.raw, 0x80)) } else { 128 }
    }

    /// The part that holds extended attributes.
    pub fn attribute_area(&self) -> &[u8] {
        self.raw.get(self.end_of_fields()..).unwrap_or(&[])
    }

    fn has_field(&self, offset: usize) -> bool {
        offset + 4 <= self.end_of_fields().min(self.raw.len())
    }

    pub fn time(&self, which: Time) -> Timestamp {
        let (offset, extra) = which.offsets();
        if matches!(which, Time::Creation) && !self.has_field(offset) {
            return Timestamp::default();
        }
        let seconds = i64::from(le32(&self.raw, offset) as i32);
        if !self.has_field(extra) {
            return Timestamp { seconds, nanoseconds: 0 };
        }
        let bits = le32(&self.raw, extra);
        Timestamp {
            seconds: seconds + (i64::from(bits & 3) << 32),
            nanoseconds: (bits >> 2).min(999_999_999),
        }
    }

    pub fn set_time(&mut self, which: Time, time: Timestamp) {
        let (offset, extra) = which.offsets();
        if matches!(which, Time::Creation) && !self.has_field(offset) {
            return;
        }
        if !self.has_field(extra) {
            let seconds = time.seconds.clamp(i64::from(i32::MIN), i64::from(i32::MAX));
            put_le32(&mut self.raw, offset, seconds as u32);
            return;
        }
        // The two extra bits count what a signed 32-bit number of seconds cannot hold.
        let seconds = time.seconds.clamp(i64::from(i32::MIN), i64::from(i32::MAX) + (3 << 32));
        let epoch = (seconds - i64::from(seconds as i32)) >> 32;
        put_le32(&mut self.raw, offset, seconds as u32);
        put_le32(&mut self.raw, extra, (epoch as u32 & 3) | time.nanoseconds.min(999_999_999) << 2);
    }

    /// Sets modification and change time.
    pub fn touch(&mut self, now: Timestamp) {
        self.set_time(Time::Modification, now);
        self.set_time(Time::Change, now);
    }

    /// The device's (major, minor).
    pub fn device(&self) -> (u32, u32) {
        let old = le32(&self.raw, TREE);
        if old != 0 {
            return (old >> 8 & 0xff, old & 0xff);
        }
        let new = le32(&self.raw, TREE + 4);
        ((new >> 8) & 0xfff, new & 0xff | (new >> 12) & 0xf_ff00)
    }

    pub fn set_device(&mut self, major: u32, minor: u32) {
        self.raw[TREE..TREE + TREE_SIZE].fill(0);
        if major < 256 && minor < 256 {
            put_le32(&mut self.raw, TREE, major << 8 | minor);
        } else {
            put_le32(&mut self.raw, TREE + 4, minor & 0xff | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12);
        }
    }

    /// The start of the checksums of this inode's blocks (directories, extents).
    pub fn checksum_seed(&self, seed: u32) -> u32 {
        crc32c(crc32c(seed, &self.number.to_le_bytes()), &self.generation().to_le_bytes())
    }

    fn checksum(&self, seed: u32) -> u32 {
        let value = crc32c_with_zeroes(self.checksum_seed(seed), &self.raw[..128], 0x7c..0x7e);
        if self.raw.len() == 128 {
            return value;
        }
        let rest = &self.raw[128..];
        if self.has_field(0x80) { crc32c_with_zeroes(value, rest, 2..4) } else { crc32c(value, rest) }
    }

    pub fn checksum_is_right(&self, seed: u32) -> bool {
        let value = self.checksum(seed);
        le16(&self.raw, 0x7c) == value as u16
            && (!self.has_field(0x80) || le16(&self.raw, 0x82) == (value >> 16) as u16)
    }

    /// Stores the checksum of an inode that has changed.
    pub fn seal(&mut self, seed: u32) {
        let value = self.checksum(seed);
        put_le16(&mut self.raw, 0x7c, value as u16);
        if self.has_field(0x80) {
            put_le16(&mut self.raw, 0x82, (value >> 16) as u16);
        }
    }

    /// An inode of zeroes, with room for the extra fields.
    pub fn blank(number: u32, inode_size: usize, extra_size: u16) -> Self {
        let mut raw = vec![0; inode_size];
        if inode_size > 128 {
            put_le16(&mut raw, 0x80, extra_size);
        }
        Inode { number, raw }
    }
}

impl Volume {
    fn inode_location(&mut self, number: u32) -> Result<(u64, usize)> {
        if number == 0 || number > self.geometry.inode_count {
            return Err(Error::Corrupt("inode number"));
        }
        let per_group = self.geometry.inodes_per_group;
        let table = self.descriptor((number - 1) / per_group)?.inode_table;
        let position = ((number - 1) % per_group) as usize * self.geometry.inode_size;
        let block_size = self.geometry.block_size;
        Ok((table + (position / block_size) as u64, position % block_size))
    }

    /// Reads an inode that is in use.
    pub fn inode(&mut self, number: u32) -> Result<Inode> {
        let (block, offset) = self.inode_location(number)?;
        let data = self.store.read(block)?;
        let inode = Inode { number, raw: data[offset..offset + self.geometry.inode_size].to_vec() };
        if inode.mode() == 0 {
            return Err(Error::NotFound);
        }
        if self.geometry.metadata_checksum() && !inode.checksum_is_right(self.geometry.checksum_seed) {
            return Err(Error::Corrupt("inode checksum"));
        }
        if inode.end_of_fields() > inode.raw.len() {
            return Err(Error::Corrupt("inode size"));
        }
        Ok(inode)
    }

    /// Writes an inode as part of the running transaction.
    pub fn put_inode(&mut self, inode: &mut Inode) -> Result<()> {
        if self.geometry.metadata_checksum() {
            inode.seal(self.geometry.checksum_seed);
        }
        let (block, offset) = self.inode_location(inode.number)?;
        let data = self.store.modify(block)?;
        data[offset..offset + inode.raw.len()].copy_from_slice(&inode.raw);
        Ok(())
    }

    /// A directory's inode.
    pub fn directory(&mut self, number: u32) -> Result<Inode> {
        let inode = self.inode(number)?;
        if !inode.is_directory() {
            return Err(Error::NotDirectory);
        }
        if inode.links() == 0 {
            return Err(Error::NotFound);
        }
        Ok(inode)
    }

    /// Adds a link. A directory with too many stays at 1, "unknown", where the feature allows it.
    pub fn add_link(&self, inode: &mut Inode) -> Result<()> {
        let uncounted =
            inode.is_directory() && self.geometry.has_read_only(read_only_compatible::DIRECTORY_LINKS);
        match inode.links() {
            1 if uncounted => {}
            links if links + 1 < MOST_LINKS => inode.set_links(links + 1),
            _ if uncounted => inode.set_links(1),
            _ => return Err(Error::TooManyLinks),
        }
        Ok(())
    }

    /// Removes the link that a subdirectory's `..` is.
    pub fn remove_directory_link(&self, inode: &mut Inode) {
        // At 1 the number is unknown, at 2 there is no subdirectory left.
        if inode.links() > 2 {
            inode.set_links(inode.links() - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_beyond_2038_and_before_1970() {
        let mut inode = Inode::blank(12, 256, 32);
        for seconds in [-5, 0, 1 << 31, 1 << 32, (1 << 33) + 7, (1 << 33) + (1 << 32)] {
            let time = Timestamp { seconds, nanoseconds: 123_456_789 };
            inode.set_time(Time::Modification, time);
            assert_eq!(inode.time(Time::Modification), time);
        }
    }

    #[test]
    fn devices_in_both_encodings() {
        let mut inode = Inode::blank(12, 256, 32);
        for device in [(1, 3), (4, 64), (259, 5), (8, 300), (4095, 0xf_ffff)] {
            inode.set_device(device.0, device.1);
            assert_eq!(inode.device(), device);
        }
    }
}
