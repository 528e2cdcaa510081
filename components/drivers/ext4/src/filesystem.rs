//! The public interface: a mounted file system.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, Ordering};

use rumpuser::sync::Mutex;

use crate::{
    device::BlockDevice,
    directory::Entry,
    directory_entry::FileType,
    error::{Error, Result},
    file::{Piece, read_piece},
    inode::{Inode, Time, Timestamp, flag},
    names::{NewFile, Owner, Removed, Replace},
    volume::{Options, Volume},
};

/// What `stat` shows of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// The inode number.
    pub inode: u32,
    /// The type.
    pub file_type: FileType,
    /// Type and permissions, as in `st_mode`.
    pub mode: u16,
    /// Names. 1 for a directory with more subdirectories than can be counted.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Owner's group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Space used, in 512-byte units.
    pub sectors: u64,
    /// A device's (major, minor).
    pub device: (u32, u32),
    /// Tells apart the files that had the same inode number.
    pub generation: u32,
    /// Append-only and immutable files (`chattr +a`, `+i`).
    pub append_only: bool,
    /// See `append_only`.
    pub immutable: bool,
    /// Last access.
    pub access_time: Timestamp,
    /// Last change of the contents.
    pub modification_time: Timestamp,
    /// Last change of contents or attributes.
    pub change_time: Timestamp,
    /// Creation; zero if the file system doesn't store it.
    pub creation_time: Timestamp,
}

/// Attributes to set; those that are `None` stay. The change time is set unless given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttributeChange {
    /// The low 12 bits of the mode.
    pub permissions: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Owner's group.
    pub gid: Option<u32>,
    /// Last access.
    pub access_time: Option<Timestamp>,
    /// Last change of the contents.
    pub modification_time: Option<Timestamp>,
    /// Last change of contents or attributes.
    pub change_time: Option<Timestamp>,
}

/// What `statfs` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes in a block.
    pub block_size: u32,
    /// Blocks.
    pub blocks: u64,
    /// Free blocks.
    pub free_blocks: u64,
    /// Free blocks, without those reserved for the superuser.
    pub available_blocks: u64,
    /// Inodes.
    pub inodes: u64,
    /// Free inodes.
    pub free_inodes: u64,
    /// The file system's UUID.
    pub uuid: [u8; 16],
    /// Whether it is mounted read-only.
    pub read_only: bool,
}

/// A mounted ext4 file system. Operations name files by inode number; the root directory is
/// [`ROOT`](crate::ROOT). See the crate's description for what the caller takes care of.
pub struct Ext4 {
    volume: Mutex<Volume>,
    device: Arc<dyn BlockDevice>,
    unflushed: Arc<AtomicBool>,
    block_size: usize,
    read_only: bool,
}

impl Ext4 {
    /// Mounts. Replays the journal and frees orphans if the file system was not unmounted.
    pub fn mount(device: Arc<dyn BlockDevice>, options: Options) -> Result<Self> {
        let unflushed = Arc::new(AtomicBool::new(false));
        let volume = Volume::mount(device.clone(), unflushed.clone(), options)?;
        let block_size = volume.geometry.block_size;
        Ok(Ext4 { volume: Mutex::new(volume), device, unflushed, block_size, read_only: options.read_only })
    }

    /// Commits, and leaves a clean file system. Every later change fails with [`Error::ReadOnly`].
    pub fn unmount(&self) -> Result<()> {
        self.volume.lock().unmount()
    }

    /// Makes everything durable that was done before the call.
    pub fn sync(&self) -> Result<()> {
        self.volume.lock().commit()
    }

    /// Makes a file's data and attributes, and its name, durable. (All files share the journal, so it does
    /// for them, too.)
    pub fn fsync(&self, _inode: u32) -> Result<()> {
        self.sync()
    }

    /// Makes a file's data durable, with as much of its attributes as it takes to read it (`fdatasync`).
    /// Overwriting costs one flush, without a commit.
    pub fn sync_data(&self, inode: u32) -> Result<()> {
        self.volume.lock().commit_data(inode)
    }

    /// Bytes in a block: reads and writes that are aligned to it need no copy.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Sizes and free space.
    pub fn statistics(&self) -> Result<Statistics> {
        let mut volume = self.volume.lock();
        let free_blocks = volume.free_block_count()?;
        let free_inodes = u64::from(volume.free_inode_count()?);
        let geometry = &volume.geometry;
        let overhead = volume.system_zones.iter().map(|zone| zone.1 - zone.0).sum::<u64>();
        Ok(Statistics {
            block_size: geometry.block_size as u32,
            blocks: (geometry.block_count - geometry.first_data_block).saturating_sub(overhead),
            free_blocks,
            available_blocks: free_blocks.saturating_sub(geometry.reserved_blocks),
            inodes: u64::from(geometry.inode_count),
            free_inodes,
            uuid: geometry.uuid,
            read_only: self.read_only,
        })
    }

