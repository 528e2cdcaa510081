//! An image's kernel on a NetBSD component set: the platform, the tree's components, the programs and their libraries,
//! linked into one file.
//!
//! A program is a relocatable object, as the compiler wrappers ([`super::wrapper`]) make it.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    io::{self, Read as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use object::{Object, ObjectKind, ObjectSection, ObjectSymbol, read::archive::ArchiveFile};

use super::{
    Error, host, platform,
    set::{self, Set},
};
use crate::{kernel, report::Report};

/// The section that marks a program, and what is in it.
pub const MARK_SECTION: &str = ".note.rumprun.program";
/// See [`MARK_SECTION`].
pub const MARK: &[u8] = b"x86_64-rumprun-netbsd\0";
/// The linker script, relative to the source directory.
const LINKER_SCRIPT: &str = "kernel-netbsd/link.ld";

/// Components that every image gets, as far as the set has them: what files, sockets, and the drivers of virtual
/// machines need.
const COMPONENTS: &[&str] = &[
    "rump",
    "rumpvfs",
    "rumpdev",
    "rumpnet",
    "rumpkern_tty",
    "rumpkern_bmktc",
    "rumpdev_bpf",
    "rumpdev_disk",
    "rumpdev_rnd",
    "rumpdev_pci",
    "rumpdev_pci_virtio",
    "rumpdev_pci_if_wm",
    "rumpdev_miiphy",
    "rumpdev_virtio_if_vioif",
    "rumpdev_virtio_ld",
    "rumpdev_virtio_viornd",
    "rumpnet_net",
    "rumpnet_netinet",
    "rumpnet_netinet6",
    "rumpnet_local",
    "rumpnet_virtif",
    "rumpfs_cd9660",
    "rumpfs_ext2fs",
    "rumpfs_ffs",
    "rumpfs_kernfs",
    "rumpfs_msdos",
    "rumpfs_tmpfs",
];
/// The variable of the image's environment that says where remote clients connect, and the component for them.
const PROXY: (&[u8], &str) = (b"RUMPRUN_SYSPROXY", "rumpkern_sysproxy");
/// Libraries that every program may use without asking, as far as the set has them.
const LIBRARIES: &[&str] = &["pthread", "c"];
/// Functions and variables of libc and libpthread that the platform looks for.
const LOOKED_FOR: &[&str] = &[
    "__progname",
    "__ps_strings",
    "_libc_init",
    "environ",
    "exit",
    "pthread_attr_init",
    "pthread_attr_setdetachstate",
    "pthread_attr_setstacksize",
    "pthread_create",
];
/// Functions of the kernel and of libc that the platform puts itself in front of (`ld --wrap`).
const WRAPPED: &[&str] = &[
    "__cxa_atexit",
    "_sys___nanosleep50",
    "atexit",
    "exit",
    "rump_syscall",
    "rumpns_copyin",
    "rumpns_copyinstr",
    "rumpns_copyout",
    "rumpns_copyoutstr",
    "rumpns_cv_timedwait",
    "rumpns_cv_timedwait_sig",
    "rumpns_cv_wait_sig",
    "rumpns_kcopy",
    "rumpns_mutex_enter",
    "rumpns_mutex_exit",
    "rumpns_mutex_spin_enter",
    "rumpns_mutex_spin_exit",
    "rumpns_pci_intr_disestablish",
    "rumpns_pci_intr_setattr",
    "rumpns_sleepq_block",
];

/// What is linked.
#[derive(Debug, Clone)]
pub struct Link<'a> {
    /// The directory of the component set.
    pub set: &'a Path,
    /// Components beside those that every image gets, by name (`rumpfs_nfs`).
    pub components: &'a [String],
    /// The image's environment, which may need components.
    pub environment: &'a [(Vec<u8>, Vec<u8>)],
    /// The programs, in the order of the configuration; `None`: programs of Linux's, which aren't linked in.
    pub programs: Option<&'a [PathBuf]>,
}

