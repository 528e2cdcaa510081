//! Queues ordered by a key, for run queues (virtual runtime) and sleepers (deadline). Portable.
//!
//! Insertions happen in the scheduler, where nothing may fail: room is reserved when a thread is made.

use alloc::collections::VecDeque;

use rumpuser::OutOfMemory;

/// Elements in ascending order of (key, identifier).
pub struct Sorted<T> {
    elements: VecDeque<(u64, u64, T)>,
}

impl<T: Copy> Sorted<T> {
    /// Without elements.
    pub const fn new() -> Self {
        Sorted { elements: VecDeque::new() }
    }

    /// Makes room for `capacity` elements in all.
    pub fn reserve(&mut self, capacity: usize) -> Result<(), OutOfMemory> {
        let more = capacity.saturating_sub(self.elements.len());
        self.elements.try_reserve_exact(more).map_err(|_| OutOfMemory)
    }

    /// Adds an element behind those with a key that isn't greater.
    pub fn insert(&mut self, key: u64, identifier: u64, value: T) {
        // Most go to the end: a thread that used up its slice, a deadline in the future.
        let place = match self.elements.back() {
            Some(last) if last.0 > key => self.elements.partition_point(|element| element.0 <= key),
            _ => self.elements.len(),
        };
        self.elements.insert(place, (key, identifier, value));
    }

    /// The least key.
    pub fn first_key(&self) -> Option<u64> {
        self.elements.front().map(|element| element.0)
    }

    /// Takes the element with the least key.
    pub fn pop(&mut self) -> Option<T> {
        self.elements.pop_front().map(|element| element.2)
    }

    /// Takes the first element, in order, that `wanted` accepts.
    pub fn take(&mut self, mut wanted: impl FnMut(T) -> bool) -> Option<T> {
        let place = self.elements.iter().position(|element| wanted(element.2))?;
        self.elements.remove(place).map(|element| element.2)
    }

    /// Removes an element by key and identifier, if it is there.
    pub fn remove(&mut self, key: u64, identifier: u64) -> bool {
        let start = self.elements.partition_point(|element| element.0 < key);
        let place = (start..self.elements.len())
            .take_while(|&place| self.elements[place].0 == key)
            .find(|&place| self.elements[place].1 == identifier);
        place.is_some_and(|place| self.elements.remove(place).is_some())
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }
}

impl<T: Copy> Default for Sorted<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// The weight of nice 0.
pub const WEIGHT: u64 = 1024;

/// The weight of a nice value: each step is 5/4.
pub const fn weight(nice: i8) -> u64 {
    let mut weight = WEIGHT << 10;
    let mut step = nice;
    while step < 0 {
        weight = weight * 5 / 4;
        step += 1;
    }
    while step > 0 {
        weight = weight * 4 / 5;
        step -= 1;
    }
    weight >> 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_is_fair_among_equals() {
        let mut queue = Sorted::new();
        for (key, identifier) in [(5, 1), (3, 2), (5, 3), (1, 4), (4, 5)] {
            queue.insert(key, identifier, identifier);
        }
        assert_eq!(queue.first_key(), Some(1));
        assert!(queue.remove(3, 2));
        assert!(!queue.remove(3, 2));
        assert_eq!(queue.take(|identifier| identifier == 5), Some(5));
        assert_eq!(std::iter::from_fn(|| queue.pop()).collect::<Vec<_>>(), [4, 1, 3]);
    }

    #[test]
    fn weights_step_by_a_quarter() {
        assert_eq!(weight(0), 1024);
        assert_eq!(weight(-1), 1280);
        assert_eq!(weight(1), 819);
        assert!(weight(19) > 10 && weight(-20) < 100_000);
    }
}
