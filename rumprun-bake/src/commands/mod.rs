//! What each command does with its arguments.

mod bake;
mod run;

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Context, Result};
use toolchain::configs;

use crate::{
    arguments::{Arguments, Command},
    progress::Progress,
};

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
    }
}

fn list(json: bool) -> Result<ExitCode> {
    if json {
        let rows: Vec<_> = configs::CONFIGS
            .iter()
            .map(|config| serde_json::json!({ "name": config.name, "summary": config.summary }))
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        for config in configs::CONFIGS {
            println!("{:<12} {}", config.name, config.summary);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(name: &str) -> Result<ExitCode> {
    let config = configs::find(name)?;
    println!("{}: {}\n\n{}\n", config.name, config.summary, config.description);
    println!("platform    {}", config.platform);
    println!("components  {}", config.components.join(", "));
    Ok(ExitCode::SUCCESS)
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
