//! What an image does when it starts: programs, environment, mounts, networks.

use alloc::{string::String, vec::Vec};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// An image's configuration, as the baker checked it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// The name of the baking configuration (`hw_direct`).
    pub config: String,
    /// The host name.
    pub hostname: String,
    /// What runs, in order.
    pub programs: Vec<Program>,
    /// Environment of every program: (name, value).
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// The initial working directory.
    pub working_directory: Vec<u8>,
    /// What is mounted besides the root, /proc, /dev, /sys, /tmp, /run and /dev/shm.
    pub mounts: Vec<Mount>,
    /// Network interfaces.
    pub networks: Vec<Network>,
    /// Parameters of a NetBSD kernel (sysctl(7)): (name, value).
    pub parameters: Vec<(String, String)>,
}

/// One program to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Absolute path of the executable in the image.
    pub path: Vec<u8>,
    /// The arguments, `argv[0]` included.
    pub arguments: Vec<Vec<u8>>,
    /// Environment for this program only, over the image's: (name, value).
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// Its working directory, if not the image's.
    pub working_directory: Option<Vec<u8>>,
    /// How the next program follows.
    pub then: Then,
}

/// How a program is followed by the next, as in rumprun's `rc`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    /// The next starts when this one has ended.
    #[default]
    Wait,
    /// The next starts at once (`&`).
    Background,
    /// The next starts at once and reads what this one writes (`|`).
    Pipe,
}

/// A file system to mount before the programs start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// A block device (`/dev/vda`), for NetBSD's components also a file of the image, or what an NFS server exports
    /// ([`exported`]); empty for tmpfs and its like.
    pub source: Vec<u8>,
    /// Where; created if absent.
    pub target: Vec<u8>,
    /// `ext4` or `tmpfs`; for NetBSD's components also `ffs`, `ext2fs`, `msdos`, `cd9660`, `nfs`, `kernfs` and others.
    pub kind: String,
    /// Mounted read-only.
    pub read_only: bool,
    /// Format a blank disk.
    pub format: bool,
    /// tmpfs: size limit in bytes; 0 is half of the memory.
    pub size: u64,
    /// Networks (`10.0.2.0/24`) whose machines may mount it by NFS, for NetBSD's components.
    pub exported_to: Vec<String>,
}

/// The server's address and the path of an NFS mount's source: `10.0.0.1:/data`, `[fd00::1]:/data`.
pub fn exported(source: &[u8]) -> Option<(IpAddr, &str)> {
    let source = core::str::from_utf8(source).ok()?;
    // The path has its slash.
    let (server, path) = source.split_at_checked(source.find(":/")?)?;
    let path = path.strip_prefix(':')?;
    let server = match server.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.into(),
        None => server.parse::<Ipv4Addr>().ok()?.into(),
    };
    Some((server, path))
}

/// A network interface: how it is found, and its addresses. Everything is text as people write it; the baker has checked
/// what is baked, and the kernel checks again, because a command line (`network=...`, see
/// [`crate::command_line::CommandLine::networks`]) can change it.
///
/// An interface of the machine without an entry is configured as an entry with empty lists is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Interface name (`eth0`), at most 15 bytes.
    pub interface: String,
    /// The interface is the one with this MAC address (`52:54:00:12:34:56`), whatever the order in which the machine
    /// shows its interfaces. Without it, the names `eth0`, `eth1`... go to the others in the machine's order.
    pub mac: Option<String>,
    /// Addresses with prefix lengths, IPv4 and IPv6 (`10.0.2.15/24`, `fd00::5/64`), and [`DHCP`] among them for one by
    /// DHCPv4. Empty: as `["dhcp"]`. An IPv6 link-local address and those of router advertisements come in any case.
    pub addresses: Vec<String>,
    /// Default gateways, at most one of IPv4 and one of IPv6. An absent one may come from DHCP or a router
    /// advertisement.
    pub gateways: Vec<String>,
    /// Name servers, before those that DHCP names.
    pub nameservers: Vec<String>,
    /// The maximum transmission unit in bytes, if it is not the link's own (1500).
    pub mtu: Option<u16>,
}

/// What stands among [`Network::addresses`] for an address by DHCPv4.
pub const DHCP: &str = "dhcp";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_nfs_mounts_are_an_address_and_a_path() {
        assert_eq!(exported(b"10.0.0.1:/a:/b"), Some((Ipv4Addr::new(10, 0, 0, 1).into(), "/a:/b")));
        assert_eq!(exported(b"[fd00::1]:/"), Some(("fd00::1".parse().unwrap(), "/")));
        for wrong in
            ["", "/dev/vda", "10.0.0.1", "10.0.0.1:data", "fd00::1:/", "[10.0.0.1]:/", "server:/data", ":/"]
        {
            assert_eq!(exported(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
