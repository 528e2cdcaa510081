//! Where the dynamic loaders look for a library.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    rc::Rc,
};

use super::{Object, loader_cache, loader_config};
use crate::collect::{Collection, host_path, normalise};

/// Directories that glibc searches when nothing else helped, Debian's and the traditional ones.
const GLIBC_DEFAULTS: &[&str] =
    &["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];
/// Directories that musl searches.
const MUSL_DEFAULTS: &[&str] = &["/lib", "/usr/local/lib", "/usr/lib"];

/// What the host configures.
#[derive(Debug)]
pub struct SearchPaths {
    /// The loader's cache: library name to path.
    cache: HashMap<Vec<u8>, Vec<u8>>,
    /// Directories of the loader's configuration.
    configured: Vec<Vec<u8>>,
    /// musl's directories.
    musl: Vec<Vec<u8>>,
}

impl SearchPaths {
    /// Reads the host's configuration, or that of the user's trees where they have one.
    pub fn new(collection: &Collection) -> Self {
        let read = |path: &str| collection.locate(path.as_bytes()).and_then(|path| std::fs::read(path).ok());
        let cache = read("/etc/ld.so.cache").map(|bytes| loader_cache::parse(&bytes)).unwrap_or_default();
        let mut by_name = HashMap::new();
        for (name, path) in cache {
            by_name.entry(name).or_insert(path);
        }
        let configured = loader_config::directories(Path::new("/etc/ld.so.conf"));
        let musl = read("/etc/ld-musl-x86_64.path").map_or_else(
            || MUSL_DEFAULTS.iter().map(|path| path.as_bytes().to_vec()).collect(),
            |bytes| {
                bytes
                    .split(|byte| matches!(byte, b'\n' | b':'))
                    .filter(|path| !path.is_empty())
                    .map(<[u8]>::to_vec)
                    .collect()
            },
        );
        SearchPaths { cache: by_name, configured, musl }
    }

    /// Where a library may be, in the loader's order: paths in the image, and on the host if that differs.
    pub fn candidates(
        &self,
        object: &Rc<Object>,
        name: &[u8],
        musl: bool,
    ) -> Vec<(Vec<u8>, Option<PathBuf>)> {
        let mut candidates = Vec::new();
        if name.contains(&b'/') {
            candidates.push((normalise(name), None));
            return candidates;
        }
        let search = |owner: &Object, directory: &[u8], candidates: &mut Vec<_>| {
            let expand = |origin: &[u8]| {
                let mut path = expand(directory, origin);
                path.push(b'/');
                path.extend_from_slice(name);
                normalise(&path)
            };
            let image = expand(parent_of(&owner.image));
            let host = expand(parent_of(owner.host.as_os_str().as_encoded_bytes()));
            let differs = image != host;
            candidates.push((image, differs.then(|| host_path(&host).to_path_buf())));
        };
        let ancestors = std::iter::successors(Some(object), |object| object.parent.as_ref());
        if musl {
            for owner in ancestors {
                for directory in owner.elf.runpath.iter().chain(&owner.elf.rpath) {
                    search(owner, directory, &mut candidates);
                }
            }
            for directory in &self.musl {
                search(object, directory, &mut candidates);
            }
            return candidates;
        }
        if object.elf.runpath.is_empty() {
            for owner in ancestors.filter(|owner| owner.elf.runpath.is_empty()) {
                for directory in &owner.elf.rpath {
                    search(owner, directory, &mut candidates);
                }
            }
        }
        for directory in &object.elf.runpath {
            search(object, directory, &mut candidates);
        }
        if object.elf.no_default_libraries {
            return candidates;
        }
        candidates.extend(self.cache.get(name).map(|path| (normalise(path), None)));
        for directory in &self.configured {
            search(object, directory, &mut candidates);
        }
        for directory in GLIBC_DEFAULTS {
            search(object, directory.as_bytes(), &mut candidates);
        }
        candidates
    }
}

/// musl's loader is its C library under every name that it may be needed by.
pub fn is_musl_itself(name: &[u8]) -> bool {
    let parts: [&[u8]; 7] = [b"c.", b"pthread.", b"rt.", b"m.", b"dl.", b"util.", b"xnet."];
    name.strip_prefix(b"lib").is_some_and(|rest| parts.iter().any(|part| rest.starts_with(part)))
}

/// The directory that a path is in.
pub fn parent_of(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|&byte| byte == b'/').unwrap_or(0)]
}

/// Replaces `$ORIGIN`, `$LIB` and `$PLATFORM` in a directory of a search path.
fn expand(directory: &[u8], origin: &[u8]) -> Vec<u8> {
    let names: [(&[u8], &[u8]); 6] = [
        (b"${ORIGIN}", origin),
        (b"$ORIGIN", origin),
        (b"${LIB}", b"lib/x86_64-linux-gnu"),
        (b"$LIB", b"lib/x86_64-linux-gnu"),
        (b"${PLATFORM}", b"x86_64"),
        (b"$PLATFORM", b"x86_64"),
    ];
    let mut expanded = Vec::new();
    let mut rest = directory;
    while let Some((&byte, tail)) = rest.split_first() {
        match names.iter().find(|(name, _)| rest.starts_with(name)) {
            Some((name, value)) => {
                expanded.extend_from_slice(value);
                rest = &rest[name.len()..];
            }
            None => {
                expanded.push(byte);
                rest = tail;
            }
        }
    }
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_is_expanded() {
        assert_eq!(expand(b"$ORIGIN/../lib:x", b"/opt/bin"), b"/opt/bin/../lib:x");
        assert_eq!(expand(b"/a/${LIB}", b""), b"/a/lib/x86_64-linux-gnu");
    }
}
