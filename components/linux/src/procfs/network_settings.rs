//! /proc/sys/net. What the stack asks for can be changed; the rest is kept, for programs that write and read back.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::sync::atomic::{AtomicI32, AtomicU16, AtomicUsize, Ordering::Relaxed};

use rumpkern::{Errno, Result};
use rumpnet::{
    base::limits,
    inet::{self, options::DEFAULT_HOPS},
    ports,
    raw::PING_GROUPS,
    tcp::{Algorithm, listener::BACKLOG_LIMIT, tunables},
    unix::DATAGRAMS,
};
use rumpvfs::generated::{Entry, Fixed};

use super::settings::{fixed_number, number, parse};

/// A setting of the stack: shown, and changed, as a number.
fn setting(
    read: impl Fn() -> u64 + Send + Sync + 'static,
    write: impl Fn(u64) -> Result<()> + Send + Sync + 'static,
) -> Entry {
    Entry::writable(move || Ok(format!("{}\n", read()).into_bytes()), move |text| write(parse(text)?))
}

fn size(cell: &'static AtomicUsize) -> Entry {
    let write = move |value| {
        let value = usize::try_from(value).ok().filter(|&value| value <= i32::MAX as usize);
        cell.store(value.ok_or(Errno::EINVAL)?, Relaxed);
        Ok(())
    };
    setting(move || cell.load(Relaxed) as u64, write)
}

/// The longest accept queue, of all families.
fn backlog() -> Entry {
    setting(
        || limits::BACKLOG_MOST.load(Relaxed) as u64,
        |value| {
            let value = usize::try_from(value).ok().filter(|&value| value <= i32::MAX as usize);
            let value = value.ok_or(Errno::EINVAL)?;
            limits::BACKLOG_MOST.store(value, Relaxed);
            BACKLOG_LIMIT.store(value, Relaxed);
            Ok(())
        },
    )
}

fn all_families() -> Entry {
    Entry::directory(
        Fixed::new()
            .with("busy_poll", number(0))
            .with("busy_read", number(0))
            .with("default_qdisc", Entry::constant("fq\n"))
            .with("dev_weight", fixed_number(64))
            .with("netdev_budget", number(300))
            .with("netdev_max_backlog", number(1000))
            .with("optmem_max", number(20480))
            .with("rmem_default", size(&limits::RECEIVE_DEFAULT))
            .with("rmem_max", size(&limits::RECEIVE_MOST))
            .with("somaxconn", backlog())
            .with("wmem_default", size(&limits::SEND_DEFAULT))
            .with("wmem_max", size(&limits::SEND_MOST)),
    )
}

/// Several numbers in a line.
fn numbers<const COUNT: usize>(
    read: impl Fn() -> [u32; COUNT] + Send + Sync + 'static,
    write: impl Fn([u32; COUNT]) -> Result<()> + Send + Sync + 'static,
) -> Entry {
    Entry::writable(
        move || {
            let words: Vec<String> = read().iter().map(u32::to_string).collect();
            Ok(format!("{}\n", words.join("\t")).into_bytes())
        },
        move |text| {
            let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
            let numbers: Vec<u32> = text
                .split_whitespace()
                .map(|word| word.parse().map_err(|_| Errno::EINVAL))
                .collect::<Result<_>>()?;
            write(numbers.try_into().map_err(|_| Errno::EINVAL)?)
        },
    )
}

/// `tcp_rmem` and `tcp_wmem`.
fn sizes(sizes: &'static tunables::Sizes) -> Entry {
    numbers(
        || [0, 1, 2].map(|index| sizes[index].load(Relaxed)),
        |new| {
            if new.iter().any(|&size| size == 0 || size > i32::MAX as u32) {
                return Err(Errno::EINVAL);
            }
            sizes.iter().zip(new).for_each(|(size, new)| size.store(new, Relaxed));
            Ok(())
        },
    )
}

fn congestion_control() -> Entry {
    Entry::writable(
        || Ok(format!("{}\n", tunables::algorithm().name()).into_bytes()),
        |text| {
            tunables::set_algorithm(Algorithm::from_name(text.trim_ascii()).ok_or(Errno::ENOENT)?);
            Ok(())
        },
    )
}

