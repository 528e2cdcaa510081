//! The arguments, as typed.

mod deploy;
mod network;

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
pub use deploy::DeployArguments;
pub use network::NetworkArguments;
use toolchain::{configs, launch};

const EXAMPLES: &str = "\
Examples:
  rumprun-bake bake hw_direct hello.elf ./hello             bake a program you built
  rumprun-bake hw_direct seq.elf seq -- 3                   the same in short, with an argument
  rumprun-bake run seq.elf                                  boot it under QEMU
  rumprun-bake run seq.elf --cpus 4 --memory 256M -- 1 5    other arguments for this run
  rumprun-bake doctor                                       what this machine lacks

Exit status: 0 success, 1 failure, 2 wrong usage. `run` has its own, see `rumprun-bake run --help`.";

const BAKE_EXAMPLES: &str = "\
PROGRAM is a path or a name in PATH. With blanks it is a command and split as a shell would.
Between programs, `|` pipes one into the next, `&` starts the next at once, and without either the next
starts when one has ended. Quote both for your shell.

A program's interpreter and shared libraries are found as the dynamic loader finds them and go into the image,
as do the interpreters of scripts. Other files it reads are yours to name, with --rootfs or --package.

Examples:
  rumprun-bake bake hw_direct shell.elf busybox -- sh
  rumprun-bake bake hw_direct count.elf 'seq 3' '|' 'wc -l'
  rumprun-bake bake hw_direct web.iso --format iso ./server --rootfs ./public:/srv/www --env PORT=80
  rumprun-bake bake hw_direct py.elf /usr/bin/python3 --rootfs /usr/lib/python3.11:/usr/lib/python3.11 -- -V";

const RUN_EXAMPLES: &str = "\
Standard input is the guest's console, standard output what it prints. Ctrl-C or SIGTERM asks the guest to stop,
once more kills it.

Exit status: the program's own. 125: QEMU or the image could not be started. 126: the guest's kernel panicked.
127: the guest ended without a status. 128+N: killed on signal N.

Examples:
  rumprun-bake run hello.elf
  rumprun-bake run db.elf --disk data.img --cpus 2 --memory 1G
  rumprun-bake run web.elf --publish 8080:80
  rumprun-bake run web.elf --cpus 4 --tap tap0,address=10.0.0.2/24,gateway=10.0.0.1 --queues 4
  rumprun-bake run web.iso --firmware uefi
  rumprun-bake run hello.elf --on xen
  rumprun-bake run hello.elf --print-command";

