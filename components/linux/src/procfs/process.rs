//! /proc/PID and /proc/PID/task/TID.

use alloc::{
    format,
    sync::{Arc, Weak},
    vec::Vec,
};

use rumpkern::{Errno, Result, uio::Sink};
use rumpuser::memory::PAGE_SIZE;
use rumpvfs::{
    generated::{Directory, Entry, Fixed},
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
    fixed: Fixed,
}

impl ProcessDirectory {
    /// That of a process.
    pub(super) fn new(process: &Arc<Process>) -> Self {
        let subject = Subject { process: Arc::downgrade(process), task: None };
        let mut fixed = entries(&subject);
        fixed.add("task", Entry::directory(Tasks { subject: subject.clone() }));
        ProcessDirectory { subject, fixed }
    }

    fn of_task(process: &Arc<Process>, task: &Arc<Task>) -> Self {
        let subject = Subject { process: Arc::downgrade(process), task: Some(Arc::downgrade(task)) };
        ProcessDirectory { fixed: entries(&subject), subject }
    }
}

impl Directory for ProcessDirectory {
    fn lookup(&self, name: &[u8]) -> Option<Entry> {
        self.fixed.lookup(name)
    }

    fn names(&self) -> Vec<(u64, Vec<u8>, Kind)> {
        self.fixed.names()
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

fn entries(subject: &Subject) -> Fixed {
    let comm = {
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
    };
    Fixed::new()
        .with("auxv", subject.text_for(0o400, auxv))
        .with("cgroup", Entry::constant("0::/\n"))
        .with("cmdline", subject.text(cmdline))
        .with("comm", comm)
        .with("cwd", subject.jump(|subject| shown(&directory(subject)?), directory))
        .with("environ", subject.text_for(0o400, environ))
        .with("exe", subject.jump(|subject| shown(&executable(subject)?), executable))
        .with("fd", descriptors::directory(subject.clone()))
        .with("fdinfo", descriptors::information(subject.clone()))
        .with("io", subject.text_for(0o400, |_| Ok(io())))
        .with("limits", subject.text(status::limits))
        .with("loginuid", Entry::constant("4294967295"))
        .with("maps", subject.text(maps::maps))
        .with("mem", memory(subject))
        .with("mountinfo", subject.text(mounts::mountinfo))
        .with("mounts", subject.text(mounts::mounts))
        .with("net", network::directory())
        .with("oom_adj", Entry::writable(|| Ok(b"0\n".to_vec()), |text| setting(text, -17, 15)))
        .with("oom_score", Entry::constant("0\n"))
        .with("oom_score_adj", Entry::writable(|| Ok(b"0\n".to_vec()), |text| setting(text, -1000, 1000)))
        .with("personality", Entry::constant("00000000\n"))
        .with("root", subject.jump(|subject| shown(&root(subject)?), root))
        .with("sessionid", Entry::constant("4294967295"))
        .with("smaps", subject.text(maps::smaps))
        .with("smaps_rollup", subject.text(maps::rollup))
        .with("stat", subject.text(status::stat))
        .with("statm", subject.text(status::statm))
        .with("status", subject.text(status::status))
        .with("wchan", Entry::constant("0"))
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