fn hops() -> Entry {
    let cell: &'static AtomicI32 = &DEFAULT_HOPS;
    setting(
        move || cell.load(Relaxed) as u64,
        move |value| match value {
            1..=255 => {
                cell.store(value as i32, Relaxed);
                Ok(())
            }
            _ => Err(Errno::EINVAL),
        },
    )
}

fn first_unprivileged_port() -> Entry {
    let cell: &'static AtomicU16 = &inet::FIRST_UNPRIVILEGED_PORT;
    setting(
        move || u64::from(cell.load(Relaxed)),
        move |value| {
            cell.store(u16::try_from(value).map_err(|_| Errno::EINVAL)?, Relaxed);
            Ok(())
        },
    )
}

/// The groups whose members may make ping sockets.
fn ping_groups() -> Entry {
    numbers(
        || {
            let range = PING_GROUPS.load(Relaxed);
            [(range >> 32) as u32, range as u32]
        },
        |[first, last]| {
            PING_GROUPS.store(u64::from(first) << 32 | u64::from(last), Relaxed);
            Ok(())
        },
    )
}

fn ipv4() -> Entry {
    // Many programs look at these, and some set them; the stack has its own mind about them.
    let kept = [
        ("icmp_echo_ignore_all", 0),
        ("icmp_echo_ignore_broadcasts", 1),
        ("icmp_ratelimit", 1000),
        ("igmp_max_memberships", 20),
        ("ip_forward", 0),
        ("ip_no_pmtu_disc", 0),
        ("ip_nonlocal_bind", 0),
        ("tcp_autocorking", 0),
        ("tcp_fastopen", 0),
        ("tcp_max_orphans", 16384),
        ("tcp_mtu_probing", 0),
        ("tcp_no_metrics_save", 1),
        ("tcp_orphan_retries", 0),
        ("tcp_retries1", 3),
        ("tcp_rfc1337", 0),
        ("tcp_tw_reuse", 2),
    ];
    let mut fixed = Fixed::new()
        .with("ip_default_ttl", hops())
        .with(
            "ip_local_port_range",
            numbers(
                || {
                    let (first, last) = ports::ephemeral();
                    [u32::from(first), u32::from(last)]
                },
                |[first, last]| {
                    let port = |number| u16::try_from(number).map_err(|_| Errno::EINVAL);
                    ports::set_ephemeral(port(first)?, port(last)?)
                },
            ),
        )
        .with("ip_local_reserved_ports", Entry::constant("\n"))
        .with("ip_unprivileged_port_start", first_unprivileged_port())
        .with("ping_group_range", ping_groups())
        .with("tcp_allowed_congestion_control", Entry::constant("reno cubic\n"))
        .with("tcp_available_congestion_control", Entry::constant("reno cubic\n"))
        .with("tcp_congestion_control", congestion_control())
        .with("tcp_rmem", sizes(&tunables::RECEIVE_BUFFER))
        .with("tcp_wmem", sizes(&tunables::SEND_BUFFER));
    for &tunable in tunables::ALL {
        let write = |value| if tunable.set(value) { Ok(()) } else { Err(Errno::EINVAL) };
        fixed.add(tunable.name, setting(|| tunable.get().into(), write));
    }
    for (name, value) in kept {
        fixed.add(name, number(value));
    }
    Entry::directory(fixed)
}

fn ipv6() -> Entry {
    let all = || {
        Entry::directory(
            Fixed::new()
                .with("accept_ra", number(1))
                .with("autoconf", number(1))
                .with("disable_ipv6", number(0))
                .with("forwarding", number(0)),
        )
    };
    Entry::directory(
        Fixed::new()
            .with("bindv6only", number(0))
            .with("conf", Entry::directory(Fixed::new().with("all", all()).with("default", all()))),
    )
}

/// The directory.
pub(super) fn directory() -> Entry {
    let unix = Fixed::new().with("max_dgram_qlen", size(&DATAGRAMS));
    Entry::directory(
        Fixed::new()
            .with("core", all_families())
            .with("ipv4", ipv4())
            .with("ipv6", ipv6())
            .with("unix", Entry::directory(unix)),
    )
}
