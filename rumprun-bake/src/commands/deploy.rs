//! `deploy`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use toolchain::{
    CommandLine,
    deploy::{self, Request},
    output,
};

use crate::{arguments::DeployArguments, progress::Progress};

pub fn deploy(arguments: &DeployArguments, progress: &Progress) -> Result<ExitCode> {
    let mut command_line = CommandLine::default();
    for word in &arguments.environment {
        command_line.environment.push(super::variable(word)?);
    }
    if !arguments.arguments.is_empty() {
        let words = arguments.arguments.iter().map(|word| word.as_encoded_bytes().to_vec());
        command_line.arguments = Some(words.collect());
    }
    let request = Request {
        image: arguments.image.clone(),
        name: arguments.name.clone(),
        cpus: arguments.cpus,
        memory: arguments.memory,
        disks: arguments.disks.clone(),
        pci_devices: arguments.pci_devices.clone(),
        networks: arguments.network.nics()?,
        command_line,
        reference: arguments.reference.clone(),
        container_disk: arguments.container_disk.clone(),
    };
    if request.container_disk.is_some() {
        output::remove_on_signals().context("cannot catch signals")?;
    }
    let deployment = deploy::deploy(arguments.engine.into(), &request)?;
    super::print(&deployment.text)?;
    for note in &deployment.notes {
        progress.note(note);
    }
    Ok(ExitCode::SUCCESS)
}
