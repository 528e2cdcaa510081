//! What this machine has and lacks, and what mends it.

use std::path::Path;

use serde::Serialize;

use crate::{
    kernel,
    launch::{self, Accelerator, AcceleratorRequest, network::abilities},
};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// What it is needed for.
    pub purpose: &'static str,
    /// Whether it is there and works.
    pub present: bool,
    /// Whether baking and running an ELF image needs it.
    pub required: bool,
    /// More about its state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The Debian package that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package: Option<&'static str>,
}

/// Programs and files that packages bring: name, purpose, package, required, and any one of these paths or programs.
const PARTS: &[(&str, &str, &str, bool, &[&str])] = &[
    ("cc", "linking the kernel", "gcc", true, &["cc"]),
    (
        "C library files",
        "building host tools",
        "libc6-dev",
        true,
        &["/usr/lib/x86_64-linux-gnu/crt1.o", "/usr/lib64/crt1.o"],
    ),
    ("QEMU", "run", "qemu-system-x86", true, &[launch::QEMU]),
    ("grub-mkimage", "--format iso and raw", "grub-common", false, &["grub-mkimage"]),
    ("GRUB for BIOS", "--format iso and raw", "grub-pc-bin", false, &["/usr/lib/grub/i386-pc/boot.img"]),
    (
        "GRUB for UEFI",
        "--format iso and raw",
        "grub-efi-amd64-bin",
        false,
        &["/usr/lib/grub/x86_64-efi/kernel.img"],
    ),
    ("mtools", "--format iso and raw", "mtools", false, &["mformat"]),
    ("xorriso", "--format iso", "xorriso", false, &["xorriso"]),
    ("ip", "run --tap and --bridge", "iproute2", false, &["ip", "/usr/sbin/ip", "/sbin/ip"]),
    ("UEFI firmware", "run --firmware uefi", "ovmf", false, launch::UEFI_FIRMWARE),
    ("busybox", "run --on xen, outside of a dom0", "busybox-static", false, &["/bin/busybox"]),
    ("xz", "run --on xen, outside of a dom0", "xz-utils", false, &["xz"]),
    ("binutils", "netbsd build", "binutils", false, &["objcopy"]),
    ("C++ compiler", "netbsd build: C++ for programs", "g++", false, &["c++"]),
    ("make", "netbsd build", "make", false, &["make"]),
    ("awk", "netbsd build", "mawk", false, &["awk"]),
    ("zlib's headers", "netbsd build", "zlib1g-dev", false, &["/usr/include/zlib.h"]),
];

/// Whether there is such a program in PATH, or such a file.
pub(crate) fn present(candidate: &str) -> bool {
    if candidate.starts_with('/') {
        return Path::new(candidate).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(candidate).is_file())
}

/// Looks at everything.
pub fn examine() -> Vec<Check> {
    let mut checks = vec![
        Check {
            name: "cargo and rustc",
            purpose: "building the kernel",
            present: present("cargo") && present("rustc"),
            required: true,
            detail: (!present("cargo")).then(|| "install them from https://rustup.rs".into()),
            package: None,
        },
        match kernel::source_directory() {
            Ok(source) => Check {
                name: "kernel sources",
                purpose: "building the kernel",
                present: true,
                required: true,
                detail: Some(source.display().to_string()),
                package: None,
            },
            Err(error) => Check {
                name: "kernel sources",
                purpose: "building the kernel",
                present: false,
                required: true,
                detail: Some(error.to_string()),
                package: None,
            },
        },
    ];
    checks.extend(PARTS.iter().map(|(name, purpose, package, required, candidates)| Check {
        name,
        purpose,
        present: candidates.iter().any(|candidate| present(candidate)),
        required: *required,
        detail: None,
        package: Some(package),
    }));
    checks.extend(["taps", "bridges"].into_iter().zip(abilities()).map(|(name, ability)| Check {
        name,
        purpose: ability.purpose,
        present: ability.missing.is_none(),
        required: false,
        detail: ability.missing,
        package: None,
    }));
    let (works, detail) = match launch::choose(AcceleratorRequest::Auto) {
        Ok(choice) => (choice.accelerator == Accelerator::Kvm, choice.reason),
        Err(error) => (false, Some(error.to_string())),
    };
    checks.push(Check {
        name: "KVM",
        purpose: "speed of run",
        present: works,
        required: false,
        detail: detail.map(|reason| format!("{reason}; TCG is used instead")),
        package: None,
    });
    checks
}

/// The command that installs what is missing, if packages do.
pub fn mending_command(checks: &[Check]) -> Option<String> {
    let mut packages: Vec<_> =
        checks.iter().filter(|check| !check.present).filter_map(|check| check.package).collect();
    packages.dedup();
    (!packages.is_empty()).then(|| format!("sudo apt install {}", packages.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let check = |present, package| Check {
            name: "x",
            purpose: "y",
            present,
            required: true,
            detail: None,
            package,
        };
        let checks = [check(true, Some("a")), check(false, Some("b")), check(false, None)];
        assert_eq!(mending_command(&checks).as_deref(), Some("sudo apt install b"));
        assert_eq!(mending_command(&checks[..1]), None);
    }
}
