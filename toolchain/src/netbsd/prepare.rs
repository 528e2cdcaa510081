//! From a tree and patches to a make that can be asked and run: the overlay, the tree's tools, the settings.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    Error,
    build::Request,
    check::{self, Chosen},
    host,
    make::{Make, plain_command, run},
    overlay::{self, Contents},
    patches::{Changes, State},
    set::SetPatch,
    settings::{self, Compiler, MACHINE, Places, Settings, Target},
    tree::Tree,
    write_new,
};
use crate::{hash::Parts, kernel::cache_directory, report::Report};

/// How far the clock by which files get their times may be behind the other one: a tick of the kernel, with room.
const CLOCK_LAG: Duration = Duration::from_millis(50);

/// A tree with its patches and settings, and where it is built.
pub(super) struct Prepared {
    /// The tree.
    pub tree: Tree,
    /// The patch set's release.
    pub release: String,
    /// The patches.
    pub patches: Vec<SetPatch>,
    /// The settings.
    pub settings: Settings,
    /// The directories of the build.
    pub places: Places,
    /// A hash of the tree's files.
    pub source: String,
    /// A hash of everything that components are built from and with.
    pub inputs: String,
    contents: Contents,
    changes: Changes,
    lock: Lock,
}

impl Prepared {
    /// Looks at the tree and the patches; nothing is built.
    pub fn new(request: &Request, target: Target, report: &(dyn Report + Sync)) -> Result<Self, Error> {
        let tree = Tree::open(&request.source)?;
        let settings = Settings { target, compiler: Compiler::find()?, diagnostic: request.diagnostic };
        if let Some(warning) = settings.compiler.too_new() {
            report.warn(&warning);
        }
        let Chosen { release, patches, changes } =
            check::chosen(&tree, &request.patches_folder, request.patches.as_deref())?;
        let directory = build_directory(&tree)?;
        let lock = lock(&directory, report)?;
        let places = Places::new(&directory, &settings.key());
        report.step(&format!("reading the tree of NetBSD {}", tree.version));
        let contents = Contents::read(&tree.root)?;
        let source = contents.digest(|_| true);
        let mut key = Parts::default();
        key.add(settings.key());
        key.add(&source);
        for (patch, _) in patches.iter().filter(|(_, state)| *state == State::Applies) {
            key.add(&patch.sha256);
        }
        let patches = patches
            .into_iter()
            .map(|(patch, _)| SetPatch { name: patch.name, sha256: patch.sha256 })
            .collect();
        let inputs = hash_of(key);
        Ok(Prepared { tree, release, patches, settings, places, source, inputs, contents, changes, lock })
    }

    /// A hash of everything that a set of the wanted components is built from and with.
    pub fn key(&self, request: &Request) -> String {
        let mut key = Parts::default();
        key.add(&self.inputs);
        key.add(request.components.as_ref().map(|words| words.join(",")).unwrap_or_default());
        hash_of(key)
    }

    /// The tree's make, with everything that it needs.
    pub fn make(&self, jobs: usize, report: &(dyn Report + Sync)) -> Result<Make, Error> {
        let Prepared { tree, settings, places, contents, .. } = self;
        self.lock.made.store(true, Ordering::Relaxed);
        overlay::update(&tree.root, contents, &self.changes.files, &places.source)?;
        fs::create_dir_all(places.log()).map_err(host(places.log().display()))?;
        let tools_key = contents.digest(|path| !path.starts_with("sys") && !path.starts_with("lib"));
        tools(settings, places, jobs, &tools_key, report)?;
        settings.write(places)?;
        make_wrapper(settings, places, jobs)?;
        Ok(Make::new(places, settings.target))
    }
}

/// Keeps a tree's other builds waiting.
struct Lock {
    _file: File,
    /// Whether objects may have been made.
    made: AtomicBool,
}

impl Drop for Lock {
    /// Make compares whole seconds: what changes in the second in which an object was made would not be newer.
    fn drop(&mut self) {
        if self.made.load(Ordering::Relaxed) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            thread::sleep(Duration::from_secs(now.as_secs() + 1).saturating_sub(now) + CLOCK_LAG);
        }
    }
}

/// The hash of parts, short enough for a name.
fn hash_of(parts: Parts) -> String {
    parts.finish()[..24].into()
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

fn lock(directory: &Path, report: &(dyn Report + Sync)) -> Result<Lock, Error> {
    let path = directory.join("lock");
    let lock = File::create(&path).map_err(host(path.display()))?;
    if lock.try_lock().is_err() {
        report.step("waiting for another build of this tree");
        lock.lock().map_err(host(path.display()))?;
    }
    // Commands inherit it: should we be killed, the next build waits for those that go on.
    rustix::io::fcntl_setfd(&lock, rustix::io::FdFlags::empty())
        .map_err(io::Error::from)
        .map_err(host(path.display()))?;
    Ok(Lock { _file: lock, made: AtomicBool::new(false) })
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
        let mut lacking = check::host_lacks();
        lacking.extend(check::no_zlib());
        let hint: String = lacking.iter().map(|what| format!("\n  missing here: {what}")).collect();
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
