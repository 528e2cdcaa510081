//! User address spaces as the components see them: `rumpuser`'s [`Pmap`](rumpuser::Pmap) over [`AddressSpace`].

use alloc::sync::Arc;
use core::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use rumpuser::{
    Frame, OutOfMemory, Protection,
    memory::{LARGE_PAGE_SIZE, PAGE_SIZE, USER_END},
    sync::SpinGuard,
};

use super::{
    frames,
    layout::{Table, entry, index},
    shootdown,
    space::{
        AddressSpace, ENTRIES, Spares, allocate_table, check, flags, frame, free_table, next, part,
        protection, release_large,
    },
};

/// An address space as components hold it: when the last of them lets go, everything is unmapped, although an
/// idle CPU may have the tables loaded still.
pub struct KernelPmap(Arc<AddressSpace>);

impl KernelPmap {
    /// A new, empty address space.
    pub fn create() -> Result<Arc<Self>, OutOfMemory> {
        Ok(Arc::new(KernelPmap(AddressSpace::new()?)))
    }

    /// The hardware side.
    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.0
    }

    fn lock(&self) -> SpinGuard<'_, Spares> {
        self.0.tables.lock()
    }

    /// Both locks, in address order.
    fn lock_both<'a>(&'a self, other: &'a KernelPmap) -> (SpinGuard<'a, Spares>, SpinGuard<'a, Spares>) {
        if Arc::as_ptr(&self.0) < Arc::as_ptr(&other.0) {
            let mine = self.lock();
            (mine, other.lock())
        } else {
            let others = other.lock();
            (self.lock(), others)
        }
    }
}

impl Drop for KernelPmap {
    fn drop(&mut self) {
        self.0.unmap(0..USER_END);
    }
}

impl rumpuser::Pmap for KernelPmap {
    fn enter(&self, address: usize, new: Frame, protection: Protection) -> Result<(), OutOfMemory> {
        check(&(address..address + PAGE_SIZE));
        let mut spares = self.lock();
        let slot = match self.0.make(&mut spares, address, 0) {
            Ok(slot) => slot,
            Err(error) => {
                drop(spares);
                frames::release(new);
                return Err(error);
            }
        };
        let old = slot.swap(new.physical() | flags(protection), Ordering::SeqCst);
        if old == 0 {
            self.0.resident.fetch_add(1, Ordering::Relaxed);
        } else {
            if old & entry::PRESENT != 0 {
                shootdown::flush(&self.0.active, address, 1);
            }
            drop(spares);
            frames::release(frame(old));
        }
        Ok(())
    }

    fn enter_large(&self, address: usize, new: Frame, protection: Protection) -> Result<(), OutOfMemory> {
        check(&(address..address + LARGE_PAGE_SIZE));
        assert!(address.is_multiple_of(LARGE_PAGE_SIZE) && new.0.is_multiple_of(ENTRIES as u64));
        let spare = allocate_table().inspect_err(|_| release_large(new.physical()))?;
        loop {
            self.0.unmap(address..address + LARGE_PAGE_SIZE);
            let mut spares = self.lock();
            let slot = match self.0.make(&mut spares, address, 1) {
                Ok(slot) => slot,
                Err(error) => {
                    drop(spares);
                    free_table(spare);
                    release_large(new.physical());
                    return Err(error);
                }
            };
            // Another thread may have mapped something since.
            if slot.load(Ordering::Relaxed) == 0 {
                spares.put(spare);
                slot.store(new.physical() | flags(protection) | entry::LARGE, Ordering::SeqCst);
                self.0.resident.fetch_add(ENTRIES, Ordering::Relaxed);
                return Ok(());
            }
        }
    }

    fn enter_absent(&self, address: usize, run: &[Frame], protection: Protection) -> Result<(), OutOfMemory> {
        check(&(address..address + run.len() * PAGE_SIZE));
        let mut spares = self.lock();
        let mut result = Ok(());
        let mut small = None;
        for (page, &new) in run.iter().enumerate() {
            let address = address + page * PAGE_SIZE;
            if small.is_none() || index(address, 0) == 0 {
                let mapped = self.0.find(address, 1).map_or(0, |slot| slot.load(Ordering::Relaxed));
                small = None;
                if mapped & entry::LARGE == 0 && result.is_ok() {
                    match self.0.make_table(&mut spares, address, 0) {
                        Ok(table) => small = Some(table),
                        Err(error) => result = Err(error),
                    }
                }
            }
            match small.map(|small| &small[index(address, 0)]) {
                Some(slot) if result.is_ok() && slot.load(Ordering::Relaxed) == 0 => {
                    slot.store(new.physical() | flags(protection), Ordering::Release);
                    self.0.resident.fetch_add(1, Ordering::Relaxed);
                }
                _ => frames::release(new),
            }
        }
        result
    }

    fn query(&self, address: usize) -> Option<(Frame, Protection)> {
        if address >= USER_END {
            return None;
        }
        let _guard = self.lock();
        if let Some(slot) = self.0.find(address, 0) {
            let value = slot.load(Ordering::Relaxed);
            return (value != 0).then(|| (frame(value), protection(value)));
        }
        let value = self.0.find(address, 1)?.load(Ordering::Relaxed);
        (value & entry::LARGE != 0).then(|| (part(value, address), protection(value)))
    }

    fn remove(&self, range: Range<usize>) {
        check(&range);
        self.0.unmap(range);
    }

