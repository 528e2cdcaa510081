//! The image as an ELF file: the kernel's segments, its boot notes, the payload as one more segment, and a note
//! that says what is inside ([`Manifest`]).
//!
//! The file is laid out anew: header and program headers in the first page, then the kernel's segments, so that
//! the Multiboot2 header stays in the first 32 KiB. The kernel's sections and symbols stay behind.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use image::{config::Configuration, payload, symbols, writer};
use object::{
    LittleEndian, Object, ObjectSymbol, SymbolKind, elf,
    read::elf::{FileHeader, ProgramHeader},
};
use sha2::{Digest, Sha256};

use crate::manifest::{self, Manifest};

/// Where the kernel's first segment goes.
const FIRST_SEGMENT: u64 = 4096;
/// A Multiboot2 header must be in this many bytes of the file, and aligned so.
const MULTIBOOT_SEARCH: u64 = 32 << 10;
const MULTIBOOT_ALIGNMENT: usize = 8;
const MULTIBOOT_MAGIC: [u8; 4] = 0xe852_50d6u32.to_le_bytes();
/// Physical memory that is addressed from the kernel's top 2 GiB.
const PHYSICAL_LIMIT: u64 = 2 << 30;
const NOTE_ALIGNMENT: usize = 4;
const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;

/// Why an image could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel isn't what the baker builds.
    #[error("the kernel is not usable: {0}")]
    Kernel(&'static str),
    /// More than fits where the kernel looks for it.
    #[error(
        "the image would take {0} MiB of memory; 2048 MiB is the most: bake fewer files, put data on a disk"
    )]
    TooLarge(u64),
    /// The root file system.
    #[error(transparent)]
    RootFs(#[from] writer::Error),
    /// The output.
    #[error("cannot write the image: {0}")]
    Write(#[from] io::Error),
    /// The configuration.
    #[error("cannot encode the configuration: {0}")]
    Encode(String),
}

/// A segment of the kernel.
#[derive(Debug, Clone)]
struct Segment {
    bytes: Vec<u8>,
    flags: u32,
    virtual_address: u64,
    physical_address: u64,
    memory: u64,
    alignment: u64,
}

/// A kernel, read from the ELF file that cargo built.
#[derive(Debug, Clone)]
pub struct Kernel {
    entry: u64,
    segments: Vec<Segment>,
    notes: Vec<Segment>,
    symbols: Vec<u8>,
    sha256: String,
    /// The NetBSD component set that it has; the built-in components otherwise.
    pub component_set: Option<String>,
}

impl Kernel {
    /// Reads a kernel.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let endian = LittleEndian;
        let header = elf::FileHeader64::<LittleEndian>::parse(bytes)
            .map_err(|_| Error::Kernel("not a 64-bit ELF file"))?;
        let headers = header
            .program_headers(endian, bytes)
            .map_err(|_| Error::Kernel("its program headers cannot be read"))?;
        let mut kernel = Kernel {
            entry: header.e_entry(endian),
            segments: Vec::new(),
            notes: Vec::new(),
            symbols: symbol_table(bytes),
            sha256: hexadecimal(&Sha256::digest(bytes)),
            component_set: None,
        };
        for header in headers {
            let kind = header.p_type(endian);
            if !matches!(kind, elf::PT_LOAD | elf::PT_NOTE) {
                continue;
            }
            let data = header.data(endian, bytes).map_err(|()| Error::Kernel("a segment leaves the file"))?;
            let segment = Segment {
                bytes: data.to_vec(),
                flags: header.p_flags(endian),
                virtual_address: header.p_vaddr(endian),
                physical_address: header.p_paddr(endian),
                memory: header.p_memsz(endian),
                alignment: header.p_align(endian),
            };
            if segment.memory < segment.bytes.len() as u64
                || segment.physical_address.checked_add(segment.memory).is_none_or(|end| end > PHYSICAL_LIMIT)
            {
                return Err(Error::Kernel("a segment lies outside the first 2 GiB"));
            }
            if kind == elf::PT_NOTE {
                kernel.notes.push(segment);
            } else if segment.memory > 0 {
                kernel.segments.push(segment);
            }
        }
        if kernel.segments.is_empty() {
            return Err(Error::Kernel("nothing in it is to be loaded"));
        }
        Ok(kernel)
    }

    /// One page of nothing, for tests.
    #[cfg(test)]
    pub(crate) fn blank() -> Self {
        let segment = Segment {
            bytes: vec![0; 4096],
            flags: elf::PF_R,
            virtual_address: symbols::BASE + (1 << 20),
            physical_address: 1 << 20,
            memory: 4096,
            alignment: 4096,
        };
        Kernel {
            entry: 1 << 20,
            segments: vec![segment],
            notes: Vec::new(),
            symbols: symbols::build(Vec::new()),
            sha256: String::new(),
            component_set: None,
        }
    }

    /// Where the payload goes: behind the kernel's last byte in memory.
    fn payload_address(&self) -> u64 {
        let end = self.segments.iter().map(|segment| segment.physical_address + segment.memory).max();
        end.unwrap_or(0).next_multiple_of(payload::ALIGNMENT)
    }
}

