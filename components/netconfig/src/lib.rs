//! How interfaces are configured, without input and output, for every set of components: what an image says of them,
//! DHCPv4's client, and the name servers and domains that come from all sources.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

use alloc::string::String;
use core::{fmt::Write, net::IpAddr};

mod dhcp;
mod message;
mod random;
pub mod resolver;
mod setup;

pub use self::{
    dhcp::{Client, Step},
    message::{CLIENT_PORT, Lease, Reply, SERVER_PORT},
    setup::{Setup, prefixed},
};

/// Six bytes of an Ethernet interface.
pub type HardwareAddress = [u8; 6];
/// A second in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;

/// What is said of an interface that has addresses: them, then its gateways.
pub fn describe(addresses: &[(IpAddr, u8)], gateways: &[IpAddr]) -> String {
    let mut text = String::new();
    for (position, (address, prefix)) in addresses.iter().enumerate() {
        let comma = if position > 0 { ", " } else { "" };
        let _ = write!(text, "{comma}{address}/{prefix}");
    }
    for gateway in gateways {
        let _ = write!(text, ", gateway {gateway}");
    }
    text
}
