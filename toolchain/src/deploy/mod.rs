//! What other engines need to run an image: a file or a command for each of [`Engine`], with the same options as
//! `run`. Each engine has a module; [`plan`] is what they share, [`container`] makes the images that registries keep.

mod cloud_hypervisor;
mod container;
mod firecracker;
mod kubevirt;
mod libvirt;
mod nomad;
pub(crate) mod plan;
mod systemd;
pub(crate) mod xl;

use std::{io, path::PathBuf};

use image::command_line::CommandLine;

use crate::{
    launch::{self, Nic},
    output,
};
use plan::Plan;

/// Who is to run the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// libvirt: a domain's XML.
    Libvirt,
    /// Xen's xl: a domain's configuration.
    Xl,
    /// Firecracker: a file for `--config-file`.
    Firecracker,
    /// Cloud Hypervisor: its command.
    CloudHypervisor,
    /// KubeVirt: a VirtualMachine, and a Service if ports are published.
    Kubevirt,
    /// Nomad: a job for the QEMU driver.
    Nomad,
    /// systemd: a service that calls `rumprun-bake run`.
    Systemd,
}

impl Engine {
    /// Its name in a message.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Libvirt => "libvirt",
            Engine::Xl => "xl",
            Engine::Firecracker => "Firecracker",
            Engine::CloudHypervisor => "Cloud Hypervisor",
            Engine::Kubevirt => "KubeVirt",
            Engine::Nomad => "Nomad",
            Engine::Systemd => "systemd",
        }
    }
}

/// What to deploy and how.
#[derive(Debug, Clone)]
pub struct Request {
    /// The image.
    pub image: PathBuf,
    /// The machine's name; made of the image's if absent.
    pub name: Option<String>,
    /// CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Disks, as raw files.
    pub disks: Vec<PathBuf>,
    /// PCI devices of the host to pass through, as `0000:05:00.0` or `05:00.0`, for xl.
    pub pci_devices: Vec<String>,
    /// Interfaces.
    pub networks: Vec<Nic>,
    /// Arguments and environment, over the baked ones.
    pub command_line: CommandLine,
    /// The container image's name in its registry, for KubeVirt.
    pub reference: Option<String>,
    /// Where to write the container image, as an OCI archive, for KubeVirt.
    pub container_disk: Option<PathBuf>,
}

/// What an engine needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// The file or command.
    pub text: String,
    /// What is left to do.
    pub notes: Vec<String>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not an image.
    #[error("{}: not an image that rumprun-bake made (neither ELF, ISO nor disk)", .0.display())]
    NotAnImage(PathBuf),
    /// The engine has no such thing.
    #[error("{engine} {reason}")]
    Unsupported {
        /// Whose name.
        engine: &'static str,
        /// What it can't, and what to do.
        reason: String,
    },
    /// A value that isn't one.
    #[error("{0}")]
    Options(String),
    /// The container image can't be written.
    #[error(transparent)]
    Output(#[from] output::Error),
    /// A text can't be made.
    #[error("cannot write the {what}: {message}")]
    Format {
        /// Of what.
        what: &'static str,
        /// Why not.
        message: String,
    },
}

impl From<launch::network::Error> for Error {
    fn from(error: launch::network::Error) -> Self {
        Error::Options(error.to_string())
    }
}

/// Makes what `engine` needs.
pub fn deploy(engine: Engine, request: &Request) -> Result<Deployment, Error> {
    if engine != Engine::Kubevirt && (request.reference.is_some() || request.container_disk.is_some()) {
        return Err(Error::Options("--container-disk and --reference are for KubeVirt".into()));
    }
    if engine != Engine::Xl && !request.pci_devices.is_empty() {
        return Err(Error::Options("--pci is for xl".into()));
    }
    let plan = Plan::new(engine, request)?;
    match engine {
        Engine::Libvirt => libvirt::deploy(&plan),
        Engine::Xl => xl::deploy(&plan),
        Engine::Firecracker => firecracker::deploy(&plan),
        Engine::CloudHypervisor => cloud_hypervisor::deploy(&plan),
        Engine::Kubevirt => kubevirt::deploy(&plan, request),
        Engine::Nomad => nomad::deploy(&plan),
        Engine::Systemd => systemd::deploy(&plan, request),
    }
}
