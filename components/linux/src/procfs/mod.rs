//! /proc: processes, and what the system says about itself, as far as real programs read them.

mod activity;
mod cpuinfo;
mod descriptors;
mod maps;
mod mounts;
mod network;
mod network_settings;
mod process;
mod settings;
mod status;
mod system;
#[cfg(test)]
mod tests;

use alloc::{format, sync::Arc, vec::Vec};

use rumpkern::{Errno, Result};
use rumpvfs::{
    generated::{Directory, Entry, Fixed, GeneratedFs},
    vnode::{FileSystem, Kind},
};

use crate::{process::Process, registry, task::Task};

pub(crate) use status::list as cpu_list;
pub use system::set_command_line;

/// `f_type` of statfs(2).
const MAGIC: u64 = 0x9fa0;
/// Where the processes begin among the entries of the root.
const PROCESSES: u64 = 1 << 16;

/// A new /proc. Any number of them show the same.
pub fn new() -> Arc<dyn FileSystem> {
    GeneratedFs::new("proc", MAGIC, 0, Arc::new(Root { fixed: fixed() }))
}

fn fixed() -> Fixed {
    let mut fixed = Fixed::new()
        .with("self", Entry::link(|| Ok(format!("{}", current()?.process().pid()).into_bytes())))
        .with(
            "thread-self",
            Entry::link(|| {
                let task = current()?;
                Ok(format!("{}/task/{}", task.process().pid(), task.tid()).into_bytes())
            }),
        )
        .with("mounts", Entry::link(|| Ok(b"self/mounts".to_vec())))
        .with("net", Entry::link(|| Ok(b"self/net".to_vec())))
        .with("cpuinfo", Entry::text(cpuinfo::text))
        .with("sys", settings::directory());
    system::add(&mut fixed);
    activity::add(&mut fixed);
    fixed
}

/// The task that reads; kernel threads have no business here.
fn current() -> Result<Arc<Task>> {
    Task::current().ok_or(Errno::ENOENT)
}

/// Parses a decimal identifier as the names in /proc are written.
fn identifier(name: &[u8]) -> Option<i32> {
    let text = core::str::from_utf8(name).ok()?;
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if plain { text.parse().ok() } else { None }
}

struct Root {
    fixed: Fixed,
}

impl Directory for Root {
    fn lookup(&self, name: &[u8]) -> Option<Entry> {
        let Some(pid) = identifier(name) else { return self.fixed.lookup(name) };
        // Any thread's number works, though only processes are listed.
        let process =
            registry::process(pid).or_else(|| registry::task(pid).map(|task| task.process().clone()))?;
        Some(Entry::directory(process::ProcessDirectory::new(&process)))
    }

    fn names(&self) -> Vec<(u64, Vec<u8>, Kind)> {
        let mut names = self.fixed.names();
        names.extend(registry::processes().iter().map(|process| {
            let pid = process.pid();
            (PROCESSES + pid as u64, format!("{pid}").into_bytes(), Kind::Directory)
        }));
        names
    }
}

/// The first of a process's tasks: the one that stands for it.
fn leader(process: &Arc<Process>) -> Option<Arc<Task>> {
    let tasks = process.tasks();
    tasks.iter().find(|task| task.tid() == process.pid()).or_else(|| tasks.first()).cloned()
}
