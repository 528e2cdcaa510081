//! How much may be on its way: Reno (RFC 5681) and CUBIC (RFC 9438), with appropriate byte counting.

use super::estimator::MILLISECOND;

/// The algorithms, by the names that TCP_CONGESTION uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// `cubic`.
    #[default]
    Cubic,
    /// `reno`.
    Reno,
}

impl Algorithm {
    /// By its name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        match name {
            b"cubic" => Some(Algorithm::Cubic),
            b"reno" => Some(Algorithm::Reno),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Cubic => "cubic",
            Algorithm::Reno => "reno",
        }
    }
}

/// The most that a window grows to, in bytes.
const LIMIT: u32 = 64 << 20;

/// Windows are in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Congestion {
    /// The congestion window.
    pub window: u32,
    /// Below it the window grows with every acknowledged byte.
    pub threshold: u32,
    /// Which algorithm it is.
    pub algorithm: Algorithm,
    /// Bytes that count towards the next step.
    credit: u32,
    /// CUBIC: the window before it was last reduced.
    largest: u32,
    /// CUBIC: when growth began again, nanoseconds; 0 before.
    epoch: u64,
    /// CUBIC: milliseconds from the epoch to the plateau.
    plateau: u32,
    /// CUBIC: what Reno would have by now.
    friendly: u32,
}

/// The cube root, rounded down.
fn cube_root(value: u64) -> u64 {
    let mut root = 0_u64;
    for bit in (0..=21).rev() {
        let next = root | 1 << bit;
        if next * next * next <= value {
            root = next;
        }
    }
    root
}

impl Congestion {
    /// A fresh connection (RFC 6928: ten segments).
    pub fn new(algorithm: Algorithm, segment: u32) -> Self {
        Congestion {
            window: initial(segment),
            threshold: u32::MAX,
            algorithm,
            credit: 0,
            largest: 0,
            epoch: 0,
            plateau: 0,
            friendly: 0,
        }
    }

    /// Whether the window grows exponentially.
    pub fn slow_start(&self) -> bool {
        self.window < self.threshold
    }

    /// `bytes` were acknowledged while the window was full. `round_trip` in microseconds.
    pub fn acknowledged(&mut self, now: u64, bytes: u32, segment: u32, round_trip: u32) {
        let mut bytes = bytes;
        if self.slow_start() {
            let step = bytes.min(self.threshold - self.window);
            self.window = (self.window + step).min(LIMIT);
            bytes -= step;
            if bytes == 0 || self.slow_start() {
                return;
            }
        }
        match self.algorithm {
            Algorithm::Reno => self.add(bytes, self.window, segment),
            Algorithm::Cubic => self.cubic(now, bytes, segment, round_trip),
        }
    }

    /// Grows by a segment for every `per` bytes.
    fn add(&mut self, bytes: u32, per: u32, segment: u32) {
        self.credit = self.credit.saturating_add(bytes);
        let per = per.max(1);
        if self.credit >= per {
            let steps = self.credit / per;
            self.credit -= steps * per;
            self.window = self.window.saturating_add(steps.saturating_mul(segment)).min(LIMIT);
        }
    }

    fn cubic(&mut self, now: u64, bytes: u32, segment: u32, round_trip: u32) {
        let segment = segment.max(1);
        if self.epoch == 0 {
            self.epoch = now.max(1);
            self.friendly = self.window;
            let distance = self.largest.saturating_sub(self.window) / segment;
            if distance == 0 {
                self.largest = self.window;
            }
            // K = cbrt(distance / 0.4) seconds.
            self.plateau = cube_root(u64::from(distance) * 2_500_000_000) as u32;
        }
        // The window that the curve has one round trip from now: 0.4 (t - K)^3 + largest.
        let time = now.saturating_sub(self.epoch) / MILLISECOND + u64::from(round_trip) / 1000;
        let time = time.min(1 << 16) as i64 - i64::from(self.plateau.min(1 << 16));
        let offset = time.pow(3) / 1_000_000 * i64::from(segment) * 4 / 10_000;
        let target = (i64::from(self.largest) + offset).clamp(0, i64::from(LIMIT)) as u32;
        let target = target.min(self.window.saturating_add(self.window / 2));
        // Reno's growth, with the factor that makes up for the smaller reduction: 3 (1 - 0.7) / (1 + 0.7).
        let growth = u64::from(bytes) * u64::from(segment) * 9 / 17 / u64::from(self.window.max(1));
        self.friendly = self.friendly.saturating_add(growth.min(u64::from(LIMIT)) as u32);
        let target = target.max(self.friendly);
        if target > self.window {
            let per = u64::from(self.window) * u64::from(segment) / u64::from(target - self.window);
            self.add(bytes, per.clamp(1, u64::from(u32::MAX)) as u32, segment);
        } else {
            self.add(bytes, self.window.saturating_mul(100), segment);
        }
    }

