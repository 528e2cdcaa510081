//! A machine in the background whose console is kept, for whoever drives it.

use std::{
    fs,
    io::{self, Read},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    Error, Outcome, Plan, command, console, host_error,
    supervise::{die_with_us, outcome},
};

const POLL: Duration = Duration::from_millis(10);
/// How long a guest may take to start.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How much of the console is kept.
const CONSOLE_LIMIT: usize = 16 << 20;

/// A running machine; it is killed when dropped.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    /// Open to the end: its end would hang up the console.
    _input: Option<ChildStdin>,
    console: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
    plan: Plan,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Machine {
    /// Starts a plan. Nobody types at its console.
    pub fn start(plan: Plan) -> Result<Self, Error> {
        let errors = fs::File::create(plan.folder.path().join("errors"))
            .map_err(host_error("cannot write to the temporary folder"))?;
        let (program, arguments) = plan.words.split_first().ok_or(Error::NoQemu)?;
        let mut command = Command::new(program);
        command.args(arguments).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        die_with_us(&mut command);
        let mut child = command.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::NoQemu,
            _ => Error::Host { what: "cannot start QEMU", source },
        })?;
        let console = Arc::new(Mutex::new(Vec::new()));
        let kept = console.clone();
        let reader = child.stdout.take().map(|mut output| {
            thread::spawn(move || {
                let mut buffer = [0; 16 << 10];
                while let Ok(length @ 1..) = output.read(&mut buffer) {
                    let mut kept = kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    if kept.len() < CONSOLE_LIMIT {
                        kept.extend_from_slice(&buffer[..length]);
                    }
                }
            })
        });
        Ok(Machine { _input: child.stdin.take(), child, console, reader, plan })
    }

    /// What the console has shown, carriage returns removed.
    pub fn console(&self) -> String {
        let bytes = self.console.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<Outcome>, Error> {
        let status = self.child.try_wait().map_err(host_error("cannot wait for QEMU"))?;
        let Some(status) = status else { return Ok(None) };
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        outcome(&self.plan, status).map(Some)
    }

    /// Waits for the end, at most until `deadline`.
    pub fn wait(&mut self, deadline: Instant) -> Result<Option<Outcome>, Error> {
        loop {
            let ended = self.ended()?;
            if ended.is_some() || Instant::now() >= deadline {
                return Ok(ended);
            }
            thread::sleep(POLL);
        }
    }

    /// Asks it to stop as the power button does; kills it if it doesn't.
    pub fn stop(&mut self) -> Result<Outcome, Error> {
        // A guest that is just starting would not hear of it.
        let start = Instant::now();
        while !console::is_ready(&self.plan.folder.path().join(command::STATUS))
            && start.elapsed() < START_LIMIT
        {
            if let Some(outcome) = self.ended()? {
                return Ok(outcome);
            }
            thread::sleep(POLL);
        }
        if let Some(outcome) = self.ended()? {
            return Ok(outcome);
        }
        if self.plan.stop.ask(self.plan.folder.path()).is_ok()
            && let Some(outcome) = self.wait(Instant::now() + self.plan.stop.limit())?
        {
            return Ok(outcome);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        Ok(Outcome::Killed(signal_hook::consts::SIGKILL))
    }
}
