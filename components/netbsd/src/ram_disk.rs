//! A disk in memory that begins as a file of the image: what is written is kept, page by page, until the machine ends.

use alloc::{boxed::Box, collections::BTreeMap};

use rumpuser::sync::Mutex;

use crate::{
    errno::{EIO, Errno},
    files::Backing,
};

/// Bytes that are copied when the first of them is written.
const PAGE: usize = 4096;

/// See the module.
pub struct RamDisk {
    file: &'static [u8],
    written: Mutex<BTreeMap<usize, Box<[u8; PAGE]>>>,
}

impl RamDisk {
    /// A disk as long as the file.
    pub fn new(file: &'static [u8]) -> Self {
        RamDisk { file, written: Mutex::new(BTreeMap::new()) }
    }

    /// Cuts a range of the disk into parts of one page each: the page, where in it, and how much was before.
    fn parts(&self, offset: u64, length: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.file.len());
        let length = length.min(self.file.len() - start);
        let mut done = 0;
        core::iter::from_fn(move || {
            let at = start + done;
            let count = (PAGE - at % PAGE).min(length - done);
            let part = (at / PAGE, at % PAGE, done, count);
            done += count;
            (count > 0).then_some(part)
        })
    }

    /// A page as the file has it.
    fn original(&self, page: usize) -> &[u8] {
        let start = page * PAGE;
        &self.file[start..(start + PAGE).min(self.file.len())]
    }
}

impl Backing for RamDisk {
    fn size(&self) -> u64 {
        self.file.len() as u64
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<usize, Errno> {
        let written = self.written.lock();
        let mut total = 0;
        for (page, within, done, count) in self.parts(offset, bytes.len()) {
            let source = written.get(&page).map_or_else(|| self.original(page), |page| &page[..]);
            bytes[done..done + count].copy_from_slice(&source[within..within + count]);
            total += count;
        }
        Ok(total)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
        let mut written = self.written.lock();
        let mut total = 0;
        for (page, within, done, count) in self.parts(offset, bytes.len()) {
            let copy = written.entry(page).or_insert_with(|| {
                let mut copy = Box::new([0; PAGE]);
                let original = self.original(page);
                copy[..original.len()].copy_from_slice(original);
                copy
            });
            copy[within..within + count].copy_from_slice(&bytes[done..done + count]);
            total += count;
        }
        if total == 0 && !bytes.is_empty() { Err(EIO) } else { Ok(total) }
    }

    fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn is_block(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn what_is_written_covers_the_file() {
        static FILE: [u8; 10_000] = [7; 10_000];
        let disk = RamDisk::new(&FILE);
        assert_eq!(disk.size(), 10_000);
        assert_eq!(disk.write(4000, &[1; 5000]), Ok(5000));
        let mut bytes = vec![0; 12_000];
        assert_eq!(disk.read(0, &mut bytes), Ok(10_000));
        let expected = [vec![7; 4000], vec![1; 5000], vec![7; 1000]].concat();
        assert!(bytes[..10_000] == expected[..]);
        assert_eq!(disk.write(9_998, &[2; 10]), Ok(2));
        assert_eq!(disk.write(10_000, &[2; 10]), Err(EIO));
        assert_eq!(disk.write(u64::MAX, &[2; 10]), Err(EIO));
        assert_eq!(disk.read(9_997, &mut bytes), Ok(3));
        assert_eq!(bytes[..3], [7, 2, 2]);
        assert_eq!(disk.read(u64::MAX, &mut bytes), Ok(0));
    }
}
