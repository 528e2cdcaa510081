//! Output files that appear whole or not at all.

use std::{
    fs::Permissions,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
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

/// A file that takes its name when it is complete; dropped earlier, it leaves nothing behind.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    temporary: NamedTempFile,
}

impl Output {
    /// Begins a file that will be at `path`.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error { path: path.into(), source };
        if path.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let temporary =
            tempfile::Builder::new().prefix(".rumprun-bake-").tempfile_in(folder).map_err(failed)?;
        Ok(Output { path: path.into(), temporary })
    }

    /// The file, to write to.
    pub fn file(&mut self) -> &mut std::fs::File {
        self.temporary.as_file_mut()
    }

    /// Its name for the time being.
    pub fn temporary_path(&self) -> &Path {
        self.temporary.path()
    }

    /// A folder for intermediate files, on the same file system; it goes when dropped.
    pub fn folder(&self) -> Result<tempfile::TempDir, Error> {
        let folder = self.temporary.path().parent().unwrap_or(Path::new("."));
        let folder = tempfile::Builder::new().prefix(".rumprun-bake-").tempdir_in(folder);
        folder.map_err(|source| Error { path: self.path.clone(), source })
    }

    /// Gives it its name.
    pub fn finish(self) -> Result<(), Error> {
        let path = self.path;
        let failed = |source| Error { path: path.clone(), source };
        // Temporary files are private; an image is as readable as what other tools write.
        let permissions = Permissions::from_mode(0o666 & !umask());
        self.temporary.as_file().set_permissions(permissions).map_err(failed)?;
        self.temporary.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

/// The process's file creation mask.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o022)
}
