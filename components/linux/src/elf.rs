//! ELF executables (System V ABI, chapters 4 and 5; x86-64 supplement): reads the headers and checks them, so that
//! what follows can rely on them. Nothing of the file is trusted.

use alloc::{vec, vec::Vec};
use core::ops::Range;

use rumpkern::{Errno, Result};
use rumpuser::{
    Protection,
    memory::{PAGE_SIZE, USER_END},
};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

const MAGIC: [u8; 4] = *b"\x7fELF";
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const VERSION: u32 = 1;
const TYPE_EXECUTABLE: u16 = 2;
const TYPE_DYNAMIC: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_INTERPRETER: u32 = 3;
const SEGMENT_STACK: u32 = 0x6474_e551;
const FLAG_EXECUTE: u32 = 1;
const FLAG_WRITE: u32 = 2;
const FLAG_READ: u32 = 4;
/// Linux reads no more than this of program headers.
const PROGRAM_HEADERS_MAX: usize = 65536;
/// Longest interpreter path, its NUL included.
const INTERPRETER_MAX: u64 = 4096;
/// Alignments beyond this are ignored.
const ALIGNMENT_MAX: u64 = 1 << 30;

/// `Elf64_Ehdr`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct FileHeader {
    magic: [u8; 4],
    class: u8,
    data: u8,
    identification_version: u8,
    rest: [u8; 9],
    kind: u16,
    machine: u16,
    version: u32,
    entry: u64,
    program_headers: u64,
    section_headers: u64,
    flags: u32,
    header_size: u16,
    program_header_size: u16,
    program_header_count: u16,
    section_header_size: u16,
    section_header_count: u16,
    section_names: u16,
}

/// `Elf64_Phdr`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    physical_address: u64,
    file_size: u64,
    memory_size: u64,
    alignment: u64,
}

/// Bytes of a program header (AT_PHENT).
pub const PROGRAM_HEADER_SIZE: usize = size_of::<ProgramHeader>();

/// A part of the file that is loaded. Addresses are as linked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where it goes.
    pub address: usize,
    /// Bytes in memory; what the file doesn't have is zero.
    pub memory_size: usize,
    /// Where it is in the file; congruent to `address` modulo the page size.
    pub offset: u64,
    /// Bytes in the file, at most `memory_size`.
    pub file_size: usize,
    /// What the program may do.
    pub protection: Protection,
}

/// A checked executable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    /// It may be loaded anywhere (ET_DYN).
    pub relocatable: bool,
    /// Where it starts, as linked.
    pub entry: usize,
    /// Its loadable segments: at least one, ascending, not overlapping, below the end of user memory.
    pub segments: Vec<Segment>,
    /// The pages from the first to the last segment.
    pub span: Range<usize>,
    /// The largest alignment a segment asks for: a power of two, at least a page.
    pub alignment: usize,
    /// The program that loads it.
    pub interpreter: Option<Vec<u8>>,
    /// Where the program headers are in memory, as linked; 0 if nowhere.
    pub program_headers: usize,
    /// How many there are.
    pub program_header_count: usize,
    /// It wants an executable stack.
    pub executable_stack: bool,
}

/// Whether a file that begins so is meant to be an ELF file.
pub fn is_elf(start: &[u8]) -> bool {
    start.starts_with(&MAGIC)
}

