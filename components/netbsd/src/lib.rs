//! NetBSD's components on this platform: the hypercalls of rumpuser(3) in C's calling convention, and the base of
//! userspace beneath NetBSD's libc and libpthread.
//!
//! The functions that C calls bear C's names, except in unit tests, where the host's libc has the same. What C has and
//! an image may lack is reached by [`weak`] references.
#![cfg_attr(not(test), no_std)]
#![allow(non_snake_case, reason = "the names are C's")]
#![allow(unsafe_code, reason = "the other side of the interface is C")]

extern crate alloc;

pub mod clock;
pub mod condition;
pub mod disk;
pub mod errno;
mod event;
pub mod files;
pub mod format;
pub mod host;
pub mod kernel;
pub mod memory;
pub mod modules;
pub mod mounts;
pub mod mutex;
pub mod network;
pub mod nfs;
pub mod pci;
pub mod proxy;
pub mod ram_disk;
pub mod read_write_lock;
pub mod thread;
pub mod time_counter;
pub mod upcall;
pub mod user;
pub mod virtual_interface;
pub mod wait;
mod weak;

pub use user::start::start;
