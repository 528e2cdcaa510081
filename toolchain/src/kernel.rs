//! Builds the kernel for a configuration, once for each content of its sources.

use std::{
    env, fs,
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use sha2::{Digest, Sha256};

use crate::{configs::Config, report::Report, sbom::Component};

/// Where the sources are, if they aren't where the tool was built.
pub const SOURCE_VARIABLE: &str = "RUMPRUN_BAKE_SOURCE";
/// Where kernels and build files are kept, if not in the user's cache directory.
pub const CACHE_VARIABLE: &str = "RUMPRUN_BAKE_CACHE";
/// A kernel to use as it is, for kernel developers.
pub const KERNEL_VARIABLE: &str = "RUMPRUN_BAKE_KERNEL";
/// What a kernel is made of, relative to the source directory.
const SOURCES: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "image",
    "rumpuser",
    "bmk",
    "platform-hw",
    "platform-xen",
    "components",
    "kernel",
];
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The platform for components of a NetBSD tree, relative to the source directory: a package of its own.
const NETBSD_PLATFORM: &str = "kernel-netbsd";
/// The linker script, relative to the source directory.
const LINKER_SCRIPT: &str = "kernel/link.ld";
/// How many kernels are kept.
const KEPT: usize = 16;
/// Lines of cargo's that are shown when a build fails.
const ERROR_LINES: usize = 200;

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No sources.
    #[error("{}: no sources of the kernel there; set {SOURCE_VARIABLE} to a checkout of rumprun-bake", .0.display())]
    Source(PathBuf),
    /// A file or program of the host.
    #[error("{what}: {source}")]
    Host {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// No cache directory.
    #[error("no cache directory: set HOME, XDG_CACHE_HOME or {CACHE_VARIABLE}")]
    NoCache,
    /// cargo or rustc is missing.
    #[error("{0} is not installed: see https://rustup.rs")]
    NoTool(&'static str),
    /// The build failed.
    #[error("the kernel does not build:\n{0}")]
    Build(String),
}

fn host_error(what: impl ToString) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Host { what: what.to_string(), source }
}

/// The directory for what can be made again.
pub fn cache_directory() -> Result<PathBuf, Error> {
    let directory = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    directory(CACHE_VARIABLE)
        .or_else(|| Some(directory("XDG_CACHE_HOME")?.join("rumprun-bake")))
        .or_else(|| Some(directory("HOME")?.join(".cache/rumprun-bake")))
        .ok_or(Error::NoCache)
}

/// The directory of the kernel's sources.
pub fn source_directory() -> Result<PathBuf, Error> {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"));
    let source = env::var_os(SOURCE_VARIABLE).map_or_else(|| built_from.to_path_buf(), PathBuf::from);
    if source.join("kernel/Cargo.toml").is_file() { Ok(source) } else { Err(Error::Source(source)) }
}

/// The compiler's flags for code of the kernel.
fn flags(source: &Path) -> Vec<String> {
    let mut flags: Vec<String> = [
        "-Crelocation-model=static",
        "-Ccode-model=kernel",
        "-Cno-redzone=yes",
        "-Cforce-frame-pointers=yes",
        "-Clink-arg=-nostartfiles",
        "-Clink-arg=-nostdlib",
        "-Clink-arg=-static",
        "-Clink-arg=-no-pie",
        "-Clink-arg=-Wl,--build-id=none",
    ]
    .map(String::from)
    .into();
    let script = source.join(LINKER_SCRIPT);
    if script.is_file() {
        flags.push(format!("-Clink-arg=-T{}", script.display()));
    }
    // Paths of the builder's machine would make kernels differ.
    flags.push(format!("--remap-path-prefix={}=/rumprun-bake", source.display()));
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    if let Some(home) = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"))) {
        flags.push(format!("--remap-path-prefix={}=/cargo", home.display()));
    }
    flags
}

/// The bytes of the kernel for a configuration; built if the cache hasn't it.
pub fn kernel(config: &Config, report: &dyn Report) -> Result<Vec<u8>, Error> {
    if let Some(path) = env::var_os(KERNEL_VARIABLE) {
        return fs::read(&path).map_err(host_error(Path::new(&path).display()));
    }
    let source = source_directory()?;
    let flags = flags(&source);
    let key = key(config.features, SOURCES, &source, &flags)?;
    cached(&format!("kernel-{key}"), &source, report, |target| {
        let built = build("kernel", config.features, &source, target, &flags, report)?;
        let built = built.join("kernel");
        fs::read(&built).map_err(host_error(built.display()))
    })
}

