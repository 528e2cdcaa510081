//! /proc/PID and /proc/PID/task/TID.

use alloc::{
    format,
    sync::{Arc, Weak},
    vec::Vec,
};

use rumpkern::{Errno, Result, uio::Sink};
use rumpuser::memory::PAGE_SIZE;
use rumpvfs::{
    generated::{Directory, Entry},
    mount::Location,
    vnode::Kind,
};

use crate::{exec_image::StackLayout, process::Process, space::Space, task::Task};

use super::{current, descriptors, identifier, leader, maps, mounts, network, status};

/// What the entries of a process or a task refer to; they last no longer than it does.
#[derive(Clone)]
pub(super) struct Subject {
    process: Weak<Process>,
    /// The task, in `task/`.
    task: Option<Weak<Task>>,
}

impl Subject {
    /// The process. ESRCH once it is gone.
    pub(super) fn process(&self) -> Result<Arc<Process>> {
        self.process.upgrade().ok_or(Errno::ESRCH)
    }

    /// The task, or the one that stands for the process. ESRCH once it has ended.
    pub(super) fn task(&self) -> Result<Arc<Task>> {
        match &self.task {
            Some(task) => task.upgrade().ok_or(Errno::ESRCH),
            None => leader(&self.process()?).ok_or(Errno::ESRCH),
        }
    }

    /// The task, if it is one's directory.
    pub(super) fn is_task(&self) -> bool {
        self.task.is_some()
    }

    /// The address space; a process that has ended has none.
    pub(super) fn space(&self) -> Result<Option<Arc<Space>>> {
        Ok(self.process()?.space())
    }

    fn text(&self, make: fn(&Subject) -> Result<Vec<u8>>) -> Entry {
        self.text_for(0o444, make)
    }

    fn text_for(&self, permissions: u32, make: fn(&Subject) -> Result<Vec<u8>>) -> Entry {
        let subject = self.clone();
        Entry::fallible(permissions, move || make(&subject))
    }

    fn jump(&self, text: fn(&Subject) -> Result<Vec<u8>>, target: fn(&Subject) -> Result<Location>) -> Entry {
        let (one, other) = (self.clone(), self.clone());
        Entry::Jump { text: Arc::new(move || text(&one)), target: Arc::new(move || target(&other)) }
    }
}

/// The directory of a process or a task.
pub(super) struct ProcessDirectory {
    subject: Subject,
}

impl ProcessDirectory {
    /// That of a process.
    pub(super) fn new(process: &Arc<Process>) -> Self {
        ProcessDirectory { subject: Subject { process: Arc::downgrade(process), task: None } }
    }

    fn of_task(process: &Arc<Process>, task: &Arc<Task>) -> Self {
        let task = Some(Arc::downgrade(task));
        ProcessDirectory { subject: Subject { process: Arc::downgrade(process), task } }
    }
}

impl Directory for ProcessDirectory {
    fn lookup(&self, name: &[u8]) -> Option<Entry> {
        entry(&self.subject, name)
    }

    fn names(&self) -> Vec<(u64, Vec<u8>, Kind)> {
        let count = NAMES.len() - usize::from(self.subject.is_task());
        let numbered = NAMES[..count].iter().zip(0..);
        numbered.map(|((name, kind), number)| (number, name.as_bytes().to_vec(), *kind)).collect()
    }

    fn owner(&self) -> Option<(u32, u32)> {
        let credentials = self.subject.task().ok()?.shared_credentials();
        Some((credentials.euid, credentials.egid))
    }
}

/// `task/`: the tasks of a process.
struct Tasks {
    subject: Subject,
}

impl Directory for Tasks {
    fn lookup(&self, name: &[u8]) -> Option<Entry> {
        let tid = identifier(name)?;
        let process = self.subject.process().ok()?;
        let task = process.tasks().into_iter().find(|task| task.tid() == tid)?;
        Some(Entry::directory(ProcessDirectory::of_task(&process, &task)))
    }

    fn names(&self) -> Vec<(u64, Vec<u8>, Kind)> {
        let tasks = self.subject.process().map(|process| process.tasks()).unwrap_or_default();
        let mut names: Vec<_> = tasks
            .iter()
            .map(|task| (task.tid() as u64, format!("{}", task.tid()).into_bytes(), Kind::Directory))
            .collect();
        names.sort_by_key(|&(number, _, _)| number);
        names
    }
}

/// The names in a directory of a process, in order; those behind `task` are not in a task's.
const NAMES: [(&str, Kind); 30] = [
    ("auxv", Kind::Regular),
    ("cgroup", Kind::Regular),
    ("cmdline", Kind::Regular),
    ("comm", Kind::Regular),
    ("cwd", Kind::Symlink),
    ("environ", Kind::Regular),
    ("exe", Kind::Symlink),
    ("fd", Kind::Directory),
    ("fdinfo", Kind::Directory),
    ("io", Kind::Regular),
    ("limits", Kind::Regular),
    ("loginuid", Kind::Regular),
    ("maps", Kind::Regular),
    ("mem", Kind::Regular),
    ("mountinfo", Kind::Regular),
    ("mounts", Kind::Regular),
    ("net", Kind::Directory),
    ("oom_adj", Kind::Regular),
    ("oom_score", Kind::Regular),
    ("oom_score_adj", Kind::Regular),
    ("personality", Kind::Regular),
    ("root", Kind::Symlink),
    ("sessionid", Kind::Regular),
    ("smaps", Kind::Regular),
    ("smaps_rollup", Kind::Regular),
    ("stat", Kind::Regular),
    ("statm", Kind::Regular),
    ("status", Kind::Regular),
    ("wchan", Kind::Regular),
    ("task", Kind::Directory),
];

