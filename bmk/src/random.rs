//! Random bytes: the platform's, and where it has none, timing noise stretched by a mixing function.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::{machine, platform::platform};

static STATE: AtomicU64 = AtomicU64::new(0x9e37_79b9_7f4a_7c15);

/// Finaliser of SplitMix64 (Steele, Lea, Flood, 2014).
fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// Fills `bytes`.
pub fn fill(bytes: &mut [u8]) {
    let done = platform().entropy(bytes).min(bytes.len());
    for chunk in bytes[done..].chunks_mut(8) {
        let noise = machine::rdtsc().rotate_left(17) ^ crate::clock::realtime();
        let word = STATE.fetch_add(mix(noise) | 1, Ordering::Relaxed);
        chunk.copy_from_slice(&mix(word ^ machine::rdtsc()).to_le_bytes()[..chunk.len()]);
    }
}
