//! /proc/PID/stat, statm, status and limits.

use alloc::{format, string::String, sync::Arc, vec::Vec};
use core::{fmt::Write, sync::atomic::Ordering};

use rumpkern::Result;
use rumpuser::memory::PAGE_SIZE;

use crate::{
    exec_image::StackLayout,
    limits::INFINITY,
    process::{Process, Usage},
    signal::SignalSet,
    task::Task,
};

use super::process::Subject;

/// Clock ticks per second (sysconf(_SC_CLK_TCK)).
pub(super) const TICKS: u64 = 100;
/// Nanoseconds in a clock tick.
pub(super) const TICK: u64 = 1_000_000_000 / TICKS;

/// The state's letter and word.
fn state(process: &Process, task: Option<&Arc<Task>>) -> (char, &'static str) {
    // Process 1 has no tasks, it only looks after others.
    if process.is_zombie() || task.is_none() && process.pid() != 1 {
        ('Z', "zombie")
    } else if process.job.lock().stopped_by != 0 {
        ('T', "stopped")
    } else if task.is_some_and(|task| task.is_current()) {
        ('R', "running")
    } else {
        ('S', "sleeping")
    }
}

/// CPU time of the tasks that run and of those that have ended: (user, kernel) nanoseconds.
fn times(process: &Process, only: Option<&Arc<Task>>) -> (u64, u64) {
    let of = |task: &Arc<Task>| task.thread().map_or((0, 0), |thread| thread.cpu_time());
    if let Some(task) = only {
        return of(task);
    }
    let ended = *process.usage.lock();
    process
        .tasks()
        .iter()
        .map(of)
        .fold((ended.user, ended.system), |(user, system), (more, kernel)| (user + more, system + kernel))
}

/// The sets of ignored and caught signals.
fn handled(process: &Process) -> (u64, u64) {
    let actions = process.actions();
    let (mut ignored, mut caught) = (0, 0);
    for signal in 1..=64 {
        match actions.get(signal).handler {
            0 => {}
            1 => ignored |= 1 << (signal - 1),
            _ => caught |= 1 << (signal - 1),
        }
    }
    (ignored, caught)
}

fn pending(process: &Process, task: Option<&Arc<Task>>) -> (SignalSet, SignalSet) {
    let own = task.map_or(SignalSet::EMPTY, |task| task.signals.lock().pending.set());
    (own, process.pending.lock().set())
}

/// `stat`: one line of 52 fields (proc(5)).
pub(super) fn stat(subject: &Subject) -> Result<Vec<u8>> {
    let process = subject.process()?;
    let task = subject.task().ok();
    let usage = process.space().map(|space| space.usage()).unwrap_or_default();
    let layout = process.space().and_then(|space| StackLayout::of(&space));
    let only = if subject.is_task() { task.as_ref() } else { None };
    let (user, system) = times(&process, only);
    let Usage { user: child_user, system: child_system, .. } = *process.children_usage.lock();
    let (ignored, caught) = handled(&process);
    let (own, _) = pending(&process, task.as_ref());
    let name = task.as_ref().map_or_else(String::new, |task| task.name());
    let number = task.as_ref().filter(|_| subject.is_task()).map_or(process.pid(), |task| task.tid());
    let blocked = task.as_ref().map_or(0, |task| task.mask().0);
    let processor = task.as_ref().and_then(|task| task.thread()).map_or(0, |thread| thread.cpu());
    let threads = process.tasks().len();
    let (arguments, environment, stack) = layout.map_or((0..0, 0..0, 0), |layout| {
        (layout.arguments.clone(), layout.environment.clone(), layout.stack_pointer)
    });
    // Addresses that only debuggers ask for, and figures that nobody counts here, are 0.
    let text = format!(
        "{number} ({name}) {state} {parent} {group} {session} 0 -1 4194304 {faults} 0 0 0 \
         {user} {system} {child_user} {child_system} 20 0 {threads} 0 {start} {total} {resident} {limit} \
         1 1 {stack} 0 0 {pending} {blocked} {ignored} {caught} 0 0 0 {exit_signal} {processor} 0 0 0 0 0 \
         0 0 0 {argument_start} {argument_end} {environment_start} {environment_end} {status}\n",
        state = state(&process, task.as_ref()).0,
        parent = process.parent_pid(),
        group = process.group(),
        session = process.session(),
        faults = process.faults.load(Ordering::Relaxed),
        user = user / TICK,
        system = system / TICK,
        child_user = child_user / TICK,
        child_system = child_system / TICK,
        start = process.started / TICK,
        total = usage.total,
        resident = usage.resident / PAGE_SIZE,
        limit = u64::MAX,
        // The old fields have room for 31 signals.
        pending = own.0 & 0x7fff_ffff,
        blocked = blocked & 0x7fff_ffff,
        ignored = ignored & 0x7fff_ffff,
        caught = caught & 0x7fff_ffff,
        exit_signal = process.exit_signal.load(Ordering::Relaxed),
        argument_start = arguments.start,
        argument_end = arguments.end,
        environment_start = environment.start,
        environment_end = environment.end,
        status = process.status.load(Ordering::Relaxed),
    );
    Ok(text.into_bytes())
}