/// Bakes an application into a bootable, single-purpose SMP machine image.
#[derive(Debug, Parser)]
#[command(name = "rumprun-bake", version, about, after_help = EXAMPLES, max_term_width = 110)]
pub struct Arguments {
    /// Say only what went wrong.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the configurations.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say what a configuration is for and what is in it.
    Describe {
        /// Its name.
        config: String,
    },
    /// Bake programs into an image.
    #[command(after_help = BAKE_EXAMPLES)]
    Bake(BakeArguments),
    /// Boot an image under QEMU or Xen and end as its program ends.
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArguments),
    /// Run the domain of a configuration for xl, in which it stays at its end. What `run --on xen` does in QEMU's dom0.
    #[command(hide = true)]
    Domain {
        /// The configuration.
        configuration: PathBuf,
        /// The domain's name in it.
        name: String,
    },
    /// Print what another engine needs to run an image: a file, or a command.
    #[command(after_help = deploy::EXAMPLES)]
    Deploy(DeployArguments),
    /// Say what is in an image.
    Inspect {
        /// The image: ELF, ISO or raw.
        image: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// List every file.
        #[arg(long)]
        files: bool,
        /// Print the bill of materials (CycloneDX, JSON) instead.
        #[arg(long, conflicts_with_all = ["json", "files"])]
        sbom: bool,
    },
    /// Bake, run and check programs from recipes.
    #[command(subcommand, after_help = crate::package::EXAMPLES)]
    Package(crate::package::PackageCommand),
    /// Build NetBSD's own components from a source tree, and say what is built.
    #[command(subcommand, after_help = crate::netbsd::EXAMPLES)]
    Netbsd(crate::netbsd::NetbsdCommand),
    /// Say what this machine has and lacks, and the command that mends it.
    Doctor {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the completions of a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages to a folder.
    Man {
        /// The folder; made if absent.
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct BakeArguments {
    /// The configuration; `rumprun-bake list` shows them.
    pub config: String,
    /// Where the image goes.
    pub output: PathBuf,
    /// What runs, with `|` and `&` between.
    #[arg(value_name = "PROGRAM")]
    pub programs: Vec<OsString>,
    /// Take in a folder, at AT in the image (at the root if not given).
    #[arg(long, value_name = "DIR[:AT]")]
    pub rootfs: Vec<OsString>,
    /// Take in an installed Debian package and those that it depends on, their libraries included.
    #[arg(long = "package", value_name = "NAME", value_delimiter = ',')]
    pub packages: Vec<String>,
    /// Read programs, environment, mounts and networks from a file: TOML, or rumprun's JSON.
    #[arg(long = "config", id = "config_file", value_name = "FILE")]
    pub configuration: Option<PathBuf>,
    /// What the kernel is made of: the built-in components, or those of an installed NetBSD component set. Programs for
    /// NetBSD are linked by x86_64-rumprun-netbsd-cc.
    #[arg(long, value_name = "builtin|netbsd[:SET]", default_value = "builtin", hide_default_value = true)]
    pub kernel: String,
    /// More components of the NetBSD component set, by name.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub components: Vec<String>,
    /// Set a variable in the programs' environment.
    #[arg(long = "env", value_name = "NAME=VALUE")]
    pub environment: Vec<OsString>,
    /// Compress files where that makes them smaller, and decompress them when they are used.
    #[arg(long)]
    pub compress: bool,
    /// The image's kind.
    #[arg(long, value_enum, default_value_t = FormatArgument::Elf)]
    pub format: FormatArgument,
    /// Say what is in the image as JSON.
    #[arg(long)]
    pub json: bool,
    /// Arguments of the last program.
    #[arg(last = true, value_name = "ARGS")]
    pub arguments: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum FormatArgument {
    /// For `-kernel` of QEMU and for Firecracker, Cloud Hypervisor, Xen PVH.
    Elf,
    /// A CD-ROM image for BIOS and UEFI.
    Iso,
    /// A disk image for BIOS and UEFI.
    Raw,
}

impl From<FormatArgument> for toolchain::bake::Format {
    fn from(format: FormatArgument) -> Self {
        match format {
            FormatArgument::Elf => Self::Elf,
            FormatArgument::Iso => Self::Iso,
            FormatArgument::Raw => Self::Raw,
        }
    }
}

#[derive(Debug, Args)]
pub struct RunArguments {
    /// The image.
    pub image: PathBuf,
    #[command(flatten)]
    pub options: RunOptions,
}

/// How a machine is run.
#[derive(Debug, Args)]
pub struct RunOptions {
    /// What the image runs on; what its configuration is for, if not given. `xen` is this host's if it is a dom0, and
    /// otherwise one in QEMU, for trying, of Debian's packages.
    #[arg(long, value_enum, value_name = "PLACE")]
    pub on: Option<PlaceArgument>,
    /// CPUs; 1, or as many as the recipe says, if not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=255))]
    pub cpus: Option<u32>,
    /// Memory, as 512M or 2G; 512M, or as much as the recipe says, if not given.
    #[arg(long, value_parser = |text: &str| toolchain::size::parse(text, 20))]
    pub memory: Option<u64>,
    /// The accelerator; `auto` tries KVM once and remembers.
    #[arg(long, value_enum, default_value_t = AcceleratorArgument::Auto)]
    pub accel: AcceleratorArgument,
    /// The machine; microvm for an ELF image without disks, otherwise q35.
    #[arg(long, value_enum)]
    pub machine: Option<MachineArgument>,
    /// The firmware that starts an ISO or raw image.
    #[arg(long, value_enum, default_value_t = FirmwareArgument::Bios)]
    pub firmware: FirmwareArgument,
    /// Attach a raw file as virtio disk, under Xen as Xen's own; may be repeated.
    #[arg(long = "disk", value_name = "FILE")]
    pub disks: Vec<PathBuf>,
    /// Set a variable in the programs' environment, for this run.
    #[arg(long = "env", value_name = "NAME=VALUE")]
    pub environment: Vec<OsString>,
    /// Write down system calls: `syscalls`, or `syscalls=FILTER` with names of calls, `!NAME` for all others, and the
    /// classes file, desc, network, process, memory, signal, between commas.
    #[arg(long, value_name = "WHAT", value_parser = launch::parse_trace)]
    pub trace: Option<String>,
    /// Where the trace goes; standard error if not given.
    #[arg(long, value_name = "FILE", requires = "trace")]
    pub trace_output: Option<PathBuf>,
    /// Let gdb in at this port of 127.0.0.1 (QEMU's stub), and print its command, with symbols of kernel and programs.
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = "1234")]
    pub gdb: Option<u16>,
    /// With --gdb: wait for it before the first instruction.
    #[arg(long, requires = "gdb")]
    pub pause: bool,
    /// Give out counters by HTTP on this port of the guest, as Prometheus reads them: /metrics.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub metrics: Option<u16>,
    #[command(flatten)]
    pub network: NetworkArguments,
    /// Write the frames of the interfaces, of one queue each, to a file as pcap; those of eth1 go to FILE-eth1.pcap...
    #[arg(long, value_name = "FILE.pcap")]
    pub capture: Option<PathBuf>,
    /// Give QEMU one more word; may be repeated.
    #[arg(long = "qemu", value_name = "WORD", allow_hyphen_values = true)]
    pub extra: Vec<String>,
    /// Print the command of QEMU or xl instead of running it.
    #[arg(long)]
    pub print_command: bool,
    /// Arguments of the last program, instead of those it was baked with.
    #[arg(last = true, value_name = "ARGS")]
    pub arguments: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum PlaceArgument {
    /// A machine of QEMU's.
    Qemu,
    /// A domain of Xen.
    Xen,
}

impl From<PlaceArgument> for configs::Place {
    fn from(argument: PlaceArgument) -> Self {
        match argument {
            PlaceArgument::Qemu => Self::Machine,
            PlaceArgument::Xen => Self::Xen,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum AcceleratorArgument {
    /// KVM if it works, otherwise TCG.
    Auto,
    /// KVM or failure.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl From<AcceleratorArgument> for launch::AcceleratorRequest {
    fn from(argument: AcceleratorArgument) -> Self {
        match argument {
            AcceleratorArgument::Auto => Self::Auto,
            AcceleratorArgument::Kvm => Self::Kvm,
            AcceleratorArgument::Tcg => Self::Tcg,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum MachineArgument {
    /// Small and quick, no PCI.
    Microvm,
    /// PC with PCI Express.
    Q35,
    /// PC of old.
    Pc,
}

impl From<MachineArgument> for launch::Machine {
    fn from(argument: MachineArgument) -> Self {
        match argument {
            MachineArgument::Microvm => Self::Microvm,
            MachineArgument::Q35 => Self::Q35,
            MachineArgument::Pc => Self::Pc,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum FirmwareArgument {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
}

impl From<FirmwareArgument> for launch::Firmware {
    fn from(argument: FirmwareArgument) -> Self {
        match argument {
            FirmwareArgument::Bios => Self::Bios,
            FirmwareArgument::Uefi => Self::Uefi,
        }
    }
}

/// Puts `bake` in front if the first word is a configuration.
pub fn expand_shorthand(words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = words.collect();
    let first = words.iter().skip(1).position(|word| !word.as_encoded_bytes().starts_with(b"-"));
    if let Some(index) = first
        && words[index + 1].to_str().is_some_and(|word| configs::find(word).is_ok())
    {
        words.insert(index + 1, "bake".into());
    }
    words
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_configuration_means_bake() {
        let expand = |words: &[&str]| expand_shorthand(words.iter().map(OsString::from));
        assert_eq!(expand(&["x", "hw_direct", "o", "p"])[1], "bake");
        assert_eq!(expand(&["x", "-q", "hw_direct", "o", "p"])[2], "bake");
        assert_eq!(expand(&["x", "run", "hw_direct"])[1], "run");
    }
}
