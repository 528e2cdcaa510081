//! A file system in a few maps, to compare the real one with.

use std::collections::{BTreeMap, BTreeSet};

use ext4::{AttributeChange, Error, Ext4, FileType, NewFile, Owner, ROOT, Removed, Replace};

use super::Random;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    File(Vec<u8>),
    Directory { parent: u32, entries: BTreeMap<Vec<u8>, u32> },
    Symlink(Vec<u8>),
    Fifo,
    Device(u32, u32),
}

/// Inodes by number, as the real file system gave them out.
#[derive(Clone, Default)]
pub struct Model {
    pub nodes: BTreeMap<u32, Node>,
    pub permissions: BTreeMap<u32, u16>,
    /// Files whose contents were changed since [`Model::mark`].
    pub touched: BTreeSet<u32>,
    pub largest_file: usize,
}

impl Model {
    pub fn new() -> Self {
        let mut model = Model { largest_file: 300_000, ..Model::default() };
        model.nodes.insert(ROOT, Node::Directory { parent: ROOT, entries: BTreeMap::new() });
        model
    }

    pub fn mark(&mut self) {
        self.touched.clear();
    }

    fn entries(&mut self, directory: u32) -> &mut BTreeMap<Vec<u8>, u32> {
        match self.nodes.get_mut(&directory) {
            Some(Node::Directory { entries, .. }) => entries,
            _ => panic!("{directory} is not a directory of the model"),
        }
    }

    fn links(&self, inode: u32) -> usize {
        self.nodes
            .values()
            .map(|node| match node {
                Node::Directory { entries, .. } => {
                    entries.values().filter(|&&target| target == inode).count()
                }
                _ => 0,
            })
            .sum()
    }

    fn pick(&self, random: &mut Random, wanted: impl Fn(&Node) -> bool) -> Option<u32> {
        let all: Vec<u32> =
            self.nodes.iter().filter(|(_, node)| wanted(node)).map(|(&inode, _)| inode).collect();
        (!all.is_empty()).then(|| all[random.below(all.len())])
    }

    fn pick_directory(&self, random: &mut Random) -> u32 {
        self.pick(random, |node| matches!(node, Node::Directory { .. })).unwrap_or(ROOT)
    }

    fn name(random: &mut Random) -> Vec<u8> {
        let number = random.below(40);
        if number < 4 { vec![b'a' + number as u8; 255] } else { format!("name-{number}").into_bytes() }
    }

    fn forget(&mut self, fs: &Ext4, removed: Removed) {
        assert_eq!(self.links(removed.inode), removed.links as usize, "links of {}", removed.inode);
        if removed.links == 0 {
            fs.evict(removed.inode).expect("evict");
            self.nodes.remove(&removed.inode);
            self.permissions.remove(&removed.inode);
        }
    }

    fn is_below(&self, mut directory: u32, ancestor: u32) -> bool {
        loop {
            if directory == ancestor {
                return true;
            }
            match self.nodes.get(&directory) {
                Some(Node::Directory { parent, .. }) if directory != ROOT => directory = *parent,
                _ => return false,
            }
        }
    }

    /// Does something at random to both.
    pub fn step(&mut self, fs: &Ext4, random: &mut Random) {
        match random.below(22) {
            0..=4 => self.create(fs, random),
            5..=9 => self.write(fs, random),
            10 | 11 => self.truncate(fs, random),
            12..=14 => self.remove(fs, random),
            15 | 16 => self.rename(fs, random),
            17 => self.link(fs, random),
            18 => self.change_mode(fs, random),
            19 => self.punch(fs, random),
            20 => self.allocate(fs, random),
            _ => self.exchange(fs, random),
        }
    }

