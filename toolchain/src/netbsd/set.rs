//! Installed component sets: `<data>/netbsd/<name>/` with `set.json`, `lib/rump/` (components), `lib/` (libraries) and
//! `include/`. A set appears whole or not at all.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use serde::{Deserialize, Serialize};

use super::{Error, components::Group, host};
use crate::output;

/// Names the directory of a set, instead of an installed one.
pub const SET_VARIABLE: &str = "RUMPRUN_BAKE_NETBSD_SET";
/// The directory for what users keep, instead of the XDG data directory.
pub const DATA_VARIABLE: &str = "RUMPRUN_BAKE_DATA";
/// The description of a set.
pub const DESCRIPTION: &str = "set.json";

/// A patch that a set was built with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetPatch {
    /// Its name.
    pub name: String,
    /// The hash of its file.
    pub sha256: String,
}

/// A component or library of a set.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SetComponent {
    /// The library's name, without `lib` and suffix.
    pub name: String,
    /// Its file, in the set.
    pub archive: PathBuf,
    /// What it is part of.
    pub group: Group,
    /// What it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

/// What a set says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Set {
    /// Its name: the release, and what is special about it.
    pub name: String,
    /// The patch set's release, as `7.99`; the tree's version if there is none.
    pub release: String,
    /// The tree's version.
    pub version: String,
    /// The machine, as NetBSD names it.
    pub machine: String,
    /// A hash of the names, sizes and times of the tree's files.
    pub source: String,
    /// The patches, in their order.
    pub patches: Vec<SetPatch>,
    /// The compiler.
    pub compiler: String,
    /// Its flags.
    pub flags: String,
    /// The version of the linker that came with its assembler, as `2.40`; nothing if that isn't known.
    #[serde(default)]
    pub linker: String,
    /// Whether assertions and debug information are in.
    pub diagnostic: bool,
    /// A hash of everything that it was built from and with.
    pub key: String,
    /// The kernel's components.
    pub components: Vec<SetComponent>,
    /// Userspace's libraries.
    pub libraries: Vec<SetComponent>,
    /// What did not build.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
    /// Where it is.
    #[serde(skip)]
    pub directory: PathBuf,
}

/// The directory of a set: a path, the one that [`SET_VARIABLE`] names, or an installed set's. Only its files are looked
/// at when it is used, so one that was put together by hand serves, too.
pub fn directory(name: Option<&str>) -> Result<PathBuf, Error> {
    if let Some(path) = env::var_os(SET_VARIABLE).filter(|_| name.is_none()) {
        return Ok(path.into());
    }
    match name.filter(|name| Path::new(name).components().count() > 1) {
        Some(path) => Ok(path.into()),
        None => Ok(Set::find(&folder()?, name)?.directory),
    }
}

/// The version in what `ld --version` says: the last word of its first line, as numbers.
fn version_of_linker(text: &str) -> Option<Vec<u32>> {
    let word = text.lines().next()?.split_whitespace().last()?;
    let numbers = word.split('-').next()?.split('.').map(str::parse);
    numbers.collect::<Result<_, _>>().ok()
}

/// What this machine's `ld` says of its version, as `2.40`; empty if that can't be told.
pub fn linker() -> String {
    let output = Command::new("ld").arg("--version").output();
    let version = output.ok().and_then(|output| version_of_linker(&String::from_utf8_lossy(&output.stdout)));
    version.unwrap_or_default().iter().map(u32::to_string).collect::<Vec<_>>().join(".")
}

/// The directory of installed sets.
pub fn folder() -> Result<PathBuf, Error> {
    let directory = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    directory(DATA_VARIABLE)
        .or_else(|| Some(directory("XDG_DATA_HOME")?.join("rumprun-bake")))
        .or_else(|| Some(directory("HOME")?.join(".local/share/rumprun-bake")))
        .map(|data| data.join("netbsd"))
        .ok_or_else(|| Error::Other(format!("no data directory: set HOME, XDG_DATA_HOME or {DATA_VARIABLE}")))
}

