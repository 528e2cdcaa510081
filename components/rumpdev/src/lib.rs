//! Device nodes, terminals and block devices.
#![no_std]

extern crate alloc;
