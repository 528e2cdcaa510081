//! Tracing of system calls, as strace(1) shows them; asked for by the kernel's word `trace=syscalls[:FILTER]`.
//!
//! A line is written when a call has ended. The calls that are under way when the machine stops come then.

mod format;

use alloc::{
    collections::BTreeMap,
    string::{String, ToString},
};
use core::{
    fmt::Write,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use image::{
    command_line::{CommandLine, TRACE_CALLS},
    system_calls::{Filter, LIMIT},
};
use rumpkern::{Errno, Result};
use rumpuser::{rumpuser_clock_monotonic, rumpuser_trace_write, sync::Mutex};

use crate::{console, task::Task};

use format::Call;

static ON: AtomicBool = AtomicBool::new(false);
/// A bit for each call that is traced.
static CALLS: [AtomicU64; LIMIT / 64] = [const { AtomicU64::new(0) }; LIMIT / 64];
/// The calls under way, as far as they are known, by task.
static UNDER_WAY: Mutex<BTreeMap<i32, String>> = Mutex::new(BTreeMap::new());

/// Starts tracing if the command line asks for it.
pub fn start(words: &CommandLine) {
    let Some(rest) = words.value(TRACE_CALLS) else { return };
    let text = match rest {
        [] => Some(""),
        [b':', filter @ ..] => core::str::from_utf8(filter).ok(),
        _ => None,
    };
    let filter = match text.map(Filter::parse) {
        Some(Ok(filter)) => filter,
        Some(Err(error)) => {
            return console::message(format_args!("nothing is traced: {error}"));
        }
        None => return console::message(format_args!("nothing is traced: the filter is no text")),
    };
    for (word, bits) in CALLS.iter().zip(filter.bits()) {
        word.store(*bits, Ordering::Relaxed);
    }
    ON.store(true, Ordering::Release);
}

/// Whether anything is traced: all that tracing costs when it is off.
#[inline(always)]
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Makes a system call by `serve` and writes it down if the filter has it.
#[cold]
pub fn call(
    task: &Task,
    number: u64,
    arguments: &[u64; 6],
    serve: fn(&Task, u64, &[u64; 6]) -> Result<usize>,
) -> Result<usize> {
    let bits = CALLS.get(number as usize / 64).map_or(0, |word| word.load(Ordering::Relaxed));
    if bits >> (number % 64) & 1 == 0 {
        return serve(task, number, arguments);
    }
    let mut call = Call::new(number, arguments);
    call.read_inputs();
    let tid = task.tid();
    UNDER_WAY.lock().insert(tid, call.to_string());
    let start = rumpuser_clock_monotonic();
    let result = serve(task, number, arguments);
    let end = rumpuser_clock_monotonic();
    UNDER_WAY.lock().remove(&tid);
    let ends = result == Err(Errno::EINTR) && task.dying.load(Ordering::Relaxed);
    if !ends {
        call.read_outputs(&result);
    }
    let mut line = head(start, tid);
    let shown = if ends { None } else { Some(&result) };
    call.write_line(&mut line, shown, end.saturating_sub(start));
    rumpuser_trace_write(&line);
    result
}

/// The beginning of a line: time since boot and thread.
fn head(time: u64, tid: i32) -> String {
    let mut line = String::new();
    // Writing to a string cannot fail.
    let _ = write!(line, "{}.{:06} {tid} ", time / 1_000_000_000, time / 1000 % 1_000_000);
    line
}

/// The machine is about to stop: writes the calls that have not ended.
pub fn finish() {
    let now = rumpuser_clock_monotonic();
    for (tid, text) in core::mem::take(&mut *UNDER_WAY.lock()) {
        let mut line = head(now, tid);
        line.push_str(&text);
        line.push_str(" <unfinished ...>\n");
        rumpuser_trace_write(&line);
    }
}
