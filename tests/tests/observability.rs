//! What an image tells about itself: traces and counters.

use tests::{Guest, bake, scratch};

fn shell() -> std::path::PathBuf {
    bake("observability-shell", ["sh -c 'cat /etc/nothing; exit 3'", "--package", "coreutils"])
}

#[test]
fn a_trace_shows_the_calls_that_were_asked_for() {
    let outcome = Guest::new(&shell()).option("--trace", "syscalls=file,exit_group").run();
    outcome.exited(3);
    let lines: Vec<&str> =
        outcome.messages.lines().filter_map(|line| line.strip_prefix("[trace] ")).collect();
    let one = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(one("execve(\"/usr/bin/cat\", [\"cat\", \"/etc/nothing\"], "), 1, "{lines:#?}");
    assert_eq!(one("openat(AT_FDCWD, \"/etc/nothing\", 0x0, 0o0) = -1 ENOENT <"), 1, "{lines:#?}");
    assert_eq!(one("exit_group(3) = ?"), 1, "{lines:#?}");
    assert_eq!(one("mmap("), 0, "{lines:#?}");
    assert!(!outcome.console.contains("execve"), "{}", outcome.console);
}

#[test]
fn a_trace_may_go_to_a_file() {
    let file = scratch().join(format!("trace-{}", std::process::id()));
    let outcome = Guest::new(&shell()).option("--trace", "syscalls").option("--trace-output", &file).run();
    outcome.exited(3);
    let trace = std::fs::read_to_string(&file).expect("the trace");
    assert!(trace.contains(" wait4(") && trace.ends_with("exit_group(3) = ?\n"), "{trace}");
    assert!(!outcome.messages.contains("[trace]"), "{}", outcome.messages);
}
