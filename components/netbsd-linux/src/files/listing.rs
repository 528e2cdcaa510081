//! The names of a directory with positions that stay: NetBSD tells positions of whole blocks of entries only.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use core::ops::ControlFlow;

use rumpvfs::vnode::Kind;

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name.
    pub name: Arc<[u8]>,
    /// The inode number.
    pub inode: u64,
    /// The type, if it is known.
    pub kind: Option<Kind>,
}

/// The entries, as they were when somebody last began to read. A name keeps its position as long as it is there.
#[derive(Debug, Default)]
pub struct Listing {
    entries: BTreeMap<u64, Listed>,
    positions: BTreeMap<Arc<[u8]>, u64>,
    next: u64,
}

impl Listing {
    /// Whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes what the directory has now.
    pub fn renew(&mut self, found: impl Iterator<Item = Listed>) {
        let mut gone: BTreeSet<u64> = self.entries.keys().copied().collect();
        for entry in found {
            let position = match self.positions.get(&entry.name) {
                Some(&position) => position,
                None => {
                    self.next += 1;
                    self.positions.insert(entry.name.clone(), self.next);
                    self.next
                }
            };
            gone.remove(&position);
            self.entries.insert(position, entry);
        }
        for position in gone {
            if let Some(entry) = self.entries.remove(&position) {
                self.positions.remove(&entry.name);
            }
        }
    }

    /// Visits the entries behind a position (0: all) with their own, until told to stop.
    pub fn visit(&self, behind: u64, mut visit: impl FnMut(u64, &Listed) -> ControlFlow<()>) {
        for (&position, entry) in self.entries.range(behind.saturating_add(1)..) {
            if visit(position, entry).is_break() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn listed(name: &str) -> Listed {
        Listed { name: name.as_bytes().into(), inode: 1, kind: None }
    }

    fn names(listing: &Listing, behind: u64, most: usize) -> (Vec<Arc<[u8]>>, u64) {
        let (mut names, mut last) = (Vec::new(), behind);
        listing.visit(behind, |position, entry| {
            names.push(entry.name.clone());
            last = position;
            if names.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        (names, last)
    }

    #[test]
    fn a_reader_goes_on_where_it_was() {
        let mut listing = Listing::default();
        assert!(listing.is_empty());
        listing.renew(["a", "b", "c", "d"].map(listed).into_iter());
        let (first, position) = names(&listing, 0, 2);
        assert_eq!(first, [*b"a", *b"b"].map(|name| Arc::from(&name[..])));
        // Another reader begins when names have gone and come.
        listing.renew(["e", "d", "b", "c"].map(listed).into_iter());
        let (rest, _) = names(&listing, position, 9);
        assert_eq!(rest, [*b"c", *b"d", *b"e"].map(|name| Arc::from(&name[..])));
        assert_eq!(names(&listing, 0, 9).0.len(), 4);
        assert!(names(&listing, u64::MAX, 9).0.is_empty());
    }
}
