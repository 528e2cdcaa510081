//! The copy of a tree that is built from: directories of its own, symbolic links to the tree's files, and real files
//! where patches changed them. The tree itself is only read.
//!
//! `make` goes by times, so a file that was patched before and no longer is becomes a fresh copy, not a link to an old file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, FileType},
    io,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
};

use super::{Error, host, write_new};
use crate::hash::Parts;

/// Directories of version control, which no build looks at.
const SKIPPED: &[&str] = &[".git", ".hg", "CVS"];

/// What is in a tree.
#[derive(Debug, Default)]
pub struct Contents {
    /// Directories below the root.
    pub directories: BTreeSet<PathBuf>,
    /// Everything else, with its size and time of change in nanoseconds.
    pub files: BTreeMap<PathBuf, (u64, i128)>,
}

impl Contents {
    /// Reads the names, sizes and times of a tree.
    pub fn read(root: &Path) -> Result<Self, Error> {
        let mut contents = Contents::default();
        let mut open = vec![PathBuf::new()];
        while let Some(directory) = open.pop() {
            let path = root.join(&directory);
            for entry in fs::read_dir(&path).map_err(host(path.display()))? {
                let entry = entry.map_err(host(path.display()))?;
                let relative = directory.join(entry.file_name());
                let kind = entry.file_type().map_err(host(entry.path().display()))?;
                if kind.is_dir() {
                    if !SKIPPED.iter().any(|name| entry.file_name() == *name) {
                        contents.directories.insert(relative.clone());
                        open.push(relative);
                    }
                } else {
                    // A symbolic link that leads nowhere is no file for a build either.
                    let state = fs::metadata(entry.path()).map(|data| {
                        (data.len(), i128::from(data.mtime()) * 1_000_000_000 + i128::from(data.mtime_nsec()))
                    });
                    contents.files.insert(relative, state.unwrap_or_default());
                }
            }
        }
        Ok(contents)
    }

    /// A hash of names, sizes and times of the files that `chosen` takes.
    pub fn digest(&self, chosen: impl Fn(&Path) -> bool) -> String {
        let mut hash = Parts::default();
        for (path, (size, time)) in self.files.iter().filter(|(path, _)| chosen(path)) {
            hash.add(path.as_os_str().as_encoded_bytes());
            hash.add(size.to_le_bytes());
            hash.add(time.to_le_bytes());
        }
        hash.finish()
    }
}

/// Brings the overlay at `at` up to date: the tree at `root`, with `changes` (nothing where a file is removed).
pub fn update(
    root: &Path,
    contents: &Contents,
    changes: &BTreeMap<PathBuf, Option<Vec<u8>>>,
    at: &Path,
) -> Result<(), Error> {
    let mut directories = contents.directories.clone();
    for path in changes.iter().filter(|(_, content)| content.is_some()).map(|(path, _)| path) {
        directories
            .extend(path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).map(PathBuf::from));
    }
    fs::create_dir_all(at).map_err(host(at.display()))?;
    let present = remove_others(at, &directories, contents, changes)?;
    for directory in directories.difference(&present.directories) {
        let path = at.join(directory);
        fs::create_dir(&path).map_err(host(path.display()))?;
    }
    for path in contents.files.keys().filter(|path| !changes.contains_key(*path)) {
        let (original, copy) = (root.join(path), at.join(path));
        match present.files.get(path) {
            Some(kind) if kind.is_symlink() => {
                if fs::read_link(&copy).map_err(host(copy.display()))? != original {
                    fs::remove_file(&copy).map_err(host(copy.display()))?;
                    symlink(&original, &copy).map_err(host(copy.display()))?;
                }
            }
            Some(_) => replace(&copy, &fs::read(&original).map_err(host(original.display()))?)?,
            None => symlink(&original, &copy).map_err(host(copy.display()))?,
        }
    }
    for (path, content) in changes {
        if let Some(content) = content {
            replace(&at.join(path), content)?;
        }
    }
    Ok(())
}

