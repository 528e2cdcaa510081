//! Reads what the baker must know of a program or library: which machine it is for, its interpreter, the
//! libraries it needs and where it wants them looked for. Nothing in a file is believed unchecked.

use object::{
    Endianness, LittleEndian, ReadRef, elf,
    read::elf::{Dyn, FileHeader, ProgramHeader},
};

/// Longest string that is read from a file: an interpreter, a library's name, a search path.
const STRING_LIMIT: u64 = 64 << 10;

/// Why a file can't be baked as a program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No ELF magic.
    #[error("not an ELF file, and it does not start with `#!`")]
    NotElf,
    /// For another machine.
    #[error("built for {0}, and an image runs x86-64 programs")]
    Machine(String),
    /// For another operating system, or not a program at all.
    #[error("an ELF {0}, not a program")]
    Type(&'static str),
    /// Ends before the data that its headers announce.
    #[error("truncated: {0} ends at byte {1}, and the file has {2}")]
    Truncated(&'static str, u64, u64),
    /// Its headers contradict themselves.
    #[error("damaged ELF file: {0}")]
    Damaged(&'static str),
}

/// What kind of ELF file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Linked to a fixed address.
    Executable,
    /// A library, or a position-independent executable.
    Shared,
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    /// Which kind.
    pub kind: Kind,
    /// Address of its first instruction, 0 for most libraries.
    pub entry: u64,
    /// `PT_INTERP`.
    pub interpreter: Option<Vec<u8>>,
    /// `DT_NEEDED`, in order.
    pub needed: Vec<Vec<u8>>,
    /// `DT_SONAME`.
    pub soname: Option<Vec<u8>>,
    /// `DT_RPATH`, split.
    pub rpath: Vec<Vec<u8>>,
    /// `DT_RUNPATH`, split.
    pub runpath: Vec<Vec<u8>>,
    /// `DF_1_NODEFLIB`: only its own search path counts.
    pub no_default_libraries: bool,
}

fn machine_name(machine: u16) -> String {
    let name = match machine {
        elf::EM_386 => "32-bit x86 (i386)",
        elf::EM_AARCH64 => "64-bit Arm (aarch64)",
        elf::EM_ARM => "32-bit Arm",
        elf::EM_RISCV => "RISC-V",
        elf::EM_PPC64 => "64-bit PowerPC",
        elf::EM_S390 => "S/390",
        elf::EM_MIPS => "MIPS",
        elf::EM_X86_64 => "x86-64 with 32-bit addresses (x32)",
        other => return format!("machine {other}"),
    };
    name.into()
}

/// Checks the identification, which 32-bit and big-endian files have too.
fn identify(head: &[u8]) -> Result<(), Error> {
    if head.get(..4) != Some(&elf::ELFMAG[..]) {
        return Err(Error::NotElf);
    }
    let (Some(&class), Some(&data)) = (head.get(4), head.get(5)) else {
        return Err(Error::Damaged("the header is cut off"));
    };
    let half = |at: usize| {
        let bytes: [u8; 2] = head.get(at..at + 2)?.try_into().ok()?;
        Some(if data == elf::ELFDATA2MSB { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    };
    let (Some(kind), Some(machine)) = (half(16), half(18)) else {
        return Err(Error::Damaged("the header is cut off"));
    };
    if class != elf::ELFCLASS64 || data != elf::ELFDATA2LSB || machine != elf::EM_X86_64 {
        return Err(Error::Machine(machine_name(machine)));
    }
    match kind {
        elf::ET_EXEC | elf::ET_DYN => Ok(()),
        elf::ET_REL => Err(Error::Type("object file (`.o`: link it first)")),
        elf::ET_CORE => Err(Error::Type("core dump")),
        _ => Err(Error::Type("file of unknown type")),
    }
}

/// Reads an ELF file.
pub fn inspect<'data, R: ReadRef<'data>>(data: R) -> Result<Elf, Error> {
    let length = data.len().map_err(|()| Error::Damaged("cannot be read"))?;
    identify(data.read_bytes_at(0, length.min(64)).map_err(|()| Error::Damaged("cannot be read"))?)?;
    let header = elf::FileHeader64::<LittleEndian>::parse(data)
        .map_err(|_| Error::Truncated("the file header", 64, length))?;
    let endian = LittleEndian;
    let table_end = header
        .e_phoff(endian)
        .checked_add(u64::from(header.e_phnum(endian)) * size_of::<elf::ProgramHeader64<Endianness>>() as u64)
        .ok_or(Error::Damaged("the program headers are nowhere"))?;
    if table_end > length {
        return Err(Error::Truncated("the program header table", table_end, length));
    }
    if header.e_shnum(endian) > 0 {
        let end = u64::from(header.e_shnum(endian)) * u64::from(header.e_shentsize(endian));
        let end = header.e_shoff(endian).saturating_add(end);
        if end > length {
            return Err(Error::Truncated("the section header table", end, length));
        }
    }
    let segments = header
        .program_headers(endian, data)
        .map_err(|_| Error::Damaged("the program headers cannot be read"))?;
    check_segments(segments, length)?;

    let mut found = Elf {
        kind: if header.e_type(endian) == elf::ET_EXEC { Kind::Executable } else { Kind::Shared },
        entry: header.e_entry(endian),
        interpreter: None,
        needed: Vec::new(),
        soname: None,
        rpath: Vec::new(),
        runpath: Vec::new(),
        no_default_libraries: false,
    };
    for segment in segments {
        match segment.p_type(endian) {
            elf::PT_INTERP => {
                if segment.p_filesz(endian) > STRING_LIMIT {
                    return Err(Error::Damaged("the interpreter's name is too long"));
                }
                let bytes = segment
                    .data(endian, data)
                    .map_err(|()| Error::Damaged("the interpreter's name is outside the file"))?;
                let name = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
                if name.is_empty() {
                    return Err(Error::Damaged("the interpreter has no name"));
                }
                found.interpreter = Some(name.to_vec());
            }
            elf::PT_DYNAMIC => read_dynamic(&mut found, segments, segment, data)?,
            _ => {}
        }
    }
    Ok(found)
}

type Segment = elf::ProgramHeader64<LittleEndian>;

fn check_segments(segments: &[Segment], length: u64) -> Result<(), Error> {
    let mut loads = 0;
    for segment in segments {
        let offset = segment.p_offset(LittleEndian);
        let in_file = segment.p_filesz(LittleEndian);
        let in_memory = segment.p_memsz(LittleEndian);
        let kind = segment.p_type(LittleEndian);
        if !matches!(kind, elf::PT_LOAD | elf::PT_INTERP | elf::PT_DYNAMIC) {
            continue;
        }
        let end = offset.checked_add(in_file).ok_or(Error::Damaged("a segment is too large"))?;
        if end > length {
            return Err(Error::Truncated("a segment", end, length));
        }
        if kind != elf::PT_LOAD {
            continue;
        }
        loads += 1;
        if in_file > in_memory {
            return Err(Error::Damaged("a segment has more bytes in the file than in memory"));
        }
        let top = segment.p_vaddr(LittleEndian).checked_add(in_memory);
        if top.is_none_or(|top| top > 1 << 47) {
            return Err(Error::Damaged("a segment lies outside the user address space"));
        }
    }
    if loads == 0 { Err(Error::Damaged("nothing in it is to be loaded")) } else { Ok(()) }
}

fn read_dynamic<'data, R: ReadRef<'data>>(
    found: &mut Elf,
    segments: &[Segment],
    segment: &Segment,
    data: R,
) -> Result<(), Error> {
    let endian = LittleEndian;
    let entries = segment
        .dynamic(endian, data)
        .map_err(|_| Error::Damaged("the dynamic section cannot be read"))?
        .unwrap_or_default();
    let mut values = Vec::new();
    let mut strings = None;
    let mut strings_length = STRING_LIMIT;
    for entry in entries {
        let value = entry.d_val(endian);
        match entry.d_tag(endian) {
            elf::DT_NULL => break,
            elf::DT_STRTAB => strings = Some(value),
            elf::DT_STRSZ => strings_length = value,
            elf::DT_FLAGS_1 => {
                found.no_default_libraries = value & u64::from(elf::DF_1_NODEFLIB) != 0;
            }
            tag @ (elf::DT_NEEDED | elf::DT_SONAME | elf::DT_RPATH | elf::DT_RUNPATH) => {
                values.push((tag, value));
            }
            _ => {}
        }
    }
    if values.is_empty() {
        return Ok(());
    }
    let address = strings.ok_or(Error::Damaged("libraries are needed, but there are no strings"))?;
    // A string ends within its segment, however long the table says it is.
    let (start, left) = segments
        .iter()
        .filter(|segment| segment.p_type(endian) == elf::PT_LOAD)
        .find_map(|segment| {
            let inside = address.checked_sub(segment.p_vaddr(endian))?;
            let left = segment.p_filesz(endian).checked_sub(inside).filter(|left| *left > 0)?;
            Some((segment.p_offset(endian) + inside, left))
        })
        .ok_or(Error::Damaged("the dynamic strings are not in the file"))?;
    let table = start..start + left.min(strings_length);
    for (tag, offset) in values {
        let at = table
            .start
            .checked_add(offset)
            .filter(|at| table.contains(at))
            .ok_or(Error::Damaged("the name of a library is outside the strings"))?;
        let end = table.end.min(at + STRING_LIMIT);
        let string = data
            .read_bytes_at_until(at..end, 0)
            .map_err(|()| Error::Damaged("the name of a library does not end"))?;
        match tag {
            elf::DT_NEEDED if string.is_empty() => {
                return Err(Error::Damaged("a needed library has no name"));
            }
            elf::DT_NEEDED => found.needed.push(string.to_vec()),
            elf::DT_SONAME => found.soname = Some(string.to_vec()),
            elf::DT_RPATH => found.rpath = split_path(string),
            _ => found.runpath = split_path(string),
        }
    }
    Ok(())
}

/// The directories of a search path.
fn split_path(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&byte| byte == b':').filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> Vec<u8> {
        std::fs::read(std::env::current_exe().expect("a test is a program")).expect("readable")
    }

    #[test]
    fn reads_a_dynamic_program() {
        let found = inspect(program().as_slice()).expect("a good program");
        assert_eq!(found.kind, Kind::Shared);
        assert_eq!(found.interpreter.as_deref(), Some(b"/lib64/ld-linux-x86-64.so.2".as_slice()));
        assert!(found.needed.contains(&b"libc.so.6".to_vec()), "{found:?}");
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(inspect(b"plain text".as_slice()), Err(Error::NotElf));
        assert_eq!(inspect(b"".as_slice()), Err(Error::NotElf));
        let good = program();
        let with = |at: usize, bytes: &[u8]| {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            inspect(bad.as_slice()).expect_err("must be refused")
        };
        assert!(with(18, &elf::EM_AARCH64.to_le_bytes()).to_string().contains("aarch64"));
        assert!(with(4, &[elf::ELFCLASS32]).to_string().contains("x86-64"));
        assert!(with(16, &elf::ET_REL.to_le_bytes()).to_string().contains("link it"));
        assert!(matches!(with(32, &u64::MAX.to_le_bytes()), Error::Damaged(_)));
        assert!(matches!(with(32, &(1u64 << 40).to_le_bytes()), Error::Truncated(..)));
    }

    #[test]
    fn truncated_programs_are_refused_at_every_length() {
        let good = program();
        for length in (0..4096).step_by(13).chain([good.len() / 4, good.len() / 2]) {
            let error = inspect(&good[..length]).expect_err("must be refused");
            assert!(!matches!(error, Error::Machine(_)), "{length}: {error}");
        }
    }
}
