//! Makes Xen, a kernel and a root file system for dom0 of Debian's packages, once; kept in the tool's cache.

use std::{
    fs::{self, File},
    io::{self, BufWriter},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::archive::Archive;
use crate::{doctor, hash, kernel};

/// The Xen of Debian 12.
const VERSION: &str = "4.17";
/// The packages, besides dom0's kernel and those that have the version in their names.
const PACKAGES: &[&str] = &[
    "xenstore-utils",
    "libxentoolcore1",
    "libxentoollog1",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxenhypfs1",
    "libxenstore4",
    "libyajl2",
];
/// Programs of `/usr/lib/xen-VERSION/bin`.
const TOOLS: &[&str] =
    &["xl", "xenstored", "xenconsoled", "xenconsole", "xen-init-dom0", "libxl-save-helper"];
/// What busybox is called.
const APPLETS: &[&str] = &[
    "awk", "brctl", "cat", "cmp", "cut", "date", "dd", "dmesg", "echo", "grep", "head", "insmod", "ip",
    "kill", "losetup", "ls", "md5sum", "mkdir", "mkfifo", "mount", "nc", "ping", "poweroff", "rm", "sed",
    "seq", "sh", "sleep", "stat", "tail", "test", "timeout", "tr", "true", "truncate", "umount", "usleep",
    "wc", "wget",
];
/// dom0's modules, below `kernel` in the folder of modules.
const MODULES: &[&str] = &[
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "drivers/block/virtio_blk",
    "drivers/char/virtio_console",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
    "drivers/xen/xen-privcmd",
    "drivers/xen/xenfs/xenfs",
    "drivers/xen/xen-evtchn",
    "drivers/xen/xen-gntdev",
    "drivers/xen/xen-gntalloc",
    "net/llc/llc",
    "net/802/stp",
    "net/bridge/bridge",
    "drivers/block/loop",
    "drivers/net/xen-netfront",
    "drivers/net/xen-netback/xen-netback",
    "drivers/block/xen-blkback/xen-blkback",
    "drivers/xen/xen-pciback/xen-pciback",
];
const FOLDERS: &[&str] = &[
    "bin",
    "dev",
    "etc",
    "etc/xen",
    "etc/xen/scripts",
    "guest",
    "lib",
    "lib/modules",
    "lib/x86_64-linux-gnu",
    "lib64",
    "proc",
    "run",
    "sys",
    "tmp",
    "usr",
    "usr/bin",
    "usr/lib",
    "var",
    "var/lib",
    "var/lib/xen",
    "var/lib/xenstored",
    "var/lock",
    "var/log",
    "var/log/xen",
    "var/log/xen/console",
];
const INIT: &str = include_str!("init.sh");
const INTERFACE_SCRIPT: &str = include_str!("vif.sh");
const BLOCK_SCRIPT: &str = include_str!("block.sh");
/// `xl.conf`: domains leave the first CPU to dom0.
const CONFIGURATION: &str = "vif.default.script=\"vif-test\"\nvm.cpumask=\"all,^0\"\n";

/// What a boot needs.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The hypervisor.
    pub xen: PathBuf,
    /// dom0's kernel.
    pub kernel: PathBuf,
    /// dom0's files, to which a boot adds its own.
    pub root: PathBuf,
}

/// Why Xen can't be had here.
pub type Why = String;

pub fn because<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> Why {
    move |error| format!("{what}: {error}")
}

pub fn output(command: &mut Command) -> Result<Vec<u8>, Why> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(because(&name))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let messages = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name}: {}", messages.lines().last().unwrap_or("it fails")))
}

/// Under later versions a nested guest's reads of CR2 are stale.
fn check_emulator() -> Result<(), Why> {
    let version = output(Command::new("qemu-system-x86_64").arg("--version"))?;
    let version = String::from_utf8_lossy(&version).into_owned();
    let major = version.split("version ").nth(1).and_then(|number| number.split('.').next());
    match major.and_then(|number| number.parse::<u32>().ok()) {
        Some(7..=9) => Ok(()),
        _ => Err(format!("Xen does not run in {}", version.lines().next().unwrap_or("this QEMU"))),
    }
}

