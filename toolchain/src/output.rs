//! Output files that appear whole or not at all.

use std::{
    fs::Permissions,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
    thread,
};

use tempfile::NamedTempFile;

/// Why an output can't be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot be written: {source}", path.display())]
pub struct Error {
    /// Where to.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// Temporary files and folders that exist, for a signal that ends the process.
static TEMPORARIES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn temporaries() -> MutexGuard<'static, Vec<PathBuf>> {
    TEMPORARIES.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Has SIGINT, SIGTERM and SIGHUP remove what is unfinished, and end what a build runs, before they end the process.
pub fn remove_on_signals() -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // Held to the end: nothing is made meanwhile.
            let temporaries = temporaries();
            let _running = crate::netbsd::jobs::kill_all();
            for path in temporaries.iter() {
                let _ =
                    if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
            }
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// A temporary path that [`remove_on_signals`] knows of.
#[derive(Debug)]
struct Registered(PathBuf);

impl Drop for Registered {
    fn drop(&mut self) {
        temporaries().retain(|path| *path != self.0);
    }
}

/// A folder for intermediate files; it goes when dropped.
#[derive(Debug)]
pub struct Folder {
    folder: tempfile::TempDir,
    _registered: Registered,
}

impl Folder {
    /// Its path.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Makes a folder for files that nobody needs afterwards.
pub fn temporary_folder() -> Result<Folder, Error> {
    temporary_folder_in(&std::env::temp_dir(), "rumprun-bake-")
}

/// Makes such a folder in another, with a name that begins with `prefix`.
pub fn temporary_folder_in(place: &Path, prefix: &str) -> Result<Folder, Error> {
    let mut temporaries = temporaries();
    let failed = |source| Error { path: place.into(), source };
    let folder = tempfile::Builder::new().prefix(prefix).tempdir_in(place).map_err(failed)?;
    temporaries.push(folder.path().into());
    let registered = Registered(folder.path().into());
    Ok(Folder { folder, _registered: registered })
}

/// A file that takes its name when it is complete; dropped earlier, it leaves nothing behind.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    temporary: NamedTempFile,
    registered: Registered,
}

impl Output {
    /// Begins a file that will be at `path`.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error { path: path.into(), source };
        if path.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut temporaries = temporaries();
        let temporary =
            tempfile::Builder::new().prefix(".rumprun-bake-").tempfile_in(folder).map_err(failed)?;
        temporaries.push(temporary.path().into());
        let registered = Registered(temporary.path().into());
        Ok(Output { path: path.into(), temporary, registered })
    }

    /// The file, to write to.
    pub fn file(&mut self) -> &mut std::fs::File {
        self.temporary.as_file_mut()
    }

    /// Its name for the time being.
    pub fn temporary_path(&self) -> &Path {
        self.temporary.path()
    }

    /// A folder for intermediate files, on the same file system.
    pub fn folder(&self) -> Result<Folder, Error> {
        let parent = self.temporary.path().parent().unwrap_or(Path::new("."));
        let mut temporaries = temporaries();
        let folder = tempfile::Builder::new().prefix(".rumprun-bake-").tempdir_in(parent);
        let folder = folder.map_err(|source| Error { path: self.path.clone(), source })?;
        temporaries.push(folder.path().into());
        let registered = Registered(folder.path().into());
        Ok(Folder { folder, _registered: registered })
    }

    /// Gives it its name.
    pub fn finish(self) -> Result<(), Error> {
        let path = self.path;
        let failed = |source| Error { path: path.clone(), source };
        // Temporary files are private; an image is as readable as what other tools write.
        let permissions = Permissions::from_mode(0o666 & !umask());
        self.temporary.as_file().set_permissions(permissions).map_err(failed)?;
        self.temporary.persist(&path).map_err(|error| failed(error.error))?;
        drop(self.registered);
        Ok(())
    }
}

/// The process's file creation mask.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o022)
}
