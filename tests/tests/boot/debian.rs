//! Debian's programs, unmodified: the guest's output and status are the host's.

use std::{fs, path::Path, process::Command};

use tests::{
    Guest, bake, needs,
    programs::{folder_with, on_host},
};

/// Boots at 1, 2 and 4 CPUs, and expects the same each time.
#[track_caller]
fn always(guest: Guest, status: i32, output: &str) {
    for cpus in [1, 2, 4] {
        assert_eq!(guest.clone().cpus(cpus).run().exited(status), output, "{cpus} CPUs");
    }
}

#[test]
fn busybox_runs_a_long_script() {
    needs!("busybox");
    let files = folder_with("long-script", &["long.sh"]);
    let empty = tempfile::tempdir().expect("a temporary folder");
    let script = format!("{files}/long.sh");
    let (output, status) =
        on_host(Path::new("/bin/busybox"), &["sh", &script, &empty.path().to_string_lossy()]);
    let rootfs = format!("{files}:/scripts");
    let arguments = ["/bin/busybox", "--rootfs", &rootfs, "--", "sh", "/scripts/long.sh", "/tmp"];
    always(Guest::new(&bake("busybox", arguments)), status, &output);
}

#[test]
fn python_runs_its_standard_library() {
    needs!("/usr/bin/python3", "busybox");
    let files = folder_with("standard-library", &["standard_library.py"]);
    let script = format!("{files}/standard_library.py");
    let (output, status) = on_host(Path::new("/usr/bin/python3"), &[&script, "/bin/busybox"]);
    let rootfs = format!("{files}:/scripts");
    let image = bake(
        "python",
        [
            "/usr/bin/python3",
            "--package",
            "python3",
            "--package",
            "busybox-static",
            "--rootfs",
            &rootfs,
            "--",
            "/scripts/standard_library.py",
            "/bin/busybox",
        ],
    );
    always(Guest::new(&image).memory("512M").timeout(300), status, &output);
}

#[test]
fn python_finds_files_sockets_and_terminals_as_on_the_host() {
    needs!("/usr/bin/python3");
    let files = folder_with("file-calls", &["file_calls.py"]);
    let script = format!("{files}/file_calls.py");
    let (output, status) = on_host(Path::new("/usr/bin/python3"), &[&script]);
    let rootfs = format!("{files}:/scripts");
    let arguments =
        ["/usr/bin/python3", "--package", "python3", "--rootfs", &rootfs, "--", "/scripts/file_calls.py"];
    always(Guest::new(&bake("file-calls", arguments)).memory("512M").timeout(300), status, &output);
}

#[test]
fn perl_runs_a_script() {
    needs!("perl");
    let program = r#"
        use strict; use warnings; use POSIX qw(floor); use File::Temp qw(tempfile); use List::Util qw(sum);
        my %count; $count{$_ % 7}++ for 1..1000;
        print join(",", map { "$_=$count{$_}" } sort keys %count), "\n";
        my ($handle, $name) = tempfile(UNLINK => 1);
        print $handle "line $_\n" for 1..100; close $handle;
        open my $in, "<", $name or die; my @lines = <$in>; print scalar(@lines), " ", floor(sum(map { (split)[1] } @lines)), "\n";
        my $child = fork(); if (!$child) { exit 6 } waitpid $child, 0; print "child ", $? >> 8, "\n";
        local $SIG{ALRM} = sub { print "alarm\n" }; alarm 1; sleep 5;
        print sprintf("%.6f", atan2(1, 1) * 4), "\n"; exit 4;
    "#;
    let (output, status) = on_host(Path::new("/usr/bin/perl"), &["-e", program]);
    let image = bake("perl", ["/usr/bin/perl", "--package", "perl", "--", "-e", program]);
    always(Guest::new(&image), status, &output);
}

#[test]
fn stress_ng_verifies() {
    needs!("stress-ng");
    let image = bake("stress-ng", ["/usr/bin/stress-ng"]);
    for cpus in [1, 2, 4] {
        for (stressor, operations) in [
            ("cpu", "50"),
            ("vm", "500"),
            ("futex", "5000"),
            ("mmap", "6"),
            ("pipe", "20000"),
            ("poll", "2000"),
            ("timer", "1000"),
            ("signal", "20000"),
            ("fork", "100"),
            ("memfd", "16"),
        ] {
            let workers = format!("--{stressor}");
            let limit = format!("--{stressor}-ops");
            let arguments = [
                workers.as_str(),
                "2",
                &limit,
                operations,
                "--verify",
                "--timeout",
                "60",
                "--vm-bytes",
                "16M",
            ];
            let outcome =
                Guest::new(&image).cpus(cpus).memory("512M").timeout(180).arguments(arguments).run();
            outcome.exited(0);
            let everything = format!("{}{}", outcome.console, outcome.messages);
            assert!(
                everything.contains("successful run completed"),
                "{stressor} on {cpus} CPUs: {everything}"
            );
            assert!(!everything.contains("fail:"), "{stressor} on {cpus} CPUs: {everything}");
        }
    }
}

#[test]
fn a_database_survives_the_kill_of_qemu() {
    needs!("sqlite3", "mkfs.ext4", "e2fsck");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = folder.path().join("disk.raw");
    fs::File::create(&disk).and_then(|file| file.set_len(256 << 20)).expect("a disk");
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk).status().expect("mkfs.ext4 starts");
    assert!(made.success());
    let configuration = folder.path().join("image.toml");
    fs::write(&configuration, "[[mount]]\nsource = \"/dev/vda\"\ntarget = \"/data\"\ntype = \"ext4\"\n")
        .expect("a configuration");
    let image =
        bake("sqlite3", ["/usr/bin/sqlite3".as_ref(), "--config".as_ref(), configuration.as_os_str()]);
    let guest = |statements: &str| {
        Guest::new(&image).disk(&disk).timeout(300).arguments(["-bail", "/data/test.db", statements])
    };

    let fill = "create table numbers (id integer primary key, text text);
        with recursive counter(n) as (select 1 union all select n + 1 from counter where n < 100000)
        insert into numbers select n, 'text of row ' || n from counter;
        select count(*), sum(id), max(text) from numbers;";
    assert_eq!(guest(fill).run().exited(0), "100000|5000050000|text of row 99999\n");

    // A transaction that never ends, told by the console that it is under way; then the plug is pulled.
    let endless = "begin; update numbers set text = 'changed';
        select 'in the middle';
        with recursive counter(n) as (select 1 union all select n + 1 from counter)
        insert into numbers select n + 100000, 'more' from counter;";
    let mut running = guest(endless).start();
    running.wait_for("in the middle");
    std::thread::sleep(std::time::Duration::from_secs(2));
    running.kill_qemu();

    let check = "pragma integrity_check; select count(*), sum(id), max(text) from numbers;";
    assert_eq!(guest(check).run().exited(0), "ok\n100000|5000050000|text of row 99999\n");
    let fsck = Command::new("e2fsck").args(["-f", "-n"]).arg(&disk).output().expect("e2fsck starts");
    assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stdout));
}
