//! `netbsd check` and `netbsd patch`: which release a tree is, which patches apply, what is missing; nothing is built.

use std::{fs, path::Path};

use serde::Serialize;

use super::{
    Error,
    components::locked,
    host,
    overlay::Contents,
    patches::{Changes, State},
    series::{Patch, Series},
    settings::{Compiler, in_path},
    tree::{self, Tree},
};

/// How one patch stands to a tree.
#[derive(Debug, Serialize)]
pub struct PatchState {
    /// The patch.
    #[serde(flatten)]
    pub patch: Patch,
    /// How it stands; nothing if it is not for this release.
    pub state: Option<State>,
    /// Why it doesn't apply.
    pub rejected: Option<String>,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Findings {
    /// The tree's version.
    pub version: String,
    /// The patch set, if there is one for it.
    pub series: Option<String>,
    /// Its patches.
    pub patches: Vec<PatchState>,
    /// What the tree or the host lacks.
    pub missing: Vec<String>,
    /// What to know besides.
    pub notes: Vec<String>,
}

impl Findings {
    /// Whether a build would start and every patch is as it should be.
    pub fn good(&self) -> bool {
        self.series.is_some()
            && self.missing.is_empty()
            && self.patches.iter().all(|patch| patch.rejected.is_none())
    }
}

/// Looks at a tree, with the patch sets of a folder.
pub fn check(source: &Path, patches: &Path) -> Result<Findings, Error> {
    let tree = Tree::open(source)?;
    let fitting = Fitting::find(&tree, patches)?;
    let states = fitting.as_ref().map_or(Ok(Vec::new()), |fitting| fitting.stand(&tree))?;
    let mut notes = Vec::new();
    let mut missing = host_lacks();
    if !tree.has_userspace() {
        notes.push("no lib/libc or include: components alone, no programs".into());
    }
    notes.extend(no_zlib().map(|what| format!("the tools may need {what}")));
    match Compiler::find() {
        Ok(compiler) => notes.extend(compiler.too_new()),
        Err(error) => missing.push(error.to_string()),
    }
    let series = fitting.map(|fitting| fitting.series.name);
    Ok(Findings { version: tree.version, series, patches: states, missing, notes })
}

/// The patch set for a tree.
struct Fitting {
    series: Series,
    /// The release that the patches are for: the tree's, or the one that it leads to.
    release: String,
}

impl Fitting {
    /// The patch set by the tree's version. A development version may be nearer to the release before it or to the one
    /// after it: that whose patches fit better is taken.
    fn find(tree: &Tree, folder: &Path) -> Result<Option<Self>, Error> {
        let own = Series::find(folder, &tree.version)?.map(|series| (series, tree.version.clone()));
        let following = match &own {
            // It has a set of its own.
            Some((series, _)) if series.name.contains('.') => None,
            _ => Series::following(folder, &tree.version)?.map(|series| (series.clone(), series.name)),
        };
        let mut fittings: Vec<_> = [own, following]
            .into_iter()
            .flatten()
            .map(|(series, release)| Fitting { series, release })
            .collect();
        if let [first, second] = &fittings[..]
            && second.rejections(tree)? < first.rejections(tree)?
        {
            fittings.remove(0);
        }
        Ok(fittings.into_iter().next())
    }

    /// As [`Self::find`]; an error says which there are.
    fn required(tree: &Tree, folder: &Path) -> Result<Self, Error> {
        Self::find(tree, folder)?.ok_or_else(|| Series::none_for(folder, &tree.version))
    }

    fn rejections(&self, tree: &Tree) -> Result<usize, Error> {
        Ok(self.stand(tree)?.iter().filter(|state| state.rejected.is_some()).count())
    }

