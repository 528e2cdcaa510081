//! What an image does when it starts: programs, environment, mounts, networks.

use alloc::{string::String, vec::Vec};

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
    /// A block device (`/dev/vda`), or empty for tmpfs.
    pub source: Vec<u8>,
    /// Where; created if absent.
    pub target: Vec<u8>,
    /// `ext4` or `tmpfs`.
    pub kind: String,
    /// Mounted read-only.
    pub read_only: bool,
    /// Format a blank disk.
    pub format: bool,
    /// tmpfs: size limit in bytes; 0 is half of the memory.
    pub size: u64,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Interface name (`eth0`).
    pub interface: String,
    /// Addresses with prefix lengths (`10.0.2.15/24`); empty: DHCP.
    pub addresses: Vec<String>,
    /// Default gateway.
    pub gateway: Option<String>,
    /// Name servers.
    pub nameservers: Vec<String>,
}
