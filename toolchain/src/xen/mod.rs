//! Xen: runs images in domains, of this host if it is a dom0 ([`domain`]), otherwise of a real Xen in QEMU's software
//! emulation ([`sandbox`]): Debian's, with a small dom0 made of packages ([`prepare()`]).

mod archive;
pub mod domain;
mod emulator;
mod prepare;
mod sandbox;

use std::{fs, path::Path, process};

use crate::{
    NO_ECHO,
    deploy::{
        self, Engine, Request,
        xl::{self, AtEnd},
    },
    launch::{
        self, AcceleratorRequest, Error, Firmware, ImageKind, Options, Outcome, Plan, Trace, host_error,
    },
    report::Report,
};

pub use archive::Archive;
pub use emulator::{EMULATOR_MEMORY, emulator};
pub use prepare::{Prepared, libraries, prepare};

/// Memory of dom0, in MiB. Half of what it has when it begins is for files.
pub const DOM0_MEMORY: u32 = 448;

impl Prepared {
    /// QEMU's words for a boot with this initramfs, which is dom0's root and more. Xen and dom0 write to the first serial
    /// line, which is still to be given. Memory is in MiB; dom0 takes a part of it, and has a CPU beside the domains'.
    pub fn words(&self, initramfs: &Path, cpus: u32, memory: u32, dom0: u32) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        let mut add = |list: &[&str]| words.extend(list.iter().map(|word| (*word).to_string()));
        // SMAP kills a PV dom0 there, exits of RDTSCP are misreported, and XSAVE state is lost. What a CPU with ERMS or FSRM
        // copies and clears in lines, QEMU does byte by byte: it would be most of dom0's work.
        add(&[
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi,tb-size=256",
            "-cpu",
            "max,-smap,-rdtscp,-xsave,-erms,-fsrm",
        ]);
        // QEMU (7.2 and newer) changes flags of its first CPU on the others' threads, without a lock, as they load FPU
        // registers. A change of the same flags by the CPU itself, as it enters or leaves a domain, can get lost. So that one is
        // dom0's, which is no guest to it.
        add(&["-smp", &(cpus + 1).to_string(), "-m", &memory.to_string()]);
        add(&["-nodefaults", "-display", "none", "-no-reboot"]);
        add(&["-kernel", &self.xen.display().to_string(), "-append"]);
        add(&[&format!(
            "console=com1 com1=115200,8n1 dom0_mem={dom0}M dom0_max_vcpus=1 dom0_vcpus_pin loglvl=warning \
             guest_loglvl=all no-real-mode"
        )]);
        let modules = format!(
            "{} console=hvc0 quiet panic=-1 init_on_alloc=0,{}",
            self.kernel.display(),
            initramfs.display()
        );
        add(&["-initrd", &modules]);
        words
    }
}

/// A domain that is ready to start.
#[derive(Debug)]
pub enum Domain {
    /// On this host.
    Here {
        /// Its name.
        name: String,
        /// Its configuration's folder.
        folder: tempfile::TempDir,
    },
    /// In QEMU.
    Sandbox(Plan),
}

/// The configuration's name in its folder.
const CONFIGURATION: &str = "domain.cfg";

/// Makes a domain of an image.
pub fn plan(options: &Options, report: &dyn Report) -> Result<Domain, Error> {
    let kind = launch::check(options)?;
    let refused = match options {
        Options { machine: Some(_), .. } => Some("--machine is for QEMU's machines, not for --on xen"),
        Options { firmware: Firmware::Uefi, .. } => Some(
            "--firmware is for QEMU's machines, not for --on xen: a raw or ISO image starts by Xen's BIOS",
        ),
        Options { accelerator: AcceleratorRequest::Kvm, .. } => {
            Some("--accel is for QEMU's machines, not for --on xen")
        }
        Options { trace: Some(Trace { output: Some(_), .. }), .. } => {
            Some("the trace of a domain is on its console, not in a file; for that, use --on qemu")
        }
        Options { gdb: Some(_), .. } => Some(
            "--gdb is for QEMU's machines, not for --on xen; in dom0, `gdbsx -a DOMID 64 PORT` is gdb's target for a domain",
        ),
        _ => None,
    };
    if let Some(refused) = refused {
        return Err(Error::Unsupported(refused));
    }
    let mut command_line = options.command_line.clone();
    command_line.options.extend(options.trace.iter().map(|trace| trace.word.clone().into_bytes()));
    if kind != ImageKind::Elf {
        // Such an image gets no words; without this one, the console shows what it reads.
        command_line.options.retain(|word| word != NO_ECHO);
    }
    let request = Request {
        image: options.image.clone(),
        name: None,
        cpus: options.cpus,
        memory: options.memory,
        disks: options.disks.clone(),
        pci_devices: Vec::new(),
        networks: options.networks.clone(),
        command_line,
        reference: None,
        container_disk: None,
    };
    let failed = |error: deploy::Error| Error::Xen(error.to_string());
    let mut plan = deploy::plan::Plan::new(Engine::Xl, &request).map_err(failed)?;
    if domain::is_host() {
        if options.capture.is_some() || !options.extra.is_empty() {
            return Err(Error::Unsupported("--capture and --qemu are for QEMU, not for Xen on this host"));
        }
        plan.name = format!("{}-{}", plan.name, process::id());
        let folder = tempfile::Builder::new().prefix("rumprun-bake-").tempdir();
        let folder = folder.map_err(host_error("cannot make a temporary folder"))?;
        let text = xl::configuration(&plan, AtEnd::Stay).map_err(failed)?;
        let path = folder.path().join(CONFIGURATION);
        fs::write(path, text).map_err(host_error("cannot write the domain's configuration"))?;
        return Ok(Domain::Here { name: plan.name, folder });
    }
    let macs: Vec<_> = plan.nics.iter().map(|(_, mac)| *mac).collect();
    plan.image = sandbox::IMAGE.into();
    plan.disks = sandbox::disks(plan.disks.len());
    plan.nics = sandbox::nics(&options.networks).into_iter().zip(macs.iter().copied()).collect();
    // A time-stamp counter that traps would be slower still.
    let text = xl::configuration(&plan, AtEnd::Stay).map_err(failed)? + "tsc_mode = \"native\"\n";
    sandbox::plan(options, kind, &macs, &plan.name, &text, report).map(Domain::Sandbox)
}

impl Domain {
    /// The words of the command that starts it.
    pub fn words(&self) -> Vec<String> {
        match self {
            Domain::Here { folder, .. } => {
                ["xl", "create", "-c"].map(String::from).into_iter().chain([path(folder)]).collect()
            }
            Domain::Sandbox(plan) => plan.words.clone(),
        }
    }

    /// Leaves the files that the command names, for whoever runs it by hand.
    pub fn keep(self) {
        match self {
            Domain::Here { folder, .. } => drop(folder.keep()),
            Domain::Sandbox(plan) => plan.keep(),
        }
    }

    /// Runs it until its end.
    pub fn run(&self, report: &dyn Report) -> Result<Outcome, Error> {
        match self {
            Domain::Here { name, folder } => domain::run(path(folder).as_ref(), name, report),
            Domain::Sandbox(plan) => {
                report.step("waiting for Xen to start in QEMU");
                match launch::run(plan, report)? {
                    Outcome::Vanished => Err(Error::Xen(format!(
                        "Xen or its dom0 did not come to their end:\n{}",
                        sandbox::messages(plan.folder.path())
                    ))),
                    outcome => Ok(outcome),
                }
            }
        }
    }
}

fn path(folder: &tempfile::TempDir) -> String {
    folder.path().join(CONFIGURATION).display().to_string()
}
