//! The cross tools `x86_64-rumprun-netbsd-*`: the host's compiler and binutils, with the headers and libraries of a
//! component set. Linking yields a relocatable object, which a bake links with the rest.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use object::{Object, ObjectSymbol};

use super::{
    Error, host,
    link::{self, MARK, MARK_SECTION},
    platform, set,
};
use crate::report::Report;

/// How the names of the tools begin.
pub const PREFIX: &str = "x86_64-rumprun-netbsd-";
/// Tools that are the host's as they are.
const PLAIN: &[&str] = &[
    "addr2line",
    "ar",
    "as",
    "ld",
    "nm",
    "objcopy",
    "objdump",
    "ranlib",
    "readelf",
    "size",
    "strings",
    "strip",
];
/// Names of the C compiler, and of the C++ compiler.
const C: &[&str] = &["cc", "gcc", "cpp"];
const CXX: &[&str] = &["c++", "g++"];
/// Libraries that a bake adds; a program doesn't take them in.
const LATER: &[&str] = &["-lc", "-lpthread", "-lrt", "-pthread", "-lgcc", "-lgcc_s", "-ldl"];
/// Files beside the tools: which set they are for, and the names that a bake offers a program.
const SET: &str = "set";
const OFFERED: &str = "offered";
/// What has no meaning where everything ends up in one file.
const IGNORED: &[&str] = &["-static", "-pie", "-static-pie", "-no-pie", "-rdynamic", "-s", "-Wl,--as-needed"];

/// The tool that a program name stands for.
pub fn tool(name: &OsStr) -> Option<&str> {
    Path::new(name).file_name()?.to_str()?.strip_prefix(PREFIX)
}

/// Installs the tools into a folder, as links to the program `tool`, and the files for CMake, Meson and pkg-config.
pub fn install(folder: &Path, program: &Path, set: &Path, report: &dyn Report) -> Result<(), Error> {
    let offered = link::offered(set, report)?;
    let set = set.canonicalize().map_err(host(set.display()))?;
    fs::create_dir_all(folder).map_err(host(folder.display()))?;
    let folder = folder.canonicalize().map_err(host(folder.display()))?;
    for name in [PLAIN, C, CXX, &["pkg-config"]].concat() {
        let path = folder.join(format!("{PREFIX}{name}"));
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink(program, &path).map_err(host(path.display()))?;
    }
    let files = [
        ("toolchain.cmake", cmake(&folder, &set)),
        ("cross.ini", meson(&folder)),
        (SET, set.display().to_string()),
        (OFFERED, offered.into_iter().collect::<Vec<_>>().join("\n")),
    ];
    for (name, text) in files {
        let path = folder.join(name);
        fs::write(&path, text).map_err(host(path.display()))?;
    }
    Ok(())
}

fn cmake(folder: &Path, set: &Path) -> String {
    let (folder, set) = (folder.display(), set.display());
    format!(
        "set(CMAKE_SYSTEM_NAME NetBSD)\nset(CMAKE_SYSTEM_PROCESSOR x86_64)\n\
         set(CMAKE_C_COMPILER \"{folder}/{PREFIX}cc\")\nset(CMAKE_CXX_COMPILER \"{folder}/{PREFIX}c++\")\n\
         set(CMAKE_AR \"{folder}/{PREFIX}ar\" CACHE FILEPATH \"\")\nset(CMAKE_RANLIB \"{folder}/{PREFIX}ranlib\" CACHE FILEPATH \"\")\n\
         set(CMAKE_FIND_ROOT_PATH \"{set}\")\nset(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)\n\
         set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)\nset(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)\n\
         set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)\nset(BUILD_SHARED_LIBS OFF)\n\
         set(PKG_CONFIG_EXECUTABLE \"{folder}/{PREFIX}pkg-config\" CACHE FILEPATH \"\")\n"
    )
}

fn meson(folder: &Path) -> String {
    let folder = folder.display();
    let line = |name: &str, tool: &str| format!("{name} = '{folder}/{PREFIX}{tool}'\n");
    let binaries: String =
        [("c", "cc"), ("cpp", "c++"), ("ar", "ar"), ("strip", "strip"), ("pkg-config", "pkg-config")]
            .map(|(name, tool)| line(name, tool))
            .concat();
    format!(
        "[binaries]\n{binaries}\n[properties]\nneeds_exe_wrapper = true\n\n[built-in options]\n\
         default_library = 'static'\n\n[host_machine]\nsystem = 'netbsd'\ncpu_family = 'x86_64'\ncpu = 'x86_64'\n\
         endian = 'little'\n"
    )
}

/// The component set that tools in a folder use.
fn set_of(program: &Path) -> Result<PathBuf, Error> {
    let noted = program.parent().and_then(|folder| fs::read_to_string(folder.join(SET)).ok());
    noted.map_or_else(|| set::directory(None), |path| Ok(PathBuf::from(path.trim())))
}

/// Runs a tool, called by the name `program`.
pub fn run(program: &Path, tool: &str, arguments: &[OsString]) -> Result<ExitStatus, Error> {
    if PLAIN.contains(&tool) {
        return Command::new(tool).args(arguments).status().map_err(host(tool));
    }
    let set = set_of(program)?;
    if tool == "pkg-config" {
        let mut command = Command::new("pkg-config");
        command.env("PKG_CONFIG_LIBDIR", set.join("lib/pkgconfig")).env_remove("PKG_CONFIG_PATH");
        return command.arg("--static").args(arguments).status().map_err(host(tool));
    }
    let Some(compiler) = compiler(tool) else {
        return Err(Error::Other(format!("{PREFIX}{tool}: no such tool")));
    };
    let offered = program.parent().and_then(|folder| fs::read_to_string(folder.join(OFFERED)).ok());
    compile(&set, offered.as_deref(), compiler, tool, arguments)
}

