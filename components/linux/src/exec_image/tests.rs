//! Loading made-up programs and one of the host's own into a space.

extern crate std;
use std::{format, string::String};

use rumpkern::uio::Source;
use rumpuser::Protection;
use rumpvfs::{
    access::Credentials as FileCredentials,
    file::OpenFlags,
    mount::{Mount, MountOptions},
    tmpfs::{Limits as FileLimits, TmpFs},
};

use super::*;
use crate::{
    credentials::Credentials,
    elf,
    limits::{Limits, Resource},
    space::Space,
};

struct World {
    root: Location,
    credentials: FileCredentials,
}

impl World {
    fn new() -> Self {
        let files = TmpFs::new(FileLimits::default(), 0o755).unwrap();
        World { root: Mount::root(files, MountOptions::default()), credentials: FileCredentials::root() }
    }

    fn lookup(&self) -> Lookup<'_> {
        Lookup::new(&self.root, &self.root, &self.credentials)
    }

    fn put(&self, path: &str, permissions: u32, bytes: &[u8]) {
        let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY | OpenFlags::TRUNCATE;
        let opened = self.lookup().open(path.as_bytes(), flags, permissions).unwrap();
        let mut source = Source::kernel(bytes);
        let mut offset = 0;
        while source.remaining() > 0 {
            opened.file.write(&mut source, &mut offset, flags).unwrap();
        }
    }

    fn open(&self, path: &str, arguments: &[&str]) -> Result<Executable> {
        let lookup = self.lookup();
        let location = lookup.resolve(path.as_bytes(), true)?;
        let arguments = arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect();
        Executable::open(&lookup, location, path.as_bytes(), arguments)
    }
}

fn load(executable: &Executable, environment: &[Vec<u8>], limits: &Limits) -> Result<Loaded> {
    let credentials = Credentials { uid: 1, euid: 2, gid: 3, egid: 4, ..Credentials::default() };
    executable.load(&LoadOptions { environment, credentials: &credentials, secure: true, limits })
}

fn word(space: &Space, address: usize) -> u64 {
    let mut bytes = [0; 8];
    assert_eq!(space.read(address, &mut bytes).1, Ok(()));
    u64::from_le_bytes(bytes)
}

fn string(space: &Space, address: u64) -> String {
    let mut text = String::new();
    for at in address as usize.. {
        let mut byte = [0];
        assert_eq!(space.read(at, &mut byte).1, Ok(()));
        if byte == [0] {
            break;
        }
        text.push(byte[0].into());
    }
    text
}

const DYNAMIC: u16 = 3;
const FIXED: u16 = 2;
const LOAD: u32 = 1;
const INTERPRETER: u32 = 3;

fn program(kind: u16, interpreter: Option<&str>) -> Vec<u8> {
    let base = if kind == FIXED { 0x40_0000 } else { 0 };
    let text = (LOAD, 5, 0, base, 0x800, 0x800);
    let data = (LOAD, 6, 0x1800, base + 0x2800, 0x100, 0x3000);
    let path = (INTERPRETER, 4, 0x700, 0, interpreter.map_or(0, |path| path.len() as u64 + 1), 0);
    let headers = [text, data, path];
    let mut bytes = elf::tests::file(kind, &headers[..if interpreter.is_some() { 3 } else { 2 }], 0x2000);
    bytes[0x1800..0x2000].fill(0xaa);
    bytes[0x600..0x604].copy_from_slice(b"text");
    if let Some(path) = interpreter {
        bytes[0x700..0x700 + path.len()].copy_from_slice(path.as_bytes());
    }
    bytes
}

