//! A root file system being put together: what the baker fills and [`crate::writer`] lays out.

use std::{collections::BTreeMap, path::PathBuf};

use crate::rootfs::{MODE_DIRECTORY, MODE_REGULAR, MODE_SYMLINK, MODE_TYPE};

/// Longest chain of symbolic links that a look-up follows, as on Linux.
const LINK_LIMIT: usize = 40;
/// Longest name in a directory.
const NAME_LIMIT: usize = 255;

/// A node's number in its [`Tree`]; hard links are several names for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(usize);

/// The root directory.
pub const ROOT: NodeId = NodeId(0);

/// Permissions, owner and time of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, set-user-ID and the like included; no type bits.
    pub permissions: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since 1970.
    pub modified: i64,
}

impl Attributes {
    /// Owned by root, of time 0.
    pub fn root(permissions: u32) -> Self {
        Attributes { permissions, uid: 0, gid: 0, modified: 0 }
    }
}

/// Where a regular file's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Made by the baker.
    Bytes(Vec<u8>),
    /// A file of the host, and its length when it was looked at.
    File(PathBuf, u64),
}

impl Content {
    /// Bytes in it.
    pub fn length(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::File(_, length) => *length,
        }
    }
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory and its entries.
    Directory(BTreeMap<Vec<u8>, NodeId>),
    /// A regular file.
    Regular(Content),
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// A device node, FIFO or socket: its type bits and device number.
    Special(u32, u64),
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Its attributes.
    pub attributes: Attributes,
}

impl Node {
    /// `st_mode`.
    pub fn mode(&self) -> u32 {
        let kind = match &self.kind {
            Kind::Directory(_) => MODE_DIRECTORY,
            Kind::Regular(_) => MODE_REGULAR,
            Kind::Symlink(_) => MODE_SYMLINK,
            Kind::Special(kind, _) => kind & MODE_TYPE,
        };
        kind | self.attributes.permissions & !MODE_TYPE
    }
}

/// Why something could not be put into a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A path goes through something that isn't a directory.
    #[error("{0}: goes through something that is not a directory")]
    NotADirectory(String),
    /// A path goes round in symbolic links.
    #[error("{0}: too many levels of symbolic links")]
    Loop(String),
    /// A name is too long, or not a name.
    #[error("{0}: not a name that a directory can hold (1 to 255 bytes, no `/`, no NUL)")]
    Name(String),
    /// Something of another kind stands there.
    #[error("{0}: stands there already and is of another kind")]
    Exists(String),
}

/// A tree of nodes.
#[derive(Debug, Clone)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

