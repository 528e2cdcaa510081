//! `recipe.toml` as it is written; [`super::read`] checks it.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use crate::configuration::file::{MountTable, NetworkTable, ProgramTable};

/// A whole recipe.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeTable {
    /// The folder's name.
    pub name: Spanned<String>,
    /// One line for `package list`.
    pub summary: Spanned<String>,
    /// More, for `package show`.
    #[serde(default)]
    pub description: String,
    /// Where the program comes from, for people.
    pub homepage: Option<String>,
    /// The baking configuration.
    pub config: Option<Spanned<String>>,
    /// Where the program comes from.
    pub source: Spanned<SourceTable>,
    /// More Debian packages.
    #[serde(default)]
    pub packages: Vec<Spanned<String>>,
    /// Debian packages that stay out although others depend on them.
    #[serde(default)]
    pub without: Vec<String>,
    /// Files and folders of packages that stay out.
    #[serde(default)]
    pub exclude: Vec<Spanned<String>>,
    /// Whether files are compressed where that makes them smaller.
    #[serde(default)]
    pub compress: bool,
    /// The host name.
    pub hostname: Option<Spanned<String>>,
    /// The programs' working directory.
    pub working_directory: Option<Spanned<String>>,
    /// Their environment.
    #[serde(default)]
    pub environment: BTreeMap<Spanned<String>, String>,
    /// `[[program]]`.
    #[serde(default)]
    pub program: Vec<ProgramTable>,
    /// `[[user]]`.
    #[serde(default)]
    pub user: Vec<UserTable>,
    /// `[[file]]`.
    #[serde(default)]
    pub file: Vec<FileTable>,
    /// `[[disk]]`.
    #[serde(default)]
    pub disk: Vec<DiskTable>,
    /// `[[mount]]`.
    #[serde(default)]
    pub mount: Vec<MountTable>,
    /// `[[port]]`.
    #[serde(default)]
    pub port: Vec<PortTable>,
    /// `[[network]]`.
    #[serde(default)]
    pub network: Vec<NetworkTable>,
    /// `[machine]`.
    #[serde(default)]
    pub machine: MachineTable,
    /// `[[check]]`.
    #[serde(default)]
    pub check: Vec<CheckTable>,
}

/// One or several.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub enum OneOrMore {
    /// One.
    One(String),
    /// Several.
    More(Vec<String>),
}

/// `[source]`: one of `debian`, `archive`, `cargo` and `path`, and what belongs to it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceTable {
    /// Installed Debian packages.
    pub debian: Option<Spanned<OneOrMore>>,
    /// A source archive: a file of the recipe, or a URL.
    pub archive: Option<Spanned<String>>,
    /// A crate: a folder of the recipe, or with `version` one of crates.io.
    pub cargo: Option<Spanned<String>>,
    /// A program, or with `build` a folder with sources.
    pub path: Option<Spanned<String>>,
    /// Of the archive, in hexadecimal.
    pub sha256: Option<Spanned<String>>,
    /// The crate's version.
    pub version: Option<Spanned<String>>,
    /// Features of the crate.
    pub features: Option<Vec<String>>,
    /// Whether the crate's default features are left out.
    pub no_default_features: Option<bool>,
    /// Programs of the crate; all if absent.
    pub binaries: Option<Vec<String>>,
    /// Whether the crate is linked statically.
    #[serde(rename = "static")]
    pub statically: Option<bool>,
    /// Commands that build, each run by `sh`.
    pub build: Option<Vec<String>>,
    /// Debian packages that the commands need.
    pub requires: Option<Vec<String>>,
    /// What the commands make, and where it goes.
    pub output: Option<BTreeMap<Spanned<String>, Spanned<String>>>,
    /// Where a program goes.
    pub target: Option<Spanned<String>>,
}

/// `[[user]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserTable {
    /// The user's name, and the group's.
    pub name: Spanned<String>,
    /// User and group number.
    pub id: u32,
    /// Home directory.
    pub home: Option<Spanned<String>>,
    /// Shell.
    pub shell: Option<Spanned<String>>,
}

/// `[[file]]`: one of `source`, `content`, `link` and `directory`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileTable {
    /// Where in the image.
    pub target: Spanned<String>,
    /// A file or folder beside the recipe.
    pub source: Option<Spanned<String>>,
    /// A text.
    pub content: Option<String>,
    /// A symbolic link to this.
    pub link: Option<String>,
    /// An empty directory.
    pub directory: Option<bool>,
    /// Permissions, octal.
    pub mode: Option<Spanned<String>>,
    /// `USER` or `USER:GROUP`, by name or number.
    pub owner: Option<Spanned<String>>,
}

/// `[[disk]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskTable {
    /// Its name, for the file on the host.
    pub name: Option<Spanned<String>>,
    /// How large it is made.
    pub size: Spanned<String>,
    /// Where it is mounted.
    pub target: Spanned<String>,
}

/// `[[port]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortTable {
    /// What for.
    pub name: Spanned<String>,
    /// The number in the image.
    pub port: Spanned<u16>,
    /// `tcp` or `udp`.
    #[serde(default)]
    pub protocol: ProtocolWord,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProtocolWord {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// `[machine]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineTable {
    /// Memory of a run.
    pub memory: Option<Spanned<String>>,
    /// CPUs of a run.
    pub cpus: Option<Spanned<u32>>,
}

/// `[[check]]`: one of `http`, `send`, `command`, `console` and `exit`, and what belongs to it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckTable {
    /// A path that is fetched.
    pub http: Option<Spanned<String>>,
    /// Bytes that are sent over TCP.
    pub send: Option<Spanned<String>>,
    /// A command on the host.
    pub command: Option<Spanned<String>>,
    /// A text that the console shows.
    pub console: Option<Spanned<String>>,
    /// The exit status of the image.
    pub exit: Option<Spanned<u8>>,
    /// Which of the ports, by name.
    pub port: Option<Spanned<String>>,
    /// The response's or command's status.
    pub status: Option<Spanned<u16>>,
    /// A text in the answer.
    pub expect: Option<Spanned<String>>,
    /// The Debian package with the command.
    pub requires: Option<Spanned<String>>,
    /// Seconds until this must have succeeded.
    pub timeout: Option<Spanned<u32>>,
}
