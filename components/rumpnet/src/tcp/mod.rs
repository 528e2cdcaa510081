//! TCP.

pub mod hash;
