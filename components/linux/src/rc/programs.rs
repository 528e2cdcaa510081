//! Running the programs of an image: in sequence, in the background (`&`), in pipes (`|`).

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::Ordering;

use image::config::{Configuration, Program, Then};
use rumpdev::tty::{TtyFile, console::console as terminal};
use rumpkern::{Errno, Result};
use rumpuser::CpuSet;
use rumpvfs::{
    access,
    file::{File, OpenFlags},
    mount::Location,
    namei::Lookup,
    pipe,
};

use super::{is_stopping, reap_all, stop_all, wait_for_change};
use crate::{
    console,
    credentials::Credentials,
    exec::initial_context,
    exec_image::{Executable, LoadOptions},
    exit::status,
    files::{DescriptorTable, FsContext, OpenFile},
    limits::Limits,
    process::{Process, ProcessSpec},
    registry, run,
    signal::{Actions, SignalSet, number::SIGCHLD},
    task::{AlternateStack, Task, TaskSpec, name_from},
};

/// Statuses of programs that cannot be started, as shells have them.
const NOT_FOUND: u32 = 127;
const NOT_EXECUTABLE: u32 = 126;
/// The session of the image's programs; process 1 leads it in name.
const SESSION: i32 = 1;
/// Descriptors 0 to 2.
const STANDARD: usize = 3;

/// A program that was started, or could not be.
enum Started {
    Running(Arc<Process>),
    Failed(u32),
}

/// Runs the programs and returns the status of the image: that of the last one in the foreground, or if all are
/// in the background, of the last one to end.
pub fn run_all(configuration: &Configuration, root: &Location, init: &Arc<Process>) -> u8 {
    if configuration.programs.is_empty() {
        console::message(format_args!("the image has no program to run"));
        return super::FAILED;
    }
    let mut image_status = 0;
    let mut background = Vec::new();
    let mut rest = configuration.programs.as_slice();
    while !rest.is_empty() && !is_stopping() {
        let length =
            rest.iter().position(|program| program.then != Then::Pipe).map_or(rest.len(), |last| last + 1);
        let (pipeline, others) = rest.split_at(length);
        rest = others;
        let in_background = pipeline.last().is_some_and(|last| last.then == Then::Background);
        let last = start_pipeline(configuration, pipeline, in_background, root, init);
        match last {
            Started::Running(process) if in_background => background.push(process),
            Started::Running(process) => image_status = wait_for(init, &process),
            Started::Failed(code) => image_status = status::exited(code),
        }
    }
    let ends_in_background = configuration.programs.last().is_some_and(|last| last.then == Then::Background);
    if ends_in_background {
        for process in background {
            image_status = wait_for(init, &process);
        }
    }
    machine_status(image_status)
}

/// The status of the machine: the program's own, or 128 and the signal that killed it.
fn machine_status(wait_status: u32) -> u8 {
    match status::signal(wait_status) {
        0 => status::code(wait_status) as u8,
        signal => 128u8.saturating_add(signal as u8),
    }
}

/// Waits for one program and reaps whatever else ends meanwhile. When a stop is asked for, all are stopped.
fn wait_for(init: &Arc<Process>, process: &Arc<Process>) -> u32 {
    let ended = wait_for_change(init, || {
        reap_all(init, |_, _| {});
        (process.is_zombie() || is_stopping()).then_some(())
    });
    if ended.is_none() || !process.is_zombie() {
        stop_all(init);
    }
    process.status.load(Ordering::Relaxed)
}

/// Starts the programs of a pipeline; the last one is returned.
fn start_pipeline(
    configuration: &Configuration,
    pipeline: &[Program],
    in_background: bool,
    root: &Location,
    init: &Arc<Process>,
) -> Started {
    let mut last = Started::Failed(NOT_FOUND);
    let mut input: Option<Arc<OpenFile>> = None;
    let mut group = 0;
    for (index, program) in pipeline.iter().enumerate() {
        let mut output = None;
        let mut next_input = None;
        if index + 1 < pipeline.len() {
            let (read, write) = pipe::pipe(0, 0);
            next_input = Some(OpenFile::new(read, OpenFlags::empty(), None));
            output = Some(OpenFile::new(write, OpenFlags::WRITE_ONLY, None));
        }
        let plan = Plan { configuration, program, input: input.take(), output, group, in_background };
        input = next_input;
        last = match plan.start(root, init) {
            Ok(process) => {
                if group == 0 {
                    group = process.pid();
                }
                Started::Running(process)
            }
            Err(error) => {
                let path = program.path.escape_ascii();
                console::message(format_args!("cannot run {path}: {}", explain(error)));
                Started::Failed(if error == Errno::ENOENT { NOT_FOUND } else { NOT_EXECUTABLE })
            }
        };
    }
    last
}