/// `statm`: sizes in pages.
pub(super) fn statm(subject: &Subject) -> Result<Vec<u8>> {
    let usage = subject.space()?.map(|space| space.usage()).unwrap_or_default();
    let pages = |bytes: usize| bytes / PAGE_SIZE;
    let (total, resident) = (pages(usage.total), pages(usage.resident));
    let (text, data) = (pages(usage.text), pages(usage.data + usage.stack));
    Ok(format!("{total} {resident} 0 {text} 0 {data} 0\n").into_bytes())
}

/// `status`, for people and for programs that parse what people read.
pub(super) fn status(subject: &Subject) -> Result<Vec<u8>> {
    let process = subject.process()?;
    let task = subject.task().ok();
    let mut text = String::new();
    let number = task.as_ref().filter(|_| subject.is_task()).map_or(process.pid(), |task| task.tid());
    let (letter, word) = state(&process, task.as_ref());
    if let Some(task) = &task {
        let umask = task.shared_filesystem().map_or(0, |context| context.umask());
        let _ = write!(text, "Name:\t{}\nUmask:\t{umask:04o}\n", escape(&task.name()));
    }
    let _ = write!(
        text,
        "State:\t{letter} ({word})\nTgid:\t{}\nNgid:\t0\nPid:\t{number}\nPPid:\t{}\nTracerPid:\t0\n",
        process.pid(),
        process.parent_pid(),
    );
    if let Some(task) = &task {
        let who = task.shared_credentials();
        let size = task.shared_files().map_or(0, |files| files.size().max(64));
        let _ = write!(
            text,
            "Uid:\t{}\t{}\t{}\t{}\nGid:\t{}\t{}\t{}\t{}\nFDSize:\t{size}\nGroups:\t",
            who.uid, who.euid, who.suid, who.fsuid, who.gid, who.egid, who.sgid, who.fsgid,
        );
        for group in &who.groups {
            let _ = write!(text, "{group} ");
        }
    }
    let _ = write!(
        text,
        "\nNStgid:\t{pid}\nNSpid:\t{number}\nNSpgid:\t{}\nNSsid:\t{}\n",
        process.group(),
        process.session(),
        pid = process.pid(),
    );
    if let Some(space) = process.space() {
        let usage = space.usage();
        for (name, bytes) in [
            ("VmPeak", usage.peak_total),
            ("VmSize", usage.total),
            ("VmLck", usage.locked),
            ("VmPin", 0),
            ("VmHWM", usage.peak_resident),
            ("VmRSS", usage.resident),
            ("RssAnon", usage.resident),
            ("RssFile", 0),
            ("RssShmem", 0),
            ("VmData", usage.data),
            ("VmStk", usage.stack),
            ("VmExe", usage.text),
            ("VmLib", 0),
            ("VmPTE", usage.tables),
            ("VmSwap", 0),
        ] {
            let _ = writeln!(text, "{name}:\t{:>8} kB", bytes / 1024);
        }
    }
    let (own, shared) = pending(&process, task.as_ref());
    let (ignored, caught) = handled(&process);
    let queue_limit = process.limits().0[11].soft;
    let _ = write!(
        text,
        "CoreDumping:\t0\nTHP_enabled:\t1\nThreads:\t{}\nSigQ:\t0/{queue_limit}\nSigPnd:\t{:016x}\n\
         ShdPnd:\t{:016x}\nSigBlk:\t{:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n",
        process.tasks().len(),
        own.0,
        shared.0,
        task.as_ref().map_or(0, |task| task.mask().0),
    );
    if let Some(task) = &task {
        let who = task.shared_credentials();
        for (name, set) in [
            ("CapInh", who.inheritable),
            ("CapPrm", who.permitted),
            ("CapEff", who.effective),
            ("CapBnd", who.bounding),
            ("CapAmb", who.ambient),
        ] {
            let _ = writeln!(text, "{name}:\t{set:016x}");
        }
        let cpus = rumpuser::rumpuser_cpu_count();
        let all = if cpus >= 64 { u64::MAX } else { (1 << cpus) - 1 };
        let allowed = task.thread().map_or(all, |thread| thread.affinity() & all);
        let _ = write!(
            text,
            "NoNewPrivs:\t0\nSeccomp:\t0\nSeccomp_filters:\t0\nSpeculation_Store_Bypass:\tnot vulnerable\n\
             SpeculationIndirectBranch:\tnot affected\nCpus_allowed:\t{allowed:x}\nCpus_allowed_list:\t{}\n\
             Mems_allowed:\t1\nMems_allowed_list:\t0\n",
            list(allowed),
        );
    }
    text.push_str("voluntary_ctxt_switches:\t0\nnonvoluntary_ctxt_switches:\t0\n");
    Ok(text.into_bytes())
}