/// Reads and checks the headers of a file of `size` bytes. `read(offset, buffer)` fills the buffer or fails.
/// ENOEXEC for anything that is no proper x86-64 executable.
pub fn parse(size: u64, read: &mut dyn FnMut(u64, &mut [u8]) -> Result<()>) -> Result<Elf> {
    let mut header = FileHeader::new_zeroed();
    if size < size_of::<FileHeader>() as u64 {
        return Err(Errno::ENOEXEC);
    }
    read(0, header.as_mut_bytes())?;
    let supported = header.magic == MAGIC
        && header.class == CLASS_64
        && header.data == LITTLE_ENDIAN
        && header.version == VERSION
        && header.machine == MACHINE_X86_64
        && matches!(header.kind, TYPE_EXECUTABLE | TYPE_DYNAMIC)
        && usize::from(header.program_header_size) == PROGRAM_HEADER_SIZE;
    let count = usize::from(header.program_header_count);
    let table_size = count * PROGRAM_HEADER_SIZE;
    let table_end = header.program_headers.checked_add(table_size as u64);
    if !supported || count == 0 || table_size > PROGRAM_HEADERS_MAX || table_end.is_none_or(|end| end > size)
    {
        return Err(Errno::ENOEXEC);
    }
    let mut table = vec![ProgramHeader::new_zeroed(); count];
    read(header.program_headers, table.as_mut_slice().as_mut_bytes())?;

    let mut elf = Elf {
        relocatable: header.kind == TYPE_DYNAMIC,
        entry: usize::try_from(header.entry).map_err(|_| Errno::ENOEXEC)?,
        segments: Vec::new(),
        span: 0..0,
        alignment: PAGE_SIZE,
        interpreter: None,
        program_headers: 0,
        program_header_count: count,
        executable_stack: false,
    };
    for program_header in &table {
        match program_header.kind {
            SEGMENT_LOAD => elf.add_segment(program_header, size)?,
            SEGMENT_INTERPRETER if elf.interpreter.is_none() => {
                elf.interpreter = Some(read_interpreter(program_header, size, read)?);
            }
            SEGMENT_STACK => elf.executable_stack = program_header.flags & FLAG_EXECUTE != 0,
            _ => {}
        }
    }
    let (Some(first), Some(last)) = (elf.segments.first(), elf.segments.last()) else {
        return Err(Errno::ENOEXEC);
    };
    let end = (last.address + last.memory_size).next_multiple_of(PAGE_SIZE);
    elf.span = first.address & !(PAGE_SIZE - 1)..end;
    elf.program_headers = elf
        .segments
        .iter()
        .find(|segment| {
            segment.offset <= header.program_headers
                && table_end.is_some_and(|end| end <= segment.offset + segment.file_size as u64)
        })
        .map_or(0, |segment| segment.address + (header.program_headers - segment.offset) as usize);
    Ok(elf)
}

impl Elf {
    fn add_segment(&mut self, header: &ProgramHeader, size: u64) -> Result<()> {
        if header.memory_size == 0 {
            return Ok(());
        }
        let end = header.address.checked_add(header.memory_size).filter(|&end| end <= USER_END as u64);
        let file_end = header.offset.checked_add(header.file_size);
        let congruent = header.offset % PAGE_SIZE as u64 == header.address % PAGE_SIZE as u64;
        let sound = end.is_some()
            && header.file_size <= header.memory_size
            && (header.file_size == 0 || file_end.is_some_and(|end| end <= size) && congruent);
        let ascending = self
            .segments
            .last()
            .is_none_or(|last| (last.address + last.memory_size) as u64 <= header.address);
        if !sound || !ascending {
            return Err(Errno::ENOEXEC);
        }
        let mut protection = Protection::empty();
        for (flag, permission) in [
            (FLAG_READ, Protection::READ),
            (FLAG_WRITE, Protection::WRITE),
            (FLAG_EXECUTE, Protection::EXECUTE),
        ] {
            protection.set(permission, header.flags & flag != 0);
        }
        if header.alignment.is_power_of_two() && header.alignment <= ALIGNMENT_MAX {
            self.alignment = self.alignment.max(header.alignment as usize);
        }
        self.segments.push(Segment {
            address: header.address as usize,
            memory_size: header.memory_size as usize,
            offset: header.offset,
            file_size: header.file_size as usize,
            protection,
        });
        Ok(())
    }
}

