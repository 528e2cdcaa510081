//! /proc/sys: settings. Most tell how things are; those that can be changed take the new value.

use alloc::{format, string::String, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU64, Ordering};

use rumpkern::{Errno, Result};
use rumpuser::{rumpuser_getrandom, sync::Mutex};
use rumpvfs::{
    generated::{Entry, Fixed},
    pipe,
};

use super::network_settings;
use crate::{
    registry::{PID_MAX, most_tasks},
    uts,
};

/// /proc/sys.
pub(super) fn directory() -> Entry {
    Entry::directory(
        Fixed::new()
            .with("fs", file_systems())
            .with("kernel", kernel())
            .with("net", network_settings::directory())
            .with("vm", memory()),
    )
}

/// A number that can be changed, though nothing here depends on it.
pub(super) fn number(value: u64) -> Entry {
    let cell = Arc::new(AtomicU64::new(value));
    let other = cell.clone();
    Entry::writable(
        move || Ok(format!("{}\n", cell.load(Ordering::Relaxed)).into_bytes()),
        move |text| {
            other.store(parse(text)?, Ordering::Relaxed);
            Ok(())
        },
    )
}

pub(super) fn parse(text: &[u8]) -> Result<u64> {
    core::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()).ok_or(Errno::EINVAL)
}

/// A number that cannot be changed.
pub(super) fn fixed_number(value: u64) -> Entry {
    Entry::text(move || format!("{value}\n").into_bytes())
}

fn name(read: fn() -> Vec<u8>, write: fn(&[u8]) -> Result<()>) -> Entry {
    Entry::writable(
        move || Ok([&read()[..], b"\n"].concat()),
        move |text| write(text.strip_suffix(b"\n").unwrap_or(text)),
    )
}

/// A random UUID (RFC 9562, version 4).
fn uuid() -> String {
    let mut bytes = [0; 16];
    rumpuser_getrandom(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text.push('\n');
    text
}

/// The same until the machine stops.
fn boot_identifier() -> Vec<u8> {
    static IDENTIFIER: Mutex<Option<String>> = Mutex::new(None);
    IDENTIFIER.lock().get_or_insert_with(uuid).clone().into_bytes()
}

fn kernel() -> Entry {
    let random = Fixed::new()
        .with("boot_id", Entry::text(boot_identifier))
        .with("entropy_avail", fixed_number(256))
        .with("poolsize", fixed_number(256))
        .with("urandom_min_reseed_secs", fixed_number(60))
        .with("uuid", Entry::text(|| uuid().into_bytes()))
        .with("write_wakeup_threshold", fixed_number(256));
    Entry::directory(
        Fixed::new()
            .with("cap_last_cap", fixed_number(40))
            .with("core_pattern", Entry::writable(|| Ok(b"core\n".to_vec()), |_| Ok(())))
            .with("core_uses_pid", number(0))
            .with("dmesg_restrict", number(0))
            .with("domainname", name(uts::domain_name, uts::set_domain_name))
            .with("hostname", name(uts::host_name, uts::set_host_name))
            .with("io_uring_disabled", fixed_number(2))
            .with("keys", Entry::directory(Fixed::new().with("maxkeys", fixed_number(200))))
            .with("kptr_restrict", number(0))
            .with("msgmax", fixed_number(8192))
            .with("msgmnb", fixed_number(16384))
            .with("msgmni", fixed_number(32000))
            .with("ngroups_max", fixed_number(65536))
            .with("numa_balancing", fixed_number(0))
            .with("osrelease", Entry::text(|| format!("{}\n", uts::RELEASE).into_bytes()))
            .with("ostype", Entry::text(|| format!("{}\n", uts::SYSTEM).into_bytes()))
            .with("overflowgid", number(65534))
            .with("overflowuid", number(65534))
            .with("panic", number(0))
            .with("perf_event_paranoid", number(3))
            .with("pid_max", fixed_number(PID_MAX as u64))
            .with("printk", Entry::constant("4\t4\t1\t7\n"))
            .with("random", Entry::directory(random))
            .with("randomize_va_space", number(2))
            .with("sched_child_runs_first", number(0))
            .with("sched_rt_period_us", number(1_000_000))
            .with("sched_rt_runtime_us", number(950_000))
            .with("seccomp", Entry::directory(Fixed::new()))
            .with("sem", Entry::constant("32000\t1024000000\t500\t32000\n"))
            .with("shmall", fixed_number(18_446_744_073_692_774_399))
            .with("shmmax", fixed_number(18_446_744_073_692_774_399))
            .with("shmmni", fixed_number(4096))
            .with("tainted", fixed_number(0))
            .with("threads-max", Entry::text(|| format!("{}\n", most_tasks()).into_bytes()))
            .with("unprivileged_bpf_disabled", fixed_number(2))
            .with("version", Entry::text(|| format!("{}\n", uts::VERSION).into_bytes()))
            .with("yama", Entry::directory(Fixed::new().with("ptrace_scope", number(0)))),
    )
}

fn memory() -> Entry {
    Entry::directory(
        Fixed::new()
            .with("dirty_background_ratio", number(10))
            .with("dirty_expire_centisecs", number(3000))
            .with("dirty_ratio", number(20))
            .with("dirty_writeback_centisecs", number(500))
            .with("drop_caches", number(0))
            .with("max_map_count", fixed_number(rumpkern::vm::ENTRIES_MAX as u64))
            .with("min_free_kbytes", number(4096))
            .with("mmap_min_addr", fixed_number(65536))
            .with("nr_hugepages", number(0))
            .with("overcommit_kbytes", number(0))
            .with("overcommit_memory", number(1))
            .with("overcommit_ratio", number(50))
            .with("page-cluster", number(3))
            .with("panic_on_oom", number(0))
            .with("swappiness", number(60))
            .with("vfs_cache_pressure", number(100)),
    )
}

fn file_systems() -> Entry {
    let epoll = Fixed::new().with("max_user_watches", number(1 << 20));
    let inotify = Fixed::new()
        .with("max_queued_events", number(16384))
        .with("max_user_instances", number(128))
        .with("max_user_watches", number(1 << 16));
    let queues = Fixed::new()
        .with("msg_default", number(10))
        .with("msg_max", number(10))
        .with("msgsize_default", number(8192))
        .with("msgsize_max", number(8192))
        .with("queues_max", number(256));
    Entry::directory(
        Fixed::new()
            .with("aio-max-nr", number(65536))
            .with("aio-nr", fixed_number(0))
            .with("epoll", Entry::directory(epoll))
            .with("file-max", number(i64::MAX as u64))
            .with("file-nr", Entry::constant("0\t0\t9223372036854775807\n"))
            .with("inotify", Entry::directory(inotify))
            .with("mount-max", number(100_000))
            .with("mqueue", Entry::directory(queues))
            .with("nr_open", number(1 << 20))
            .with("overflowgid", number(65534))
            .with("overflowuid", number(65534))
            .with("pipe-max-size", fixed_number(pipe::MAX_CAPACITY as u64))
            .with("pipe-user-pages-hard", number(0))
            .with("pipe-user-pages-soft", number(16384))
            .with("protected_fifos", number(0))
            .with("protected_hardlinks", number(0))
            .with("protected_regular", number(0))
            .with("protected_symlinks", number(0))
            .with("suid_dumpable", number(0)),
    )
}
