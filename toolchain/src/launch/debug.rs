//! gdb: QEMU's stub, and the symbols of what runs, taken out of the image.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use image::{config::Configuration, symbols};
use object::{
    elf,
    endian::Endianness,
    write::elf::{FileHeader, SectionHeader, Sym, Writer},
};

use super::{Error, host_error};
use crate::inspect;

/// Where position-independent programs are loaded when addresses are fixed (`linux::exec_image::load`).
const PROGRAM_BASE: u64 = 0x5555_5555_4000;

/// A debugger that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gdb {
    /// The port of QEMU's stub on 127.0.0.1.
    pub port: u16,
    /// The machine waits for it.
    pub pause: bool,
}

/// Writes files with the symbols of kernel and programs to the folder; returns gdb's command.
pub fn prepare(gdb: Gdb, image: &Path, folder: &Path) -> Result<Vec<String>, Error> {
    let failed = host_error("cannot write the symbols for gdb");
    let mut command: Vec<String> = ["gdb", "-ex", "set architecture i386:x86-64"].map(Into::into).into();
    let mut write = || -> io::Result<()> {
        let payload = inspect::payload(image).map_err(io::Error::other)?;
        let kernel = folder.join("kernel");
        fs::write(&kernel, symbol_file(&payload.symbols).map_err(io::Error::other)?)?;
        command.push(kernel.display().to_string());
        let configuration: Configuration =
            postcard::from_bytes(&payload.configuration).map_err(io::Error::other)?;
        let mut seen: Vec<PathBuf> = Vec::new();
        for program in &configuration.programs {
            let path = String::from_utf8_lossy(&program.path);
            let file = folder.join(path.rsplit('/').next().unwrap_or("program"));
            let Ok(bytes) = inspect::file(image, &path) else { continue };
            let Some(base) = load_address(&bytes).filter(|_| !seen.contains(&file)) else { continue };
            fs::write(&file, bytes)?;
            command.extend(["-ex".into(), format!("add-symbol-file {} -o {base:#x}", file.display())]);
            seen.push(file);
        }
        Ok(())
    };
    write().map_err(failed)?;
    command.extend(["-ex".into(), format!("target remote 127.0.0.1:{}", gdb.port)]);
    Ok(command)
}

/// Where a program is loaded, less the address that it was linked at; `None` if it is no ELF program.
fn load_address(bytes: &[u8]) -> Option<u64> {
    if !bytes.starts_with(b"\x7fELF") {
        return None;
    }
    match u16::from_le_bytes(bytes.get(16..18)?.try_into().ok()?) {
        elf::ET_EXEC => Some(0),
        elf::ET_DYN => Some(PROGRAM_BASE),
        _ => None,
    }
}

/// An ELF file of the kernel's symbols alone, from the table in an image.
fn symbol_file(table: &[u8]) -> Result<Vec<u8>, object::write::Error> {
    let all: Vec<(u64, &str)> = symbols::all(table).collect();
    let first = all.first().map_or(symbols::BASE, |(address, _)| *address);
    let last = all.last().map_or(first, |(address, _)| *address);
    let mut file = Vec::new();
    let mut writer = Writer::new(Endianness::Little, true, &mut file);
    writer.reserve_file_header();
    writer.reserve_null_section_index();
    let text_name = writer.add_section_name(b".text");
    let text = writer.reserve_section_index();
    writer.reserve_symtab_section_index();
    writer.reserve_strtab_section_index();
    writer.reserve_shstrtab_section_index();
    let named: Vec<_> =
        all.iter().map(|(address, name)| (*address, writer.add_string(name.as_bytes()))).collect();
    writer.reserve_null_symbol_index();
    for _ in &named {
        writer.reserve_symbol_index(Some(text));
    }
    writer.reserve_symtab();
    writer.reserve_strtab();
    writer.reserve_shstrtab();
    writer.reserve_section_headers();
    writer.write_file_header(&FileHeader {
        os_abi: elf::ELFOSABI_NONE,
        abi_version: 0,
        e_type: elf::ET_EXEC,
        e_machine: elf::EM_X86_64,
        e_entry: first,
        e_flags: 0,
    })?;
    writer.write_null_symbol();
    for (index, (address, name)) in named.iter().enumerate() {
        let end = named.get(index + 1).map_or(address + 1, |(next, _)| *next);
        writer.write_symbol(&Sym {
            name: Some(*name),
            section: Some(text),
            st_info: (elf::STB_GLOBAL << 4) | elf::STT_FUNC,
            st_other: 0,
            st_shndx: 0,
            st_value: *address,
            st_size: end - address,
        });
    }
    writer.write_strtab();
    writer.write_shstrtab();
    writer.write_null_section_header();
    writer.write_section_header(&SectionHeader {
        name: Some(text_name),
        sh_type: elf::SHT_NOBITS,
        sh_flags: u64::from(elf::SHF_ALLOC | elf::SHF_EXECINSTR),
        sh_addr: first,
        sh_offset: 0,
        sh_size: last + 1 - first,
        sh_link: 0,
        sh_info: 0,
        sh_addralign: 16,
        sh_entsize: 0,
    });
    writer.write_symtab_section_header(1);
    writer.write_strtab_section_header();
    writer.write_shstrtab_section_header();
    Ok(file)
}

#[cfg(test)]
mod tests {
    use object::{Object, ObjectSymbol};

    use super::*;

    #[test]
    fn the_kernels_symbols_read_back() {
        let table = symbols::build(vec![
            (symbols::BASE + 0x1000, "one::two".into()),
            (symbols::BASE + 0x1080, "<three>::four".into()),
        ]);
        let bytes = symbol_file(&table).expect("a file");
        let file = object::File::parse(&*bytes).expect("an ELF file");
        let symbols: Vec<_> =
            file.symbols().map(|symbol| (symbol.address(), symbol.name().expect("a name"))).collect();
        assert_eq!(
            symbols,
            [(symbols::BASE + 0x1000, "one::two"), (symbols::BASE + 0x1080, "<three>::four")]
        );
        assert!(symbol_file(&[]).is_ok());
    }

    #[test]
    fn programs_are_loaded_by_their_type() {
        let mut header = b"\x7fELF\x02\x01\x01".to_vec();
        header.resize(64, 0);
        assert_eq!(load_address(&header), None);
        header[16] = 2;
        assert_eq!(load_address(&header), Some(0));
        header[16] = 3;
        assert_eq!(load_address(&header), Some(PROGRAM_BASE));
        assert_eq!(load_address(b"#!/bin/sh"), None);
    }
}
