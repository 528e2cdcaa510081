//! Builds a recipe's program from sources, once for each content of them, and says which files that gives.

use std::{
    collections::VecDeque,
    env,
    ffi::OsStr,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
};

use image::tree::{Attributes, Content, Kind, Node};

use super::{Build, CrateFrom, Location, Source as Of, cargo, read::in_program_folder};
use crate::{
    hash::{self, Parts},
    kernel, package,
    recipe::{
        Placed, Recipe,
        error::{Error, host_error},
        files::{Files, take},
    },
    report::Report,
    sbom::Component,
};

/// Lines of a failed build's output that are shown.
const LOG_LINES: usize = 60;
/// Variables of the user's that builds see; everything else could make them differ.
const KEPT_VARIABLES: &[&str] = &[
    "PATH",
    "HOME",
    "TMPDIR",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "GOPROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTPS_PROXY",
    "SSL_CERT_FILE",
    "SOURCE_DATE_EPOCH",
];

/// What a source gives.
#[derive(Debug, Default)]
pub struct Obtained {
    /// Files by their path in the image.
    pub files: Files,
    /// What the programs are made of.
    pub components: Vec<Component>,
}

/// Builds what has to be built.
pub fn obtain(recipe: &Recipe, report: &dyn Report) -> Result<Obtained, Error> {
    match &recipe.source {
        Of::Debian(_) => Ok(Obtained::default()),
        Of::Program { host, target } => Ok(program(host, target)?),
        Of::Cargo(wanted) => cargo::obtain(recipe, wanted, report),
        Of::Archive { location, sha256, build } => {
            let key = key(recipe)?;
            let folder = once(&key, |folder| {
                let archive = fetch(location, folder, report)?;
                verify(&archive, location, sha256)?;
                unpack(&archive, &folder.join("build"), location)?;
                let top = only_folder(&folder.join("build"));
                run(recipe, build, &top, folder, report)
            })?;
            outputs(build, &folder)
        }
        Of::Folder { folder: sources, build } => {
            let folder = once(&key(recipe)?, |folder| {
                let top = folder.join("build");
                copy(sources, &top)?;
                run(recipe, build, &top, folder, report)
            })?;
            outputs(build, &folder)
        }
    }
}

fn program(host: &Path, target: &[u8]) -> Result<Obtained, Error> {
    // A program at the path it has anyway is followed like any other.
    if host.as_os_str().as_encoded_bytes() == target {
        return Ok(Obtained::default());
    }
    let node = executable(host)?;
    Ok(Obtained { files: vec![(target.into(), node)], components: Vec::new() })
}

/// A program as a node of the image.
pub fn executable(host: &Path) -> Result<Node, Error> {
    let length = fs::metadata(host).map_err(host_error(host))?.len();
    Ok(Node { kind: Kind::Regular(Content::File(host.into(), length)), attributes: Attributes::root(0o755) })
}

/// What decides how a source comes out; empty for those that aren't built.
pub fn key(recipe: &Recipe) -> Result<String, Error> {
    let mut parts = Parts::default();
    let add_build = |parts: &mut Parts, build: &Build| -> Result<(), Error> {
        for command in &build.commands {
            parts.add(command);
        }
        for output in &build.outputs {
            parts.add(&output.file.value);
        }
        let database = package::database()?;
        for version in package::versions(&database, &build.requires)? {
            parts.add(version);
        }
        Ok(())
    };
    match &recipe.source {
        Of::Debian(_) => {}
        Of::Program { host, .. } => parts.add_file(host).map_err(host_error(host))?,
        Of::Archive { sha256, build, .. } => {
            parts.add(&sha256.value);
            add_build(&mut parts, build)?;
        }
        Of::Folder { folder, build } => {
            add_folder(&mut parts, folder)?;
            add_build(&mut parts, build)?;
        }
        Of::Cargo(wanted) => {
            parts.add(cargo::compiler()?);
            parts.add(format!("{:?}", (&wanted.features, wanted.no_default_features, &wanted.binaries)));
            parts.add([u8::from(wanted.statically)]);
            match &wanted.from {
                CrateFrom::Folder(folder) => add_folder(&mut parts, folder)?,
                CrateFrom::Registry { name, version } => parts.add(format!("{name}={version}")),
            }
        }
    }
    Ok(parts.finish())
}

