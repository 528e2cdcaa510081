//! NFS: what the kernel's client needs to mount what a server exports, and its server to be mounted.

pub mod client;
mod rpc;
pub mod server;
mod service;
mod stream;
mod xdr;

use core::{ffi::c_int, net::IpAddr};

use crate::{
    kernel::Descriptor,
    network::addresses::{self, INET, INET6},
};

/// `SOCK_DGRAM`.
const DATAGRAM: c_int = 2;
/// Bytes of the longest socket address here.
const ADDRESS: usize = 28;

/// The address that this machine has for another.
fn own_address(other: IpAddr) -> Option<IpAddr> {
    let family = if other.is_ipv4() { INET } else { INET6 };
    let socket = Descriptor::socket(family, DATAGRAM, 0).ok()?;
    // Nothing is sent.
    socket.connect(&addresses::socket(other, service::PORT)).ok()?;
    let mut name = [0; ADDRESS];
    let length = socket.address(&mut name).ok()?;
    addresses::of_socket(&name[..length])
}