/// Gives a file content, unless it has it.
fn replace(path: &Path, content: &[u8]) -> Result<(), Error> {
    let link = fs::symlink_metadata(path).is_ok_and(|data| data.is_symlink());
    if !link && fs::read(path).is_ok_and(|present| present == content) {
        return Ok(());
    }
    write_new(path, content)
}

/// What an overlay has.
#[derive(Default)]
struct Present {
    directories: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, FileType>,
}

/// Removes from the overlay what is no longer in the tree.
fn remove_others(
    at: &Path,
    directories: &BTreeSet<PathBuf>,
    contents: &Contents,
    changes: &BTreeMap<PathBuf, Option<Vec<u8>>>,
) -> Result<Present, Error> {
    let mut present = Present::default();
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        let path = at.join(&directory);
        for entry in fs::read_dir(&path).map_err(host(path.display()))? {
            let entry = entry.map_err(host(path.display()))?;
            let relative = directory.join(entry.file_name());
            let kind = entry.file_type().map_err(host(entry.path().display()))?;
            let wanted = match changes.get(&relative) {
                Some(content) => content.is_some(),
                None if kind.is_dir() => directories.contains(&relative),
                None => contents.files.contains_key(&relative),
            };
            let removed = match (wanted, kind.is_dir()) {
                (true, true) => {
                    present.directories.insert(relative.clone());
                    open.push(relative);
                    Ok(())
                }
                (true, false) => {
                    present.files.insert(relative, kind);
                    Ok(())
                }
                (false, true) => fs::remove_dir_all(entry.path()),
                (false, false) => fs::remove_file(entry.path()),
            };
            removed.or_else(ignore_absent).map_err(host(entry.path().display()))?;
        }
    }
    Ok(present)
}

fn ignore_absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_patched_files_and_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let (root, at) = (folder.path().join("tree"), folder.path().join("overlay"));
        fs::create_dir_all(root.join("sys/.git")).expect("a folder");
        fs::write(root.join("sys/a"), "a").expect("a file");
        fs::write(root.join("sys/b"), "b").expect("a file");
        let refresh = |changes: &[(&str, Option<&str>)]| {
            let changes =
                changes.iter().map(|(path, text)| (path.into(), text.map(|text| text.into()))).collect();
            let contents = Contents::read(&root).expect("a tree");
            update(&root, &contents, &changes, &at).expect("an overlay");
        };
        let is_link = |path: &str| fs::symlink_metadata(at.join(path)).expect("a file").is_symlink();
        refresh(&[]);
        assert!(is_link("sys/a") && is_link("sys/b") && !at.join("sys/.git").exists());
        refresh(&[("sys/a", Some("A")), ("sys/b", None), ("new/c", Some("c"))]);
        assert_eq!(fs::read(at.join("sys/a")).expect("a file"), b"A");
        assert_eq!(fs::read(root.join("sys/a")).expect("a file"), b"a", "the tree is not written to");
        assert!(!is_link("sys/a") && !at.join("sys/b").exists() && at.join("new/c").is_file());
        let time = || fs::metadata(at.join("sys/a")).expect("a file").modified().expect("a time");
        let before = time();
        refresh(&[("sys/a", Some("A"))]);
        assert_eq!(time(), before, "what did not change is not written again");
        assert!(!at.join("new").exists());
        refresh(&[]);
        assert_eq!(fs::read(at.join("sys/a")).expect("a file"), b"a");
        assert!(!is_link("sys/a"), "a copy, which is newer than what was made of the patched file");
        fs::remove_file(root.join("sys/a")).expect("removing");
        refresh(&[]);
        assert!(!at.join("sys/a").exists());
    }

    #[test]
    fn digests_follow_files() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("a"), "a").expect("a file");
        let digest = || Contents::read(folder.path()).expect("a tree").digest(|path| path != Path::new("x"));
        let first = digest();
        assert_eq!(digest(), first);
        fs::write(folder.path().join("x"), "").expect("a file");
        assert_eq!(digest(), first);
        fs::write(folder.path().join("a"), "aa").expect("a file");
        assert_ne!(digest(), first);
    }
}
