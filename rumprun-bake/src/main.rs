//! The command line of the baker. Arguments, progress and messages; the work is done by `toolchain`.

mod arguments;
mod commands;
mod netbsd;
mod package;
mod progress;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use toolchain::netbsd::wrapper;

fn main() -> ExitCode {
    if let Some(status) = cross_tool() {
        return status;
    }
    let arguments = arguments::Arguments::parse_from(arguments::expand_shorthand(std::env::args_os()));
    match commands::execute(arguments) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {}", explain(&error));
            ExitCode::from(commands::FAILURE)
        }
    }
}

/// An error and its causes, each once: many errors name theirs.
fn explain(error: &anyhow::Error) -> String {
    let mut message = String::new();
    for cause in error.chain().map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        if message.is_empty() {
            message = cause;
        } else if !message.ends_with(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    message
}

/// Under the name of a cross tool, this program is that tool.
fn cross_tool() -> Option<ExitCode> {
    let mut words = std::env::args_os();
    let program = words.next()?;
    let tool = wrapper::tool(&program)?.to_owned();
    let arguments: Vec<_> = words.collect();
    Some(match wrapper::run(&called_as(&program), &tool, &arguments) {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("{}: {error}", program.display());
            ExitCode::FAILURE
        }
    })
}

/// The path of the link by which this program was called; a name alone was found in PATH.
fn called_as(program: &std::ffi::OsStr) -> PathBuf {
    let path = PathBuf::from(program);
    if path.components().count() > 1 {
        return path;
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders)
        .map(|folder| folder.join(&path))
        .find(|path| path.exists())
        .unwrap_or(path)
}
