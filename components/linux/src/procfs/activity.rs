//! What the CPUs do: /proc/stat, interrupts, softirqs and schedstat; and our own counters in /proc/rumprun.

use alloc::{format, string::String, vec::Vec};
use core::fmt::Write;

use rumpuser::{
    CpuStatistics, rumpuser_clock_monotonic, rumpuser_clock_realtime, rumpuser_cpu_count,
    rumpuser_cpu_online, rumpuser_cpu_statistics, rumpuser_cpu_times,
};
use rumpvfs::generated::{Entry, Fixed};

use crate::{registry, statistics};

use super::status::TICK;

const SECOND: u64 = 1_000_000_000;
/// Nanoseconds of a unit in /proc/schedstat's times.
const JIFFY: u64 = 4_000_000;

/// Adds the files.
pub(super) fn add(fixed: &mut Fixed) {
    let mut text = |name: &str, make: fn() -> Vec<u8>| fixed.add(name, Entry::text(make));
    text("interrupts", interrupts);
    text("schedstat", schedstat);
    text("softirqs", softirqs);
    text("stat", stat);
    let own = Fixed::new().with("metrics", Entry::text(metrics::render)).with("syscalls", Entry::text(calls));
    fixed.add("rumprun", Entry::directory(own));
}

/// What each CPU did that runs, by number.
fn cpus() -> Vec<(usize, CpuStatistics)> {
    let online = rumpuser_cpu_online();
    let numbers = (0..64).filter(|cpu| online & 1 << cpu != 0);
    numbers.map(|cpu| (cpu, rumpuser_cpu_statistics(cpu))).collect()
}

/// How many threads run or could run.
pub(super) fn runnable() -> usize {
    cpus().iter().map(|(_, cpu)| cpu.runnable).sum()
}

/// (user, kernel, idle) of all CPUs together, with those that don't run any more.
pub(super) fn all_times() -> (u64, u64, u64) {
    (0..rumpuser_cpu_count())
        .map(rumpuser_cpu_times)
        .fold((0, 0, 0), |sum, times| (sum.0 + times.0, sum.1 + times.1, sum.2 + times.2))
}

/// The vectors of devices that have interrupted, in order.
fn vectors(cpus: &[(usize, CpuStatistics)]) -> Vec<u8> {
    let mut vectors: Vec<u8> =
        cpus.iter().flat_map(|(_, cpu)| cpu.device_interrupts.iter().map(|(vector, _)| *vector)).collect();
    vectors.sort_unstable();
    vectors.dedup();
    vectors
}

fn device(cpu: &CpuStatistics, vector: u8) -> u64 {
    cpu.device_interrupts.iter().find(|(other, _)| *other == vector).map_or(0, |(_, count)| *count)
}

fn stat() -> Vec<u8> {
    let mut text = String::new();
    let cpus = cpus();
    // What the host took counts as the program's at first.
    let mut line = |name: &str, (user, kernel, idle): (u64, u64, u64), stolen: u64| {
        let user = user.saturating_sub(stolen);
        let [user, kernel, idle, stolen] = [user, kernel, idle, stolen].map(|time| time / TICK);
        let _ = writeln!(text, "{name} {user} 0 {kernel} {idle} 0 0 0 {stolen} 0 0");
    };
    line("cpu ", all_times(), cpus.iter().map(|(_, cpu)| cpu.stolen).sum());
    for (number, cpu) in &cpus {
        line(&format!("cpu{number}"), rumpuser_cpu_times(*number), cpu.stolen);
    }
    let all = |pick: fn(&CpuStatistics) -> u64| -> u64 { cpus.iter().map(|(_, cpu)| pick(cpu)).sum() };
    let devices = all(|cpu| cpu.device_interrupts.iter().map(|(_, count)| count).sum());
    let interrupts = devices + all(|cpu| cpu.timer_interrupts + cpu.wake_interrupts);
    let booted = rumpuser_clock_realtime().saturating_sub(rumpuser_clock_monotonic()) / SECOND;
    let processes = registry::processes().last().map_or(0, |process| process.pid());
    let _ = write!(
        text,
        "intr {interrupts}\nctxt {}\nbtime {booted}\nprocesses {processes}\nprocs_running {}\n\
         procs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n",
        all(|cpu| cpu.switches),
        runnable(),
    );
    text.into_bytes()
}

fn heading(cpus: &[(usize, CpuStatistics)]) -> String {
    let mut text = String::from("     ");
    for (cpu, _) in cpus {
        let _ = write!(text, "      CPU{cpu:<2}");
    }
    text.push('\n');
    text
}

fn interrupts() -> Vec<u8> {
    let cpus = cpus();
    let mut text = heading(&cpus);
    let mut line = |label: &str, what: &str, pick: &dyn Fn(&CpuStatistics) -> u64| {
        let _ = write!(text, "{label:>4}:");
        for (_, cpu) in &cpus {
            let _ = write!(text, " {:>10}", pick(cpu));
        }
        let _ = writeln!(text, "   {what}");
    };
    for vector in vectors(&cpus) {
        line(&format!("{vector}"), "device", &|cpu| device(cpu, vector));
    }
    line("LOC", "Local timer interrupts", &|cpu| cpu.timer_interrupts);
    line("RES", "Rescheduling and TLB shootdown interrupts", &|cpu| cpu.wake_interrupts);
    text.into_bytes()
}

/// There are none: what Linux does in them, threads do here.
fn softirqs() -> Vec<u8> {
    let cpus = cpus();
    let mut text = heading(&cpus);
    for name in ["HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"]
    {
        let _ = write!(text, "{name:>12}:");
        for _ in &cpus {
            let _ = write!(text, " {:>10}", 0);
        }
        text.push('\n');
    }
    text.into_bytes()
}

/// As Linux's Documentation/scheduler/sched-stats, version 15: switches and time on the CPU are known.
fn schedstat() -> Vec<u8> {
    let mut text = format!("version 15\ntimestamp {}\n", rumpuser_clock_monotonic() / JIFFY);
    for (index, cpu) in cpus() {
        let (user, kernel, _) = rumpuser_cpu_times(index);
        let _ = writeln!(text, "cpu{index} 0 0 {0} 0 0 0 {1} 0 {0}", cpu.switches, user + kernel);
    }
    text.into_bytes()
}

/// System calls that were made: name, how often, how often with an error.
fn calls() -> Vec<u8> {
    let mut text = String::from("call                        made     failed\n");
    for (name, made, failed) in statistics::calls() {
        let _ = writeln!(text, "{name:<24} {made:>8} {failed:>10}");
    }
    text.into_bytes()
}