    /// Congestion: sets the threshold to what should be on its way from now on. `flight` is what is.
    pub fn reduce(&mut self, flight: u32, segment: u32) {
        self.threshold = match self.algorithm {
            Algorithm::Reno => flight / 2,
            Algorithm::Cubic => {
                // Fast convergence: a window that didn't reach the last one makes room for others.
                self.largest = if self.window < self.largest { self.window / 20 * 17 } else { self.window };
                (u64::from(self.window) * 7 / 10) as u32
            }
        }
        .max(2 * segment);
        self.epoch = 0;
        self.credit = 0;
    }

    /// Nothing came back for a whole timeout: starts over with one segment.
    pub fn timed_out(&mut self, segment: u32) {
        self.window = segment;
        self.credit = 0;
        self.epoch = 0;
    }

    /// The connection was idle for longer than a timeout (RFC 5681, section 4.1).
    pub fn idle(&mut self, segment: u32) {
        self.threshold = self.threshold.max(self.window / 4 * 3);
        self.window = self.window.min(initial(segment));
        self.epoch = 0;
    }
}

fn initial(segment: u32) -> u32 {
    (10 * segment).min((2 * segment).max(14_600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cube_roots() {
        for value in [0, 1, 7, 8, 26, 27, 1 << 60, (1 << 60) - 1] {
            let root = cube_root(value);
            assert!(root.pow(3) <= value && (root + 1).pow(3) > value);
        }
    }

    #[test]
    fn slow_start_doubles_and_reno_adds_a_segment_a_round() {
        let mut reno = Congestion::new(Algorithm::Reno, 1000);
        assert_eq!(reno.window, 10_000);
        reno.acknowledged(0, 10_000, 1000, 1000);
        assert_eq!(reno.window, 20_000);
        reno.reduce(20_000, 1000);
        assert_eq!(reno.threshold, 10_000);
        reno.window = reno.threshold;
        (0..10).for_each(|_| reno.acknowledged(0, 1000, 1000, 1000));
        assert_eq!(reno.window, 11_000);
        reno.timed_out(1000);
        assert_eq!((reno.window, reno.slow_start()), (1000, true));
    }

    #[test]
    fn cubic_returns_to_where_it_was_and_goes_on() {
        let mut cubic = Congestion::new(Algorithm::Cubic, 1000);
        cubic.window = 1_000_000;
        cubic.reduce(1_000_000, 1000);
        assert_eq!(cubic.threshold, 700_000);
        cubic.window = cubic.threshold;
        // K = cbrt(300 / 0.4) = 9.1 s. One round trip takes 100 ms.
        let mut at = [0; 200];
        for (round, window) in at.iter_mut().enumerate() {
            let flight = cubic.window;
            cubic.acknowledged(round as u64 * 100 * MILLISECOND + 1, flight, 1000, 100_000);
            *window = cubic.window;
        }
        assert!((980_000..1_010_000).contains(&at[90]), "at the plateau: {}", at[90]);
        assert!(at[50] > 900_000, "fast before it: {}", at[50]);
        assert!(at[180] > 1_200_000, "fast after it: {}", at[180]);
        assert!(at.windows(2).all(|pair| pair[1] >= pair[0]));
        cubic.reduce(0, 1000);
        assert!(cubic.threshold >= 2000);
    }
}
