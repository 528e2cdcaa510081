//! Taking the hash index off a directory.
//!
//! An index that misses an entry would be wrong; a directory without one is merely searched from its start
//! (here by `name_index`). The index is rebuilt by `e2fsck -D`.
//! Specification: <https://docs.kernel.org/filesystems/ext4/dynamic.html#hash-tree-directories>.

use alloc::vec::Vec;

use crate::{
    bytes::{le16, le32, put_le16},
    directory_entry::{HEADER, size_for},
    error::{Error, Result},
    inode::{Inode, flag},
    volume::Volume,
};

/// The header of an index root: after the entries `.` and `..`.
const INDEX_ROOT: usize = 24;

impl Volume {
    /// Turns a hashed directory into a plain one.
    pub fn drop_index(&mut self, directory: &mut Inode) -> Result<()> {
        let Some((root, data)) = self.directory_block(directory, 0)? else {
            return Err(Error::Corrupt("directory index"));
        };
        let levels = data[INDEX_ROOT + 6];
        let info = usize::from(data[INDEX_ROOT + 5]);
        if levels > 2 || info != 8 || le32(&data, INDEX_ROOT) != 0 {
            return Err(Error::Corrupt("directory index"));
        }
        let mut nodes = Vec::new();
        if levels > 0 {
            self.index_nodes(directory, &data, INDEX_ROOT + info, levels, &mut nodes)?;
        }
        // All of it is one transaction.
        if nodes.len() > self.transaction_limit() {
            return Err(Error::Unsupported("adding to a directory with an index that large"));
        }
        let room = self.room_in_new();
        for block in nodes {
            let mut empty = alloc::vec![0; self.geometry.block_size];
            put_le16(&mut empty, 4, room as u16);
            self.seal_directory_block(directory, &mut empty);
            self.store.modify(block)?.copy_from_slice(&empty);
        }
        let mut plain = data.to_vec();
        plain[INDEX_ROOT..].fill(0);
        put_le16(&mut plain, size_for(1) + 4, (room - size_for(1)) as u16);
        self.seal_directory_block(directory, &mut plain);
        self.store.modify(root)?.copy_from_slice(&plain);
        directory.set_flags(directory.flags() & !flag::INDEX);
        self.name_indexes.remove(directory.number);
        Ok(())
    }

    /// Collects the blocks of the index nodes below the node whose entries start at `offset`.
    fn index_nodes(
        &mut self,
        directory: &Inode,
        data: &[u8],
        offset: usize,
        levels: u8,
        nodes: &mut Vec<u64>,
    ) -> Result<()> {
        let count = usize::from(le16(data, offset + 2));
        if count == 0 || offset + count * 8 > data.len() {
            return Err(Error::Corrupt("directory index"));
        }
        for index in 0..count {
            let logical = le32(data, offset + index * 8 + 4);
            let child = self.directory_block(directory, logical)?;
            let Some((block, child)) = child.filter(|(block, _)| !nodes.contains(block)) else {
                return Err(Error::Corrupt("directory index"));
            };
            // An index node looks like one unused entry that fills the block.
            if le32(&child, 0) != 0 || usize::from(le16(&child, 4)) != child.len() {
                return Err(Error::Corrupt("directory index"));
            }
            nodes.push(block);
            if levels > 1 {
                self.index_nodes(directory, &child, HEADER, levels - 1, nodes)?;
            }
        }
        Ok(())
    }
}
