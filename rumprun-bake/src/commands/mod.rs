//! What each command does with its arguments.

mod bake;
mod deploy;
mod doctor;
mod inspect;
mod netbsd;
mod package;
mod run;

use std::{ffi::OsString, io::Write, process::ExitCode};

use anyhow::{Context, Result};
use clap::CommandFactory;
use toolchain::configs;

use crate::{
    arguments::{Arguments, Command},
    progress::Progress,
};

/// The program's name.
const NAME: &str = "rumprun-bake";
/// Exit status of a command that failed.
pub const FAILURE: u8 = 1;

/// Runs the command.
pub fn execute(arguments: Arguments) -> Result<ExitCode> {
    let progress = Progress::new(arguments.quiet);
    match arguments.command {
        Command::List { json } => list(json),
        Command::Describe { config } => describe(&config),
        Command::Bake(bake) => bake::bake(&bake, &progress),
        Command::Run(run) => run::run(&run, &progress),
        Command::Domain { configuration, name } => Ok(run::domain(&configuration, &name, &progress)),
        Command::Deploy(deploy) => deploy::deploy(&deploy, &progress),
        Command::Inspect { image, sbom: true, .. } => inspect::sbom(&image),
        Command::Inspect { image, json, files, .. } => inspect::inspect(&image, json, files),
        Command::Package(command) => package::package(&command, &progress),
        Command::Netbsd(command) => netbsd::netbsd(&command, &progress),
        Command::Doctor { json } => doctor::doctor(json),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), NAME, &mut script);
            print(&String::from_utf8_lossy(&script))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { folder } => {
            std::fs::create_dir_all(&folder)
                .and_then(|()| clap_mangen::generate_to(Arguments::command(), &folder))
                .with_context(|| folder.display().to_string())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn list(json: bool) -> Result<ExitCode> {
    if json {
        let rows: Vec<_> = configs::CONFIGS
            .iter()
            .map(|config| serde_json::json!({ "name": config.name, "summary": config.summary }))
            .collect();
        print_json(&rows)?;
    } else {
        let line = |config: &configs::Config| format!("{:<12} {}\n", config.name, config.summary);
        print(&configs::CONFIGS.iter().map(line).collect::<String>())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(name: &str) -> Result<ExitCode> {
    let config = configs::find(name)?;
    print(&format!(
        "{}: {}\n\n{}\n\nplatform    {}\ncomponents  {}\n",
        config.name,
        config.summary,
        config.description,
        config.platform,
        config.components.join(", ")
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a result. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

/// Prints a value as JSON.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Splits `NAME=VALUE`.
fn variable(word: &OsString) -> Result<(Vec<u8>, Vec<u8>)> {
    let bytes = word.as_encoded_bytes();
    let cut = bytes
        .iter()
        .position(|&byte| byte == b'=')
        .filter(|cut| *cut > 0)
        .with_context(|| format!("--env {}: write NAME=VALUE", word.display()))?;
    Ok((bytes[..cut].to_vec(), bytes[cut + 1..].to_vec()))
}
