//! Takes files of the host into a root file system at the paths they have, with every symbolic link and
//! directory that those paths go through.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use image::{
    rootfs::MODE_TYPE,
    tree::{self, Attributes, Content, Kind, Node, NodeId, ROOT, Tree},
};

/// Longest chain of symbolic links that is followed, as on Linux.
const LINK_LIMIT: usize = 40;
/// How deep directories may be nested.
const DEPTH_LIMIT: usize = 256;

/// Why a file could not be taken in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host would not let it be read.
    #[error("{}: {source}", path.display())]
    Host {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Symbolic links that lead round.
    #[error("{}: too many levels of symbolic links", .0.display())]
    Loop(PathBuf),
    /// Directories nested too deep, as bind mounts can make them.
    #[error("{}: directories are nested more than {DEPTH_LIMIT} deep", .0.display())]
    Depth(PathBuf),
    /// The tree would not take it.
    #[error(transparent)]
    Tree(#[from] tree::Error),
}

/// Files being taken from the host.
#[derive(Debug, Default)]
pub struct Collection {
    /// What was taken so far.
    pub tree: Tree,
    /// Things worth telling the user.
    pub warnings: Vec<String>,
    /// Files that have several names on the host, by device and inode number.
    hard_links: HashMap<(u64, u64), NodeId>,
    /// Files that stay out: the image itself, by device and inode number.
    excluded: Vec<(u64, u64)>,
    clamp: Clamp,
}

/// How owners and times of the host's files become those of the image.
#[derive(Debug)]
struct Clamp {
    /// The user who bakes: his files belong to root in the image.
    user: Option<u32>,
    group: Option<u32>,
    /// `SOURCE_DATE_EPOCH`: no file is younger.
    newest: i64,
}

impl Default for Clamp {
    fn default() -> Self {
        let own = fs::metadata("/proc/self").ok();
        let newest = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.trim().parse().ok());
        Clamp {
            user: own.as_ref().map(MetadataExt::uid),
            group: own.as_ref().map(MetadataExt::gid),
            newest: newest.unwrap_or(i64::MAX),
        }
    }
}

impl Clamp {
    fn attributes(&self, metadata: &fs::Metadata) -> Attributes {
        let owner = |id: u32, own: Option<u32>| if own == Some(id) { 0 } else { id };
        // A directory's time changes with every file that comes and goes in it, which says nothing about the
        // image; 0 keeps images reproducible.
        let modified = if metadata.is_dir() { 0 } else { metadata.mtime().min(self.newest) };
        Attributes {
            permissions: metadata.mode() & !MODE_TYPE,
            uid: owner(metadata.uid(), self.user),
            gid: owner(metadata.gid(), self.group),
            modified,
        }
    }
}

fn host_error(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Host { path: path.into(), source }
}

/// The host's path for a path of the image.
pub fn host_path(path: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(path))
}

/// Removes `.` and `..` from an absolute path by its text.
pub fn normalise(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    let mut normal = vec![b'/'];
    normal.extend(parts.join(&b'/'));
    normal
}

impl Collection {
    /// Leaves a file of the host out of trees, as the image that is being written.
    pub fn exclude(&mut self, host: &Path) {
        self.excluded.extend(fs::metadata(host).map(|metadata| (metadata.dev(), metadata.ino())));
    }

    /// Where on the host the file is that the image has, or would have, at `path`.
    pub fn locate(&self, path: &[u8]) -> Option<PathBuf> {
        if let Ok(Some(id)) = self.tree.resolve(path) {
            return match &self.tree.node(id).kind {
                Kind::Regular(Content::File(host, _)) => Some(host.clone()),
                _ => None,
            };
        }
        let host = host_path(path);
        fs::metadata(host).is_ok_and(|metadata| metadata.is_file()).then(|| host.into())
    }

