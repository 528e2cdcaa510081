//! Writes a [`Tree`] as a root file system ([`crate::rootfs`]): the tables first, then the file data, streamed.
//! The same tree gives the same bytes.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use zerocopy::{
    IntoBytes,
    little_endian::{I64, U32, U64},
};

use crate::{
    contents::{Stored, place},
    rootfs::{Entry, Inode, MAGIC, PAGE, STORED_PLAIN, Superblock},
    tree::{Content, Kind, NodeId, ROOT, Tree},
};

/// How much is copied at a time.
pub(crate) const CHUNK: usize = 1 << 20;

/// Why a root file system could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the host could not be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the host changed its length meanwhile.
    #[error("{}: changed while it was being baked; bake again", .0.display())]
    Changed(PathBuf),
    /// The output could not be written.
    #[error("cannot write the image: {0}")]
    Write(#[from] io::Error),
    /// More than the tables can number.
    #[error("too many files or names for one image (4 GiB of names, 4 billion files)")]
    TooLarge,
}

/// A tree with every offset decided.
#[derive(Debug)]
pub struct Layout<'a> {
    tables: Vec<u8>,
    /// What is written behind the tables, in order.
    data: Vec<(u64, Stored<'a>)>,
    length: u64,
    files: usize,
}

pub(crate) fn round_up(value: u64) -> u64 {
    value.next_multiple_of(PAGE as u64)
}

/// Nodes in the order of a walk, so that the order of insertion doesn't matter.
pub(crate) struct Numbers {
    /// Every node, and the number of a directory's parent.
    pub(crate) order: Vec<(NodeId, u32)>,
    number: HashMap<NodeId, u32>,
    links: HashMap<NodeId, u32>,
}

fn number(tree: &Tree) -> Result<Numbers, Error> {
    let mut numbers = Numbers {
        order: vec![(ROOT, 0)],
        number: HashMap::from([(ROOT, 0)]),
        links: HashMap::from([(ROOT, 2)]),
    };
    let mut next = 0;
    while let Some(&(directory, _)) = numbers.order.get(next) {
        let parent = u32::try_from(next).map_err(|_| Error::TooLarge)?;
        next += 1;
        let Kind::Directory(entries) = &tree.node(directory).kind else { continue };
        for &child in entries.values() {
            let is_directory = matches!(tree.node(child).kind, Kind::Directory(_));
            *numbers.links.entry(child).or_default() += if is_directory { 2 } else { 1 };
            if is_directory {
                *numbers.links.entry(directory).or_default() += 1;
            }
            let count = u32::try_from(numbers.order.len()).map_err(|_| Error::TooLarge)?;
            if let std::collections::hash_map::Entry::Vacant(vacant) = numbers.number.entry(child) {
                vacant.insert(count);
                numbers.order.push((child, if is_directory { parent } else { 0 }));
            }
        }
    }
    Ok(numbers)
}

impl<'a> Layout<'a> {
    /// Decides where everything goes. Reads files of equal length to store equal ones once.
    pub fn new(tree: &'a Tree) -> Result<Self, Error> {
        Layout::make(tree, false)
    }

    /// The same, with files compressed where that makes them smaller.
    pub fn compressed(tree: &'a Tree) -> Result<Self, Error> {
        Layout::make(tree, true)
    }

