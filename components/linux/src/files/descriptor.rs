//! The descriptor table of a process.
//!
//! A look-up takes the lock of its slot alone: threads that use different descriptors share no cache line
//! that is written. Slots live in blocks of doubling size that never move.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::array;

use once_cell::race::OnceBox;
use rumpkern::{Errno, Result};
use rumpuser::sync::{Mutex, SpinLock};

use super::open_file::OpenFile;

type Slot = SpinLock<Option<Arc<OpenFile>>>;

/// Slots in the table itself.
const FIRST: usize = 64;
/// Blocks behind it: block `n` has the descriptors from `FIRST << n` on, as many again.
const BLOCKS: usize = 14;
/// No descriptor is as large as this (Linux's default for fs.nr_open).
pub const LIMIT: usize = FIRST << BLOCKS;

/// Which descriptors are taken, a bit each.
#[derive(Clone, Default)]
struct Numbers {
    taken: Vec<u64>,
    close_on_exec: Vec<u64>,
    /// All words before this one are full.
    full: usize,
}

impl Numbers {
    /// Takes the lowest free number from `from` on, below `limit`.
    fn take_lowest(&mut self, from: usize, limit: usize) -> Option<usize> {
        let mut word = (from / 64).max(self.full);
        let mut below = if word == from / 64 { (1u64 << (from % 64)) - 1 } else { 0 };
        loop {
            let taken = self.taken.get(word).copied().unwrap_or(0) | below;
            if taken != u64::MAX {
                let number = word * 64 + taken.trailing_ones() as usize;
                if number >= limit {
                    return None;
                }
                self.set(number);
                return Some(number);
            }
            if below == 0 && word == self.full {
                self.full += 1;
            }
            below = 0;
            word += 1;
        }
    }

    fn set(&mut self, number: usize) {
        let word = number / 64;
        if word >= self.taken.len() {
            self.taken.resize(word + 1, 0);
            self.close_on_exec.resize(word + 1, 0);
        }
        self.taken[word] |= 1 << (number % 64);
    }

    fn clear(&mut self, number: usize) {
        let word = number / 64;
        self.taken[word] &= !(1 << (number % 64));
        self.close_on_exec[word] &= !(1 << (number % 64));
        self.full = self.full.min(word);
    }

