//! What dom0 needs for HVM domains besides ([`super::prepare()`]): the device emulator with its libraries, and a BIOS, of
//! Debian's packages; kept in the tool's cache.

use std::{
    fs::{self, File},
    io::{self, BufWriter},
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    Prepared,
    archive::Archive,
    prepare::{Why, because, libraries, output},
};

/// The package of the emulator that Debian's toolstack starts.
const PACKAGE: &str = "qemu-system-xen";
const EMULATOR: &str = "usr/libexec/xen-qemu-system-i386";
/// What it reads, and what the toolstack gives a domain as firmware.
const FILES: &[&str] = &["usr/share/qemu/keymaps/en-us", "usr/share/seabios/bios-256k.bin"];

/// Memory that dom0 needs beside [`super::DOM0_MEMORY`], in MiB, for these files and for an emulator of one domain.
pub const EMULATOR_MEMORY: u32 = 160;

/// An archive for dom0's root, of the same root as `prepared`. Makes it if it is missing; the error says why that can't be
/// done here.
pub fn emulator(prepared: &Prepared) -> Result<PathBuf, Why> {
    let folder = prepared.root.parent().ok_or("the cache is no folder")?;
    let lock = File::create(folder.join("lock")).map_err(because("the cache"))?;
    lock.lock().map_err(because("the cache"))?;
    let path = folder.join("emulator.cpio");
    if !path.is_file() {
        let making =
            tempfile::Builder::new().prefix("making-").tempdir_in(folder).map_err(because("the cache"))?;
        let made = making.path().join("emulator.cpio");
        make(making.path(), &made)?;
        fs::rename(made, &path).map_err(because("the cache"))?;
    }
    Ok(path)
}

fn make(folder: &Path, path: &Path) -> Result<(), Why> {
    let (tree, packages) = (folder.join("tree"), folder.join("packages"));
    fs::create_dir(&packages).map_err(because("the cache"))?;
    // What this machine hasn't got already.
    let simulate = ["-qq", "--simulate", "--no-install-recommends", "install", PACKAGE];
    let plan = output(Command::new("apt-get").args(simulate))?;
    let plan = String::from_utf8_lossy(&plan).into_owned();
    let missing = plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
    let mut missing: Vec<&str> = missing.collect();
    if !missing.contains(&PACKAGE) {
        missing.push(PACKAGE);
    }
    let download = ["-qq", "-o", "APT::Sandbox::User=root", "download"];
    output(Command::new("apt-get").args(download).args(missing).current_dir(&packages))?;
    for file in fs::read_dir(&packages).map_err(because("the packages"))?.flatten() {
        output(Command::new("dpkg-deb").arg("--extract").arg(file.path()).arg(&tree))?;
    }
    let program = tree.join(EMULATOR);
    let libraries = libraries(&tree, std::slice::from_ref(&program))?;
    let file = |name: &str| fs::read(tree.join(name)).or_else(|_| fs::read(Path::new("/").join(name)));
    let write = || -> io::Result<()> {
        let mut archive = Archive::new(BufWriter::new(File::create(path)?));
        for folder in
            ["usr/libexec", "usr/share", "usr/share/seabios", "usr/share/qemu", "usr/share/qemu/keymaps"]
        {
            archive.folder(folder)?;
        }
        archive.program(EMULATOR, &fs::read(&program)?)?;
        for name in FILES {
            archive.file(name, &file(name)?)?;
        }
        for library in &libraries {
            let name = library.file_name().unwrap_or_default().to_string_lossy();
            archive.program(&format!("lib/x86_64-linux-gnu/{name}"), &fs::read(library)?)?;
        }
        archive.finish()
    };
    write().map_err(because("the emulator's files"))
}
