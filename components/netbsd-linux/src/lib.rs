//! NetBSD's network and file systems beneath the Linux personality: sockets of programs are sockets of the rump kernel,
//! and what it mounts is in their tree of files.
//!
//! The rump kernel starts in a thread of its own while the image starts; who needs it waits ([`wait_ready`]).
#![no_std]
#![allow(unsafe_code, reason = "the other side of the interface is C")]

extern crate alloc;

pub mod address;
pub mod control;
pub mod errno;
pub mod interfaces;

// C's names of what is below the following would take the place of the host's in tests.
#[cfg(not(test))]
pub mod call;
#[cfg(not(test))]
pub mod events;
#[cfg_attr(test, path = "files/tested.rs")]
pub mod files;
#[cfg(not(test))]
pub mod socket;
#[cfg(not(test))]
mod start;
#[cfg(not(test))]
pub use start::{start, wait_kernel, wait_ready};
