//! TCP (RFC 9293).

pub mod congestion;
pub mod control;
pub mod estimator;
pub mod hash;
pub mod memory;
pub mod queue;
pub mod reassembly;
pub mod scoreboard;
pub mod segment;
pub mod sequence;
pub mod time_wait;

#[cfg(test)]
mod tests;
