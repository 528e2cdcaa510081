//! The virtual file system: files, vnodes, name lookup, mounts, and the file systems of every image.
#![no_std]

extern crate alloc;

pub mod file;
pub mod vnode;
