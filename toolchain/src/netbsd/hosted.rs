//! Rump kernels for this machine: the tree's hypercalls for hosts, its components as shared libraries, the servers, and
//! the libraries of clients.
//!
//! What there is, is found by asking: the tree's `lib/librump*`, what `sys/rump` goes through, and the programs
//! `usr.bin/rump_*`. They are installed in a folder of their own, beside the component sets for images.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    Error,
    build::{self, Request, Steps, compile, copy_headers, files, install_headers},
    components::{self, Component, Group},
    host,
    make::{Failure, Make},
    prepare::Prepared,
    set::SetPatch,
    settings::{Places, Target},
};
use crate::{output, report::Report};

/// The description of an installed folder.
pub const DESCRIPTION: &str = "host.json";
/// How its name ends.
const SUFFIX: &str = "-host";
/// What the tree must have for it, besides what it must have for images.
const HYPERCALLS: &str = "lib/librumpuser/configure";
/// Libraries without which there is no rump kernel.
const BASE: &[&str] = &["rumpuser", "rump"];
/// The library that lets ordinary programs use a server.
const HIJACK: &str = "rumphijack";

/// What was installed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hosted {
    /// The name: the release, and what is special about it.
    pub name: String,
    /// The tree's version.
    pub version: String,
    /// The patches, in their order.
    pub patches: Vec<SetPatch>,
    /// The compiler.
    pub compiler: String,
    /// Its flags.
    pub flags: String,
    /// Whether assertions and debug information are in.
    pub diagnostic: bool,
    /// A hash of everything that it was built from and with.
    pub key: String,
    /// The shared libraries, without `lib` and suffix.
    pub libraries: Vec<String>,
    /// The programs.
    pub programs: Vec<String>,
    /// What did not build.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
    /// Where it is.
    #[serde(skip)]
    pub directory: PathBuf,
}

