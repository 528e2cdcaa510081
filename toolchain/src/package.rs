//! Installed Debian packages: their files, and those of the packages that they depend on. What can be installed
//! with apt can be baked.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use crate::collect::{self, Collection};

/// dpkg's database.
const DATABASE: &str = "/var/lib/dpkg";
/// Files that no program reads.
const LEFT_OUT: &[&str] = &[
    "/usr/share/doc/",
    "/usr/share/man/",
    "/usr/share/info/",
    "/usr/share/locale/",
    "/usr/share/lintian/",
    "/usr/share/bug/",
    "/usr/share/doc-base/",
    "/usr/share/menu/",
];
/// The C library comes with the programs that are followed; its package has far more. The others are used by
/// installation scripts alone, which don't run in an image.
const FOLLOWED_INSTEAD: &[&str] =
    &["libc6", "libc-bin", "debconf", "dpkg", "adduser", "init-system-helpers", "lsb-base", "ucf"];

/// Why a package can't be taken in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not installed.
    #[error("package {0} is not installed: apt install {0}")]
    NotInstalled(String),
    /// No dpkg here.
    #[error("{}: {source}; --package needs a Debian system, use --rootfs here", path.display())]
    Database {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file can't be taken in.
    #[error(transparent)]
    Collect(#[from] collect::Error),
}

/// What the database says of an installed package.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    depends: Vec<Vec<String>>,
    /// Other names for it.
    pub provides: Vec<String>,
    required: bool,
}

/// Which packages, and what of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// The packages; those that they depend on come with them.
    pub names: Vec<String>,
    /// Packages that stay out although others depend on them.
    pub without: Vec<String>,
    /// Files and folders that stay out.
    pub exclude: Vec<Vec<u8>>,
}

/// The packages that are installed.
pub fn database() -> Result<Vec<Package>, Error> {
    let path = Path::new(DATABASE).join("status");
    let status = fs::read_to_string(&path).map_err(|source| Error::Database { path, source })?;
    Ok(installed(&status))
}

/// Takes packages in, with what they depend on.
pub fn add(collection: &mut Collection, selection: &Selection) -> Result<(), Error> {
    let packages = database()?;
    for package in closure(&packages, selection)? {
        for file in files(package)? {
            if LEFT_OUT.iter().any(|prefix| file.starts_with(prefix)) || excluded(&file, &selection.exclude) {
                continue;
            }
            take(collection, Path::new(&file))?;
            for compiled in compiled_forms(Path::new(&file)) {
                take(collection, &compiled)?;
            }
        }
    }
    Ok(())
}

fn excluded(file: &str, exclude: &[Vec<u8>]) -> bool {
    exclude.iter().any(|path| {
        let path = path.strip_suffix(b"/").unwrap_or(path);
        file.as_bytes().strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    })
}

/// The versions, as `name=version`, of packages and of everything they depend on, whether it is taken in or only
/// followed into.
pub fn versions(packages: &[Package], names: &[String]) -> Result<Vec<String>, Error> {
    let found = depended_on(packages, names, |_| true)?;
    let mut versions: Vec<_> =
        found.iter().map(|package| format!("{}={}", package.name, package.version)).collect();
    versions.sort();
    Ok(versions)
}

/// Which package lists each of the wanted paths, by index.
pub fn owners(packages: &[Package], wanted: &HashSet<Vec<u8>>) -> HashMap<Vec<u8>, usize> {
    let mut owners = HashMap::new();
    for (index, package) in packages.iter().enumerate() {
        // Names that aren't UTF-8 are nobody's: Debian Policy forbids them (section 10.10).
        let list = fs::read_to_string(list_of(package)).unwrap_or_default();
        let found = list.lines().map(str::as_bytes).filter(|line| wanted.contains(*line));
        owners.extend(found.map(|line| (line.to_vec(), index)));
    }
    owners
}

fn take(collection: &mut Collection, file: &Path) -> Result<(), Error> {
    match collection.add_path(file.as_os_str().as_encoded_bytes()) {
        // Files that the administrator removed, and links to files of other packages.
        Err(collect::Error::Host { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => Ok(other?),
    }
}

/// What Debian's installation scripts compiled from a Python file; packages don't list it, and without it every
/// start would compile anew.
fn compiled_forms(file: &Path) -> Vec<PathBuf> {
    if file.extension().is_none_or(|extension| extension != "py") {
        return Vec::new();
    }
    let (Some(folder), Some(stem)) = (file.parent(), file.file_stem()) else { return Vec::new() };
    let prefix = format!("{}.cpython-", stem.display());
    let compiled = fs::read_dir(folder.join("__pycache__")).into_iter().flatten().flatten();
    compiled
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.strip_prefix(&prefix).is_some_and(|rest| {
                rest.strip_suffix(".pyc")
                    .is_some_and(|version| version.bytes().all(|byte| byte.is_ascii_digit()))
            })
        })
        .map(|entry| entry.path())
        .collect()
}

