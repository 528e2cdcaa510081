//! Address space that is taken without memory behind it: mappings that may not be accessed, until they may.

use alloc::{collections::BTreeMap, vec::Vec};
use core::ops::Range;

/// Ranges that don't overlap, by where they start.
pub(super) struct Reserved(BTreeMap<usize, usize>);

impl Reserved {
    /// Nothing.
    pub const fn new() -> Self {
        Reserved(BTreeMap::new())
    }

    /// Adds a range, which overlaps none.
    pub fn add(&mut self, range: Range<usize>) {
        if !range.is_empty() {
            self.0.insert(range.start, range.end);
        }
    }

    /// The last of the ranges that overlap with this one.
    pub fn overlapping(&self, range: &Range<usize>) -> Option<Range<usize>> {
        let (&start, &end) = self.0.range(..range.end).next_back()?;
        (end > range.start).then_some(start..end)
    }

    /// Takes a range out; returns the parts of it that were reserved.
    pub fn remove(&mut self, range: &Range<usize>) -> Vec<Range<usize>> {
        let mut removed = Vec::new();
        while let Some(found) = self.overlapping(range) {
            self.0.remove(&found.start);
            self.add(found.start..range.start);
            self.add(range.end..found.end);
            removed.push(found.start.max(range.start)..found.end.min(range.end));
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn ranges_are_cut() {
        let mut reserved = Reserved::new();
        reserved.add(10..20);
        reserved.add(30..40);
        assert_eq!(reserved.overlapping(&(0..10)), None);
        assert_eq!(reserved.overlapping(&(19..35)), Some(30..40));
        assert_eq!(reserved.overlapping(&(20..30)), None);
        assert_eq!(reserved.remove(&(15..32)), vec![30..32, 15..20]);
        assert_eq!(reserved.remove(&(33..35)), vec![33..35]);
        assert_eq!(reserved.remove(&(0..100)), vec![35..40, 32..33, 10..15]);
        assert_eq!(reserved.overlapping(&(0..100)), None);
    }
}
