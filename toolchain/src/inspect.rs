//! What is inside an image: its manifest, and the files of its root file system.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use image::{
    payload,
    rootfs::{self, MODE_DIRECTORY, MODE_SYMLINK, MODE_TYPE, RootFs, Superblock},
};
use object::{
    LittleEndian, ReadCache, elf,
    read::elf::{FileHeader, ProgramHeader},
};
use zerocopy::FromBytes;

use crate::{
    launch::{self, ImageKind},
    manifest::{self, Manifest},
};

/// Largest note that is read.
const NOTE_LIMIT: u64 = 16 << 20;
/// Where an ELF image may begin in a disk or CD-ROM image: at a sector.
const SECTOR: u64 = 512;
/// How much is searched at a time.
const CHUNK: u64 = 1 << 20;
/// How deep directories of a damaged image may seem nested.
const DEPTH_LIMIT: usize = 256;

/// Why an image can't be looked into.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No manifest in it.
    #[error("{}: not an image that rumprun-bake made", .0.display())]
    NotAnImage(PathBuf),
    /// It has no such file.
    #[error("{}: there is no {_1} in this image", _0.display())]
    NoFile(PathBuf, String),
    /// Its payload is damaged.
    #[error("{}: damaged: {_1}", _0.display())]
    Damaged(PathBuf, String),
}

/// A file in an image.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Entry {
    /// Path; what isn't UTF-8 is shown with replacement characters.
    pub path: String,
    /// `st_mode`.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Target of a symbolic link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The image's kind.
    pub kind: ImageKind,
    /// Bytes of the file.
    pub bytes: u64,
    /// What the image says of itself.
    pub manifest: Manifest,
    /// Every file, sorted by path within its directory.
    pub entries: Vec<Entry>,
}

/// Where things are in an ELF image.
struct Parts {
    manifest: Manifest,
    payload: u64,
}

/// Looks into an image.
pub fn inspect(path: &Path) -> Result<Inspection, Error> {
    let failed = |source| Error::Read { path: path.into(), source };
    let mut file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    read(&mut file, bytes, path)
}

/// Reads a file of an image's root file system.
pub fn file(image: &Path, path: &str) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: image.into(), source };
    let damaged = || Error::Damaged(image.into(), format!("{path} lies outside"));
    let mut file = File::open(image).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let not_an_image = || Error::NotAnImage(image.into());
    let kind = launch::kind_of(&mut file).map_err(failed)?.ok_or_else(not_an_image)?;
    let parts = find(&mut file, kind, bytes).map_err(failed)?.ok_or_else(not_an_image)?;
    let header = read_at(&mut file, parts.payload, size_of::<payload::Header>() as u64).map_err(failed)?;
    let (header, _) = payload::Header::read_from_prefix(&header).map_err(|_| damaged())?;
    let start = parts.payload.checked_add(header.rootfs.offset.get()).ok_or_else(damaged)?;
    let superblock = read_at(&mut file, start, size_of::<Superblock>() as u64).map_err(failed)?;
    let (superblock, _) = Superblock::read_from_prefix(&superblock).map_err(|_| damaged())?;
    let end = superblock.names.get().saturating_add(superblock.names_length.get());
    let tables = read_at(&mut file, start, end.min(bytes)).map_err(failed)?;
    let rootfs = RootFs::parse(&tables).map_err(|error| Error::Damaged(image.into(), error.to_string()))?;
    let names = path.split('/').filter(|name| !name.is_empty());
    let mut inode = rootfs.inode(0).ok_or_else(damaged)?;
    for name in names {
        let number = rootfs.lookup(inode, name.as_bytes());
        let no_file = || Error::NoFile(image.into(), path.into());
        inode = rootfs.inode(number.ok_or_else(no_file)?).ok_or_else(damaged)?;
    }
    let at = start.checked_add(inode.data.get()).ok_or_else(damaged)?;
    let contents = read_at(&mut file, at, inode.size.get().min(bytes)).map_err(failed)?;
    if contents.len() as u64 == inode.size.get() { Ok(contents) } else { Err(damaged()) }
}

/// The sections of a payload that are not the root file system.
#[derive(Debug)]
pub struct Sections {
    /// The encoded configuration.
    pub configuration: Vec<u8>,
    /// The kernel's symbols.
    pub symbols: Vec<u8>,
}

/// Reads the configuration and the symbols of an image.
pub fn payload(image: &Path) -> Result<Sections, Error> {
    let failed = |source| Error::Read { path: image.into(), source };
    let mut file = File::open(image).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let not_an_image = || Error::NotAnImage(image.into());
    let kind = launch::kind_of(&mut file).map_err(failed)?.ok_or_else(not_an_image)?;
    let parts = find(&mut file, kind, bytes).map_err(failed)?.ok_or_else(not_an_image)?;
    let header = read_at(&mut file, parts.payload, size_of::<payload::Header>() as u64).map_err(failed)?;
    let (header, _) = payload::Header::read_from_prefix(&header)
        .map_err(|_| Error::Damaged(image.into(), "the payload is cut off".into()))?;
    let mut section = |section: payload::Section| {
        let at = parts.payload.saturating_add(section.offset.get());
        read_at(&mut file, at, section.length.get().min(bytes)).map_err(failed)
    };
    Ok(Sections { configuration: section(header.configuration)?, symbols: section(header.symbols)? })
}

