//! The virtual file system: files, vnodes, name lookup, mounts, and the file systems of every image.
#![no_std]

extern crate alloc;

pub mod access;
pub mod change;
pub mod dentry;
pub mod device;
pub mod fifo;
pub mod file;
pub mod generated;
mod handle;
pub mod locks;
pub mod mount;
pub mod namei;
pub mod names;
pub mod notify;
pub mod open;
pub mod pipe;
pub mod tmpfs;
pub mod vnode;
