//! Random numbers: identifiers and delays.

use rumpuser::rumpuser_getrandom;

/// 64 random bits.
pub fn word() -> u64 {
    let mut bytes = [0; 8];
    rumpuser_getrandom(&mut bytes);
    u64::from_ne_bytes(bytes)
}

/// A number from 0 to `limit - 1` (0 if `limit` is 0).
pub fn below(limit: u64) -> u64 {
    ((u128::from(word()) * u128::from(limit)) >> 64) as u64
}
