//! The arguments of `deploy`.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, ValueEnum};
use toolchain::deploy::Engine;

use super::NetworkArguments;

pub const EXAMPLES: &str = "\
The file or command goes to standard output, what is left to do to standard error. Paths in it are absolute; MAC
addresses are those of `run`.

What engines take: Firecracker and Cloud Hypervisor ELF images and --tap; Nomad raw images; xl every image,
with --bridge; libvirt, KubeVirt and systemd every image.

Examples:
  rumprun-bake deploy --for libvirt web.elf --cpus 2 --bridge br0 > web.xml
  rumprun-bake deploy --for firecracker web.elf --tap tap0,address=10.0.0.2/24 -- --port 80
  rumprun-bake deploy --for kubevirt web.elf --publish 80:80 --container-disk web.tar --reference registry/web:1
  rumprun-bake deploy --for systemd web.elf --publish 8080:80 > /etc/systemd/system/web.service";

#[derive(Debug, Args)]
pub struct DeployArguments {
    /// The image.
    pub image: PathBuf,
    /// Who is to run it.
    #[arg(long = "for", value_enum, value_name = "ENGINE")]
    pub engine: EngineArgument,
    /// The machine's name, a DNS label; made of the image's if not given.
    #[arg(long)]
    pub name: Option<String>,
    /// CPUs.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=255))]
    pub cpus: u32,
    /// Memory, as 512M or 2G.
    #[arg(long, default_value = "512M", value_parser = |text: &str| toolchain::size::parse(text, 20))]
    pub memory: u64,
    /// Attach a raw file as virtio disk, as Xen's own under Xen; may be repeated. KubeVirt: a claim of its size.
    #[arg(long = "disk", value_name = "FILE")]
    pub disks: Vec<PathBuf>,
    /// xl: pass a PCI device of the host through to an HVM domain; may be repeated.
    #[arg(long = "pci", value_name = "[DOMAIN:]BUS:DEVICE.FUNCTION")]
    pub pci_devices: Vec<String>,
    /// Set a variable in the programs' environment.
    #[arg(long = "env", value_name = "NAME=VALUE")]
    pub environment: Vec<OsString>,
    /// KubeVirt: write a container image with the image in it, as OCI archive.
    #[arg(long, value_name = "FILE.tar")]
    pub container_disk: Option<PathBuf>,
    /// KubeVirt: the container image's name in its registry.
    #[arg(long, value_name = "REGISTRY/NAME:TAG")]
    pub reference: Option<String>,
    #[command(flatten)]
    pub network: NetworkArguments,
    /// Arguments of the last program, instead of those it was baked with.
    #[arg(last = true, value_name = "ARGS")]
    pub arguments: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum EngineArgument {
    /// The XML of a domain.
    Libvirt,
    /// Xen: a domain's configuration.
    Xl,
    /// JSON for --config-file.
    Firecracker,
    /// A command.
    CloudHypervisor,
    /// YAML: a VirtualMachine, claims for disks, a Service for ports.
    Kubevirt,
    /// HCL: a job for the QEMU driver.
    Nomad,
    /// A service unit that calls `rumprun-bake run`.
    Systemd,
}

impl From<EngineArgument> for Engine {
    fn from(engine: EngineArgument) -> Self {
        match engine {
            EngineArgument::Libvirt => Engine::Libvirt,
            EngineArgument::Xl => Engine::Xl,
            EngineArgument::Firecracker => Engine::Firecracker,
            EngineArgument::CloudHypervisor => Engine::CloudHypervisor,
            EngineArgument::Kubevirt => Engine::Kubevirt,
            EngineArgument::Nomad => Engine::Nomad,
            EngineArgument::Systemd => Engine::Systemd,
        }
    }
}
