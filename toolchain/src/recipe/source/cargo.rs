//! Builds the programs of a crate with cargo, as its lock file says, and lists the crates that are in them.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use cargo_metadata::{DependencyKind, Message, Metadata, MetadataCommand, Package, PackageId};

use super::{
    Crate, CrateFrom,
    build::{Obtained, clean_environment, copy, logged, once, placed},
};
use crate::{
    hash, kernel,
    recipe::{
        Recipe,
        error::{Error, host_error},
    },
    report::Report,
    sbom::Component,
};

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Where crates of the registry come from, in cargo's words.
const REGISTRY: &str = "crates.io";

fn no_cargo() -> Error {
    Error::Missing("cargo is not installed: see https://rustup.rs".into())
}

/// The compiler's version.
pub fn compiler() -> Result<Vec<u8>, Error> {
    let output = Command::new("rustc").arg("-vV").stdin(Stdio::null()).output().map_err(|_| no_cargo())?;
    Ok(output.stdout)
}

/// Builds the crate's programs.
pub fn obtain(recipe: &Recipe, wanted: &Crate, report: &dyn Report) -> Result<Obtained, Error> {
    let folder = match &wanted.from {
        CrateFrom::Folder(folder) => folder.canonicalize().map_err(host_error(folder))?,
        CrateFrom::Registry { name, version } => fetch(name, version, &wanted.place, report)?,
    };
    let metadata = metadata(&folder, wanted)?;
    let root = metadata.root_package().ok_or_else(|| Error::NoSuch {
        place: wanted.place.clone(),
        message: format!("{}: a workspace, not a crate; name one of its members", folder.display()),
    })?;
    let mut programs = Vec::new();
    for program in programs_of(root, wanted)? {
        programs.push(placed(&build(recipe, wanted, &metadata, &folder, &program, report)?)?);
    }
    Ok(Obtained { files: programs, components: components(&metadata, root) })
}

/// The names of the programs that are wanted.
fn programs_of(root: &Package, wanted: &Crate) -> Result<Vec<String>, Error> {
    let all: Vec<String> =
        root.targets.iter().filter(|target| target.is_bin()).map(|target| target.name.clone()).collect();
    let no_such = |message: String| Error::NoSuch { place: wanted.place.clone(), message };
    if let Some(unknown) = wanted.binaries.iter().find(|name| !all.contains(name)) {
        return Err(no_such(format!(
            "crate {} has no program `{unknown}` (it has: {})",
            root.name,
            all.join(", ")
        )));
    }
    if all.is_empty() {
        return Err(no_such(format!("crate {} is a library: it has no program", root.name)));
    }
    Ok(if wanted.binaries.is_empty() { all } else { wanted.binaries.clone() })
}

fn feature_options(wanted: &Crate) -> Vec<String> {
    let mut options = Vec::new();
    if wanted.no_default_features {
        options.push("--no-default-features".into());
    }
    if !wanted.features.is_empty() {
        options.push("--features".into());
        options.push(wanted.features.join(","));
    }
    options
}

fn metadata(folder: &Path, wanted: &Crate) -> Result<Metadata, Error> {
    let mut command = MetadataCommand::new();
    let mut options = vec!["--locked".to_string(), "--filter-platform".into(), TARGET.into()];
    options.extend(feature_options(wanted));
    command.manifest_path(folder.join("Cargo.toml")).other_options(options);
    command.exec().map_err(|error| match error {
        cargo_metadata::Error::Io(_) => no_cargo(),
        cargo_metadata::Error::CargoMetadata { stderr } => {
            Error::NoSuch { place: wanted.place.clone(), message: stderr.trim().into() }
        }
        other => Error::NoSuch { place: wanted.place.clone(), message: other.to_string() },
    })
}

/// Fetches a crate of the registry, and copies it to where it can be built.
fn fetch(name: &str, version: &str, place: &str, report: &dyn Report) -> Result<PathBuf, Error> {
    report.step(&format!("fetching crate {name} {version}"));
    let key = hash::bytes(format!("crate {name}={version}").as_bytes());
    let folder = once(&key, |folder| {
        // A crate that depends on it, so that cargo fetches and checks it.
        let probe = folder.join("build");
        let manifest = format!(
            "[package]\nname = \"probe\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[workspace]\n\
             [lib]\npath = \"lib.rs\"\n[dependencies]\n\"{name}\" = \"={version}\"\n"
        );
        for (file, text) in [("Cargo.toml", manifest.as_str()), ("lib.rs", "")] {
            fs::write(probe.join(file), text).map_err(host_error(probe.join(file)))?;
        }
        let no_such = |message: String| Error::NoSuch { place: place.into(), message };
        let found =
            MetadataCommand::new().manifest_path(probe.join("Cargo.toml")).exec().map_err(|error| {
                let text = match &error {
                    cargo_metadata::Error::CargoMetadata { stderr } => stderr.trim().to_string(),
                    other => other.to_string(),
                };
                no_such(format!("crate {name} {version} of {REGISTRY}: {text}"))
            })?;
        let package = found.packages.iter().find(|package| package.name.as_str() == name);
        let package = package.ok_or_else(|| no_such(format!("there is no crate {name} {version}")))?;
        let source = package.manifest_path.parent().map(|path| path.as_std_path().to_path_buf());
        let source = source.ok_or_else(|| no_such(format!("crate {name} has no folder")))?;
        copy(&source, &folder.join("out"))
    })?;
    Ok(folder.join("out"))
}

