//! The trace of a run: what is traced, and where it goes.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    thread,
};

use image::{
    command_line::TRACE_CALLS,
    system_calls::{self, Filter},
};
use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_setfl, mknodat};

/// What is in front of a traced line on standard error.
pub const MARK: &[u8] = b"[trace] ";

/// A trace that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// The kernel's word.
    pub word: String,
    /// The file that it goes to; standard error if absent.
    pub output: Option<PathBuf>,
}

/// A trace that there isn't.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// Not of system calls.
    #[error("`{0}` can't be traced: only `syscalls` can, and `syscalls=FILTER`")]
    What(String),
    /// No such call or class.
    #[error("no system call or class of them is called `{name}`{}; the classes are {}",
        nearest.map(|nearest| format!(" (`{nearest}`?)")).unwrap_or_default(), classes())]
    Call {
        /// The word.
        name: String,
        /// What may have been meant.
        nearest: Option<&'static str>,
    },
}

fn classes() -> String {
    system_calls::CLASSES.map(|(name, _)| name).join(", ")
}

/// Reads `syscalls[=FILTER]`; returns the kernel's word.
pub fn parse(text: &str) -> Result<String, Unknown> {
    let (what, filter) = text.split_once('=').unwrap_or((text, ""));
    if what != "syscalls" {
        return Err(Unknown::What(what.into()));
    }
    if let Err(system_calls::Unknown { name }) = Filter::parse(filter) {
        let names = system_calls::all().map(|call| call.name);
        let nearest = names
            .chain(system_calls::CLASSES.iter().map(|(name, _)| *name))
            .map(|known| (crate::configs::distance(name, known), known))
            .min()
            .filter(|(distance, _)| *distance <= 3);
        return Err(Unknown::Call { name: name.into(), nearest: nearest.map(|(_, known)| known) });
    }
    Ok(if filter.is_empty() { TRACE_CALLS.into() } else { format!("{TRACE_CALLS}:{filter}") })
}

/// Copies a trace to standard error while the machine runs.
#[derive(Debug)]
pub struct Copier {
    /// Keeps the reader from the end until QEMU has ended.
    writer: File,
    thread: thread::JoinHandle<()>,
}

impl Copier {
    /// Makes `path`, a pipe that QEMU will write to, and reads it; `mark` is put in front of each line.
    pub fn start(path: &Path, mark: &'static [u8]) -> io::Result<Self> {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let reader = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
        let writer = OpenOptions::new().write(true).open(path)?;
        fcntl_setfl(&reader, OFlags::empty())?;
        let thread = thread::spawn(move || {
            let mut reader = BufReader::new(reader);
            let mut line = mark.to_vec();
            while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                // Whoever closed our standard error doesn't want it.
                let _ = io::stderr().write_all(&line);
                line.truncate(mark.len());
            }
        });
        Ok(Copier { writer, thread })
    }

    /// QEMU has ended: copies the rest.
    pub fn finish(self) {
        drop(self.writer);
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        assert_eq!(parse("syscalls").as_deref(), Ok("trace=syscalls"));
        assert_eq!(parse("syscalls=network,!accept4").as_deref(), Ok("trace=syscalls:network,!accept4"));
        let message = |text| parse(text).expect_err("wrong").to_string();
        assert!(message("syscalls=opnat").contains("(`openat`?)"), "{}", message("syscalls=opnat"));
        assert!(message("syscalls=netwrok").contains("(`network`?)"));
        assert!(message("syscalls=completely_unknown").contains("file, desc, network"));
        assert!(message("functions").starts_with("`functions` can't be traced"));
    }
}
