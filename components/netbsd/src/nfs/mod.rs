//! NFS: what the kernel's client needs to mount what a server exports, and its server to be mounted.

pub mod client;
mod rpc;
pub mod server;
mod service;
mod stream;
mod xdr;