fn build(
    recipe: &Recipe,
    wanted: &Crate,
    metadata: &Metadata,
    folder: &Path,
    program: &str,
    report: &dyn Report,
) -> Result<PathBuf, Error> {
    // One folder for each crate and way of building, so that crates that did not change aren't compiled again.
    let way = format!("{} {:?} {}", folder.display(), feature_options(wanted), wanted.statically);
    let target = kernel::cache_directory()?.join("crates").join(&hash::bytes(way.as_bytes())[..24]);
    fs::create_dir_all(&target).map_err(host_error(&target))?;
    let mut flags = vec![format!("--remap-path-prefix={}=/{}", metadata.workspace_root, recipe.name)];
    if let Some(home) = home::cargo() {
        flags.push(format!("--remap-path-prefix={}=/cargo", home.display()));
    }
    if wanted.statically {
        flags.push("-Ctarget-feature=+crt-static".into());
    }
    let cargo = |messages: &str| {
        let mut command = Command::new("cargo");
        command.args(["build", "--release", "--locked", "--target", TARGET, "--bin", program]);
        command.args(["--message-format", messages]).args(feature_options(wanted)).current_dir(folder);
        clean_environment(&mut command);
        command
            .env("CARGO_TARGET_DIR", &target)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .env("CARGO_TERM_COLOR", "never");
        command
    };
    report.step(&format!("building {program}"));
    logged(&mut cargo("human"), &format!("{}: cargo build --bin {program}", recipe.name), report)?;
    // Nothing is left to do: this only says where the program is.
    let output = cargo("json").stdin(Stdio::null()).stderr(Stdio::null()).output();
    let output = output.map_err(|_| no_cargo())?.stdout;
    let messages = Message::parse_stream(output.as_slice()).map_while(Result::ok);
    let executable = messages.filter_map(|message| match message {
        Message::CompilerArtifact(artifact) if artifact.target.name == program => artifact.executable,
        _ => None,
    });
    let executable = executable
        .last()
        .ok_or_else(|| Error::NoOutput { place: wanted.place.clone(), file: program.into() })?;
    Ok(executable.into_std_path_buf())
}

/// The crates that are compiled into the programs.
fn components(metadata: &Metadata, root: &Package) -> Vec<Component> {
    let packages: HashMap<&PackageId, &Package> =
        metadata.packages.iter().map(|package| (&package.id, package)).collect();
    let nodes: HashMap<_, _> =
        metadata.resolve.iter().flat_map(|resolve| &resolve.nodes).map(|node| (&node.id, node)).collect();
    let mut seen = BTreeSet::new();
    let mut pending = vec![&root.id];
    let mut components = Vec::new();
    while let Some(id) = pending.pop() {
        let (Some(package), Some(node)) = (packages.get(id), nodes.get(id)) else { continue };
        if !seen.insert(id) {
            continue;
        }
        components.push(Component {
            name: package.name.to_string(),
            version: package.version.to_string(),
            license: package.license.clone(),
            published: package.source.as_ref().is_some_and(cargo_metadata::Source::is_crates_io),
        });
        // Procedural macros and build scripts run here, not there.
        let compiled_in = |kind: DependencyKind| kind == DependencyKind::Normal;
        let dependencies = node.deps.iter().filter(|dependency| {
            dependency.dep_kinds.iter().any(|kind| compiled_in(kind.kind))
                && packages
                    .get(&dependency.pkg)
                    .is_some_and(|package| !package.targets.iter().any(cargo_metadata::Target::is_proc_macro))
        });
        pending.extend(dependencies.map(|dependency| &dependency.pkg));
    }
    components.sort();
    components
}

/// Where cargo keeps its files.
mod home {
    use std::{env, path::PathBuf};

    /// `$CARGO_HOME`, or `.cargo` in the home directory.
    pub fn cargo() -> Option<PathBuf> {
        let set = env::var_os("CARGO_HOME").map(PathBuf::from);
        set.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
    }
}
