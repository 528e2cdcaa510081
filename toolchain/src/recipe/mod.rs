//! Package recipes: what is baked, how it runs, and how to prove that it answers, in a file `recipe.toml`.
//!
//! `table` is the file as it is written, `read` checks it, [`find`](mod@find) looks recipes up by name, [`mod@source`] builds
//! programs, [`mod@bake`] makes images and keeps them.

pub mod all;
pub mod bake;
pub mod check;
pub mod debian;
pub mod error;
mod files;
pub mod find;
pub mod launch;
mod read;
pub mod source;
mod table;
#[cfg(test)]
mod tests;

use std::{fmt, path::PathBuf};

use image::{config::Configuration, tree::Node};

pub use read::load;
pub use source::Source;
pub use table::ProtocolWord as Protocol;

use crate::configs::Config;

/// The file that makes a folder a recipe.
pub const FILE: &str = "recipe.toml";
/// The folder beside it that is copied into the image.
pub const OVERLAY: &str = "rootfs";

/// A value, and the place that it was written at, as `file:line:column`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: String,
}

impl<T: fmt::Display> fmt::Display for Placed<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(formatter)
    }
}

/// A recipe that was read and checked.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The name of its folder.
    pub name: String,
    /// One line.
    pub summary: String,
    /// More.
    pub description: String,
    /// Where the program comes from, for people.
    pub homepage: Option<String>,
    /// Its folder.
    pub folder: PathBuf,
    /// The baking configuration.
    pub config: &'static Config,
    /// Where the program comes from.
    pub source: Source,
    /// Debian packages besides those of the source.
    pub packages: Vec<Placed<String>>,
    /// Debian packages that stay out although others depend on them.
    pub without: Vec<String>,
    /// Files and folders of packages that stay out.
    pub exclude: Vec<Vec<u8>>,
    /// Files of the recipe's own, by their path in the image; directories come before what is in them.
    pub files: Vec<(Vec<u8>, Node)>,
    /// Programs, environment, mounts (those of the disks included) and networks.
    pub configuration: Configuration,
    /// Whether its files are compressed.
    pub compress: bool,
    /// Disks that keep their contents, in the order of `/dev/vda`, `/dev/vdb`.
    pub disks: Vec<Disk>,
    /// Ports that the programs listen on.
    pub ports: Vec<Port>,
    /// Memory of a run, bytes.
    pub memory: u64,
    /// CPUs of a run.
    pub cpus: u32,
    /// What proves that it works.
    pub checks: Vec<Check>,
}

impl Recipe {
    /// Whether its programs use a network.
    pub fn wants_network(&self) -> bool {
        !self.ports.is_empty() || !self.configuration.networks.is_empty()
    }
}

/// A disk that keeps its contents.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Disk {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Where it is mounted.
    pub target: String,
}

/// A port that a program listens on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Port {
    /// What for.
    pub name: String,
    /// The number in the image.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// Something that proves that the image works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Where it stands.
    pub place: String,
    /// What is done.
    pub action: Action,
    /// Seconds until it must have succeeded.
    pub timeout: u32,
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Fetches a path by HTTP.
    Http {
        /// The port's index.
        port: usize,
        /// The path and query.
        path: String,
        /// The expected status.
        status: u16,
        /// A text in the body.
        expect: String,
    },
    /// Sends bytes over TCP (or a datagram over UDP) and waits for an answer.
    Send {
        /// The port's index.
        port: usize,
        /// What is sent.
        text: String,
        /// A text in the answer.
        expect: String,
    },
    /// Runs a command of the host.
    Command {
        /// The port's index, for `{port}`.
        port: Option<usize>,
        /// The program and its arguments.
        words: Vec<String>,
        /// Its exit status.
        status: i32,
        /// A text in its output.
        expect: String,
        /// The Debian package that has it.
        requires: Option<String>,
    },
    /// Waits for a text on the console.
    Console {
        /// The text.
        text: String,
    },
    /// Waits for the image to end.
    Exit {
        /// The status it must end with.
        status: u8,
    },
}
