//! Creating, linking, renaming and removing files.

use crate::{
    directory::Found,
    directory_entry::{FileType, check_name},
    error::{Error, Result},
    extent::clear_root,
    inode::{Inode, Time, flag, mode},
    volume::Volume,
};

/// What to create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewFile<'a> {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(&'a [u8]),
    /// A character device (major, minor).
    CharacterDevice(u32, u32),
    /// A block device (major, minor).
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// A Unix socket's name.
    Socket,
}

impl NewFile<'_> {
    fn mode(self) -> u16 {
        match self {
            NewFile::Regular => mode::REGULAR,
            NewFile::Directory => mode::DIRECTORY,
            NewFile::Symlink(_) => mode::SYMLINK,
            NewFile::CharacterDevice(..) => mode::CHARACTER,
            NewFile::BlockDevice(..) => mode::BLOCK,
            NewFile::Fifo => mode::FIFO,
            NewFile::Socket => mode::SOCKET,
        }
    }
}

/// Who owns a new file, and its permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The low 12 bits of the mode.
    pub permissions: u16,
}

/// What became of an inode that lost a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// The inode.
    pub inode: u32,
    /// Names left. At 0 the inode lives until [`Ext4::evict`](crate::Ext4::evict).
    pub links: u32,
}

/// What a rename does if the new name exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// Replaces it.
    Yes,
    /// Fails with [`Error::Exists`].
    No,
    /// The two files change places.
    Exchange,
}

impl Volume {
    /// A new inode without a name. The caller writes it.
    fn new_inode(&mut self, parent: u32, new: NewFile<'_>, owner: Owner) -> Result<Inode> {
        let number = self.allocate_inode(parent, new == NewFile::Directory)?;
        let mut inode = Inode::blank(number, self.geometry.inode_size, self.geometry.extra_inode_size);
        let now = (self.clock)();
        self.changed_files.insert(number);
        inode.set_mode(new.mode() | owner.permissions & 0o7777);
        inode.set_uid(owner.uid);
        inode.set_gid(owner.gid);
        for time in [Time::Access, Time::Change, Time::Modification, Time::Creation] {
            inode.set_time(time, now);
        }
        inode.set_generation(now.nanoseconds.wrapping_mul(0x9e37_79b1) ^ now.seconds as u32 ^ number);
        match new {
            NewFile::Regular | NewFile::Directory => {
                inode.set_flags(flag::EXTENTS);
                clear_root(&mut inode);
            }
            NewFile::Symlink(target) => self.set_link_target(&mut inode, target)?,
            NewFile::CharacterDevice(major, minor) | NewFile::BlockDevice(major, minor) => {
                inode.set_device(major, minor);
            }
            NewFile::Fifo | NewFile::Socket => {}
        }
        Ok(inode)
    }

    pub fn create(&mut self, parent: u32, name: &[u8], new: NewFile<'_>, owner: Owner) -> Result<u32> {
        check_name(name)?;
        let mut directory = self.directory(parent)?;
        if self.find_entry(&directory, name)?.is_some() {
            return Err(Error::Exists);
        }
        let mut inode = self.new_inode(parent, new, owner)?;
        inode.set_links(1);
        if new == NewFile::Directory {
            self.start_directory(&mut inode, parent)?;
            inode.set_links(2);
            self.add_link(&mut directory)?;
        }
        self.put_inode(&mut inode)?;
        self.add_entry(&mut directory, name, inode.number, FileType::of_mode(inode.mode()))?;
        self.touch_directory(&mut directory)?;
        Ok(inode.number)
    }

    /// A regular file without a name, in the orphan list until it is linked.
    pub fn create_unnamed(&mut self, parent: u32, owner: Owner) -> Result<u32> {
        self.directory(parent)?;
        let mut inode = self.new_inode(parent, NewFile::Regular, owner)?;
        self.add_orphan(&mut inode)?;
        self.put_inode(&mut inode)?;
        Ok(inode.number)
    }

    fn touch_directory(&mut self, directory: &mut Inode) -> Result<()> {
        directory.touch((self.clock)());
        self.put_inode(directory)
    }