    /// What `stat` shows.
    pub fn attributes(&self, inode: u32) -> Result<Attributes> {
        let inode = self.volume.lock().inode(inode)?;
        let file_type = FileType::of_mode(inode.mode());
        let is_device = matches!(file_type, FileType::CharacterDevice | FileType::BlockDevice);
        Ok(Attributes {
            inode: inode.number,
            file_type,
            mode: inode.mode(),
            links: u32::from(inode.links()),
            uid: inode.uid(),
            gid: inode.gid(),
            size: inode.size(),
            sectors: inode.sectors(self.block_size),
            device: if is_device { inode.device() } else { (0, 0) },
            generation: inode.generation(),
            append_only: inode.flags() & flag::APPEND != 0,
            immutable: inode.flags() & flag::IMMUTABLE != 0,
            access_time: inode.time(Time::Access),
            modification_time: inode.time(Time::Modification),
            change_time: inode.time(Time::Change),
            creation_time: inode.time(Time::Creation),
        })
    }

    /// Sets attributes.
    pub fn set_attributes(&self, inode: u32, change: &AttributeChange) -> Result<()> {
        self.change(|volume| {
            let mut inode: Inode = volume.inode(inode)?;
            if let Some(permissions) = change.permissions {
                inode.set_mode(inode.file_type() | permissions & 0o7777);
            }
            if let Some(uid) = change.uid {
                inode.set_uid(uid);
            }
            if let Some(gid) = change.gid {
                inode.set_gid(gid);
            }
            let now = (volume.clock)();
            inode.set_time(Time::Change, change.change_time.unwrap_or(now));
            if let Some(time) = change.access_time {
                inode.set_time(Time::Access, time);
            }
            if let Some(time) = change.modification_time {
                inode.set_time(Time::Modification, time);
            }
            volume.put_inode(&mut inode)
        })
    }

    /// Sets the time of the last access alone.
    pub fn set_access_time(&self, inode: u32, time: Timestamp) -> Result<()> {
        self.change(|volume| {
            let mut inode = volume.inode(inode)?;
            inode.set_time(Time::Access, time);
            volume.put_inode(&mut inode)
        })
    }

    fn change<T>(&self, operation: impl FnMut(&mut Volume) -> Result<T>) -> Result<T> {
        self.volume.lock().operate(operation)
    }

    /// The inode that a name in a directory stands for. `.` and `..` are found, too.
    pub fn lookup(&self, directory: u32, name: &[u8]) -> Result<u32> {
        let mut volume = self.volume.lock();
        let inode = volume.directory(directory)?;
        Ok(volume.find_entry(&inode, name)?.ok_or(Error::NotFound)?.inode)
    }

