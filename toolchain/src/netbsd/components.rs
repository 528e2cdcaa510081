//! What a tree offers: its makefiles are asked which directories they go through and what is made there.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
};

use serde::{Deserialize, Serialize};

use super::{Error, make::Make, settings::Target};

/// Where the kernel's components are.
const KERNEL: &str = "sys/rump";
/// The libraries of userspace that are wanted from any tree; what a tree hasn't is left out.
const LIBRARIES: &[&str] = &[
    "c", "m", "pthread", "rt", "crypt", "util", "z", "prop", "ipsec", "kvm", "npf", "pci", "rmt", "y",
    "pcap", "c++",
];

/// What a component is part of: a faction of the kernel, or userspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// The base and its factions: nothing works without it.
    Base,
    /// Kernel services.
    Kern,
    /// File systems.
    Vfs,
    /// Protocols and interfaces.
    Net,
    /// Devices.
    Dev,
    /// Libraries of userspace.
    Library,
}

impl Group {
    /// All, in their order.
    pub const ALL: [Self; 6] = [Self::Base, Self::Kern, Self::Vfs, Self::Net, Self::Dev, Self::Library];

    /// Its name in commands.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Kern => "kern",
            Self::Vfs => "vfs",
            Self::Net => "net",
            Self::Dev => "dev",
            Self::Library => "library",
        }
    }

    /// Of a kernel component's library: `rumpnet_netinet` is of the net faction, whose own is `rumpnet`.
    fn of(library: &str) -> Self {
        match library.split_once('_').map(|(faction, _)| faction) {
            Some("rumpnet") => Self::Net,
            Some("rumpdev") => Self::Dev,
            Some("rumpfs" | "rumpvfs") => Self::Vfs,
            Some(_) => Self::Kern,
            None => Self::Base,
        }
    }
}

/// A component: a directory with a makefile that makes a library.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Component {
    /// The library's name, without `lib` and suffix.
    pub name: String,
    /// The directory in the tree.
    pub directory: PathBuf,
    /// What it is part of.
    pub group: Group,
    /// What it is, as the tree says.
    pub comment: String,
    /// How many sources it has.
    pub sources: usize,
}

impl Component {
    /// The library's file.
    pub fn archive(&self) -> String {
        format!("lib{}.a", self.name)
    }

    /// Whether a word of `--components` means it: its name (with or without the faction), or its group.
    fn is_meant(&self, word: &str) -> bool {
        let short = self.name.split_once('_').map_or("", |(_, name)| name);
        [self.name.as_str(), short, self.group.name()].contains(&word)
    }
}

/// What a directory says of itself.
struct Answer {
    directory: PathBuf,
    library: String,
    comment: String,
    sources: usize,
    further: Vec<PathBuf>,
}

fn ask(make: &Make, directory: &Path, source: &Path) -> Result<Answer, Error> {
    let [library, below, comment, sources, devices] =
        make.ask(directory, ["${LIB}", "${SUBDIR}", "${COMMENT}", "${SRCS}", "${RUMPPCIDEVS}"])?;
    // Drivers of PCI devices are named by the tree, but not gone through, because they need a platform with PCI.
    let devices = if make.target() == Target::Image { devices } else { String::new() };
    let devices: Vec<_> = devices.split_whitespace().map(|name| format!("lib{name}")).collect();
    let below = below.split_whitespace().map(String::from).chain(if library.is_empty() {
        devices
    } else {
        Vec::new()
    });
    let further = below
        .filter(|name| !name.starts_with('.') || name.starts_with(".."))
        .map(|name| directory.join(name))
        .filter(|path| source.join(path).join("Makefile").is_file())
        .collect();
    let sources = sources.split_whitespace().filter(|name| !name.ends_with(".h")).count();
    Ok(Answer { directory: directory.into(), library, comment, sources, further })
}

/// Asks directories at once, `jobs` at a time.
fn ask_all(make: &Make, source: &Path, directories: Vec<PathBuf>, jobs: usize) -> Result<Vec<Answer>, Error> {
    let (queue, answers) = (Mutex::new(directories), Mutex::new(Ok(Vec::new())));
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(directory) = locked(&queue).pop() {
                    let answer = ask(make, &directory, source);
                    match (&mut *locked(&answers), answer) {
                        (Ok(answers), Ok(answer)) => answers.push(answer),
                        (all @ Ok(_), Err(error)) => *all = Err(error),
                        (Err(_), _) => break,
                    }
                }
            });
        }
    });
    answers.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The lock, also after a panic elsewhere.
