//! Why something with a recipe failed, and the exit status that says so.

use std::{io, path::PathBuf};

use super::find;
use crate::{bake, configuration, kernel, launch, output, package};

/// Why a recipe could not be baked or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such recipe, or it is wrong.
    #[error(transparent)]
    Find(#[from] find::Error),
    /// Packages that aren't installed.
    #[error("{0}")]
    Missing(String),
    /// A package, program or crate that doesn't exist.
    #[error("{place}: {message}")]
    NoSuch {
        /// Where it is asked for.
        place: String,
        /// What, and what else there is.
        message: String,
    },
    /// A checksum differs.
    #[error("{place}: {archive} has another checksum\n  expected  {expected}\n  found     {found}")]
    Checksum {
        /// Where the checksum stands.
        place: String,
        /// What it is of.
        archive: String,
        /// As it is written.
        expected: String,
        /// As it is.
        found: String,
    },
    /// An archive can't be fetched or unpacked.
    #[error("{place}: {message}")]
    Archive {
        /// Where it is named.
        place: String,
        /// What went wrong.
        message: String,
    },
    /// A build step failed.
    #[error("{what} failed ({status}):\n{log}")]
    Build {
        /// Which.
        what: String,
        /// How it ended.
        status: String,
        /// The end of what it printed.
        log: String,
    },
    /// A build didn't make what the recipe says.
    #[error("{place}: the build made no `{file}`")]
    NoOutput {
        /// Where it is named.
        place: String,
        /// What.
        file: String,
    },
    /// The image can't be baked.
    #[error(transparent)]
    Bake(#[from] bake::Error),
    /// The image can't be booted.
    #[error(transparent)]
    Launch(#[from] launch::Error),
    /// The kernel's sources can't be read.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// dpkg's database can't be read.
    #[error(transparent)]
    Package(#[from] package::Error),
    /// A file can't be written.
    #[error(transparent)]
    Output(#[from] output::Error),
    /// A file or program of the host.
    #[error("{}: {source}", path.display())]
    Host {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program of the host is missing.
    #[error("{program} is not installed: apt install {package}")]
    NoTool {
        /// Which.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
}

impl From<configuration::Error> for Error {
    fn from(error: configuration::Error) -> Self {
        Error::Find(find::Error::Wrong(error))
    }
}

/// Says which file an error of the host is about.
pub fn host_error(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Host { path: path.into(), source }
}

/// Exit status when recipes fail for different reasons, or for any other than those below.
pub const EXIT_FAILURE: u8 = 1;
/// Exit status: there is no such recipe, or it is wrong.
pub const EXIT_RECIPE: u8 = 3;
/// Exit status: the host lacks something that the recipe needs.
pub const EXIT_MISSING: u8 = 4;
/// Exit status: a checksum differs.
pub const EXIT_CHECKSUM: u8 = 5;
/// Exit status: the program doesn't build.
pub const EXIT_BUILD: u8 = 6;
/// Exit status: a check failed.
pub const EXIT_CHECK: u8 = 7;

impl Error {
    /// The exit status for this.
    pub fn exit_status(&self) -> u8 {
        match self {
            Error::Find(_) => EXIT_RECIPE,
            Error::Missing(_) | Error::NoSuch { .. } | Error::NoTool { .. } => EXIT_MISSING,
            Error::Package(package::Error::NotInstalled(_)) => EXIT_MISSING,
            Error::Checksum { .. } => EXIT_CHECKSUM,
            Error::Build { .. } | Error::NoOutput { .. } => EXIT_BUILD,
            _ => EXIT_FAILURE,
        }
    }
}
