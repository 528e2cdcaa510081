//! Booting an image, and how that can end.

use std::{
    ffi::OsString,
    fs::File,
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use wait_timeout::ChildExt;

use crate::rumprun_bake;

/// How a boot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The image ended in order; the status is the program's.
    Exited(i32),
    /// The kernel panicked.
    Panicked,
    /// QEMU did not start, or ended by itself.
    Failed,
    /// A signal ended the launcher.
    Killed,
    /// It ran longer than the test allows.
    TimedOut,
}

/// A boot's ending and what it wrote.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// The guest's console, carriage returns removed.
    pub console: String,
    /// The launcher's own messages.
    pub messages: String,
}

impl Outcome {
    /// The console, if the image ended in order with `status`; panics with everything that is known otherwise.
    #[track_caller]
    pub fn exited(&self, status: i32) -> &str {
        assert_eq!(
            self.ending,
            Ending::Exited(status),
            "\n--- console\n{}\n--- messages\n{}",
            self.console,
            self.messages
        );
        &self.console
    }
}

/// An image and how to boot it.
#[derive(Debug, Clone)]
pub struct Guest {
    image: PathBuf,
    options: Vec<OsString>,
    arguments: Vec<OsString>,
    input: Vec<u8>,
    timeout: Duration,
    namespace: Option<String>,
}

/// A boot in progress. If the test fails meanwhile, it tells what the guest and the launcher said.
pub struct Running {
    child: Child,
    console: File,
    messages: File,
    timeout: Duration,
}

impl Guest {
    /// Boots `image` on 2 CPUs with 256 MiB and a time limit of 120 s, unless told otherwise.
    pub fn new(image: &Path) -> Self {
        let guest = Guest {
            image: image.to_owned(),
            options: Vec::new(),
            arguments: Vec::new(),
            input: Vec::new(),
            timeout: Duration::from_secs(120),
            namespace: None,
        };
        guest.cpus(2).memory("256M")
    }

    /// Adds an option of `rumprun-bake run`; it replaces an earlier one, unless it may be repeated.
    pub fn option(mut self, name: &str, value: impl Into<OsString>) -> Self {
        if !matches!(
            name,
            "--disk" | "--qemu" | "--env" | "--net" | "--publish" | "--tap" | "--bridge" | "--mac"
        ) && let Some(place) = self.options.iter().position(|option| option == name)
        {
            self.options.drain(place..place + 2);
        }
        self.options.extend([name.into(), value.into()]);
        self
    }

    /// Adds an option of `rumprun-bake run` that takes no value.
    pub fn flag(mut self, name: &str) -> Self {
        self.options.push(name.into());
        self
    }

    /// CPUs.
    pub fn cpus(self, count: usize) -> Self {
        self.option("--cpus", count.to_string())
    }

    /// Memory, as `--memory` takes it.
    pub fn memory(self, size: &str) -> Self {
        self.option("--memory", size)
    }

    /// The QEMU machine.
    pub fn machine(self, machine: &str) -> Self {
        self.option("--machine", machine)
    }

    /// A disk.
    pub fn disk(self, file: &Path) -> Self {
        self.option("--disk", file)
    }

    /// Replaces the program's arguments.
    pub fn arguments<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments = arguments.into_iter().map(Into::into).collect();
        self
    }

    /// What is typed at the console.
    pub fn input(mut self, bytes: &[u8]) -> Self {
        self.input = bytes.to_owned();
        self
    }

    /// The time limit.
    pub fn timeout(mut self, seconds: u64) -> Self {
        self.timeout = Duration::from_secs(seconds);
        self
    }

    /// Runs the launcher and QEMU in a network namespace (see [`crate::network`]).
    pub fn namespace(mut self, name: &str) -> Self {
        self.namespace = Some(name.to_owned());
        self
    }

    /// Starts the guest.
    pub fn start(&self) -> Running {
        let console = tempfile::tempfile().expect("a temporary file");
        let messages = tempfile::tempfile().expect("a temporary file");
        let mut command = match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(rumprun_bake());
                command
            }
            None => Command::new(rumprun_bake()),
        };
        command.args(["-q", "run"]).arg(&self.image).args(&self.options);
        if !self.arguments.is_empty() {
            command.arg("--").args(&self.arguments);
        }
        let mut child = command
            .stdin(if self.input.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(console.try_clone().expect("a file can be shared"))
            .stderr(messages.try_clone().expect("a file can be shared"))
            .spawn()
            .expect("rumprun-bake starts");
        if let Some(mut input) = child.stdin.take() {
            // The launcher may end before it has read everything; its outcome tells.
            let _ = input.write_all(&self.input);
        }
        Running { child, console, messages, timeout: self.timeout }
    }

    /// Boots and waits for the end.
    pub fn run(&self) -> Outcome {
        self.start().wait()
    }
}

