//! The file system behind its lock: mounting, operations as units, commits and checkpoints.
//!
//! The other modules add their operations to [`Volume`].

use alloc::{collections::BTreeSet, sync::Arc, vec, vec::Vec};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::{
    bytes::{le16, le32, put_le16, put_le32},
    device::BlockDevice,
    error::{Error, Result},
    inode::Timestamp,
    journal::{Journal, Piece},
    name_index::NameIndexes,
    store::Store,
    superblock::{self, Geometry, POSITION, SIZE, STATE_CLEAN, compatible, field, incompatible},
};

/// How to mount.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Write nothing. A file system whose journal needs to be replayed can't be mounted so.
    pub read_only: bool,
    /// Tells the time.
    pub clock: fn() -> Timestamp,
    /// How many unchanged metadata blocks to keep in memory.
    pub cache_blocks: usize,
}

/// Committed blocks that may wait for their checkpoint.
const MOST_WAITING: usize = 1024;

/// Everything the lock protects.
pub struct Volume {
    pub store: Store,
    pub geometry: Geometry,
    pub journal: Option<Journal>,
    pub clock: fn() -> Timestamp,
    /// Sorted, disjoint (start, end) of blocks that no file may have.
    pub system_zones: Vec<(u64, u64)>,
    /// Groups whose checksums are to be brought up to date.
    pub changed_groups: BTreeSet<u32>,
    /// Files that grew, or got or lost blocks, in the running transaction.
    pub changed_files: BTreeSet<u32>,
    /// Where names are in the large directories in use.
    pub name_indexes: NameIndexes,
    /// File data has been written since the last flush. Shared with writers outside the lock.
    unflushed: Arc<AtomicBool>,
    read_only: bool,
    aborted: bool,
    unmounted: bool,
}

/// Reads a superblock of a disk: the one at byte 1024, or a copy.
fn read_superblock(device: &dyn BlockDevice, position: u64) -> Result<Vec<u8>> {
    let sector = u64::from(device.block_size());
    if !(512..=4096).contains(&sector) || !sector.is_power_of_two() {
        return Err(Error::Unsupported("sector size of the device"));
    }
    if device.sectors().saturating_mul(sector) < position + SIZE as u64 {
        return Err(Error::NotExt4);
    }
    let first = position / sector;
    let mut data =
        vec![0; (position + SIZE as u64).next_multiple_of(sector) as usize - (first * sector) as usize];
    device.read(first, &mut data)?;
    let start = (position - first * sector) as usize;
    Ok(data[start..start + SIZE].to_vec())
}

/// Whether a copy of the superblock says that this one, whose checksum is wrong, describes the file system
/// rightly. All that changes while mounted is in the superblock's first sector, which a power cut leaves
/// old or new as a whole; the checksum is in another.
fn backup_agrees(device: &dyn BlockDevice, geometry: &Geometry, superblock: &[u8]) -> bool {
    if geometry.group_count < 2 || !geometry.has_superblock(1) {
        return false;
    }
    let position = geometry.first_block_of(1) * geometry.block_size as u64;
    read_superblock(device, position).is_ok_and(|backup| {
        superblock::checksum_is_right(&backup) && superblock::describe_the_same(superblock, &backup)
    })
}