/// Every file of a folder, its name and what is in it; what cargo and others made there is left out.
pub fn add_folder(parts: &mut Parts, folder: &Path) -> Result<(), Error> {
    let mut files = Files::new();
    take(folder, b"", &mut files, 0)
        .map_err(|message| Error::Host { path: folder.into(), source: std::io::Error::other(message) })?;
    for (path, node) in files.iter().filter(|(path, _)| !path.starts_with(b"/target/")) {
        parts.add(path);
        parts.add(node.mode().to_le_bytes());
        match &node.kind {
            Kind::Regular(Content::File(host, _)) => parts.add_file(host).map_err(host_error(host))?,
            Kind::Symlink(link) => parts.add(link),
            _ => {}
        }
    }
    Ok(())
}

/// The folder for what is made of sources with this key; `make` fills it if nobody did.
pub fn once(key: &str, make: impl FnOnce(&Path) -> Result<(), Error>) -> Result<PathBuf, Error> {
    let sources = kernel::cache_directory()?.join("sources");
    fs::create_dir_all(&sources).map_err(host_error(&sources))?;
    let folder = sources.join(&key[..24]);
    let lock_path = folder.with_extension("lock");
    let lock = File::create(&lock_path).map_err(host_error(&lock_path))?;
    lock.lock().map_err(host_error(&lock_path))?;
    let complete = folder.join("complete");
    if !complete.exists() {
        let _ = fs::remove_dir_all(&folder);
        for name in ["build", "out"] {
            fs::create_dir_all(folder.join(name)).map_err(host_error(&folder))?;
        }
        make(&folder)?;
        let _ = fs::remove_dir_all(folder.join("build"));
        File::create(&complete).map_err(host_error(&complete))?;
    }
    Ok(folder)
}

/// The archive as a file; one of the network is put into the folder.
fn fetch(location: &Placed<Location>, folder: &Path, report: &dyn Report) -> Result<PathBuf, Error> {
    let url = match &location.value {
        Location::File(path) => return Ok(path.clone()),
        Location::Url(url) => url,
    };
    report.step(&format!("fetching {url}"));
    let path = folder.join("archive");
    let output = Command::new("curl")
        .args(["--fail", "--silent", "--show-error", "--location", "--output"])
        .arg(&path)
        .args(["--", url])
        .stdin(Stdio::null())
        .output()
        .map_err(|_| Error::NoTool { program: "curl", package: "curl" })?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(Error::Archive {
            place: location.place.clone(),
            message: format!("{url} cannot be fetched: {}", message.trim()),
        });
    }
    Ok(path)
}

/// An archive's name for messages.
fn name(location: &Location) -> String {
    match location {
        Location::File(path) => path.display().to_string(),
        Location::Url(url) => url.clone(),
    }
}

/// Compares the checksum of a recipe's archive.
pub fn verify(path: &Path, location: &Placed<Location>, sha256: &Placed<String>) -> Result<(), Error> {
    let found = hash::file(path).map_err(host_error(path))?;
    if found == sha256.value {
        return Ok(());
    }
    Err(Error::Checksum {
        place: sha256.place.clone(),
        archive: name(&location.value),
        expected: sha256.value.clone(),
        found,
    })
}

fn unpack(archive: &Path, into: &Path, location: &Placed<Location>) -> Result<(), Error> {
    let output = Command::new("tar")
        .arg("--extract")
        .arg("--no-same-owner")
        .arg("--file")
        .arg(archive)
        .arg("--directory")
        .arg(into)
        .stdin(Stdio::null())
        .output()
        .map_err(|_| Error::NoTool { program: "tar", package: "tar" })?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::Archive {
            place: location.place.clone(),
            message: format!(
                "{} cannot be unpacked: {}",
                name(&location.value),
                String::from_utf8_lossy(&output.stderr).trim()
            ),
        }),
    }
}