fn explain(error: Errno) -> &'static str {
    match error {
        Errno::ENOENT => "it, or the interpreter that it names, is not in the image (ENOENT)",
        Errno::EACCES => "it is not an executable file (EACCES)",
        Errno::ENOEXEC => "it is no program for this machine (ENOEXEC)",
        Errno::ENOMEM => "there is not enough memory (ENOMEM)",
        Errno::ELOOP => "too many symbolic links or scripts (ELOOP)",
        Errno::ENOTDIR => "a part of its path is no directory (ENOTDIR)",
        Errno::E2BIG => "its arguments are too long (E2BIG)",
        _ => "it cannot be loaded",
    }
}

/// How one program is started.
struct Plan<'a> {
    configuration: &'a Configuration,
    program: &'a Program,
    input: Option<Arc<OpenFile>>,
    output: Option<Arc<OpenFile>>,
    group: i32,
    in_background: bool,
}

impl Plan<'_> {
    /// The environment: the image's, the program's own over it, and what every program expects.
    fn environment(&self) -> Vec<Vec<u8>> {
        let defaults: [(&[u8], &[u8]); 3] = [
            (b"PATH", b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            (b"HOME", b"/root"),
            (b"TERM", b"linux"),
        ];
        let mut variables: Vec<(&[u8], &[u8])> = defaults.to_vec();
        for (name, value) in self.configuration.environment.iter().chain(&self.program.environment) {
            variables.retain(|(present, _)| present != name);
            variables.push((name, value));
        }
        variables.iter().map(|(name, value)| [name, b"=".as_slice(), value].concat()).collect()
    }

    fn start(self, root: &Location, init: &Arc<Process>) -> Result<Arc<Process>> {
        let as_root = access::Credentials::root();
        let lookup = Lookup::new(root, root, &as_root);
        let location = lookup.resolve(&self.program.path, true)?;
        let executable =
            Executable::open(&lookup, location, &self.program.path, self.program.arguments.clone())?;
        let credentials = Credentials::default();
        let limits = Limits::default();
        let loaded = executable.load(&LoadOptions {
            environment: &self.environment(),
            credentials: &credentials,
            secure: false,
            limits: &limits,
        })?;
        let filesystem = FsContext::new(root.clone());
        let directory = self.program.working_directory.as_ref();
        let directory = directory.unwrap_or(&self.configuration.working_directory);
        if !directory.is_empty() {
            filesystem.set_working_directory(lookup.resolve_directory(directory)?);
        }
        let pid = registry::allocate()?;
        let group = if self.group == 0 { pid } else { self.group };
        let process = Process::new(ProcessSpec {
            pid,
            parent: Arc::downgrade(init),
            group,
            session: SESSION,
            space: loaded.space.clone(),
            actions: Arc::new(Actions::default()),
            limits,
            executable: Some(executable.location.clone()),
            exit_signal: SIGCHLD,
        });
        process.supervised.store(true, Ordering::Relaxed);
        process.executed.store(true, Ordering::Relaxed);
        let files = self.descriptors(&lookup)?;
        let base = executable.name.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let task = Task::new(TaskSpec {
            tid: pid,
            process: process.clone(),
            context: initial_context(&loaded),
            files,
            filesystem,
            credentials: Arc::new(credentials),
            name: name_from(base),
            mask: SignalSet::EMPTY,
            stack: AlternateStack::DISABLED,
        });
        process.tasks.lock().push(task.clone());
        registry::add_process(&process);
        registry::add_task(&task);
        init.children.lock().push(process.clone());
        if !self.in_background {
            terminal().acquire(SESSION, group);
        }
        if let Err(error) = run::start(task, CpuSet::MAX, 0, Vec::new()) {
            process.tasks.lock().clear();
            registry::remove_task(pid);
            crate::exit::reap(init, &process);
            return Err(error);
        }
        Ok(process)
    }

    /// Standard input, output and error: the console, what the pipeline says, and for programs in the background
    /// no input.
    fn descriptors(&self, lookup: &Lookup<'_>) -> Result<Arc<DescriptorTable>> {
        let flags = OpenFlags::READ_WRITE | OpenFlags::NO_CONTROLLING_TTY;
        let file: Arc<dyn File> = TtyFile::open(&terminal(), flags, false)?;
        let location = lookup.resolve(b"/dev/console", true).ok();
        let console = OpenFile::new(file, flags, location);
        let input = match &self.input {
            Some(input) => input.clone(),
            None if self.in_background => {
                let opened = lookup.open(b"/dev/null", OpenFlags::READ_WRITE, 0)?;
                OpenFile::new(opened.file, OpenFlags::READ_WRITE, Some(opened.location))
            }
            None => console.clone(),
        };
        let output = self.output.clone().unwrap_or_else(|| console.clone());
        let table = DescriptorTable::new();
        for file in [input, output, console] {
            table.insert(file, 0, STANDARD as u64, false)?;
        }
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_ends_as_its_program_did() {
        assert_eq!(machine_status(status::exited(7)), 7);
        assert_eq!(machine_status(status::killed(11, true)), 139);
        assert_eq!(machine_status(status::killed(15, false)), 143);
    }
}
