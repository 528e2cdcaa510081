//! Device nodes: memory devices, random numbers, terminals and pseudo-terminals, block devices.
//!
//! [`open`] gives the file behind a device number; [`nodes::populate`] fills a /dev.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod block;
pub mod blocks;
pub mod bounce;
pub mod disk;
pub mod memory;
#[cfg(any(test, feature = "host"))]
pub mod model;
pub mod nodes;
pub mod random;
pub mod tty;
mod user;

pub use nodes::open;
