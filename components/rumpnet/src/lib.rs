//! Sockets: the local (Unix) domain.
#![no_std]

extern crate alloc;
