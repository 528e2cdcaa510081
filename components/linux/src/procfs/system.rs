//! The files of /proc that are about the whole system.

use alloc::{format, string::String, vec::Vec};
use core::fmt::Write;

use rumpkern::Result;
use rumpuser::{
    Halt, memory::PAGE_SIZE, rumpuser_clock_monotonic, rumpuser_halt, rumpuser_memory_statistics, sync::Mutex,
};
use rumpvfs::generated::{Entry, Fixed};

use crate::{registry, uts};

use super::activity;

const SECOND: u64 = 1_000_000_000;

static COMMAND_LINE: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Sets what /proc/cmdline shows.
pub fn set_command_line(text: &[u8]) {
    *COMMAND_LINE.lock() = text.to_vec();
}

/// Adds the files.
pub(super) fn add(fixed: &mut Fixed) {
    let mut text = |name: &str, make: fn() -> Vec<u8>| fixed.add(name, Entry::text(make));
    text("buddyinfo", Vec::new);
    text("cmdline", || [&COMMAND_LINE.lock()[..], b"\n"].concat());
    text("filesystems", file_systems);
    text("loadavg", loadavg);
    text("locks", locks);
    text("meminfo", meminfo);
    text("modules", Vec::new);
    text("partitions", partitions);
    text("swaps", || b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_vec());
    text("uptime", uptime);
    text("version", version);
    text("vmstat", vmstat);
    for (name, constant) in [
        ("crypto", ""),
        ("devices", DEVICES),
        ("diskstats", ""),
        ("dma", ""),
        ("execdomains", "0-0\tLinux           \t[kernel]\n"),
        ("misc", ""),
        ("zoneinfo", ""),
    ] {
        fixed.add(name, Entry::constant(constant));
    }
    fixed.add("sysrq-trigger", Entry::command(sysrq));
}

/// The commands of Linux's admin-guide/sysrq that make sense here.
fn sysrq(command: &[u8]) -> Result<()> {
    match command.first() {
        Some(b'b') => rumpuser_halt(Halt::Reboot),
        Some(b'c') => panic!("sysrq triggered crash"),
        Some(b'e' | b'o') => crate::rc::request_stop(),
        Some(b's') => return crate::rc::root().map_or(Ok(()), |root| root.sync_all()),
        _ => {}
    }
    Ok(())
}

const FILE_SYSTEMS: &str = "nodev\tproc\nnodev\tsysfs\nnodev\ttmpfs\nnodev\toverlay\nnodev\tdevtmpfs\n\
                            nodev\tdevpts\nnodev\tpipefs\nnodev\tsockfs\n";

const DEVICES: &str = "Character devices:\n  1 mem\n  4 tty\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n\
                       136 pts\n\nBlock devices:\n254 virtblk\n";

fn file_systems() -> Vec<u8> {
    let mut text = String::from(FILE_SYSTEMS);
    for name in crate::files::mount::names() {
        let _ = writeln!(text, "\t{name}");
    }
    text.into_bytes()
}

fn version() -> Vec<u8> {
    format!("{} version {} (rumprun-bake) {}\n", uts::SYSTEM, uts::RELEASE, uts::VERSION).into_bytes()
}

fn uptime() -> Vec<u8> {
    let now = rumpuser_clock_monotonic();
    let (_, _, idle) = activity::all_times();
    let hundredths = |time: u64| time % SECOND / (SECOND / 100);
    format!("{}.{:02} {}.{:02}\n", now / SECOND, hundredths(now), idle / SECOND, hundredths(idle))
        .into_bytes()
}

fn loadavg() -> Vec<u8> {
    let last = registry::processes().last().map_or(0, |process| process.pid());
    let running = activity::runnable();
    format!("0.00 0.00 0.00 {running}/{} {last}\n", registry::task_count()).into_bytes()
}

fn meminfo() -> Vec<u8> {
    let memory = rumpuser_memory_statistics();
    let mut text = String::new();
    for (name, bytes) in [
        ("MemTotal", memory.total),
        ("MemFree", memory.free),
        ("MemAvailable", memory.free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", memory.total - memory.free.min(memory.total)),
        ("Inactive", 0),
        ("Unevictable", 0),
        ("Mlocked", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", 0),
        ("Mapped", 0),
        ("Shmem", 0),
        ("KReclaimable", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("KernelStack", 0),
        ("PageTables", 0),
        ("CommitLimit", memory.total),
        ("Committed_AS", memory.total - memory.free.min(memory.total)),
        ("VmallocTotal", 1 << 45),
        ("VmallocUsed", 0),
        ("VmallocChunk", 0),
        ("AnonHugePages", 0),
    ] {
        let label = format!("{name}:");
        let _ = writeln!(text, "{label:<16}{:>8} kB", bytes / 1024);
    }
    text.push_str(
        "HugePages_Total:       0\nHugePages_Free:        0\nHugePages_Rsvd:        0\n\
         HugePages_Surp:        0\nHugepagesize:       2048 kB\nHugetlb:               0 kB\n",
    );
    text.into_bytes()
}

fn partitions() -> Vec<u8> {
    let mut text = String::from("major minor  #blocks  name\n\n");
    for disk in rumpdev::block::all() {
        let (major, minor) = rumpvfs::vnode::device_parts(rumpdev::disk::number(disk.index));
        let _ = writeln!(text, "{major:4}  {minor:7} {:>10} {}", disk.device.sectors() / 2, disk.name);
    }
    text.into_bytes()
}

fn vmstat() -> Vec<u8> {
    let memory = rumpuser_memory_statistics();
    let page = PAGE_SIZE as u64;
    format!(
        "nr_free_pages {}\nnr_dirty 0\nnr_writeback 0\npgpgin 0\npgpgout 0\npswpin 0\npswpout 0\n\
         pgfault 0\npgmajfault 0\noom_kill 0\n",
        memory.free / page,
    )
    .into_bytes()
}

fn locks() -> Vec<u8> {
    use rumpvfs::{locks, vnode::device_parts};
    let mut text = String::new();
    for (number, (device, inode, lock)) in (1..).zip(locks::all()) {
        let (kind, pid) = match lock.owner {
            locks::Owner::Process(pid) => ("POSIX ", pid),
            locks::Owner::Description(_) => ("OFDLCK", -1),
            locks::Owner::Whole(_) => ("FLOCK ", -1),
        };
        let access = if lock.exclusive { "WRITE" } else { "READ " };
        let (major, minor) = device_parts(device);
        let end = if lock.end == u64::MAX { String::from("EOF") } else { format!("{}", lock.end) };
        let _ = writeln!(
            text,
            "{number}: {kind} ADVISORY  {access} {pid} {major:02x}:{minor:02x}:{inode} {} {end}",
            lock.start,
        );
    }
    text.into_bytes()
}