    /// Lists a directory from `cookie` on (0, or an [`Entry::next`]) until `visit` returns false. Called with
    /// the file system locked: `visit` must not call back, and should only collect.
    pub fn read_directory(
        &self,
        directory: u32,
        cookie: u64,
        visit: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Result<()> {
        let mut volume = self.volume.lock();
        let inode = volume.inode(directory)?;
        if !inode.is_directory() {
            return Err(Error::NotDirectory);
        }
        volume.list(&inode, cookie, visit)
    }

    /// Creates a file; returns its inode.
    pub fn create(&self, directory: u32, name: &[u8], new: NewFile<'_>, owner: Owner) -> Result<u32> {
        self.change(|volume| volume.create(directory, name, new, owner))
    }

    /// Creates a regular file without a name (`O_TMPFILE`), near `directory`. It goes at
    /// [`evict`](Self::evict) or at the next mount unless it was [linked](Self::link).
    pub fn create_unnamed(&self, directory: u32, owner: Owner) -> Result<u32> {
        self.change(|volume| volume.create_unnamed(directory, owner))
    }

    /// Gives a file that is no directory one more name.
    pub fn link(&self, inode: u32, directory: u32, name: &[u8]) -> Result<()> {
        self.change(|volume| volume.link(inode, directory, name))
    }

    /// Removes a name of a file that is no directory. With no names left the file lives on until
    /// [`evict`](Self::evict) (or the next mount).
    pub fn unlink(&self, directory: u32, name: &[u8]) -> Result<Removed> {
        self.change(|volume| volume.unlink(directory, name))
    }

    /// Removes an empty directory, which lives on until [`evict`](Self::evict).
    pub fn remove_directory(&self, directory: u32, name: &[u8]) -> Result<Removed> {
        self.change(|volume| volume.remove_directory(directory, name))
    }

    /// Renames, in one step even if the power fails. Returns the file that lost the new name, if any.
    pub fn rename(
        &self,
        old_directory: u32,
        old_name: &[u8],
        new_directory: u32,
        new_name: &[u8],
        replace: Replace,
    ) -> Result<Option<Removed>> {
        self.change(|volume| volume.rename(old_directory, old_name, new_directory, new_name, replace))
    }

    /// Frees an inode without a name, once nobody uses it any more; others are left alone.
    pub fn evict(&self, inode: u32) -> Result<()> {
        let mut volume = self.volume.lock();
        volume.check_writable()?;
        volume.evict(inode)
    }

    /// A symbolic link's target.
    pub fn read_link(&self, inode: u32) -> Result<Vec<u8>> {
        self.volume.lock().link_target(inode)
    }

    /// Reads from a regular file; returns how many bytes there were before its end. The lock is held only
    /// while the blocks are looked up.
    pub fn read(&self, inode: u32, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let pieces = self.volume.lock().map_read(inode, offset, buffer.len())?;
        let read = |block, target: &mut [u8]| Ok(self.device.read(self.sector(block), target)?);
        for piece in &pieces {
            read_piece(&read, self.block_size, piece, buffer)?;
        }
        Ok(pieces.last().map_or(0, |piece| piece.range.end))
    }

    fn sector(&self, block: u64) -> u64 {
        block * (self.block_size as u64 / u64::from(self.device.block_size()))
    }

    /// Writes to a regular file, growing it as necessary; returns how much was written, which is less than
    /// asked only if the space ran out. Whole blocks that the file already has are written without the lock.
    pub fn write(&self, inode: u32, offset: u64, data: &[u8]) -> Result<usize> {
        self.write_steps(inode, offset, data, true)
    }

    /// [`write`](Self::write) for a page cache that brings its pages to the disk: the times stay as they are.
    /// `data` ends at the end of the file, if that comes before the end of the page.
    pub fn write_back(&self, inode: u32, offset: u64, data: &[u8]) -> Result<usize> {
        self.write_steps(inode, offset, data, false)
    }

    fn write_steps(&self, inode: u32, offset: u64, data: &[u8], touch: bool) -> Result<usize> {
        let mut done = 0;
        while done < data.len() {
            let rest = &data[done..];
            let step = self.change(|volume| volume.write_step(inode, offset + done as u64, rest, touch));
            let step = match step {
                Err(Error::NoSpace) if done > 0 => break,
                step => step?,
            };
            self.write_deferred(&step.deferred, rest)?;
            done += step.length;
        }
        Ok(done)
    }

    fn write_deferred(&self, pieces: &[Piece], data: &[u8]) -> Result<()> {
        for piece in pieces {
            if let Some(block) = piece.physical {
                self.device.write(self.sector(block), &data[piece.range.clone()])?;
                self.unflushed.store(true, Ordering::Release);
            }
        }
        Ok(())
    }

    /// Sets a regular file's size: cuts it, or adds a hole.
    pub fn truncate(&self, inode: u32, size: u64) -> Result<()> {
        let mut volume = self.volume.lock();
        let mut more = volume.operate(|volume| volume.set_size(inode, size))?;
        while more {
            more = volume.operate(|volume| volume.truncate_step(inode))?;
        }
        Ok(())
    }

    /// Reserves space for `offset..offset + length` (`fallocate`); it reads as zeroes. Unless `keep_size`,
    /// the file grows to include it.
    pub fn allocate(&self, inode: u32, offset: u64, length: u64, keep_size: bool) -> Result<()> {
        let end = offset.checked_add(length).ok_or(Error::FileTooLarge)?;
        let mut position = offset;
        while position < end {
            position = self.change(|volume| volume.allocate_step(inode, position, end, keep_size))?;
        }
        Ok(())
    }

    /// Makes `offset..offset + length` a hole; the size stays.
    pub fn punch_hole(&self, inode: u32, offset: u64, length: u64) -> Result<()> {
        let end = offset.checked_add(length).ok_or(Error::FileTooLarge)?;
        while self.change(|volume| volume.punch_step(inode, offset..end))? {}
        Ok(())
    }

    /// `SEEK_DATA`: the first offset from `offset` on that is not in a hole.
    pub fn seek_data(&self, inode: u32, offset: u64) -> Result<Option<u64>> {
        self.volume.lock().seek(inode, offset, false)
    }

    /// `SEEK_HOLE`: the first offset from `offset` on that is in a hole, or the end of the file.
    pub fn seek_hole(&self, inode: u32, offset: u64) -> Result<Option<u64>> {
        self.volume.lock().seek(inode, offset, true)
    }

    /// The value of an extended attribute (`user.name`, `security.capability`...).
    pub fn extended_attribute(&self, inode: u32, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut found = None;
        self.volume.lock().visit_attributes(inode, &mut |full, value| {
            if full == name {
                found = Some(value.to_vec());
            }
        })?;
        Ok(found)
    }

    /// The names of an inode's extended attributes.
    pub fn extended_attributes(&self, inode: u32) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        self.volume.lock().visit_attributes(inode, &mut |full, _| names.push(full))?;
        Ok(names)
    }
}
