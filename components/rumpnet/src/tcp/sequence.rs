//! Sequence numbers (RFC 9293, section 3.4): 32 bits that wrap, compared by their distance.

use core::ops::{Add, AddAssign, Sub};

/// A place in the sequence space of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sequence(pub u32);

impl Sequence {
    /// Whether it comes before `other`.
    #[inline]
    pub fn is_before(self, other: Sequence) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// Whether it comes after `other`.
    #[inline]
    pub fn is_after(self, other: Sequence) -> bool {
        other.is_before(self)
    }

    /// The later one.
    #[inline]
    pub fn later(self, other: Sequence) -> Sequence {
        if self.is_before(other) { other } else { self }
    }

    /// The earlier one.
    #[inline]
    pub fn earlier(self, other: Sequence) -> Sequence {
        if self.is_after(other) { other } else { self }
    }
}

impl Add<u32> for Sequence {
    type Output = Sequence;

    #[inline]
    fn add(self, count: u32) -> Sequence {
        Sequence(self.0.wrapping_add(count))
    }
}

impl AddAssign<u32> for Sequence {
    #[inline]
    fn add_assign(&mut self, count: u32) {
        self.0 = self.0.wrapping_add(count);
    }
}

impl Sub<u32> for Sequence {
    type Output = Sequence;

    #[inline]
    fn sub(self, count: u32) -> Sequence {
        Sequence(self.0.wrapping_sub(count))
    }
}

/// How far it is from `other`, which must not come later.
impl Sub for Sequence {
    type Output = u32;

    #[inline]
    fn sub(self, other: Sequence) -> u32 {
        self.0.wrapping_sub(other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        let (low, high) = (Sequence(u32::MAX - 5), Sequence(10));
        assert!(low.is_before(high) && high.is_after(low) && !low.is_before(low));
        assert_eq!((low.later(high), low.earlier(high)), (high, low));
        assert_eq!((high - low, low + 16, high - 16u32), (16, high, low));
    }
}
