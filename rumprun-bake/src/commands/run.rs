//! `run`.

use std::{io::IsTerminal, path::Path, process::ExitCode};

use anyhow::Result;
use toolchain::{
    CommandLine, METRICS, NO_ECHO,
    launch::{self, Options, Outcome},
};

use crate::{
    arguments::{RunArguments, RunOptions},
    progress::Progress,
};

/// QEMU or the image could not be started.
pub const NOT_STARTED: u8 = 125;
/// The guest's kernel panicked.
const PANICKED: u8 = 126;
/// The guest ended without a status.
const VANISHED: u8 = 127;

/// CPUs if nothing is said.
const CPUS: u32 = 1;
/// Memory if nothing is said, bytes.
const MEMORY: u64 = 512 << 20;

pub fn run(arguments: &RunArguments, progress: &Progress) -> Result<ExitCode> {
    let mut options = match options(&arguments.image, &arguments.options)? {
        Ok(options) => options,
        Err(error) => return Ok(not_started(&error)),
    };
    if !std::io::stdin().is_terminal() {
        options.command_line.options.push(NO_ECHO.to_vec());
    }
    Ok(boot(&options, arguments.options.print_command, progress))
}

/// Says why nothing runs.
pub fn not_started(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(NOT_STARTED)
}

/// Boots, and ends as the image does.
pub fn boot(options: &Options, print: bool, progress: &Progress) -> ExitCode {
    match start(options, print, progress) {
        Ok(status) => ExitCode::from(status),
        Err(error) => not_started(&error),
    }
}

/// The options as the library takes them.
pub fn options(image: &Path, run: &RunOptions) -> Result<Result<Options, launch::network::Error>> {
    let mut command_line = CommandLine::default();
    for word in &run.environment {
        command_line.environment.push(super::variable(word)?);
    }
    if !run.arguments.is_empty() {
        let words = run.arguments.iter().map(|word| word.as_encoded_bytes().to_vec());
        command_line.arguments = Some(words.collect());
    }
    if let Some(port) = run.metrics {
        command_line.options.push(format!("{METRICS}{port}").into_bytes());
    }
    let networks = match run.network.nics() {
        Ok(networks) => networks,
        Err(error) => return Ok(Err(error)),
    };
    Ok(Ok(Options {
        image: image.into(),
        cpus: run.cpus.unwrap_or(CPUS),
        memory: run.memory.unwrap_or(MEMORY),
        machine: run.machine.map(Into::into),
        firmware: run.firmware.into(),
        accelerator: run.accel.into(),
        disks: run.disks.clone(),
        networks,
        capture: run.capture.clone(),
        extra: run.extra.clone(),
        gdb: run.gdb.map(|port| launch::Gdb { port, pause: run.pause }),
        trace: run.trace.clone().map(|word| launch::Trace { word, output: run.trace_output.clone() }),
        command_line,
    }))
}

fn start(options: &Options, print: bool, progress: &Progress) -> Result<u8, launch::Error> {
    let plan = launch::plan(options)?;
    if print {
        let words: Vec<_> = plan.words.iter().map(|word| toolchain::quote::shell(word)).collect();
        println!("{}", words.join(" "));
        plan.keep();
        return Ok(0);
    }
    if let Some(command) = &plan.debugger {
        let words: Vec<_> = command.iter().map(|word| toolchain::quote::shell(word)).collect();
        eprintln!("attach with: {}", words.join(" "));
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
