//! The orphan list: inodes whose blocks are yet to be freed.
//!
//! An inode that lost its last name while it was open, or whose truncation takes several transactions, is
//! in a list that starts in the superblock and goes through the inodes' deletion times. After a crash the
//! next mount finishes what was begun.
//! Specification: <https://docs.kernel.org/filesystems/ext4/orphan.html>.

use crate::{
    bytes::{le32, put_le32},
    error::{Error, Result},
    inode::Inode,
    superblock::field,
    volume::Volume,
};

impl Volume {
    fn first_orphan(&mut self) -> Result<u32> {
        let (block, offset) = self.geometry.superblock_location();
        Ok(le32(&self.store.read(block)?[offset..], field::LAST_ORPHAN))
    }

    fn set_first_orphan(&mut self, number: u32) -> Result<()> {
        self.modify_superblock(|superblock| put_le32(superblock, field::LAST_ORPHAN, number))
    }

    /// The orphan before `number`; 0 if it is the first, none if it is not in the list.
    fn orphan_before(&mut self, number: u32) -> Result<Option<u32>> {
        let mut previous = 0;
        let mut current = self.first_orphan()?;
        for _ in 0..=self.geometry.inode_count {
            if current == number {
                return Ok(Some(previous));
            }
            if current == 0 {
                return Ok(None);
            }
            previous = current;
            current = self.inode(current)?.deletion_time();
        }
        Err(Error::Corrupt("orphan list"))
    }

    /// Adds an inode. The caller writes it.
    pub fn add_orphan(&mut self, inode: &mut Inode) -> Result<()> {
        if self.orphan_before(inode.number)?.is_some() {
            return Ok(());
        }
        inode.set_deletion_time(self.first_orphan()?);
        self.set_first_orphan(inode.number)
    }

    /// Removes an inode, if it is in the list. The caller writes it.
    pub fn remove_orphan(&mut self, inode: &mut Inode) -> Result<()> {
        match self.orphan_before(inode.number)? {
            None => return Ok(()),
            Some(0) => self.set_first_orphan(inode.deletion_time())?,
            Some(previous) => {
                let mut previous = self.inode(previous)?;
                previous.set_deletion_time(inode.deletion_time());
                self.put_inode(&mut previous)?;
            }
        }
        inode.set_deletion_time(0);
        Ok(())
    }

    /// Frees an inode that has no name and, now, no user. In the orphan list until the end of it.
    pub fn evict(&mut self, number: u32) -> Result<()> {
        let inode = self.inode(number)?;
        if inode.links() > 0 {
            return Ok(());
        }
        let mut more = true;
        while more {
            more = self.operate(|volume| volume.evict_step(number))?;
        }
        Ok(())
    }

    fn evict_step(&mut self, number: u32) -> Result<bool> {
        const MOST_REMOVED: u32 = 32;
        let mut inode = self.inode(number)?;
        if number < self.geometry.first_inode || !self.inode_in_use(number)? {
            return Err(Error::Corrupt("orphan that is not in use"));
        }
        let directory = inode.is_directory();
        if inode.has_extents() {
            let release = if inode.is_regular() {
                crate::extent_edit::Release::Data
            } else {
                crate::extent_edit::Release::Metadata
            };
            inode.set_size(0);
            if !self.remove_extents(&mut inode, 0..u64::MAX, release, MOST_REMOVED)? {
                self.put_inode(&mut inode)?;
                return Ok(true);
            }
        }
        self.name_indexes.remove(number);
        self.drop_attribute_block(&mut inode)?;
        self.remove_orphan(&mut inode)?;
        inode.set_size(0);
        inode.set_deletion_time((self.clock)().seconds.clamp(1, i64::from(u32::MAX)) as u32);
        self.put_inode(&mut inode)?;
        self.free_inode(number, directory)?;
        Ok(false)
    }

    /// Finishes what a crash interrupted.
    pub fn process_orphans(&mut self) -> Result<()> {
        for _ in 0..=self.geometry.inode_count {
            let number = self.first_orphan()?;
            if number == 0 {
                return Ok(());
            }
            if self.inode(number)?.links() == 0 {
                self.evict(number)?;
            } else {
                while self.operate(|volume| volume.truncate_step(number))? {}
            }
        }
        Err(Error::Corrupt("orphan list"))
    }
}
