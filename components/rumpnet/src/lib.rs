//! Sockets: what every family has in common ([`socket`]), and the local (Unix) domain.
#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "host"))]
extern crate std;

pub mod base;
pub mod device;
pub mod inet;
pub mod interface;
pub mod option;
pub mod packet;
pub mod ports;
pub mod socket;
pub mod tcp;
pub mod unix;