    fn create(&mut self, fs: &Ext4, random: &mut Random) {
        let directory = self.pick_directory(random);
        let name = Self::name(random);
        let longest = if random.below(2) == 0 { 70 } else { 900 };
        let length = 1 + random.below(longest);
        let target = vec![b't'; length];
        let (new, node) = match random.below(8) {
            0 | 1 => (NewFile::Directory, Node::Directory { parent: directory, entries: BTreeMap::new() }),
            2 => (NewFile::Symlink(&target), Node::Symlink(target.clone())),
            3 => (NewFile::Fifo, Node::Fifo),
            4 => (NewFile::CharacterDevice(300, 70000), Node::Device(300, 70000)),
            _ => (NewFile::Regular, Node::File(Vec::new())),
        };
        let owner = Owner { uid: 70000, gid: 5, permissions: 0o640 };
        let result = fs.create(directory, &name, new, owner);
        if self.entries(directory).contains_key(&name) {
            assert_eq!(result, Err(Error::Exists));
            return;
        }
        let inode = result.expect("create");
        assert!(self.nodes.insert(inode, node).is_none(), "inode {inode} was in use");
        self.permissions.insert(inode, 0o640);
        self.touched.insert(inode);
        self.entries(directory).insert(name, inode);
    }

    fn pick_file(&self, random: &mut Random) -> Option<u32> {
        self.pick(random, |node| matches!(node, Node::File(_)))
    }

    fn contents(&mut self, inode: u32) -> &mut Vec<u8> {
        self.touched.insert(inode);
        match self.nodes.get_mut(&inode) {
            Some(Node::File(data)) => data,
            _ => panic!("{inode} is not a file of the model"),
        }
    }

    fn write(&mut self, fs: &Ext4, random: &mut Random) {
        let Some(inode) = self.pick_file(random) else { return };
        let offset = random.below(self.largest_file);
        let offset = if random.below(3) == 0 { offset / 4096 * 4096 } else { offset };
        let offset =
            if random.below(3) == 0 { self.contents(inode).len().min(self.largest_file) } else { offset };
        let length = [17, 512, 4096, 10_000, 65_536][random.below(5)];
        let data = random.bytes(length);
        assert_eq!(fs.write(inode, offset as u64, &data), Ok(length));
        let contents = self.contents(inode);
        contents.resize(contents.len().max(offset + length), 0);
        contents[offset..offset + length].copy_from_slice(&data);
    }

    fn truncate(&mut self, fs: &Ext4, random: &mut Random) {
        let Some(inode) = self.pick_file(random) else { return };
        let size = if random.below(3) == 0 { 0 } else { random.below(self.largest_file) };
        fs.truncate(inode, size as u64).expect("truncate");
        self.contents(inode).resize(size, 0);
    }

    fn punch(&mut self, fs: &Ext4, random: &mut Random) {
        let Some(inode) = self.pick_file(random) else { return };
        let (offset, length) = (random.below(self.largest_file), 1 + random.below(50_000));
        fs.punch_hole(inode, offset as u64, length as u64).expect("punch");
        let contents = self.contents(inode);
        let end = (offset + length).min(contents.len());
        if offset < end {
            contents[offset..end].fill(0);
        }
    }

    fn allocate(&mut self, fs: &Ext4, random: &mut Random) {
        let Some(inode) = self.pick_file(random) else { return };
        let (offset, length) = (random.below(self.largest_file), 1 + random.below(50_000));
        let keep_size = random.below(2) == 0;
        fs.allocate(inode, offset as u64, length as u64, keep_size).expect("allocate");
        let contents = self.contents(inode);
        if !keep_size {
            contents.resize(contents.len().max(offset + length), 0);
        }
    }

    fn remove(&mut self, fs: &Ext4, random: &mut Random) {
        let directory = self.pick_directory(random);
        let entries = self.entries(directory).clone();
        if entries.is_empty() {
            assert_eq!(fs.unlink(directory, b"no such name").err(), Some(Error::NotFound));
            return;
        }
        let (name, &inode) = entries.iter().nth(random.below(entries.len())).expect("entry");
        match &self.nodes[&inode] {
            Node::Directory { entries, .. } => {
                let empty = entries.is_empty();
                assert_eq!(fs.unlink(directory, name).err(), Some(Error::IsDirectory));
                let result = fs.remove_directory(directory, name);
                if !empty {
                    assert_eq!(result.err(), Some(Error::NotEmpty));
                    return;
                }
                self.entries(directory).remove(name);
                self.forget(fs, result.expect("rmdir"));
            }
            _ => {
                assert_eq!(fs.remove_directory(directory, name).err(), Some(Error::NotDirectory));
                let removed = fs.unlink(directory, name).expect("unlink");
                self.entries(directory).remove(name);
                self.forget(fs, removed);
            }
        }
    }