/// The table for backtraces, from the symbols that the linker left.
fn symbol_table(bytes: &[u8]) -> Vec<u8> {
    let Ok(file) = object::File::parse(bytes) else { return symbols::build(Vec::new()) };
    let functions = file.symbols().filter(|symbol| {
        // Labels of assembly have no type; they matter in a backtrace too.
        let in_text = symbol.section_index().is_some_and(|index| {
            use object::ObjectSection;
            file.section_by_index(index).is_ok_and(|section| section.kind() == object::SectionKind::Text)
        });
        in_text && matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown | SymbolKind::Label)
    });
    let named = functions.filter_map(|symbol| {
        let name = symbol.name().ok().filter(|name| !name.is_empty())?;
        Some((symbol.address(), format!("{:#}", rustc_demangle::demangle(name))))
    });
    symbols::build(named.collect())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Counts and hashes what goes through it.
struct Hashing<'a, W> {
    inner: &'a mut W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// One line of the program header table.
struct Row {
    kind: u32,
    flags: u32,
    offset: u64,
    virtual_address: u64,
    physical_address: u64,
    in_file: u64,
    in_memory: u64,
    alignment: u64,
}

/// Writes an image; returns its manifest.
pub fn write<W: Write + Seek>(
    output: &mut W,
    kernel: &Kernel,
    configuration: &Configuration,
    rootfs: &writer::Layout<'_>,
) -> Result<Manifest, Error> {
    let mut rows = Vec::new();
    let mut position = FIRST_SEGMENT;
    output.seek(SeekFrom::Start(position))?;
    for segment in &kernel.segments {
        // Equal to the address modulo a page, as ELF wants.
        let skew = segment.physical_address.wrapping_sub(position) % FIRST_SEGMENT;
        pad(output, &mut position, skew)?;
        rows.push(segment.row(position));
        output.write_all(&segment.bytes)?;
        position += segment.bytes.len() as u64;
    }
    let skew = position.next_multiple_of(payload::ALIGNMENT) - position;
    pad(output, &mut position, skew)?;
    let front = payload::begin(configuration, &kernel.symbols, rootfs.length())
        .map_err(|error| Error::Encode(error.to_string()))?;
    let address = kernel.payload_address();
    let length = front.len() as u64 + rootfs.length();
    let end = address.saturating_add(length);
    if end > PHYSICAL_LIMIT {
        return Err(Error::TooLarge(end >> 20));
    }
    rows.push(Row {
        kind: elf::PT_LOAD,
        flags: elf::PF_R,
        offset: position,
        virtual_address: symbols::BASE + address,
        physical_address: address,
        in_file: length,
        in_memory: length,
        alignment: payload::ALIGNMENT,
    });
    output.write_all(&front)?;
    let mut hashing = Hashing { inner: output, hash: Sha256::new() };
    rootfs.write(&mut hashing)?;
    let rootfs_hash = hexadecimal(&hashing.hash.finalize());
    position += length;

    let manifest = Manifest::new(configuration, kernel_facts(kernel), rootfs, rootfs_hash, address);
    // One segment has all notes, the boot notes first: loaders stop at the first that they know, and some look
    // at one segment only, or beyond the end of one that has no note for them.
    let mut notes: Vec<u8> = Vec::new();
    for segment in &kernel.notes {
        notes.extend_from_slice(&segment.bytes);
        notes.resize(notes.len().next_multiple_of(NOTE_ALIGNMENT), 0);
    }
    notes.extend(manifest::note(&manifest));
    rows.push(Row {
        kind: elf::PT_NOTE,
        flags: elf::PF_R,
        offset: position,
        virtual_address: 0,
        physical_address: 0,
        in_file: notes.len() as u64,
        in_memory: notes.len() as u64,
        alignment: NOTE_ALIGNMENT as u64,
    });
    output.write_all(&notes)?;
    output.seek(SeekFrom::Start(0))?;
    output.write_all(&headers(kernel.entry, &rows)?)?;
    output.seek(SeekFrom::End(0))?;
    output.flush()?;
    Ok(manifest)
}

