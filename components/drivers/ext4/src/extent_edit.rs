//! The extent tree: adding and removing extents, splitting and freeing nodes.

use alloc::vec::Vec;

use crate::{
    error::{Error, Result},
    extent::{ENTRY, Entries, Extent, MOST_LEVELS, Node, Place},
    inode::Inode,
    volume::Volume,
};

/// A node that was split off: its first key and its block.
type Split = Option<(u32, u64)>;

/// What [`Volume::remove_extents`] does with the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Frees them; they are a file's data.
    Data,
    /// Frees them; they went through the metadata cache (directories, symbolic links).
    Metadata,
    /// Leaves them allocated: the extent is about to be inserted in another form.
    Keep,
}

/// A removal under way.
struct Removal {
    from: u64,
    to: u64,
    release: Release,
    /// How many extents may still be touched.
    budget: u32,
    /// The part behind the range of an extent that reaches beyond both of its ends.
    rest: Option<Extent>,
    /// Stopped for lack of budget.
    incomplete: bool,
}

impl Volume {
    /// Adds an extent where there is a hole. The caller writes the inode.
    pub fn insert_extent(&mut self, inode: &mut Inode, extent: Extent) -> Result<()> {
        let root = self.extent_node(inode, Place::Root, None)?;
        let full = match &root.entries {
            Entries::Extents(extents) => extents.len() >= root.most,
            Entries::Children(children) => children.len() >= root.most,
        };
        // A full root moves down one level before anything below it might be split.
        if full && (root.depth > 0 || !merges(&root, extent)) {
            self.deepen_tree(inode, root)?;
        }
        let root = self.extent_node(inode, Place::Root, None)?;
        match self.insert_into(inode, root, extent)? {
            None => Ok(()),
            Some(_) => Err(Error::Corrupt("extent tree root")),
        }
    }

    fn new_tree_block(&mut self, inode: &mut Inode, goal: u64) -> Result<u64> {
        let block = self.allocate_metadata(goal)?;
        inode.add_blocks(1, self.geometry.block_size);
        Ok(block)
    }

    fn entries_per_block(&self) -> usize {
        self.geometry.block_size / ENTRY - 1
    }

    fn deepen_tree(&mut self, inode: &mut Inode, mut root: Node) -> Result<()> {
        if root.depth >= MOST_LEVELS {
            return Err(Error::FileTooLarge);
        }
        // At a root full of children, deepening is needed only if one of them gets split; a tree that
        // is deeper than necessary is valid all the same.
        let goal = self.inode_goal(inode);
        let block = self.new_tree_block(inode, goal)?;
        let key = root.first_key().unwrap_or(0);
        let (depth, most) = (root.depth + 1, root.most);
        root.place = Place::Block(block);
        root.most = self.entries_per_block();
        self.put_extent_node(inode, &root)?;
        let children = Entries::Children([(key, block)].into());
        self.put_extent_node(inode, &Node { place: Place::Root, depth, most, entries: children })
    }

    fn insert_into(&mut self, inode: &mut Inode, mut node: Node, extent: Extent) -> Result<Split> {
        let depth = node.depth;
        let (place, most) = (node.place, node.most);
        match &mut node.entries {
            Entries::Extents(extents) => {
                let position = extents.partition_point(|other| other.logical <= extent.logical);
                let before_overlaps = position > 0 && extents[position - 1].end() > u64::from(extent.logical);
                let after_overlaps =
                    extents.get(position).is_some_and(|next| u64::from(next.logical) < extent.end());
                if before_overlaps || after_overlaps {
                    return Err(Error::Corrupt("overlapping extents"));
                }
                if !merge(extents, position, extent) {
                    extents.insert(position, extent);
                }
                if extents.len() <= most {
                    self.put_extent_node(inode, &node)?;
                    return Ok(None);
                }
                // Files mostly grow at their end: leave the old leaf full then.
                let middle = if position + 1 == extents.len() { position } else { extents.len() / 2 };
                let upper = Entries::Extents(extents.split_off(middle));
                self.split(inode, node, upper, extent.physical)
            }
            Entries::Children(children) => {
                if children.is_empty() {
                    return Err(Error::Corrupt("empty extent index"));
                }
                let index = children.partition_point(|child| child.0 <= extent.logical).saturating_sub(1);
                let lower_key = extent.logical < children[index].0;
                if lower_key {
                    children[index].0 = extent.logical;
                }
                let child = self.extent_node(inode, Place::Block(children[index].1), Some(depth - 1))?;
                match self.insert_into(inode, child, extent)? {
                    None if !lower_key => return Ok(None),
                    None => {}
                    Some(split) => children.insert(index + 1, split),
                }
                if children.len() <= most {
                    self.put_extent_node(inode, &node)?;
                    return Ok(None);
                }
                if place == Place::Root {
                    return Err(Error::Corrupt("extent tree root"));
                }
                let middle = if index + 2 == children.len() { index + 1 } else { children.len() / 2 };
                let upper = Entries::Children(children.split_off(middle));
                self.split(inode, node, upper, extent.physical)
            }
        }
    }

