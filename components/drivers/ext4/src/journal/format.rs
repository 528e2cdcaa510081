//! The log's blocks: headers, descriptor tags, checksums.
//!
//! Specification: <https://docs.kernel.org/filesystems/ext4/journal.html>. Everything is big-endian.

use crate::{
    bytes::{be16, be32, put_be16, put_be32},
    checksum::{CRC32C_START, crc32c, crc32c_with_zeroes},
};

pub const MAGIC: u32 = 0xc03b_3998;

/// `h_blocktype`.
pub mod kind {
    pub const DESCRIPTOR: u32 = 1;
    pub const COMMIT: u32 = 2;
    pub const SUPERBLOCK_V1: u32 = 3;
    pub const SUPERBLOCK: u32 = 4;
    pub const REVOKE: u32 = 5;
}

pub mod feature {
    pub const COMPATIBLE_CHECKSUM: u32 = 0x1;
    pub const REVOKE: u32 = 0x1;
    pub const BITS_64: u32 = 0x2;
    pub const CHECKSUM_V2: u32 = 0x8;
    pub const CHECKSUM_V3: u32 = 0x10;
    pub const SUPPORTED: u32 = REVOKE | BITS_64 | CHECKSUM_V2 | CHECKSUM_V3;
}

/// Offsets in the log's superblock.
pub mod field {
    pub const BLOCK_SIZE: usize = 0x0c;
    pub const LENGTH: usize = 0x10;
    pub const FIRST: usize = 0x14;
    pub const SEQUENCE: usize = 0x18;
    pub const START: usize = 0x1c;
    pub const COMPATIBLE: usize = 0x24;
    pub const INCOMPATIBLE: usize = 0x28;
    pub const UUID: usize = 0x30;
    pub const USERS: usize = 0x40;
    pub const CHECKSUM_TYPE: usize = 0x50;
    pub const CHECKSUM: usize = 0xfc;
}

/// `s_checksum_type`: CRC32C.
pub const CHECKSUM_TYPE_CRC32C: u8 = 4;
/// Bytes in the log's superblock.
pub const SUPERBLOCK_SIZE: usize = 1024;
/// Bytes in the header that every block of the log other than data starts with.
pub const HEADER_SIZE: usize = 12;
/// Where the revoked block numbers start, and where their length in bytes is.
pub const REVOKE_HEADER_SIZE: usize = 16;
pub const REVOKE_LENGTH: usize = 12;
/// Offsets in a commit block.
pub const COMMIT_CHECKSUM: usize = 16;
pub const COMMIT_SECONDS: usize = 48;
pub const COMMIT_NANOSECONDS: usize = 56;

pub mod tag {
    pub const ESCAPED: u32 = 1;
    pub const SAME_UUID: u32 = 2;
    pub const LAST: u32 = 8;
}

/// The formats that a log's features select.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    pub features: u32,
    pub seed: u32,
}

/// One entry of a descriptor block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    pub block: u64,
    pub flags: u32,
    pub checksum: u32,
}

impl Format {
    pub fn new(features: u32, uuid: &[u8]) -> Self {
        Format { features, seed: crc32c(CRC32C_START, uuid) }
    }

    fn has(self, feature: u32) -> bool {
        self.features & feature != 0
    }

    pub fn checksummed(self) -> bool {
        self.has(feature::CHECKSUM_V2 | feature::CHECKSUM_V3)
    }

    /// Bytes of a tag, without the UUID that may follow it.
    pub fn tag_size(self) -> usize {
        if self.has(feature::CHECKSUM_V3) {
            return 16;
        }
        let with_checksum = if self.has(feature::CHECKSUM_V2) { 2 } else { 0 };
        with_checksum + if self.has(feature::BITS_64) { 12 } else { 8 }
    }

    /// Bytes at the end of descriptor and revoke blocks that hold their checksum.
    pub fn tail_size(self) -> usize {
        if self.checksummed() { 4 } else { 0 }
    }

    /// Bytes of a block number in a revoke block.
    pub fn revoke_size(self) -> usize {
        if self.has(feature::BITS_64) { 8 } else { 4 }
    }