    fn is_directory(&self, inode: u32) -> bool {
        matches!(self.nodes.get(&inode), Some(Node::Directory { .. }))
    }

    fn rename(&mut self, fs: &Ext4, random: &mut Random) {
        let (from, to) = (self.pick_directory(random), self.pick_directory(random));
        let entries = self.entries(from).clone();
        let Some((old, &inode)) = entries.iter().nth(random.below(entries.len().max(1))) else { return };
        let new = Self::name(random);
        let result = fs.rename(from, old, to, &new, Replace::Yes);
        if self.is_directory(inode) && from != to && self.is_below(to, inode) {
            assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
            return;
        }
        let target = self.entries(to).get(&new).copied();
        if target == Some(inode) {
            assert_eq!(result, Ok(None));
            return;
        }
        if let Some(target) = target {
            let expected = match (self.is_directory(inode), &self.nodes[&target]) {
                (true, Node::Directory { entries, .. }) => (!entries.is_empty()).then_some(Error::NotEmpty),
                (true, _) => Some(Error::NotDirectory),
                (false, Node::Directory { .. }) => Some(Error::IsDirectory),
                (false, _) => None,
            };
            if expected.is_some() {
                assert_eq!(result.err(), expected);
                return;
            }
        }
        let removed = result.expect("rename");
        self.entries(from).remove(old);
        self.entries(to).insert(new, inode);
        if let Some(Node::Directory { parent, .. }) = self.nodes.get_mut(&inode) {
            *parent = to;
        }
        assert_eq!(removed.map(|removed| removed.inode), target);
        if let Some(removed) = removed {
            self.forget(fs, removed);
        }
    }

    fn exchange(&mut self, fs: &Ext4, random: &mut Random) {
        let (first, second) = (self.pick_directory(random), self.pick_directory(random));
        let (first_entries, second_entries) = (self.entries(first).clone(), self.entries(second).clone());
        let Some((one, &one_inode)) = first_entries.iter().next() else { return };
        let Some((two, &two_inode)) = second_entries.iter().next_back() else { return };
        let result = fs.rename(first, one, second, two, Replace::Exchange);
        let crosses = first != second;
        if crosses
            && ((self.is_directory(one_inode) && self.is_below(second, one_inode))
                || (self.is_directory(two_inode) && self.is_below(first, two_inode)))
        {
            assert!(result.is_err(), "{result:?}");
            return;
        }
        assert_eq!(result, Ok(None));
        if one_inode == two_inode {
            return;
        }
        self.entries(first).insert(one.clone(), two_inode);
        self.entries(second).insert(two.clone(), one_inode);
        for (inode, to) in [(one_inode, second), (two_inode, first)] {
            if let Some(Node::Directory { parent, .. }) = self.nodes.get_mut(&inode) {
                *parent = to;
            }
        }
    }

    fn link(&mut self, fs: &Ext4, random: &mut Random) {
        let Some(inode) = self.pick_file(random) else { return };
        let directory = self.pick_directory(random);
        let name = Self::name(random);
        let result = fs.link(inode, directory, &name);
        if self.entries(directory).contains_key(&name) {
            assert_eq!(result, Err(Error::Exists));
            return;
        }
        result.expect("link");
        self.entries(directory).insert(name, inode);
    }

    fn change_mode(&mut self, fs: &Ext4, random: &mut Random) {
        let Some(inode) = self.pick(random, |node| !matches!(node, Node::Symlink(_))) else { return };
        let permissions = random.below(0o10000) as u16;
        let change =
            AttributeChange { permissions: Some(permissions), uid: Some(1 << 20), ..Default::default() };
        fs.set_attributes(inode, &change).expect("chmod");
        self.permissions.insert(inode, permissions);
    }

