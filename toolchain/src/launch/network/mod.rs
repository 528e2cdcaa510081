//! A machine's network interfaces: what was asked for ([`nic`]), what it means for the guest, what it needs of the
//! host ([`host`]), and QEMU's words for it ([`words`]).

mod address;
mod holder;
mod host;
mod nic;
mod request;
mod words;

use std::{io, path::PathBuf};

pub use address::{MacAddress, Protocol, Publish};
pub use holder::Holder;
pub(crate) use host::prepare;
pub use host::{Ability, abilities};
pub use nic::{Backend, Model, Nic};
pub use request::{NetArgument, Request};
pub use words::MAXIMUM_QUEUES;
pub(super) use words::needs_pci;
pub(crate) use words::{user_backend, words};

use image::config::Network;

/// Why an interface can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Options that contradict each other or name nothing.
    #[error("{0}")]
    Options(String),
    /// A published port is taken.
    #[error("port {}/{} of the host is in use by {holder}; publish another one: --publish {}:{}", publish.host, publish.protocol.name(), other(publish.host), publish.guest)]
    PortInUse {
        /// What was to be published.
        publish: Publish,
        /// Who has it.
        holder: Holder,
    },
    /// A published port can't be had for another reason.
    #[error("port {}/{} of the host cannot be published: {reason}", publish.host, publish.protocol.name())]
    Port {
        /// What was to be published.
        publish: Publish,
        /// Why not.
        reason: String,
    },
    /// A tap or bridge of the host can't be used.
    #[error("{name}: {reason}")]
    Link {
        /// Its name.
        name: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// The capture can't be written.
    #[error("{}: the capture cannot be written: {source}", path.display())]
    Capture {
        /// Where to.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// `ip` or the like does not work.
    #[error("{0}")]
    Tool(String),
}

/// A port to suggest instead.
fn other(port: u16) -> u16 {
    if port < 1024 { port + 8000 } else { port.checked_add(1).unwrap_or(8080) }
}

/// The interfaces' MAC addresses, in order. `image` is the image's name.
pub fn macs(nics: &[Nic], image: &str) -> Vec<MacAddress> {
    let mac = |(index, nic): (usize, &Nic)| {
        let link = match &nic.backend {
            Backend::Tap(name) => name.as_str(),
            _ => "",
        };
        nic.mac.unwrap_or_else(|| MacAddress::stable(image, link, index))
    };
    nics.iter().enumerate().map(mac).collect()
}

/// What the guest is told: an entry for each interface, if there is anything to tell. With several interfaces, their
/// MAC addresses say which is `eth0`.
pub fn guest_networks(nics: &[Nic], macs: &[MacAddress]) -> Vec<Network> {
    let silent = nics.len() < 2 && nics.iter().all(|nic| nic.configuration == Network::default());
    if silent {
        return Vec::new();
    }
    let entry = |(index, (nic, mac)): (usize, (&Nic, &MacAddress))| Network {
        interface: format!("eth{index}"),
        mac: Some(mac.to_string()),
        ..nic.configuration.clone()
    };
    nics.iter().zip(macs).enumerate().map(entry).collect()
}
