//! The boot loader's memory map, put in order. Portable.

use core::ops::Range;

/// The most regions kept.
pub const LIMIT: usize = 96;

/// Usable memory: sorted, disjoint, page-aligned regions.
#[derive(Clone)]
pub struct Map {
    regions: [(u64, u64); LIMIT],
    count: usize,
}

impl Map {
    /// Without memory.
    pub const fn new() -> Self {
        Map { regions: [(0, 0); LIMIT], count: 0 }
    }

    /// Adds usable memory; partial pages and what lies beyond `highest` are left out.
    pub fn add(&mut self, start: u64, length: u64, highest: u64) {
        let end = (start.saturating_add(length) & !4095).min(highest);
        let start = start.min(highest).next_multiple_of(4096);
        if start < end {
            // What is there already stays once.
            self.remove(start..end);
            self.insert(start, end);
        }
    }

    fn insert(&mut self, start: u64, end: u64) {
        if self.count == LIMIT {
            return;
        }
        let place = self.regions[..self.count].partition_point(|region| region.0 < start);
        self.regions.copy_within(place..self.count, place + 1);
        self.regions[place] = (start, end);
        self.count += 1;
    }

    /// Takes a range out; partial pages of it go whole.
    pub fn remove(&mut self, range: Range<u64>) {
        let (start, end) = (range.start & !4095, range.end.next_multiple_of(4096));
        let mut index = 0;
        while index < self.count {
            let region = self.regions[index];
            if region.1 <= start || region.0 >= end {
                index += 1;
                continue;
            }
            self.regions.copy_within(index + 1..self.count, index);
            self.count -= 1;
            if region.0 < start {
                self.insert(region.0, start);
                index += 1;
            }
            if region.1 > end {
                self.insert(end, region.1);
                index += 1;
            }
        }
    }

    /// The regions in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.regions[..self.count].iter().map(|region| region.0..region.1)
    }

    /// Takes `length` bytes (whole pages) from the start of the largest region below `limit`.
    pub fn take(&mut self, length: u64, limit: u64) -> Option<u64> {
        let length = length.next_multiple_of(4096);
        let start = self
            .iter()
            .map(|region| region.start..region.end.min(limit))
            .filter(|region| region.end > region.start && region.end - region.start >= length)
            .max_by_key(|region| region.end - region.start)?
            .start;
        self.remove(start..start + length);
        Some(start)
    }

    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.iter().map(|region| region.end - region.start).sum()
    }

    /// The end of the highest region.
    pub fn end(&self) -> u64 {
        self.iter().last().map_or(0, |region| region.end)
    }
}

impl Default for Map {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = 1 << 39;

    fn regions(map: &Map) -> Vec<(u64, u64)> {
        map.iter().map(|region| (region.start, region.end)).collect()
    }

    #[test]
    fn sorts_aligns_and_cuts() {
        let mut map = Map::new();
        map.add(0x10_0000, 0x10_0000, ALL);
        map.add(0x1001, 0x2fff, ALL);
        map.add(0x18_0000, 0x10_0000, ALL);
        assert_eq!(regions(&map), [(0x2000, 0x4000), (0x10_0000, 0x18_0000), (0x18_0000, 0x28_0000)]);
        map.remove(0x11_0001..0x11_0002);
        map.remove(0..0x3000);
        assert_eq!(
            regions(&map),
            [(0x3000, 0x4000), (0x10_0000, 0x11_0000), (0x11_1000, 0x18_0000), (0x18_0000, 0x28_0000)]
        );
        assert_eq!(map.take(0x2000, u64::MAX), Some(0x18_0000));
        assert_eq!(map.take(0x20000, 0x10_1000), None);
        assert_eq!(map.total(), 0x1000 + 0x1_0000 + 0x6_f000 + 0xf_e000);
    }

    #[test]
    fn survives_a_lying_map() {
        let mut map = Map::new();
        map.add(u64::MAX - 10, 100, ALL);
        map.add(0x1000, u64::MAX, ALL);
        for index in 0..2 * LIMIT as u64 {
            map.remove(0x10_0000 * (index + 1)..0x10_0000 * (index + 1) + 1);
        }
        assert!(map.iter().all(|region| region.start < region.end && region.end <= ALL));
    }
}
