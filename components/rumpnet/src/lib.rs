//! Sockets: what every family has in common ([`socket`]), and the local (Unix) domain.
#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "host"))]
extern crate std;

pub mod address;
pub mod base;
pub mod change;
pub mod checksum;
pub mod configuration;
pub mod datagram;
pub mod device;
pub mod icmp;
pub mod inet;
pub mod interface;
pub mod ip;
pub mod link;
pub mod multicast;
pub mod neighbour;
pub mod netlink;
pub mod option;
pub mod packet;
pub mod packet_socket;
pub mod ports;
mod random;
pub mod raw;
mod report;
pub mod route;
mod service;
pub mod socket;
pub mod sockets;
pub mod tcp;
pub mod udp;
pub mod unix;
