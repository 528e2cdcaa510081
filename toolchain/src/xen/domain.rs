//! Runs a domain on this host, which is a dom0: its console is ours, its status our result.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use image::machine::Status;

use crate::{
    launch::{self, Accelerator, Choice, Error, Outcome, Plan, Stop, XL, command, die_with_us, host_error},
    report::Report,
};

/// Reads xenstore.
const READ: &str = "xenstore-read";
/// Says when xenstore changes.
const WATCH: &str = "xenstore-watch";
/// The watch that fires when a domain shuts down or goes (Xen, docs/misc/xenstore.txt).
const RELEASE: &str = "@releaseDomain";

/// Whether this host is a dom0.
pub fn is_host() -> bool {
    let capabilities = fs::read_to_string("/proc/xen/capabilities").unwrap_or_default();
    capabilities.contains("control_d")
}

/// Runs the domain of this configuration, which must preserve the domain at its end, until then.
pub fn run(configuration: &Path, name: &str, report: &dyn Report) -> Result<Outcome, Error> {
    let folder = tempfile::Builder::new()
        .prefix("rumprun-bake-")
        .tempdir()
        .map_err(host_error("cannot make a temporary folder"))?;
    // Paused, so that the console is there before anything is written to it.
    let created = said(Command::new(XL).args(["create", "-q", "-p"]).arg(configuration));
    created.map_err(|error| Error::Xen(format!("xl cannot create the domain: {error}")))?;
    let domain = Domain { name: name.into(), status: folder.path().join(command::STATUS) };
    let id = said(Command::new(XL).args(["domid", name])).map_err(Error::Xen)?.trim().to_owned();
    let Some(console) = console() else {
        domain.destroy();
        return Err(Error::Xen("xl is here without its xenconsole (/usr/lib/xen-VERSION/bin)".into()));
    };
    // `xl console` takes input of terminals only.
    let words = [&console, &id, "--num", "0", "--type", "pv", "--interactive"];
    let plan = Plan {
        words: words.map(String::from).into(),
        accelerator: Choice { accelerator: Accelerator::Kvm, reason: None, fresh: false },
        debugger: None,
        shows_trace: false,
        stop: Stop::Domain(name.into()),
        folder,
    };
    let watched = Domain { name: domain.name.clone(), status: domain.status.clone() };
    thread::spawn(move || {
        watched.unpause();
        watched.wait(&id);
        // Ends the console.
        watched.destroy();
    });
    let outcome = launch::run(&plan, report);
    // If it was killed, or never heard of.
    domain.destroy();
    outcome
}

/// The program for consoles, among those that belong to a version of Xen.
fn console() -> Option<String> {
    let folders = ["/usr/lib", "/usr/libexec", "/usr/local/lib", "/usr/local/libexec"];
    let entries = folders.iter().flat_map(fs::read_dir).flatten().flatten();
    let versions = entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"xen"));
    let paths = versions.map(|entry| entry.path().join("bin/xenconsole"));
    Some(paths.filter(|path| path.is_file()).max()?.to_str()?.to_owned())
}

struct Domain {
    name: String,
    /// Where its status is written.
    status: PathBuf,
}

impl Domain {
    fn unpause(&self) {
        let _ = said(Command::new(XL).args(["unpause", &self.name]));
    }

    fn destroy(&self) {
        let _ = said(Command::new(XL).args(["destroy", &self.name]));
    }

    /// Waits until it has shut down or is gone, and writes its status.
    fn wait(&self, id: &str) {
        let mut watch = Command::new(WATCH);
        watch.arg(RELEASE).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        die_with_us(&mut watch);
        let Ok(mut watch) = watch.spawn() else { return };
        // The first line comes at once.
        let lines = watch.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines);
        for _ in lines.map_while(Result::ok) {
            let state = state(&said(Command::new(XL).args(["list", &self.name])).unwrap_or_default());
            if state == State::Running {
                continue;
            }
            let node = format!("/local/domain/{id}/data/status");
            let mut status = said(Command::new(READ).arg(node)).unwrap_or_default();
            if state == State::Crashed {
                status = String::from_utf8_lossy(Status::Panic.line(&mut [0; 16])).into_owned();
            }
            let _ = fs::write(&self.status, status);
            break;
        }
        let _ = (watch.kill(), watch.wait());
    }
}

/// What a domain does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    ShutDown,
    Crashed,
    Gone,
}

/// Reads the flags in the last line of `xl list` (xl(1)): running, blocked, paused, shut down, crashed, dying.
fn state(listing: &str) -> State {
    let flags = listing.lines().last().and_then(|line| line.split_whitespace().rev().nth(1));
    match flags {
        Some(flags) if flags.contains('c') => State::Crashed,
        Some(flags) if flags.contains('s') || flags.contains('d') => State::ShutDown,
        Some(_) => State::Running,
        None => State::Gone,
    }
}

/// What a command says; what it complains of is the error.
fn said(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{State, state};

    #[test]
    fn states_are_read() {
        let head = "Name                                        ID   Mem VCPUs\tState\tTime(s)\n";
        let line = |flags| {
            format!(
                "{head}web                                          7   128     2     {flags}       1.5\n"
            )
        };
        for (flags, expected) in [
            ("r-----", State::Running),
            ("-b----", State::Running),
            ("--p---", State::Running),
            ("---s--", State::ShutDown),
            ("----c-", State::Crashed),
            ("---s-d", State::ShutDown),
        ] {
            assert_eq!(state(&line(flags)), expected, "{flags}");
        }
        assert_eq!(state(""), State::Gone);
    }
}