/// Makes what is missing; the error says why that can't be done here.
pub fn prepare() -> Result<Prepared, Why> {
    for program in ["qemu-system-x86_64", "apt-get", "dpkg-deb", "gzip", "xz", "strip", "ldd", "/bin/busybox"]
    {
        if !doctor::present(program) {
            return Err(format!("{program} is not installed"));
        }
    }
    check_emulator()?;
    // Another recipe makes another folder.
    let recipe = [INIT, INTERFACE_SCRIPT, BLOCK_SCRIPT, include_str!("prepare.rs")].concat();
    let recipe = hash::bytes(recipe.as_bytes());
    let cache = kernel::cache_directory().map_err(|error| error.to_string())?.join("xen");
    fs::create_dir_all(&cache).map_err(because("the cache"))?;
    let lock = File::create(cache.join("lock")).map_err(because("the cache"))?;
    lock.lock().map_err(because("the cache"))?;
    let folder = cache.join(&recipe[..16]);
    let prepared = Prepared {
        xen: folder.join("xen.elf"),
        kernel: folder.join("vmlinux"),
        root: folder.join("dom0.cpio"),
    };
    if !folder.is_dir() {
        for old in fs::read_dir(&cache).into_iter().flatten().flatten().filter(|old| old.path().is_dir()) {
            let _ = fs::remove_dir_all(old.path());
        }
        let making =
            tempfile::Builder::new().prefix("making-").tempdir_in(&cache).map_err(because("the cache"))?;
        make(making.path())?;
        fs::rename(making.keep(), &folder).map_err(because("the cache"))?;
    }
    Ok(prepared)
}

/// The package of dom0's kernel, and the kernel's version.
fn kernel_package() -> Result<(String, String), Why> {
    let depends = output(Command::new("apt-cache").args(["depends", "linux-image-amd64"]))?;
    let depends = String::from_utf8_lossy(&depends).into_owned();
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let version = package.ok_or("apt-cache does not know linux-image-amd64")?;
    Ok((format!("linux-image-{version}"), version.to_owned()))
}

fn make(folder: &Path) -> Result<(), Why> {
    let (package, version) = kernel_package()?;
    let tree = folder.join("tree");
    let packages = folder.join("packages");
    fs::create_dir_all(&packages).map_err(because("the cache"))?;
    let named = [
        format!("xen-hypervisor-{VERSION}-amd64"),
        format!("xen-utils-{VERSION}"),
        format!("libxenmisc{VERSION}"),
    ];
    let download = ["-qq", "-o", "APT::Sandbox::User=root", "download", &package];
    output(Command::new("apt-get").args(download).args(&named).args(PACKAGES).current_dir(&packages))?;
    for file in fs::read_dir(&packages).map_err(because("the packages"))?.flatten() {
        output(Command::new("dpkg-deb").arg("--extract").arg(file.path()).arg(&tree))?;
    }
    let xen = output(Command::new("gzip").arg("-dc").arg(tree.join(format!("boot/xen-{VERSION}-amd64.gz"))))?;
    fs::write(folder.join("xen.elf"), xen).map_err(because("xen.elf"))?;
    unpack_kernel(&tree.join(format!("boot/vmlinuz-{version}")), folder)?;
    root(&tree, &version, &folder.join("dom0.cpio"))?;
    let _ = fs::remove_dir_all(&tree);
    let _ = fs::remove_dir_all(&packages);
    Ok(())
}