/// The platform that components of a NetBSD tree are linked with: an object that `finish` makes of the archive of
/// compiled code at a path. `recipe` is a number of what `finish` does, `features` are those of the package.
pub fn netbsd_platform(
    recipe: &str,
    features: &[&str],
    report: &dyn Report,
    finish: impl FnOnce(&Path) -> Result<Vec<u8>, Error>,
) -> Result<Vec<u8>, Error> {
    let source = source_directory()?;
    let flags = flags(&source);
    let key = key(features, &[SOURCES, &[NETBSD_PLATFORM]].concat(), &source, &flags)?;
    cached(&format!("netbsd{recipe}-{key}"), &source, report, |target| {
        finish(&build(NETBSD_PLATFORM, features, &source, target, &flags, report)?.join("libkernel_netbsd.a"))
    })
}

/// What the cache has by a name, or what `make` builds in the build directory that it gets.
fn cached(
    name: &str,
    source: &Path,
    report: &dyn Report,
    make: impl FnOnce(&Path) -> Result<Vec<u8>, Error>,
) -> Result<Vec<u8>, Error> {
    let cache = cache_directory()?;
    let kept = cache.join("kernels").join(name);
    if let Ok(bytes) = fs::read(&kept) {
        return Ok(bytes);
    }
    fs::create_dir_all(cache.join("kernels")).map_err(host_error(cache.display()))?;
    // Checkouts don't wait for each other, nor undo each other's builds.
    let target = cache.join("builds").join(short_hash(source.as_os_str().as_encoded_bytes()));
    fs::create_dir_all(&target).map_err(host_error(target.display()))?;
    let lock_path = target.join("lock");
    let lock = File::create(&lock_path).map_err(host_error(lock_path.display()))?;
    if lock.try_lock().is_err() {
        report.step("waiting for another kernel build");
        lock.lock().map_err(host_error(lock_path.display()))?;
        if let Ok(bytes) = fs::read(&kept) {
            return Ok(bytes);
        }
    }
    report.step("building the kernel (once; it is kept for the next bake)");
    let bytes = make(&target)?;
    // Whoever reads the cache meanwhile sees the whole kernel or none.
    let mut temporary =
        tempfile::NamedTempFile::new_in(cache.join("kernels")).map_err(host_error("the kernel cache"))?;
    io::Write::write_all(&mut temporary, &bytes).map_err(host_error("the kernel cache"))?;
    temporary.persist(&kept).map_err(|error| error.error).map_err(host_error(kept.display()))?;
    forget_old(&cache.join("kernels"));
    Ok(bytes)
}

/// The crates that are in the kernel of a configuration, for the bill of materials; none for a kernel that was
/// built elsewhere. They are kept by the kernel's hash.
pub fn crates(config: &Config, sha256: &str) -> Result<Vec<Component>, Error> {
    if env::var_os(KERNEL_VARIABLE).is_some() {
        return Ok(Vec::new());
    }
    let folder = cache_directory()?.join("kernel-crates");
    let kept = folder.join(sha256);
    if let Some(crates) = fs::read(&kept).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
        return Ok(crates);
    }
    let mut command = Command::new("cargo");
    command.args(["tree", "--locked", "--package", "kernel", "--target", TARGET, "--edges", "normal"]);
    command.args(["--prefix", "none", "--format", "{p}|{l}", "--color", "never"]);
    if !config.features.is_empty() {
        command.args(["--features", &config.features.join(",")]);
    }
    let output = command.current_dir(source_directory()?).stdin(Stdio::null()).output();
    let output = output.map_err(|_| Error::NoTool("cargo"))?;
    if !output.status.success() {
        return Err(Error::Build(String::from_utf8_lossy(&output.stderr).trim().into()));
    }
    let mut crates: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().filter_map(tree_line).collect();
    crates.sort();
    crates.dedup();
    fs::create_dir_all(&folder).map_err(host_error(folder.display()))?;
    let json = serde_json::to_vec(&crates).unwrap_or_default();
    let mut temporary = tempfile::NamedTempFile::new_in(&folder).map_err(host_error(folder.display()))?;
    io::Write::write_all(&mut temporary, &json).map_err(host_error(folder.display()))?;
    temporary.persist(&kept).map_err(|error| error.error).map_err(host_error(kept.display()))?;
    forget_old(&folder);
    Ok(crates)
}

