//! Builds a component set: overlay, tools, headers, components, and the set that is installed of them.
//!
//! Everything is kept between builds, by tree and settings, and `make` decides what is old; so an interrupted build goes
//! on, and a second one does only what changed.

use std::{
    collections::VecDeque,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
};

use object::Object;

use super::{
    Error,
    components::{self, Component, Group, locked},
    host,
    make::{Failure, Make},
    prepare::Prepared,
    set::{Set, SetComponent},
    settings::{MACHINE, Places, Target},
    tree::Tree,
    write_new,
};
use crate::report::Report;

/// From how many sources on a component is itself built by several jobs.
const MANY_SOURCES: usize = 60;
/// The component without which there is no set.
const KERNEL_BASE: &str = "rump";
/// Where kernel headers for userspace are, besides the directories that `sys` goes through.
const MACHINE_HEADERS: &[&str] = &["sys/arch/amd64/include", "sys/arch/i386/include", "sys/arch/x86/include"];

/// What is to be built.
#[derive(Debug)]
pub struct Request {
    /// The tree.
    pub source: PathBuf,
    /// The patch sets.
    pub patches_folder: PathBuf,
    /// The patches' names; all that are meant for the release if absent.
    pub patches: Option<Vec<String>>,
    /// Names and groups of components; all if absent.
    pub components: Option<Vec<String>>,
    /// Whether with assertions and debug information.
    pub diagnostic: bool,
    /// How many jobs at a time.
    pub jobs: usize,
    /// Where sets are installed.
    pub sets: PathBuf,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// The set.
    pub set: Set,
    /// Whether there was nothing to do.
    pub unchanged: bool,
    /// What did not build.
    pub failures: Vec<Failure>,
    /// Where the logs are.
    pub log: PathBuf,
}

/// Builds and installs a set.
pub fn build(request: &Request, report: &(dyn Report + Sync)) -> Result<Outcome, Error> {
    let prepared = Prepared::new(request, Target::Image, report)?;
    let Prepared { tree, settings, places, inputs, .. } = &prepared;
    let set_key = prepared.key(request);
    let name = name(tree, request);
    if let Ok(set) = Set::read(&request.sets.join(&name))
        && set.key == set_key
        && set.failed.is_empty()
    {
        return Ok(Outcome { set, unchanged: true, failures: Vec::new(), log: places.log() });
    }
    let make = prepared.make(request.jobs, report)?;

    report.step("asking the tree for its components");
    let known = known_components(&make, places, request, inputs)?;
    let wanted = components::select(&known, request.components.as_deref())?;
    let mut failures = headers(&make, places, tree, request.jobs, &wanted, inputs, report)?;

    report.step(&format!("building the kernel components and libraries of NetBSD {}", tree.version));
    let steps = Steps::new(&["dependall"], wanted.len());
    let failed = compile(&make, places, &wanted.iter().collect::<Vec<_>>(), &steps, request.jobs, report);
    let lost: Vec<_> = failed.iter().map(|failure| failure.name.clone()).collect();
    failures.extend(failed);
    if let Some(at) = failures.iter().position(|failure| failure.name == KERNEL_BASE) {
        return Err(Error::Other(failures.swap_remove(at).to_string()));
    }

    let entry = |component: &Component| {
        let folder = if component.group == Group::Library { "lib" } else { "lib/rump" };
        SetComponent {
            name: component.name.clone(),
            archive: Path::new(folder).join(component.archive()),
            group: component.group,
            comment: component.comment.clone(),
        }
    };
    let built: Vec<_> = wanted.iter().filter(|component| !lost.contains(&component.name)).collect();
    let (libraries, components): (Vec<_>, Vec<_>) =
        built.iter().map(|component| entry(component)).partition(|entry| entry.group == Group::Library);
    let set = Set {
        name,
        release: prepared.release.clone(),
        version: tree.version.clone(),
        machine: MACHINE.into(),
        source: prepared.source.clone(),
        patches: prepared.patches.clone(),
        compiler: settings.compiler.name(),
        flags: settings.flags(),
        linker: super::set::linker(),
        diagnostic: settings.diagnostic,
        key: set_key,
        components,
        libraries,
        failed: lost,
        directory: PathBuf::new(),
    };
    report.step("installing the set");
    let set = set.install(&request.sets, |at| {
        for component in &built {
            let folder = at.join(if component.group == Group::Library { "lib" } else { "lib/rump" });
            fs::create_dir_all(&folder).map_err(host(folder.display()))?;
            let archive = object_directory(places, component).join(component.archive());
            fs::copy(&archive, folder.join(component.archive())).map_err(host(archive.display()))?;
        }
        copy_headers(&places.stage().join("usr/include"), &at.join("include"))
    })?;
    Ok(Outcome { set, unchanged: false, failures, log: places.log() })
}