    /// How the patches stand to a tree, each after those before it.
    fn stand(&self, tree: &Tree) -> Result<Vec<PatchState>, Error> {
        let mut states = Vec::new();
        let mut changes = Changes::new(&tree.root);
        for patch in &self.series.patches {
            let (state, rejected) = match patch.is_for(&self.release).then(|| changes.apply(patch)) {
                None => (None, None),
                Some(Ok(state)) => (Some(state), None),
                Some(Err(error @ (Error::Rejected { .. } | Error::BadPatch { .. }))) => {
                    (None, Some(error.to_string()))
                }
                Some(Err(error)) => return Err(error),
            };
            states.push(PatchState { patch: patch.clone(), state, rejected });
        }
        Ok(states)
    }
}

/// What the tools of a tree need from the host.
pub(super) fn host_lacks() -> Vec<String> {
    let needed =
        [("ar", "binutils"), ("objcopy", "binutils"), ("make", "make"), ("awk", "mawk"), ("sed", "sed")];
    let lacking = needed.iter().filter(|(program, _)| in_path(program).is_none());
    lacking.map(|(program, package)| format!("{program} (Debian package {package})")).collect()
}

/// What trees with the tools of dtrace need besides.
pub(super) fn no_zlib() -> Option<String> {
    (!Path::new("/usr/include/zlib.h").exists()).then(|| "zlib.h (Debian package zlib1g-dev)".into())
}

/// Patches for a tree.
#[derive(Debug)]
pub struct Chosen {
    /// The patch set's release; the tree's if none is needed.
    pub release: String,
    /// The patches, in their order, and how they stand.
    pub patches: Vec<(Patch, State)>,
    /// What they make of the tree.
    pub changes: Changes,
}

/// The patches meant for a tree, and what they make of it. `names` as in [`Series::select`].
pub fn chosen(tree: &Tree, patches: &Path, names: Option<&[String]>) -> Result<Chosen, Error> {
    let mut changes = Changes::new(&tree.root);
    // `none` needs no patch set.
    if names.is_some_and(<[String]>::is_empty) {
        return Ok(Chosen { release: tree.version.clone(), patches: Vec::new(), changes });
    }
    let Fitting { series, release, .. } = Fitting::required(tree, patches)?;
    let mut applied = Vec::new();
    for patch in series.select(names, &release)? {
        let state = changes.apply(patch)?;
        applied.push((patch.clone(), state));
    }
    Ok(Chosen { release: series.name, patches: applied, changes })
}

/// Writes a copy of a tree with patches applied, or with all that are there taken back.
pub fn copy_patched(
    source: &Path,
    patches: &Path,
    names: Option<&[String]>,
    reverse: bool,
    at: &Path,
) -> Result<Vec<(Patch, State)>, Error> {
    let tree = Tree::open(source)?;
    if at.exists() && fs::read_dir(at).map_err(host(at.display()))?.next().is_some() {
        return Err(Error::Other(format!("{}: is not empty", at.display())));
    }
    let absolute = std::path::absolute(at).map_err(host(at.display()))?;
    if absolute.starts_with(&tree.root) {
        return Err(Error::Other(format!("{}: is in the tree, which is never written to", at.display())));
    }
    let (done, changes) = if reverse {
        let Fitting { series, release, .. } = Fitting::required(&tree, patches)?;
        let mut changes = Changes::new(&tree.root);
        let mut done = Vec::new();
        for patch in series.select(names, &release)?.into_iter().rev() {
            match changes.reverse(patch) {
                Ok(()) => done.push((patch.clone(), State::AlreadyThere)),
                // All that are there: others are not. A patch that was asked for must be there.
                Err(Error::Rejected { .. }) if names.is_none() => {}
                Err(error) => return Err(error),
            }
        }
        (done, changes)
    } else {
        let chosen = chosen(&tree, patches, names)?;
        (chosen.patches, chosen.changes)
    };
    copy(&tree.root, at)?;
    changes.write(at)?;
    Ok(done)
}

/// Copies a tree: every file is one of its own, whatever the rights of the original.
fn copy(root: &Path, at: &Path) -> Result<(), Error> {
    let contents = Contents::read(root)?;
    fs::create_dir_all(at).map_err(host(at.display()))?;
    for directory in &contents.directories {
        let path = at.join(directory);
        fs::create_dir_all(&path).map_err(host(path.display()))?;
    }
    let queue = std::sync::Mutex::new(contents.files.keys());
    let result = std::sync::Mutex::new(Ok(()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some(path) = locked(&queue).next() else { break };
                    if let Err(error) = copy_file(&root.join(path), &at.join(path)) {
                        *locked(&result) = Err(error);
                        break;
                    }
                }
            });
        }
    });
    result.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn copy_file(original: &Path, copy: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let data = fs::symlink_metadata(original).map_err(host(original.display()))?;
    if data.is_symlink() {
        let target = fs::read_link(original).map_err(host(original.display()))?;
        return std::os::unix::fs::symlink(target, copy).map_err(host(copy.display()));
    }
    fs::copy(original, copy).map_err(host(copy.display()))?;
    let mode = data.permissions().mode() | 0o200;
    fs::set_permissions(copy, fs::Permissions::from_mode(mode)).map_err(host(copy.display()))?;
    let modified = data.modified().map_err(host(original.display()))?;
    let file = fs::File::options().write(true).open(copy).map_err(host(copy.display()))?;
    file.set_modified(modified).map_err(host(copy.display()))
}

/// What to say where a tree is needed and none was given.
pub fn no_source() -> Error {
    Error::Other(format!("no --src. {}", tree::WHERE_FROM))
}
