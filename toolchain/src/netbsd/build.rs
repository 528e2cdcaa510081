//! Builds a component set: overlay, tools, headers, components, and the set that is installed of them.
//!
//! Everything is kept between builds, by tree and settings, and `make` decides what is old; so an interrupted build goes
//! on, and a second one does only what changed.

use std::{
    collections::VecDeque,
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
};

use object::Object;

use super::{
    Error,
    check::{self, Chosen},
    components::{self, Component, Group, locked},
    host,
    make::{Failure, Make, plain_command, run},
    overlay::{self, Contents},
    patches::State,
    set::{Set, SetComponent, SetPatch},
    settings::{self, Compiler, MACHINE, Places, Settings},
    tree::Tree,
    write_new,
};
use crate::{hash::Parts, kernel::cache_directory, report::Report};

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
    let tree = Tree::open(&request.source)?;
    let settings = Settings { compiler: Compiler::find()?, diagnostic: request.diagnostic };
    if let Some(warning) = settings.compiler.too_new() {
        report.warn(&warning);
    }
    let Chosen { release, patches, changes } =
        check::chosen(&tree, &request.patches_folder, request.patches.as_deref())?;
    let directory = build_directory(&tree)?;
    let _lock = lock(&directory, report)?;
    let places = Places::new(&directory, &settings.key());

    report.step(&format!("reading the tree of NetBSD {}", tree.version));
    let contents = Contents::read(&tree.root)?;
    let source = contents.digest(|_| true);
    let applied: Vec<_> =
        patches.iter().filter(|(_, state)| *state == State::Applies).map(|(patch, _)| patch).collect();
    let mut key = Parts::default();
    key.add(settings.key());
    key.add(&source);
    for patch in &applied {
        key.add(&patch.sha256);
    }
    let inputs = hash_of(key);
    let mut key = Parts::default();
    key.add(&inputs);
    key.add(request.components.as_ref().map(|words| words.join(",")).unwrap_or_default());
    let set_key = hash_of(key);
    let name = name(&tree, request);
    if let Ok(set) = Set::read(&request.sets.join(&name))
        && set.key == set_key
        && set.failed.is_empty()
    {
        return Ok(Outcome { set, unchanged: true, failures: Vec::new(), log: places.log() });
    }
    overlay::update(&tree.root, &contents, &changes.files, &places.source)?;
    fs::create_dir_all(places.log()).map_err(host(places.log().display()))?;

    let tools_key = contents.digest(|path| !path.starts_with("sys") && !path.starts_with("lib"));
    tools(&settings, &places, request.jobs, &tools_key, report)?;
    settings.write(&places)?;
    make_wrapper(&settings, &places, request.jobs)?;
    let make = Make::new(&places);

    report.step("asking the tree for its components");
    let known = known_components(&make, &places, request, &inputs)?;
    let wanted = components::select(&known, request.components.as_deref())?;
    let mut failures = headers(&make, &places, &tree, request.jobs, &wanted, &inputs, report)?;

    report.step(&format!("building the kernel components and libraries of NetBSD {}", tree.version));
    let failed = compile(&make, &places, &wanted, request.jobs, report);
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
        release,
        version: tree.version.clone(),
        machine: MACHINE.into(),
        source,
        patches: patches
            .iter()
            .map(|(patch, _)| SetPatch { name: patch.name.clone(), sha256: patch.sha256.clone() })
            .collect(),
        compiler: settings.compiler.name(),
        flags: settings.flags(),
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
            let archive = object_directory(&places, component).join(component.archive());
            fs::copy(&archive, folder.join(component.archive())).map_err(host(archive.display()))?;
        }
        copy_headers(&places.stage().join("usr/include"), &at.join("include"))
    })?;
    Ok(Outcome { set, unchanged: false, failures, log: places.log() })
}

/// The hash of parts, short enough for a name.
fn hash_of(parts: Parts) -> String {
    parts.finish()[..24].into()
}