#[test]
fn a_fixed_program_gets_its_segments_and_its_stack() {
    let world = World::new();
    world.put("/program", 0o755, &program(FIXED, None));
    let executable = world.open("/program", &["program", "one", ""]).unwrap();
    let loaded = load(&executable, &[b"A=b".to_vec()], &Limits::default()).unwrap();
    let space = &loaded.space;
    assert_eq!((loaded.rip, loaded.rsp % 16), (0x40_1000, 0));
    assert_eq!(word(space, 0x40_0600) as u32, u32::from_le_bytes(*b"text"));
    assert_eq!(word(space, 0x40_28f8), u64::from_le_bytes([0xaa; 8]));
    // Behind the file's data: zeros, in the same page and in the next ones.
    assert_eq!((word(space, 0x40_2900), word(space, 0x40_2ff8), word(space, 0x40_57f8)), (0, 0, 0));
    assert!(space.write(0x40_0600, b"x").1.is_err());
    assert_eq!(space.write(0x40_57f8, b"x").1, Ok(()));

    let at = |index: usize| word(space, loaded.rsp + 8 * index);
    assert_eq!(at(0), 3);
    let strings: Vec<String> = [1, 2, 3, 5].iter().map(|&index| string(space, at(index))).collect();
    assert_eq!(strings, ["program", "one", "", "A=b"]);
    assert_eq!((at(4), at(6)), (0, 0));
    let auxiliary: std::collections::BTreeMap<u64, u64> =
        (0..).map(|pair| (at(7 + 2 * pair), at(8 + 2 * pair))).take_while(|pair| pair.0 != 0).collect();
    let value = |kind: u32| auxiliary[&u64::from(kind)];
    use linux_raw_sys::auxvec::*;
    assert_eq!((value(AT_PHDR), value(AT_PHENT), value(AT_PHNUM)), (0x40_0040, 56, 2));
    assert_eq!((value(AT_BASE), value(AT_ENTRY), value(AT_PAGESZ)), (0, 0x40_1000, 4096));
    assert_eq!([AT_UID, AT_EUID, AT_GID, AT_EGID, AT_SECURE].map(value), [1, 2, 3, 4, 1]);
    assert_eq!(string(space, value(AT_EXECFN)), "/program");
    assert_eq!(string(space, value(AT_PLATFORM)), "x86_64");
    assert_eq!(word(space, value(AT_SYSINFO_EHDR) as usize) as u32, u32::from_le_bytes(*b"\x7fELF"));
    assert_ne!(word(space, value(AT_RANDOM) as usize), 0);
    assert!(value(AT_MINSIGSTKSZ) >= 2048);

    let layout = StackLayout::of(space).unwrap();
    let mut arguments = vec![0; layout.arguments.len()];
    assert_eq!(space.read(layout.arguments.start, &mut arguments).1, Ok(()));
    assert_eq!(arguments, b"program\0one\0\0");
    assert_eq!(StackLayout::of(&space.fork().unwrap()), Some(layout.clone()));
    assert_eq!(space.set_break(0) % 4096, 0);
    assert!(space.set_break(0) >= 0x40_6000);
}

#[test]
fn an_interpreter_starts_a_position_independent_program() {
    let world = World::new();
    world.put("/ld.so", 0o755, &program(DYNAMIC, None));
    world.put("/program", 0o755, &program(DYNAMIC, Some("/ld.so")));
    let executable = world.open("/program", &["program"]).unwrap();
    let loaded = load(&executable, &[], &Limits::default()).unwrap();
    let maps = String::from_utf8(loaded.space.maps_text()).unwrap();
    let line = |name: &str| maps.lines().find(|line| line.ends_with(name)).unwrap();
    let start = |name| usize::from_str_radix(line(name).split('-').next().unwrap(), 16).unwrap();
    assert!(start("/program") >= 0x5555_5555_4000 && start("/program") < 0x5656_0000_0000);
    assert_eq!(loaded.rip, start("/ld.so") + 0x40_1000);
    assert!(start("[stack]") > start("/ld.so"));
    for name in ["[vdso]", "[vvar]"] {
        assert!(line(name).contains(if name == "[vdso]" { "r-xp" } else { "r--p" }));
    }
    world.put("/ld.so", 0o755, b"no ELF file");
    assert_eq!(world.open("/program", &[]).err(), Some(Errno::EIO));
    world.put("/other", 0o755, &program(DYNAMIC, Some("/missing")));
    assert_eq!(world.open("/other", &[]).err(), Some(Errno::ENOENT));
}

