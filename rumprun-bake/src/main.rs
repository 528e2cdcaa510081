//! The command line of the baker. Arguments, progress and messages; the work is done by `toolchain`.

mod arguments;
mod commands;
mod package;
mod progress;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = arguments::Arguments::parse_from(arguments::expand_shorthand(std::env::args_os()));
    match commands::execute(arguments) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(commands::FAILURE)
        }
    }
}