/// A set's name: the release, and what is special about it.
fn name(tree: &Tree, request: &Request) -> String {
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

/// Where everything about a tree is kept.
fn build_directory(tree: &Tree) -> Result<PathBuf, Error> {
    let cache = cache_directory().map_err(|error| Error::Other(error.to_string()))?;
    let mut hash = Parts::default();
    hash.add(tree.root.as_os_str().as_encoded_bytes());
    let directory = cache.join("netbsd").join(&hash.finish()[..12]);
    fs::create_dir_all(&directory).map_err(host(directory.display()))?;
    let directory = fs::canonicalize(&directory).map_err(host(directory.display()))?;
    // Makefiles take paths apart at these.
    if directory.to_string_lossy().contains([' ', '\t', ',', ':', '$', '\'', '"']) {
        return Err(Error::Other(format!(
            "{}: make cannot build in a path with blanks or one of , : $ ' \"; set {} to another",
            directory.display(),
            crate::kernel::CACHE_VARIABLE
        )));
    }
    Ok(directory)
}

fn lock(directory: &Path, report: &(dyn Report + Sync)) -> Result<File, Error> {
    let path = directory.join("lock");
    let lock = File::create(&path).map_err(host(path.display()))?;
    if lock.try_lock().is_err() {
        report.step("waiting for another build of this tree");
        lock.lock().map_err(host(path.display()))?;
    }
    Ok(lock)
}

/// The tree's `build.sh`, for a target.
fn build_script(settings: &Settings, places: &Places, objects: &Path, jobs: usize) -> std::process::Command {
    let mut command = plain_command("sh");
    command.current_dir(&places.source).arg("build.sh");
    command.env("HOST_CC", places.tools.join("bin/host-cc"));
    if settings.compiler.cxx.is_some() {
        command.env("HOST_CXX", places.tools.join("bin/host-c++"));
    }
    command.args(["-m", MACHINE, "-u", "-E", "-N", "1", "-Z", "S", "-j", &jobs.to_string()]);
    command.arg("-T").arg(&places.tools).arg("-D").arg(places.stage());
    let map = format!("MAKEOBJDIR=${{.CURDIR:S,^{},{},}}", places.source.display(), objects.display());
    for variable in settings.variables(places).into_iter().chain([map]) {
        command.arg("-V").arg(variable);
    }
    command
}

/// Builds the tree's tools for the host, unless they are as the tree and the compiler are.
fn tools(
    settings: &Settings,
    places: &Places,
    jobs: usize,
    tree_key: &str,
    report: &(dyn Report + Sync),
) -> Result<(), Error> {
    settings.write_tools(places)?;
    let stamp = places.tools.join("complete");
    let state = format!("{tree_key} {} {}", settings.compiler.cc.display(), settings.compiler.name());
    if fs::read(&stamp).is_ok_and(|present| present == state.as_bytes()) {
        return Ok(());
    }
    report.step("building the tree's tools for this machine, to build the kernel components with");
    // The settings are for components, not for programs of this machine.
    let nothing = places.tools.join("mk.conf");
    fs::write(&nothing, "").map_err(host(nothing.display()))?;
    fs::create_dir_all(places.stage()).map_err(host(places.stage().display()))?;
    let mut command = build_script(settings, places, &places.tool_objects, jobs);
    command.arg("-V").arg(format!("MAKECONF={}", nothing.display()));
    command.arg("-w").arg(places.tools.join("make")).arg("tools");
    run(command, "the tree's tools", &places.log().join("tools.log")).map_err(|failure| {
        let hint =
            if Path::new("/usr/include/zlib.h").exists() { "" } else { "\n  is zlib1g-dev installed?" };
        Error::Other(format!("{failure}{hint}"))
    })?;
    settings::wrap_install(places)?;
    write_new(&stamp, state.as_bytes())
}

/// Has the tree write the script that runs its make, with the settings.
fn make_wrapper(settings: &Settings, places: &Places, jobs: usize) -> Result<(), Error> {
    if places.make().is_file() {
        return Ok(());
    }
    let objects = places.objects.join("obj");
    fs::create_dir_all(&objects).map_err(host(objects.display()))?;
    let mut command = build_script(settings, places, &objects, jobs);
    let written = places.objects.join("make.new");
    command.arg("-V").arg(format!("MAKECONF={}", places.settings().display()));
    command.arg("-w").arg(&written).arg("makewrapper");
    run(command, "the wrapper of make", &places.log().join("make.log"))
        .map_err(|failure| Error::Other(failure.to_string()))?;
    fs::rename(&written, places.make()).map_err(host(places.make().display()))
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
fn object_directory(places: &Places, component: &Component) -> PathBuf {
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
    let failures = failures.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    if failures.is_empty() {
        write_new(&stamp, state.as_bytes())?;
    }
    Ok(failures)
}

fn next<T>(queue: &Mutex<VecDeque<T>>) -> Option<T> {
    locked(queue).pop_front()
}

/// Builds components side by side, those with the most sources first.
fn compile(
    make: &Make,
    places: &Places,
    wanted: &[Component],
    jobs: usize,
    report: &(dyn Report + Sync),
) -> Vec<Failure> {
    let mut order: Vec<&Component> = wanted.iter().collect();
    order.sort_by_key(|component| std::cmp::Reverse(component.sources));
    let (queue, failures) = (Mutex::new(VecDeque::from(order)), Mutex::new(Vec::new()));
    let completed = Mutex::new(0);
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(component) = next(&queue) {
                    let result = compile_one(make, places, component, jobs);
                    let mut completed = locked(&completed);
                    *completed += 1;
                    report.detail(&format!("{completed} of {} components: {}", wanted.len(), component.name));
                    if let Err(failure) = result {
                        locked(&failures).push(failure);
                    }
                }
            });
        }
    });
    failures.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn compile_one(make: &Make, places: &Places, component: &Component, jobs: usize) -> Result<(), Failure> {
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
    let arguments: &[&str] =
        if jobs > 1 && component.sources >= MANY_SOURCES { &[&several, "dependall"] } else { &["dependall"] };
    let result = make.run(&component.name, &component.directory, arguments, &log);
    join_dependencies(&objects).map_err(failure)?;
    fs::remove_file(&busy).map_err(host(busy.display())).map_err(failure)?;
    result
}

/// Removes objects and archives that are not whole.
fn remove_broken(objects: &Path) -> Result<(), Error> {
    for path in files(objects)? {
        let broken = match path.extension().and_then(|suffix| suffix.to_str()) {
            Some("o") => fs::read(&path).is_ok_and(|bytes| {
                object::File::parse(&*bytes).is_ok_and(|file| file.sections().count() == 0)
                    || object::File::parse(&*bytes).is_err()
            }),
            // It is made of the objects again in no time.
            Some("a" | "tmp") => true,
            _ => false,
        };
        if broken {
            fs::remove_file(&path).map_err(host(path.display()))?;
        }
    }
    Ok(())
}

/// Joins what the compiler said of dependencies into the file that make reads the next time.
fn join_dependencies(objects: &Path) -> Result<(), Error> {
    let mut parts: Vec<_> =
        files(objects)?.into_iter().filter(|path| path.to_string_lossy().ends_with(".o.dep")).collect();
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

fn files(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(directory).map_err(host(directory.display()))?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(host(directory.display()))).collect()
}

/// Copies headers; symbolic links stay, unless they lead nowhere.
fn copy_headers(from: &Path, to: &Path) -> Result<(), Error> {
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
