//! Recipes of small servers boot and pass their own checks, on user networking and on a tap, at 1, 2 and 4 CPUs.

use std::{fs, process::Command};

use serde_json::Value;
use tests::{
    checkout,
    network::{HOST, Link, Network},
    rumprun_bake, skip,
};

/// Exit status when the host lacks what a recipe needs.
const MISSING: i32 = 4;

/// Runs `package check` with this command and its options; every check must pass, or say why it can't be made.
#[track_caller]
fn passes(mut command: Command, name: &str, options: &[&str]) {
    let output = command
        .args(["-q", "package", "check", name, "--json", "--packages"])
        .arg(checkout().join("packages"))
        .args(options)
        .output()
        .expect("rumprun-bake starts");
    let (printed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(MISSING) {
        return skip(said.trim());
    }
    assert!(output.status.success(), "{name} {options:?}: {}\n{printed}{said}", output.status);
    let found: Value = serde_json::from_str(&printed).expect("JSON");
    let checks = found[0]["checks"].as_array().expect("checks");
    assert!(checks.iter().any(|check| check["verdict"] == "passed"), "{printed}");
    for check in checks.iter().filter(|check| check["verdict"] == "skipped") {
        skip(check["detail"].as_str().unwrap_or("without a reason"));
    }
}

/// On user networking.
#[track_caller]
fn always(name: &str) {
    for cpus in ["1", "2", "4"] {
        passes(Command::new(rumprun_bake()), name, &["--cpus", cpus]);
    }
}

/// On a tap, in a namespace of the test's own.
#[track_caller]
fn on_a_tap(name: &str) {
    for cpus in ["1", "2", "4"] {
        let Some(network) = Network::new(Link::Tap { queues: 1 }) else { return };
        let tap = format!("tap0,address={}/24,gateway={HOST}", network.guest());
        passes(network.command(rumprun_bake()), name, &["--cpus", cpus, "--tap", &tap]);
    }
}

#[test]
fn sqlite() {
    always("sqlite");
}

#[test]
fn sqlite_keeps_its_database() {
    let folder = tempfile::tempdir().expect("a folder");
    for start in 1..=3 {
        let output = Command::new(rumprun_bake())
            .args(["-q", "package", "run", "sqlite", "--data", "data", "--packages"])
            .arg(checkout().join("packages"))
            .current_dir(folder.path())
            .output()
            .expect("rumprun-bake starts");
        let printed = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("not installed") {
            return skip(said.trim());
        }
        assert!(output.status.success(), "{printed}{said}");
        assert!(printed.contains(&format!("starts: {start}\nintegrity: ok\n")), "{printed}");
    }
    assert_eq!(fs::metadata(folder.path().join("data/data.img")).expect("the disk").len(), 64 << 20);
}

#[test]
fn python_web() {
    always("python-web");
    on_a_tap("python-web");
}

#[test]
fn go_web() {
    always("go-web");
    on_a_tap("go-web");
}

#[test]
fn rust_web() {
    always("rust-web");
    on_a_tap("rust-web");
}

#[test]
fn ping() {
    always("ping");
}