/// A line of `cargo tree`: `name v1.2.3 (path or kind)|licence (*)`. Procedural macros run in the compiler alone.
fn tree_line(line: &str) -> Option<Component> {
    let (package, license) = line.split_once('|')?;
    let mut words = package.split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    let license = license.trim_end_matches("(*)").trim();
    let local = package.contains(" (/");
    (!package.contains("(proc-macro)")).then(|| Component {
        name: name.into(),
        version: version.into(),
        license: (!license.is_empty()).then(|| license.into()),
        published: !local,
    })
}

/// Removes the kernels that were built longest ago.
fn forget_old(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut kernels: Vec<_> =
        entries.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
    kernels.sort();
    kernels.reverse();
    for (_, path) in kernels.iter().skip(KEPT) {
        let _ = fs::remove_file(path);
    }
}

/// What decides how the kernel of a configuration comes out, hashed; nothing is built.
pub fn cache_key(config: &Config) -> Result<String, Error> {
    if let Some(path) = env::var_os(KERNEL_VARIABLE) {
        return Ok(short_hash(&fs::read(&path).map_err(host_error(Path::new(&path).display()))?));
    }
    let source = source_directory()?;
    key(config.features, SOURCES, &source, &flags(&source))
}

/// What decides how a kernel comes out, hashed.
fn key(features: &[&str], sources: &[&str], source: &Path, flags: &[String]) -> Result<String, Error> {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    let version =
        Command::new("rustc").arg("-vV").current_dir(source).output().map_err(|_| Error::NoTool("rustc"))?;
    part(&version.stdout);
    for text in flags.iter().map(String::as_str).chain(features.iter().copied()) {
        part(text.as_bytes());
    }
    let mut files = Vec::new();
    for name in sources {
        list(&source.join(name), &mut files)?;
    }
    files.sort();
    for file in files {
        part(file.strip_prefix(source).unwrap_or(&file).as_os_str().as_encoded_bytes());
        part(&fs::read(&file).map_err(host_error(file.display()))?);
    }
    Ok(hexadecimal(&hash.finalize()))
}

fn short_hash(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// The first half of a hash, which is enough to tell files apart.
fn hexadecimal(hash: &[u8]) -> String {
    hash.iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

fn list(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    if path.is_file() {
        files.push(path.into());
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(host_error(path.display()))? {
        let entry = entry.map_err(host_error(path.display()))?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && entry.file_name() != "target" {
            list(&entry.path(), files)?;
        }
    }
    Ok(())
}

/// Builds a package; returns the directory with what comes of it.
fn build(
    package: &str,
    features: &[&str],
    source: &Path,
    target: &Path,
    flags: &[String],
    report: &dyn Report,
) -> Result<PathBuf, Error> {
    let mut command = Command::new("cargo");
    command.args(["build", "--package", package, "--profile", "kernel", "--target", TARGET]);
    if !features.is_empty() {
        command.args(["--features", &features.join(",")]);
    }
    command
        .current_dir(source)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_TERM_COLOR", "never")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|_| Error::NoTool("cargo"))?;
    let mut lines = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if let Some(name) = line.trim_start().strip_prefix("Compiling ") {
                report.detail(name.split(' ').next().unwrap_or(name));
            }
            lines.push(line);
        }
    }
    let status = child.wait().map_err(host_error("cargo"))?;
    if !status.success() {
        let first = lines.iter().position(|line| line.starts_with("error")).unwrap_or(0);
        let shown: Vec<_> = lines[first..].iter().take(ERROR_LINES).map(String::as_str).collect();
        return Err(Error::Build(shown.join("\n")));
    }
    Ok(target.join(TARGET).join("kernel"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_crate_tree() {
        let found = tree_line("zerocopy v0.8.63|BSD-2-Clause OR MIT (*)").expect("a crate");
        assert_eq!(
            (found.name.as_str(), found.version.as_str(), found.published),
            ("zerocopy", "0.8.63", true)
        );
        assert_eq!(found.license.as_deref(), Some("BSD-2-Clause OR MIT"));
        assert!(!tree_line("bmk v0.1.0 (/src/bmk)|BSD-2-Clause").expect("a crate").published);
        assert_eq!(tree_line("serde_derive v1.0.0 (proc-macro)|MIT"), None);
        assert_eq!(tree_line(""), None);
    }
}
