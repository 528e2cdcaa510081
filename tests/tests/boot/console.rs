//! The console from the user's side: input from a file, the end of input, the request to stop.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use tests::{Guest, bake, needs, rumprun_bake};

#[test]
fn a_file_as_input_arrives_whole() {
    let image = bake("console-cat", [Path::new("/bin/cat")]);
    let lines: String = (0..20_000).map(|line| format!("line {line}\n")).collect();
    for machine in ["microvm", "q35"] {
        let outcome = Guest::new(&image).machine(machine).input(lines.as_bytes()).run();
        assert!(outcome.exited(0) == lines, "{machine}: {} bytes came back", outcome.console.len());
    }
}

#[test]
fn the_end_of_input_may_come_at_once_or_in_a_line() {
    let image = bake("console-cat", [Path::new("/bin/cat")]);
    assert_eq!(Guest::new(&image).run().exited(0), "");
    assert_eq!(Guest::new(&image).input(b"no newline").run().exited(0), "no newline");
}

#[test]
fn a_signal_stops_the_guest_in_order() {
    let program = ["sh -c 'trap \"echo stopping; exit 9\" TERM; echo up; while :; do sleep 1; done'"];
    let image = bake("console-stop", program.iter().chain(&["--package", "coreutils"]));
    let mut running = Guest::new(&image).start();
    running.wait_for("up\n");
    let id = running.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill starts").success());
    assert!(running.wait().exited(9).ends_with("stopping\n"));
}

#[test]
fn a_terminal_is_typed_at_and_echoes_once() {
    needs!("script");
    let image = bake("console-shell", ["sh -c 'read word; echo \"got $word\"; exit 5'"]);
    let command = format!("{} -q run {}", rumprun_bake().display(), image.display());
    let mut script = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script starts");
    let mut keyboard = script.stdin.take().expect("a pipe");
    // Typed long before the guest reads: the launcher keeps it.
    keyboard.write_all(b"typed\n").expect("typed");
    let output = script.wait_with_output().expect("ends");
    drop(keyboard);
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    assert!(text.ends_with("got typed\n"), "{text}");
    assert_eq!(output.status.code(), Some(5));
}

#[test]
fn a_reader_that_has_seen_enough_stops_the_guest() {
    let image = bake("console-yes", [Path::new("/usr/bin/yes")]);
    let mut launcher = Command::new(rumprun_bake())
        .args(["-q", "run"])
        .arg(&image)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the launcher starts");
    let mut first = [0; 4];
    std::io::Read::read_exact(&mut launcher.stdout.take().expect("a pipe"), &mut first).expect("output");
    assert_eq!(&first, b"y\ny\n");
    assert_eq!(launcher.wait().expect("ends").code(), Some(128 + 15));
}