/// Looks into an image of `bytes` bytes; the path is for messages.
pub fn read(file: &mut (impl Read + Seek), bytes: u64, path: &Path) -> Result<Inspection, Error> {
    let failed = |source| Error::Read { path: path.into(), source };
    let not_an_image = || Error::NotAnImage(path.into());
    let kind = launch::kind_of(file).map_err(failed)?.ok_or_else(not_an_image)?;
    let parts = find(file, kind, bytes).map_err(failed)?.ok_or_else(not_an_image)?;
    let entries = entries(file, bytes, parts.payload)
        .map_err(failed)?
        .map_err(|message| Error::Damaged(path.into(), message))?;
    Ok(Inspection { kind, bytes, manifest: parts.manifest, entries })
}

fn find(file: &mut (impl Read + Seek), kind: ImageKind, bytes: u64) -> io::Result<Option<Parts>> {
    match kind {
        ImageKind::Elf => parts(file, 0),
        ImageKind::Iso | ImageKind::Disk => search(file, bytes),
    }
}

/// Finds the ELF image in a disk or CD-ROM image.
fn search(file: &mut (impl Read + Seek), length: u64) -> io::Result<Option<Parts>> {
    let mut at = 0;
    while at < length {
        let chunk = read_at(file, at, CHUNK)?;
        if chunk.is_empty() {
            break;
        }
        for (index, sector) in chunk.chunks(SECTOR as usize).enumerate() {
            if sector.starts_with(b"\x7fELF")
                && let Some(parts) = parts(file, at + index as u64 * SECTOR)?
            {
                return Ok(Some(parts));
            }
        }
        at += CHUNK;
    }
    Ok(None)
}

/// Reads the headers of the ELF image at an offset; `None` if there is no image of ours.
fn parts(file: &mut (impl Read + Seek), offset: u64) -> io::Result<Option<Parts>> {
    let mut start = Vec::new();
    file.seek(SeekFrom::Start(offset))?;
    file.by_ref().take(4096).read_to_end(&mut start)?;
    let Ok(header) = elf::FileHeader64::<LittleEndian>::parse(start.as_slice()) else { return Ok(None) };
    let Ok(segments) = header.program_headers(LittleEndian, start.as_slice()) else { return Ok(None) };
    let mut found = None;
    for segment in segments.iter().filter(|segment| segment.p_type(LittleEndian) == elf::PT_NOTE) {
        let Some(at) = offset.checked_add(segment.p_offset(LittleEndian)) else { continue };
        let mut notes = Vec::new();
        file.seek(SeekFrom::Start(at))?;
        file.by_ref().take(segment.p_filesz(LittleEndian).min(NOTE_LIMIT)).read_to_end(&mut notes)?;
        found = found.or_else(|| manifest::from_notes(&notes));
    }
    let Some(manifest) = found else { return Ok(None) };
    let payload = segments.iter().find(|segment| {
        segment.p_type(LittleEndian) == elf::PT_LOAD
            && segment.p_paddr(LittleEndian) == manifest.payload_address
    });
    let payload = payload.and_then(|segment| offset.checked_add(segment.p_offset(LittleEndian)));
    Ok(payload.map(|payload| Parts { manifest, payload }))
}

fn read_at(file: &mut (impl Read + Seek), at: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(at))?;
    file.by_ref().take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads the tables of the root file system, and nothing of the files' data.
fn entries(
    file: &mut (impl Read + Seek),
    length: u64,
    payload: u64,
) -> io::Result<Result<Vec<Entry>, String>> {
    let header = read_at(file, payload, size_of::<payload::Header>() as u64)?;
    let Ok((header, _)) = payload::Header::read_from_prefix(&header) else {
        return Ok(Err("the payload is cut off".into()));
    };
    let Some(start) = payload.checked_add(header.rootfs.offset.get()).filter(|at| *at <= length) else {
        return Ok(Err("the root file system lies outside".into()));
    };
    let superblock = read_at(file, start, size_of::<Superblock>() as u64)?;
    let Ok((superblock, _)) = Superblock::read_from_prefix(&superblock) else {
        return Ok(Err("the root file system is cut off".into()));
    };
    let end = superblock.names.get().saturating_add(superblock.names_length.get());
    let tables = read_at(file, start, end.min(length))?;
    let rootfs = match RootFs::parse(&tables) {
        Ok(rootfs) => rootfs,
        Err(error) => return Ok(Err(error.to_string())),
    };
    // The targets of symbolic links follow the tables.
    let numbers = 0..u32::try_from(rootfs.inode_count()).unwrap_or(u32::MAX);
    let link_ends = numbers.filter_map(|number| {
        let inode = rootfs.inode(number).filter(|inode| inode.mode.get() & MODE_TYPE == MODE_SYMLINK)?;
        inode.data.get().checked_add(inode.size.get())
    });
    let end = link_ends.fold(end, u64::max);
    let tables = read_at(file, start, end.min(length))?;
    let rootfs = match RootFs::parse(&tables) {
        Ok(rootfs) => rootfs,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let mut walk = Walk { rootfs, visited: HashSet::from([0]), entries: Vec::new() };
    if let Some(root) = rootfs.inode(0) {
        walk.directory(root, "/", 0);
    }
    Ok(Ok(walk.entries))
}

struct Walk<'a> {
    rootfs: RootFs<'a>,
    /// Directories that were seen: a damaged image may have them in circles.
    visited: HashSet<u32>,
    entries: Vec<Entry>,
}