    /// Writes `node` and, to a new block, what was split off it.
    fn split(&mut self, inode: &mut Inode, node: Node, upper: Entries, goal: u64) -> Result<Split> {
        let block = self.new_tree_block(inode, goal)?;
        let most = self.entries_per_block();
        let new = Node { place: Place::Block(block), depth: node.depth, most, entries: upper };
        let key = new.first_key().ok_or(Error::Corrupt("empty extent node"))?;
        self.put_extent_node(inode, &node)?;
        self.put_extent_node(inode, &new)?;
        Ok(Some((key, block)))
    }

    /// Removes what is mapped in `from..to`, from the end on, up to `budget` extents. Returns whether
    /// all of it is gone. The caller writes the inode.
    pub fn remove_extents(
        &mut self,
        inode: &mut Inode,
        range: core::ops::Range<u64>,
        release: Release,
        budget: u32,
    ) -> Result<bool> {
        let mut removal =
            Removal { from: range.start, to: range.end, release, budget, rest: None, incomplete: false };
        let root = self.extent_node(inode, Place::Root, None)?;
        let most = root.most;
        if self.remove_from(inode, root, &mut removal)?.is_none() {
            let empty = Node { place: Place::Root, depth: 0, most, entries: Entries::Extents(Vec::new()) };
            self.put_extent_node(inode, &empty)?;
        }
        if let Some(rest) = removal.rest {
            self.insert_extent(inode, rest)?;
        }
        self.shorten_tree(inode)?;
        Ok(!removal.incomplete)
    }

    /// Moves what is in the root's only child into the root, while it fits.
    fn shorten_tree(&mut self, inode: &mut Inode) -> Result<()> {
        loop {
            let root = self.extent_node(inode, Place::Root, None)?;
            let Entries::Children(children) = &root.entries else { return Ok(()) };
            let &[(_, block)] = children.as_slice() else { return Ok(()) };
            let mut child = self.extent_node(inode, Place::Block(block), Some(root.depth - 1))?;
            let count = match &child.entries {
                Entries::Extents(extents) => extents.len(),
                Entries::Children(children) => children.len(),
            };
            if count > root.most {
                return Ok(());
            }
            (child.place, child.most) = (Place::Root, root.most);
            self.put_extent_node(inode, &child)?;
            self.free_blocks(block, 1, true)?;
            inode.add_blocks(-1, self.geometry.block_size);
        }
    }