impl Set {
    /// The installed sets, by name.
    pub fn all(folder: &Path) -> Result<Vec<Self>, Error> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(host(folder.display()))?,
        };
        let mut sets = Vec::new();
        for entry in entries {
            let path = entry.map_err(host(folder.display()))?.path();
            if path.join(DESCRIPTION).is_file() {
                sets.push(Self::read(&path)?);
            }
        }
        sets.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(sets)
    }

    /// The set of a name; without one, the only set that there is.
    pub fn find(folder: &Path, name: Option<&str>) -> Result<Self, Error> {
        let mut sets = Self::all(folder)?;
        let names: Vec<_> = sets.iter().map(|set| set.name.clone()).collect();
        let at = match name {
            Some(name) => sets.iter().position(|set| set.name == name),
            None => (sets.len() == 1).then_some(0),
        };
        let at = at.ok_or_else(|| {
            // A path has more than one component.
            let folder = name.filter(|name| Path::new(name).is_dir());
            let hint = folder.map_or(String::new(), |name| format!("; the directory is ./{name}"));
            let message = match (names.is_empty(), name) {
                (true, _) => {
                    "no NetBSD component set is installed; `netbsd build --src DIR` makes one".into()
                }
                (false, Some(name)) => {
                    format!("no NetBSD component set {name}; there are: {}", names.join(", "))
                }
                (false, None) => format!("several NetBSD component sets: say which of {}", names.join(", ")),
            };
            Error::Other(format!("{message}{hint}"))
        })?;
        Ok(sets.swap_remove(at))
    }

    /// The set in a directory.
    pub fn read(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(DESCRIPTION);
        let bytes = fs::read(&path).map_err(host(path.display()))?;
        let set: Self = serde_json::from_slice(&bytes)
            .map_err(|error| Error::Other(format!("{}: {error}; build the set again", path.display())))?;
        Ok(Set { directory: directory.into(), ..set })
    }

    /// Refuses a linker that is older than the one that came with the assembler of the set's objects: it may pass over
    /// what it doesn't know in them, and the image would not start.
    pub fn check_linker(&self, linker: &str) -> Result<(), Error> {
        match (version_of_linker(linker), version_of_linker(&self.linker)) {
            (Some(own), Some(needed)) if own < needed => Err(Error::Other(format!(
                "the NetBSD component set {} was built with binutils {}, and this machine's ld is of {linker}: install \
                 newer binutils, or build the set again with these",
                self.name, self.linker
            ))),
            _ => Ok(()),
        }
    }

    /// Installs what `fill` puts into an empty directory, in place of a set of the same name.
    pub fn install(
        mut self,
        folder: &Path,
        fill: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(host(folder.display()))?;
        let temporary =
            output::temporary_folder_in(folder, ".new-").map_err(|error| Error::Other(error.to_string()))?;
        let fresh = temporary.path().join("set");
        fs::create_dir(&fresh).map_err(host(fresh.display()))?;
        fill(&fresh)?;
        // The set is also a system root: /usr/include and /usr/lib are its own.
        std::os::unix::fs::symlink(".", fresh.join("usr")).map_err(host(fresh.display()))?;
        let json = serde_json::to_vec_pretty(&self).map_err(|error| Error::Other(error.to_string()))?;
        fs::write(fresh.join(DESCRIPTION), json).map_err(host(fresh.display()))?;
        self.directory = folder.join(&self.name);
        if self.directory.exists() {
            let old = temporary.path().join("old");
            fs::rename(&self.directory, &old).map_err(host(self.directory.display()))?;
        }
        fs::rename(&fresh, &self.directory).map_err(host(self.directory.display()))?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str) -> Set {
        Set {
            name: name.into(),
            release: "7.99".into(),
            version: "7.99.34".into(),
            machine: "amd64".into(),
            source: "0".into(),
            patches: Vec::new(),
            compiler: "gcc".into(),
            flags: "-O2".into(),
            linker: "2.40".into(),
            diagnostic: false,
            key: "1".into(),
            components: Vec::new(),
            libraries: Vec::new(),
            failed: Vec::new(),
            directory: PathBuf::new(),
        }
    }

    #[test]
    fn older_linkers_are_refused() {
        for (text, version) in [
            ("GNU ld (GNU Binutils for Debian) 2.40\nmore\n", Some(vec![2, 40])),
            ("GNU ld version 2.30-113.el8", Some(vec![2, 30])),
            ("GNU ld (GNU Binutils) 2.43.1", Some(vec![2, 43, 1])),
            ("LLD (compatible with GNU linkers)", None),
            ("", None),
        ] {
            assert_eq!(version_of_linker(text), version, "{text}");
        }
        let set = set("a");
        for fine in ["2.40", "2.41", "2.40.1", ""] {
            assert!(set.check_linker(fine).is_ok(), "{fine}");
        }
        let message = set.check_linker("2.39.90").expect_err("an old one").to_string();
        assert!(message.contains("binutils 2.40") && message.contains("of 2.39.90"), "{message}");
        assert!(Set { linker: String::new(), ..set }.check_linker("2.1").is_ok(), "a set that doesn't say");
    }

    #[test]
    fn sets_replace_each_other_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("netbsd");
        assert!(Set::all(&folder).expect("none").is_empty());
        assert!(Set::find(&folder, None).expect_err("none").to_string().contains("netbsd build"));
        let fill =
            |text: &'static str| move |at: &Path| fs::write(at.join("file"), text).map_err(host("file"));
        set("a").install(&folder, fill("1")).expect("a set");
        let installed = set("a").install(&folder, fill("2")).expect("a set");
        assert_eq!(fs::read(installed.directory.join("usr/file")).expect("a file"), b"2");
        set("b").install(&folder, |_| Err(Error::Other("no".into()))).expect_err("what cannot be filled");
        assert_eq!(Set::find(&folder, None).expect("the only set").name, "a");
        set("b").install(&folder, |_| Ok(())).expect("a set");
        assert!(Set::find(&folder, None).expect_err("two").to_string().contains("a, b"));
        assert_eq!(Set::find(&folder, Some("b")).expect("a set").version, "7.99.34");
        assert!(Set::find(&folder, Some("c")).expect_err("no such set").to_string().contains("a, b"));
        let hint = Set::find(&folder, Some("src")).expect_err("no such set").to_string();
        assert!(hint.ends_with("; the directory is ./src"), "tests run where there is src: {hint}");
        assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 2, "nothing temporary is left");
    }
}