/// Links; returns the kernel.
pub fn link(request: &Link<'_>, report: &dyn Report) -> Result<Vec<u8>, Error> {
    let set = request.set.canonicalize().map_err(host(request.set.display()))?;
    // A set that was put together by hand says nothing of itself.
    if let Ok(described) = Set::read(&set) {
        described.check_linker(&set::linker())?;
    }
    let mut more = request.components.to_vec();
    if request.environment.iter().any(|(name, _)| name == PROXY.0) {
        more.push(PROXY.1.into());
    }
    let components = components(&set, &more)?;
    let linux = request.programs.is_none();
    let wanted = request.programs.unwrap_or_default();
    let folder = tempfile::tempdir().map_err(host("a temporary folder"))?;
    // Before the platform is built, so that what is wrong with a program is said at once.
    let (mut programs, mut roots) = (Vec::new(), Vec::new());
    for (index, program) in wanted.iter().enumerate() {
        let main = format!("netbsd_program_{index}_main");
        programs.push(private(program, &main, wanted.len() > 1, folder.path(), index)?);
        roots.push(main);
    }
    let object = folder.path().join("platform.o");
    fs::write(&object, platform::object(linux, report)?).map_err(host(object.display()))?;
    report.step("linking with NetBSD's components");
    // What the libraries haven't, the platform does without.
    let libraries: &[&str] = if linux { &[] } else { LIBRARIES };
    let mut offered = BTreeSet::new();
    for library in libraries {
        offered.extend(symbols(&set.join(format!("lib/lib{library}.a")))?);
    }
    roots.extend(LOOKED_FOR.iter().filter(|&&name| offered.contains(name)).map(|&name| name.into()));
    let names = folder.path().join("programs.ld");
    fs::write(&names, script(wanted.len())).map_err(host(names.display()))?;
    let source = kernel::source_directory().map_err(|error| Error::Other(error.to_string()))?;
    let output = folder.path().join("kernel");
    let mut command = Command::new("cc");
    command.args([
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--gc-sections",
        "-Wl,--eh-frame-hdr",
        "-Wl,--build-id=none",
        "-Wl,-z,noexecstack",
    ]);
    command.arg(format!("-Wl,-T,{}", source.join(LINKER_SCRIPT).display()));
    command.arg("-L").arg(folder.path()).arg("-L").arg(set.join("lib"));
    // The script takes in the list of programs, which the linker looks for here first.
    command.current_dir(folder.path());
    command.args(roots.iter().map(|name| format!("-Wl,-u,{name}")));
    command.args(WRAPPED.iter().map(|name| format!("-Wl,--wrap={name}")));
    command.arg("-o").arg(&output).arg(&object).args(&programs);
    command.arg("-Wl,--whole-archive").args(&components).arg("-Wl,--no-whole-archive");
    command.arg("-Wl,--start-group");
    let present = |name: &&&str| set.join(format!("lib/lib{name}.a")).is_file();
    command.args(libraries.iter().filter(present).map(|name| format!("-l{name}")));
    command.arg("-lgcc").arg("-Wl,--end-group");
    platform::run(&mut command).map_err(|error| Error::Other(explain(&error.to_string(), &set)))?;
    fs::read(&output).map_err(host(output.display()))
}

/// The part of the linker script that lists the programs: of each its `main`, and where the functions stand that run
/// before and after it.
fn script(programs: usize) -> String {
    let (mut table, mut arrays) = (String::new(), String::new());
    for index in 0..programs {
        let name = format!("netbsd_program_{index}");
        table += &format!("QUAD({name}_main) QUAD({name}_init) QUAD({name}_fini) QUAD({name}_end)\n");
        for array in ["init", "fini"] {
            arrays += &format!(
                "{name}_{array} = .;\nKEEP(*(SORT_BY_INIT_PRIORITY(.{name}.{array}_array.*)))\nKEEP(*(.{name}.{array}_array))\n"
            );
        }
        arrays += &format!("{name}_end = .;\n");
    }
    format!("netbsd_programs_start = .;\n{table}netbsd_programs_end = .;\n{arrays}")
}