pub fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The kernel's components that a tree goes through for the settings of a build.
pub fn of_kernel(make: &Make, source: &Path, jobs: usize) -> Result<Vec<Component>, Error> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut open = vec![PathBuf::from(KERNEL)];
    while !open.is_empty() {
        open.retain(|directory| seen.insert(directory.clone()));
        let mut answers = ask_all(make, source, std::mem::take(&mut open), jobs)?;
        answers.sort_by(|one, other| one.directory.cmp(&other.directory));
        for answer in answers {
            open.extend(answer.further);
            if !answer.library.is_empty() {
                let group = Group::of(&answer.library);
                let Answer { directory, library: name, comment, sources, .. } = answer;
                found.push(Component { name, directory, group, comment, sources });
            }
        }
    }
    Ok(found)
}

/// Everything that a tree offers, in the order of names. `more` are libraries that are wanted besides.
pub fn discover(make: &Make, source: &Path, jobs: usize, more: &[String]) -> Result<Vec<Component>, Error> {
    let mut found = of_kernel(make, source, jobs)?;
    let libraries = LIBRARIES.iter().map(|name| name.to_string()).chain(more.iter().cloned());
    let directories: BTreeSet<_> = libraries.filter_map(|name| library_directory(source, &name)).collect();
    for answer in ask_all(make, source, directories.into_iter().collect(), jobs)? {
        if !answer.library.is_empty() {
            let Answer { directory, library: name, comment, sources, .. } = answer;
            found.push(Component { name, directory, group: Group::Library, comment, sources });
        }
    }
    found.sort_by(|one, other| (one.group, &one.name).cmp(&(other.group, &other.name)));
    found.dedup_by(|one, other| one.name == other.name);
    Ok(found)
}

/// Where the tree has a library: `lib/libNAME`, or `external/LICENCE/[lib]NAME/lib`.
fn library_directory(source: &Path, name: &str) -> Option<PathBuf> {
    let mut candidates = vec![PathBuf::from(format!("lib/lib{name}"))];
    let external = std::fs::read_dir(source.join("external")).into_iter().flatten().flatten();
    let mut licences: Vec<_> = external.map(|entry| Path::new("external").join(entry.file_name())).collect();
    licences.sort();
    for licence in licences {
        candidates.extend([licence.join(format!("lib{name}/lib")), licence.join(name).join("lib")]);
    }
    candidates.into_iter().find(|path| source.join(path).join("Makefile").is_file())
}

/// The components that are meant by `--components`, and what nothing works without.
pub fn select(all: &[Component], words: Option<&[String]>) -> Result<Vec<Component>, Error> {
    let Some(words) = words else { return Ok(all.to_vec()) };
    if let Some(unknown) = words.iter().find(|word| !all.iter().any(|component| component.is_meant(word))) {
        let groups = Group::ALL.map(Group::name).join(", ");
        let names: Vec<_> = all.iter().map(|component| component.name.as_str()).collect();
        return Err(Error::Other(format!(
            "no component {unknown} in this tree; there are the groups {groups}, and {}",
            names.join(", ")
        )));
    }
    let meant = |component: &&Component| {
        component.group == Group::Base || words.iter().any(|word| component.is_meant(word))
    };
    Ok(all.iter().filter(meant).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_selection() {
        let component = |name: &str, group| Component {
            name: name.into(),
            directory: PathBuf::new(),
            group,
            comment: String::new(),
            sources: 1,
        };
        let all = ["rump", "rumpnet", "rumpnet_netinet", "rumpfs_ffs", "rumpkern_tty", "rumpdev_pci"]
            .map(|name| component(name, Group::of(name)))
            .to_vec();
        let groups: Vec<_> = all.iter().map(|component| component.group.name()).collect();
        assert_eq!(groups, ["base", "base", "net", "vfs", "kern", "dev"]);
        let names = |words: &[&str]| -> Vec<String> {
            let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
            let selected = select(&all, Some(&words)).expect("components");
            selected.into_iter().map(|component| component.name).collect()
        };
        assert_eq!(names(&["netinet"]), ["rump", "rumpnet", "rumpnet_netinet"]);
        assert_eq!(names(&["vfs", "rumpdev_pci"]), ["rump", "rumpnet", "rumpfs_ffs", "rumpdev_pci"]);
        assert_eq!(select(&all, None).expect("all").len(), all.len());
        let error = select(&all, Some(&["nothing".into()])).expect_err("no such component").to_string();
        assert!(error.contains("no component nothing") && error.contains("rumpfs_ffs"), "{error}");
    }
}