    pub fn link(&mut self, number: u32, parent: u32, name: &[u8]) -> Result<()> {
        let mut directory = self.directory(parent)?;
        let mut inode = self.inode(number)?;
        if inode.is_directory() {
            return Err(Error::IsDirectory);
        }
        if inode.links() == 0 {
            self.remove_orphan(&mut inode)?;
        }
        self.add_link(&mut inode)?;
        inode.set_time(Time::Change, (self.clock)());
        self.put_inode(&mut inode)?;
        self.add_entry(&mut directory, name, number, FileType::of_mode(inode.mode()))?;
        self.touch_directory(&mut directory)
    }

    fn existing(&mut self, directory: &Inode, name: &[u8]) -> Result<(Found, Inode)> {
        let found = self.find_entry(directory, name)?.ok_or(Error::NotFound)?;
        match self.inode(found.inode) {
            Err(Error::NotFound) => Err(Error::Corrupt("entry of a free inode")),
            inode => Ok((found, inode?)),
        }
    }

    /// Takes one name from an inode, whose entry is gone or going.
    fn drop_name(&mut self, inode: &mut Inode) -> Result<Removed> {
        if inode.is_directory() {
            inode.set_links(0);
        } else {
            let links = inode.links().checked_sub(1).ok_or(Error::Corrupt("link count"))?;
            inode.set_links(links);
        }
        inode.set_time(Time::Change, (self.clock)());
        if inode.links() == 0 {
            self.add_orphan(inode)?;
        }
        self.put_inode(inode)?;
        Ok(Removed { inode: inode.number, links: u32::from(inode.links()) })
    }

    pub fn unlink(&mut self, parent: u32, name: &[u8]) -> Result<Removed> {
        let mut directory = self.directory(parent)?;
        let (found, mut inode) = self.existing(&directory, name)?;
        if inode.is_directory() {
            return Err(Error::IsDirectory);
        }
        self.remove_entry(&directory, found.location)?;
        self.touch_directory(&mut directory)?;
        self.drop_name(&mut inode)
    }

    pub fn remove_directory(&mut self, parent: u32, name: &[u8]) -> Result<Removed> {
        check_name(name)?;
        let mut directory = self.directory(parent)?;
        let (found, mut inode) = self.existing(&directory, name)?;
        self.check_removable(&inode)?;
        self.remove_entry(&directory, found.location)?;
        self.remove_directory_link(&mut directory);
        self.touch_directory(&mut directory)?;
        self.drop_name(&mut inode)
    }

    fn check_removable(&mut self, inode: &Inode) -> Result<()> {
        if !inode.is_directory() {
            return Err(Error::NotDirectory);
        }
        if inode.number < self.geometry.first_inode {
            return Err(Error::Corrupt("entry of a reserved inode"));
        }
        if self.directory_is_empty(inode)? { Ok(()) } else { Err(Error::NotEmpty) }
    }

    /// Fails if `directory` is `ancestor` or lies below it.
    fn check_not_below(&mut self, directory: u32, ancestor: u32) -> Result<()> {
        /// A path that deep can't be named; deeper than that, `..` goes round in a circle.
        const DEEPEST: u32 = 1 << 16;
        let mut current = directory;
        for _ in 0..DEEPEST {
            if current == ancestor {
                return Err(Error::Invalid("a directory can't be moved into itself"));
            }
            if current == crate::inode::ROOT {
                return Ok(());
            }
            let inode = self.directory(current)?;
            current = self.find_entry(&inode, b"..")?.ok_or(Error::Corrupt("directory without .."))?.inode;
        }
        Err(Error::Corrupt("directories in a circle"))
    }

    /// Points a directory's `..` elsewhere.
    fn set_parent(&mut self, directory: &Inode, parent: u32) -> Result<()> {
        let found = self.find_entry(directory, b"..")?.ok_or(Error::Corrupt("directory without .."))?;
        self.replace_entry(directory, found.location, parent, FileType::Directory)
    }

