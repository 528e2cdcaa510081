//! The address space of a process.

pub use rumpkern::vm::{FaultError, Space};
