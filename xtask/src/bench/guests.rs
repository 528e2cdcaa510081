//! Boots a program in a guest of ours and in a Linux guest.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::build;
use crate::{host, peer};

/// Whose guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Side {
    /// Our kernel.
    Ours,
    /// Linux.
    Linux,
}

/// What booting needs.
pub struct Guests {
    bake: PathBuf,
    kernel: PathBuf,
    init: PathBuf,
}

/// A finished boot: its console, each line with the time since QEMU's start.
pub struct Boot {
    lines: Vec<(f64, String)>,
}

/// Both sides boot by emulation: hardware virtualisation differs from machine to machine.
pub const ACCELERATOR: &str = "tcg,thread=multi";

/// The memory of both sides, in MiB.
const MEMORY: u64 = 256;

impl Guests {
    /// Builds our side and gets Linux's.
    pub fn new() -> Result<Self> {
        Ok(Guests { bake: host::rumprun_bake()?, kernel: peer::kernel()?, init: build("peer-init")? })
    }

    fn bake(&self, arguments: &[&str]) -> Result<PathBuf> {
        let image = host::target().join("bench/image.elf");
        host::run(Command::new(&self.bake).args(["-q", "bake", "hw_direct"]).arg(&image).args(arguments))?;
        Ok(image)
    }

    /// Seconds that a bake takes; the kernel is built and cached.
    pub fn bake_time(&self, arguments: &[&str]) -> Result<f64> {
        let start = Instant::now();
        self.bake(arguments)?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// The kernel's share of an image, in MiB.
    pub fn kernel_size(&self, program: &Path) -> Result<f64> {
        let image = self.bake(&[program.to_str().context("the program's path is not UTF-8")?])?;
        let inspected = host::output(Command::new(&self.bake).args(["inspect", "--json"]).arg(image))?;
        let manifest: Value = serde_json::from_str(&inspected)?;
        let bytes =
            manifest["kernel"]["bytes"].as_f64().context("inspect does not tell the kernel's size")?;
        Ok(bytes / f64::from(1 << 20))
    }

    /// The least memory, in whole MiB, at which `program` runs.
    pub fn least_memory(&self, program: &Path) -> Result<f64> {
        let image = self.bake(&[program.to_str().context("the program's path is not UTF-8")?])?;
        let runs = |mebibytes: u32| {
            let memory = format!("{mebibytes}M");
            let mut run = Command::new(&self.bake);
            run.args(["-q", "run", "--cpus", "1", "--memory", &memory]).arg(&image);
            run.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
        };
        let (mut fails, mut works) = (0, 64);
        if !runs(works) {
            bail!("hello does not run in {works} MiB");
        }
        while works - fails > 1 {
            let middle = (fails + works) / 2;
            if runs(middle) { works = middle } else { fails = middle }
        }
        Ok(f64::from(works))
    }

    fn command(
        &self,
        side: Side,
        machine: &str,
        cpus: usize,
        program: &Path,
        arguments: &[&str],
    ) -> Result<Command> {
        if side == Side::Linux {
            let initramfs = peer::initramfs(&self.init, program, arguments)?;
            return Ok(peer::command(machine, ACCELERATOR, cpus, MEMORY, &self.kernel, &initramfs));
        }
        let path = program.to_str().context("the program's path is not UTF-8")?;
        let image = self.bake(&[&[path, "--"], arguments].concat())?;
        let mut print = Command::new(&self.bake);
        print.args([
            "-q",
            "run",
            "--print-command",
            "--accel",
            "tcg",
            "--machine",
            machine,
            "--memory",
            &format!("{MEMORY}M"),
        ]);
        let line = host::output(print.args(["--cpus", &cpus.to_string()]).arg(image))?;
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("exec {}", line.trim()));
        Ok(shell)
    }

    /// Boots `program` and waits for its end.
    pub fn boot(
        &self,
        side: Side,
        machine: &str,
        cpus: usize,
        program: &Path,
        arguments: &[&str],
    ) -> Result<Boot> {
        let mut command = self.command(side, machine, cpus, program, arguments)?;
        let start = Instant::now();
        let mut guest = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let mut console = BufReader::new(guest.stdout.take().context("the guest's console")?);
        let (mut lines, mut line) = (Vec::new(), Vec::new());
        while console.read_until(b'\n', &mut line)? > 0 {
            lines.push((start.elapsed().as_secs_f64(), String::from_utf8_lossy(&line).trim().to_owned()));
            line.clear();
        }
        guest.wait()?;
        Ok(Boot { lines })
    }
}

impl Boot {
    fn console(&self) -> String {
        self.lines.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n")
    }

    /// Seconds from QEMU's start to the line that ends with `text`.
    pub fn first_output(&self, text: &str) -> Result<f64> {
        let found = self.lines.iter().find(|(_, line)| line.ends_with(text));
        Ok(found.with_context(|| format!("the guest did not print {text:?}:\n{}", self.console()))?.0)
    }

    /// The lines of the form NAME NUMBER.
    pub fn figures(&self) -> Result<BTreeMap<String, f64>> {
        let pairs = self.lines.iter().filter_map(|(_, line)| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        // "exit 0" is how the Linux guest's init ends.
        let figures: BTreeMap<_, _> = pairs.filter(|(name, _)| name != "exit").collect();
        if figures.is_empty() {
            bail!("the guest measured nothing:\n{}", self.console());
        }
        Ok(figures)
    }
}