impl Hosted {
    /// The installed ones, by name.
    pub fn all(folder: &Path) -> Result<Vec<Self>, Error> {
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let there = files(folder)?.into_iter().filter(|path| path.join(DESCRIPTION).is_file());
        let mut all = there.map(|path| Self::read(&path)).collect::<Result<Vec<_>, _>>()?;
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    /// The one in a directory.
    pub fn read(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(DESCRIPTION);
        let bytes = fs::read(&path).map_err(host(path.display()))?;
        let hosted: Self = serde_json::from_slice(&bytes)
            .map_err(|error| Error::Other(format!("{}: {error}; build it again", path.display())))?;
        Ok(Hosted { directory: directory.into(), ..hosted })
    }

    /// Whether ordinary programs can be made to use a server (rumphijack(3)).
    pub fn hijacks(&self) -> bool {
        self.libraries.iter().any(|library| library == HIJACK)
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What was installed.
    pub hosted: Hosted,
    /// Whether there was nothing to do.
    pub unchanged: bool,
    /// What did not build.
    pub failures: Vec<Failure>,
}

/// Something that is built: a library or a program.
#[derive(Debug)]
struct Piece {
    component: Component,
    /// The libraries that must be there before it.
    needs: Vec<String>,
    program: bool,
}

/// Builds and installs what runs on this machine.
pub fn build(request: &Request, report: &(dyn Report + Sync)) -> Result<Outcome, Error> {
    let prepared = Prepared::new(request, Target::Host, report)?;
    let Prepared { tree, places, .. } = &prepared;
    if !tree.root.join(HYPERCALLS).is_file() {
        return Err(Error::Other(format!(
            "{}: {HYPERCALLS} is missing: this tree was cut down to what images need, and has no rump kernels for hosts",
            tree.root.display()
        )));
    }
    let (name, key) = (format!("{}{SUFFIX}", build::name(tree, request)), prepared.key(request));
    let directory = request.sets.join(&name);
    if let Ok(hosted) = Hosted::read(&directory)
        && hosted.key == key
        && hosted.failed.is_empty()
    {
        return Ok(Outcome { hosted, unchanged: true, failures: Vec::new() });
    }
    let make = prepared.make(request.jobs, report)?;
    report.step("asking the tree for what runs on this machine");
    let pieces = select(discover(&make, places, request.jobs)?, request.components.as_deref())?;
    report.step("installing headers");
    let libraries = pieces.iter().filter(|piece| piece.component.group == Group::Library);
    let mut with_headers: Vec<_> =
        libraries.map(|piece| (piece.component.directory.clone(), false)).collect();
    with_headers.push(("sys/rump/include".into(), false));
    for folder in ["usr/include/rump", "usr/lib", "usr/bin"] {
        let folder = places.stage().join(folder);
        fs::create_dir_all(&folder).map_err(host(folder.display()))?;
    }
    let mut failures = install_headers(&make, places, with_headers, request.jobs, report);
    report.step(&format!("building rump kernels of NetBSD {} for this machine", tree.version));
    failures.extend(compile_all(&make, places, &pieces, request.jobs, report));
    let failed: Vec<_> = failures.iter().map(|failure| failure.name.clone()).collect();
    if let Some(at) = failures.iter().position(|failure| BASE.contains(&failure.name.as_str())) {
        return Err(Error::Other(failures.swap_remove(at).to_string()));
    }
    let built = |program| {
        let pieces = pieces.iter().filter(move |piece| piece.program == program);
        let names = pieces.map(|piece| piece.component.name.clone());
        names.filter(|name| !failed.contains(name)).collect::<Vec<_>>()
    };
    let hosted = Hosted {
        name,
        version: tree.version.clone(),
        patches: prepared.patches.clone(),
        compiler: prepared.settings.compiler.name(),
        flags: prepared.settings.flags(),
        diagnostic: prepared.settings.diagnostic,
        key,
        libraries: built(false),
        programs: built(true),
        failed,
        directory,
    };
    report.step("installing");
    install(&hosted, &places.stage().join("usr"))?;
    Ok(Outcome { hosted, unchanged: false, failures })
}

/// What the tree has for hosts, in the order of names.
fn discover(make: &Make, places: &Places, jobs: usize) -> Result<Vec<Piece>, Error> {
    let beginning = |folder: &str, prefix: &str| -> Result<Vec<PathBuf>, Error> {
        let all = files(&places.source.join(folder))?.into_iter();
        let named = all.filter_map(|path| Some(path.file_name()?.to_str()?.to_string()));
        let paths = named.filter(|name| name.starts_with(prefix)).map(|name| Path::new(folder).join(name));
        Ok(paths.filter(|path| places.source.join(path).join("Makefile").is_file()).collect())
    };
    let mut pieces = Vec::new();
    for directory in beginning("lib", "librump")? {
        let [name, needs, comment, sources] =
            make.ask(&directory, ["${LIB}", "${LIBDPLIBS}", "${COMMENT}", "${SRCS}"])?;
        let sources = sources.split_whitespace().count();
        // Name and directory of each library that it is linked with.
        let needs = needs.split_whitespace().step_by(2).map(String::from).collect();
        let component = Component { name, directory, group: Group::Library, comment, sources };
        pieces.push(Piece { component, needs, program: false });
    }
    let known: BTreeSet<_> = pieces.iter().map(|piece| piece.component.name.clone()).collect();
    for component in components::of_kernel(make, &places.source, jobs)? {
        // The base has two places; the one in `lib` knows what it is linked with.
        if !known.contains(&component.name) {
            pieces.push(Piece { component, needs: Vec::new(), program: false });
        }
    }
    for directory in beginning("usr.bin", "rump_")? {
        let [name, linked] = make.ask(&directory, ["${PROG}", "${LDADD}"])?;
        let needs = linked.split_whitespace().filter_map(|word| word.strip_prefix("-l"));
        let needs: Vec<_> = needs.map(String::from).collect();
        if !name.is_empty() {
            let component =
                Component { name, directory, group: Group::Base, comment: String::new(), sources: 1 };
            pieces.push(Piece { component, needs, program: true });
        }
    }
    pieces.retain(|piece| !piece.component.name.is_empty());
    pieces.sort_by(|one, other| one.component.name.cmp(&other.component.name));
    Ok(pieces)
}

/// The pieces that are meant by `--components`, the libraries for clients, the program that needs the least (the server
/// that loads components) with what it needs, and other programs that can be linked then.
fn select(pieces: Vec<Piece>, words: Option<&[String]>) -> Result<Vec<Piece>, Error> {
    let (programs, libraries): (Vec<_>, Vec<_>) = pieces.into_iter().partition(|piece| piece.program);
    let offered: Vec<_> = libraries.iter().map(|piece| piece.component.clone()).collect();
    let mut meant: BTreeSet<_> =
        components::select(&offered, words)?.into_iter().map(|component| component.name).collect();
    if let Some(server) = programs.iter().min_by_key(|piece| piece.needs.len()) {
        meant.extend(server.needs.iter().cloned());
    }
    let known = |name: &String| offered.iter().any(|component| component.name == *name);
    let missing = |name: &String| known(name) && !meant.contains(name);
    let programs = programs.into_iter().filter(|piece| !piece.needs.iter().any(missing));
    let wanted =
        |piece: &Piece| meant.contains(&piece.component.name) || piece.component.group == Group::Library;
    Ok(libraries.into_iter().filter(wanted).chain(programs).collect())
}

/// Builds libraries in the order in which they need each other, and programs last.
fn compile_all(
    make: &Make,
    places: &Places,
    pieces: &[Piece],
    jobs: usize,
    report: &(dyn Report + Sync),
) -> Vec<Failure> {
    let steps = Steps::new(&["dependall", "install"], pieces.len());
    let mut failures = Vec::new();
    let (mut waiting, programs): (Vec<&Piece>, Vec<&Piece>) = pieces.iter().partition(|piece| !piece.program);
    while !waiting.is_empty() {
        let names: BTreeSet<_> = waiting.iter().map(|piece| piece.component.name.as_str()).collect();
        let ready = |piece: &&Piece| !piece.needs.iter().any(|name| names.contains(name.as_str()));
        let (mut now, later): (Vec<_>, Vec<_>) = waiting.iter().copied().partition(ready);
        waiting = later;
        if now.is_empty() {
            // They wait for each other: the tree's makefiles say what is missing.
            now = std::mem::take(&mut waiting);
        }
        let now: Vec<_> = now.iter().map(|piece| &piece.component).collect();
        failures.extend(compile(make, places, &now, &steps, jobs, report));
    }
    let programs: Vec<_> = programs.iter().map(|piece| &piece.component).collect();
    failures.extend(compile(make, places, &programs, &steps, jobs, report));
    failures
}

/// Puts what was built into a folder, in place of one of the same name.
fn install(hosted: &Hosted, stage: &Path) -> Result<(), Error> {
    let folder = hosted.directory.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(host(folder.display()))?;
    let temporary =
        output::temporary_folder_in(folder, ".new-").map_err(|error| Error::Other(error.to_string()))?;
    let fresh = temporary.path().join("host");
    for name in ["bin", "lib", "include"] {
        fs::create_dir_all(fresh.join(name)).map_err(host(fresh.display()))?;
    }
    for path in files(&stage.join("lib"))? {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let library = file.strip_prefix("lib").and_then(|file| file.split_once(".so")).map(|(name, _)| name);
        if library.is_some_and(|name| hosted.libraries.iter().any(|library| library == name)) {
            copy(&path, &fresh.join("lib").join(file))?;
        }
    }
    for name in &hosted.programs {
        copy(&stage.join("bin").join(name), &fresh.join("bin").join(name))?;
    }
    copy_headers(&stage.join("include"), &fresh.join("include"))?;
    let json = serde_json::to_vec_pretty(hosted).map_err(|error| Error::Other(error.to_string()))?;
    fs::write(fresh.join(DESCRIPTION), json).map_err(host(fresh.display()))?;
    if hosted.directory.exists() {
        fs::rename(&hosted.directory, temporary.path().join("old"))
            .map_err(host(hosted.directory.display()))?;
    }
    fs::rename(&fresh, &hosted.directory).map_err(host(hosted.directory.display()))
}

/// Copies a file, or a symbolic link as it is.
fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    if from.is_symlink() {
        let target = fs::read_link(from).map_err(host(from.display()))?;
        return symlink(target, to).map_err(host(to.display()));
    }
    fs::copy(from, to).map(|_| ()).map_err(host(from.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_program_brings_what_it_needs() {
        let piece = |name: &str, group, needs: &[&str], program| Piece {
            component: Component {
                name: name.into(),
                directory: PathBuf::new(),
                group,
                comment: String::new(),
                sources: 1,
            },
            needs: needs.iter().map(|need| need.to_string()).collect(),
            program,
        };
        let selected = |words: Option<&[&str]>| -> Vec<String> {
            let pieces = vec![
                piece("rump", Group::Base, &["rumpuser"], false),
                piece("rumpclient", Group::Library, &["pthread"], false),
                piece("rumpkern_sysproxy", Group::Kern, &[], false),
                piece("rumpnet_shmif", Group::Net, &[], false),
                piece("rump_all", Group::Base, &["rumpkern_sysproxy", "rumpnet_shmif", "pthread"], true),
                piece("rump_server", Group::Base, &["rumpkern_sysproxy", "pthread"], true),
            ];
            let words = words.map(|words| words.iter().map(|word| word.to_string()).collect::<Vec<_>>());
            let pieces = select(pieces, words.as_deref()).expect("pieces");
            pieces.into_iter().map(|piece| piece.component.name).collect()
        };
        assert_eq!(selected(Some(&["base"])), ["rump", "rumpclient", "rumpkern_sysproxy", "rump_server"]);
        assert_eq!(selected(Some(&["shmif"])).len(), 6);
        assert_eq!(selected(None).len(), 6);
    }
}
