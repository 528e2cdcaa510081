//! Where in a program something happened, for messages.

use alloc::{format, string::String};

use crate::process::Process;

/// ` (in libc.so.6+0x1234)` for an address of a process; empty if no file is mapped there.
pub fn place(process: &Process, address: usize) -> String {
    let Some(space) = process.space() else { return String::new() };
    let entries = space.report(false);
    let Some(entry) = entries.iter().find(|entry| entry.range.contains(&address)) else {
        return String::new();
    };
    let Some(name) = &entry.name else { return String::new() };
    let base = name.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let offset = (address - entry.range.start) as u64 + entry.offset;
    format!(" (in {}+{offset:#x})", base.escape_ascii())
}
