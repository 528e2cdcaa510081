//! Runs an image under QEMU, so that it feels like running the program: input, output, exit status, signals.

mod accelerator;
pub mod captured;
pub(crate) mod command;
mod console;
mod debug;
mod kind;
pub mod network;
mod qmp;
mod supervise;
pub(crate) use supervise::die_with_us;
mod trace;

use std::{
    fs,
    io::{self, Write},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::inspect;
pub use accelerator::{Accelerator, Choice, choose};
pub use command::UEFI_FIRMWARE;
pub use debug::Gdb;
use image::{
    command_line::{CommandLine, FIXED_ADDRESSES},
    machine,
};
pub use kind::{ImageKind, detect, kind_of};
pub use network::{MacAddress, Nic};
pub use supervise::{Outcome, run};
pub use trace::{Trace, parse as parse_trace};

/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";
/// Xen's toolstack.
pub(crate) const XL: &str = "xl";

/// The machine that QEMU is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// Small and quick to start, without PCI.
    Microvm,
    /// A PC with PCI Express.
    Q35,
    /// A PC of old.
    Pc,
}

/// Firmware for images that bring a boot loader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS.
    #[default]
    Bios,
    /// OVMF.
    Uefi,
}

/// Which accelerator is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AcceleratorRequest {
    /// KVM if it works.
    #[default]
    Auto,
    /// KVM.
    Kvm,
    /// QEMU's own translator.
    Tcg,
}

/// What to run and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The image.
    pub image: PathBuf,
    /// CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// The machine; chosen by the image if absent.
    pub machine: Option<Machine>,
    /// Firmware for ISO and raw images.
    pub firmware: Firmware,
    /// The accelerator.
    pub accelerator: AcceleratorRequest,
    /// Disks, as raw files.
    pub disks: Vec<PathBuf>,
    /// Network interfaces, in order; the guest calls them `eth0`, `eth1`...
    pub networks: Vec<Nic>,
    /// Where the frames of the interfaces are written, as pcap; further ones go to `FILE-eth1.pcap`...
    pub capture: Option<PathBuf>,
    /// Words for QEMU, behind all others.
    pub extra: Vec<String>,
    /// A trace.
    pub trace: Option<Trace>,
    /// A debugger.
    pub gdb: Option<Gdb>,
    /// Arguments and environment for this run.
    pub command_line: CommandLine,
}

/// Why an image did not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image can't be read.
    #[error("{}: {source}", path.display())]
    Image {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not an image.
    #[error("{}: not an image that rumprun-bake made (neither ELF, ISO nor disk)", .0.display())]
    NotAnImage(PathBuf),
    /// The image doesn't fit.
    #[error("too little memory: the image alone takes {needed} MiB, and the machine has {given}; use --memory {}M", needed * 2)]
    Memory {
        /// What the image takes, MiB.
        needed: u64,
        /// What there is, MiB.
        given: u64,
    },
    /// No disk file.
    #[error("{path}: no such disk; make an empty one with: truncate -s 1G {path}")]
    NoDisk {
        /// Its path.
        path: String,
    },
    /// A combination that doesn't exist.
    #[error("{0}")]
    Unsupported(&'static str),
    /// Arguments too long.
    #[error("the arguments take {0} bytes; {limit} is the most", limit = machine::COMMAND_LINE_LIMIT)]
    Arguments(usize),
    /// An interface can't be had.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// No Xen.
    #[error("{0}")]
    Xen(String),
    /// No emulator.
    #[error(
        "{QEMU} is not installed: apt install qemu-system-x86 (`rumprun-bake doctor` lists what is missing)"
    )]
    NoQemu,
    /// No UEFI firmware.
    #[error("no UEFI firmware: apt install ovmf")]
    NoFirmware,
    /// KVM was asked for and doesn't work.
    #[error("KVM does not work here: {0}; use --accel tcg")]
    NoKvm(String),
    /// Something of the host.
    #[error("{what}: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// QEMU ended by itself.
    #[error("QEMU failed ({status}){}", if message.is_empty() { String::new() } else { format!(":\n{message}") })]
    Qemu {
        /// How it ended.
        status: String,
        /// What it said.
        message: String,
    },
}

pub(crate) fn host_error(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Host { what, source }
}

