//! Xen: a real one to try images on, in QEMU's software emulation: Debian's Xen with a small dom0, made of packages.

mod archive;
mod prepare;

use std::path::Path;

pub use archive::Archive;
pub use prepare::{Prepared, prepare};

/// Memory of dom0, in MiB.
const DOM0_MEMORY: u32 = 320;

impl Prepared {
    /// QEMU's words for a boot with this initramfs, which is dom0's root and more. Xen and dom0 write to the first serial
    /// line, which is still to be given. Memory is in MiB; dom0 takes 320 of it.
    pub fn words(&self, initramfs: &Path, cpus: u32, memory: u32) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        let mut add = |list: &[&str]| words.extend(list.iter().map(|word| (*word).to_string()));
        // SMAP kills a PV dom0 there, exits of RDTSCP are misreported, and XSAVE state is lost.
        add(&[
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi,tb-size=256",
            "-cpu",
            "max,-smap,-rdtscp,-xsave",
        ]);
        add(&["-smp", &cpus.to_string(), "-m", &memory.to_string()]);
        add(&["-nodefaults", "-display", "none", "-no-reboot"]);
        add(&["-kernel", &self.xen.display().to_string(), "-append"]);
        add(&[&format!(
            "console=com1 com1=115200,8n1 dom0_mem={DOM0_MEMORY}M dom0_max_vcpus=1 loglvl=warning guest_loglvl=all \
             noreboot no-real-mode"
        )]);
        let modules = format!("{} console=hvc0 quiet,{}", self.kernel.display(), initramfs.display());
        add(&["-initrd", &modules]);
        words
    }
}
