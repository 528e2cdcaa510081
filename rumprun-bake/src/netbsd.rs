//! The arguments of `netbsd`, as typed.

use std::path::PathBuf;

use clap::{Args, Subcommand};

pub const EXAMPLES: &str = "\
DIR is any tree with NetBSD's layout: a release's source sets, or a checkout. It is never written to.

Examples:
  rumprun-bake netbsd check --src ~/netbsd-10/src        which release, which patches apply, what is missing
  rumprun-bake netbsd build --src ~/netbsd-10/src        build and install a component set
  rumprun-bake netbsd build --src DIR --components net,ffs --patches none
  rumprun-bake netbsd patch --src DIR --out patched --only kqueue-user
  rumprun-bake netbsd tools ~/netbsd-tools               the cross compiler for programs
  rumprun-bake netbsd host --src ~/netbsd-10/src         rump kernels for this machine: rump_server, libraries for clients
  rumprun-bake netbsd list

Exit status: 0 success, 1 failure (also if a component did not build: the set has the others), 2 wrong usage.";

#[derive(Debug, Subcommand)]
pub enum NetbsdCommand {
    /// Say which NetBSD a tree is, which patches apply to it, and what is missing.
    Check {
        #[command(flatten)]
        source: Source,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write a patched copy of a tree.
    Patch(NetbsdPatch),
    /// Build a tree's components and libraries, and install them as a set.
    Build(NetbsdBuild),
    /// Build rump kernels for this machine: rump_server, the components as shared libraries, and the libraries of its
    /// clients.
    Host(NetbsdBuild),
    /// Install the cross tools x86_64-rumprun-netbsd-cc and so on, with files for CMake (toolchain.cmake) and Meson
    /// (cross.ini).
    Tools {
        /// The directory for them, to be put into PATH.
        directory: PathBuf,
        /// The component set that they compile for, by name or directory; not needed if there is only one.
        #[arg(long, value_name = "SET")]
        set: Option<String>,
    },
    /// List the installed component sets.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say what is in an installed component set.
    Describe {
        /// Its name; not needed if there is only one.
        name: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub struct Source {
    /// The NetBSD source tree.
    #[arg(long = "src", value_name = "DIR", env = "NETBSD_SRC")]
    pub directory: Option<PathBuf>,
    /// Where the patch sets are; the project's own if not given.
    #[arg(long, value_name = "DIR", env = toolchain::netbsd::PATCHES_VARIABLE, hide_env = true)]
    pub patch_sets: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct NetbsdPatch {
    #[command(flatten)]
    pub source: Source,
    /// The copy; a directory that is empty or absent.
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    pub out: Option<PathBuf>,
    /// List the patches for the tree instead.
    #[arg(long, conflicts_with_all = ["out", "reverse"])]
    pub list: bool,
    /// Only these patches, and those that they need.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Take the patches back that the tree has.
    #[arg(long)]
    pub reverse: bool,
}

#[derive(Debug, Args)]
pub struct NetbsdBuild {
    #[command(flatten)]
    pub source: Source,
    /// Patches to build with, or `none`; those for the release if not given.
    #[arg(long, value_name = "NAME,...|none", value_delimiter = ',')]
    pub patches: Vec<String>,
    /// Components by name (`rumpnet_netinet` or `netinet`) or group (kern, vfs, net, dev, library); all if not given.
    #[arg(long, value_name = "SET", value_delimiter = ',')]
    pub components: Vec<String>,
    /// How many jobs at a time; as many as there are CPUs if not given.
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
    /// Without assertions and debug information; the default.
    #[arg(long, conflicts_with = "diagnostic")]
    pub release: bool,
    /// With NetBSD's assertions (DIAGNOSTIC) and debug information.
    #[arg(long)]
    pub diagnostic: bool,
    /// Say what was built as JSON.
    #[arg(long)]
    pub json: bool,
}