#[test]
fn scripts_lead_to_their_interpreters() {
    let world = World::new();
    world.put("/sh", 0o755, &program(FIXED, None));
    world.put("/script", 0o755, b"#! /sh  -e x \nrest");
    let executable = world.open("/script", &["script", "argument"]).unwrap();
    let arguments: Vec<&[u8]> = executable.arguments.iter().map(Vec::as_slice).collect();
    assert_eq!(arguments, [&b"/sh"[..], b"-e x", b"/script", b"argument"]);
    assert_eq!(executable.location.path(&world.root), b"/sh");
    assert_eq!(executable.name, b"/script");
    for (depth, expected) in [(0, "/sh"), (1, "/1"), (2, "/2"), (3, "/3"), (4, "/4")] {
        world.put(&format!("/{}", depth + 1), 0o755, format!("#!{expected}\n").as_bytes());
    }
    assert!(world.open("/4", &[]).is_ok());
    assert_eq!(world.open("/5", &[]).err(), Some(Errno::ELOOP));
    world.put("/loop", 0o755, b"#!/loop\n");
    assert_eq!(world.open("/loop", &[]).err(), Some(Errno::ELOOP));
    world.put("/empty", 0o755, b"#!  \n");
    assert_eq!(world.open("/empty", &[]).err(), Some(Errno::ENOEXEC));
    world.put("/long", 0o755, format!("#!/{}\n", "x".repeat(300)).as_bytes());
    assert_eq!(world.open("/long", &[]).err(), Some(Errno::ENOEXEC));
    world.put("/short", 0o755, b"#!/sh");
    assert!(world.open("/short", &[]).is_ok());
}

#[test]
fn what_cannot_be_executed_is_refused() {
    let world = World::new();
    world.put("/data", 0o644, &program(FIXED, None));
    assert_eq!(world.open("/data", &[]).err(), Some(Errno::EACCES));
    assert_eq!(world.open("/", &[]).err(), Some(Errno::EACCES));
    for (index, bytes) in [&b""[..], b"\x7fELF", b"hello", &program(FIXED, None)[..200]].iter().enumerate() {
        let path = format!("/bad{index}");
        world.put(&path, 0o755, bytes);
        assert_eq!(world.open(&path, &[]).err(), Some(Errno::ENOEXEC), "{path}");
    }
}

#[test]
fn arguments_have_a_limit() {
    let world = World::new();
    world.put("/program", 0o755, &program(FIXED, None));
    let executable = world.open("/program", &["program"]).unwrap();
    let long = |count: usize, length: usize| vec![vec![b'x'; length]; count];
    let result = |environment: &[Vec<u8>]| load(&executable, environment, &Limits::default()).map(|_| ());
    assert_eq!(result(&long(1, STRING_MAX)), Err(Errno::E2BIG));
    assert_eq!(result(&long(1, STRING_MAX - 1)), Ok(()));
    assert_eq!(result(&long(17, STRING_MAX - 1)), Err(Errno::E2BIG));
    assert_eq!(result(&long(15, STRING_MAX - 1)), Ok(()));
    assert_eq!(result(&long(1 << 18, 1)), Err(Errno::E2BIG));
    let mut limits = Limits::default();
    limits.0[Resource::Stack as usize].soft = 4096;
    assert_eq!(load(&executable, &long(1, 100_000), &limits).map(|_| ()).err(), None);
    limits.0[Resource::AddressSpace as usize].soft = 4096;
    assert_eq!(load(&executable, &[], &limits).map(|_| ()).err(), Some(Errno::ENOMEM));
}

#[test]
fn a_program_of_the_host_is_loaded_as_it_is() {
    let Ok(bytes) = std::fs::read("/proc/self/exe") else { return };
    let world = World::new();
    world.put("/program", 0o755, &bytes);
    let elf = elf::parse(bytes.len() as u64, &mut |offset, buffer| {
        buffer.copy_from_slice(&bytes[offset as usize..offset as usize + buffer.len()]);
        Ok(())
    })
    .unwrap();
    if let Some(interpreter) = &elf.interpreter {
        let path = std::str::from_utf8(interpreter).unwrap();
        world.put("/ld.so", 0o755, &std::fs::read(path).unwrap());
        let mut patched = bytes.clone();
        let at = bytes.windows(interpreter.len()).position(|window| window == &interpreter[..]).unwrap();
        patched[at..at + 7].copy_from_slice(b"/ld.so\0");
        world.put("/program", 0o755, &patched);
    }
    let executable = world.open("/program", &["program"]).unwrap();
    let loaded = load(&executable, &[], &Limits::default()).unwrap();
    let bias = loaded.space.report(false)[0].range.start - elf.span.start;
    for segment in &elf.segments {
        let mut memory = vec![0; segment.file_size.min(100_000)];
        assert_eq!(loaded.space.read(segment.address + bias, &mut memory).1, Ok(()));
        let file = &bytes[segment.offset as usize..segment.offset as usize + memory.len()];
        let differing = memory.iter().zip(file).filter(|(left, right)| left != right).count();
        assert!(differing <= 7 && memory.len() == file.len());
        let wild = segment.protection.contains(Protection::WRITE | Protection::EXECUTE);
        assert!(!wild, "a segment is writable and executable");
    }
}
