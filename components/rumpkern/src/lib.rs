//! Kernel services that every component shares: errors, waiting, user I/O, polling, virtual memory.
#![no_std]

extern crate alloc;

pub mod callout;
pub mod counter;
pub mod errno;
pub mod mappings;
pub mod poll;
pub mod reclaim;
pub mod uio;
pub mod vm;
pub mod wait;

pub use errno::{Errno, Result};
