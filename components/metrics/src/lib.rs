//! What the kernel counts, as Prometheus text ([`render`]), and the HTTP server that gives it out ([`server`]).
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod conversation;
pub mod render;
mod request;
pub mod server;
mod system;

pub use render::render;

/// Registers what is read from the platform and from the interfaces; once.
pub fn register() {
    rumpkern::counter::register(&system::Machine);
    rumpkern::counter::register(&system::Interfaces);
}
