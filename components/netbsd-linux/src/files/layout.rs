//! What NetBSD's kernel tells of files (`struct stat`, `struct dirent`, `struct statvfs`) in the personality's terms.

use rumpvfs::vnode::{Attributes, Kind, Statistics, Time, device_number, device_parts};

/// Nanoseconds in a second.
const SECOND: i64 = 1_000_000_000;
/// `UTIME_OMIT`.
const OMIT: i64 = (1 << 30) - 2;
/// `MNT_RDONLY`.
const READ_ONLY: u64 = 1;

/// `struct stat` (NetBSD 6 and later).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stat {
    device: u64,
    mode: u32,
    /// The inode number.
    pub inode: u64,
    links: u32,
    uid: u32,
    gid: u32,
    special: u64,
    accessed: [i64; 2],
    modified: [i64; 2],
    changed: [i64; 2],
    born: [i64; 2],
    /// Bytes.
    pub size: i64,
    blocks: i64,
    block_size: i32,
    flags: u32,
    generation: u32,
    spare: [u32; 2],
}

const _: () = assert!(size_of::<Stat>() == 152);

impl Stat {
    /// The type; `None` for whiteouts.
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_mode(self.mode)
    }

    /// After the last name was removed.
    pub fn nameless(self) -> Self {
        Stat { links: 0, ..self }
    }

    /// In the personality's terms, on a device with this number.
    pub fn attributes(&self, device: u64, kind: Kind) -> Attributes {
        Attributes {
            device,
            inode: self.inode,
            kind,
            permissions: self.mode & 0o7777,
            links: self.links,
            uid: self.uid,
            gid: self.gid,
            rdev: if matches!(kind, Kind::Character | Kind::Block) { linux_device(self.special) } else { 0 },
            size: u64::try_from(self.size).unwrap_or(0),
            blocks: u64::try_from(self.blocks).unwrap_or(0),
            block_size: u32::try_from(self.block_size).unwrap_or(0).max(512),
            accessed: time(self.accessed),
            modified: time(self.modified),
            changed: time(self.changed),
            born: time(self.born),
        }
    }
}

fn time([seconds, nanoseconds]: [i64; 2]) -> Time {
    seconds.saturating_mul(SECOND).saturating_add(nanoseconds)
}

/// `struct timespec`; a time that is not to be set says so.
pub fn timespec(time: Option<Time>) -> [i64; 2] {
    time.map_or([0, OMIT], |time| [time.div_euclid(SECOND), time.rem_euclid(SECOND)])
}

/// Linux's number of a device (makedev(3) of each system).
fn linux_device(device: u64) -> u64 {
    let device = device as u32;
    device_number(device >> 8 & 0xfff, device >> 12 & 0xf_ff00 | device & 0xff)
}

/// NetBSD's number of a device. `None` if it has no room for it.
pub fn netbsd_device(device: u64) -> Option<u64> {
    let (major, minor) = device_parts(device);
    let fits = major < 1 << 12 && minor < 1 << 20;
    fits.then_some(u64::from(major << 8 | (minor & 0xf_ff00) << 12 | minor & 0xff))
}

/// An entry of a directory.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The inode number.
    pub inode: u64,
    /// The type, if the directory has it.
    pub kind: Option<Kind>,
}

/// Where `struct dirent` has its size, the name's length, the type, and the name.
const RECORD: usize = 8;
const NAME_LENGTH: usize = 10;
const TYPE: usize = 12;
const NAME: usize = 13;
/// `DT_WHT`.
const WHITEOUT: u8 = 14;

/// The entries that getdents(2) gave. What is damaged ends them.
pub fn entries(bytes: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    let mut rest = bytes;
    core::iter::from_fn(move || {
        loop {
            let half = |at: usize| Some(usize::from(u16::from_ne_bytes(*rest.get(at..)?.first_chunk()?)));
            let size = half(RECORD)?;
            let record = rest.get(..size).filter(|record| record.len() > NAME)?;
            let name = record.get(NAME..NAME + half(NAME_LENGTH)?)?;
            let inode = u64::from_ne_bytes(*record.first_chunk()?);
            let kind = record[TYPE];
            rest = &rest[size..];
            if inode != 0 && kind != WHITEOUT && !name.is_empty() {
                return Some(Entry { name, inode, kind: Kind::from_mode(u32::from(kind) << 12) });
            }
        }
    })
}