/// Takes the ELF file out of a bzImage (Linux, Documentation/x86/boot.rst), so that Xen need not.
fn unpack_kernel(image: &Path, folder: &Path) -> Result<(), Why> {
    let bytes = fs::read(image).map_err(because("the kernel"))?;
    let word = |offset: usize| -> Option<usize> {
        let bytes = bytes.get(offset..offset + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    let payload = || {
        let sectors = usize::from(*bytes.get(0x1f1)?);
        let start = (if sectors == 0 { 4 } else { sectors } + 1) * 512 + word(0x248)?;
        // The last word is the unpacked size.
        bytes.get(start..start + word(0x24c)?.checked_sub(4)?)
    };
    let payload = payload().ok_or("the kernel has no payload")?;
    let (packed, full) = (folder.join("vmlinux.xz"), folder.join("vmlinux.full"));
    fs::write(&packed, payload).map_err(because("the kernel"))?;
    let elf = output(Command::new("xz").arg("-dc").arg(&packed))?;
    fs::write(&full, elf).map_err(because("the kernel"))?;
    output(Command::new("strip").args(["--strip-debug", "-o"]).arg(folder.join("vmlinux")).arg(&full))?;
    let _ = (fs::remove_file(packed), fs::remove_file(full));
    Ok(())
}

/// The libraries of these programs, by the dynamic linker.
pub fn libraries(tree: &Path, programs: &[PathBuf]) -> Result<Vec<PathBuf>, Why> {
    let path = tree.join("usr/lib/x86_64-linux-gnu");
    let listing = output(Command::new("ldd").args(programs).env("LD_LIBRARY_PATH", path))?;
    let listing = String::from_utf8_lossy(&listing).into_owned();
    let targets = listing.lines().filter_map(|line| line.split(" => ").nth(1)?.split(' ').next());
    let mut libraries: Vec<PathBuf> =
        targets.filter(|path| path.starts_with('/')).map(PathBuf::from).collect();
    // The end of a thread loads it by name.
    libraries.push("/lib/x86_64-linux-gnu/libgcc_s.so.1".into());
    libraries.sort();
    libraries.dedup();
    Ok(libraries)
}

fn root(tree: &Path, version: &str, path: &Path) -> Result<(), Why> {
    let tools = format!("usr/lib/xen-{VERSION}/bin");
    let firmware = format!("usr/lib/xen-{VERSION}/boot");
    let programs: Vec<PathBuf> = TOOLS
        .iter()
        .map(|tool| tree.join(&tools).join(tool))
        .chain([tree.join("usr/bin/xenstore")])
        .collect();
    let libraries = libraries(tree, &programs)?;
    let write = || -> io::Result<()> {
        let mut archive = Archive::new(BufWriter::new(File::create(path)?));
        for folder in FOLDERS {
            archive.folder(folder)?;
        }
        archive.folder(&format!("usr/lib/xen-{VERSION}"))?;
        archive.folder(&tools)?;
        archive.folder(&firmware)?;
        let loader = format!("{firmware}/hvmloader");
        archive.file(&loader, &fs::read(tree.join(&loader))?)?;
        archive.program("init", INIT.as_bytes())?;
        archive.program("bin/busybox", &fs::read("/bin/busybox")?)?;
        for applet in APPLETS {
            archive.link(&format!("bin/{applet}"), "busybox")?;
        }
        for tool in TOOLS {
            archive.program(&format!("{tools}/{tool}"), &fs::read(tree.join(&tools).join(tool))?)?;
        }
        archive.link("bin/xl", &format!("/{tools}/xl"))?;
        archive.link("var/run", "/run")?;
        archive.program("usr/bin/xenstore", &fs::read(tree.join("usr/bin/xenstore"))?)?;
        for command in ["chmod", "exists", "list", "ls", "read", "rm", "watch", "write"] {
            archive.link(&format!("usr/bin/xenstore-{command}"), "xenstore")?;
        }
        for library in &libraries {
            let name = library.file_name().unwrap_or_default().to_string_lossy();
            archive.program(&format!("lib/x86_64-linux-gnu/{name}"), &fs::read(library)?)?;
        }
        archive.program("lib64/ld-linux-x86-64.so.2", &fs::read("/lib64/ld-linux-x86-64.so.2")?)?;
        for module in MODULES {
            let name = module.rsplit('/').next().unwrap_or(module);
            let file = tree.join(format!("lib/modules/{version}/kernel/{module}.ko"));
            archive.file(&format!("lib/modules/{name}.ko"), &fs::read(file)?)?;
        }
        archive.file("etc/xen/xl.conf", CONFIGURATION.as_bytes())?;
        archive.file("etc/passwd", b"root:x:0:0::/:/bin/sh\n")?;
        archive.program("etc/xen/scripts/vif-test", INTERFACE_SCRIPT.as_bytes())?;
        for name in ["block", "block-test"] {
            archive.program(&format!("etc/xen/scripts/{name}"), BLOCK_SCRIPT.as_bytes())?;
        }
        archive.finish()
    };
    write().map_err(because("dom0's files"))
}
