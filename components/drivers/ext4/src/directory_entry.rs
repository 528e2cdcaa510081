//! Directory entries as they are in a block.
//!
//! Specification: <https://docs.kernel.org/filesystems/ext4/dynamic.html#directory-entries>.

use crate::{
    bytes::{le16, le32, put_le16, put_le32},
    error::{Error, Result},
    inode::mode,
};

/// Longest name.
pub const LONGEST_NAME: usize = 255;
/// Bytes of an entry before its name.
pub const HEADER: usize = 8;

/// What an entry says about the file's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileType {
    /// Not said.
    Unknown,
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A Unix socket's name.
    Socket,
    /// A symbolic link.
    Symlink,
}

impl FileType {
    pub(crate) fn from_raw(raw: u8) -> Self {
        match raw {
            1 => FileType::Regular,
            2 => FileType::Directory,
            3 => FileType::CharacterDevice,
            4 => FileType::BlockDevice,
            5 => FileType::Fifo,
            6 => FileType::Socket,
            7 => FileType::Symlink,
            _ => FileType::Unknown,
        }
    }

    pub(crate) fn raw(self) -> u8 {
        self as u8
    }

    /// The type that an inode's mode says.
    pub(crate) fn of_mode(raw: u16) -> Self {
        match raw & mode::TYPE {
            mode::REGULAR => FileType::Regular,
            mode::DIRECTORY => FileType::Directory,
            mode::CHARACTER => FileType::CharacterDevice,
            mode::BLOCK => FileType::BlockDevice,
            mode::FIFO => FileType::Fifo,
            mode::SOCKET => FileType::Socket,
            mode::SYMLINK => FileType::Symlink,
            _ => FileType::Unknown,
        }
    }
}

/// An entry in a block.
#[derive(Debug, Clone, Copy)]
pub struct Raw {
    pub offset: usize,
    pub inode: u32,
    pub length: usize,
    pub name_length: usize,
    pub file_type: u8,
}

impl Raw {
    pub fn name<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        &data[self.offset + HEADER..self.offset + HEADER + self.name_length]
    }

    /// Bytes that the entry needs; the rest of its length is free.
    pub fn needed(&self) -> usize {
        if self.inode == 0 { 0 } else { size_for(self.name_length) }
    }
}

/// Bytes that an entry with a name of this length takes.
pub fn size_for(name_length: usize) -> usize {
    (HEADER + name_length).next_multiple_of(4)
}

/// The entries of a block, each checked to lie within it.
pub struct RawEntries<'a> {
    data: &'a [u8],
    offset: usize,
}

impl Iterator for RawEntries<'_> {
    type Item = Result<Raw>;

    fn next(&mut self) -> Option<Result<Raw>> {
        let (data, offset) = (self.data, self.offset);
        if offset >= data.len() {
            return None;
        }
        let wrong = Some(Err(Error::Corrupt("directory entry")));
        self.offset = data.len();
        if offset + HEADER > data.len() {
            return wrong;
        }
        let entry = Raw {
            offset,
            inode: le32(data, offset),
            length: usize::from(le16(data, offset + 4)),
            name_length: usize::from(data[offset + 6]),
            file_type: data[offset + 7],
        };
        if entry.length < size_for(entry.name_length)
            || !entry.length.is_multiple_of(4)
            || offset + entry.length > data.len()
        {
            return wrong;
        }
        self.offset = offset + entry.length;
        Some(Ok(entry))
    }
}

pub fn entries(data: &[u8]) -> RawEntries<'_> {
    RawEntries { data, offset: 0 }
}

pub fn write_entry(
    data: &mut [u8],
    offset: usize,
    length: usize,
    inode: u32,
    name: &[u8],
    file_type: FileType,
) {
    put_le32(data, offset, inode);
    put_le16(data, offset + 4, length as u16);
    data[offset + 6] = name.len() as u8;
    data[offset + 7] = file_type.raw();
    data[offset + HEADER..offset + HEADER + name.len()].copy_from_slice(name);
}

/// A name that may be given to an entry.
pub fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > LONGEST_NAME {
        return Err(Error::NameTooLong);
    }
    if name.is_empty() || name == b"." || name == b".." || name.iter().any(|&byte| byte == 0 || byte == b'/')
    {
        return Err(Error::Invalid("name"));
    }
    Ok(())
}