fn comm(subject: &Subject) -> Entry {
    let (reader, writer) = (subject.clone(), subject.clone());
    Entry::writable(
        move || {
            let mut name = reader.task()?.name().into_bytes();
            name.push(b'\n');
            Ok(name)
        },
        move |name| {
            let task = writer.task()?;
            let end = name.iter().position(|&byte| byte == b'\n').unwrap_or(name.len());
            task.set_name(&name[..end]);
            Ok(())
        },
    )
}

/// What a name stands for. Made one by one: a lookup of `stat` need not make the others.
fn entry(subject: &Subject, name: &[u8]) -> Option<Entry> {
    Some(match name {
        b"auxv" => subject.text_for(0o400, auxv),
        b"cgroup" => Entry::constant("0::/\n"),
        b"cmdline" => subject.text(cmdline),
        b"comm" => comm(subject),
        b"cwd" => subject.jump(|subject| shown(&directory(subject)?), directory),
        b"environ" => subject.text_for(0o400, environ),
        b"exe" => subject.jump(|subject| shown(&executable(subject)?), executable),
        b"fd" => descriptors::directory(subject.clone()),
        b"fdinfo" => descriptors::information(subject.clone()),
        b"io" => subject.text_for(0o400, |_| Ok(io())),
        b"limits" => subject.text(status::limits),
        b"loginuid" | b"sessionid" => Entry::constant("4294967295"),
        b"maps" => subject.text(maps::maps),
        b"mem" => memory(subject),
        b"mountinfo" => subject.text(mounts::mountinfo),
        b"mounts" => subject.text(mounts::mounts),
        b"net" => network::directory(),
        b"oom_adj" => Entry::writable(|| Ok(b"0\n".to_vec()), |text| setting(text, -17, 15)),
        b"oom_score" => Entry::constant("0\n"),
        b"oom_score_adj" => Entry::writable(|| Ok(b"0\n".to_vec()), |text| setting(text, -1000, 1000)),
        b"personality" => Entry::constant("00000000\n"),
        b"root" => subject.jump(|subject| shown(&root(subject)?), root),
        b"smaps" => subject.text(maps::smaps),
        b"smaps_rollup" => subject.text(maps::rollup),
        b"stat" => subject.text(status::stat),
        b"statm" => subject.text(status::statm),
        b"status" => subject.text(status::status),
        b"task" if !subject.is_task() => Entry::directory(Tasks { subject: subject.clone() }),
        b"wchan" => Entry::constant("0"),
        _ => return None,
    })
}

/// Takes a number in a range that makes no difference here.
fn setting(text: &[u8], least: i32, most: i32) -> Result<()> {
    let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    let value: i32 = text.trim().parse().map_err(|_| Errno::EINVAL)?;
    if (least..=most).contains(&value) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// A path as the reader sees it.
fn shown(location: &Location) -> Result<Vec<u8>> {
    Ok(location.path(&current()?.filesystem().root()?))
}

fn directory(subject: &Subject) -> Result<Location> {
    subject.task()?.shared_filesystem().ok_or(Errno::ENOENT)?.working_directory()
}

fn root(subject: &Subject) -> Result<Location> {
    subject.task()?.shared_filesystem().ok_or(Errno::ENOENT)?.root()
}

fn executable(subject: &Subject) -> Result<Location> {
    subject.process()?.executable().ok_or(Errno::ENOENT)
}

/// Copies a range of the process's memory, as far as it is there.
fn copy(space: &Space, range: core::ops::Range<usize>) -> Vec<u8> {
    /// More than any execve takes.
    const MOST: usize = 4 << 20;
    let mut bytes = alloc::vec![0; range.len().min(MOST)];
    let (length, _) = space.read(range.start, &mut bytes);
    bytes.truncate(length);
    bytes
}

fn cmdline(subject: &Subject) -> Result<Vec<u8>> {
    let Some(space) = subject.space()? else { return Ok(Vec::new()) };
    Ok(StackLayout::of(&space).map_or_else(Vec::new, |layout| copy(&space, layout.arguments.clone())))
}

fn environ(subject: &Subject) -> Result<Vec<u8>> {
    let Some(space) = subject.space()? else { return Ok(Vec::new()) };
    Ok(StackLayout::of(&space).map_or_else(Vec::new, |layout| copy(&space, layout.environment.clone())))
}

fn auxv(subject: &Subject) -> Result<Vec<u8>> {
    let Some(space) = subject.space()? else { return Ok(Vec::new()) };
    Ok(StackLayout::of(&space).map_or_else(Vec::new, |layout| layout.auxiliary.clone()))
}

fn io() -> Vec<u8> {
    b"rchar: 0\nwchar: 0\nsyscr: 0\nsyscw: 0\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n"
        .to_vec()
}

/// `mem`: the memory itself, for reading.
fn memory(subject: &Subject) -> Entry {
    let subject = subject.clone();
    let read = move |offset: u64, sink: &mut Sink<'_>| {
        let Some(space) = subject.space()? else { return Ok(0) };
        let mut address = usize::try_from(offset).map_err(|_| Errno::EIO)?;
        let mut page = alloc::vec![0; PAGE_SIZE];
        let mut done = 0;
        while sink.remaining() > 0 {
            let wanted = sink.remaining().min(PAGE_SIZE - address % PAGE_SIZE);
            let (length, _) = space.read(address, &mut page[..wanted]);
            if length == 0 {
                return if done > 0 { Ok(done) } else { Err(Errno::EIO) };
            }
            let taken = sink.put(&page[..length])?;
            done += taken;
            address += taken;
        }
        Ok(done)
    };
    Entry::Bytes { permissions: 0o600, read: Arc::new(read) }
}