/// The one folder that archives usually hold, or the folder itself.
fn only_folder(folder: &Path) -> PathBuf {
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    match (entries.next(), entries.next()) {
        (Some(entry), None) if entry.path().is_dir() => entry.path(),
        _ => folder.into(),
    }
}

/// Copies a folder with sources, so that a build leaves the original alone.
pub fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir_all(to).map_err(host_error(to))?;
    for entry in fs::read_dir(from).map_err(host_error(from))? {
        let entry = entry.map_err(host_error(from))?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(host_error(&path))?;
        if kind.is_dir() {
            copy(&path, &target)?;
        } else if kind.is_symlink() {
            let link = fs::read_link(&path).map_err(host_error(&path))?;
            std::os::unix::fs::symlink(link, &target).map_err(host_error(&target))?;
        } else {
            fs::copy(&path, &target).map_err(host_error(&path))?;
        }
    }
    Ok(())
}

/// Runs the commands in `top` and puts what they made into the folder `out`.
fn run(recipe: &Recipe, build: &Build, top: &Path, folder: &Path, report: &dyn Report) -> Result<(), Error> {
    for command in &build.commands {
        report.step(&format!("{}: {command}", recipe.name));
        let mut shell = Command::new("sh");
        shell.args(["-eu", "-c", command]).current_dir(top);
        clean_environment(&mut shell);
        logged(&mut shell, &format!("{}: `{command}`", recipe.name), report)?;
    }
    for (index, output) in build.outputs.iter().enumerate() {
        let no_output =
            || Error::NoOutput { place: output.file.place.clone(), file: output.file.value.clone() };
        let made = top.join(&output.file.value).canonicalize().map_err(|_| no_output())?;
        // A link out of the sources would take in a file that the key says nothing of.
        let top = top.canonicalize().map_err(host_error(top))?;
        if !made.starts_with(&top) {
            return Err(no_output());
        }
        let kept = folder.join("out").join(index.to_string());
        fs::rename(&made, &kept).map_err(host_error(&made))?;
    }
    Ok(())
}

/// Leaves a command only the variables that builds need.
pub fn clean_environment(command: &mut Command) {
    command.env_clear();
    for name in KEPT_VARIABLES {
        if let Some(value) = env::var_os(name) {
            command.env(name, value);
        }
    }
    if env::var_os("SOURCE_DATE_EPOCH").is_none() {
        command.env("SOURCE_DATE_EPOCH", "1");
    }
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    command.env("JOBS", jobs.to_string()).env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
}

/// Runs a command, showing what it prints as it goes, and the end of it if it fails.
pub fn logged(command: &mut Command, what: &str, report: &dyn Report) -> Result<(), Error> {
    let failed = |status: String, log: String| Error::Build { what: what.into(), status, log };
    let program = Path::new(command.get_program()).to_path_buf();
    let (reader, writer) = std::io::pipe().map_err(host_error(&program))?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().map_err(host_error(&program))?).stderr(writer);
    let mut child = command.spawn().map_err(host_error(&program))?;
    // Our own ends of the pipe, or it would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut log: VecDeque<String> = VecDeque::new();
    for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        report.detail(line.trim());
        if log.len() == LOG_LINES {
            log.pop_front();
        }
        log.push_back(line);
    }
    let status: ExitStatus = child.wait().map_err(host_error(&program))?;
    match status.success() {
        true => Ok(()),
        false => Err(failed(status.to_string(), Vec::from(log).join("\n"))),
    }
}

fn outputs(build: &Build, folder: &Path) -> Result<Obtained, Error> {
    let mut files = Files::new();
    for (index, output) in build.outputs.iter().enumerate() {
        let made = folder.join("out").join(index.to_string());
        take(&made, &output.target, &mut files, 0)
            .map_err(|message| Error::Host { path: made, source: std::io::Error::other(message) })?;
    }
    Ok(Obtained { files, components: Vec::new() })
}

/// A program of a crate at its place in the image.
pub fn placed(host: &Path) -> Result<(Vec<u8>, Node), Error> {
    let name = host.file_name().unwrap_or(OsStr::new("program")).to_string_lossy();
    Ok((in_program_folder(&name), executable(host)?))
}
