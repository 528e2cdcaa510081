//! Commands that work, with a kernel that is only bytes.

use std::{fs, io::Write, os::unix::fs::PermissionsExt, path::Path, process::Stdio};

use crate::support::Bench;

#[test]
fn list_describe_and_help() {
    let bench = Bench::new();
    assert!(bench.succeeds(["list"]).starts_with("hw_direct"));
    assert!(bench.succeeds(["list", "--json"]).contains("\"hw_direct\""));
    for config in ["hw_direct", "xen_direct"] {
        assert!(bench.succeeds(["describe", config]).contains("components"));
    }
    for command in ["bake", "run"] {
        assert!(bench.succeeds([command, "--help"]).contains("Examples:"));
    }
    assert!(bench.succeeds(["completions", "zsh"]).contains("rumprun-bake"));
    bench.succeeds(["man", "pages"]);
    assert!(bench.path("pages/rumprun-bake-run.1").exists());
    assert!(bench.run(["doctor"]).stdout.starts_with(b"ok"));
}

#[test]
fn both_ways_to_say_bake() {
    let bench = Bench::new();
    bench.succeeds(["bake", "hw_direct", "a.elf", "ls", "--", "-l"]);
    bench.succeeds(["hw_direct", "b.elf", "ls", "--", "-l"]);
    assert_eq!(fs::read(bench.path("a.elf")).expect("made"), fs::read(bench.path("b.elf")).expect("made"));
    let listing = bench.listing();
    assert_eq!(listing, ["a.elf", "b.elf"]);
    let mode = fs::metadata(bench.path("a.elf")).expect("made").permissions().mode();
    assert_eq!(mode & 0o400, 0o400);
}

#[test]
fn the_manifest_says_what_runs() {
    let bench = Bench::new();
    bench.file(
        "app.toml",
        "hostname = \"app\"\nenvironment = { A = \"1\", B = \"2\" }\n[[program]]\nrun = \"cat /etc/hostname\"\n",
    );
    let arguments = ["bake", "hw_direct", "out.elf", "seq 3", "|", "wc -l", "&", "--config", "app.toml"];
    bench.succeeds(arguments.iter().chain(&["--env", "B=3", "--", "--", "x y"]));
    let text = bench.succeeds(["inspect", "out.elf", "--json"]);
    let manifest: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let programs = manifest["programs"].as_array().expect("a list");
    assert_eq!(programs.len(), 3);
    assert_eq!((&programs[0]["then"], &programs[1]["then"]), (&"|".into(), &"&".into()));
    assert_eq!(programs[1]["arguments"], serde_json::json!(["wc", "-l", "--", "x y"]));
    assert_eq!(programs[2]["arguments"], serde_json::json!(["cat", "/etc/hostname"]));
    assert_eq!(manifest["hostname"], "app");
    let environment = manifest["environment"].as_array().expect("a list");
    assert!(environment.contains(&"A=1".into()) && environment.contains(&"B=3".into()));
    assert!(!environment.contains(&"B=2".into()));
    assert!(manifest["files"].as_u64().is_some_and(|files| files > 5));
}

#[test]
fn a_configuration_file_is_enough() {
    let bench = Bench::new();
    bench.file("app.json", "{ \"rc\": [ { \"bin\": \"echo\", \"args\": [\"hi\"] } ] }");
    bench.succeeds(["bake", "hw_direct", "out.elf", "--config", "app.json"]);
    assert!(bench.succeeds(["inspect", "out.elf"]).contains("[\"echo\", \"hi\"]"));
}

#[test]
fn compressed_files_take_less() {
    let bench = Bench::new();
    let sizes: Vec<u64> = [&["--compress"][..], &[]]
        .iter()
        .map(|more| {
            let arguments = ["bake", "hw_direct", "out.elf", "--json", "ls"];
            let text = bench.succeeds(arguments.iter().chain(*more));
            let manifest: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            manifest["rootfs"]["bytes"].as_u64().expect("bytes")
        })
        .collect();
    assert!(sizes[0] < sizes[1] / 4 * 3, "{sizes:?}");
    assert!(bench.succeeds(["inspect", "--files", "out.elf"]).contains("/usr/bin/ls"));
}

