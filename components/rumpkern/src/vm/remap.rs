//! mremap(2): growing, shrinking and moving mappings.

use core::ops::Range;

use rumpuser::memory::{PAGE_SIZE, USER_END};

use super::{
    ENTRIES_MAX, Limit, Space,
    entry::{Backing, Entry, EntryFlags},
    map::{LOWEST, Map, Taken},
    space::{page_up, user_range},
};
use crate::{Errno, Result};

/// Where mremap may put the mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// It stays where it is.
    Same,
    /// It may move (MREMAP_MAYMOVE).
    Anywhere,
    /// It moves there, replacing what is mapped (MREMAP_FIXED).
    Fixed(usize),
}

impl Space {
    /// mremap(2). With `keep_old`, the old range stays mapped, empty (MREMAP_DONTUNMAP).
    pub fn remap(
        &self,
        old: usize,
        old_length: usize,
        new_length: usize,
        destination: Destination,
        keep_old: bool,
    ) -> Result<usize> {
        let new_length = page_up(new_length).filter(|&length| length > 0).ok_or(Errno::EINVAL)?;
        let range = user_range(old, old_length, Errno::EINVAL)?;
        if keep_old && (destination == Destination::Same || range.end - range.start != new_length) {
            return Err(Errno::EINVAL);
        }
        if let Destination::Fixed(address) = destination {
            let target = user_range(address, new_length, Errno::EINVAL)?;
            if target.start < range.end && range.start < target.end {
                return Err(Errno::EINVAL);
            }
            if target.start < LOWEST {
                return Err(Errno::EPERM);
            }
        }
        let mut contents = self.map.write();
        let mut removed = Taken::new();
        let result =
            self.remap_locked(&mut contents.map, range, new_length, destination, keep_old, &mut removed);
        drop(contents);
        drop(removed);
        let (address, populate) = result?;
        if populate {
            self.populate(address..address + new_length, false);
        }
        Ok(address)
    }

    /// remap_file_pages(2): shows the object's pages from `first` on at a part of a shared mapping of it.
    pub fn remap_object(&self, start: usize, length: usize, first: u64) -> Result<()> {
        let range = user_range(start & !(PAGE_SIZE - 1), length & !(PAGE_SIZE - 1), Errno::EINVAL)?;
        let pages = ((range.end - range.start) / PAGE_SIZE) as u64;
        if range.is_empty() || first.checked_add(pages).is_none() {
            return Err(Errno::EINVAL);
        }
        let mut contents = self.map.write();
        let (entry_start, entry) = contents.map.find(range.start).ok_or(Errno::EINVAL)?;
        if !entry.shared() || entry.end < range.end || entry.flags.contains(EntryFlags::SPECIAL) {
            return Err(Errno::EINVAL);
        }
        let mut part = part(entry, entry_start, range.start, range.end);
        if let Backing::Pager { first: shown, .. } = &mut part.backing {
            *shown = first;
        }
        let replaced = self.insert(&mut contents.map, range, part)?;
        drop(contents);
        drop(replaced);
        Ok(())
    }

    /// With the map held. Returns the address and whether to populate; what was taken out goes to `removed`.
    fn remap_locked(
        &self,
        map: &mut Map,
        range: Range<usize>,
        new_length: usize,
        destination: Destination,
        keep_old: bool,
        removed: &mut Taken,
    ) -> Result<(usize, bool)> {
        let old_length = range.end - range.start;
        let (start, model) =
            map.find(range.start).map(|(start, entry)| (start, entry.clone())).ok_or(Errno::EFAULT)?;
        let anonymous = matches!(model.backing, Backing::Anonymous);
        if old_length == 0 && !model.shared() || keep_old && !anonymous {
            return Err(Errno::EINVAL);
        }
        let fixed = matches!(destination, Destination::Fixed(_));
        if !fixed && !keep_old && old_length >= new_length {
            if old_length > new_length {
                let tail = range.start + new_length..range.end;
                removed.append(&mut map.take(tail.clone()));
                self.remove_pages(tail);
            }
            return Ok((range.start, false));
        }
        if model.end < range.end || model.flags.contains(EntryFlags::SPECIAL) {
            return Err(Errno::EFAULT);
        }
        let locked = model.flags.contains(EntryFlags::LOCKED);
        self.check_growth(map, &model, new_length, if keep_old { 0 } else { old_length })?;

        if !fixed && !keep_old && old_length > 0 && model.end == range.end {
            let end = range.start.checked_add(new_length).filter(|&end| end <= USER_END);
            if let Some(end) = end
                && map.is_free(range.end..end)
            {
                let piece = part(&model, start, range.end, end);
                map.insert(range.end, piece);
                self.note_total(map);
                return Ok((range.start, locked));
            }
        }

        let target = match destination {
            Destination::Same => return Err(Errno::ENOMEM),
            Destination::Anywhere => map.find_gap(new_length, PAGE_SIZE, 0, None).ok_or(Errno::ENOMEM)?,
            Destination::Fixed(target) => {
                let mut replaced = map.take(target..target + new_length);
                if !replaced.is_empty() {
                    self.remove_pages(target..target + new_length);
                }
                removed.append(&mut replaced);
                target
            }
        };
        if old_length > 0 {
            let moved = old_length.min(new_length);
            self.pmap.relocate(range.start..range.start + moved, target)?;
            if !keep_old {
                removed.append(&mut map.take(range.clone()));
                if moved < old_length {
                    self.remove_pages(range.start + moved..range.end);
                }
            }
        }
        map.insert(
            target,
            part(&model, start, range.start, range.start + new_length).moved_to(target, new_length),
        );
        self.note_total(map);
        Ok((target, locked))
    }

    /// Whether the limits allow `new_length` bytes in place of `old_length`.
    fn check_growth(&self, map: &Map, model: &Entry, new_length: usize, old_length: usize) -> Result<()> {
        let growth = new_length.saturating_sub(old_length);
        if let Backing::Pager { first, .. } = &model.backing
            && first.checked_add(((model.end + new_length) / PAGE_SIZE) as u64).is_none()
        {
            return Err(Errno::EINVAL);
        }
        if model.flags.contains(EntryFlags::LOCKED)
            && map.locked.saturating_add(growth) > self.limit(Limit::Locked)
        {
            return Err(Errno::EAGAIN);
        }
        if map.total.saturating_add(growth) > self.limit(Limit::AddressSpace)
            || model.is_data() && map.data.saturating_add(growth) > self.limit(Limit::Data)
            || map.len() + 3 > ENTRIES_MAX
        {
            return Err(Errno::ENOMEM);
        }
        self.check_overcommit(growth, model.flags, model.protection)
    }
}

/// An entry for `from..end` that continues `model`, which starts at `start`; it may reach behind its end.
fn part(model: &Entry, start: usize, from: usize, end: usize) -> Entry {
    let mut part = model.clone().split(start, from);
    part.end = end;
    part
}

impl Entry {
    /// The entry at another place.
    fn moved_to(mut self, start: usize, length: usize) -> Entry {
        self.end = start + length;
        self.cursor = Default::default();
        self
    }
}
