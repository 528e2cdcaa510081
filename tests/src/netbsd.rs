//! Programs and images for NetBSD component sets.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use toolchain::netbsd::{set, wrapper};

use crate::{checkout, made::Made, rumprun_bake, scratch, skip};

/// A source of `tests/programs/netbsd`.
pub fn source(name: &str) -> PathBuf {
    checkout().join("tests/programs/netbsd").join(name)
}

/// Runs a command that must succeed.
#[track_caller]
pub fn succeed(command: &mut Command) {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The folder with the cross tools for a set.
pub fn tools(name: &str, set: &Path) -> PathBuf {
    let folder = scratch().join(format!("{name}-tools-{}", std::process::id()));
    succeed(Command::new(rumprun_bake()).args(["netbsd", "tools", "--set"]).arg(set).arg(&folder));
    folder
}

/// Compiles a program of `tests/programs/netbsd`.
pub fn compile(tools: &Path, name: &str) -> PathBuf {
    compile_with(tools, name, &[])
}

/// Compiles a program that uses more libraries (`-lpcap`).
fn compile_with(tools: &Path, name: &str, libraries: &[&str]) -> PathBuf {
    static COMPILED: Made<PathBuf, ()> = Made::new();
    let program = tools.join(name).with_extension("program");
    COMPILED.get(program.clone(), || {
        let compiler = tools.join(format!("{}cc", wrapper::PREFIX));
        let mut command = Command::new(compiler);
        command.arg("-O2").arg(source(name)).arg("-o").arg(&program).args(libraries).arg("-lpthread");
        succeed(&mut command);
    });
    program
}

/// What is told to `bake` for programs on a set.
pub fn arguments(set: &Path, programs: &[&Path]) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["--kernel".into(), format!("netbsd:{}", set.display()).into()];
    words.extend(programs.iter().map(OsString::from));
    words
}

/// An installed set with a libc, by its directory; `None` after a line that says why there is none.
pub fn installed() -> Option<PathBuf> {
    match set::directory(None) {
        Ok(set) if set.join("lib/libc.a").is_file() => return Some(set),
        Ok(set) => skip(&format!("no NetBSD tree: {} has no libc", set.display())),
        Err(error) => skip(&format!("no NetBSD tree: {error}")),
    }
    None
}

/// A program of `tests/programs/netbsd` for the installed set, which is returned too.
pub fn program(name: &str) -> Option<(PathBuf, PathBuf)> {
    program_with(name, &[])
}

/// A program that uses more libraries of the set, as above.
pub fn program_with(name: &str, libraries: &[&str]) -> Option<(PathBuf, PathBuf)> {
    static TOOLS: OnceLock<PathBuf> = OnceLock::new();
    let set = installed()?;
    let tools = TOOLS.get_or_init(|| tools("installed", &set));
    let program = compile_with(tools, name, libraries);
    Some((set, program))
}
