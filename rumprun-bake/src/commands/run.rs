//! `run`.

use std::{io::IsTerminal, path::Path, process::ExitCode};

use anyhow::Result;
use toolchain::{
    CommandLine, METRICS, NO_ECHO,
    configs::{self, Place},
    inspect,
    launch::{self, Options, Outcome},
    xen,
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
    Ok(boot(&options, &arguments.options, progress))
}

/// Says why nothing runs.
pub fn not_started(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(NOT_STARTED)
}

/// Boots, and ends as the image does.
pub fn boot(options: &Options, run: &RunOptions, progress: &Progress) -> ExitCode {
    let meant =
        || inspect::configuration(&options.image).and_then(|name| Some(configs::find(&name).ok()?.place));
    let place = run.on.map(Place::from).or_else(meant).unwrap_or(Place::Machine);
    let ended = match place {
        Place::Machine => start(options, run.print_command, progress),
        Place::Xen => start_domain(options, run.print_command, progress),
    };
    conclude(&options.image, ended)
}

/// Runs the domain of a configuration on this host.
pub fn domain(configuration: &Path, name: &str, progress: &Progress) -> ExitCode {
    conclude(Path::new(name), xen::domain::run(configuration, name, progress).map(Some))
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

/// Runs on a machine of QEMU's; nothing comes of printing its command.
fn start(options: &Options, print: bool, progress: &Progress) -> Result<Option<Outcome>, launch::Error> {
    let plan = launch::plan(options)?;
    if print {
        print_command(&plan.words);
        plan.keep();
        return Ok(None);
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
    launch::run(&plan, progress).map(Some)
}

/// Runs in a domain of Xen's; nothing comes of printing its command.
fn start_domain(
    options: &Options,
    print: bool,
    progress: &Progress,
) -> Result<Option<Outcome>, launch::Error> {
    let domain = xen::plan(options, progress)?;
    if print {
        print_command(&domain.words());
        domain.keep();
        return Ok(None);
    }
    let outcome = domain.run(progress);
    progress.finish();
    outcome.map(Some)
}

fn print_command(words: &[String]) {
    let words: Vec<_> = words.iter().map(|word| toolchain::quote::shell(word)).collect();
    println!("{}", words.join(" "));
}

/// Says what went wrong; ends as the image did.
fn conclude(image: &Path, ended: Result<Option<Outcome>, launch::Error>) -> ExitCode {
    let image = image.display();
    ExitCode::from(match ended {
        Err(error) => return not_started(&error),
        Ok(None | Some(Outcome::Rebooted)) => 0,
        Ok(Some(Outcome::Exited(status))) => status,
        Ok(Some(Outcome::Panicked)) => {
            eprintln!("error: {image}: the guest's kernel panicked; its report is above");
            PANICKED
        }
        Ok(Some(Outcome::Vanished)) => {
            eprintln!("error: {image}: the machine ended without a status (a reset, or too little memory?)");
            VANISHED
        }
        Ok(Some(Outcome::Killed(signal))) => {
            eprintln!("error: {image}: killed on signal {signal}");
            128u8.saturating_add(u8::try_from(signal).unwrap_or(0))
        }
    })
}