impl Walk<'_> {
    fn directory(&mut self, directory: &rootfs::Inode, path: &str, depth: usize) {
        let rootfs = self.rootfs;
        for entry in rootfs.entries(directory) {
            let number = entry.inode.get();
            let Some(inode) = rootfs.inode(number) else { continue };
            let child = format!("{path}{}", String::from_utf8_lossy(rootfs.name(entry)));
            let kind = inode.mode.get() & MODE_TYPE;
            let target = (kind == MODE_SYMLINK)
                .then(|| String::from_utf8_lossy(rootfs.target(inode).unwrap_or_default()).into_owned());
            let is_directory = kind == MODE_DIRECTORY;
            let size = if is_directory { 0 } else { inode.size.get() };
            self.entries.push(Entry { path: child.clone(), mode: inode.mode.get(), size, target });
            if is_directory && depth < DEPTH_LIMIT && self.visited.insert(number) {
                self.directory(inode, &format!("{child}/"), depth + 1);
            }
        }
    }
}

/// The NetBSD component set of an ELF image; `None` for the built-in components, and for what is no image.
pub fn component_set(path: &Path) -> Option<String> {
    parts(&mut File::open(path).ok()?, 0).ok()??.manifest.kernel.component_set
}

/// The name of an ELF image's configuration; `None` for what is no image.
pub fn configuration(path: &Path) -> Option<String> {
    Some(parts(&mut File::open(path).ok()?, 0).ok()??.manifest.config)
}

/// Bytes of memory, from address 0, that an ELF image takes when loaded.
pub fn loaded_end(path: &Path) -> Option<u64> {
    let cache = ReadCache::new(File::open(path).ok()?);
    let header = elf::FileHeader64::<LittleEndian>::parse(&cache).ok()?;
    let segments = header.program_headers(LittleEndian, &cache).ok()?;
    let loaded = segments.iter().filter(|segment| segment.p_type(LittleEndian) == elf::PT_LOAD);
    loaded
        .filter_map(|segment| segment.p_paddr(LittleEndian).checked_add(segment.p_memsz(LittleEndian)))
        .max()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{
        config::Configuration,
        rootfs::{Entry as Row, Inode},
        tree::Tree,
        writer::Layout,
    };
    use zerocopy::IntoBytes;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Inspection, Error> {
        super::read(&mut Cursor::new(bytes), bytes.len() as u64, Path::new("image"))
    }

    /// An image with directories /a and /b, of a kernel that is one page of nothing.
    fn image() -> Vec<u8> {
        let mut tree = Tree::new();
        tree.ensure_directory(b"/a/deep").expect("made");
        tree.ensure_directory(b"/b").expect("made");
        let layout = Layout::new(&tree).expect("laid out");
        let kernel = crate::boot_elf::Kernel::blank();
        let mut output = Cursor::new(Vec::new());
        crate::boot_elf::write(&mut output, &kernel, &Configuration::default(), &layout).expect("written");
        output.into_inner()
    }

    #[test]
    fn directories_in_circles_end() {
        let mut bytes = image();
        let paths: Vec<_> = read(&bytes).expect("good").entries.into_iter().map(|entry| entry.path).collect();
        assert_eq!(paths, ["/a", "/a/deep", "/b"]);
        // Every entry becomes the root directory.
        let start = bytes.windows(8).rposition(|part| part == rootfs::MAGIC).expect("a root file system");
        let rows = start + size_of::<Superblock>() + 4 * size_of::<Inode>();
        for row in 0..3 {
            let inode = rows + row * size_of::<Row>() + 8;
            bytes[inode..inode + 4].copy_from_slice(0u32.as_bytes());
        }
        assert_eq!(read(&bytes).expect("readable").entries.len(), 2);
    }

    #[test]
    fn damaged_images_are_refused_or_read() {
        let good = image();
        for length in (0..good.len()).step_by(97) {
            let _ = read(&good[..length]);
        }
        for place in 0..good.len().min(20_000) {
            let mut bad = good.clone();
            bad[place] ^= 0xff;
            let _ = read(&bad);
        }
    }
}