/// Names that the linker makes up.
const MADE_UP: &[&str] = &["_GLOBAL_OFFSET_TABLE_", "__dso_handle"];

/// The names that a bake with a set offers a program: those of the platform, of the libraries that every program may
/// use, and of all components.
pub fn offered(set: &Path, report: &dyn Report) -> Result<BTreeSet<String>, Error> {
    let mut offered: BTreeSet<String> = MADE_UP.iter().map(|&name| name.into()).collect();
    let platform = platform::object(false, report)?;
    let file = object::File::parse(&*platform)
        .map_err(|error| Error::Other(format!("the platform's object cannot be read: {error}")))?;
    let defined = file.symbols().filter(|symbol| symbol.is_global() && symbol.is_definition());
    offered.extend(defined.filter_map(|symbol| symbol.name().ok().map(String::from)));
    for library in LIBRARIES {
        offered.extend(symbols(&set.join(format!("lib/lib{library}.a")))?);
    }
    let compiler = Command::new("cc").arg("-print-libgcc-file-name").output().map_err(host("cc"))?;
    offered.extend(symbols(Path::new(OsStr::from_bytes(compiler.stdout.trim_ascii())))?);
    let folder = set.join("lib/rump");
    for entry in fs::read_dir(&folder).map_err(host(folder.display()))?.flatten() {
        offered.extend(symbols(&entry.path())?);
    }
    Ok(offered)
}

/// The names that an archive offers; none if there is no such archive.
fn symbols(archive: &Path) -> Result<Vec<String>, Error> {
    let bytes = match fs::read(archive) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(host(archive.display())(error)),
    };
    let unreadable = |error| Error::Other(format!("{}: {error}", archive.display()));
    let file = ArchiveFile::parse(&*bytes).map_err(unreadable)?;
    let mut names = Vec::new();
    for symbol in file.symbols().map_err(unreadable)?.into_iter().flatten() {
        names.push(String::from_utf8_lossy(symbol.map_err(unreadable)?.name()).into_owned());
    }
    Ok(names)
}

/// What the linker says, shortened to what is missing and which of the set's components have it.
fn explain(said: &str, set: &Path) -> String {
    let missing: BTreeSet<&str> = said
        .lines()
        .filter_map(|line| line.split_once("undefined reference to `")?.1.strip_suffix('\''))
        .collect();
    if missing.is_empty() {
        return said.into();
    }
    let mut here = Vec::new();
    for entry in fs::read_dir(set.join("lib/rump")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let offered = symbols(&entry.path()).unwrap_or_default();
        if offered.iter().any(|symbol| missing.contains(&**symbol)) {
            here.extend(name.strip_prefix("lib").and_then(|name| name.strip_suffix(".a")).map(String::from));
        }
    }
    here.sort_unstable();
    let missing: Vec<_> = missing.into_iter().collect();
    let missing = missing.join(", ");
    if here.is_empty() {
        format!("the programs or components use what neither the set nor the platform has: {missing}")
    } else {
        let here = here.join(",");
        format!("the programs or components use {missing}; try `--components {here}`")
    }
}