/// The file with the names of a package's files.
fn list_of(package: &Package) -> PathBuf {
    let folder = Path::new(DATABASE).join("info");
    let qualified = folder.join(format!("{}:{}.list", package.name, package.architecture));
    if qualified.exists() { qualified } else { folder.join(format!("{}.list", package.name)) }
}

fn files(package: &Package) -> Result<Vec<String>, Error> {
    let path = list_of(package);
    let text = fs::read_to_string(&path).map_err(|source| Error::Database { path, source })?;
    Ok(text.lines().filter(|line| line.starts_with('/') && *line != "/.").map(String::from).collect())
}

/// Packages that are installed, by stanza of the database.
fn installed(status: &str) -> Vec<Package> {
    status.split("\n\n").filter_map(package).collect()
}

fn package(stanza: &str) -> Option<Package> {
    let mut package = Package::default();
    let mut is_installed = false;
    for line in stanza.lines() {
        let Some((key, value)) = line.split_once(": ").filter(|_| !line.starts_with(' ')) else { continue };
        match key {
            "Package" => package.name = value.into(),
            "Version" => package.version = value.into(),
            "Architecture" => package.architecture = value.into(),
            "Status" => is_installed = value.ends_with(" installed"),
            "Depends" | "Pre-Depends" => {
                package.depends.extend(value.split(',').map(|part| part.split('|').map(name_of).collect()));
            }
            "Provides" => package.provides = value.split(',').map(name_of).collect(),
            "Priority" => package.required |= value == "required",
            "Essential" => package.required |= value == "yes",
            _ => {}
        }
    }
    (is_installed && !package.name.is_empty()).then_some(package)
}

/// The name in `name:any (>= 1.2) [amd64]`.
fn name_of(text: &str) -> String {
    text.trim().split([' ', ':', '(', '[']).next().unwrap_or_default().into()
}

fn closure<'a>(packages: &'a [Package], selection: &Selection) -> Result<Vec<&'a Package>, Error> {
    depended_on(packages, &selection.names, |package| {
        let name = package.name.as_str();
        !package.required
            && !FOLLOWED_INSTEAD.contains(&name)
            && !selection.without.iter().any(|without| without == name)
    })
}

/// The packages with these names, and those they depend on that are wanted.
fn depended_on<'a>(
    packages: &'a [Package],
    names: &[String],
    is_wanted: impl Fn(&Package) -> bool,
) -> Result<Vec<&'a Package>, Error> {
    let mut by_name: HashMap<&str, &Package> = HashMap::new();
    for package in packages {
        for name in &package.provides {
            by_name.entry(name).or_insert(package);
        }
    }
    by_name.extend(packages.iter().map(|package| (package.name.as_str(), package)));
    let mut wanted = Vec::new();
    for name in names {
        wanted.push(*by_name.get(name.as_str()).ok_or_else(|| Error::NotInstalled(name.clone()))?);
    }
    let mut found: Vec<&Package> = Vec::new();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    while let Some(package) = wanted.pop() {
        if !seen.insert(&package.name) {
            continue;
        }
        found.push(package);
        for alternatives in &package.depends {
            let present = alternatives.iter().find_map(|name| by_name.get(name.as_str()));
            wanted.extend(present.filter(|package| is_wanted(package)));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Package: app\nStatus: install ok installed\nArchitecture: amd64\n\
        Depends: libapp (>= 1:2), gone | data:any, libc6, base\n\n\
        Package: libapp\nStatus: install ok installed\nArchitecture: amd64\nDepends: virtual\n\n\
        Package: data\nStatus: install ok installed\nProvides: virtual (= 2), other\nDepends: app\n\n\
        Package: gone\nStatus: deinstall ok config-files\n\n\
        Package: libc6\nStatus: install ok installed\n\n\
        Package: base\nStatus: install ok installed\nEssential: yes\nDescription: text\n continued: here\n";

    fn select(name: &str) -> Selection {
        Selection { names: vec![name.into()], ..Selection::default() }
    }

    #[test]
    fn dependencies_are_followed() {
        let packages = installed(STATUS);
        let mut names: Vec<_> = closure(&packages, &select("app"))
            .expect("installed")
            .iter()
            .map(|package| package.name.as_str())
            .collect();
        names.sort();
        assert_eq!(names, ["app", "data", "libapp"]);
        let without = Selection { without: vec!["data".into()], ..select("app") };
        assert_eq!(closure(&packages, &without).expect("installed").len(), 2);
        assert_eq!(versions(&packages, &["libapp".into()]).expect("installed").len(), 5);
        let error = closure(&packages, &select("gone")).expect_err("not installed");
        assert!(error.to_string().contains("apt install gone"));
    }

    #[test]
    fn what_is_excluded_is_a_whole_path() {
        let exclude = [b"/usr/lib/x".to_vec(), b"/opt/".to_vec()];
        assert!(excluded("/usr/lib/x/y", &exclude) && excluded("/usr/lib/x", &exclude));
        assert!(excluded("/opt/a", &exclude) && !excluded("/usr/lib/xyz", &exclude));
    }
}