/// Bytes of `struct statvfs` that count here.
pub const STATISTICS: usize = 160;
/// Words of it: flags, fragment size, blocks, free ones, those for others than root; files, free ones; the name's
/// length.
const FLAGS: usize = 0;
const FRAGMENT: usize = 2;
const BLOCKS: usize = 4;
const AVAILABLE: usize = 6;
const FILES: usize = 8;
const FILES_FREE: usize = 9;
const NAME_MOST: usize = 18;

/// What statvfs(2) tells, of a file system with this mark.
pub fn statistics(bytes: &[u8], magic: u64) -> Statistics {
    let word = |index: usize| {
        let bytes = bytes.get(8 * index..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    };
    Statistics {
        magic,
        block_size: word(FRAGMENT),
        blocks: word(BLOCKS),
        blocks_free: word(AVAILABLE),
        files: word(FILES),
        files_free: word(FILES_FREE),
        name_length: word(NAME_MOST).min(255),
        read_only: word(FLAGS) & READ_ONLY != 0,
        identifier: 0,
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn record(name: &[u8], inode: u64, kind: u8) -> Vec<u8> {
        let size = (NAME + name.len() + 1).next_multiple_of(8);
        let mut bytes = alloc::vec![0; size];
        bytes[..8].copy_from_slice(&inode.to_ne_bytes());
        bytes[RECORD..RECORD + 2].copy_from_slice(&(size as u16).to_ne_bytes());
        bytes[NAME_LENGTH..NAME_LENGTH + 2].copy_from_slice(&(name.len() as u16).to_ne_bytes());
        bytes[TYPE] = kind;
        bytes[NAME..NAME + name.len()].copy_from_slice(name);
        bytes
    }

    #[test]
    fn entries_are_read_one_by_one() {
        let all = [
            record(b".", 2, 4),
            record(b"gone", 0, 8),
            record(b"hidden", 9, WHITEOUT),
            record(b"link", 5, 10),
            record(b"what", 6, 0),
        ]
        .concat();
        let found: Vec<_> = entries(&all).collect();
        assert_eq!(
            found,
            [
                Entry { name: b".", inode: 2, kind: Some(Kind::Directory) },
                Entry { name: b"link", inode: 5, kind: Some(Kind::Symlink) },
                Entry { name: b"what", inode: 6, kind: None },
            ]
        );
        for damaged in [&[0xff; 40][..], &[0; 40], &[1; 5], &all[..15]] {
            assert_eq!(entries(damaged).count(), 0);
        }
    }

    #[test]
    fn devices_keep_their_numbers() {
        for (major, minor) in [(1, 3), (254, 0), (4095, 0xf_ffff), (8, 300)] {
            let device = device_number(major, minor);
            assert_eq!(linux_device(netbsd_device(device).expect("fits")), device);
        }
        assert_eq!(netbsd_device(device_number(4096, 0)), None);
        assert_eq!(netbsd_device(device_number(1, 1 << 20)), None);
    }

    #[test]
    fn statistics_are_read() {
        let mut bytes = [0; STATISTICS];
        for (index, value) in
            [(FLAGS, 1u64), (FRAGMENT, 1024), (BLOCKS, 500), (AVAILABLE, 20), (NAME_MOST, 511)]
        {
            bytes[8 * index..8 * index + 8].copy_from_slice(&value.to_ne_bytes());
        }
        let found = statistics(&bytes, 7);
        assert_eq!((found.magic, found.block_size, found.blocks, found.blocks_free), (7, 1024, 500, 20));
        assert!(found.read_only && found.name_length == 255);
    }

    #[test]
    fn times_before_1970_are_whole_seconds_and_nanoseconds() {
        assert_eq!(timespec(Some(-1)), [-1, SECOND - 1]);
        assert_eq!(time(timespec(Some(-1))), -1);
        assert_eq!(timespec(None), [0, OMIT]);
        assert_eq!(time([i64::MAX, 0]), i64::MAX);
    }
}
