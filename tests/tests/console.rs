//! The console from the user's side: input from a file, the end of input, the request to stop.

use std::{path::Path, process::Command};

use tests::{Guest, bake};

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
