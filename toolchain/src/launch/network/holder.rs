//! Finds the process that has a port or a tap of the host, from /proc.

use std::{fmt, fs, path::Path};

use procfs::process::{self, FDTarget};

use super::{Protocol, Publish};

/// Who has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A process.
    Process {
        /// Its number.
        id: i32,
        /// Its name.
        name: String,
    },
    /// A process of somebody else, or in another namespace.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Process { id, name } => write!(formatter, "process {id} ({name})"),
            Holder::Unknown => {
                write!(formatter, "a process that only root may see (sudo ss -tulpn shows it)")
            }
        }
    }
}

/// Who listens on the port that is to be published.
pub fn of_port(publish: &Publish) -> Holder {
    let inodes = match publish.protocol {
        Protocol::Tcp => listening(publish.host),
        Protocol::Udp => bound(publish.host),
    };
    first_process(|process| {
        process.fd().is_ok_and(|files| {
            files
                .flatten()
                .any(|file| matches!(file.target, FDTarget::Socket(inode) if inodes.contains(&inode)))
        })
    })
}

/// The sockets that listen on a TCP port.
fn listening(port: u16) -> Vec<u64> {
    let tables = [procfs::net::tcp(), procfs::net::tcp6()];
    let entries = tables.into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.local_address.port() == port && entry.state == procfs::net::TcpState::Listen)
        .map(|entry| entry.inode)
        .collect()
}

/// The sockets that are bound to a UDP port.
fn bound(port: u16) -> Vec<u64> {
    let tables = [procfs::net::udp(), procfs::net::udp6()];
    let entries = tables.into_iter().flatten().flatten();
    entries.filter(|entry| entry.local_address.port() == port).map(|entry| entry.inode).collect()
}

/// Who has a tap open, if anybody.
pub fn of_tap(name: &str) -> Option<Holder> {
    // Another network namespace has taps of its own, perhaps of the same name.
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let own = namespace("self");
    let holder = first_process(|process| {
        if namespace(&process.pid.to_string()) != own {
            return false;
        }
        let folder = format!("/proc/{}/fdinfo", process.pid);
        // The tun driver tells the interface of a file: "iff:\tNAME".
        let ours = |path: &Path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.lines().any(|line| line.strip_prefix("iff:").is_some_and(|rest| rest.trim() == name))
        };
        process.fd().is_ok_and(|files| {
            files.flatten().any(|file| {
                matches!(&file.target, FDTarget::Path(path) if path.ends_with("net/tun"))
                    && ours(&Path::new(&folder).join(file.fd.to_string()))
            })
        })
    });
    (holder != Holder::Unknown).then_some(holder)
}

fn first_process(has: impl Fn(&process::Process) -> bool) -> Holder {
    let processes = process::all_processes().into_iter().flatten().flatten();
    let found = { processes }.find(has);
    match found {
        Some(process) => {
            let name = process.stat().map_or_else(|_| "?".into(), |stat| stat.comm);
            Holder::Process { id: process.pid, name }
        }
        None => Holder::Unknown,
    }
}