/// A set's name: the release, and what is special about it.
pub(super) fn name(tree: &Tree, request: &Request) -> String {
    let mut name = tree.version.clone();
    match &request.patches {
        None => {}
        Some(names) if names.is_empty() => name.push_str("-unpatched"),
        Some(names) => {
            name.push('-');
            name.push_str(&names.join("-"));
        }
    }
    if request.diagnostic {
        name.push_str("-diagnostic");
    }
    name
}

/// What the tree offers; asked once for the same tree, patches and settings.
fn known_components(
    make: &Make,
    places: &Places,
    request: &Request,
    inputs: &str,
) -> Result<Vec<Component>, Error> {
    // Libraries that are asked for by name may be none that every tree is asked for.
    let words = request.components.iter().flatten();
    let more: Vec<_> =
        words.filter_map(|word| word.strip_prefix("lib").or(Some(word))).map(String::from).collect();
    let kept = places.objects.join("components.json");
    let state = format!("{inputs} {}", more.join(","));
    let present = fs::read(&kept).ok();
    let present = present.and_then(|bytes| serde_json::from_slice::<(String, Vec<Component>)>(&bytes).ok());
    if let Some((known, components)) = present
        && known == state
    {
        return Ok(components);
    }
    let components = components::discover(make, &places.source, request.jobs, &more)?;
    let json = serde_json::to_vec(&(state, &components)).map_err(|error| Error::Other(error.to_string()))?;
    write_new(&kept, &json)?;
    Ok(components)
}

/// The directory in which a component's objects are.
pub(super) fn object_directory(places: &Places, component: &Component) -> PathBuf {
    places.objects.join("obj").join(&component.directory)
}

/// Installs the headers of components, kernel and libraries into the system root.
fn headers(
    make: &Make,
    places: &Places,
    tree: &Tree,
    jobs: usize,
    wanted: &[Component],
    inputs: &str,
    report: &(dyn Report + Sync),
) -> Result<Vec<Failure>, Error> {
    let libraries: Vec<_> = wanted.iter().filter(|component| component.group == Group::Library).collect();
    let stamp = places.objects.join("headers.complete");
    let names: Vec<_> = libraries.iter().map(|library| library.name.as_str()).collect();
    let state = format!("{inputs} {}", names.join(","));
    if fs::read(&stamp).is_ok_and(|present| present == state.as_bytes()) {
        return Ok(Vec::new());
    }
    report.step("installing headers");
    for folder in ["usr/include/rump", "usr/lib"] {
        let folder = places.stage().join(folder);
        fs::create_dir_all(&folder).map_err(host(folder.display()))?;
    }
    let mut directories = vec![(PathBuf::from("sys/rump"), false)];
    if tree.has_userspace() && !libraries.is_empty() {
        let [below] = make.ask(Path::new("sys"), ["${SUBDIR:Narch:Nmodules:Ncompat:Nrump}"])?;
        directories.extend(below.split_whitespace().map(|name| (Path::new("sys").join(name), false)));
        directories.extend(MACHINE_HEADERS.iter().map(|path| (PathBuf::from(path), false)));
        // Architectures alone: the directory itself has the link `machine`.
        directories.push(("sys/arch".into(), true));
        directories.push(("include".into(), false));
        for library in libraries {
            let beside = library.directory.with_file_name("include");
            directories.extend([(beside, false), (library.directory.clone(), false)]);
        }
    }
    directories.retain(|(path, _)| places.source.join(path).join("Makefile").is_file());
    let failures = install_headers(make, places, directories, jobs, report);
    if failures.is_empty() {
        write_new(&stamp, state.as_bytes())?;
    }
    Ok(failures)
}

/// Installs the headers of directories, with what is below them or of the directory alone.
pub(super) fn install_headers(
    make: &Make,
    places: &Places,
    directories: Vec<(PathBuf, bool)>,
    jobs: usize,
    report: &(dyn Report + Sync),
) -> Vec<Failure> {
    let log = places.log().join("headers.log");
    let _ = fs::remove_file(&log);
    let (queue, failures) = (Mutex::new(VecDeque::from(directories)), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some((directory, alone)) = next(&queue) {
                    let name = format!("headers of {}", directory.display());
                    report.detail(&name);
                    let alone: &[&str] = if alone { &["NOSUBDIR=1"] } else { &[] };
                    for target in ["obj", "includes"] {
                        let arguments: Vec<_> = alone.iter().copied().chain([target]).collect();
                        if let Err(failure) = make.run(&name, &directory, &arguments, &log) {
                            locked(&failures).push(failure);
                            break;
                        }
                    }
                }
            });
        }
    });
    failures.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn next<T>(queue: &Mutex<VecDeque<T>>) -> Option<T> {
    locked(queue).pop_front()
}