    fn make(tree: &'a Tree, compress: bool) -> Result<Self, Error> {
        let numbers = number(tree)?;
        let mut names = Vec::new();
        let mut name_offsets: HashMap<&[u8], usize> = HashMap::new();
        let mut entries: Vec<Entry> = Vec::new();
        let mut first_entry = HashMap::new();
        let narrow = |value: usize| u32::try_from(value).map(U32::new).map_err(|_| Error::TooLarge);
        for (id, _) in &numbers.order {
            let Kind::Directory(children) = &tree.node(*id).kind else { continue };
            first_entry.insert(*id, entries.len() as u64);
            for (name, child) in children {
                let offset = *name_offsets.entry(name).or_insert_with(|| {
                    names.extend_from_slice(name);
                    names.len() - name.len()
                });
                entries.push(Entry {
                    name: narrow(offset)?,
                    length: narrow(name.len())?,
                    inode: U32::new(numbers.number[child]),
                });
            }
        }
        let inodes_at = size_of::<Superblock>() as u64;
        let entries_at = inodes_at + (numbers.order.len() * size_of::<Inode>()) as u64;
        let names_at = entries_at + (entries.len() * size_of::<Entry>()) as u64;
        let targets_at = names_at + names.len() as u64;
        let mut targets = Vec::new();
        let mut target_offsets = HashMap::new();
        for (id, _) in &numbers.order {
            if let Kind::Symlink(target) = &tree.node(*id).kind {
                target_offsets.insert(*id, targets_at + targets.len() as u64);
                targets.extend_from_slice(target);
            }
        }
        let data_at = round_up(targets_at + targets.len() as u64);
        let placed = place(tree, &numbers, data_at, compress)?;

        let superblock = Superblock {
            magic: MAGIC,
            inodes: U64::new(inodes_at),
            inode_count: narrow(numbers.order.len())?,
            entry_count: narrow(entries.len())?,
            entries: U64::new(entries_at),
            names: U64::new(names_at),
            names_length: U64::new(names.len() as u64),
        };
        let mut tables = superblock.as_bytes().to_vec();
        let mut files = 0;
        for (id, parent) in &numbers.order {
            let node = tree.node(*id);
            let (size, data, stored) = match &node.kind {
                Kind::Directory(children) => (children.len() as u64, first_entry[id], STORED_PLAIN),
                Kind::Regular(content) => {
                    files += 1;
                    let place = placed.places[id];
                    (content.length(), place.offset, place.stored)
                }
                Kind::Symlink(target) => (target.len() as u64, target_offsets[id], STORED_PLAIN),
                Kind::Special(_, device) => (0, *device, STORED_PLAIN),
            };
            let inode = Inode {
                mode: U32::new(node.mode()),
                uid: U32::new(node.attributes.uid),
                gid: U32::new(node.attributes.gid),
                links: U32::new(numbers.links[id]),
                size: U64::new(size),
                data: U64::new(data),
                modified: I64::new(node.attributes.modified),
                parent: U32::new(*parent),
                stored: U32::new(stored),
            };
            tables.extend_from_slice(inode.as_bytes());
        }
        tables.extend_from_slice(entries.as_bytes());
        tables.extend_from_slice(&names);
        tables.extend_from_slice(&targets);
        tables.resize(data_at as usize, 0);
        Ok(Layout { tables, data: placed.data, length: placed.end, files })
    }

    /// Bytes that [`Layout::write`] writes: whole pages.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Regular files in it.
    pub fn files(&self) -> usize {
        self.files
    }

    /// Writes it.
    pub fn write(&self, output: &mut impl Write) -> Result<(), Error> {
        output.write_all(&self.tables)?;
        let mut buffer = vec![0; CHUNK];
        let mut end = self.tables.len() as u64;
        for (offset, stored) in &self.data {
            pad(output, end, *offset)?;
            let length = match stored {
                Stored::Plain(Content::Bytes(bytes)) | Stored::Compressed(bytes) => {
                    output.write_all(bytes)?;
                    bytes.len() as u64
                }
                Stored::Plain(Content::File(path, length)) => {
                    copy(path, *length, &mut buffer, output)?;
                    *length
                }
            };
            end = offset + length;
        }
        pad(output, end, self.length)
    }
}

/// Zeros up to `to`, which is less than a page away.
fn pad(output: &mut impl Write, from: u64, to: u64) -> Result<(), Error> {
    Ok(output.write_all(&[0; PAGE][..(to - from) as usize])?)
}

