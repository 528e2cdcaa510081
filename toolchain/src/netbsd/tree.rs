//! What a NetBSD tree is: where it is, which release, and whether what rump kernels need is there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Error, host};

/// Where a tree comes from, in one line.
pub const WHERE_FROM: &str = "Get the sources of a release from the NetBSD Foundation: `git clone --depth 1 --branch \
                              netbsd-10 https://github.com/NetBSD/src`, or syssrc, src and sharesrc of a release from \
                              cdn.NetBSD.org";

/// What every tree that can be built has, and why it is needed.
const PARTS: &[&str] =
    &["sys/sys/param.h", "sys/rump/Makefile", "build.sh", "share/mk/bsd.own.mk", "tools/Makefile"];

/// A tree.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Its directory, absolute.
    pub root: PathBuf,
    /// Its version, as `7.99.34` or `10.1`.
    pub version: String,
}

impl Tree {
    /// Looks at a directory.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let root = fs::canonicalize(path).map_err(host(path.display()))?;
        for part in PARTS {
            if !root.join(part).is_file() {
                return Err(Error::NoTree { path: path.into(), missing: part });
            }
        }
        let header = root.join(PARTS[0]);
        let text = fs::read(&header).map_err(host(header.display()))?;
        let version = version(&String::from_utf8_lossy(&text))
            .ok_or_else(|| Error::Other(format!("{}: no __NetBSD_Version__ there", header.display())))?;
        Ok(Tree { root, version })
    }

    /// Whether the tree has userspace: a C library and its headers.
    pub fn has_userspace(&self) -> bool {
        self.root.join("lib/libc/Makefile").is_file() && self.root.join("include/Makefile").is_file()
    }
}

/// The version in the text of `sys/param.h`. `__NetBSD_Version__` is `MMmmrrpp00`: major, minor, unused, patch level
/// (sys/param.h, param(3)).
fn version(header: &str) -> Option<String> {
    let number = header.lines().find_map(|line| {
        let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("define")?;
        rest.trim_start().strip_prefix("__NetBSD_Version__")?.split_whitespace().next()?.parse::<u64>().ok()
    })?;
    let (major, minor, patch) = (number / 100_000_000, number / 1_000_000 % 100, number / 100 % 10_000);
    Some(if patch == 0 { format!("{major}.{minor}") } else { format!("{major}.{minor}.{patch}") })
}

/// Whether `release` begins with `prefix`, by whole numbers: `7.99` begins 7.99.34, `1` doesn't begin 10.
pub fn release_begins(release: &str, prefix: &str) -> bool {
    release.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let header = |number: &str| format!("#include <x>\n#define\t__NetBSD_Version__\t{number}\t/* x */\n");
        assert_eq!(version(&header("799003400")).as_deref(), Some("7.99.34"));
        assert_eq!(version(&header("1000000000")).as_deref(), Some("10.0"));
        assert_eq!(version(&header("1001000000")).as_deref(), Some("10.1"));
        assert_eq!(version(&header("904000000")).as_deref(), Some("9.4"));
        assert_eq!(version(&header("x")), None);
        assert_eq!(version(""), None);
    }

    #[test]
    fn beginnings() {
        assert!(
            release_begins("7.99.34", "7.99") && release_begins("10.1", "10") && release_begins("9", "9")
        );
        assert!(!release_begins("10.1", "1") && !release_begins("7.9", "7.99"));
    }

    #[test]
    fn half_a_tree_is_told_from_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = |tree: &Path| match Tree::open(tree) {
            Err(Error::NoTree { missing, .. }) => missing,
            other => panic!("{other:?}"),
        };
        assert_eq!(missing(folder.path()), "sys/sys/param.h");
        fs::create_dir_all(folder.path().join("sys/sys")).expect("a folder");
        fs::write(folder.path().join("sys/sys/param.h"), "").expect("a file");
        assert_eq!(missing(folder.path()), "sys/rump/Makefile");
        assert!(Tree::open(&folder.path().join("absent")).is_err());
    }
}
