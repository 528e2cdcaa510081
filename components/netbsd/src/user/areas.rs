//! Address space that is taken and may lack memory behind it: anonymous mappings, whose pages come when they are first used,
//! if they may be accessed at all.

use alloc::{collections::BTreeMap, vec::Vec};
use core::ops::Range;

use rumpuser::Protection;

/// Ranges that don't overlap, by where they start: where they end, and how they may be accessed.
pub(super) struct Areas(BTreeMap<usize, (usize, Protection)>);

impl Areas {
    /// Nothing.
    pub const fn new() -> Self {
        Areas(BTreeMap::new())
    }

    /// Adds a range, which overlaps none. Neighbours with the same protection become one.
    pub fn add(&mut self, mut range: Range<usize>, protection: Protection) {
        if range.is_empty() {
            return;
        }
        if let Some((&start, &(end, other))) = self.0.range(..range.start).next_back()
            && (end, other) == (range.start, protection)
        {
            range.start = start;
        }
        if let Some(&(end, other)) = self.0.get(&range.end)
            && other == protection
        {
            self.0.remove(&range.end);
            range.end = end;
        }
        self.0.insert(range.start, (range.end, protection));
    }

    /// The last of the ranges that overlap with this one.
    pub fn overlapping(&self, range: &Range<usize>) -> Option<(Range<usize>, Protection)> {
        let (&start, &(end, protection)) = self.0.range(..range.end).next_back()?;
        (end > range.start).then_some((start..end, protection))
    }

    /// The parts of a range that are taken, from its end to its start.
    pub fn within(&self, range: &Range<usize>) -> impl Iterator<Item = (Range<usize>, Protection)> {
        let (start, end) = (range.start, range.end);
        let overlap = self.0.range(..end).rev().take_while(move |(_, (last, _))| *last > start);
        overlap.map(move |(&from, &(to, protection))| (from.max(start)..to.min(end), protection))
    }

    /// Takes a range out; returns the parts of it that were taken.
    pub fn remove(&mut self, range: &Range<usize>) -> Vec<Range<usize>> {
        let mut removed = Vec::new();
        while let Some((found, protection)) = self.overlapping(range) {
            self.0.remove(&found.start);
            self.add(found.start..range.start, protection);
            self.add(range.end..found.end, protection);
            removed.push(found.start.max(range.start)..found.end.min(range.end));
        }
        removed
    }

    /// Changes how the parts of a range that are taken may be accessed.
    pub fn protect(&mut self, range: &Range<usize>, protection: Protection) {
        for part in self.remove(range) {
            self.add(part, protection);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const READ: Protection = Protection::READ;
    const NONE: Protection = Protection::empty();

    #[test]
    fn ranges_are_cut() {
        let mut areas = Areas::new();
        areas.add(10..20, NONE);
        areas.add(30..40, READ);
        assert_eq!(areas.overlapping(&(0..10)), None);
        assert_eq!(areas.overlapping(&(19..35)), Some((30..40, READ)));
        assert_eq!(areas.overlapping(&(20..30)), None);
        assert_eq!(areas.within(&(15..35)).collect::<Vec<_>>(), vec![(30..35, READ), (15..20, NONE)]);
        assert_eq!(areas.remove(&(15..32)), vec![30..32, 15..20]);
        assert_eq!(areas.remove(&(33..35)), vec![33..35]);
        assert_eq!(areas.remove(&(0..100)), vec![35..40, 32..33, 10..15]);
        assert_eq!(areas.overlapping(&(0..100)), None);
    }

    #[test]
    fn neighbours_become_one() {
        let mut areas = Areas::new();
        areas.add(10..20, NONE);
        areas.add(30..40, NONE);
        areas.add(20..30, NONE);
        assert_eq!(areas.overlapping(&(0..100)), Some((10..40, NONE)));
        areas.protect(&(15..20), READ);
        assert_eq!(
            areas.within(&(0..100)).collect::<Vec<_>>(),
            vec![(20..40, NONE), (15..20, READ), (10..15, NONE)]
        );
        areas.protect(&(0..100), READ);
        assert_eq!(areas.overlapping(&(0..100)), Some((10..40, READ)));
    }
}
