//! `cargo xtask demo`: the main job from end to end.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::host;

const PROGRAM: &str = "import os, platform, sys, threading
print('Python', platform.python_version(), 'on', os.cpu_count(), 'CPUs,', platform.machine())
results = []
threads = [threading.Thread(target=lambda n=n: results.append(sum(range(n * 1000)))) for n in range(1, 9)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print('eight threads computed', sum(results))
with open('/proc/meminfo') as file:
    total, free = (int(next(file).split()[1]) for _ in range(2))
print('memory:', (total - free) // 1024, 'MiB in use of', total // 1024, 'MiB')";

/// Bakes python3, boots it on 2 CPUs, shows its output and a table.
pub fn run() -> Result<()> {
    host::install(host::DEMO_PACKAGES)?;
    let bake = host::rumprun_bake()?;
    let image = host::target().join("demo.elf");
    host::run(Command::new(&bake).args(["bake", "hw_direct"]).arg(&image).args([
        "/usr/bin/python3",
        "--package",
        "python3",
        "--",
        "-c",
        PROGRAM,
    ]))?;

    println!();
    let mut run = Command::new(&bake);
    run.arg("run").arg(&image).args(["--cpus", "2", "--memory", "256M"]);
    let start = Instant::now();
    let mut guest =
        run.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start rumprun-bake")?;
    let mut first = None;
    let mut memory = String::new();
    let console = BufReader::new(guest.stdout.take().context("the guest's console")?);
    for line in console.lines() {
        let line = line.context("cannot read the guest's console")?;
        first.get_or_insert_with(|| start.elapsed());
        if let Some(text) = line.strip_prefix("memory: ") {
            memory = text.trim_end().to_owned();
        }
        println!("{line}");
    }
    let status = guest.wait()?;
    if !status.success() {
        bail!("the guest ended with {status}");
    }

    let manifest: Value =
        serde_json::from_str(&host::output(Command::new(&bake).args(["inspect", "--json"]).arg(&image))?)
            .context("cannot read what inspect says")?;
    let size = std::fs::metadata(&image)?.len() as f64 / (1 << 20) as f64;
    let rows = [
        ("image", format!("{size:.1} MiB")),
        ("files inside", manifest["files"].to_string()),
        ("start to first output", format!("{:.2} s", first.unwrap_or_default().as_secs_f64())),
        ("memory", memory),
    ];
    println!();
    for (name, value) in rows {
        println!("{name:<22} {value}");
    }
    Ok(())
}