    /// Takes in the file that the host has at the absolute path `path`, at the same path.
    pub fn add_path(&mut self, path: &[u8]) -> Result<(), Error> {
        let mut rest: Vec<Vec<u8>> = reversed_components(path);
        // Where the walk is: in the image, on the host, and the directories above, for `..`.
        let mut stack: Vec<(NodeId, PathBuf)> = vec![(ROOT, PathBuf::from("/"))];
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let Some((directory, host_directory)) = stack.last().cloned() else { break };
            let host = host_directory.join(host_path(&name));
            let present = self.tree.child(directory, &name);
            // What the user put there goes before the host's.
            let link = match present.map(|id| (id, &self.tree.node(id).kind)) {
                Some((_, Kind::Symlink(target))) => Some(target.clone()),
                Some((id, Kind::Directory(_))) => {
                    stack.push((id, host));
                    continue;
                }
                Some(_) if rest.is_empty() => return Ok(()),
                Some(_) => return Err(tree::Error::NotADirectory(tree::display(path)).into()),
                None => {
                    let metadata = fs::symlink_metadata(&host).map_err(host_error(&host))?;
                    if metadata.is_symlink() {
                        self.take(directory, &name, &host, &metadata)?;
                        Some(fs::read_link(&host).map_err(host_error(&host))?.into_os_string().into_vec())
                    } else {
                        let id = self.take(directory, &name, &host, &metadata)?;
                        if let Some(id) = id {
                            stack.push((id, host));
                        }
                        None
                    }
                }
            };
            if let Some(target) = link {
                links += 1;
                if links > LINK_LIMIT {
                    return Err(Error::Loop(host_path(path).into()));
                }
                if target.first() == Some(&b'/') {
                    stack.truncate(1);
                }
                rest.extend(reversed_components(&target));
            }
        }
        Ok(())
    }

    /// Puts the host's file `host` at another path of the image.
    pub fn add_file_at(&mut self, path: &[u8], host: &Path) -> Result<(), Error> {
        let metadata = fs::metadata(host).map_err(host_error(host))?;
        let node = Node {
            kind: Kind::Regular(Content::File(host.into(), metadata.len())),
            attributes: self.clamp.attributes(&metadata),
        };
        self.tree.insert_at(path, node)?;
        Ok(())
    }

    /// Takes in everything in the host's directory `host`, at `path` in the image.
    pub fn add_tree(&mut self, host: &Path, path: &[u8]) -> Result<(), Error> {
        let metadata = fs::metadata(host).map_err(host_error(host))?;
        let into = self.tree.ensure_directory(path)?;
        if !metadata.is_dir() {
            let source = io::Error::from(io::ErrorKind::NotADirectory);
            return Err(Error::Host { path: host.into(), source });
        }
        *self.tree.attributes_mut(into) = self.clamp.attributes(&metadata);
        self.add_directory(into, host, metadata.dev(), 0)
    }

    fn add_directory(&mut self, into: NodeId, host: &Path, device: u64, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_LIMIT {
            return Err(Error::Depth(host.into()));
        }
        for entry in fs::read_dir(host).map_err(host_error(host))? {
            let entry = entry.map_err(host_error(host))?;
            let path = entry.path();
            let metadata = fs::symlink_metadata(&path).map_err(host_error(&path))?;
            if self.excluded.contains(&(metadata.dev(), metadata.ino())) {
                continue;
            }
            if metadata.is_dir() && metadata.dev() != device {
                self.warnings.push(format!(
                    "{0}: another file system is mounted there; left out (to have it, add --rootfs {0}:AT)",
                    path.display()
                ));
                continue;
            }
            let name = entry.file_name().into_vec();
            if let Some(id) = self.take(into, &name, &path, &metadata)?
                && metadata.is_dir()
            {
                self.add_directory(id, &path, device, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Puts one file of the host into a directory of the image; of a directory, itself alone.
    fn take(
        &mut self,
        directory: NodeId,
        name: &[u8],
        host: &Path,
        metadata: &fs::Metadata,
    ) -> Result<Option<NodeId>, Error> {
        let kind = metadata.file_type();
        let key = (metadata.dev(), metadata.ino());
        let linked = metadata.nlink() > 1 && !kind.is_dir();
        if linked && let Some(&id) = self.hard_links.get(&key) {
            self.tree.link(directory, name, id)?;
            return Ok(Some(id));
        }
        let kind = if kind.is_dir() {
            Kind::Directory(Default::default())
        } else if kind.is_file() {
            fs::File::open(host).map_err(host_error(host))?;
            Kind::Regular(Content::File(host.into(), metadata.len()))
        } else if kind.is_symlink() {
            Kind::Symlink(fs::read_link(host).map_err(host_error(host))?.into_os_string().into_vec())
        } else if kind.is_socket() {
            self.warnings.push(format!("{}: a socket of a running program; left out", host.display()));
            return Ok(None);
        } else {
            Kind::Special(metadata.mode() & MODE_TYPE, metadata.rdev())
        };
        let node = Node { kind, attributes: self.clamp.attributes(metadata) };
        let id = self.tree.insert(directory, name, node)?;
        if linked {
            self.hard_links.insert(key, id);
        }
        Ok(Some(id))
    }
}

fn reversed_components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&byte| byte == b'/')
        .rev()
        .filter(|name| !name.is_empty() && *name != b".")
        .map(<[u8]>::to_vec)
        .collect()
}
