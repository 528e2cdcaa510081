//! `netbsd build` where the machine is in the way: sources that can't be written, no space, an interruption, compilers.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::netbsd::Tree;

/// How long something may take that happens at once on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until something is so.
#[track_caller]
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

impl Tree {
    /// A compiler that first does what a script says.
    fn compiler(&self, script: &str) -> PathBuf {
        let text = format!("#!/bin/sh\n{script}\nexec cc \"$@\"\n");
        let path = self.bench.file("compiler", text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
        path
    }

    /// Builds after a script has mounted what it wants where nobody else sees it; nothing if this machine forbids that.
    fn build_mounted(&self, script: &str) -> Option<Output> {
        let build = self.command(&["build"]);
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &format!("{script} || exit 77; exec \"$@\""), "sh"]);
        command.arg(build.get_program()).args(build.get_args());
        for (name, value) in build.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.current_dir(self.bench.path(""));
        let mounts = Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
        if !mounts.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: no mounts can be made here");
            return None;
        }
        let output = command.output().expect("unshare starts");
        assert_ne!(output.status.code(), Some(77), "{}", text(&output.stderr));
        Some(output)
    }
}

#[test]
fn a_source_that_cannot_be_written_is_enough() {
    let Some(tree) = Tree::new() else { return };
    let Some(output) = tree.build_mounted("mount --bind src src && mount -o remount,bind,ro src") else {
        return;
    };
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(tree.answer("0.99.1"), "42");
}

#[test]
fn no_space_is_said_and_the_build_goes_on_later() {
    let Some(tree) = Tree::new() else { return };
    let small = |folder: &str| format!("mkdir -p {folder} && mount -t tmpfs -o size=12k tmpfs {folder}");
    for folder in ["cache", "data"] {
        let Some(output) = tree.build_mounted(&small(folder)) else { return };
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{folder}: {message}");
        assert!(message.contains("No space left on device"), "{folder}: {message}");
        assert!(tree.succeeds(&["list"]).starts_with("none"), "no set is half there");
    }
    tree.succeeds(&["build"]);
    assert_eq!(tree.answer("0.99.1"), "42");
}

#[test]
fn an_interrupted_build_leaves_nothing_running_and_goes_on() {
    let Some(tree) = Tree::new() else { return };
    let (stop, process) = (tree.bench.file("stop", ""), tree.bench.path("process"));
    let compiler = tree.compiler(&format!(
        "case \"$*\" in *loop.c*) [ -e {} ] && {{ echo $$ > {}; exec sleep 1000; }};; esac",
        stop.display(),
        process.display()
    ));
    let mut command = tree.command(&["build"]);
    command.env("CC", &compiler).stdout(Stdio::null()).stderr(Stdio::null());
    let mut build = command.spawn().expect("the tool starts");
    let number = || fs::read_to_string(&process).unwrap_or_default().trim().parse::<u32>().ok();
    wait_for("the compiler starts", || number().is_some());
    let compiling = number().expect("a number");
    let to_build = build.id().to_string();
    assert!(Command::new("kill").args(["-INT", &to_build]).status().expect("kill starts").success());
    assert_eq!(build.wait().expect("it ends").code(), Some(130));
    // It may stay as a zombie: its parent is gone, too.
    let state = |number: u32| fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
    wait_for("the compiler ends", || {
        let state = state(compiling);
        state.is_empty() || state.contains(") Z ")
    });
    assert!(tree.succeeds(&["list"]).starts_with("none"));
    fs::remove_file(stop).expect("removed");
    let output = tree.command(&["build"]).env("CC", &compiler).output().expect("the tool starts");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(tree.answer("0.99.1"), "42");
}

#[test]
fn compilers_that_are_unknown() {
    let Some(tree) = Tree::new() else { return };
    let newer = tree.compiler(
        "case \"$*\" in *-dM*) printf '#define %s\\n' '__GNUC__ 99' '__x86_64__ 1' '__LP64__ 1'; exit;; esac",
    );
    let run = |compiler: &Path, command: &str| {
        let output = tree.command(&[command]).env("CC", compiler).output().expect("the tool starts");
        (output.status.code(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
    };
    let (status, said) = run(&newer, "check");
    assert!(status == Some(0) && said.contains("gcc 99.0.0 is newer than"), "{said}");
    let (status, said) = run(&newer, "build");
    assert!(status == Some(0) && said.contains("gcc 99.0.0 is newer than"), "{said}");
    assert_eq!(tree.answer("0.99.1"), "42");
    let (status, said) = run(Path::new("/absent/cc"), "build");
    assert!(status == Some(1) && said.contains("/absent/cc: no such compiler"), "{said}");
    let other = tree.compiler("exit 0");
    let (status, said) = run(&other, "build");
    assert!(status == Some(1) && said.contains("not a compiler for x86-64"), "{said}");
}
