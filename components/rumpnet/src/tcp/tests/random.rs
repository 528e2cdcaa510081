//! Random segments, calls and times.

use std::vec::Vec;

use super::super::fuzz;

#[test]
fn nothing_panics_and_invariants_hold() {
    let mut state = 0x1234_5678_9abc_def1_u64;
    for round in 0..3000 {
        let bytes: Vec<u8> = (0..200 + round % 700)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            })
            .collect();
        if std::panic::catch_unwind(|| fuzz::run(&bytes)).is_err() {
            panic!("round {round}");
        }
    }
}