fn read_interpreter(
    header: &ProgramHeader,
    size: u64,
    read: &mut dyn FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<Vec<u8>> {
    let end = header.offset.checked_add(header.file_size);
    if !(2..=INTERPRETER_MAX).contains(&header.file_size) || end.is_none_or(|end| end > size) {
        return Err(Errno::ENOEXEC);
    }
    let mut path = vec![0; header.file_size as usize];
    read(header.offset, &mut path)?;
    if path.last() != Some(&0) {
        return Err(Errno::ENOEXEC);
    }
    let length = path.iter().position(|&byte| byte == 0).unwrap_or(0);
    path.truncate(length);
    if path.is_empty() { Err(Errno::ENOEXEC) } else { Ok(path) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A file with the given program headers: (kind, flags, offset, address, file size, memory size).
    pub(crate) fn file(kind: u16, segments: &[(u32, u32, u64, u64, u64, u64)], size: usize) -> Vec<u8> {
        let header = FileHeader {
            magic: MAGIC,
            class: CLASS_64,
            data: LITTLE_ENDIAN,
            identification_version: 1,
            rest: [0; 9],
            kind,
            machine: MACHINE_X86_64,
            version: VERSION,
            entry: 0x40_1000,
            program_headers: 64,
            section_headers: 0,
            flags: 0,
            header_size: 64,
            program_header_size: 56,
            program_header_count: segments.len() as u16,
            section_header_size: 0,
            section_header_count: 0,
            section_names: 0,
        };
        let mut bytes = header.as_bytes().to_vec();
        for &(kind, flags, offset, address, file_size, memory_size) in segments {
            let header = ProgramHeader {
                kind,
                flags,
                offset,
                address,
                physical_address: 0,
                file_size,
                memory_size,
                alignment: 4096,
            };
            bytes.extend_from_slice(header.as_bytes());
        }
        bytes.resize(size.max(bytes.len()), 0);
        bytes
    }

    fn parse_bytes(bytes: &[u8]) -> Result<Elf> {
        parse(bytes.len() as u64, &mut |offset, buffer| {
            let from = usize::try_from(offset).map_err(|_| Errno::EIO)?;
            let part = bytes.get(from..from + buffer.len()).ok_or(Errno::EIO)?;
            buffer.copy_from_slice(part);
            Ok(())
        })
    }

    const TEXT: (u32, u32, u64, u64, u64, u64) = (SEGMENT_LOAD, 5, 0, 0x40_0000, 0x1000, 0x1000);

    #[test]
    fn a_proper_file_is_understood() {
        let data = (SEGMENT_LOAD, 6, 0x1010, 0x40_2010, 0x20, 0x3000);
        let mut bytes =
            file(TYPE_EXECUTABLE, &[TEXT, data, (SEGMENT_INTERPRETER, 4, 0x1020, 0, 8, 8)], 0x2000);
        bytes[0x1020..0x1028].copy_from_slice(b"/lib/ld\0");
        let elf = parse_bytes(&bytes).unwrap();
        assert_eq!((elf.span.clone(), elf.segments.len()), (0x40_0000..0x40_6000, 2));
        assert_eq!((elf.program_headers, elf.entry), (0x40_0040, 0x40_1000));
        assert_eq!(elf.interpreter.as_deref(), Some(&b"/lib/ld"[..]));
        bytes[0x1027] = b'x';
        assert_eq!(parse_bytes(&bytes), Err(Errno::ENOEXEC));
    }

    #[test]
    fn lying_headers_are_refused() {
        let bad = |segment| assert_eq!(parse_bytes(&file(2, &[TEXT, segment], 0x2000)), Err(Errno::ENOEXEC));
        // Overlapping, descending, wrapping, beyond the end of memory or file, not congruent, larger than memory.
        bad((SEGMENT_LOAD, 4, 0x800, 0x40_0800, 0x100, 0x100));
        bad((SEGMENT_LOAD, 4, 0, 0x10_0000, 0x100, 0x100));
        bad((SEGMENT_LOAD, 4, 0, !0xfff, 0x100, 0x2000));
        bad((SEGMENT_LOAD, 4, 0, USER_END as u64, 0x100, 0x100));
        bad((SEGMENT_LOAD, 4, 0x1000, 0x50_0000, 0x2000, 0x2000));
        bad((SEGMENT_LOAD, 4, !0xfff, 0x50_0000, 0x2000, 0x2000));
        bad((SEGMENT_LOAD, 4, 0x10, 0x50_0000, 0x100, 0x100));
        bad((SEGMENT_LOAD, 4, 0, 0x50_0000, 0x100, 0x10));
        bad((SEGMENT_INTERPRETER, 4, 0x1000, 0, 1, 1));
        bad((SEGMENT_INTERPRETER, 4, 0x1000, 0, 0x2000, 0x2000));
        assert_eq!(parse_bytes(&file(2, &[], 0x1000)), Err(Errno::ENOEXEC));
        assert_eq!(parse_bytes(&file(1, &[TEXT], 0x1000)), Err(Errno::ENOEXEC));
        assert_eq!(parse_bytes(&file(2, &[(SEGMENT_STACK, 6, 0, 0, 0, 0)], 0x1000)), Err(Errno::ENOEXEC));
    }

    #[test]
    fn every_truncation_and_every_changed_header_byte_is_survived() {
        let bytes = file(TYPE_DYNAMIC, &[TEXT, (SEGMENT_LOAD, 6, 0x1000, 0x40_1000, 0x10, 0x900)], 0x2000);
        assert!(parse_bytes(&bytes).is_ok());
        for length in 0..0x1010 {
            assert_eq!(parse_bytes(&bytes[..length]), Err(Errno::ENOEXEC));
        }
        for position in 0..64 + 2 * 56 {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[position] = value;
                if let Ok(elf) = parse_bytes(&changed) {
                    assert!(elf.span.end <= USER_END && elf.span.start < elf.span.end);
                }
            }
        }
    }
}
