//! Programs in guests of both component sets, with user networking.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::client;
use crate::host;

/// Ports of the server program.
const PORTS: [u16; 3] = [80, 9, 19];
/// How long a guest may take until its server answers.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long an idle guest is watched.
const IDLE: Duration = Duration::from_secs(4);
/// Clock ticks a second in /proc (proc(5): sysconf(_SC_CLK_TCK), 100 on Linux).
const TICKS: f64 = 100.0;
/// Bytes from the count of a CPU to the next one's (see the plug-in).
const STRIDE: usize = 64;

/// A component set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// The installed NetBSD set.
    NetBsd,
    /// Ours.
    BuiltIn,
}

/// Builds programs and boots them.
pub struct Guests {
    bake: PathBuf,
    tools: PathBuf,
}

/// A running server; ends when dropped.
pub struct Guest {
    child: Child,
    ports: [u16; 3],
    counts: Option<(PathBuf, usize)>,
    /// Seconds from QEMU's start to the first reply.
    pub started: f64,
}

fn folder() -> PathBuf {
    host::target().join("bench/netbsd")
}

fn plugin() -> PathBuf {
    folder().join("count.so")
}

/// Compiles the plug-in of QEMU's translator that counts instructions.
pub fn build_plugin() -> Result<()> {
    let source = host::checkout().join("xtask/plugin/count.c");
    host::run(Command::new("gcc").args(["-O2", "-shared", "-fPIC", "-o"]).arg(plugin()).arg(source))
}

/// A port of this host that nobody listens on.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl Guests {
    /// Installs the cross compiler for the NetBSD set.
    pub fn new() -> Result<Self> {
        let (bake, tools) = (host::rumprun_bake()?, folder().join("tools"));
        let mut install = Command::new(&bake);
        host::run(install.args(["-q", "netbsd", "tools"]).arg(&tools)).context(
            "this measures a NetBSD component set: build one, or name one by RUMPRUN_BAKE_NETBSD_SET",
        )?;
        Ok(Guests { bake, tools })
    }

    fn program(&self, set: Set, name: &str) -> Result<PathBuf> {
        let programs = host::checkout().join("tests/programs");
        let candidates =
            [programs.join("netbsd"), programs].map(|folder| folder.join(name).with_extension("c"));
        let source = candidates.into_iter().find(|source| source.is_file()).context("no such program")?;
        let output = folder().join(format!("{name}-{set:?}"));
        let mut compiler = match set {
            Set::NetBsd => Command::new(self.tools.join("x86_64-rumprun-netbsd-cc")),
            Set::BuiltIn => {
                let mut compiler = Command::new("gcc");
                compiler.arg("-static");
                compiler
            }
        };
        host::run(compiler.arg("-O2").arg(source).arg("-o").arg(&output).arg("-lpthread"))?;
        Ok(output)
    }

    fn bake(&self, set: Set, program: &Path) -> Result<PathBuf> {
        let image = program.with_extension("elf");
        let mut command = Command::new(&self.bake);
        command.args(["-q", "bake", "hw_direct"]).arg(&image);
        if set == Set::NetBsd {
            command.args(["--kernel", "netbsd"]);
        }
        host::run(command.arg(program))?;
        Ok(image)
    }

    /// The image of a program of the tests.
    pub fn image(&self, set: Set, name: &str) -> Result<PathBuf> {
        self.bake(set, &self.program(set, name)?)
    }

    /// Seconds that a bake takes; the kernel is built and cached.
    pub fn bake_time(&self, set: Set, name: &str) -> Result<f64> {
        let program = self.program(set, name)?;
        self.bake(set, &program)?;
        let start = Instant::now();
        self.bake(set, &program)?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// The least memory, in whole MiB, in which hello ends with its status.
    pub fn least_memory(&self, image: &Path) -> Result<f64> {
        const STATUS: i32 = 7;
        let runs = |mebibytes: u32| {
            // A kernel of NetBSD's with too little memory may wait for some for ever.
            let mut run = Command::new("timeout");
            run.args(["--kill-after=5", "20"]).arg(&self.bake);
            run.args(["-q", "run", "--accel", "tcg", "--memory", &format!("{mebibytes}M")]).arg(image);
            run.stdin(Stdio::null()).output().is_ok_and(|output| output.status.code() == Some(STATUS))
        };
        (1..64).find(|&mebibytes| runs(mebibytes)).map(f64::from).context("hello does not run in 63 MiB")
    }

    /// QEMU's command line, for a shell.
    fn line(&self, image: &Path, words: &[&str]) -> Result<Command> {
        let mut print = Command::new(&self.bake);
        print.args(["-q", "run", "--print-command", "--accel", "tcg"]);
        let (options, arguments) =
            words.split_at(words.iter().position(|&word| word == "--").unwrap_or(words.len()));
        let line = host::output(print.args(options).arg(image).args(arguments))?;
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("exec {}", line.trim())).stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(shell)
    }

    /// Boots an image; returns its lines with the seconds from QEMU's start.
    fn boot(&self, image: &Path, words: &[&str]) -> Result<Vec<(f64, String)>> {
        let mut command = self.line(image, words)?;
        let start = Instant::now();
        let mut child = command.spawn()?;
        let console = BufReader::new(child.stdout.take().context("the guest's console")?);
        let mut lines = Vec::new();
        for line in console.split(b'\n') {
            lines.push((start.elapsed().as_secs_f64(), String::from_utf8_lossy(&line?).trim().to_owned()));
        }
        child.wait()?;
        Ok(lines)
    }

    /// Seconds from QEMU's start to the line that begins with `text`.
    pub fn first_output(&self, image: &Path, text: &str) -> Result<f64> {
        let lines = self.boot(image, &[])?;
        let found = lines.iter().find(|(_, line)| line.starts_with(text));
        Ok(found.with_context(|| format!("the guest did not print {text:?}: {lines:?}"))?.0)
    }

    /// The lines of the form NAME NUMBER that an image prints.
    pub fn figures(&self, image: &Path, cpus: usize, arguments: &[&str]) -> Result<BTreeMap<String, f64>> {
        let cpus = cpus.to_string();
        let lines = self.boot(image, &[&["--cpus", &cpus, "--"], arguments].concat())?;
        let pairs = lines.iter().filter_map(|(_, line)| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        let figures: BTreeMap<_, _> = pairs.collect();
        if figures.is_empty() {
            bail!("the guest measured nothing: {lines:?}");
        }
        Ok(figures)
    }

    /// Starts the server and waits for its first reply.
    pub fn serve(&self, image: &Path, cpus: usize, threads: usize, counted: bool) -> Result<Guest> {
        let ports = [free_port()?, free_port()?, free_port()?];
        let mut network = String::from("user,address=10.0.2.15/24,gateway=10.0.2.2");
        for (host, guest) in ports.iter().zip(PORTS) {
            network.push_str(&format!(",publish={host}:{guest}"));
        }
        let (cpus_word, threads) = (cpus.to_string(), threads.to_string());
        let mut words = vec!["--machine", "q35", "--cpus", &cpus_word, "--net", &network];
        let file = folder().join(format!("count-{}", ports[0]));
        let counter = format!("{},cpus={}", plugin().display(), file.display());
        if counted {
            words.extend(["--qemu", "-plugin", "--qemu", &counter]);
        }
        words.extend(["--", &threads]);
        let mut command = self.line(image, &words)?;
        let start = Instant::now();
        let child = command.stdout(Stdio::null()).spawn()?;
        let counts = counted.then_some((file, cpus));
        let mut guest = Guest { child, ports, counts, started: 0.0 };
        // A connection that comes before the guest has its address would wait for seconds to be tried again.
        let mut patience = Duration::from_millis(50);
        while client::get(guest.address(80), patience).is_err() {
            patience += Duration::from_millis(10);
            if guest.child.try_wait()?.is_some() || start.elapsed() > START_LIMIT {
                bail!("the server does not answer");
            }
            thread::sleep(Duration::from_millis(2));
        }
        guest.started = start.elapsed().as_secs_f64();
        Ok(guest)
    }
}

