//! What a program needs to run: its interpreter and libraries, found as the dynamic loader will find them, and
//! the interpreter of a script.
//!
//! The order is the loader's: RPATH of the object and of those that loaded it (if it has no RUNPATH), RUNPATH,
//! the loader's cache or the directories of its configuration, the default directories. musl's order is RPATH or
//! RUNPATH of the object and of those that loaded it, then `/etc/ld-musl-x86_64.path` or its defaults.

pub mod loader_cache;
mod loader_config;
mod script;
mod search;

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    rc::Rc,
};

use image::tree::{Attributes, Content, Kind, Node, NodeId, ROOT};
use object::ReadCache;
pub use script::parse as parse_script;
use search::{SearchPaths, is_musl_itself, parent_of};

use crate::{
    collect::{self, Collection, host_path, normalise},
    elf::{self, Elf},
};

/// Directories that are mounted over at run time, so that nothing baked there would be seen.
const MOUNTED_OVER: &[&str] = &["/tmp", "/run", "/dev", "/proc", "/sys"];
/// Where programs from those directories go.
const RELOCATED: &str = "/usr/local/bin";
/// glibc opens this one by itself for thread cancellation, `pthread_exit` and `backtrace`.
const GLIBC_UNWINDER: &[u8] = b"libgcc_s.so.1";
/// How many scripts may be interpreted by scripts.
const SCRIPT_DEPTH: usize = 4;

/// Why a program can't be followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such program.
    #[error("{0}: no such program: give its path, or install it (looked in {1})")]
    NoProgram(String, String),
    /// A file can't be used.
    #[error("{}: {source}", path.display())]
    Elf {
        /// Which.
        path: PathBuf,
        /// Why.
        source: elf::Error,
    },
    /// A library is nowhere.
    #[error(
        "{library}: not found, and {needed_by} needs it (looked in {looked}). Install the package that has it, \
         or add its folder with --rootfs DIR:/usr/local/lib"
    )]
    Library {
        /// Its name.
        library: String,
        /// Who needs it.
        needed_by: String,
        /// Where it was looked for.
        looked: String,
    },
    /// An interpreter is nowhere.
    #[error("{interpreter}: not found, and {needed_by} needs it as its interpreter; install it")]
    Interpreter {
        /// Its path.
        interpreter: String,
        /// Who needs it.
        needed_by: String,
    },
    /// Scripts that interpret scripts.
    #[error("{}: its interpreter is a script, whose interpreter is a script, and so on", .0.display())]
    ScriptDepth(PathBuf),
    /// A file can't be taken in.
    #[error(transparent)]
    Collect(#[from] collect::Error),
}

/// A program or library at its path in the image and on the host.
#[derive(Debug)]
struct Object {
    image: Vec<u8>,
    host: PathBuf,
    elf: Elf,
    /// What loaded it.
    parent: Option<Rc<Object>>,
}

/// Follows programs and takes in what they need.
#[derive(Debug)]
pub struct Follower {
    /// The root file system so far.
    pub collection: Collection,
    search: SearchPaths,
    /// PATH, for names without a slash.
    search_path: Vec<PathBuf>,
    /// Libraries of glibc programs, for the image's own loader cache.
    found: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Objects whose needs were followed.
    done: HashSet<Vec<u8>>,
}

impl Follower {
    /// Follows programs into `collection`, which may have files of the user's already: they go before the host's.
    pub fn new(collection: Collection) -> Self {
        let search = SearchPaths::new(&collection);
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        let search_path = std::env::split_paths(&path).collect();
        Follower { collection, search, search_path, found: BTreeMap::new(), done: HashSet::new() }
    }

    /// Takes a program in, as its name or path is typed; returns its path in the image.
    pub fn add_program(&mut self, name: &[u8]) -> Result<Vec<u8>, Error> {
        let (image, host) = self.find_program(name)?;
        self.add_executable(&image, &host, 0)?;
        Ok(image)
    }

    fn find_program(&self, name: &[u8]) -> Result<(Vec<u8>, PathBuf), Error> {
        if name.contains(&b'/') {
            let absolute = std::path::absolute(host_path(name)).unwrap_or_else(|_| host_path(name).into());
            let path = normalise(absolute.as_os_str().as_encoded_bytes());
            // A path may mean a file of the user's tree as well.
            let host = self.collection.locate(&path).or_else(|| self.collection.locate(&normalise(name)));
            let path = if absolute.exists() { path } else { normalise(name) };
            return match host {
                Some(host) => Ok((relocate(&path), host)),
                None => Err(Error::NoProgram(lossy(name), absolute.display().to_string())),
            };
        }
        for directory in &self.search_path {
            let path = normalise(directory.join(host_path(name)).as_os_str().as_encoded_bytes());
            if let Some(host) = self.collection.locate(&path) {
                return Ok((relocate(&path), host));
            }
        }
        let looked: Vec<_> = self.search_path.iter().map(|path| path.display().to_string()).collect();
        Err(Error::NoProgram(lossy(name), looked.join(", ")))
    }

