//! Input that can't be baked: each is refused with a message that helps, and leaves nothing behind.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use toolchain::{collect::Collection, follow::Follower};

use crate::support::Bench;

/// A program of the host, dynamic, that the tests damage.
fn program() -> Vec<u8> {
    fs::read("/bin/ls").expect("a program that every host has")
}

#[track_caller]
fn refused(bench: &Bench, program: &str, part: &str) {
    let message = bench.fails(["bake", "hw_direct", "out.elf", program]);
    assert!(message.contains(part), "{message}");
    assert!(!bench.path("out.elf").exists());
    let left: Vec<_> = bench.listing().into_iter().filter(|name| name.starts_with('.')).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn not_a_program() {
    let bench = Bench::new();
    bench.file("text", "just text\n");
    refused(&bench, "./text", "not an ELF file");
    bench.file("empty", "");
    refused(&bench, "./empty", "not an ELF file");
    refused(&bench, "./absent", "no such program");
    refused(&bench, "surely-no-such-program", "no such program");
    fs::create_dir(bench.path("folder")).expect("made");
    refused(&bench, "./folder", "no such program");
}

#[test]
fn another_architecture() {
    let bench = Bench::new();
    let mut arm = program();
    arm[18..20].copy_from_slice(&183u16.to_le_bytes());
    bench.file("arm", arm);
    refused(&bench, "./arm", "aarch64");
    let mut old = program();
    old[4] = 1;
    old[18..20].copy_from_slice(&3u16.to_le_bytes());
    bench.file("i386", old);
    refused(&bench, "./i386", "32-bit x86");
    let mut object = program();
    object[16..18].copy_from_slice(&1u16.to_le_bytes());
    bench.file("object.o", object);
    refused(&bench, "./object.o", "link it first");
}

#[test]
fn truncated() {
    let bench = Bench::new();
    let whole = program();
    for length in [5, 20, 63, 64, 100, 700, 5000, whole.len() / 2, whole.len() - 1] {
        bench.file("cut", &whole[..length]);
        refused(&bench, "./cut", "./cut".trim_start_matches("./"));
    }
}

#[test]
fn lying_headers() {
    let bench = Bench::new();
    // Offset and count of the program headers, and what each says of its segment.
    let headers = 64..64 + 56 * usize::from(program()[56]);
    let places = (32..40).chain([54, 56]).chain(headers.step_by(4));
    for (index, place) in places.enumerate() {
        for value in [0xff, 0x80] {
            let mut bad = program();
            bad[place..place + 4].fill(value);
            let liar = bench.file("liar", &bad);
            // Many fields don't matter to the baker; none may crash it. What else it does with a program is the same
            // for each of them, so that a few whole bakes do.
            let mut follower = Follower::new(Collection::default());
            let followed = follower.add_program(liar.as_os_str().as_encoded_bytes()).is_ok();
            if index % 50 == 0 {
                let output = bench.run(["-q", "bake", "hw_direct", "out.elf", "./liar"]);
                assert_eq!(output.status.code(), Some(i32::from(!followed)), "{place}: {output:?}");
            }
        }
    }
}

#[test]
fn a_missing_library_is_named_with_who_needs_it() {
    let bench = Bench::new();
    let whole = program();
    let name = b"libc.so.6\0";
    let at = whole.windows(name.len()).position(|part| part == name).expect("ls needs libc");
    let mut bad = whole;
    bad[at..at + 9].copy_from_slice(b"libq.so.6");
    bench.file("orphan", bad);
    refused(&bench, "./orphan", "libq.so.6: not found, and");
    refused(&bench, "./orphan", "orphan needs it");
}

#[test]
fn a_missing_interpreter_is_named() {
    let bench = Bench::new();
    let script = bench.file("script", "#!/no/such/interpreter\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("set");
    refused(&bench, "./script", "/no/such/interpreter: not found");
    bench.file("env-script", "#!/usr/bin/env no-such-command\n");
    refused(&bench, "./env-script", "no-such-command: not found");
}

#[test]
fn an_unknown_configuration() {
    let bench = Bench::new();
    let message = bench.fails(["bake", "hw_drect", "out.elf", "ls"]);
    assert!(message.contains("did you mean `hw_direct`"), "{message}");
    let message = bench.fails(["describe", "xyz"]);
    assert!(message.contains("unknown configuration `xyz`"), "{message}");
}

#[test]
fn malformed_configuration_files() {
    let bench = Bench::new();
    bench.file("bad.toml", "hostname = \"a\"\n\n[[program]]\nrun = [\n");
    let message = bench.fails(["bake", "hw_direct", "out.elf", "--config", "bad.toml"]);
    assert!(message.contains("bad.toml:4:"), "{message}");
    bench.file("typo.toml", "hostnmae = \"a\"\n");
    let message = bench.fails(["bake", "hw_direct", "out.elf", "--config", "typo.toml"]);
    assert!(message.contains("typo.toml:1:1:") && message.contains("`hostname`?"), "{message}");
    bench.file("bad.json", "{\n  \"rc\": [}\n");
    let message = bench.fails(["bake", "hw_direct", "out.elf", "--config", "bad.json"]);
    assert!(message.contains("bad.json:2:"), "{message}");
    let message = bench.fails(["bake", "hw_direct", "out.elf", "--config", "absent.toml"]);
    assert!(message.contains("absent.toml"), "{message}");
}

#[test]
fn bad_command_lines_of_programs() {
    let bench = Bench::new();
    let message = |words: &[&str]| bench.fails(["bake", "hw_direct", "out.elf"].iter().chain(words));
    assert!(message(&[]).contains("no program"));
    assert!(message(&["ls", "|"]).contains("reads from the pipe"));
    assert!(message(&["&", "ls"]).contains("where a program is expected"));
    assert!(message(&["sh -c 'x"]).contains("quote is not closed"));
    assert!(message(&["ls", "--env", "=x"]).contains("NAME=VALUE"));
    assert!(message(&["ls", "--rootfs", "no-such-folder:/x"]).contains("no-such-folder"));
    assert!(message(&["ls", "--package", "no-such-package"]).contains("apt install no-such-package"));
}

#[test]
fn outputs_that_cannot_be_written() {
    let bench = Bench::new();
    let message = bench.fails(["bake", "hw_direct", "no/such/folder/out.elf", "ls"]);
    assert!(message.contains("no/such/folder/out.elf: cannot be written"), "{message}");
    fs::create_dir(bench.path("folder")).expect("made");
    let message = bench.fails(["bake", "hw_direct", "folder", "ls"]);
    assert!(message.contains("folder: cannot be written"), "{message}");
    let message = bench.fails(["bake", "hw_direct", "/proc/out.elf", "ls"]);
    assert!(message.contains("/proc/out.elf: cannot be written"), "{message}");
    // An earlier image stays as it was when a later bake fails.
    bench.file("out.elf", "the old one");
    bench.fails(["bake", "hw_direct", "out.elf", "no-such-program"]);
    assert_eq!(fs::read(bench.path("out.elf")).expect("still there"), b"the old one");
}

/// A full disk, as a small tmpfs in a mount namespace of the test's own; needs to be root.
#[test]
fn a_full_disk() {
    let bench = Bench::new();
    fs::create_dir(bench.path("small")).expect("made");
    let script = "mount -t tmpfs -o size=300k none small && \"$0\" bake hw_direct small/out.elf ls; status=$?; \
                  ls -A small; exit $status";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user", "sh", "-c", script, env!("CARGO_BIN_EXE_rumprun-bake")]);
    let tool = bench.command();
    command.current_dir(bench.path(""));
    command.envs(tool.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().expect("unshare starts");
    let message = String::from_utf8_lossy(&output.stderr);
    if message.contains("unshare") || message.contains("mount:") {
        println!("skipped: no mount namespaces here: {message}");
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("small/out.elf: cannot be written: No space left"), "{message}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "nothing is left behind");
}

#[test]
fn what_a_domain_of_xen_has_not() {
    let bench = Bench::new();
    let message = bench.fails(["bake", "xen_direct", "out.iso", "--format", "iso", "ls"]);
    assert!(message.contains("bake with --format elf"), "{message}");
    bench.succeeds(["bake", "xen_direct", "out.elf", "ls"]);
    // The image's own configuration says that it runs on Xen.
    for words in [["--machine", "q35"], ["--accel", "kvm"], ["--gdb", "1234"], ["--firmware", "uefi"]] {
        let output = bench.run(["run", "out.elf"].iter().chain(&words));
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(125), "{words:?}: {message}");
        assert!(
            message.contains("Xen") || message.contains("--on xen") || message.contains("xl"),
            "{message}"
        );
    }
    let printed = bench.succeeds(["run", "out.elf", "--on", "qemu", "--print-command"]);
    assert!(printed.contains("microvm"), "{printed}");
}
