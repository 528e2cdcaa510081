//! Progress: a spinner on a terminal, plain lines elsewhere, nothing when quiet.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use toolchain::report::Report;

/// Shows what happens.
pub struct Progress {
    quiet: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Progress on standard error.
    pub fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(ProgressStyle::default_spinner());
            bar
        });
        Progress { quiet, bar }
    }

    /// Takes the spinner away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// The result of a command.
    pub fn say(&self, message: &str) {
        if !self.quiet {
            println!("{message}");
        }
    }

    /// A result while work goes on.
    pub fn line(&self, message: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{message}")),
            None => self.say(message),
        }
    }

    /// An error while other work goes on.
    pub fn failure(&self, message: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("error: {message}")),
            None => eprintln!("error: {message}"),
        }
    }

    /// Something by the way.
    pub fn note(&self, message: &str) {
        if !self.quiet {
            eprintln!("note: {message}");
        }
    }
}

impl Report for Progress {
    fn step(&self, message: &str) {
        match &self.bar {
            Some(bar) => {
                bar.enable_steady_tick(Duration::from_millis(100));
                bar.set_message(message.to_string());
            }
            // A step that takes no time needs no line; building does, and waiting.
            None if !self.quiet && (message.contains("kernel") || message.starts_with("waiting")) => {
                eprintln!("{message}");
            }
            None => {}
        }
    }

    fn detail(&self, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(message.to_string());
        }
    }

    fn warn(&self, message: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("warning: {message}")),
            None if !self.quiet => eprintln!("warning: {message}"),
            None => {}
        }
    }
}

/// A size for people.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