    fn add_executable(&mut self, image: &[u8], host: &Path, depth: usize) -> Result<(), Error> {
        self.place(image, host)?;
        let mut head = [0; 256];
        let length = File::open(host)
            .and_then(|mut file| file.read(&mut head))
            .map_err(|source| collect::Error::Host { path: host.into(), source })?;
        let Some(script) = parse_script(&head[..length]) else {
            return self.add_elf(image, host, None);
        };
        if depth >= SCRIPT_DEPTH {
            return Err(Error::ScriptDepth(host.into()));
        }
        let interpreter = self.collection.locate(&script.interpreter).ok_or_else(|| Error::Interpreter {
            interpreter: lossy(&script.interpreter),
            needed_by: lossy(image),
        })?;
        self.add_executable(&script.interpreter, &interpreter, depth + 1)?;
        if let Some(command) = script.command {
            let (path, host) = self
                .find_program(&command)
                .map_err(|_| Error::Interpreter { interpreter: lossy(&command), needed_by: lossy(image) })?;
            self.add_executable(&path, &host, depth + 1)?;
        }
        Ok(())
    }

    /// Puts a file in, at its own path if it keeps it.
    fn place(&mut self, image: &[u8], host: &Path) -> Result<(), Error> {
        let present = matches!(self.collection.tree.resolve(image), Ok(Some(_)));
        if present {
            return Ok(());
        }
        if host_path(image) == host {
            self.collection.add_path(image)?;
        } else {
            self.collection.add_file_at(image, host)?;
        }
        Ok(())
    }

    /// Takes in what an ELF file needs; the file itself is in already.
    fn add_elf(&mut self, image: &[u8], host: &Path, parent: Option<Rc<Object>>) -> Result<(), Error> {
        let elf = inspect(host)?;
        // The loader knows the program by the path that its links lead to.
        let real = host.canonicalize().unwrap_or_else(|_| host.into());
        let image = if host_path(image) == host {
            real.as_os_str().as_encoded_bytes().to_vec()
        } else {
            image.to_vec()
        };
        let object = Rc::new(Object { image, host: real, elf, parent });
        if !self.done.insert(object.image.clone()) {
            return Ok(());
        }
        let musl = match &object.elf.interpreter {
            Some(interpreter) => {
                let missing = || Error::Interpreter {
                    interpreter: lossy(interpreter),
                    needed_by: lossy(&object.image),
                };
                let path = normalise(interpreter);
                let host = self.collection.locate(&path).ok_or_else(missing)?;
                self.place(&path, &host)?;
                let musl = interpreter.windows(7).any(|part| part == b"ld-musl");
                if !musl && !object.elf.needed.is_empty() {
                    // Optional: a program that needs it says so itself when it is absent.
                    let _ = self.add_library(&object, GLIBC_UNWINDER, false);
                }
                musl
            }
            None => false,
        };
        self.add_needed(&object, musl)
    }

    fn add_needed(&mut self, object: &Rc<Object>, musl: bool) -> Result<(), Error> {
        for name in &object.elf.needed {
            self.add_library(object, name, musl)?;
        }
        Ok(())
    }

    fn add_library(&mut self, object: &Rc<Object>, name: &[u8], musl: bool) -> Result<(), Error> {
        if musl && is_musl_itself(name) {
            return Ok(());
        }
        let mut looked = Vec::new();
        for (image, host) in self.search.candidates(object, name, musl) {
            let host = match host {
                Some(host) => host.is_file().then_some(host),
                None => self.collection.locate(&image),
            };
            let Some(host) = host else {
                looked.push(lossy(parent_of(&image)));
                continue;
            };
            let elf = match inspect(&host) {
                // The loader passes over libraries for other machines.
                Err(Error::Elf { source: elf::Error::Machine(_), .. }) => continue,
                other => other?,
            };
            self.place(&image, &host)?;
            if !musl && !name.contains(&b'/') {
                self.found.entry(name.to_vec()).or_insert_with(|| image.clone());
            }
            if self.done.insert(image.clone()) {
                let library = Rc::new(Object { image, host, elf, parent: Some(object.clone()) });
                self.add_needed(&library, musl)?;
            }
            return Ok(());
        }
        looked.dedup();
        Err(Error::Library {
            library: lossy(name),
            needed_by: lossy(&object.image),
            looked: looked.join(", "),
        })
    }