    fn protect(&self, range: Range<usize>, protection: Protection) {
        check(&range);
        let mut spares = self.lock();
        let mut flush = false;
        self.0.leaves(&mut spares, range.clone(), &mut |_, _, slot, level| {
            let old = slot.load(Ordering::Relaxed);
            let large = if level > 0 { entry::LARGE } else { 0 };
            let new = old & entry::ADDRESS | flags(protection) | large;
            if new != old {
                slot.store(new, Ordering::SeqCst);
                flush |= old & entry::PRESENT != 0;
            }
        });
        if flush {
            shootdown::flush(&self.0.active, range.start, (range.end - range.start) / PAGE_SIZE);
        }
    }

    fn share_copy_on_write(
        &self,
        destination: &dyn rumpuser::Pmap,
        range: Range<usize>,
    ) -> Result<(), OutOfMemory> {
        check(&range);
        let Some(destination) = destination.as_any().downcast_ref::<KernelPmap>() else {
            return Err(OutOfMemory);
        };
        let (mut mine, mut theirs) = self.lock_both(destination);
        let mut result = Ok(());
        let mut changed = false;
        // The destination's table that the last page went to, and its part of the address space.
        let mut last: (usize, Option<&Table>) = (0, None);
        self.0.leaves(&mut mine, range.clone(), &mut |_, address, slot, level| {
            if result.is_err() {
                return;
            }
            let old = slot.load(Ordering::Relaxed);
            let part = address / LARGE_PAGE_SIZE;
            let target = match last {
                (number, Some(table)) if number == part && level == 0 => Ok(table),
                _ => destination.0.make_table(&mut theirs, address, level),
            };
            result = target.and_then(|table| {
                last = (part, (level == 0).then_some(table));
                let slot = &table[index(address, level)];
                share(&destination.0, &mut theirs, slot, old & !entry::WRITE, level)
            });
            if result.is_ok() && old & entry::WRITE != 0 {
                slot.store(old & !entry::WRITE, Ordering::Relaxed);
                changed = true;
            }
        });
        if changed {
            core::sync::atomic::fence(Ordering::SeqCst);
            shootdown::flush(&self.0.active, range.start, (range.end - range.start) / PAGE_SIZE);
        }
        result
    }

    fn relocate(&self, range: Range<usize>, destination: usize) -> Result<(), OutOfMemory> {
        check(&range);
        check(&(destination..destination + (range.end - range.start)));
        let mut spares = self.lock();
        let aligned = (range.start ^ destination).is_multiple_of(LARGE_PAGE_SIZE);
        // First everything that may fail: the tables at the destination, and splits.
        let mut result = Ok(());
        self.0.leaves(&mut spares, range.clone(), &mut |spares, address, slot, level| {
            if level == 1 && !aligned {
                self.0.split(spares, slot, address);
                for page in (address..address + LARGE_PAGE_SIZE).step_by(PAGE_SIZE) {
                    result = result
                        .and_then(|()| self.0.make(spares, destination + (page - range.start), 0).map(drop));
                }
            } else if result.is_ok() {
                result = self.0.make(spares, destination + (address - range.start), level).map(drop);
            }
        });
        result?;
        self.0.leaves(&mut spares, range.clone(), &mut |spares, address, slot, level| {
            let value = slot.swap(0, Ordering::SeqCst);
            if let Ok(new) = self.0.make(spares, destination + (address - range.start), level) {
                let old = new.swap(value, Ordering::SeqCst);
                if level == 1 && old & entry::PRESENT != 0 {
                    // An empty table stood there; the CPUs may know it still.
                    shootdown::flush(&self.0.active, 0, usize::MAX >> 1);
                    free_table(old);
                }
            }
        });
        shootdown::flush(&self.0.active, range.start, (range.end - range.start) / PAGE_SIZE);
        Ok(())
    }

    fn for_each(&self, range: Range<usize>, visit: &mut dyn FnMut(usize, Frame, Protection)) {
        let mut spares = self.lock();
        let mut start = range.start;
        // Large pages are visited by their parts; they are not split for that.
        while start < range.end {
            let end = next(start, LARGE_PAGE_SIZE, range.end);
            match self.0.find(start, 1).map(|slot| slot.load(Ordering::Relaxed)) {
                None | Some(0) => {
                    let level = if self.0.find(start, 2).is_none_or(|slot| slot.load(Ordering::Relaxed) == 0)
                    {
                        2
                    } else {
                        1
                    };
                    start = next(start, PAGE_SIZE << (9 * level), range.end);
                    continue;
                }
                Some(value) if value & entry::LARGE != 0 => (start..end)
                    .step_by(PAGE_SIZE)
                    .for_each(|address| visit(address, part(value, address), protection(value))),
                Some(_) => self.0.leaves(&mut spares, start..end, &mut |_, address, slot, _| {
                    let value = slot.load(Ordering::Relaxed);
                    visit(address, frame(value), protection(value));
                }),
            }
            start = end;
        }
    }

    fn resident(&self) -> usize {
        self.0.resident.load(Ordering::Relaxed)
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}

/// Maps in `slot` of `space` what another maps by `value`, with references of its own. What was mapped there stays.
fn share(
    space: &AddressSpace,
    spares: &mut Spares,
    slot: &AtomicU64,
    value: u64,
    level: usize,
) -> Result<(), OutOfMemory> {
    if slot.load(Ordering::Relaxed) != 0 {
        return Ok(());
    }
    let pages = if level == 0 { 1 } else { ENTRIES };
    if level == 1 {
        spares.put(allocate_table()?);
    }
    (0..pages as u64).for_each(|number| frames::retain(Frame(frame(value).0 + number)));
    slot.store(value, Ordering::SeqCst);
    space.resident.fetch_add(pages, Ordering::Relaxed);
    Ok(())
}
