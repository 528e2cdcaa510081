//! The Linux guest that the benchmarks compare with: Debian's cloud kernel and the program in an initramfs.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use cpio::newc;

use crate::host::{self, output, run};

/// Debian's name for its newest cloud kernel.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// The kernel's image, from Debian's package, which is unpacked but not installed.
pub fn kernel() -> Result<PathBuf> {
    let folder = host::target().join("bench/linux");
    let boot = folder.join("boot");
    let find = || {
        let entries = fs::read_dir(&boot).ok()?;
        entries.flatten().map(|entry| entry.path()).find(|path| path.to_string_lossy().contains("/vmlinuz-"))
    };
    if let Some(kernel) = find() {
        return Ok(kernel);
    }
    fs::create_dir_all(&folder)?;
    let depends = output(Command::new("apt-cache").args(["depends", PACKAGE]))?;
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .with_context(|| format!("apt-cache does not know {PACKAGE}: run apt-get update"))?;
    run(Command::new("apt-get").args(["-qq", "download", package]).current_dir(&folder))?;
    let archive = fs::read_dir(&folder)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get downloaded no package")?;
    run(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&folder))?;
    find().with_context(|| format!("{package} has no kernel in /boot"))
}

/// The modules of the kernel that a virtio interface on PCI needs, in the order in which they are loaded.
const NETWORK_MODULES: [&str; 8] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];

/// The file of a module; `None` if the kernel has it built in, or not at all.
pub fn module(name: &str) -> Result<Option<PathBuf>> {
    kernel()?;
    let modules = host::target().join("bench/linux/lib/modules");
    let files = output(Command::new("find").arg(&modules).args(["-name", &format!("{name}.ko")]))?;
    Ok(files.lines().next().map(PathBuf::from))
}

/// Those modules' files.
pub fn network_modules() -> Result<Vec<PathBuf>> {
    kernel()?;
    let modules = host::target().join("bench/linux/lib/modules");
    let files = output(Command::new("find").arg(&modules).args(["-name", "*.ko"]))?;
    let find = |name: &str| {
        let file = files.lines().find(|file| file.ends_with(&format!("/{name}.ko")));
        file.map(PathBuf::from).with_context(|| format!("no module {name} in {}", modules.display()))
    };
    NETWORK_MODULES.into_iter().map(find).collect()
}

/// An initramfs in the making.
pub struct Archive {
    file: BufWriter<File>,
    entries: u32,
}

impl Archive {
    /// An empty one.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Archive { file: BufWriter::new(file), entries: 0 })
    }

    /// Adds a file, directory (without data) or symbolic link (its target is the data), by `st_mode`.
    pub fn add(&mut self, name: &str, mode: u32, data: &[u8]) -> Result<()> {
        self.entries += 1;
        let entry = newc::Builder::new(name).ino(self.entries).mode(mode).nlink(1);
        let mut writer = entry.write(&mut self.file, data.len() as u32);
        writer.write_all(data)?;
        writer.finish()?;
        Ok(())
    }

    /// Writes the end.
    pub fn finish(mut self) -> Result<()> {
        newc::trailer(&mut self.file)?;
        Ok(self.file.flush()?)
    }
}

/// An initramfs whose init runs `program` with `arguments` and powers off.
pub fn initramfs(init: &Path, program: &Path, arguments: &[&str]) -> Result<PathBuf> {
    let path = host::target().join("bench/initramfs");
    let mut archive = Archive::create(&path)?;
    archive.add("dev", 0o040_755, &[])?;
    archive.add("init", 0o100_755, &fs::read(init)?)?;
    archive.add("program", 0o100_755, &fs::read(program)?)?;
    archive.add("arguments", 0o100_644, arguments.join("\n").as_bytes())?;
    archive.finish()?;
    Ok(path)
}

/// QEMU with the Linux guest, with the same machine, accelerator, CPUs and memory (MiB) as ours.
pub fn command(
    machine: &str,
    accelerator: &str,
    cpus: usize,
    memory: u64,
    kernel: &Path,
    initramfs: &Path,
) -> Command {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-machine", machine, "-accel", accelerator, "-cpu", "max", "-smp", &cpus.to_string()])
        .args([
            "-m",
            &format!("{memory}M"),
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
        ])
        .args(["-append", "console=ttyS0 quiet panic=-1 reboot=t"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs);
    qemu
}