    /// Follows the programs and libraries that stand in the trees the user added. What is missing there is a
    /// warning only: trees often have plug-ins that nobody loads.
    pub fn follow_trees(&mut self) -> Result<(), Error> {
        let mut files = Vec::new();
        self.list_files(ROOT, b"/".to_vec(), &mut files);
        for (image, host) in files {
            let mut magic = [0; 4];
            let is_elf = File::open(&host).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
                && magic == *b"\x7fELF";
            if !is_elf {
                continue;
            }
            match self.add_elf(&image, &host, None) {
                Ok(()) => {}
                // Data files of compilers and emulators, and the like.
                Err(Error::Elf { .. }) => {}
                Err(error @ (Error::Library { .. } | Error::Interpreter { .. })) => {
                    self.collection.warnings.push(error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn list_files(&self, directory: NodeId, path: Vec<u8>, files: &mut Vec<(Vec<u8>, PathBuf)>) {
        let Kind::Directory(entries) = &self.collection.tree.node(directory).kind else { return };
        for (name, &id) in entries {
            let mut child = path.clone();
            child.extend_from_slice(name);
            match &self.collection.tree.node(id).kind {
                Kind::Directory(_) => {
                    child.push(b'/');
                    self.list_files(id, child, files);
                }
                Kind::Regular(Content::File(host, _)) => files.push((child, host.clone())),
                _ => {}
            }
        }
    }

    /// The finished collection, with a loader cache for the libraries that were found.
    pub fn finish(mut self) -> Result<Collection, Error> {
        if !self.found.is_empty() {
            let libraries: Vec<_> = self.found.into_iter().collect();
            let node = Node {
                kind: Kind::Regular(Content::Bytes(loader_cache::render(&libraries))),
                attributes: Attributes::root(0o644),
            };
            self.collection.tree.insert_at(b"/etc/ld.so.cache", node).map_err(collect::Error::from)?;
        }
        Ok(self.collection)
    }
}

fn inspect(host: &Path) -> Result<Elf, Error> {
    let file = File::open(host).map_err(|source| collect::Error::Host { path: host.into(), source })?;
    let cache = ReadCache::new(file);
    elf::inspect(&cache).map_err(|source| Error::Elf { path: host.into(), source })
}

fn is_relocated(path: &[u8]) -> bool {
    let under =
        |directory: &&str| path.strip_prefix(directory.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"));
    MOUNTED_OVER.iter().any(under)
}

/// Where a program of the host goes in the image.
fn relocate(path: &[u8]) -> Vec<u8> {
    if !is_relocated(path) {
        return path.to_vec();
    }
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    [RELOCATED.as_bytes(), b"/", name].concat()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_in_mounted_directories_move() {
        assert_eq!(relocate(b"/tmp/build/hello"), b"/usr/local/bin/hello");
        assert_eq!(relocate(b"/tmpfiles/hello"), b"/tmpfiles/hello");
    }

    #[test]
    fn follows_a_program_and_a_script() {
        let mut follower = Follower::new(Collection::default());
        let script = std::env::temp_dir().join(format!("follow-{}", std::process::id()));
        std::fs::write(&script, "#!/usr/bin/env sh\n").expect("write");
        let path = follower.add_program(script.as_os_str().as_encoded_bytes());
        std::fs::remove_file(&script).expect("remove");
        assert!(path.expect("followed").starts_with(b"/usr/local/bin/follow-"));
        let collection = follower.finish().expect("finish");
        for path in ["/usr/bin/env", "/lib64/ld-linux-x86-64.so.2", "/etc/ld.so.cache"] {
            assert!(matches!(collection.tree.resolve(path.as_bytes()), Ok(Some(_))), "{path}");
        }
        assert!(matches!(collection.tree.resolve(b"/lib/x86_64-linux-gnu/libc.so.6"), Ok(Some(_))));
    }

    #[test]
    fn an_absent_program_is_named() {
        let mut follower = Follower::new(Collection::default());
        let error = follower.add_program(b"no-such-program").expect_err("absent").to_string();
        assert!(error.contains("no-such-program: no such program"), "{error}");
    }
}