    /// Renames; returns what became of a replaced file.
    pub fn rename(
        &mut self,
        old_parent: u32,
        old_name: &[u8],
        new_parent: u32,
        new_name: &[u8],
        replace: Replace,
    ) -> Result<Option<Removed>> {
        check_name(old_name)?;
        check_name(new_name)?;
        let old_directory = self.directory(old_parent)?;
        let new_directory = self.directory(new_parent)?;
        let (old, inode) = self.existing(&old_directory, old_name)?;
        let target = self.find_entry(&new_directory, new_name)?;
        if inode.is_directory() && old_parent != new_parent {
            self.check_not_below(new_parent, inode.number)?;
        }
        match (target, replace) {
            (Some(_), Replace::No) => Err(Error::Exists),
            (None, Replace::Exchange) => Err(Error::NotFound),
            (Some(target), _) if target.inode == old.inode => Ok(None),
            (Some(_), Replace::Exchange) => {
                self.exchange(old_directory, old_name, new_directory, new_name)?;
                Ok(None)
            }
            (target, _) => self.move_file(old_directory, old_name, new_directory, new_name, inode, target),
        }
    }

    /// Gives `inode` its new name, which may be `target`'s so far, and takes the old one.
    fn move_file(
        &mut self,
        mut old_directory: Inode,
        old_name: &[u8],
        mut new_directory: Inode,
        new_name: &[u8],
        mut inode: Inode,
        target: Option<Found>,
    ) -> Result<Option<Removed>> {
        let moves_directory = inode.is_directory() && old_directory.number != new_directory.number;
        let file_type = FileType::of_mode(inode.mode());
        let replaced = match target {
            None => {
                self.add_entry(&mut new_directory, new_name, inode.number, file_type)?;
                None
            }
            Some(target) => {
                let replaced = self.inode(target.inode)?;
                if inode.is_directory() {
                    self.check_removable(&replaced)?;
                    self.remove_directory_link(&mut new_directory);
                } else if replaced.is_directory() {
                    return Err(Error::IsDirectory);
                }
                self.replace_entry(&new_directory, target.location, inode.number, file_type)?;
                Some(replaced)
            }
        };
        if moves_directory {
            self.add_link(&mut new_directory)?;
            self.set_parent(&inode, new_directory.number)?;
        }
        self.touch_directory(&mut new_directory)?;
        if old_directory.number == new_directory.number {
            old_directory = new_directory;
        }
        // Looked up only now: making room for the new entry may have rewritten the directory.
        let found = self.find_entry(&old_directory, old_name)?.ok_or(Error::NotFound)?;
        self.remove_entry(&old_directory, found.location)?;
        if moves_directory {
            self.remove_directory_link(&mut old_directory);
        }
        self.touch_directory(&mut old_directory)?;
        inode.set_time(Time::Change, (self.clock)());
        self.put_inode(&mut inode)?;
        replaced.map(|mut replaced| self.drop_name(&mut replaced)).transpose()
    }

    /// Tells a directory, and its parents, that it has moved. Other files do not know their parent.
    fn change_parent(&mut self, inode: &Inode, from: &mut Inode, to: &mut Inode) -> Result<()> {
        if inode.is_directory() {
            self.set_parent(inode, to.number)?;
            self.remove_directory_link(from);
            self.add_link(to)?;
        }
        Ok(())
    }

    fn exchange(&mut self, first: Inode, first_name: &[u8], second: Inode, second_name: &[u8]) -> Result<()> {
        let same = first.number == second.number;
        let (first_found, mut first_inode) = self.existing(&first, first_name)?;
        let (second_found, mut second_inode) = self.existing(&second, second_name)?;
        if second_inode.is_directory() && !same {
            self.check_not_below(first.number, second_inode.number)?;
        }
        let (mut first, mut second) = (first, second);
        self.replace_entry(
            &first,
            first_found.location,
            second_inode.number,
            FileType::of_mode(second_inode.mode()),
        )?;
        self.replace_entry(
            &second,
            second_found.location,
            first_inode.number,
            FileType::of_mode(first_inode.mode()),
        )?;
        if !same {
            self.change_parent(&first_inode, &mut first, &mut second)?;
            self.change_parent(&second_inode, &mut second, &mut first)?;
            self.touch_directory(&mut second)?;
        }
        self.touch_directory(&mut first)?;
        for inode in [&mut first_inode, &mut second_inode] {
            inode.set_time(Time::Change, (self.clock)());
            self.put_inode(inode)?;
        }
        Ok(())
    }
}
