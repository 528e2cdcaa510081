//! The test programs of `tests/programs`, built with the host's compilers.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{checkout, made::Made, scratch};

/// How a program is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// C, glibc, static.
    Static,
    /// C, glibc, dynamic.
    Dynamic,
    /// C, glibc, static and position-independent.
    StaticPie,
    /// C, musl, static.
    Musl,
    /// Rust, static and position-independent.
    Rust,
    /// Go.
    Go,
}

impl Flavour {
    fn command(self, source: &Path, output: &Path) -> Command {
        let (compiler, options): (&str, &[&str]) = match self {
            Flavour::Static => ("gcc", &["-static", "-O2", "-pthread"]),
            Flavour::Dynamic => ("gcc", &["-O2", "-pthread"]),
            Flavour::StaticPie => ("gcc", &["-static-pie", "-O2", "-pthread"]),
            Flavour::Musl => ("musl-gcc", &["-static", "-O2", "-pthread"]),
            Flavour::Rust => ("rustc", &["--edition", "2024", "-O", "-C", "target-feature=+crt-static"]),
            Flavour::Go => ("go", &["build"]),
        };
        let mut command = Command::new(compiler);
        command.args(options).arg("-o").arg(output).arg(source);
        if self == Flavour::Go {
            command.env("GO111MODULE", "off").env("CGO_ENABLED", "0").env("GOFLAGS", "-trimpath");
        }
        command
    }
}

/// Builds `tests/programs/SOURCE` once per test process; panics with the compiler's message if that fails.
pub fn build(source: &str, flavour: Flavour) -> PathBuf {
    static BUILT: Made<String, PathBuf> = Made::new();
    let stem = Path::new(source).file_stem().expect("a file name").to_string_lossy();
    let name = format!("{stem}-{flavour:?}-{}", std::process::id());
    BUILT.get(name.clone(), || {
        let output = scratch().join(name);
        let source = checkout().join("tests/programs").join(source);
        let result = flavour.command(&source, &output).output().expect("the compiler starts");
        let messages = String::from_utf8_lossy(&result.stderr);
        assert!(result.status.success(), "{flavour:?} {}: {messages}", source.display());
        output
    })
}

/// A folder for the image with files of `tests/programs`.
pub fn folder_with(name: &str, files: &[&str]) -> String {
    let folder = scratch().join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a scratch folder");
    for file in files {
        fs::copy(checkout().join("tests/programs").join(file), folder.join(file)).expect("a program of ours");
    }
    folder.into_os_string().into_string().expect("UTF-8")
}

/// Runs a program on the host: its output and exit status (128 + signal if one killed it).
pub fn on_host(program: &Path, arguments: &[&str]) -> (String, i32) {
    use std::os::unix::process::ExitStatusExt;
    let output = Command::new(program).args(arguments).output().expect("the program starts");
    let status = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
    (String::from_utf8_lossy(&output.stdout).into_owned(), status)
}
