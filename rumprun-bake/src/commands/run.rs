//! `run`.

use std::{io::IsTerminal, process::ExitCode};

use anyhow::Result;
use toolchain::{
    CommandLine, NO_ECHO,
    launch::{self, Options, Outcome},
};

use crate::{arguments::RunArguments, progress::Progress};

/// QEMU or the image could not be started.
pub const NOT_STARTED: u8 = 125;
/// The guest's kernel panicked.
const PANICKED: u8 = 126;
/// The guest ended without a status.
const VANISHED: u8 = 127;

pub fn run(arguments: &RunArguments, progress: &Progress) -> Result<ExitCode> {
    let mut command_line = CommandLine::default();
    for word in &arguments.environment {
        command_line.environment.push(super::variable(word)?);
    }
    if !arguments.arguments.is_empty() {
        let words = arguments.arguments.iter().map(|word| word.as_encoded_bytes().to_vec());
        command_line.arguments = Some(words.collect());
    }
    if !std::io::stdin().is_terminal() {
        command_line.options.push(NO_ECHO.to_vec());
    }
    let networks = match arguments.network.nics() {
        Ok(networks) => networks,
        Err(error) => {
            eprintln!("error: {error}");
            return Ok(ExitCode::from(NOT_STARTED));
        }
    };
    let options = Options {
        image: arguments.image.clone(),
        cpus: arguments.cpus,
        memory: arguments.memory,
        machine: arguments.machine.map(Into::into),
        firmware: arguments.firmware.into(),
        accelerator: arguments.accel.into(),
        disks: arguments.disks.clone(),
        networks,
        capture: arguments.capture.clone(),
        extra: arguments.extra.clone(),
        trace: arguments
            .trace
            .clone()
            .map(|word| launch::Trace { word, output: arguments.trace_output.clone() }),
        command_line,
    };
    let status = match start(&options, arguments.print_command, progress) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error}");
            NOT_STARTED
        }
    };
    Ok(ExitCode::from(status))
}

fn start(options: &Options, print: bool, progress: &Progress) -> Result<u8, launch::Error> {
    let plan = launch::plan(options)?;
    if print {
        let words: Vec<_> = plan.words.iter().map(|word| super::quoted(word)).collect();
        println!("{}", words.join(" "));
        plan.keep();
        return Ok(0);
    }
    if let Some(reason) = &plan.accelerator.reason
        && plan.accelerator.fresh
    {
        progress.note(&format!("using TCG, which is slower: {reason}"));
    }
    let image = options.image.display();
    Ok(match launch::run(&plan, progress)? {
        Outcome::Exited(status) => status,
        Outcome::Rebooted => 0,
        Outcome::Panicked => {
            eprintln!("error: {image}: the guest's kernel panicked; its report is above");
            PANICKED
        }
        Outcome::Vanished => {
            eprintln!("error: {image}: the machine ended without a status (a reset, or too little memory?)");
            VANISHED
        }
        Outcome::Killed(signal) => {
            eprintln!("error: {image}: killed on signal {signal}");
            128u8.saturating_add(u8::try_from(signal).unwrap_or(0))
        }
    })
}
