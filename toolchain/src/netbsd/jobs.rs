//! What a build runs, each command with its descendants in a process group of its own, so that all of it ends when the
//! build is interrupted: `make` starts `make`, which a signal to us alone would not reach.

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Command, ExitStatus},
    sync::{Mutex, MutexGuard},
};

use rustix::process::{Pid, Signal, kill_process_group};

use super::components::locked;

/// The groups of commands that run.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Runs a command to its end.
pub fn run(command: &mut Command) -> io::Result<ExitStatus> {
    let mut child = {
        // Nothing starts between the look at what runs and its end.
        let mut running = locked(&RUNNING);
        let child = command.process_group(0).spawn()?;
        running.push(Pid::from_child(&child));
        child
    };
    let status = child.wait();
    let group = Pid::from_child(&child);
    locked(&RUNNING).retain(|running| *running != group);
    status
}

/// Kills everything that runs. Nothing starts as long as the result is held.
pub fn kill_all() -> MutexGuard<'static, Vec<Pid>> {
    let running = locked(&RUNNING);
    for group in running.iter() {
        let _ = kill_process_group(*group, Signal::KILL);
    }
    running
}