    /// Returns the first key that the node has now, or none if it is empty.
    fn remove_from(
        &mut self,
        inode: &mut Inode,
        mut node: Node,
        removal: &mut Removal,
    ) -> Result<Option<u32>> {
        let depth = node.depth;
        match &mut node.entries {
            Entries::Extents(extents) => {
                let before = extents.len();
                let mut index = before;
                let mut changed = false;
                while index > 0 {
                    index -= 1;
                    let extent = extents[index];
                    if extent.end() <= removal.from {
                        break;
                    }
                    if u64::from(extent.logical) >= removal.to {
                        continue;
                    }
                    if removal.budget == 0 {
                        removal.incomplete = true;
                        break;
                    }
                    removal.budget -= 1;
                    changed = true;
                    let kept = self.cut(inode, extent, removal)?;
                    match kept {
                        Some(kept) => extents[index] = kept,
                        None => drop(extents.remove(index)),
                    }
                }
                if changed {
                    self.put_extent_node(inode, &node)?;
                }
            }
            Entries::Children(children) => {
                let mut changed = false;
                let mut end = u64::MAX;
                for index in (0..children.len()).rev() {
                    let (key, block) = children[index];
                    if end <= removal.from || removal.incomplete {
                        break;
                    }
                    end = u64::from(key);
                    if end >= removal.to {
                        continue;
                    }
                    let child = self.extent_node(inode, Place::Block(block), Some(depth - 1))?;
                    match self.remove_from(inode, child, removal)? {
                        Some(first) if first == key => {}
                        Some(first) => {
                            children[index].0 = first;
                            changed = true;
                        }
                        None => {
                            children.remove(index);
                            changed = true;
                            self.free_blocks(block, 1, true)?;
                            inode.add_blocks(-1, self.geometry.block_size);
                        }
                    }
                }
                if changed {
                    self.put_extent_node(inode, &node)?;
                }
            }
        }
        Ok(node.first_key())
    }

    /// Removes the range from one extent: returns what stays in its place.
    fn cut(&mut self, inode: &mut Inode, extent: Extent, removal: &mut Removal) -> Result<Option<Extent>> {
        let start = removal.from.max(u64::from(extent.logical));
        let end = removal.to.min(extent.end());
        let left = (start - u64::from(extent.logical)) as u32;
        let right = (extent.end() - end) as u32;
        if removal.release != Release::Keep {
            let metadata = removal.release == Release::Metadata;
            self.free_blocks(extent.physical + u64::from(left), end - start, metadata)?;
            inode.add_blocks(-((end - start) as i64), self.geometry.block_size);
        }
        let head = Extent { length: left, ..extent };
        let tail = Extent {
            logical: (extent.end() - u64::from(right)) as u32,
            length: right,
            physical: extent.physical + u64::from(extent.length - right),
            ..extent
        };
        Ok(match (left > 0, right > 0) {
            (false, false) => None,
            (true, false) => Some(head),
            (false, true) => Some(tail),
            (true, true) => {
                removal.rest = Some(tail);
                Some(head)
            }
        })
    }

    /// Marks allocated blocks as written.
    pub fn mark_written(&mut self, inode: &mut Inode, logical: u32, length: u32) -> Result<()> {
        let mapping = self.map_block(inode, logical)?;
        let (Some(physical), true) = (mapping.physical, mapping.unwritten) else { return Ok(()) };
        let length = length.min(mapping.length);
        let range = u64::from(logical)..u64::from(logical) + u64::from(length);
        self.remove_extents(inode, range, Release::Keep, 1)?;
        self.insert_extent(inode, Extent { logical, length, physical, unwritten: false })
    }

    /// Where an inode's first block goes.
    pub fn inode_goal(&self, inode: &Inode) -> u64 {
        self.geometry.first_block_of((inode.number - 1) / self.geometry.inodes_per_group)
    }
}

fn adjacent(first: &Extent, second: &Extent) -> bool {
    first.end() == u64::from(second.logical)
        && first.physical + u64::from(first.length) == second.physical
        && first.unwritten == second.unwritten
        && first.length + second.length <= first.limit()
}

/// Makes `extent` part of a neighbour at `position`, if it continues it.
fn merge(extents: &mut Vec<Extent>, position: usize, extent: Extent) -> bool {
    if position > 0 && adjacent(&extents[position - 1], &extent) {
        extents[position - 1].length += extent.length;
        if position < extents.len() && adjacent(&extents[position - 1], &extents[position]) {
            extents[position - 1].length += extents[position].length;
            extents.remove(position);
        }
        return true;
    }
    if position < extents.len() && adjacent(&extent, &extents[position]) {
        let next = extents[position];
        extents[position] = Extent { length: extent.length + next.length, ..extent };
        return true;
    }
    false
}

/// Whether the extent would become part of one in this leaf.
fn merges(leaf: &Node, extent: Extent) -> bool {
    let Entries::Extents(extents) = &leaf.entries else { return false };
    extents.iter().any(|other| adjacent(other, &extent) || adjacent(&extent, other))
}
