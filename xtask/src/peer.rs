//! The Linux guest that the benchmarks compare with: Debian's cloud kernel and the program in an initramfs.

use std::{
    fs::{self, File},
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

/// An initramfs whose init runs `program` with `arguments` and powers off.
pub fn initramfs(init: &Path, program: &Path, arguments: &[&str]) -> Result<PathBuf> {
    let path = host::target().join("bench/initramfs");
    let mut archive = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut number = 0;
    let mut add = |name: &str, mode: u32, data: &[u8]| -> Result<()> {
        number += 1;
        let entry = newc::Builder::new(name).ino(number).mode(mode).nlink(1);
        let mut writer = entry.write(&mut archive, data.len() as u32);
        std::io::Write::write_all(&mut writer, data)?;
        writer.finish()?;
        Ok(())
    };
    add("dev", 0o040_755, &[])?;
    add("init", 0o100_755, &fs::read(init)?)?;
    add("program", 0o100_755, &fs::read(program)?)?;
    add("arguments", 0o100_644, arguments.join("\n").as_bytes())?;
    newc::trailer(&mut archive)?;
    Ok(path)
}

/// QEMU with the Linux guest, with the same machine, accelerator, CPUs and memory as ours.
pub fn command(machine: &str, accelerator: &str, cpus: usize, kernel: &Path, initramfs: &Path) -> Command {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-machine", machine, "-accel", accelerator, "-cpu", "max", "-smp", &cpus.to_string()])
        .args(["-m", "256M", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"])
        .args(["-append", "console=ttyS0 quiet panic=-1 reboot=t"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs);
    qemu
}
