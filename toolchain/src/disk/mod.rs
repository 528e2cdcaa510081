//! Images that start from a CD-ROM or a disk, on BIOS and on UEFI: GRUB loads the ELF image by Multiboot2.
//!
//! The tools are Debian's: grub-mkimage, xorriso and mtools. Everything they would take from the clock is fixed, so
//! the same ELF image gives the same file.

mod gpt;
mod grub;
mod iso;
mod raw;

use std::{
    ffi::OsStr,
    fs::File,
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

pub use iso::write as write_iso;
pub use raw::write as write_raw;

/// Where the ELF image is in the file systems.
const IMAGE_PATH: &str = "boot/rumprun.elf";
/// The time of every file, 1980-01-01: the earliest that FAT knows.
const TIMESTAMP: u64 = 315_532_800;

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tool is missing.
    #[error("{tool} is not installed: apt install {package}")]
    Tool {
        /// Its name.
        tool: String,
        /// The package that has it.
        package: &'static str,
    },
    /// A tool failed.
    #[error("{tool} failed: {message}")]
    Failed {
        /// Its name.
        tool: String,
        /// What it said.
        message: String,
    },
    /// The kernel can't be loaded by GRUB.
    #[error("the kernel has no Multiboot2 header in its first 32 KiB, which --format iso and raw need")]
    NoMultiboot,
    /// A boot loader of another layout.
    #[error("{}: not the boot sector that GRUB 2 has", .0.display())]
    BootSector(PathBuf),
    /// The boot loader is larger than its partition.
    #[error("GRUB takes {0} bytes, more than fits in front of the first partition")]
    BootLoader(usize),
    /// A file of the host.
    #[error("{}: {source}", path.display())]
    Host {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn host_error(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Host { path: path.into(), source }
}

/// Runs a tool without the user's time zone, language and clock.
fn tool<A: AsRef<OsStr>>(
    name: &str,
    package: &'static str,
    arguments: impl IntoIterator<Item = A>,
) -> Result<(), Error> {
    let output = Command::new(name)
        .args(arguments)
        .env("SOURCE_DATE_EPOCH", TIMESTAMP.to_string())
        .env("TZ", "UTC")
        .env("LC_ALL", "C")
        .env("MTOOLS_SKIP_CHECK", "1")
        .stdin(Stdio::null())
        .output();
    match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::Tool { tool: name.into(), package })
        }
        Err(source) => Err(Error::Host { path: name.into(), source }),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            let lines: Vec<_> = text.lines().rev().take(3).collect();
            let message = lines.into_iter().rev().collect::<Vec<_>>().join("; ");
            Err(Error::Failed { tool: name.into(), message })
        }
    }
}

/// Gives a file the time that all have.
fn stamp(path: &Path) -> Result<(), Error> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(TIMESTAMP);
    let file = File::options().write(true).open(path).map_err(host_error(path))?;
    file.set_modified(time).map_err(host_error(path))
}

/// Makes a FAT file system in a file, from an offset on: `files` are (path in it, file of the host).
fn fat(file: &Path, offset: u64, sectors: u64, serial: u32, files: &[(&str, &Path)]) -> Result<(), Error> {
    let at = format!("{}@@{offset}", file.display());
    let (sectors, serial) = (sectors.to_string(), format!("{serial:08x}"));
    tool("mformat", "mtools", ["-i", &at, "-T", &sectors, "-h", "255", "-s", "63", "-N", &serial, "::"])?;
    let mut made: Vec<&str> = Vec::new();
    for (path, host) in files {
        for (cut, _) in path.match_indices('/') {
            let folder = &path[..cut];
            if !made.contains(&folder) {
                tool("mmd", "mtools", ["-i", &at, &format!("::{folder}")])?;
                made.push(folder);
            }
        }
        let target = format!("::{path}");
        let arguments = ["-m", "-i", &at].map(OsStr::new);
        tool("mcopy", "mtools", arguments.into_iter().chain([host.as_os_str(), target.as_ref()]))?;
    }
    Ok(())
}