/// A path as text for a message.
pub fn display(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

impl Tree {
    /// An empty root directory.
    pub fn new() -> Self {
        Tree {
            nodes: vec![Node { kind: Kind::Directory(BTreeMap::new()), attributes: Attributes::root(0o755) }],
        }
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// A node's attributes, to change them.
    pub fn attributes_mut(&mut self, id: NodeId) -> &mut Attributes {
        &mut self.nodes[id.0].attributes
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is nothing but the root directory.
    pub fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }

    /// An entry of a directory; a link is not followed.
    pub fn child(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        match &self.node(directory).kind {
            Kind::Directory(entries) => entries.get(name).copied(),
            _ => None,
        }
    }

    /// Puts a node into a directory. A node of the same kind is replaced, directories are joined.
    pub fn insert(&mut self, directory: NodeId, name: &[u8], node: Node) -> Result<NodeId, Error> {
        if let Some(present) = self.child(directory, name) {
            let both_directories = matches!(self.node(present).kind, Kind::Directory(_))
                && matches!(node.kind, Kind::Directory(_));
            if both_directories {
                self.nodes[present.0].attributes = node.attributes;
                return Ok(present);
            }
            let a_directory = matches!(self.node(present).kind, Kind::Directory(_))
                || matches!(node.kind, Kind::Directory(_));
            if a_directory {
                return Err(Error::Exists(display(name)));
            }
        }
        let id = NodeId(self.nodes.len());
        self.link(directory, name, id)?;
        self.nodes.push(node);
        Ok(id)
    }

    /// Gives a node one more name.
    pub fn link(&mut self, directory: NodeId, name: &[u8], id: NodeId) -> Result<(), Error> {
        let named = !name.is_empty() && name.len() <= NAME_LIMIT && name != b"." && name != b"..";
        if !named || name.iter().any(|&byte| byte == b'/' || byte == 0) {
            return Err(Error::Name(display(name)));
        }
        match &mut self.nodes[directory.0].kind {
            Kind::Directory(entries) => {
                entries.insert(name.to_vec(), id);
                Ok(())
            }
            _ => Err(Error::NotADirectory(display(name))),
        }
    }

    /// Finds what a path leads to, through symbolic links; `None` if there is nothing.
    pub fn resolve(&self, path: &[u8]) -> Result<Option<NodeId>, Error> {
        self.walk(path).map(|found| found.ok())
    }

    /// The directory that a path leads to, through symbolic links; what is absent is made.
    pub fn ensure_directory(&mut self, path: &[u8]) -> Result<NodeId, Error> {
        loop {
            match self.walk(path)? {
                Ok(id) if matches!(self.node(id).kind, Kind::Directory(_)) => return Ok(id),
                Ok(_) => return Err(Error::NotADirectory(display(path))),
                Err((parent, name)) => {
                    let node =
                        Node { kind: Kind::Directory(BTreeMap::new()), attributes: Attributes::root(0o755) };
                    self.insert(parent, &name, node)?;
                }
            }
        }
    }

    /// Puts a node at a path, making the directories it needs.
    pub fn insert_at(&mut self, path: &[u8], node: Node) -> Result<NodeId, Error> {
        let name = components(path).next_back().ok_or_else(|| Error::Name(display(path)))?.to_vec();
        let cut = path.iter().rposition(|&byte| byte != b'/').map_or(0, |end| end + 1);
        let parent = path[..cut].strip_suffix(name.as_slice()).unwrap_or_default();
        let directory = self.ensure_directory(parent)?;
        self.insert(directory, &name, node).map_err(|error| match error {
            Error::Exists(_) => Error::Exists(display(path)),
            other => other,
        })
    }

    /// What the path leads to, or the directory and name where the walk found nothing.
    fn walk(&self, path: &[u8]) -> Result<Result<NodeId, (NodeId, Vec<u8>)>, Error> {
        let mut rest: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
        let mut stack = vec![ROOT];
        let mut links = 0;
        while let Some(name) = rest.pop() {
            let here = *stack.last().unwrap_or(&ROOT);
            if name == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            if !matches!(self.node(here).kind, Kind::Directory(_)) {
                return Err(Error::NotADirectory(display(path)));
            }
            let Some(id) = self.child(here, &name) else { return Ok(Err((here, name))) };
            if let Kind::Symlink(target) = &self.node(id).kind {
                links += 1;
                if links > LINK_LIMIT {
                    return Err(Error::Loop(display(path)));
                }
                if target.first() == Some(&b'/') {
                    stack.truncate(1);
                }
                rest.extend(components(target).rev().map(<[u8]>::to_vec));
            } else {
                stack.push(id);
            }
        }
        Ok(Ok(*stack.last().unwrap_or(&ROOT)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Node {
        Node {
            kind: Kind::Regular(Content::Bytes(text.as_bytes().to_vec())),
            attributes: Attributes::root(0o644),
        }
    }

    fn symlink(target: &str) -> Node {
        Node { kind: Kind::Symlink(target.as_bytes().to_vec()), attributes: Attributes::root(0o777) }
    }

    #[test]
    fn paths_go_through_links() {
        let mut tree = Tree::new();
        tree.insert_at(b"/bin", symlink("usr/bin")).expect("insert");
        tree.insert_at(b"/bin/sh", file("sh")).expect("insert");
        let sh = tree.resolve(b"/usr/bin/../bin/./sh").expect("walk").expect("present");
        assert_eq!(tree.resolve(b"/bin/sh"), Ok(Some(sh)));
        assert_eq!(tree.node(sh).mode(), 0o100_644);
        assert_eq!(tree.resolve(b"/bin/nothing"), Ok(None));
    }

    #[test]
    fn loops_and_non_directories_are_errors() {
        let mut tree = Tree::new();
        tree.insert_at(b"/a", symlink("b")).expect("insert");
        tree.insert_at(b"/b", symlink("/a")).expect("insert");
        assert!(matches!(tree.resolve(b"/a/x"), Err(Error::Loop(_))));
        tree.insert_at(b"/file", file("")).expect("insert");
        assert!(matches!(tree.ensure_directory(b"/file/x"), Err(Error::NotADirectory(_))));
        assert!(matches!(tree.insert_at(b"/", file("")), Err(Error::Name(_))));
        tree.ensure_directory(b"/d").expect("made");
        assert!(matches!(tree.insert_at(b"/d", file("")), Err(Error::Exists(_))));
        assert!(matches!(tree.insert_at(&[b'x'; 256], file("")), Err(Error::Name(_))));
    }
}
