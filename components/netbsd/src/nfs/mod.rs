//! NFS: what the kernel's client needs to mount what a server exports.

pub mod client;
mod rpc;
mod xdr;