impl Guest {
    /// Where a port of the server is on this host.
    pub fn address(&self, port: u16) -> SocketAddr {
        let index = PORTS.iter().position(|&other| other == port).unwrap_or(0);
        ([127, 0, 0, 1], self.ports[index]).into()
    }

    /// Stops the machine, while packets for it pile up, or lets it go on.
    pub fn stop(&self, stop: bool) -> Result<()> {
        let signal = if stop { Signal::STOP } else { Signal::CONT };
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// How many instructions each CPU has executed.
    pub fn instructions(&self) -> Result<Vec<u64>> {
        let (file, cpus) = self.counts.as_ref().context("the instructions aren't counted")?;
        let bytes = fs::read(file).context("the plug-in did not start")?;
        let counts = bytes.chunks_exact(STRIDE).take(*cpus).filter_map(|cpu| cpu.first_chunk());
        Ok(counts.copied().map(u64::from_le_bytes).collect())
    }

    /// QEMU's share of a host CPU, in percent, while nobody asks the server.
    pub fn idle_share(&self) -> Result<f64> {
        let used = || -> Result<f64> {
            let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
            // Behind the name in parentheses; fields 14 and 15 of all.
            let fields = text.rsplit(')').next().context("no fields")?.split_whitespace().skip(11).take(2);
            Ok(fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS)
        };
        // What the start left to do.
        thread::sleep(Duration::from_secs(1));
        let (before, start) = (used()?, Instant::now());
        thread::sleep(IDLE);
        Ok((used()? - before) / start.elapsed().as_secs_f64() * 100.0)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some((file, _)) = &self.counts {
            let _ = fs::remove_file(file);
        }
    }
}