    pub fn read_tag(self, data: &[u8], offset: usize) -> Tag {
        let high = |at| if self.has(feature::BITS_64) { u64::from(be32(data, at)) << 32 } else { 0 };
        let low = u64::from(be32(data, offset));
        if self.has(feature::CHECKSUM_V3) {
            let flags = be32(data, offset + 4);
            return Tag { block: low | high(offset + 8), flags, checksum: be32(data, offset + 12) };
        }
        let checksum = u32::from(be16(data, offset + 4));
        Tag { block: low | high(offset + 8), flags: u32::from(be16(data, offset + 6)), checksum }
    }

    pub fn write_tag(self, data: &mut [u8], offset: usize, tag: Tag) {
        put_be32(data, offset, tag.block as u32);
        if self.has(feature::BITS_64) {
            put_be32(data, offset + 8, (tag.block >> 32) as u32);
        }
        if self.has(feature::CHECKSUM_V3) {
            put_be32(data, offset + 4, tag.flags);
            put_be32(data, offset + 12, tag.checksum);
        } else {
            put_be16(data, offset + 4, tag.checksum as u16);
            put_be16(data, offset + 6, tag.flags as u16);
        }
    }

    /// The checksum a tag carries for its block as it stands in the log.
    pub fn tag_checksum(self, sequence: u32, data: &[u8]) -> u32 {
        if !self.checksummed() {
            return 0;
        }
        let value = crc32c(crc32c(self.seed, &sequence.to_be_bytes()), data);
        if self.has(feature::CHECKSUM_V3) { value } else { value & 0xffff }
    }

    fn tail_checksum(self, data: &[u8]) -> u32 {
        crc32c_with_zeroes(self.seed, data, data.len() - 4..data.len())
    }

    /// Stores the checksum of a descriptor or revoke block.
    pub fn seal_tail(self, data: &mut [u8]) {
        if self.checksummed() {
            let value = self.tail_checksum(data);
            let offset = data.len() - 4;
            put_be32(data, offset, value);
        }
    }

    pub fn tail_is_right(self, data: &[u8]) -> bool {
        !self.checksummed() || be32(data, data.len() - 4) == self.tail_checksum(data)
    }

    fn commit_checksum(self, data: &[u8]) -> u32 {
        crc32c_with_zeroes(self.seed, data, COMMIT_CHECKSUM..COMMIT_CHECKSUM + 4)
    }

    pub fn seal_commit(self, data: &mut [u8]) {
        if self.checksummed() {
            let value = self.commit_checksum(data);
            put_be32(data, COMMIT_CHECKSUM, value);
        }
    }

    pub fn commit_is_right(self, data: &[u8]) -> bool {
        !self.checksummed() || be32(data, COMMIT_CHECKSUM) == self.commit_checksum(data)
    }
}

/// Writes a block's header.
pub fn put_header(data: &mut [u8], kind: u32, sequence: u32) {
    put_be32(data, 0, MAGIC);
    put_be32(data, 4, kind);
    put_be32(data, 8, sequence);
}

/// A block's (kind, sequence), if it has a header.
pub fn header(data: &[u8]) -> Option<(u32, u32)> {
    (be32(data, 0) == MAGIC).then(|| (be32(data, 4), be32(data, 8)))
}

/// The checksum of the log's superblock.
pub fn superblock_checksum(superblock: &[u8]) -> u32 {
    let whole = &superblock[..SUPERBLOCK_SIZE];
    crc32c_with_zeroes(CRC32C_START, whole, field::CHECKSUM..field::CHECKSUM + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_back_in_every_format() {
        for features in [0, 2, 8, 8 | 2, 16, 16 | 2] {
            let format = Format::new(features, &[7; 16]);
            let block = if features & feature::BITS_64 != 0 { 0x1_2345_6789 } else { 0x2345_6789 };
            let checksum = format.tag_checksum(9, &[1; 1024]);
            let tag = Tag { block, flags: tag::SAME_UUID | tag::LAST, checksum };
            let mut data = [0; 32];
            format.write_tag(&mut data, 4, tag);
            assert_eq!(format.read_tag(&data, 4), tag);
            assert!(data[4 + format.tag_size()..].iter().all(|&byte| byte == 0));
        }
    }
}