/// Whether a disk has an ext4 (or ext2, ext3) superblock.
pub fn is_ext4(device: &dyn BlockDevice) -> Result<bool> {
    match read_superblock(device, POSITION) {
        Ok(superblock) => Ok(le16(&superblock, 0x38) == superblock::MAGIC),
        Err(Error::NotExt4) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Volume {
    /// Mounts, replaying the journal and finishing what a crash interrupted.
    pub fn mount(device: Arc<dyn BlockDevice>, unflushed: Arc<AtomicBool>, options: Options) -> Result<Self> {
        let (mut volume, mut trusted) = Self::open(device.clone(), unflushed.clone(), options)?;
        if options.read_only && volume.geometry.has_incompatible(incompatible::RECOVER) {
            return Err(Error::Unsupported(
                "a read-only mount of a file system whose journal needs to be replayed",
            ));
        }
        if let Some(mut journal) = volume.journal.take() {
            if journal.needs_recovery() && !options.read_only {
                journal.recover(&volume.store)?;
                // Anything may have been replayed: look at everything anew.
                (volume, trusted) = Self::open(device, unflushed, options)?;
            } else {
                volume.journal = Some(journal);
            }
        }
        if !trusted {
            return Err(Error::Corrupt("superblock checksum"));
        }
        let free = volume.load_groups()?;
        for (_, start, count) in
            volume.journal.as_ref().map_or(Vec::new(), |journal| journal.pieces().to_vec())
        {
            volume.check_blocks(start, u64::from(count))?;
            volume.add_system_zone(start, start + u64::from(count));
        }
        if !options.read_only {
            volume.start(free)?;
            volume.process_orphans()?;
        }
        Ok(volume)
    }

    /// Opens a file system that has no journal yet, for making one.
    pub fn open_bare(
        device: Arc<dyn BlockDevice>,
        unflushed: Arc<AtomicBool>,
        options: Options,
    ) -> Result<Self> {
        let (mut volume, _) = Self::open(device, unflushed, options)?;
        volume.load_groups()?;
        Ok(volume)
    }

    /// Opens the file system as far as its journal. The second value says whether the superblock can be
    /// trusted: if the power went while it was written in its place, only the journal makes it right.
    fn open(
        device: Arc<dyn BlockDevice>,
        unflushed: Arc<AtomicBool>,
        options: Options,
    ) -> Result<(Self, bool)> {
        let superblock = read_superblock(&*device, POSITION)?;
        let bytes = device.sectors().saturating_mul(u64::from(device.block_size()));
        let geometry = Geometry::parse(&superblock, bytes, options.read_only)?;
        if geometry.block_size < device.block_size() as usize {
            return Err(Error::Unsupported("blocks smaller than the device's sectors"));
        }
        let trusted =
            superblock::checksum_is_right(&superblock) || backup_agrees(&*device, &geometry, &superblock);
        let store = Store::new(device, geometry.block_size, geometry.block_count, options.cache_blocks);
        let mut volume = Volume {
            store,
            geometry,
            journal: None,
            clock: options.clock,
            system_zones: Vec::new(),
            changed_groups: BTreeSet::new(),
            changed_files: BTreeSet::new(),
            name_indexes: NameIndexes::default(),
            unflushed,
            read_only: options.read_only,
            aborted: false,
            unmounted: false,
        };
        if volume.geometry.has_compatible(compatible::HAS_JOURNAL) {
            volume.open_journal()?;
        }
        Ok((volume, trusted))
    }

    fn open_journal(&mut self) -> Result<()> {
        /// More pieces than any mkfs makes.
        const MOST_PIECES: usize = 4096;
        let number = self.geometry.journal_inode;
        if number == 0 {
            return Err(Error::Unsupported("a journal on another device"));
        }
        let inode = self.inode(number)?;
        let extents = self.extents(&inode, MOST_PIECES)?;
        let pieces: Vec<Piece> =
            extents.iter().map(|extent| (extent.logical, extent.physical, extent.length)).collect();
        let gapless = pieces.iter().try_fold(0, |next, piece| (piece.0 == next).then_some(next + piece.2));
        if gapless.is_none() || extents.iter().any(|extent| extent.unwritten) {
            return Err(Error::Corrupt("the journal has a hole"));
        }
        self.journal = Some(Journal::open(&self.store, pieces, self.geometry.block_size)?);
        Ok(())
    }

    /// Marks the file system in use, on the disk: from now on a mount has to look into the journal.
    /// Linux keeps the counts of what is `free` (blocks, inodes) right in the groups only, so after a crash
    /// they are counted anew.
    fn start(&mut self, free: (u64, u32)) -> Result<()> {
        let now = (self.clock)().seconds as u32;
        let with_journal = self.journal.is_some();
        self.write_superblock_directly(|superblock| {
            if with_journal {
                let features = le32(superblock, field::INCOMPATIBLE) | incompatible::RECOVER;
                put_le32(superblock, field::INCOMPATIBLE, features);
            } else {
                let state = le16(superblock, field::STATE) & !STATE_CLEAN;
                put_le16(superblock, field::STATE, state);
            }
            put_le32(superblock, field::FREE_BLOCKS_LOW, free.0 as u32);
            put_le32(superblock, field::FREE_BLOCKS_HIGH, (free.0 >> 32) as u32);
            put_le32(superblock, field::FREE_INODES, free.1);
            let count = le16(superblock, field::MOUNT_COUNT);
            put_le16(superblock, field::MOUNT_COUNT, count.saturating_add(1));
            put_le32(superblock, field::MOUNT_TIME, now);
            put_le32(superblock, field::WRITE_TIME, now);
        })?;
        if let Some(journal) = &mut self.journal {
            journal.choose_features(
                self.geometry.metadata_checksum(),
                self.geometry.has_incompatible(incompatible::BITS_64),
            );
            journal.start(&self.store)?;
        }
        Ok(())
    }

    /// Changes the superblock on the disk, outside any transaction; nothing may be waiting in one.
    fn write_superblock_directly(&mut self, change: impl FnOnce(&mut [u8])) -> Result<()> {
        self.modify_superblock(|superblock| {
            change(superblock);
            superblock::seal(superblock);
        })?;
        let changes = self.store.changes();
        self.store.committed(changes);
        self.store.write_checkpoint()
    }

    /// Runs one operation as a unit: all of it becomes part of the running transaction, or none of it.
    pub fn operate<T>(&mut self, mut operation: impl FnMut(&mut Self) -> Result<T>) -> Result<T> {
        self.check_writable()?;
        if self.store.running_len() >= self.transaction_limit() {
            self.commit()?;
        }
        let mut result = self.attempt(&mut operation);
        // Blocks freed by the running transaction can be used only after it has committed.
        if result.as_ref().err() == Some(&Error::NoSpace) && !self.store.is_clean() {
            self.commit()?;
            result = self.attempt(&mut operation);
        }
        result
    }

    fn attempt<T>(&mut self, operation: &mut impl FnMut(&mut Self) -> Result<T>) -> Result<T> {
        self.store.begin_operation();
        let result = operation(self);
        match result {
            Ok(_) => {
                self.store.end_operation();
                self.name_indexes.keep();
            }
            Err(_) => {
                self.store.roll_back();
                self.name_indexes.roll_back();
            }
        }
        result
    }

    pub fn check_writable(&self) -> Result<()> {
        match (self.read_only || self.unmounted, self.aborted) {
            (true, _) => Err(Error::ReadOnly),
            (_, true) => Err(Error::Aborted),
            _ => Ok(()),
        }
    }

    /// How many changed blocks make a transaction commit.
    pub fn transaction_limit(&self) -> usize {
        self.journal.as_ref().map_or(MOST_WAITING, |journal| journal.transaction_limit().min(MOST_WAITING))
    }

    /// File data has been written.
    pub fn data_written(&self) {
        self.unflushed.store(true, Ordering::Release);
    }

    /// Makes everything so far durable: data and metadata.
    pub fn commit(&mut self) -> Result<()> {
        if self.store.is_clean() {
            return self.flush_data();
        }
        self.check_writable()?;
        let result = self.write_transaction();
        // What is on the disk now is unknown; the next mount finds out.
        self.aborted |= result.is_err();
        result
    }

    /// Makes a file's data durable, and of its attributes what it takes to read it.
    pub fn commit_data(&mut self, number: u32) -> Result<()> {
        if self.changed_files.contains(&number) { self.commit() } else { self.flush_data() }
    }

    fn flush_data(&self) -> Result<()> {
        if self.unflushed.swap(false, Ordering::AcqRel)
            && let Err(error) = self.store.flush()
        {
            self.data_written();
            return Err(error);
        }
        Ok(())
    }

    fn write_transaction(&mut self) -> Result<()> {
        self.seal_groups()?;
        let changes = self.store.changes();
        let room = self.journal.as_ref().is_none_or(|journal| journal.has_room(&changes));
        if !room || self.store.checkpoint_len() + changes.blocks.len() > MOST_WAITING {
            self.checkpoint()?;
        }
        self.unflushed.store(false, Ordering::Release);
        self.changed_files.clear();
        match &mut self.journal {
            Some(journal) => {
                journal.commit(&self.store, &changes, (self.clock)())?;
                self.store.committed(changes);
                Ok(())
            }
            None => {
                self.store.flush()?;
                self.store.committed(changes);
                self.store.write_checkpoint()
            }
        }
    }

    /// Writes all committed blocks to their places and empties the log.
    fn checkpoint(&mut self) -> Result<()> {
        self.store.write_checkpoint()?;
        match &mut self.journal {
            Some(journal) => journal.start(&self.store),
            None => Ok(()),
        }
    }

    /// Leaves a clean file system on the disk; nothing can be changed afterwards.
    pub fn unmount(&mut self) -> Result<()> {
        if self.read_only || self.unmounted {
            return Ok(());
        }
        self.check_writable()?;
        self.commit()?;
        self.store.write_checkpoint()?;
        if let Some(journal) = &mut self.journal {
            journal.finish(&self.store)?;
        }
        let now = (self.clock)().seconds as u32;
        self.write_superblock_directly(|superblock| {
            let features = le32(superblock, field::INCOMPATIBLE) & !incompatible::RECOVER;
            put_le32(superblock, field::INCOMPATIBLE, features);
            let state = le16(superblock, field::STATE) | STATE_CLEAN;
            put_le16(superblock, field::STATE, state);
            put_le32(superblock, field::WRITE_TIME, now);
        })?;
        self.unmounted = true;
        Ok(())
    }
}
