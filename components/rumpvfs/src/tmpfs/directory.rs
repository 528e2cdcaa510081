//! Directories: names of their own, over those of the image that haven't been removed.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    vec::Vec,
};

use hashbrown::HashMap;
use image::rootfs::Entry;

use super::{Shared, node::Node};
use crate::vnode::Kind;

/// Position of the first entry behind "." and "..".
const FIRST: u64 = 2;

/// The names of a directory.
pub struct Names {
    /// The directory above; a root's is itself.
    pub parent: Weak<Node>,
    /// The directory was removed: nothing can be created in it.
    pub removed: bool,
    own: HashMap<Arc<[u8]>, (u64, Arc<Node>)>,
    /// The own names by position.
    order: BTreeMap<u64, Arc<[u8]>>,
    next: u64,
    /// The image's entries, sorted by name, and the indexes of those that are gone.
    image: &'static [Entry],
    gone: BTreeSet<usize>,
}

/// A name found while listing.
pub struct Listed {
    pub name: Arc<[u8]>,
    pub inode: u64,
    pub kind: Kind,
    pub next: u64,
}

impl Names {
    /// The names that the image has.
    pub fn new(parent: Weak<Node>, image: &'static [Entry]) -> Self {
        Names {
            parent,
            removed: false,
            own: HashMap::new(),
            order: BTreeMap::new(),
            next: FIRST + image.len() as u64,
            image,
            gone: BTreeSet::new(),
        }
    }

    fn image_index(&self, name: &[u8], shared: &Shared) -> Option<usize> {
        if self.image.is_empty() {
            return None;
        }
        let image = shared.image()?;
        let index = self.image.binary_search_by(|entry| image.name(entry).cmp(name)).ok()?;
        (!self.gone.contains(&index)).then_some(index)
    }

    /// Finds a name. `directory` is this directory.
    pub fn find(&self, name: &[u8], directory: &Arc<Node>) -> Option<Arc<Node>> {
        if let Some((_, node)) = self.own.get(name) {
            return Some(node.clone());
        }
        let shared = directory.shared();
        let index = self.image_index(name, shared)?;
        shared.image_node(self.image[index].inode.get(), directory)
    }

    /// Adds a name, which is not taken.
    pub fn insert(&mut self, name: &[u8], node: Arc<Node>) {
        let name: Arc<[u8]> = Arc::from(name);
        let position = self.next;
        self.next += 1;
        self.order.insert(position, name.clone());
        self.own.insert(name, (position, node));
    }

    /// Removes a name, which is there.
    pub fn remove(&mut self, name: &[u8], shared: &Shared) {
        if let Some((position, _)) = self.own.remove(name) {
            self.order.remove(&position);
        } else if let Some(index) = self.image_index(name, shared) {
            self.gone.insert(index);
        }
    }

    /// Whether it has no names.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty() && self.gone.len() == self.image.len()
    }

    /// The size that stat(2) shows, as Linux's tmpfs computes it.
    pub fn size(&self) -> u64 {
        let names = self.own.len() + self.image.len() - self.gone.len();
        20 * (names as u64 + 2)
    }

    /// Up to `most` names from `position` on ("." and ".." not among them).
    pub fn list(&self, position: u64, most: usize, shared: &Shared) -> Vec<Listed> {
        let mut listed = Vec::new();
        let skip = usize::try_from(position.saturating_sub(FIRST)).unwrap_or(usize::MAX);
        if let Some(image) = shared.image() {
            for (index, entry) in self.image.iter().enumerate().skip(skip) {
                if listed.len() >= most {
                    return listed;
                }
                if self.gone.contains(&index) {
                    continue;
                }
                let number = entry.inode.get();
                let mode = image.inode(number).map_or(0, |inode| inode.mode.get());
                listed.push(Listed {
                    name: Arc::from(image.name(entry)),
                    inode: u64::from(number) + 1,
                    kind: Kind::from_mode(mode).unwrap_or(Kind::Regular),
                    next: FIRST + index as u64 + 1,
                });
            }
        }
        for (&at, name) in self.order.range(position..) {
            if listed.len() >= most {
                break;
            }
            let Some((_, node)) = self.own.get(name) else { continue };
            listed.push(Listed {
                name: name.clone(),
                inode: node.inode(),
                kind: node.kind_of(),
                next: at + 1,
            });
        }
        listed
    }

    /// Takes the nodes out, when the directory itself goes.
    pub fn drain(&mut self) -> Vec<Arc<Node>> {
        self.order.clear();
        self.own.drain().map(|(_, (_, node))| node).collect()
    }
}
