//! A server in a guest, ours or Linux's, with the same words for QEMU.

use std::{
    io::{BufRead, BufReader},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    super::guests::{ACCELERATOR, Side},
    appliance::{Appliance, Ready},
    network::{self, GUEST},
};
use crate::{host, peer};

/// The machine of both sides.
const MACHINE: &str = "q35";
/// Memory of both sides, in MiB.
pub const MEMORY: u64 = 512;
/// How long a guest may take until its server answers.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long to wait between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(2);
/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_millis(200);

/// Boots guests.
pub struct Guests {
    bake: PathBuf,
    kernel: PathBuf,
}

/// A running guest; ends when dropped.
pub struct Guest {
    child: Child,
    start: Instant,
    console: Arc<Mutex<Vec<String>>>,
    port: u16,
}

impl Guests {
    /// Boots by this `rumprun-bake` and this Linux kernel.
    pub fn new(bake: PathBuf, kernel: PathBuf) -> Self {
        Guests { bake, kernel }
    }

    fn command(&self, side: Side, appliance: &Appliance, cpus: usize, more: &[String]) -> Result<Command> {
        let baked = appliance.baked();
        let words = [network::words(cpus), more.to_vec()].concat();
        if side == Side::Linux {
            let mut command =
                peer::command(MACHINE, ACCELERATOR, cpus, MEMORY, &self.kernel, &baked.initramfs);
            command.args(words);
            return Ok(command);
        }
        let mut print = Command::new(&self.bake);
        print.args(["-q", "run", "--print-command", "--accel", "tcg", "--machine", MACHINE]);
        print.args(["--memory", &format!("{MEMORY}M"), "--cpus", &cpus.to_string()]);
        for word in words {
            print.args(["--qemu", &word]);
        }
        let line = host::output(print.arg(baked.image))?;
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("exec {}", line.trim()));
        Ok(shell)
    }

    /// Starts a guest; `more` are words for QEMU.
    pub fn start(&self, side: Side, appliance: &Appliance, cpus: usize, more: &[String]) -> Result<Guest> {
        network::make_tap(cpus)?;
        let mut command = self.command(side, appliance, cpus, more)?;
        let start = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let output = child.stdout.take().context("the guest's console")?;
        let console = Arc::new(Mutex::new(Vec::new()));
        let lines = console.clone();
        thread::spawn(move || {
            let mut reader = BufReader::new(output);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                let text = String::from_utf8_lossy(&line).trim().to_owned();
                lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(text);
                line.clear();
            }
        });
        Ok(Guest { child, start, console, port: appliance.port })
    }

    /// Starts a guest and waits until its server takes connections.
    pub fn serving(&self, side: Side, appliance: &Appliance, cpus: usize) -> Result<Guest> {
        let mut guest = self.start(side, appliance, cpus, &[])?;
        match appliance.ready {
            Ready::Connects => {
                guest.wait_until(|address| TcpStream::connect_timeout(address, PATIENCE).is_ok())?;
            }
            Ready::Says(text) => {
                guest.wait_for_console(|lines| lines.iter().any(|line| line.contains(text)))?;
            }
        }
        Ok(guest)
    }
}

impl Guest {
    /// What the guest's console has shown.
    pub fn console(&self) -> Vec<String> {
        self.console.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    fn last_words(&self) -> String {
        let console = self.console();
        let lines = console.iter().filter(|line| !line.starts_with("free-memory"));
        lines.map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    fn check(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            bail!("the guest ended:\n{}", self.last_words());
        }
        if self.start.elapsed() > START_LIMIT {
            bail!("the guest's server does not answer:\n{}", self.last_words());
        }
        Ok(())
    }

    /// Tries `probe` until it succeeds; returns the seconds since QEMU's start.
    pub fn wait_until(&mut self, probe: impl Fn(&std::net::SocketAddr) -> bool) -> Result<f64> {
        let address = (GUEST, self.port).into();
        while !probe(&address) {
            self.check()?;
            thread::sleep(PAUSE);
        }
        Ok(self.start.elapsed().as_secs_f64())
    }

    /// Waits until the console shows what `condition` looks for.
    pub fn wait_for_console(&mut self, condition: impl Fn(&[String]) -> bool) -> Result<()> {
        while !condition(&self.console()) {
            self.check()?;
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// The memory in use, in MiB: the machine's less what /proc/meminfo calls free, from a report that is yet to come.
    pub fn used_memory(&mut self) -> Result<f64> {
        let seen = self.console().len();
        let free = |lines: &[String]| -> Option<f64> {
            // The first may be under way already.
            let mut reports = lines[seen..].iter().filter_map(|line| line.strip_prefix("free-memory "));
            reports.nth(1)?.parse().ok()
        };
        self.start = Instant::now();
        self.wait_for_console(|lines| free(lines).is_some())?;
        let kibibytes = free(&self.console()).context("the report went away")?;
        Ok(MEMORY as f64 - kibibytes / 1024.0)
    }

    /// Stops the machine, while packets for it pile up, or lets it go on.
    pub fn stop(&self, stop: bool) -> Result<()> {
        let signal = if stop { Signal::STOP } else { Signal::CONT };
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
