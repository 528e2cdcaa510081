//! Recipes boot and pass their own checks.

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

/// On a tap, in a namespace of the test's own.
#[track_caller]
fn on_a_tap(name: &str) {
    let Some(network) = Network::new(Link::Tap { queues: 1 }) else { return };
    let tap = format!("tap0,address={}/24,gateway={HOST}", network.guest());
    passes(network.command(rumprun_bake()), name, &["--cpus", "4", "--tap", &tap]);
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

/// On user networking, with the recipe's own number of CPUs.
macro_rules! checks {
    ($($test:ident: $name:literal,)*) => {
        $(
            #[test]
            fn $test() {
                passes(Command::new(rumprun_bake()), $name, &[]);
            }
        )*
    };
}

checks! {
    go_web: "go-web",
    haproxy: "haproxy",
    iperf3: "iperf3",
    lighttpd: "lighttpd",
    memcached: "memcached",
    netpipe: "netpipe",
    nfs_ganesha: "nfs-ganesha",
    nginx: "nginx",
    ping: "ping",
    postgresql: "postgresql",
    python_web: "python-web",
    redis: "redis",
    rust_web: "rust-web",
    sqlite: "sqlite",
}

#[test]
fn small_servers_on_a_tap() {
    ["go-web", "python-web", "rust-web"].into_iter().for_each(on_a_tap);
}
