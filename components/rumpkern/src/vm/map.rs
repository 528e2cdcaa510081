//! The sorted map of entries: splitting, merging, accounting, and the search for free addresses.

use alloc::collections::{BTreeMap, LinkedList};
use core::ops::Range;

use super::entry::{Entry, EntryFlags};

/// Left free below an entry that grows down (Linux: stack_guard_gap).
pub(super) const GUARD_GAP: usize = 1 << 20;

/// The lowest address that is ever mapped (Linux: vm.mmap_min_addr).
pub(super) const LOWEST: usize = 0x1_0000;

/// Entries taken out of a map. A list, as there may be many: where memory is short, it has no large blocks.
pub(super) type Taken = LinkedList<(usize, Entry)>;

/// The entries of a space.
pub(super) struct Map {
    entries: BTreeMap<usize, Entry>,
    /// Bytes mapped.
    pub total: usize,
    /// Bytes of private writable entries.
    pub data: usize,
    /// Bytes locked.
    pub locked: usize,
    /// Where the search for free addresses starts, downwards.
    ceiling: usize,
    /// No hole above here (and below the ceiling) is larger than `largest_hole`.
    search_from: usize,
    largest_hole: usize,
}

impl Map {
    pub fn new(ceiling: usize) -> Self {
        Map {
            entries: BTreeMap::new(),
            total: 0,
            data: 0,
            locked: 0,
            ceiling,
            search_from: ceiling,
            largest_hole: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.entries.iter().map(|(&start, entry)| (start, entry))
    }

    /// The entries that start at `from` or above.
    pub fn iter_from(&self, from: usize) -> impl Iterator<Item = (usize, &Entry)> {
        self.entries.range(from..).map(|(&start, entry)| (start, entry))
    }

    /// The entry that contains `address`.
    pub fn find(&self, address: usize) -> Option<(usize, &Entry)> {
        let (&start, entry) = self.entries.range(..=address).next_back()?;
        (address < entry.end).then_some((start, entry))
    }

    /// The first entry that starts above `address`.
    pub fn above(&self, address: usize) -> Option<(usize, &Entry)> {
        self.entries.range(address + 1..).next().map(|(&start, entry)| (start, entry))
    }

    /// The last entry that starts below `address`.
    pub fn below(&self, address: usize) -> Option<(usize, &Entry)> {
        self.entries.range(..address).next_back().map(|(&start, entry)| (start, entry))
    }

    /// The entries that have a part in `range`, in order.
    pub fn overlapping(&self, range: Range<usize>) -> impl Iterator<Item = (usize, &Entry)> {
        let from = self.find(range.start).map_or(range.start, |(start, _)| start);
        self.entries.range(from..range.end.max(from)).map(|(&start, entry)| (start, entry))
    }

    /// Whether nothing in `range` is mapped.
    pub fn is_free(&self, range: Range<usize>) -> bool {
        self.overlapping(range).next().is_none()
    }

    /// Whether all of `range` is mapped.
    pub fn covers(&self, range: Range<usize>) -> bool {
        let mut reached = range.start;
        for (start, entry) in self.overlapping(range.clone()) {
            if start > reached {
                return false;
            }
            reached = entry.end;
        }
        reached >= range.end
    }

    /// Whether one entry has all of `range` and more on both sides, so that it would become two or three.
    pub fn is_inside(&self, range: &Range<usize>) -> bool {
        self.find(range.start).is_some_and(|(start, entry)| start < range.start && range.end < entry.end)
    }

    /// Whether an entry border would have to be made at an end of `range`.
    pub fn is_cut(&self, range: &Range<usize>) -> bool {
        let inside = |address: usize| self.find(address).is_some_and(|(start, _)| start < address);
        inside(range.start) || inside(range.end)
    }

    fn account(&mut self, start: usize, entry: &Entry, add: bool) {
        let length = entry.end - start;
        let change = |counter: &mut usize| *counter = if add { *counter + length } else { *counter - length };
        change(&mut self.total);
        if entry.is_data() {
            change(&mut self.data);
        }
        if entry.flags.contains(EntryFlags::LOCKED) {
            change(&mut self.locked);
        }
    }

    /// Makes an entry border at `address`, if it lies inside an entry.
    fn split(&mut self, address: usize) {
        let Some((&start, entry)) = self.entries.range_mut(..address).next_back() else { return };
        if address < entry.end {
            let upper = entry.split(start, address);
            self.entries.insert(address, upper);
        }
    }

    /// Joins the entries that meet at `address`, if they are alike.
    fn join(&mut self, address: usize) {
        let Some(upper) = self.entries.get(&address) else { return };
        let Some((&start, lower)) = self.entries.range(..address).next_back() else { return };
        if lower.end == address
            && lower.continues_with(start, upper)
            && let Some(upper) = self.entries.remove(&address)
            && let Some(lower) = self.entries.get_mut(&start)
        {
            lower.absorb(upper);
        }
    }

    /// Adds an entry where nothing is mapped.
    pub fn insert(&mut self, start: usize, entry: Entry) {
        self.account(start, &entry, true);
        let end = entry.end;
        self.entries.insert(start, entry);
        self.join(end);
        self.join(start);
    }

    /// Takes everything in `range` out of the map.
    pub fn take(&mut self, range: Range<usize>) -> Taken {
        let mut taken = Taken::new();
        if self.is_free(range.clone()) {
            return taken;
        }
        self.split(range.start);
        self.split(range.end);
        while let Some((&start, _)) = self.entries.range(range.clone()).next() {
            if let Some(entry) = self.entries.remove(&start) {
                self.account(start, &entry, false);
                taken.push_back((start, entry));
            }
        }
        self.note_hole(&range);
        taken
    }

    /// Keeps the search's promise after `range` became free.
    fn note_hole(&mut self, range: &Range<usize>) {
        let end = self.above(range.end - 1).map_or(self.ceiling, |(start, _)| start).min(self.ceiling);
        if end <= self.search_from {
            return;
        }
        let start = self.below(range.start).map_or(0, |(_, entry)| entry.end);
        if start < self.search_from {
            self.search_from = end;
        } else {
            self.largest_hole = self.largest_hole.max(end.saturating_sub(start));
        }
    }

    /// Changes the entries in `range`, splitting at its borders.
    pub fn update(&mut self, range: Range<usize>, mut change: impl FnMut(usize, &mut Entry)) {
        self.split(range.start);
        self.split(range.end);
        let mut from = range.start;
        while let Some(start) = self.start_from(from, range.end) {
            from = start + 1;
            let Some(mut entry) = self.entries.remove(&start) else { continue };
            self.account(start, &entry, false);
            change(start, &mut entry);
            self.account(start, &entry, true);
            self.entries.insert(start, entry);
        }
        from = range.start;
        while let Some(start) = self.start_from(from, range.end) {
            from = start + 1;
            self.join(start);
        }
        self.join(range.end);
    }

    /// The first entry that starts in `from..end`.
    fn start_from(&self, from: usize, end: usize) -> Option<usize> {
        self.entries.range(from..end.max(from)).next().map(|(&start, _)| start)
    }

    /// Lets an entry that grows down begin at `start`.
    pub fn grow_down(&mut self, old_start: usize, start: usize) {
        if let Some(entry) = self.entries.remove(&old_start) {
            self.account(old_start, &entry, false);
            self.account(start, &entry, true);
            self.entries.insert(start, entry);
        }
    }

    /// The highest free range of `length` bytes below `below`, at a multiple of `alignment` plus `phase`.
    pub fn find_gap(
        &mut self,
        length: usize,
        alignment: usize,
        phase: usize,
        below: Option<usize>,
    ) -> Option<usize> {
        let top = below.map_or(self.ceiling, |below| below.min(self.ceiling));
        let ordinary = top == self.ceiling;
        let shortcut = ordinary && length > self.largest_hole && self.search_from < top;
        let mut end = if shortcut { self.search_from } else { top };
        let mut largest = if shortcut { self.largest_hole } else { 0 };
        // An entry that straddles the top takes the room below it.
        if let Some((start, entry)) = self.find(end.checked_sub(1)?) {
            end = end.min(free_end(start, entry));
        } else if let Some((start, entry)) = self.above(end - 1) {
            end = end.min(free_end(start, entry));
        }
        let mut found = None;
        for (&start, entry) in self.entries.range(..end).rev() {
            let floor = entry.end.max(LOWEST);
            if let Some(address) = place(floor, end, length, alignment, phase) {
                found = Some(address);
                break;
            }
            largest = largest.max(end.saturating_sub(entry.end));
            end = end.min(free_end(start, entry));
        }
        let address = found.or_else(|| place(LOWEST, end, length, alignment, phase))?;
        if ordinary {
            // What was skipped above `address`, and what alignment leaves free between it and `end`.
            self.largest_hole = largest.max(end - (address + length));
            self.search_from = address + length;
        }
        Some(address)
    }

    /// Where the search for free addresses starts.
    pub fn ceiling(&self) -> usize {
        self.ceiling
    }
}

/// Where the room below an entry ends.
fn free_end(start: usize, entry: &Entry) -> usize {
    if entry.flags.contains(EntryFlags::GROWS_DOWN) { start.saturating_sub(GUARD_GAP) } else { start }
}

fn place(floor: usize, end: usize, length: usize, alignment: usize, phase: usize) -> Option<usize> {
    let highest = end.checked_sub(length)?;
    let address = highest - (highest.wrapping_sub(phase) & (alignment - 1));
    (address >= floor && address <= highest).then_some(address)
}
