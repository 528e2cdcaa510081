//! `cargo xtask bench xen`: programs on our kernel beside the same programs on Debian's kernel, both as PVH domains of the
//! same Xen, with clients in its dom0. All of it is emulated by QEMU: only what stands side by side can be compared.

use std::{
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tests::xen::{Domain, Host, Report};
use toolchain::xen::Archive;

use super::{
    figure::{Aim, Figure},
    guests::Side,
    median,
    net::{
        appliance::{Appliance, IPERF, REDIS},
        client,
    },
    report,
};
use crate::{host, peer};

/// Starts, or rounds of a client (see [`FUNCTIONS`]), whose median counts.
const STARTS: usize = 3;
/// How long iperf3 measures, in seconds.
const SECONDS: f64 = 4.0;
/// Requests of a round of redis-benchmark's, all in all, one by one and pipelined.
const REQUESTS: [f64; 2] = [4000.0, 40_000.0];
/// Memory of a domain, of the machine and of its dom0, in MiB.
const DOMAIN: usize = 256;
const MACHINE: u32 = 1536;
const DOM0: u32 = 896;
const LIMIT: Duration = Duration::from_secs(900);
const SIDES: [(Side, &str); 2] = [(Side::Ours, "ours"), (Side::Linux, "linux")];
const RATE: Aim = Aim::AtLeast(1.5);

/// Functions of dom0's script.
const FUNCTIONS: &str = r#"
now() { cut -d ' ' -f 1 /proc/uptime; }
# used NAME: seconds of CPU time that a domain has had, and dom0, and those since the start.
used() {
  xl list | awk -v name=$1 '$1 == name { its = $NF } $1 == "Domain-0" { dom0 = $NF } END { printf "%s %s ", its, dom0 }'
  now
}
# start NAME: the time from a domain's creation to its greeting.
start() {
  begin=$(now)
  create $1
  until grep -q "hello, world" /var/log/xen/console/guest-$1.log 2>/dev/null; do usleep 10000; done
  echo "@@ started ${1%-*} ${1#*-} $begin $(now)"
  xl destroy $1
}
serve_redis() {
  create redis-$1
  retry sh -c 'echo PING | timeout 10 nc 10.9.0.2 6379 | grep PONG'
  for round in 0 1 2; do
    begin=$(used redis-$1)
    section "redis $1 $round" redis-benchmark -h 10.9.0.2 -t set,get -c 20 -n 2000 --csv
    middle=$(used redis-$1)
    section "pipelined $1 $round" redis-benchmark -h 10.9.0.2 -t set,get -c 20 -n 20000 -P 16 --csv
    echo "@@ used $1 $begin $middle $(used redis-$1)"
  done
  xl destroy redis-$1
}
serve_iperf3() {
  create iperf3-$1
  until_console iperf3-$1 "Server listening"
  retry ping -c 1 10.9.0.2
  for round in 0 1 2; do
    begin=$(used iperf3-$1)
    section "to $1 $round" iperf3 --client 10.9.0.2 --time 4 --json
    sleep 1
    middle=$(used iperf3-$1)
    section "from $1 $round" iperf3 --client 10.9.0.2 --time 4 --json --reverse
    sleep 1
    echo "@@ used $1 $begin $middle $(used iperf3-$1)"
  done
  xl destroy iperf3-$1
}
"#;

/// Measures; prints a table, and writes `target/bench/xen.json` and `xen.svg`.
pub fn run(filter: Option<&str>) -> Result<()> {
    host::install(
        &[
            host::DEMO_PACKAGES,
            &["gcc", "busybox-static", "xz-utils", "redis-server", "redis-tools", "iperf3"],
        ]
        .concat(),
    )?;
    fs::create_dir_all(host::target().join("bench/net"))?;
    let wanted = |name: &str| filter.is_none_or(|filter| name.contains(filter) || filter.contains(name));
    let mut figures = Vec::new();
    let mut note = |figure: Figure| {
        println!("{figure}");
        figures.push(figure);
    };
    // Each has a boot of its own, with what it needs in memory.
    if wanted("start to first output") {
        let mut bench = Bench::new()?;
        bench.start()?;
        let boot = bench.boot();
        let [ours, linux] = SIDES.map(|(_, side)| started(&boot, side));
        note(Figure::compared("start to first output", "s", ours?, linux?, Aim::AtMost(0.2)));
    }
    if wanted("redis") {
        let mut bench = Bench::new()?;
        bench.serve(&REDIS, "redis")?;
        let boot = bench.boot();
        for (kind, title) in [("redis", ""), ("pipelined", ", pipelined")] {
            for (index, command) in ["SET", "GET"].into_iter().enumerate() {
                let rate = |text: &str| client::parse_redis(text).map(|rates| rates[index]);
                let [ours, linux] = SIDES.map(|(_, side)| rounds(&boot, kind, side, rate));
                note(Figure::compared(&format!("redis {command}{title}"), "/s", ours?, linux?, RATE));
            }
        }
        // The clients and the backend share dom0's only CPU, which bounds the rates: this tells of the domain alone.
        for (index, title) in ["one by one", "pipelined"].into_iter().enumerate() {
            let [ours, linux] = SIDES.map(|(_, side)| by_time(&boot, side, index, REQUESTS[index]));
            let name = format!("redis, {title}, by CPU time");
            note(Figure::compared(&name, "/s", ours?, linux?, RATE));
            let [ours, linux] = SIDES.map(|(_, side)| busy(&boot, side, index));
            println!(
                "  dom0's CPU was busy for {:.0} % of the time, with Linux for {:.0} %",
                ours? * 100.0,
                linux? * 100.0
            );
        }
    }
    if wanted("iperf3") {
        let mut bench = Bench::new()?;
        bench.serve(&IPERF, "iperf3")?;
        let boot = bench.boot();
        let mut rates = Vec::new();
        for direction in ["to", "from"] {
            let [ours, linux] = SIDES.map(|(_, side)| rounds(&boot, direction, side, client::parse_iperf));
            let (ours, linux) = (ours? / 1e6, linux? / 1e6);
            let name = format!("iperf3 {direction} the domain");
            note(Figure::compared(&name, "Mb/s", ours, linux, RATE));
            rates.push([ours, linux]);
        }
        for (index, direction) in ["to", "from"].into_iter().enumerate() {
            let [ours, linux] =
                SIDES.map(|(side, text)| by_time(&boot, text, index, SECONDS * rates[index][side as usize]));
            let name = format!("iperf3 {direction} it, by CPU time");
            note(Figure::compared(&name, "Mb", ours?, linux?, RATE));
        }
    }
    report(&figures, "xen", filter)
}

/// The median of what a client's rounds show.
fn rounds(boot: &Report, kind: &str, side: &str, parse: impl Fn(&str) -> Result<f64>) -> Result<f64> {
    let values = (0..STARTS).map(|round| parse(&boot.section(&format!("{kind} {side} {round}"))));
    values.collect::<Result<_>>().map(median)
}

/// The numbers in the lines of dom0's that begin so.
fn numbers(boot: &Report, prefix: &str) -> Result<Vec<Vec<f64>>> {
    let lines = boot.serial().lines().filter_map(|line| line.strip_prefix(prefix));
    let numbers = |line: &str| {
        let words = line.split(' ').filter(|word| !word.is_empty());
        words.map(str::parse::<f64>).collect::<Result<Vec<_>, _>>()
    };
    lines.map(|line| numbers(line).with_context(|| format!("no numbers: {line:?}"))).collect()
}

/// The median time of a side's starts, in seconds.
fn started(boot: &Report, side: &str) -> Result<f64> {
    let times = numbers(boot, &format!("@@ started {side}"))?;
    let times = times.iter().map(|line| match line[..] {
        [_, begin, end] => Ok(end - begin),
        _ => bail!("dom0 did not say when a domain was started"),
    });
    times.collect::<Result<_>>().map(median)
}

/// The median of what `value` makes of the times (see `used` in [`FUNCTIONS`]) before and after a measurement of a round.
fn times(boot: &Report, side: &str, index: usize, value: impl Fn([f64; 3], [f64; 3]) -> f64) -> Result<f64> {
    let rounds = numbers(boot, &format!("@@ used {side}"))?;
    let values = rounds.iter().map(|line| match line.as_chunks().0 {
        marks if marks.len() == 3 && index < 2 => Ok(value(marks[index], marks[index + 1])),
        _ => bail!("dom0 did not say how much time a domain used"),
    });
    values.collect::<Result<_>>().map(median)
}

/// The median of what a domain did in a second of its CPU time, as it did so much in each round.
fn by_time(boot: &Report, side: &str, index: usize, work: f64) -> Result<f64> {
    times(boot, side, index, |before, after| work / (after[0] - before[0]))
}

/// The median of the part of the time in which dom0 used its CPU.
fn busy(boot: &Report, side: &str, index: usize) -> Result<f64> {
    times(boot, side, index, |before, after| (after[1] - before[1]) / (after[2] - before[2]))
}

struct Bench {
    bake: PathBuf,
    /// Debian's kernel.
    kernel: PathBuf,
    host: Host,
    script: String,
}

impl Bench {
    fn new() -> Result<Bench> {
        let folder = host::target().join("bench/xen");
        fs::create_dir_all(&folder)?;
        let host = Host::new().context("no Xen to be had here")?.machine(MACHINE, DOM0, LIMIT);
        let host = ["redis-benchmark", "iperf3"]
            .into_iter()
            .fold(host, |host, name| host.program(Path::new("/usr/bin").join(name)));
        Ok(Bench { bake: host::rumprun_bake()?, kernel: peer::kernel()?, host, script: FUNCTIONS.to_owned() })
    }

    fn boot(&self) -> Report {
        self.host.run(&self.script)
    }

    fn add(&mut self, domain: Domain) {
        self.host = self.host.clone().domain(domain);
    }

    /// A domain of Debian's kernel with these files.
    fn linux(&mut self, name: &str, initramfs: &Path) -> Domain {
        self.host = self.host.clone().file(initramfs);
        let file = initramfs.file_name().unwrap_or_default().to_string_lossy();
        Domain::new(name, &self.kernel)
            .memory(DOMAIN)
            .setting("ramdisk", &format!("\"/guest/{file}\""))
            .command_line("console=hvc0 quiet panic=-1")
    }

    fn start(&mut self) -> Result<()> {
        let hello = super::build("hello")?;
        let image = host::target().join("bench/xen/hello.elf");
        host::run(Command::new(&self.bake).args(["-q", "bake", "xen_direct"]).arg(&image).arg(&hello))?;
        let files = host::target().join("bench/xen/hello.initramfs");
        fs::copy(peer::initramfs(&super::build("peer-init")?, &hello, &[])?, &files)?;
        for number in 0..STARTS {
            self.add(Domain::new(&format!("ours-{number}"), &image).memory(DOMAIN));
            let linux = self.linux(&format!("linux-{number}"), &files);
            self.add(linux);
            let _ = writeln!(self.script, "start ours-{number}; start linux-{number}");
        }
        Ok(())
    }

    fn serve(&mut self, appliance: &Appliance, name: &str) -> Result<()> {
        appliance.bake(&self.bake, &super::build("peer-server-init")?)?;
        let baked = appliance.baked();
        let files = host::target().join(format!("bench/xen/{name}.initramfs"));
        fs::copy(&baked.initramfs, &files)?;
        add_network(&files)?;
        for (side, text) in SIDES {
            let domain = match side {
                Side::Ours => {
                    let ours = Domain::new(&format!("{name}-{text}"), &baked.image).memory(DOMAIN);
                    ours.command_line("network=eth0,address=10.9.0.2/24")
                }
                Side::Linux => self.linux(&format!("{name}-{text}"), &files),
            };
            self.add(domain.interface("00:16:3e:00:00:07"));
            let _ = writeln!(self.script, "serve_{name} {text}");
        }
        Ok(())
    }
}

/// Adds Xen's network and its address to a guest's files, in the place of virtio's.
fn add_network(initramfs: &Path) -> Result<()> {
    let file = File::options().append(true).open(initramfs)?;
    file.set_len(file.metadata()?.len().next_multiple_of(512))?;
    let mut archive = Archive::new(file);
    archive.file("peer/network", b"10.9.0.2")?;
    let module = peer::module("xen-netfront")?;
    if let Some(module) = &module {
        archive.file("peer/xen-netfront.ko", &fs::read(module)?)?;
    }
    archive.file("peer/modules", if module.is_some() { b"/peer/xen-netfront.ko\n" } else { b"" })?;
    Ok(archive.finish()?)
}