/// The archives of the components, the ones that every image gets first.
fn components(set: &Path, more: &[String]) -> Result<Vec<PathBuf>, Error> {
    let folder = set.join("lib/rump");
    if !folder.is_dir() {
        return Err(Error::Other(format!("{}: no NetBSD component set there", set.display())));
    }
    let archive = |name: &str| folder.join(format!("lib{name}.a"));
    let mut found: Vec<PathBuf> =
        COMPONENTS.iter().map(|name| archive(name)).filter(|path| path.is_file()).collect();
    for name in more {
        let path = archive(name);
        if !path.is_file() {
            return Err(Error::Other(format!("the component set has no component {name}")));
        }
        if !found.contains(&path) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Whether programs are objects to be linked in; otherwise they are Linux's. They must be of one kind.
pub fn are_objects<'a>(programs: impl Iterator<Item = &'a Path>) -> Result<bool, Error> {
    let (objects, others): (Vec<_>, Vec<_>) = programs.partition(|path| is_object(path));
    match (objects.first(), others.first()) {
        (Some(object), Some(other)) => Err(Error::Other(format!(
            "{} is a program for NetBSD and {} is none; an image has programs of one kind",
            object.display(),
            other.display()
        ))),
        (_, other) => Ok(other.is_none()),
    }
}

/// Whether a file is a relocatable object (`ET_REL`).
fn is_object(path: &Path) -> bool {
    let mut head = [0; 18];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && head.starts_with(b"\x7fELF") && head[16..] == [1, 0]
}

/// Reads a file that must be a program of ours: a relocatable object with a `main`.
fn check_program<'a>(path: &Path, bytes: &'a [u8]) -> Result<object::File<'a>, Error> {
    let wrong = |what: &str| {
        Error::Other(format!(
            "{}: {what}; a program for the NetBSD component set is compiled and linked by x86_64-rumprun-netbsd-cc",
            path.display()
        ))
    };
    let file = object::File::parse(bytes).map_err(|_| wrong("not an object file"))?;
    if file.architecture() != object::Architecture::X86_64 || file.kind() != ObjectKind::Relocatable {
        return Err(wrong("not a relocatable object for x86-64"));
    }
    let mark = file.section_by_name(MARK_SECTION).and_then(|section| section.data().ok());
    if mark.is_none_or(|mark| !mark.starts_with(MARK)) {
        return Err(wrong("linked for another system"));
    }
    let main = file
        .symbols()
        .any(|symbol| symbol.is_global() && symbol.is_definition() && symbol.name() == Ok("main"));
    if main { Ok(file) } else { Err(wrong("it has no function main")) }
}

/// A copy of a program whose `main` has a name of its own. Beside other programs, all its names are private.
fn private(program: &Path, main: &str, others: bool, folder: &Path, index: usize) -> Result<PathBuf, Error> {
    let copy = folder.join(format!("program{index}.o"));
    let bytes = fs::read(program).map_err(host(program.display()))?;
    let file = check_program(program, &bytes)?;
    let mut command = Command::new("objcopy");
    command.arg(format!("--redefine-sym=main={main}"));
    let sections: BTreeSet<_> =
        file.sections().filter_map(|section| section.name().ok().map(String::from)).collect();
    for name in
        sections.iter().filter(|name| name.starts_with(".init_array") || name.starts_with(".fini_array"))
    {
        command.arg(format!("--rename-section={name}=.netbsd_program_{index}{name}"));
    }
    platform::run(command.arg(program).arg(&copy))?;
    if others {
        // The order of the two matters, so they aren't one step.
        platform::run(Command::new("objcopy").arg(format!("--keep-global-symbol={main}")).arg(&copy))?;
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_once() {
        let said = "ld fails:\na.o: in function `f':\na.c:(.text+0x1): undefined reference to `zlibVersion'\n\
                    a.c:(.text+0x9): undefined reference to `zlibVersion'\n";
        let nowhere = Path::new("/nonexistent");
        assert!(explain(said, nowhere).ends_with(": zlibVersion"));
        assert_eq!(explain("cc fails:\nno memory", nowhere), "cc fails:\nno memory");
    }

    #[test]
    fn other_files_are_not_programs() {
        let own = std::env::current_exe().expect("this test");
        let bytes = fs::read(&own).expect("this test");
        let message = check_program(&own, &bytes).expect_err("an executable").to_string();
        assert!(message.contains("not a relocatable object"), "{message}");
        assert!(check_program(&own, b"#!/bin/sh").is_err());
    }
}
