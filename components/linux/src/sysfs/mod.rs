//! /sys, as far as real programs read it: the CPUs, the memory node, huge pages, block devices.

mod network;

use alloc::{format, string::String, sync::Arc, vec::Vec};

use rumpuser::{CpuSet, rumpuser_cpu_count, rumpuser_cpu_info, rumpuser_cpu_online};
use rumpvfs::{
    generated::{Directory, Entry, Fixed, GeneratedFs},
    vnode::{FileSystem, Kind},
};

use crate::procfs::cpu_list;

/// `f_type` of statfs(2).
const MAGIC: u64 = 0x6265_6572;

/// A new /sys.
pub fn new() -> Arc<dyn FileSystem> {
    let root = Fixed::new()
        .with("block", Entry::directory(Disks))
        .with("bus", empty())
        .with("class", Entry::directory(class()))
        .with("dev", Entry::directory(Fixed::new().with("block", empty()).with("char", empty())))
        .with("devices", Entry::directory(devices()))
        .with("firmware", empty())
        .with("fs", empty())
        .with("kernel", Entry::directory(kernel()))
        .with("module", empty());
    GeneratedFs::new("sysfs", MAGIC, 4096, Arc::new(root))
}

fn empty() -> Entry {
    Entry::directory(Fixed::new())
}

fn class() -> Fixed {
    Fixed::new()
        .with("block", Entry::directory(Disks))
        .with("net", Entry::directory(network::Interfaces))
        .with("tty", empty())
}

fn kernel() -> Fixed {
    let huge = Fixed::new()
        .with("defrag", Entry::constant("always defer defer+madvise [madvise] never\n"))
        .with("enabled", Entry::constant("[always] madvise never\n"))
        .with("hpage_pmd_size", Entry::constant("2097152\n"))
        .with("shmem_enabled", Entry::constant("always within_size advise [never] deny force\n"))
        .with("use_zero_page", Entry::constant("1\n"));
    let memory = Fixed::new().with("hugepages", empty()).with("transparent_hugepage", Entry::directory(huge));
    Fixed::new().with("mm", Entry::directory(memory)).with("security", empty())
}

fn devices() -> Fixed {
    let system = Fixed::new()
        .with("clocksource", Entry::directory(Fixed::new().with("clocksource0", clock_source())))
        .with("cpu", Entry::directory(Cpus { fixed: cpus() }))
        .with("node", Entry::directory(nodes()));
    Fixed::new().with("system", Entry::directory(system)).with("virtual", empty())
}

fn clock_source() -> Entry {
    Entry::directory(
        Fixed::new()
            .with("available_clocksource", Entry::constant("tsc\n"))
            .with("current_clocksource", Entry::constant("tsc\n")),
    )
}

/// All CPUs that there may be.
fn possible() -> CpuSet {
    match rumpuser_cpu_count() {
        count @ 0..64 => (1 << count) - 1,
        _ => CpuSet::MAX,
    }
}

/// `0-3`: the CPUs that run.
fn range() -> Vec<u8> {
    format!("{}\n", cpu_list(rumpuser_cpu_online())).into_bytes()
}

/// The CPUs that run as a mask in hexadecimal, 32 bits between commas.
fn mask() -> Vec<u8> {
    single_mask(rumpuser_cpu_online())
}

fn single_mask(set: u64) -> Vec<u8> {
    let text = if set >> 32 == 0 {
        format!("{set:x}\n")
    } else {
        format!("{:x},{:08x}\n", set >> 32, set & 0xffff_ffff)
    };
    text.into_bytes()
}

fn cpus() -> Fixed {
    let all = || format!("{}\n", cpu_list(possible())).into_bytes();
    let offline = || format!("{}\n", cpu_list(possible() & !rumpuser_cpu_online())).into_bytes();
    Fixed::new()
        .with("isolated", Entry::constant("\n"))
        .with("kernel_max", Entry::constant("63\n"))
        .with("offline", Entry::text(offline))
        .with("online", Entry::text(range))
        .with("possible", Entry::text(all))
        .with("present", Entry::text(all))
}

/// The directory of CPUs: some files, and a directory for each.
struct Cpus {
    fixed: Fixed,
}

impl Directory for Cpus {
    fn lookup(&self, name: &[u8]) -> Option<Entry> {
        let number = name.strip_prefix(b"cpu").and_then(|number| core::str::from_utf8(number).ok());
        match number.and_then(|number| number.parse::<usize>().ok()) {
            Some(cpu) if cpu < rumpuser_cpu_count() => Some(Entry::directory(of_cpu(cpu))),
            _ => self.fixed.lookup(name),
        }
    }

    fn names(&self) -> Vec<(u64, Vec<u8>, Kind)> {
        let mut names = self.fixed.names();
        let first = names.len() as u64;
        names.extend(
            (0..rumpuser_cpu_count())
                .map(|cpu| (first + cpu as u64, format!("cpu{cpu}").into_bytes(), Kind::Directory)),
        );
        names
    }
}