/// What is made of each component, and how many there are.
pub(super) struct Steps<'a> {
    targets: &'a [&'a str],
    total: usize,
    completed: Mutex<usize>,
}

impl<'a> Steps<'a> {
    /// None is made yet.
    pub fn new(targets: &'a [&'a str], total: usize) -> Self {
        Steps { targets, total, completed: Mutex::new(0) }
    }
}

/// Builds components side by side, those with the most sources first.
pub(super) fn compile(
    make: &Make,
    places: &Places,
    wanted: &[&Component],
    steps: &Steps<'_>,
    jobs: usize,
    report: &(dyn Report + Sync),
) -> Vec<Failure> {
    let mut order = wanted.to_vec();
    order.sort_by_key(|component| std::cmp::Reverse(component.sources));
    let (queue, failures) = (Mutex::new(VecDeque::from(order)), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(component) = next(&queue) {
                    let result = compile_one(make, places, component, steps.targets, jobs);
                    let mut completed = locked(&steps.completed);
                    *completed += 1;
                    let Component { name, .. } = component;
                    report.detail(&format!("{completed} of {} components: {name}", steps.total));
                    if let Err(failure) = result {
                        locked(&failures).push(failure);
                    }
                }
            });
        }
    });
    failures.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn compile_one(
    make: &Make,
    places: &Places,
    component: &Component,
    targets: &[&str],
    jobs: usize,
) -> Result<(), Failure> {
    let log = places.log().join(format!("{}.log", component.name));
    let failure = |error: Error| Failure {
        name: component.name.clone(),
        command: None,
        lines: vec![error.to_string()],
        log: log.clone(),
    };
    let _ = fs::remove_file(&log);
    let objects = object_directory(places, component);
    fs::create_dir_all(&objects).map_err(host(objects.display())).map_err(failure)?;
    // A build that was killed leaves this behind, and maybe objects that are not whole.
    let busy = objects.join("being-built");
    if busy.exists() {
        remove_broken(&objects).map_err(failure)?;
    }
    fs::write(&busy, "").map_err(host(busy.display())).map_err(failure)?;
    let several = format!("-j{jobs}");
    let several = if jobs > 1 && component.sources >= MANY_SOURCES { Some(several.as_str()) } else { None };
    let result = targets.iter().try_for_each(|target| {
        let arguments: Vec<_> = several.into_iter().chain([*target]).collect();
        make.run(&component.name, &component.directory, &arguments, &log)
    });
    join_dependencies(&objects).map_err(failure)?;
    fs::remove_file(&busy).map_err(host(busy.display())).map_err(failure)?;
    result
}

/// Removes objects and archives that are not whole.
fn remove_broken(objects: &Path) -> Result<(), Error> {
    for path in files(objects)? {
        let broken = match path.extension().and_then(|suffix| suffix.to_str()) {
            Some("o" | "pico") => fs::read(&path).is_ok_and(|bytes| {
                object::File::parse(&*bytes).is_ok_and(|file| file.sections().count() == 0)
                    || object::File::parse(&*bytes).is_err()
            }),
            // It is made of the objects again in no time.
            Some("a" | "tmp") => true,
            _ => path.to_string_lossy().contains(".so."),
        };
        if broken {
            fs::remove_file(&path).map_err(host(path.display()))?;
        }
    }
    Ok(())
}

/// Joins what the compiler said of dependencies into the file that make reads the next time.
fn join_dependencies(objects: &Path) -> Result<(), Error> {
    let mut parts: Vec<_> = files(objects)?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|suffix| suffix == "dep"))
        .collect();
    parts.sort();
    let mut all = Vec::new();
    for part in parts {
        all.extend(fs::read(&part).map_err(host(part.display()))?);
    }
    let path = objects.join(".depend");
    // Make looks at its time, too: the file is renewed only with its content.
    if fs::read(&path).is_ok_and(|present| present == all) {
        return Ok(());
    }
    write_new(&path, &all)
}

pub(super) fn files(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(directory).map_err(host(directory.display()))?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(host(directory.display()))).collect()
}

/// Copies headers; symbolic links stay, unless they lead nowhere.
pub(super) fn copy_headers(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir_all(to).map_err(host(to.display()))?;
    for path in files(from)? {
        let Some(name) = path.file_name() else { continue };
        let copy = to.join(name);
        if path.is_symlink() {
            if path.exists() {
                let target = fs::read_link(&path).map_err(host(path.display()))?;
                symlink(target, &copy).map_err(host(copy.display()))?;
            }
        } else if path.is_dir() {
            copy_headers(&path, &copy)?;
        } else {
            fs::copy(&path, &copy).map_err(host(copy.display()))?;
        }
    }
    Ok(())
}