/// A set of CPUs as Linux lists them: `0-2,5`.
pub(crate) fn list(set: u64) -> String {
    let mut text = String::new();
    let mut cpu = 0;
    while cpu < 64 {
        if set >> cpu & 1 == 0 {
            cpu += 1;
            continue;
        }
        let first = cpu;
        while cpu + 1 < 64 && set >> (cpu + 1) & 1 == 1 {
            cpu += 1;
        }
        let comma = if text.is_empty() { "" } else { "," };
        let _ =
            if first == cpu { write!(text, "{comma}{first}") } else { write!(text, "{comma}{first}-{cpu}") };
        cpu += 1;
    }
    text
}

/// A name without characters that would break the lines.
fn escape(name: &str) -> String {
    name.replace('\\', "\\\\").replace('\n', "\\n")
}

/// `limits`.
pub(super) fn limits(subject: &Subject) -> Result<Vec<u8>> {
    const ROWS: [(&str, &str); 16] = [
        ("Max cpu time", "seconds"),
        ("Max file size", "bytes"),
        ("Max data size", "bytes"),
        ("Max stack size", "bytes"),
        ("Max core file size", "bytes"),
        ("Max resident set", "bytes"),
        ("Max processes", "processes"),
        ("Max open files", "files"),
        ("Max locked memory", "bytes"),
        ("Max address space", "bytes"),
        ("Max file locks", "locks"),
        ("Max pending signals", "signals"),
        ("Max msgqueue size", "bytes"),
        ("Max nice priority", ""),
        ("Max realtime priority", ""),
        ("Max realtime timeout", "us"),
    ];
    let limits = subject.process()?.limits();
    let shown = |value: u64| if value == INFINITY { String::from("unlimited") } else { format!("{value}") };
    let mut text = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for ((name, unit), limit) in ROWS.iter().zip(limits.0) {
        let _ = writeln!(text, "{name:<25} {:<20} {:<20} {unit:<10}", shown(limit.soft), shown(limit.hard));
    }
    Ok(text.into_bytes())
}
