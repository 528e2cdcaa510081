//! Extended attributes: reading them, and freeing their block with the inode.
//!
//! Specification: <https://docs.kernel.org/filesystems/ext4/dynamic.html#extended-attributes>.

use alloc::vec::Vec;

use crate::{
    bytes::{le16, le32, put_le32},
    checksum::{crc32c, crc32c_with_zeroes},
    error::{Error, Result},
    inode::Inode,
    store::Block,
    volume::Volume,
};

const MAGIC: u32 = 0xea02_0000;
const BLOCK_HEADER: usize = 32;
const REFERENCES: usize = 4;
const CHECKSUM: usize = 16;
const ENTRY: usize = 16;

/// What a name's first part is stored as.
const PREFIXES: [&[u8]; 8] = [
    b"",
    b"user.",
    b"system.posix_acl_access",
    b"system.posix_acl_default",
    b"trusted.",
    b"",
    b"security.",
    b"system.",
];

/// Calls `visit` with the (name, value) pairs of `data`; entries start at `first`, values count from `base`.
fn visit_entries(
    data: &[u8],
    first: usize,
    base: usize,
    visit: &mut dyn FnMut(Vec<u8>, &[u8]),
) -> Result<()> {
    let wrong = Error::Corrupt("extended attributes");
    let mut offset = first;
    while offset + 4 <= data.len() && le32(data, offset) != 0 {
        if offset + ENTRY > data.len() {
            return Err(wrong);
        }
        let length = usize::from(data[offset]);
        let value_offset = base + usize::from(le16(data, offset + 2));
        let value_size = le32(data, offset + 8) as usize;
        let in_inode = le32(data, offset + 4);
        let name = data.get(offset + ENTRY..offset + ENTRY + length);
        let value = value_offset.checked_add(value_size).and_then(|end| data.get(value_offset..end));
        let (Some(name), Some(value), 0) = (name, value, in_inode) else { return Err(wrong) };
        let mut full = PREFIXES.get(usize::from(data[offset + 1])).copied().unwrap_or(b"").to_vec();
        full.extend_from_slice(name);
        visit(full, value);
        offset += ENTRY + length.next_multiple_of(4);
    }
    Ok(())
}

impl Volume {
    fn attribute_block_checksum(&self, block: u64, data: &[u8]) -> u32 {
        let start = crc32c(self.geometry.checksum_seed, &block.to_le_bytes());
        crc32c_with_zeroes(start, data, CHECKSUM..CHECKSUM + 4)
    }

    fn read_attribute_block(&mut self, block: u64) -> Result<Block> {
        self.check_blocks(block, 1)?;
        let data = self.store.read(block)?;
        let right = !self.geometry.metadata_checksum()
            || le32(&data, CHECKSUM) == self.attribute_block_checksum(block, &data);
        if le32(&data, 0) != MAGIC || !right {
            return Err(Error::Corrupt("extended attribute block"));
        }
        Ok(data)
    }

    /// Calls `visit` with the name and value of every extended attribute.
    pub fn visit_attributes(&mut self, number: u32, visit: &mut dyn FnMut(Vec<u8>, &[u8])) -> Result<()> {
        let inode = self.inode(number)?;
        let area = inode.attribute_area();
        if area.len() >= 4 && le32(area, 0) == MAGIC {
            visit_entries(area, 4, 4, visit)?;
        }
        match inode.attribute_block() {
            0 => Ok(()),
            block => {
                let data = self.read_attribute_block(block)?;
                visit_entries(&data, BLOCK_HEADER, 0, visit)
            }
        }
    }

    /// Drops an inode's reference to its attribute block. The caller writes the inode.
    pub fn drop_attribute_block(&mut self, inode: &mut Inode) -> Result<()> {
        let block = inode.attribute_block();
        if block == 0 {
            return Ok(());
        }
        let data = self.read_attribute_block(block)?;
        let references = le32(&data, REFERENCES);
        if references <= 1 {
            self.free_blocks(block, 1, true)?;
        } else {
            let mut copy = data.to_vec();
            put_le32(&mut copy, REFERENCES, references - 1);
            if self.geometry.metadata_checksum() {
                let value = self.attribute_block_checksum(block, &copy);
                put_le32(&mut copy, CHECKSUM, value);
            }
            self.store.modify(block)?.copy_from_slice(&copy);
        }
        inode.set_attribute_block(0);
        inode.add_blocks(-1, self.geometry.block_size);
        Ok(())
    }
}
