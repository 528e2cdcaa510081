//! Where a recipe's program comes from.

pub mod build;
mod cargo;
mod read;

use std::path::PathBuf;

pub(super) use read::read;

use super::Placed;

/// Where a program comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Installed Debian packages.
    Debian(Vec<Placed<String>>),
    /// An archive with sources, and how they are built.
    Archive {
        /// Where it is.
        location: Placed<Location>,
        /// Its SHA-256, in lower-case hexadecimal.
        sha256: Placed<String>,
        /// How it is built.
        build: Build,
    },
    /// A folder with sources, and how they are built.
    Folder {
        /// The folder.
        folder: PathBuf,
        /// How it is built.
        build: Build,
    },
    /// A crate.
    Cargo(Crate),
    /// A program as it is.
    Program {
        /// On the host.
        host: PathBuf,
        /// In the image.
        target: Vec<u8>,
    },
}

impl Source {
    /// One word for it.
    pub fn kind(&self) -> &'static str {
        match self {
            Source::Debian(_) => "debian",
            Source::Archive { .. } => "archive",
            Source::Folder { .. } => "folder",
            Source::Cargo(_) => "cargo",
            Source::Program { .. } => "program",
        }
    }
}

/// Where an archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// Beside the recipe.
    File(PathBuf),
    /// On the network.
    Url(String),
}

/// How sources are built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Commands, each run by `sh`.
    pub commands: Vec<String>,
    /// Debian packages that they need.
    pub requires: Vec<String>,
    /// What they make, relative to the top folder of the sources, and where it goes.
    pub outputs: Vec<Output>,
}

/// Something that a build makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// A file or folder, relative to the sources.
    pub file: Placed<String>,
    /// Where in the image.
    pub target: Vec<u8>,
}

/// A crate whose programs are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crate {
    /// Where it is.
    pub from: CrateFrom,
    /// Where this is said, as `file:line:column`.
    pub place: String,
    /// Its features.
    pub features: Vec<String>,
    /// Whether its default features are left out.
    pub no_default_features: bool,
    /// Its programs; all if empty.
    pub binaries: Vec<String>,
    /// Whether it is linked statically.
    pub statically: bool,
}

/// Where a crate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CrateFrom {
    /// A folder with a `Cargo.toml` and a `Cargo.lock`.
    Folder(PathBuf),
    /// On crates.io.
    Registry {
        /// Its name.
        name: String,
        /// Its exact version.
        version: String,
    },
}

/// Where programs go that come from no package.
pub const PROGRAM_FOLDER: &str = "/usr/local/bin";