fn kernel_facts(kernel: &Kernel) -> manifest::Kernel {
    manifest::Kernel {
        sha256: kernel.sha256.clone(),
        bytes: kernel.segments.iter().map(|segment| segment.bytes.len() as u64).sum(),
        memory: kernel.segments.iter().map(|segment| segment.memory).sum(),
        symbols: kernel.symbols.len() as u64,
        component_set: kernel.component_set.clone(),
    }
}

fn pad(output: &mut impl Write, position: &mut u64, count: u64) -> io::Result<()> {
    output.write_all(&vec![0; count as usize])?;
    *position += count;
    Ok(())
}

impl Segment {
    fn row(&self, offset: u64) -> Row {
        Row {
            kind: elf::PT_LOAD,
            flags: self.flags,
            offset,
            virtual_address: self.virtual_address,
            physical_address: self.physical_address,
            in_file: self.bytes.len() as u64,
            in_memory: self.memory,
            alignment: self.alignment.min(FIRST_SEGMENT),
        }
    }
}

/// The file header and the program header table.
fn headers(entry: u64, rows: &[Row]) -> Result<Vec<u8>, Error> {
    if HEADER + PROGRAM_HEADER * rows.len() as u64 > FIRST_SEGMENT {
        return Err(Error::Kernel("too many segments"));
    }
    let mut bytes = elf::ELFMAG.to_vec();
    bytes.extend([elf::ELFCLASS64, elf::ELFDATA2LSB, elf::EV_CURRENT]);
    bytes.resize(16, 0);
    bytes.extend(elf::ET_EXEC.to_le_bytes());
    bytes.extend(elf::EM_X86_64.to_le_bytes());
    bytes.extend(u32::from(elf::EV_CURRENT).to_le_bytes());
    bytes.extend(entry.to_le_bytes());
    bytes.extend(HEADER.to_le_bytes());
    // No sections, no flags.
    bytes.extend([0; 12]);
    for half in [HEADER as u16, PROGRAM_HEADER as u16, rows.len() as u16, 64, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    for row in rows {
        bytes.extend(row.kind.to_le_bytes());
        bytes.extend(row.flags.to_le_bytes());
        let words = [
            row.offset,
            row.virtual_address,
            row.physical_address,
            row.in_file,
            row.in_memory,
            row.alignment,
        ];
        for word in words {
            bytes.extend(word.to_le_bytes());
        }
    }
    Ok(bytes)
}

/// Whether a boot loader will find a Multiboot2 header in a file.
pub fn starts_with_multiboot2(path: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    File::open(path)?.take(MULTIBOOT_SEARCH).read_to_end(&mut start)?;
    Ok(start.chunks(MULTIBOOT_ALIGNMENT).any(|chunk| chunk.starts_with(&MULTIBOOT_MAGIC)))
}
