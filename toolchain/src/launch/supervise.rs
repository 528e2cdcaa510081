//! Watches over a running QEMU: forwards input and signals, and finds out how the machine ended.

use std::{
    fs,
    io::{self, Read},
    os::unix::process::CommandExt,
    process::{Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use image::machine::Status;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::{Error, Plan, QEMU, Stop, command, console, host_error, trace};
use crate::report::Report;

/// A second signal this soon is an echo of the first (a terminal and a supervisor that both send one).
const ECHO: Duration = Duration::from_millis(200);
/// How much of QEMU's own messages is repeated when it fails.
const MESSAGE_LIMIT: u64 = 64 << 10;
/// Signals that ask for an end.
const STOP_SIGNALS: [i32; 3] =
    [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP];

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The program's exit status.
    Exited(u8),
    /// The guest asked for a restart.
    Rebooted,
    /// The kernel panicked; its console has the report.
    Panicked,
    /// The machine stopped without a status: a reset or a fault that the kernel could not report.
    Vanished,
    /// Killed on request, or because it did not stop when asked; the signal that asked.
    Killed(i32),
}

enum Event {
    Signal(i32),
    Ended,
}

/// Runs a plan until the machine ends.
pub fn run(plan: &Plan, report: &dyn Report) -> Result<Outcome, Error> {
    let (sender, events) = mpsc::channel();
    let mut signals =
        signal_hook::iterator::Signals::new(STOP_SIGNALS).map_err(host_error("cannot catch signals"))?;
    let signal_sender = sender.clone();
    thread::spawn(move || {
        for signal in signals.forever() {
            if signal_sender.send(Event::Signal(signal)).is_err() {
                break;
            }
        }
    });

    let folder = plan.folder.path();
    let errors = fs::File::create(folder.join("errors"))
        .map_err(host_error("cannot write to the temporary folder"))?;
    let tracer = if plan.shows_trace {
        // Messages of a program in dom0 are as our own.
        let mark: &[u8] = if matches!(plan.stop, Stop::Word(_)) { b"" } else { trace::MARK };
        let copier = trace::Copier::start(&folder.join(command::TRACE), mark);
        Some(copier.map_err(host_error("cannot make a pipe for the trace"))?)
    } else {
        None
    };
    let (program, arguments) = plan.words.split_first().ok_or(Error::NoQemu)?;
    let mut command = Command::new(program);
    // Signals of the terminal are ours to translate.
    command.args(arguments).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
    die_with_us(&mut command);
    let mut child = command.spawn().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound if program == QEMU => Error::NoQemu,
        _ => Error::Host { what: "cannot start the machine", source },
    })?;
    let status = folder.join(command::STATUS);
    // A domain's console keeps what comes early.
    let ready = matches!(plan.stop, Stop::Domain(_));
    let is_ready = move || ready || console::is_ready(&status);
    let terminal = child.stdin.take().map(|stdin| console::forward(stdin, is_ready));
    let lost_sender = sender.clone();
    let lost = move || {
        let _ = lost_sender.send(Event::Signal(signal_hook::consts::SIGPIPE));
    };
    let printer = child.stdout.take().map(|stdout| console::print(stdout, lost));
    let process = Pid::from_child(&child);
    thread::spawn(move || {
        // Leaves the child to be reaped below, so that its number stays its own until then.
        let _ = waitid(WaitId::Pid(process), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let _ = sender.send(Event::Ended);
    });

    let mut asked: Option<(Instant, i32)> = None;
    let mut killed = None;
    loop {
        let event = match asked {
            Some((when, _)) if killed.is_none() => {
                events.recv_timeout(plan.stop.limit().saturating_sub(when.elapsed()))
            }
            _ => events.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
        };
        match (event, asked) {
            (Ok(Event::Ended) | Err(mpsc::RecvTimeoutError::Disconnected), _) => break,
            (Ok(Event::Signal(signal)), None) => {
                asked = Some((Instant::now(), signal));
                if plan.stop.ask(folder).is_err() {
                    killed = Some(signal);
                    let _ = kill_process(process, Signal::KILL);
                } else {
                    report.detail("asked the guest to stop; a second signal kills it");
                }
            }
            (Ok(Event::Signal(_)), Some((when, _))) if when.elapsed() < ECHO => {}
            (_, Some((_, signal))) => {
                killed = Some(signal);
                let _ = kill_process(process, Signal::KILL);
            }
            (Err(mpsc::RecvTimeoutError::Timeout), None) => {}
        }
    }
    let status = child.wait().map_err(host_error("cannot wait for QEMU"))?;
    // All that the guest printed comes out before its status does.
    if let Some(printer) = printer {
        let _ = printer.join();
    }
    if let Some(tracer) = tracer {
        tracer.finish();
    }
    drop(terminal);
    match killed {
        Some(signal) => Ok(Outcome::Killed(signal)),
        None => outcome(plan, status),
    }
}

/// Has the kernel kill the command's process when ours ends, even by SIGKILL.
#[allow(unsafe_code, reason = "what runs between fork and exec must be vouched for")]
pub(crate) fn die_with_us(command: &mut Command) {
    // SAFETY: one system call, which is async-signal-safe; nothing is allocated or locked.
    unsafe {
        command.pre_exec(|| {
            Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
        });
    }
}

pub(super) fn outcome(plan: &Plan, status: ExitStatus) -> Result<Outcome, Error> {
    let text = fs::read_to_string(plan.folder.path().join(command::STATUS)).unwrap_or_default();
    let said = || text.lines().filter_map(Status::parse);
    // A kernel that panics also says how it leaves.
    if said().any(|status| status == Status::Panic) {
        return Ok(Outcome::Panicked);
    }
    match said().next_back() {
        Some(Status::Exit(status)) => return Ok(Outcome::Exited(status)),
        Some(Status::Reboot) => return Ok(Outcome::Rebooted),
        Some(Status::Ready | Status::Panic) | None => {}
    }
    if status.success() {
        return Ok(Outcome::Vanished);
    }
    let mut message = Vec::new();
    if let Ok(file) = fs::File::open(plan.folder.path().join("errors")) {
        let _ = file.take(MESSAGE_LIMIT).read_to_end(&mut message);
    }
    Err(Error::Qemu {
        status: status.to_string(),
        message: String::from_utf8_lossy(&message).trim_end().to_string(),
    })
}
