//! How long a round trip takes, and when to give up waiting (RFC 6298).

/// Nanoseconds in a millisecond.
pub const MILLISECOND: u64 = 1_000_000;
/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// The shortest retransmission timeout, as Linux has it.
pub const MINIMUM_TIMEOUT: u64 = 200 * MILLISECOND;
/// The longest.
pub const MAXIMUM_TIMEOUT: u64 = 120 * SECOND;
/// Before the first measurement.
pub const INITIAL_TIMEOUT: u64 = SECOND;

/// Round-trip times in microseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Estimator {
    /// Smoothed, times 8; 0 before the first measurement.
    smoothed: u32,
    /// Mean deviation, times 4.
    deviation: u32,
    /// The least that was seen lately.
    minimum: u32,
    /// How often the timeout was doubled.
    pub backoff: u8,
}

impl Estimator {
    /// Takes a measurement, in microseconds.
    pub fn sample(&mut self, time: u32) {
        let time = time.clamp(1, 60_000_000);
        if self.smoothed == 0 {
            self.smoothed = time * 8;
            self.deviation = time * 2;
            self.minimum = time;
        } else {
            let difference = (self.smoothed / 8).abs_diff(time);
            self.deviation = self.deviation - self.deviation / 4 + difference;
            self.smoothed = self.smoothed - self.smoothed / 8 + time;
            // Follows a longer path in the end.
            self.minimum = time.min(self.minimum + self.minimum / 256 + 1);
        }
    }

    /// The smoothed round-trip time in microseconds, if known.
    pub fn round_trip(&self) -> Option<u32> {
        (self.smoothed > 0).then_some(self.smoothed / 8)
    }

    /// The mean deviation in microseconds.
    pub fn deviation(&self) -> u32 {
        self.deviation / 4
    }

    /// The least round-trip time in microseconds, 0 if unknown.
    pub fn minimum(&self) -> u32 {
        self.minimum
    }

    /// The retransmission timeout in nanoseconds.
    pub fn timeout(&self) -> u64 {
        let base = match self.round_trip() {
            Some(time) => u64::from(time) * 1000 + (u64::from(self.deviation) * 1000).max(MINIMUM_TIMEOUT),
            None => INITIAL_TIMEOUT,
        };
        (base << self.backoff.min(16)).min(MAXIMUM_TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_follows_the_path_and_doubles() {
        let mut estimator = Estimator::default();
        assert_eq!(estimator.timeout(), SECOND);
        estimator.sample(100_000);
        assert_eq!(estimator.timeout(), 300 * MILLISECOND);
        (0..100).for_each(|_| estimator.sample(50_000));
        assert!((45_000..55_000).contains(&estimator.round_trip().unwrap()));
        assert_eq!(estimator.timeout() / MILLISECOND, 250);
        estimator.backoff = 2;
        assert_eq!(estimator.timeout() / MILLISECOND, 1000);
        estimator.backoff = 200;
        assert_eq!(estimator.timeout(), MAXIMUM_TIMEOUT);
        estimator.backoff = 0;
        estimator.sample(u32::MAX);
        assert!(estimator.timeout() <= MAXIMUM_TIMEOUT);
    }
}