/// A command line for QEMU, and the files that it names.
#[derive(Debug)]
pub struct Plan {
    /// The words, the program first.
    pub words: Vec<String>,
    /// Why this accelerator.
    pub accelerator: Choice,
    /// gdb's command, if a debugger was asked for.
    pub debugger: Option<Vec<String>>,
    /// What is written to [`command::TRACE`] goes to standard error.
    pub(crate) shows_trace: bool,
    /// How the machine is asked to stop.
    pub(crate) stop: Stop,
    /// Holds the files of the run.
    pub(crate) folder: tempfile::TempDir,
}

/// How a machine is asked to stop.
#[derive(Debug)]
pub(crate) enum Stop {
    /// By QEMU's power button.
    PowerButton,
    /// A word to who connected here.
    Word(UnixListener),
    /// `xl shutdown` of this domain.
    Domain(String),
}

impl Stop {
    /// How long a guest that was asked to stop may take.
    fn limit(&self) -> Duration {
        Duration::from_secs(match self {
            Stop::PowerButton => 10,
            Stop::Domain(_) => 60,
            // The domain in it, and what is around it.
            Stop::Word(_) => 90,
        })
    }

    fn ask(&self, folder: &Path) -> io::Result<()> {
        match self {
            Stop::PowerButton => qmp::power_down(&folder.join(command::CONTROL)),
            Stop::Word(listener) => listener.accept()?.0.write_all(b"stop\n"),
            Stop::Domain(name) => {
                let mut command = Command::new(XL);
                command
                    .args(["shutdown", name])
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null());
                let status = command.status()?;
                if status.success() { Ok(()) } else { Err(io::ErrorKind::Other.into()) }
            }
        }
    }
}

impl Plan {
    /// Leaves the files that the command names, for whoever runs it by hand.
    pub fn keep(self) {
        let _ = self.folder.keep();
    }
}

/// Looks at the files.
pub(crate) fn check(options: &Options) -> Result<ImageKind, Error> {
    let image_error = |source| Error::Image { path: options.image.clone(), source };
    let kind = detect(&options.image)
        .map_err(image_error)?
        .ok_or_else(|| Error::NotAnImage(options.image.clone()))?;
    if kind == ImageKind::Elf
        && let Some(end) = inspect::loaded_end(&options.image).filter(|end| *end > options.memory)
    {
        return Err(Error::Memory { needed: end.div_ceil(1 << 20), given: options.memory >> 20 });
    }
    if let Some(disk) = options.disks.iter().find(|disk| !disk.exists()) {
        return Err(Error::NoDisk { path: disk.display().to_string() });
    }
    if options.capture.is_some() && options.networks.is_empty() {
        let message = "--capture needs an interface: --publish, --tap, --bridge or --net";
        return Err(network::Error::Options(message.into()).into());
    }
    Ok(kind)
}

/// Decides the command line.
pub fn plan(options: &Options) -> Result<Plan, Error> {
    let kind = check(options)?;
    let name = options.image.file_name().unwrap_or_default().to_string_lossy();
    let macs = network::macs(&options.networks, &name);
    let mut command_line = options.command_line.clone();
    command_line.networks.extend(network::guest_networks(&options.networks, &macs));
    command_line.options.extend(options.trace.iter().map(|trace| trace.word.clone().into_bytes()));
    if options.gdb.is_some() {
        command_line.options.push(FIXED_ADDRESSES.as_bytes().to_vec());
    }
    let text = command_line.render();
    if text.len() > machine::COMMAND_LINE_LIMIT {
        return Err(Error::Arguments(text.len()));
    }
    let links = network::prepare(&options.networks, options.capture.as_deref())?;
    let accelerator = choose(options.accelerator)?;
    let folder = tempfile::Builder::new()
        .prefix("rumprun-bake-")
        .tempdir()
        .map_err(host_error("cannot make a temporary folder"))?;
    fs::write(folder.path().join(command::ARGUMENTS), &text)
        .map_err(host_error("cannot write the arguments"))?;
    let machine = command::machine(options, kind)?;
    let network = network::words(
        &options.networks,
        &macs,
        &links,
        machine,
        accelerator.accelerator,
        folder.path(),
        options.capture.as_deref(),
    )?;
    let run = command::Run {
        kind,
        machine,
        accelerator: accelerator.accelerator,
        folder: folder.path(),
        arguments: !text.is_empty(),
        network,
    };
    let words = command::words(options, run)?;
    let shows_trace = options.trace.as_ref().is_some_and(|trace| trace.output.is_none());
    let debugger = options.gdb.map(|gdb| debug::prepare(gdb, &options.image, folder.path())).transpose()?;
    Ok(Plan { words, accelerator, debugger, shows_trace, stop: Stop::PowerButton, folder })
}
