//! The host: the checkout, commands, Debian packages, and the `rumprun-bake` built from this checkout.

use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// What the demo boots with.
pub const DEMO_PACKAGES: &[&str] = &["qemu-system-x86", "python3"];

/// What the tests use besides: programs to bake, tools that make and check disks, firmware, a second emulator, clients.
pub const TEST_PACKAGES: &[&str] = &[
    "apache2-utils",
    "bmake",
    "bochs",
    "bochs-term",
    "bochsbios",
    "busybox-static",
    "curl",
    "dnsmasq-base",
    "e2fsprogs",
    "golang-go",
    "grub-common",
    "grub-efi-amd64-bin",
    "grub-pc-bin",
    "haproxy",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "libnfs-utils",
    "libpython3.11-testsuite",
    "libvirt-clients",
    "libxenmisc4.17",
    "libxml2-utils",
    "lighttpd",
    "lighttpd-mod-openssl",
    "memcached",
    "mtools",
    "musl-tools",
    "netbase",
    "netpipe-tcp",
    "nfs-ganesha",
    "nfs-ganesha-vfs",
    "nginx",
    "nmap",
    "ovmf",
    "perl",
    "postgresql-15",
    "postgresql-client-15",
    "python3-scapy",
    "redis-server",
    "redis-tools",
    "rpcbind",
    "skopeo",
    "sqlite3",
    "ssl-cert",
    "stress-ng",
    "systemd",
    "tcpdump",
    "tzdata",
    "vgabios",
    "wrk",
    "xorriso",
];

/// The top folder of the checkout.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in a folder of the checkout")
}

/// Cargo's target folder.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout().join("target"), PathBuf::from)
}

/// Cargo, in the checkout.
pub fn cargo<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(checkout());
    command
}

/// Runs a command; an error names it.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{status} from {command:?}");
    }
    Ok(())
}

/// Runs a command and returns its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{} from {command:?}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .stderr(Stdio::null())
        .output()
        .is_ok_and(|output| output.stdout == b"installed")
}

fn is_root() -> bool {
    output(Command::new("id").arg("--user")).is_ok_and(|user| user.trim() == "0")
}

/// What Debian asks before an installed service is started.
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// 101: it is not to be started (policy-rc.d's interface, section "Exit status").
const DENY: &str =
    "#!/bin/sh\n# Made by `cargo xtask` for an installation; remove it if that is over.\nexit 101\n";

/// While it lives, packages that are installed don't start their services.
struct Quiet(bool);

impl Quiet {
    /// A policy of the host's own stays as it is.
    fn begin() -> Result<Self> {
        let present = fs::read(POLICY).ok();
        let ours = present.as_ref().is_none_or(|policy| policy == DENY.as_bytes());
        if ours {
            fs::write(POLICY, DENY).with_context(|| format!("cannot write {POLICY}"))?;
            fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Quiet(ours))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if self.0 {
            let _ = fs::remove_file(POLICY);
        }
    }
}

/// Installs those of `packages` that are missing, saying so. Without root, says which command does it.
pub fn install(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !is_root() {
        bail!(
            "missing Debian packages; install them with: sudo apt-get install --no-install-recommends {names}"
        );
    }
    eprintln!("installing Debian packages: {names}");
    let _quiet = Quiet::begin()?;
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-qq", "-o", "Dpkg::Use-Pty=0"]).args(arguments);
        command.env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        command
    };
    let install = [&["install", "--yes", "--no-install-recommends"], missing.as_slice()].concat();
    if run(apt(&install).stderr(Stdio::null())).is_err() {
        run(&mut apt(&["update"]))?;
        run(&mut apt(&install))?;
    }
    Ok(())
}

/// The path of `rumprun-bake`: `$RUMPRUN_BAKE`, or else built.
pub fn rumprun_bake() -> Result<PathBuf> {
    if let Some(binary) = env::var_os("RUMPRUN_BAKE") {
        return Ok(binary.into());
    }
    run(&mut cargo(["build", "--release", "--package", "rumprun-bake"]))?;
    Ok(target().join("release/rumprun-bake"))
}