#[test]
fn print_command_shows_qemu() {
    let bench = Bench::new();
    bench.succeeds(["bake", "hw_direct", "out.elf", "ls"]);
    bench.file("data img", "");
    let arguments =
        ["run", "out.elf", "--accel", "tcg", "--cpus", "3", "--memory", "96M", "--disk", "data img"];
    let text = bench.succeeds(arguments.iter().chain(&["--print-command", "--", "x"]));
    for part in ["qemu-system-x86_64 ", "-smp 3", "-m 96M", "-machine q35", "'if=none", "opt/rumprun/cmdline"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn run_tells_failures_apart() {
    let bench = Bench::new();
    bench.succeeds(["bake", "hw_direct", "out.elf", "ls"]);
    let status = |arguments: &[&str]| {
        let output = bench.run(["run", "--accel", "tcg"].iter().chain(arguments));
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, message) = status(&["absent.elf"]);
    assert!(code == Some(125) && message.contains("absent.elf"), "{message}");
    bench.file("text", "text");
    let (code, message) = status(&["text"]);
    assert!(code == Some(125) && message.contains("not an image"), "{message}");
    let (code, message) = status(&["out.elf", "--disk", "absent.img"]);
    assert!(code == Some(125) && message.contains("truncate -s 1G absent.img"), "{message}");
    let (code, message) = status(&["out.elf", "--firmware", "uefi"]);
    assert!(code == Some(125) && message.contains("--format iso or raw"), "{message}");
    let (code, message) = status(&["out.elf", "--memory", "1M"]);
    assert!(code == Some(125) && message.contains("too little memory"), "{message}");
}

/// A stand-in for QEMU that does what a test wants: the launcher sees only its files and its end.
fn with_qemu(bench: &Bench, script: &str) -> std::process::Command {
    let qemu = bench.file("bin/qemu-system-x86_64", format!("#!/bin/bash\n{script}\n"));
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).expect("set");
    let mut command = bench.command();
    command.env("PATH", format!("{}:/usr/bin:/bin", bench.path("bin").display()));
    command
}

const FIND_STATUS: &str = "for word in \"$@\"; do case $word in file,id=status,path=*) \
                           status=${word#file,id=status,path=};; esac; done\n";

#[test]
fn the_guests_end_becomes_ours() {
    let bench = Bench::new();
    bench.succeeds(["bake", "hw_direct", "out.elf", "ls"]);
    let end = |script: &str| {
        let output = with_qemu(&bench, &format!("{FIND_STATUS}{script}"))
            .args(["run", "--accel", "tcg", "out.elf"])
            .output()
            .expect("starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(end("echo exit 42 > $status").0, Some(42));
    assert_eq!(end("echo exit 0 > $status").0, Some(0));
    let (code, message) = end("echo panic > $status");
    assert!(code == Some(126) && message.contains("kernel panicked"), "{message}");
    let (code, message) = end("exit 0");
    assert!(code == Some(127) && message.contains("without a status"), "{message}");
    let (code, message) = end("echo no such device >&2; exit 1");
    assert!(code == Some(125) && message.contains("no such device"), "{message}");
    let (code, message) = end("kill -SEGV $$");
    assert!(code == Some(125) && message.contains("signal"), "{message}");
}

#[test]
fn a_hanging_kvm_is_noticed_once() {
    if !Path::new("/dev/kvm").exists() {
        println!("skipped: no /dev/kvm here");
        return;
    }
    let bench = Bench::new();
    bench.succeeds(["bake", "hw_direct", "out.elf", "ls"]);
    let script = format!("case \"$*\" in *kvm*) sleep 60;; esac\n{FIND_STATUS}echo exit 0 > $status");
    let mut command = with_qemu(&bench, &script);
    command.args(["run", "out.elf"]);
    let mut run = || {
        let start = std::time::Instant::now();
        let output = command.output().expect("starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (start.elapsed().as_secs_f32(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (seconds, message) = run();
    assert!((1.0..4.0).contains(&seconds) && message.contains("using TCG"), "{seconds}: {message}");
    let (seconds, message) = run();
    assert!(seconds < 1.0 && message.is_empty(), "{seconds}: {message}");
}

#[test]
fn input_reaches_the_guest() {
    let bench = Bench::new();
    bench.succeeds(["bake", "hw_direct", "out.elf", "ls"]);
    let script = format!(
        "{FIND_STATUS}read -t 0.3 && exit 9\necho ready > $status\nhead -c 6\necho exit 0 >> $status"
    );
    let mut child = with_qemu(&bench, &script)
        .args(["run", "--accel", "tcg", "out.elf"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    child.stdin.take().expect("a pipe").write_all(b"abcde").expect("written");
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.stdout, b"abcde\x04", "the end of input follows");
}

#[test]
fn kernel_builds_are_found_by_content() {
    let bench = Bench::new();
    let output = bench
        .command()
        .env_remove("RUMPRUN_BAKE_KERNEL")
        .env("RUMPRUN_BAKE_SOURCE", bench.path("no-sources"))
        .args(["bake", "hw_direct", "out.elf", "ls"])
        .output()
        .expect("starts");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(message.contains("no sources of the kernel there"), "{message}");
}

#[test]
fn a_failing_kernel_build_shows_the_errors() {
    let bench = Bench::new();
    let folders = ["image", "rumpuser", "bmk", "platform-hw", "platform-xen", "components"];
    for folder in folders {
        fs::create_dir_all(bench.path(format!("source/{folder}"))).expect("made");
    }
    bench.file("source/Cargo.lock", "version = 4\n");
    let manifest = "[workspace]\nmembers = [\"kernel\"]\n[profile.kernel]\ninherits = \"release\"\n";
    bench.file("source/Cargo.toml", manifest);
    bench.file("source/kernel/Cargo.toml", "[package]\nname = \"kernel\"\nedition = \"2024\"\n");
    bench.file("source/kernel/src/main.rs", "fn main() { let missing_semicolon }\n");
    let bake = || {
        bench
            .command()
            .env_remove("RUMPRUN_BAKE_KERNEL")
            .env("RUMPRUN_BAKE_SOURCE", bench.path("source"))
            .args(["bake", "hw_direct", "out.elf", "ls"])
            .output()
            .expect("starts")
    };
    for _ in 0..2 {
        let output = bake();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("the kernel does not build"), "{message}");
        assert!(message.contains("main.rs:1:") && message.contains("expected"), "{message}");
    }
    assert!(!bench.path("out.elf").exists());
}
