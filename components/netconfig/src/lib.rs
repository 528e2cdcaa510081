//! How interfaces are configured, without input and output, for every set of components: what an image says of them,
//! DHCPv4's client, and the name servers and domains that come from all sources.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod dhcp;
mod message;
mod random;
pub mod resolver;
mod setup;

pub use self::{
    dhcp::{Client, Step},
    message::{CLIENT_PORT, Lease, Reply, SERVER_PORT},
    setup::Setup,
};

/// Six bytes of an Ethernet interface.
pub type HardwareAddress = [u8; 6];
/// A second in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;