/// The host's compiler for a tool.
fn compiler(tool: &str) -> Option<&'static str> {
    match tool {
        "cpp" => Some("cpp"),
        _ if C.contains(&tool) => Some("gcc"),
        _ if CXX.contains(&tool) => Some("g++"),
        _ => None,
    }
}

/// Flags for compiling: NetBSD's headers alone, and its name instead of the host's.
fn flags(set: &Path, compiler: &str) -> Result<Vec<OsString>, Error> {
    let builtin = Command::new("gcc").arg("-print-file-name=include").output().map_err(host("gcc"))?;
    let builtin = OsStr::from_bytes(builtin.stdout.trim_ascii()).to_owned();
    let mut flags: Vec<OsString> = vec!["-fPIE".into(), "-nostdinc".into()];
    if compiler == "g++" {
        flags.extend(["-nostdinc++".into(), "-isystem".into(), set.join("include/c++").into()]);
    }
    flags.extend(["-isystem".into(), set.join("include").into(), "-isystem".into(), builtin]);
    let hosts = ["__linux__", "__linux", "linux", "__gnu_linux__"];
    flags.extend(hosts.map(|name| format!("-U{name}").into()));
    flags.extend(["-D__NetBSD__", "-fno-stack-protector"].map(OsString::from));
    Ok(flags)
}

fn compile(
    set: &Path,
    offered: Option<&str>,
    compiler: &str,
    tool: &str,
    arguments: &[OsString],
) -> Result<ExitStatus, Error> {
    let has = |names: &[&str]| arguments.iter().any(|argument| names.iter().any(|name| argument == *name));
    let mut command = Command::new(compiler);
    if has(&["-dumpmachine"]) {
        println!("{}", PREFIX.trim_end_matches('-'));
        return Command::new("true").status().map_err(host("true"));
    }
    command.args(flags(set, compiler)?);
    let asks = arguments.iter().all(|argument| argument.as_bytes().starts_with(b"-")) && !has(&["-", "-o"]);
    if tool == "cpp" || asks || has(&["-c", "-S", "-E", "-M", "-MM", "-r", "-fsyntax-only"]) {
        return command.args(arguments).status().map_err(host(compiler));
    }
    let place = arguments.iter().position(|argument| argument == "-o");
    let output =
        place.and_then(|place| arguments.get(place + 1)).map_or(PathBuf::from("a.out"), PathBuf::from);
    let kept = |argument: &&OsString| {
        let text = argument.to_string_lossy();
        !LATER.contains(&&*text) && !IGNORED.contains(&&*text)
    };
    command.args(["-nostdlib", "-r", "-no-pie", "-Wl,-u,main"]);
    command.args(arguments.iter().filter(kept));
    command.arg("-L").arg(set.join("lib"));
    if compiler == "g++" {
        command.args(
            ["-lc++", "-lunwind"]
                .iter()
                .filter(|name| set.join(format!("lib/lib{}.a", &name[2..])).is_file()),
        );
    }
    let status = command.status().map_err(host(compiler))?;
    if status.success() && output.is_file() {
        if let Some(missing) = offered.map(|offered| missing(&output, offered)).transpose()?
            && !missing.is_empty()
        {
            fs::remove_file(&output).map_err(host(output.display()))?;
            let lines: Vec<_> =
                missing.iter().map(|name| format!("undefined reference to `{name}'")).collect();
            return Err(Error::Other(lines.join("\n")));
        }
        mark(&output)?;
    }
    Ok(status)
}

/// The names that a linked program looks for and a bake doesn't offer: the link itself leaves that open, but what
/// configures programs tries out by linking what there is.
fn missing(program: &Path, offered: &str) -> Result<Vec<String>, Error> {
    let bytes = fs::read(program).map_err(host(program.display()))?;
    let file = object::File::parse(&*bytes)
        .map_err(|error| Error::Other(format!("{}: {error}", program.display())))?;
    let offered: BTreeSet<&str> = offered.lines().collect();
    let undefined = file.symbols().filter(|symbol| symbol.is_undefined() && !symbol.is_weak());
    let names = undefined.filter_map(|symbol| symbol.name().ok()).filter(|name| !name.is_empty());
    Ok(names.filter(|name| !offered.contains(name)).map(String::from).collect())
}

/// Marks an object as a program, and makes it look like one to build systems.
fn mark(path: &Path) -> Result<(), Error> {
    let mut note = tempfile::NamedTempFile::new().map_err(host("a temporary file"))?;
    std::io::Write::write_all(&mut note, MARK).map_err(host("a temporary file"))?;
    let section = format!("--add-section={MARK_SECTION}={}", note.path().display());
    platform::run(
        Command::new("objcopy").arg(format!("--remove-section={MARK_SECTION}")).arg(section).arg(path),
    )?;
    let mut permissions = fs::metadata(path).map_err(host(path.display()))?.permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    fs::set_permissions(path, permissions).map_err(host(path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_tools() {
        assert_eq!(tool(OsStr::new("/opt/bin/x86_64-rumprun-netbsd-c++")), Some("c++"));
        assert_eq!(tool(OsStr::new("rumprun-bake")), None);
        assert_eq!((compiler("gcc"), compiler("c++"), compiler("ar")), (Some("gcc"), Some("g++"), None));
    }
}