/// Everything in a file that another process writes too (whose position is not ours to move).
fn contents(file: &File) -> String {
    let mut bytes = vec![0; file.metadata().map_or(0, |metadata| metadata.len() as usize)];
    let mut length = 0;
    while let Ok(count @ 1..) = file.read_at(&mut bytes[length..], length as u64) {
        length += count;
    }
    String::from_utf8_lossy(&bytes[..length]).replace('\r', "")
}

impl Running {
    /// The launcher's process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the launcher has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// What the console has shown so far, carriage returns removed.
    pub fn console(&self) -> String {
        contents(&self.console)
    }

    /// What the launcher has said so far.
    pub fn messages(&self) -> String {
        contents(&self.messages)
    }

    /// Waits for the end, at most as long as the guest's time limit.
    pub fn wait(mut self) -> Outcome {
        self.end()
    }

    /// As [`Running::wait`], for one that others own.
    pub fn end(&mut self) -> Outcome {
        let status = self.child.wait_timeout(self.timeout).expect("the launcher can be waited for");
        if status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let (console, messages) = (contents(&self.console), contents(&self.messages));
        let ending = match status.map(|status| status.code()) {
            None => Ending::TimedOut,
            Some(None) => Ending::Killed,
            Some(Some(code)) => Ending::of(code, &messages),
        };
        Outcome { ending, console, messages }
    }

    /// Waits until the console shows `text`; panics when the time limit passes or the guest ends before.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        let start = Instant::now();
        while !contents(&self.console).contains(text) {
            let ended = self.child.try_wait().expect("the launcher can be waited for").is_some();
            // Once ended, it may have shown it meanwhile.
            let shown = contents(&self.console).contains(text);
            let waited = start.elapsed();
            assert!(
                shown || !ended && waited < self.timeout,
                "the console never showed {text:?} in {:.1} s; running: {}",
                waited.as_secs_f32(),
                !ended
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the launcher has said a line that begins with `start`; returns it. Panics when the time limit
    /// passes or the launcher ends before.
    #[track_caller]
    pub fn wait_for_message(&mut self, start: &str) -> String {
        let began = Instant::now();
        loop {
            let messages = self.messages();
            let mut whole = messages.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            if let Some(line) = whole.find(|line| line.starts_with(start)) {
                return line.trim_end().to_owned();
            }
            assert!(self.is_running() && began.elapsed() < self.timeout, "never said {start:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills QEMU as a power cut would, and waits for the launcher.
    pub fn kill_qemu(mut self) -> Outcome {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        for child in std::fs::read_to_string(children).unwrap_or_default().split_whitespace() {
            let _ = Command::new("kill").args(["-KILL", child]).status();
        }
        self.timeout = Duration::from_secs(10);
        self.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let status = self.child.try_wait().ok().flatten();
            let state = status.map_or_else(|| "still running".to_owned(), |status| status.to_string());
            eprintln!(
                "--- launcher: {state}\n--- console\n{}--- messages\n{}---",
                self.console(),
                self.messages()
            );
        }
        // A test that failed leaves no guest behind: QEMU ends with the launcher.
        if self.is_running() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Ending {
    /// What the launcher's exit status means; a program may use the launcher's statuses too, but only the
    /// launcher says why.
    fn of(code: i32, messages: &str) -> Ending {
        let said =
            |text: &str| messages.lines().any(|line| line.starts_with("error:") && line.contains(text));
        match code {
            125 if said("") => Ending::Failed,
            126 if said("kernel panicked") => Ending::Panicked,
            127 if said("without a status") => Ending::Failed,
            code => Ending::Exited(code),
        }
    }
}
