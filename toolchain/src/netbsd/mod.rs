//! The NetBSD component set: a NetBSD source tree with patches, built by its own makefiles.
//!
//! [`tree`] says what a tree is; [`patches`] applies the patches of a [`series`] to it; [`build`] makes a [`set`] of it.

pub mod build;
pub mod check;
pub mod components;
pub mod configured;
pub mod hosted;
pub(crate) mod jobs;
pub mod link;
pub mod make;
pub mod overlay;
pub mod patches;
pub mod platform;
mod prepare;
pub mod series;
pub mod set;
pub mod settings;
#[cfg(test)]
mod shipped;
pub mod tree;
pub mod wrapper;

use std::{io, path::PathBuf};

/// Names the folder of patch sets; the project's own if unset.
pub const PATCHES_VARIABLE: &str = "RUMPRUN_BAKE_NETBSD_PATCHES";

/// What can go wrong with a tree, its patches, and its build.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or program of the host.
    #[error("{what}: {source}")]
    Host {
        /// What was being done, or with which file.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Not a NetBSD tree.
    #[error("{}: not a NetBSD source tree: {missing} is missing. {}", .path.display(), tree::WHERE_FROM)]
    NoTree {
        /// What was given.
        path: PathBuf,
        /// What a tree would have.
        missing: &'static str,
    },
    /// The patch set has no such release.
    #[error("no patches for NetBSD {release} (there are: {known}); `--patches none` goes without")]
    NoPatchSet {
        /// The tree's.
        release: String,
        /// Those that there are.
        known: String,
    },
    /// No such patch.
    #[error("no patch {name} for NetBSD {release} (there are: {known})")]
    NoPatch {
        /// What was asked for.
        name: String,
        /// The tree's release.
        release: String,
        /// Those that there are.
        known: String,
    },
    /// A patch file or series that isn't one.
    #[error("{}: {message}", .path.display())]
    BadPatch {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A patch doesn't fit the tree.
    #[error("the patch {name} does not apply: {}: {reason}\n{hunk}", .file.display())]
    Rejected {
        /// The patch.
        name: String,
        /// The file of the tree.
        file: PathBuf,
        /// Why.
        reason: String,
        /// The hunk, as the patch has it.
        hunk: String,
    },
    /// Something else that the message says whole.
    #[error("{0}")]
    Other(String),
}

/// Gives an error of the host its place.
pub(crate) fn host(what: impl ToString) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Host { what: what.to_string(), source }
}

/// Writes a file whole or not at all, in place of what was there, be it a symbolic link.
pub(crate) fn write_new(path: &std::path::Path, content: &[u8]) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(std::path::Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(host(folder.display()))?;
    io::Write::write_all(&mut file, content).map_err(host(path.display()))?;
    file.persist(path).map_err(|error| error.error).map_err(host(path.display()))?;
    Ok(())
}