    fn is_taken(&self, number: usize) -> bool {
        self.taken.get(number / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    fn mark(&mut self, number: usize, close_on_exec: bool) {
        let Some(word) = self.close_on_exec.get_mut(number / 64) else { return };
        let bit = 1 << (number % 64);
        *word = if close_on_exec { *word | bit } else { *word & !bit };
    }

    fn marked(&self, number: usize) -> bool {
        self.close_on_exec.get(number / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// The numbers taken, from `first` to `last`.
    fn range(&self, first: usize, last: usize) -> Vec<usize> {
        let end = (self.taken.len() * 64).min(last.saturating_add(1));
        (first..end).filter(|&number| self.is_taken(number)).collect()
    }
}

/// See the module. Shared between tasks with CLONE_FILES.
pub struct DescriptorTable {
    first: [Slot; FIRST],
    blocks: [OnceBox<Box<[Slot]>>; BLOCKS],
    /// Held while descriptors come and go.
    numbers: Mutex<Numbers>,
}

fn slots(count: usize) -> Box<[Slot]> {
    (0..count).map(|_| SpinLock::new(None)).collect()
}

impl DescriptorTable {
    /// An empty table.
    pub fn new() -> Arc<Self> {
        Arc::new(DescriptorTable {
            first: array::from_fn(|_| SpinLock::new(None)),
            blocks: array::from_fn(|_| OnceBox::new()),
            numbers: Mutex::new(Numbers::default()),
        })
    }

    /// A copy for fork: the same open files, a table of its own.
    pub fn fork(&self) -> Arc<Self> {
        let copy = DescriptorTable::new();
        let numbers = self.numbers.lock();
        for number in (0..numbers.taken.len() * 64).filter(|&number| numbers.is_taken(number)) {
            let file = self.slot(number).and_then(|slot| slot.lock().clone());
            *copy.slot_or_new(number).lock() = file;
        }
        copy.numbers.lock().clone_from(&numbers);
        drop(numbers);
        copy
    }

    #[inline]
    fn slot(&self, number: usize) -> Option<&Slot> {
        if let Some(slot) = self.first.get(number) {
            return Some(slot);
        }
        let block = number.ilog2() as usize - FIRST.ilog2() as usize;
        self.blocks.get(block)?.get()?.get(number - (FIRST << block))
    }

    /// The slot of a number below [`LIMIT`].
    fn slot_or_new(&self, number: usize) -> &Slot {
        if let Some(slot) = self.first.get(number) {
            return slot;
        }
        let block = number.ilog2() as usize - FIRST.ilog2() as usize;
        let slots = self.blocks[block].get_or_init(|| Box::new(slots(FIRST << block)));
        &slots[number - (FIRST << block)]
    }

    /// The open file of a descriptor. EBADF if there is none.
    #[inline]
    pub fn get(&self, descriptor: i32) -> Result<Arc<OpenFile>> {
        let number = usize::try_from(descriptor).map_err(|_| Errno::EBADF)?;
        self.slot(number).and_then(|slot| slot.lock().clone()).ok_or(Errno::EBADF)
    }

    /// As [`DescriptorTable::get`], for calls that O_PATH descriptors don't allow.
    #[inline]
    pub fn get_io(&self, descriptor: i32) -> Result<Arc<OpenFile>> {
        let file = self.get(descriptor)?;
        if file.is_path() { Err(Errno::EBADF) } else { Ok(file) }
    }

    /// Gives an open file the lowest free descriptor from `from` on, below `limit` (RLIMIT_NOFILE). EMFILE if
    /// there is none.
    pub fn insert(&self, file: Arc<OpenFile>, from: usize, limit: u64, close_on_exec: bool) -> Result<i32> {
        let limit = usize::try_from(limit).unwrap_or(LIMIT).min(LIMIT);
        let mut numbers = self.numbers.lock();
        let number = numbers.take_lowest(from, limit).ok_or(Errno::EMFILE)?;
        numbers.mark(number, close_on_exec);
        *self.slot_or_new(number).lock() = Some(file);
        Ok(number as i32)
    }

    /// Makes `descriptor` (below `limit`) refer to an open file (dup2); returns what it referred to.
    pub fn replace(
        &self,
        descriptor: i32,
        file: Arc<OpenFile>,
        limit: u64,
        close_on_exec: bool,
    ) -> Result<Option<Arc<OpenFile>>> {
        let number = usize::try_from(descriptor).map_err(|_| Errno::EBADF)?;
        if number as u64 >= limit || number >= LIMIT {
            return Err(Errno::EBADF);
        }
        let mut numbers = self.numbers.lock();
        numbers.set(number);
        numbers.mark(number, close_on_exec);
        let old = self.slot_or_new(number).lock().replace(file);
        drop(numbers);
        Ok(old)
    }

    /// Frees a descriptor; returns its open file.
    pub fn remove(&self, descriptor: i32) -> Result<Arc<OpenFile>> {
        let number = usize::try_from(descriptor).map_err(|_| Errno::EBADF)?;
        let mut numbers = self.numbers.lock();
        if !numbers.is_taken(number) {
            return Err(Errno::EBADF);
        }
        numbers.clear(number);
        let file = self.slot(number).and_then(|slot| slot.lock().take());
        drop(numbers);
        file.ok_or(Errno::EBADF)
    }

    /// Whether execve closes the descriptor.
    pub fn close_on_exec_of(&self, descriptor: i32) -> Result<bool> {
        let number = usize::try_from(descriptor).map_err(|_| Errno::EBADF)?;
        let numbers = self.numbers.lock();
        if numbers.is_taken(number) { Ok(numbers.marked(number)) } else { Err(Errno::EBADF) }
    }

    /// Says whether execve closes the descriptor.
    pub fn set_close_on_exec(&self, descriptor: i32, close_on_exec: bool) -> Result<()> {
        let number = usize::try_from(descriptor).map_err(|_| Errno::EBADF)?;
        let mut numbers = self.numbers.lock();
        if !numbers.is_taken(number) {
            return Err(Errno::EBADF);
        }
        numbers.mark(number, close_on_exec);
        Ok(())
    }

    /// The descriptors in use, from `first` to `last`.
    pub fn descriptors(&self, first: usize, last: usize) -> Vec<i32> {
        self.numbers.lock().range(first, last).into_iter().map(|number| number as i32).collect()
    }

    /// Marks a range of descriptors for execve to close.
    pub fn mark_range(&self, first: usize, last: usize) {
        let mut numbers = self.numbers.lock();
        for number in numbers.range(first, last) {
            numbers.mark(number, true);
        }
    }

    /// How many descriptors the table has room for (FDSize in /proc/self/status).
    pub fn size(&self) -> usize {
        (self.numbers.lock().taken.len() * 64).max(FIRST)
    }

    fn remove_if(&self, first: usize, last: usize, which: impl Fn(&Numbers, usize) -> bool) {
        // A chunk at a time: when memory is short, a list of all there are would not fit.
        const CHUNK: usize = 256;
        let mut start = first;
        loop {
            let mut closed = Vec::new();
            let end = last.min(start.saturating_add(CHUNK - 1));
            let mut numbers = self.numbers.lock();
            for number in numbers.range(start, end) {
                if which(&numbers, number) {
                    numbers.clear(number);
                    closed.extend(self.slot(number).and_then(|slot| slot.lock().take()));
                }
            }
            let behind = numbers.taken.len() * 64;
            drop(numbers);
            for file in closed {
                self.closed(&file);
            }
            if end >= last || end >= behind {
                break;
            }
            start = end + 1;
        }
    }

    /// What every close does, besides dropping the reference: the process's record locks on the file go.
    pub fn closed(&self, file: &Arc<OpenFile>) {
        super::locks::release_record_locks(self, file);
    }

    /// Closes a range (close_range(2)).
    pub fn close_range(&self, first: usize, last: usize) {
        self.remove_if(first, last, |_, _| true);
    }

    /// Closes what execve closes.
    pub fn close_on_exec(&self) {
        self.remove_if(0, LIMIT, Numbers::marked);
    }

    /// Closes everything, when the last task that uses the table is gone.
    pub fn close_all(&self) {
        self.remove_if(0, LIMIT, |_, _| true);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use rumpdev::memory::Null;
    use rumpvfs::file::OpenFlags;

    use super::*;

    fn file() -> Arc<OpenFile> {
        OpenFile::new(Arc::new(Null), OpenFlags::READ_WRITE, None)
    }

    #[test]
    fn the_lowest_free_descriptor_is_given() {
        let table = DescriptorTable::new();
        for expected in 0..200 {
            assert_eq!(table.insert(file(), 0, 1024, false), Ok(expected));
        }
        for descriptor in [150, 7, 70] {
            table.remove(descriptor).unwrap();
        }
        assert_eq!(table.insert(file(), 0, 1024, false), Ok(7));
        assert_eq!(table.insert(file(), 100, 1024, false), Ok(150));
        assert_eq!(table.insert(file(), 0, 1024, false), Ok(70));
        assert_eq!(table.insert(file(), 0, 200, false), Err(Errno::EMFILE));
        assert_eq!(table.insert(file(), 1000, 1024, false), Ok(1000));
        assert_eq!(table.insert(file(), 0, 1024, false), Ok(200));
    }

    #[test]
    fn bad_descriptors_are_refused() {
        let table = DescriptorTable::new();
        for descriptor in [-1, 0, 63, 64, 5000, i32::MAX, i32::MIN] {
            assert_eq!(table.get(descriptor).err(), Some(Errno::EBADF));
            assert_eq!(table.remove(descriptor).err(), Some(Errno::EBADF));
            assert_eq!(table.set_close_on_exec(descriptor, true), Err(Errno::EBADF));
        }
        assert_eq!(table.replace(i32::MAX, file(), u64::MAX, false).err(), Some(Errno::EBADF));
        assert_eq!(table.replace(1024, file(), 1024, false).err(), Some(Errno::EBADF));
    }

    #[test]
    fn replacing_and_forking_share_open_files() {
        let table = DescriptorTable::new();
        let shared = file();
        assert!(table.replace(900, shared.clone(), 1024, true).unwrap().is_none());
        let copy = table.fork();
        assert!(Arc::ptr_eq(&copy.get(900).unwrap(), &shared));
        copy.close_on_exec();
        assert!(copy.get(900).is_err());
        assert!(table.get(900).is_ok());
        table.close_range(10, usize::MAX);
        assert_eq!(Arc::strong_count(&shared), 1);
        assert_eq!(table.descriptors(0, LIMIT), []);
    }
}