fn copy(path: &Path, length: u64, buffer: &mut [u8], output: &mut impl Write) -> Result<(), Error> {
    let failed = |source| Error::Read { path: path.into(), source };
    let mut file = File::open(path).map_err(failed)?;
    let mut left = length;
    loop {
        // One byte more than expected is asked for, so that a file that grew is noticed.
        let want = usize::try_from(left.saturating_add(1)).unwrap_or(usize::MAX).min(buffer.len());
        let got = file.read(&mut buffer[..want]).map_err(failed)?;
        if got == 0 {
            break;
        }
        left = left.checked_sub(got as u64).ok_or_else(|| Error::Changed(path.into()))?;
        output.write_all(&buffer[..got])?;
    }
    if left == 0 { Ok(()) } else { Err(Error::Changed(path.into())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rootfs::{Data, RootFs},
        tree::{Attributes, Node},
    };

    fn plain<'a>(rootfs: &RootFs<'a>, inode: &Inode) -> &'a [u8] {
        match rootfs.data(inode) {
            Some(Data::Plain(bytes)) => bytes,
            other => panic!("{other:?}"),
        }
    }

    fn regular(content: Content) -> Node {
        Node { kind: Kind::Regular(content), attributes: Attributes::root(0o644) }
    }

    fn bytes(tree: &Tree) -> Vec<u8> {
        let layout = Layout::new(tree).expect("layout");
        let mut output = Vec::new();
        layout.write(&mut output).expect("write");
        assert_eq!(output.len() as u64, layout.length());
        output
    }

    #[test]
    fn reads_back() {
        let mut tree = Tree::new();
        let big: Vec<u8> = (0..10_000u32).map(|index| index as u8).collect();
        let first = tree.insert_at(b"/usr/lib/big", regular(Content::Bytes(big.clone()))).expect("insert");
        tree.insert_at(b"/copy", regular(Content::Bytes(big.clone()))).expect("insert");
        tree.insert_at(b"/empty", regular(Content::Bytes(vec![]))).expect("insert");
        tree.link(ROOT, b"hard\xff", first).expect("link");
        let link = Node { kind: Kind::Symlink(b"usr/lib".to_vec()), attributes: Attributes::root(0o777) };
        tree.insert_at(b"/lib", link).expect("insert");
        let fifo = Node { kind: Kind::Special(0o010_000, 0), attributes: Attributes::root(0o600) };
        tree.insert_at(b"/pipe", fifo).expect("insert");
        let output = bytes(&tree);

        let rootfs = RootFs::parse(&output).expect("parse");
        let root = rootfs.inode(0).expect("root");
        assert_eq!(root.links.get(), 3);
        let get = |directory, name: &[u8]| {
            let number = rootfs.lookup(directory, name).expect("present");
            (number, rootfs.inode(number).expect("in range"))
        };
        let (hard_number, hard) = get(root, b"hard\xff");
        assert_eq!(hard.links.get(), 2);
        assert_eq!(plain(&rootfs, hard), big);
        let (_, copy) = get(root, b"copy");
        assert_eq!(copy.data, hard.data, "equal contents are stored once");
        assert_eq!(copy.data.get() % PAGE as u64, 0);
        let (usr_number, usr) = get(root, b"usr");
        let (_, lib) = get(usr, b"lib");
        assert_eq!(lib.parent.get(), usr_number);
        assert_eq!(get(lib, b"big").0, hard_number);
        assert_eq!(rootfs.target(get(root, b"lib").1), Some(b"usr/lib".as_slice()));
        assert_eq!(plain(&rootfs, get(root, b"empty").1), b"");
        assert_eq!(get(root, b"pipe").1.mode.get(), 0o010_600);
        assert_eq!(rootfs.lookup(root, b"absent"), None);
    }

    #[test]
    fn compressed_files_read_back_beside_plain_ones() {
        let text: Vec<u8> = (0..50_000u32).flat_map(|number| format!("{number},").into_bytes()).collect();
        let mut seed = 1u32;
        let mut random = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        };
        let noise: Vec<u8> = (0..70_000).map(|_| random()).collect();
        let mut tree = Tree::new();
        for (path, contents) in
            [("/text", &text), ("/a/noise", &noise), ("/same", &text), ("/z", &b"z".to_vec())]
        {
            tree.insert_at(path.as_bytes(), regular(Content::Bytes(contents.clone()))).expect("insert");
        }
        let layout = Layout::compressed(&tree).expect("layout");
        let mut output = Vec::new();
        layout.write(&mut output).expect("written");
        assert_eq!(output.len() as u64, layout.length());
        assert_eq!(output.len() % PAGE, 0);
        assert!(output.len() < (text.len() + noise.len()) / 10 * 9, "{}", output.len());
        let rootfs = RootFs::parse(&output).expect("parse");
        let inode = |name: &[u8]| {
            let root = rootfs.inode(0).expect("root");
            rootfs.inode(rootfs.lookup(root, name).expect("present")).expect("in range")
        };
        assert_eq!(inode(b"text").data, inode(b"same").data);
        for name in [&b"text"[..], b"same"] {
            assert!(matches!(rootfs.data(inode(name)), Some(Data::Compressed(_))));
            assert_eq!(rootfs.data(inode(name)).expect("data").bytes().expect("whole"), text.as_slice());
        }
        let folder = inode(b"a");
        let noisy = rootfs.inode(rootfs.lookup(folder, b"noise").expect("present")).expect("in range");
        assert_eq!(noisy.data.get() % PAGE as u64, 0);
        assert_eq!(plain(&rootfs, noisy), noise);
        assert_eq!(rootfs.data(inode(b"z")).expect("data").bytes().expect("whole"), &b"z"[..]);
    }

    #[test]
    fn the_order_of_insertion_does_not_matter() {
        let names: [&[u8]; 4] = [b"/b/x", b"/a", b"/b/a", b"/c/d/e"];
        let build = |order: &[usize]| {
            let mut tree = Tree::new();
            for &index in order {
                let node = regular(Content::Bytes(names[index].to_vec()));
                tree.insert_at(names[index], node).expect("insert");
            }
            bytes(&tree)
        };
        assert_eq!(build(&[0, 1, 2, 3]), build(&[3, 1, 0, 2]));
    }

    #[test]
    fn many_contents_of_one_length_are_told_apart() {
        let mut tree = Tree::new();
        let large = |number: u32| {
            let mut bytes = vec![7; 300_000];
            bytes[299_990..299_994].copy_from_slice(&number.to_le_bytes());
            bytes
        };
        for number in 0..200u32 {
            // Each twice.
            let path = format!("/{number:03}");
            let node = regular(Content::Bytes(large(number / 2)));
            tree.insert_at(path.as_bytes(), node).expect("insert");
        }
        let output = bytes(&tree);
        assert!(output.len() < 101 * 303_104, "{}", output.len());
        let rootfs = RootFs::parse(&output).expect("parse");
        for number in 0..200 {
            let inode = rootfs.inode(number + 1).expect("in range");
            assert!(plain(&rootfs, inode) == large(number / 2), "{number}");
        }
    }

    #[test]
    fn a_file_that_changes_is_noticed() {
        let path = std::env::temp_dir().join(format!("image-writer-{}", std::process::id()));
        std::fs::write(&path, b"four").expect("write");
        for claimed in [3, 5] {
            let mut tree = Tree::new();
            tree.insert_at(b"/f", regular(Content::File(path.clone(), claimed))).expect("insert");
            let layout = Layout::new(&tree).expect("layout");
            assert!(matches!(layout.write(&mut Vec::new()), Err(Error::Changed(_))));
        }
        std::fs::remove_file(&path).expect("remove");
    }
}
