//! An image's kernel on a NetBSD component set: the platform, the tree's components, the programs and their libraries,
//! linked into one file.
//!
//! A program is a relocatable object, as the compiler wrappers ([`super::wrapper`]) make it.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};

use object::{Object, ObjectKind, ObjectSection, ObjectSymbol};

use super::{Error, host, platform};
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
/// Functions of the kernel that the platform puts itself in front of (`ld --wrap`).
const WRAPPED: &[&str] = &["_sys___nanosleep50"];

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
    let mut more = request.components.to_vec();
    if request.environment.iter().any(|(name, _)| name == PROXY.0) {
        more.push(PROXY.1.into());
    }
    let components = components(&set, &more)?;
    let folder = tempfile::tempdir().map_err(host("a temporary folder"))?;
    let object = folder.path().join("platform.o");
    let linux = request.programs.is_none();
    let wanted = request.programs.unwrap_or_default();
    fs::write(&object, platform::object(linux, report)?).map_err(host(object.display()))?;
    report.step("linking with NetBSD's components");
    let mut script = String::new();
    // A set without these libraries has nothing for the platform to find.
    let has = |library: &str| !linux && set.join(format!("lib/lib{library}.a")).is_file();
    let looked_for =
        LOOKED_FOR.iter().filter(|name| has(if name.starts_with("pthread_") { "pthread" } else { "c" }));
    let mut roots: Vec<String> = looked_for.map(|&name| name.into()).collect();
    let mut programs = Vec::new();
    for (index, program) in wanted.iter().enumerate() {
        let main = format!("netbsd_program_{index}_main");
        programs.push(private(program, &main, wanted.len() > 1, folder.path(), index)?);
        script.push_str(&format!("QUAD({main})\n"));
        roots.push(main);
    }
    if wanted.is_empty() {
        script.push_str("QUAD(0)\n");
    }
    let names = folder.path().join("programs.ld");
    fs::write(&names, script).map_err(host(names.display()))?;
    let source = kernel::source_directory().map_err(|error| Error::Other(error.to_string()))?;
    let output = folder.path().join("kernel");
    let mut command = Command::new("cc");
    command.args([
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--gc-sections",
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
    command.args(LIBRARIES.iter().filter(|name| has(name)).map(|name| format!("-l{name}")));
    command.arg("-lgcc").arg("-Wl,--end-group");
    platform::run(&mut command).map_err(|error| Error::Other(explain(&error.to_string())))?;
    fs::read(&output).map_err(host(output.display()))
}

/// What the linker says, shortened to what is missing.
fn explain(said: &str) -> String {
    let mut missing: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split_once("undefined reference to `")?.1.strip_suffix('\''))
        .collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return said.into();
    }
    format!(
        "the programs or components use what neither the set nor the platform has: {}",
        missing.join(", ")
    )
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

/// Checks that a file is a program of ours: a relocatable object with a `main`.
pub fn check_program(path: &Path, bytes: &[u8]) -> Result<(), Error> {
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
    if main { Ok(()) } else { Err(wrong("it has no function main")) }
}

/// A copy of a program whose `main` has a name of its own. Beside other programs, all its names are private.
fn private(program: &Path, main: &str, others: bool, folder: &Path, index: usize) -> Result<PathBuf, Error> {
    let bytes = fs::read(program).map_err(host(program.display()))?;
    check_program(program, &bytes)?;
    let copy = folder.join(format!("program{index}.o"));
    platform::run(
        Command::new("objcopy").arg(format!("--redefine-sym=main={main}")).arg(program).arg(&copy),
    )?;
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
        assert!(explain(said).ends_with(": zlibVersion"));
        assert_eq!(explain("cc fails:\nno memory"), "cc fails:\nno memory");
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
