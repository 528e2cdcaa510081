//! /proc/PID/mounts and mountinfo.

use alloc::{format, vec::Vec};

use rumpkern::{Errno, Result};
use rumpvfs::{mount::Location, vnode::device_parts};

use super::process::Subject;

fn root(subject: &Subject) -> Result<Location> {
    subject.task()?.shared_filesystem().ok_or(Errno::EINVAL)?.root()
}

/// Blanks and backslashes are written in octal, as getmntent(3) reads them.
fn escape(text: &mut Vec<u8>, word: &[u8]) {
    for &byte in word {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\\') {
            text.extend_from_slice(format!("\\{byte:03o}").as_bytes());
        } else {
            text.push(byte);
        }
    }
}

/// `mounts`.
pub(super) fn mounts(subject: &Subject) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for row in root(subject)?.mount_rows() {
        escape(&mut text, &row.source);
        text.push(b' ');
        escape(&mut text, &row.point);
        let comma = if row.options.is_empty() { "" } else { "," };
        let rest = format!(" {} {}{comma}{} 0 0\n", row.kind, row.flags, row.options);
        text.extend_from_slice(rest.as_bytes());
    }
    Ok(text)
}

/// `mountinfo`.
pub(super) fn mountinfo(subject: &Subject) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for row in root(subject)?.mount_rows() {
        let (major, minor) = device_parts(row.device);
        text.extend_from_slice(format!("{} {} {major}:{minor} ", row.id, row.parent).as_bytes());
        escape(&mut text, &row.root);
        text.push(b' ');
        escape(&mut text, &row.point);
        text.extend_from_slice(format!(" {} - {} ", row.flags, row.kind).as_bytes());
        escape(&mut text, &row.source);
        let access = if row.flags.starts_with("ro") { "ro" } else { "rw" };
        let comma = if row.options.is_empty() { "" } else { "," };
        text.extend_from_slice(format!(" {access}{comma}{}\n", row.options).as_bytes());
    }
    Ok(text)
}