    /// Compares names, types, links and permissions; says what differs.
    pub fn compare_names(&self, fs: &Ext4) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        let mut pending = vec![ROOT];
        while let Some(directory) = pending.pop() {
            seen.insert(directory);
            let Node::Directory { parent, entries } = &self.nodes[&directory] else { unreachable!() };
            let mut found = BTreeMap::new();
            // In pieces, to try the cookies.
            let mut cookie = 0;
            loop {
                let mut count = 0;
                fs.read_directory(directory, cookie, &mut |entry| {
                    found.insert(entry.name.to_vec(), (entry.inode, entry.file_type));
                    cookie = entry.next;
                    count += 1;
                    count < 3
                })
                .map_err(|error| format!("list {directory}: {error}"))?;
                if count < 3 {
                    break;
                }
            }
            let dots = (found.remove(&b"."[..]), found.remove(&b".."[..]));
            let types = FileType::Directory;
            if dots != (Some((directory, types)), Some((*parent, types))) {
                return Err(format!("dots of {directory}: {dots:?}"));
            }
            found.remove(&b"lost+found"[..]);
            if !found.iter().map(|(name, entry)| (name, &entry.0)).eq(entries.iter()) {
                return Err(format!("directory {directory} has {found:?}, not {entries:?}"));
            }
            for (name, &inode) in entries {
                let attributes = fs.attributes(inode).map_err(|error| format!("{inode}: {error}"))?;
                if attributes.file_type != found[name].1 {
                    return Err(format!("type of {inode}"));
                }
                if self
                    .permissions
                    .get(&inode)
                    .is_some_and(|&permissions| permissions != attributes.mode & 0o7777)
                {
                    return Err(format!("permissions of {inode}"));
                }
                let node = self.nodes.get(&inode).ok_or(format!("inode {inode}"))?;
                let same = match node {
                    Node::Directory { entries, .. } => {
                        pending.push(inode);
                        let inner = entries.values().filter(|&&inner| self.is_directory(inner)).count();
                        attributes.file_type == FileType::Directory && attributes.links as usize == 2 + inner
                    }
                    Node::File(data) => {
                        attributes.size == data.len() as u64 && attributes.links as usize == self.links(inode)
                    }
                    Node::Symlink(target) => fs.read_link(inode).is_ok_and(|found| found == *target),
                    Node::Fifo => attributes.file_type == FileType::Fifo,
                    Node::Device(major, minor) => attributes.device == (*major, *minor),
                };
                if !same {
                    return Err(format!("inode {inode} is {attributes:?}"));
                }
            }
        }
        Ok(())
    }

    /// Compares the contents of files other than those in `except`.
    pub fn compare_contents(&self, fs: &Ext4, except: &BTreeSet<u32>) -> Result<(), String> {
        for (&inode, node) in &self.nodes {
            let Node::File(data) = node else { continue };
            if except.contains(&inode) {
                continue;
            }
            let mut found = vec![0xee; data.len() + 10];
            let length = fs.read(inode, 0, &mut found).map_err(|error| format!("read {inode}: {error}"))?;
            found.truncate(length);
            if found != *data {
                let at = found.iter().zip(data).position(|(one, two)| one != two);
                return Err(format!(
                    "contents of {inode}: {} bytes, {} expected, differ at {at:?}",
                    length,
                    data.len()
                ));
            }
        }
        Ok(())
    }

    pub fn assert_equals(&self, fs: &Ext4) {
        self.compare_names(fs).expect("names");
        self.compare_contents(fs, &BTreeSet::new()).expect("contents");
    }

    /// Every file with one of its paths.
    pub fn paths(&self) -> Vec<(String, u32)> {
        let mut found = Vec::new();
        let mut pending = vec![(String::new(), ROOT)];
        while let Some((path, directory)) = pending.pop() {
            let Some(Node::Directory { entries, .. }) = self.nodes.get(&directory) else { continue };
            for (name, &inode) in entries {
                let path = format!("{path}/{}", String::from_utf8_lossy(name));
                pending.push((path.clone(), inode));
                found.push((path, inode));
            }
        }
        found
    }
}