fn of_cpu(cpu: usize) -> Fixed {
    let own_mask = move || single_mask(1 << cpu);
    let own_list = move || format!("{cpu}\n").into_bytes();
    let topology = Fixed::new()
        .with("core_cpus", Entry::text(own_mask))
        .with("core_cpus_list", Entry::text(own_list))
        .with("core_id", Entry::text(own_list))
        .with("core_siblings", Entry::text(mask))
        .with("core_siblings_list", Entry::text(range))
        .with("die_cpus", Entry::text(mask))
        .with("die_cpus_list", Entry::text(range))
        .with("die_id", Entry::constant("0\n"))
        .with("package_cpus", Entry::text(mask))
        .with("package_cpus_list", Entry::text(range))
        .with("physical_package_id", Entry::constant("0\n"))
        .with("thread_siblings", Entry::text(own_mask))
        .with("thread_siblings_list", Entry::text(own_list));
    let frequency = || format!("{}\n", rumpuser_cpu_info().1).into_bytes();
    let scaling = Fixed::new()
        .with("cpuinfo_cur_freq", Entry::text(frequency))
        .with("cpuinfo_max_freq", Entry::text(frequency))
        .with("cpuinfo_min_freq", Entry::text(frequency))
        .with("scaling_cur_freq", Entry::text(frequency))
        .with("scaling_governor", Entry::constant("performance\n"))
        .with("scaling_max_freq", Entry::text(frequency));
    let mut directory = Fixed::new()
        .with("cache", Entry::directory(caches(cpu)))
        .with("cpufreq", Entry::directory(scaling))
        .with("topology", Entry::directory(topology));
    if cpu > 0 {
        directory.add("online", Entry::constant("1\n"));
    }
    directory
}

/// Caches of a common shape: what programs do with them is choose block sizes.
fn caches(cpu: usize) -> Fixed {
    let own = move || single_mask(1 << cpu);
    let own_list = move || format!("{cpu}\n").into_bytes();
    let mut caches = Fixed::new();
    for (index, (level, kind, size, ways, sets)) in [
        (1, "Data", 32, 8, 64),
        (1, "Instruction", 32, 8, 64),
        (2, "Unified", 1024, 16, 1024),
        (3, "Unified", 16384, 16, 16384),
    ]
    .into_iter()
    .enumerate()
    {
        let number = |value: u32| Entry::text(move || format!("{value}\n").into_bytes());
        let word = |text: String| Entry::text(move || text.clone().into_bytes());
        let cache = Fixed::new()
            .with("coherency_line_size", number(64))
            .with("level", number(level))
            .with("number_of_sets", number(sets))
            .with("physical_line_partition", number(1))
            .with("shared_cpu_list", if level < 3 { Entry::text(own_list) } else { Entry::text(range) })
            .with("shared_cpu_map", if level < 3 { Entry::text(own) } else { Entry::text(mask) })
            .with("size", word(format!("{size}K\n")))
            .with("type", word(format!("{kind}\n")))
            .with("ways_of_associativity", number(ways));
        caches.add(&format!("index{index}"), Entry::directory(cache));
    }
    caches
}

/// The disks.
struct Disks;

impl Directory for Disks {
    fn lookup(&self, name: &[u8]) -> Option<Entry> {
        let disk = rumpdev::block::all().into_iter().find(|disk| disk.name.as_bytes() == name)?;
        let device = disk.device;
        let (major, minor) = rumpvfs::vnode::device_parts(rumpdev::disk::number(disk.index));
        let (sectors, block) = (device.sectors(), device.block_size());
        let line = |value: String| Entry::text(move || value.clone().into_bytes());
        let queue = Fixed::new()
            .with("hw_sector_size", line(format!("{block}\n")))
            .with("logical_block_size", line(format!("{block}\n")))
            .with("physical_block_size", line(format!("{block}\n")))
            .with("rotational", Entry::constant("0\n"));
        let disk = Fixed::new()
            .with("dev", line(format!("{major}:{minor}\n")))
            .with("queue", Entry::directory(queue))
            .with("removable", Entry::constant("0\n"))
            .with("ro", line(format!("{}\n", u8::from(device.read_only()))))
            .with("size", line(format!("{sectors}\n")));
        Some(Entry::directory(disk))
    }

    fn names(&self) -> Vec<(u64, Vec<u8>, Kind)> {
        let disks = rumpdev::block::all();
        (0..).zip(disks).map(|(number, disk)| (number, disk.name.into_bytes(), Kind::Directory)).collect()
    }
}

fn nodes() -> Fixed {
    let node = Fixed::new()
        .with("cpulist", Entry::text(range))
        .with("cpumap", Entry::text(mask))
        .with("distance", Entry::constant("10\n"))
        .with(
            "meminfo",
            Entry::text(|| {
                let memory = rumpuser::rumpuser_memory_statistics();
                let kib = |bytes: u64| bytes / 1024;
                format!(
                    "Node 0 MemTotal:       {:>8} kB\nNode 0 MemFree:        {:>8} kB\n\
                     Node 0 MemUsed:        {:>8} kB\n",
                    kib(memory.total),
                    kib(memory.free),
                    kib(memory.total.saturating_sub(memory.free)),
                )
                .into_bytes()
            }),
        );
    Fixed::new()
        .with("has_cpu", Entry::constant("0\n"))
        .with("has_memory", Entry::constant("0\n"))
        .with("node0", Entry::directory(node))
        .with("online", Entry::constant("0\n"))
        .with("possible", Entry::constant("0\n"))
}
