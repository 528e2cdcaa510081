//! What a recipe asks of the machine that runs its image.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
};

use super::{
    Port, Protocol, Recipe,
    error::{Error, host_error},
};
use crate::launch::{
    Options,
    network::{self, Backend, Nic, Publish},
};

/// Ports below this one are the host administrator's.
const PRIVILEGED: u16 = 1024;
/// Where those are published: 80 at 8080.
const OFFSET: u16 = 8000;

/// Where a port of the recipe is, seen from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// The disks of a recipe, in its order; made if they aren't there.
pub fn disks(recipe: &Recipe, folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let make = |disk: &super::Disk| {
        let path = folder.join(format!("{}.img", disk.name));
        if !path.exists() {
            fs::create_dir_all(folder).map_err(host_error(folder))?;
            let file = fs::File::create_new(&path).map_err(host_error(&path))?;
            file.set_len(disk.size).map_err(host_error(&path))?;
        }
        Ok(path)
    };
    recipe.disks.iter().map(make).collect()
}

/// Gives the machine the recipe's disks, before those that it has, and a network if the recipe wants one and the
/// options have none. Says where the ports are; nothing for those that can't be reached from here.
pub fn prepare(
    recipe: &Recipe,
    options: &mut Options,
    data: &Path,
    host_port: impl Fn(&Port) -> io::Result<u16>,
) -> Result<Vec<Option<Reach>>, Error> {
    let mut all = disks(recipe, data)?;
    all.append(&mut options.disks);
    options.disks = all;
    if options.networks.is_empty() && recipe.wants_network() {
        let publish = |port: &Port| {
            let host = host_port(port).map_err(host_error(format!("port {}", port.port)))?;
            Ok(Publish {
                address: Some(Ipv4Addr::LOCALHOST),
                host,
                guest: port.port,
                protocol: match port.protocol {
                    Protocol::Tcp => network::Protocol::Tcp,
                    Protocol::Udp => network::Protocol::Udp,
                },
            })
        };
        let published = recipe.ports.iter().map(publish).collect::<Result<_, Error>>()?;
        options.networks.push(Nic::new(Backend::User(published)));
    }
    Ok(recipe.ports.iter().map(|port| reach(port, &options.networks)).collect())
}

/// Where a port is: published on this machine, or at the address that an interface is given.
fn reach(port: &Port, networks: &[Nic]) -> Option<Reach> {
    networks.iter().find_map(|nic| match &nic.backend {
        Backend::User(published) => {
            let same = |entry: &&Publish| {
                entry.guest == port.port
                    && entry.protocol.name() == format!("{:?}", port.protocol).to_lowercase()
            };
            let entry = published.iter().find(same)?;
            let address = entry.address.filter(|address| !address.is_unspecified());
            Some(Reach { address: address.unwrap_or(Ipv4Addr::LOCALHOST).into(), port: entry.host })
        }
        _ => {
            let mut addresses = nic.configuration.addresses.iter();
            let address = addresses.find_map(|text| text.split('/').next()?.parse().ok())?;
            Some(Reach { address, port: port.port })
        }
    })
}

/// The host's port for one that people use: the same, or 8080 for 80.
pub fn usual_port(port: &Port) -> io::Result<u16> {
    Ok(if port.port < PRIVILEGED { port.port + OFFSET } else { port.port })
}

/// A port of the host that nobody uses just now.
pub fn free_port(port: &Port) -> io::Result<u16> {
    let address = (Ipv4Addr::LOCALHOST, 0);
    let local = match port.protocol {
        Protocol::Tcp => TcpListener::bind(address)?.local_addr()?,
        Protocol::Udp => UdpSocket::bind(address)?.local_addr()?,
    };
    Ok(local.port())
}
