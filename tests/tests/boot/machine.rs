//! What an image does as a machine: CPUs, memory, console, several programs, an orderly stop, disks.

use std::{fs, path::Path, process::Command};

use tests::{Ending, Guest, bake, needs};

fn busybox(name: &str, arguments: &[&str]) -> Guest {
    Guest::new(&bake(name, [&["/bin/busybox", "--"], arguments].concat()))
}

#[test]
fn every_cpu_is_there() {
    needs!("busybox");
    let guest = busybox("nproc", &["nproc"]);
    for cpus in [1, 2, 4, 8] {
        assert_eq!(guest.clone().cpus(cpus).run().exited(0), format!("{cpus}\n"));
    }
}

#[test]
fn the_apic_may_lack_x2apic() {
    needs!("busybox");
    let guest = busybox("xapic", &["nproc"]).machine("q35").option("--qemu", "-cpu");
    for model in ["max,x2apic=off", "max,x2apic=off,tsc-deadline=off", "qemu64"] {
        assert_eq!(guest.clone().option("--qemu", model).cpus(4).run().exited(0), "4\n", "{model}");
    }
}

#[test]
fn memory_is_what_the_machine_has() {
    needs!("busybox");
    let guest = busybox("meminfo", &["awk", "/^MemTotal:/ { print $2 }", "/proc/meminfo"]);
    for (memory, mebibytes) in [("64M", 64), ("512M", 512), ("6G", 6144)] {
        let outcome = guest.clone().memory(memory).run();
        let total: u64 = outcome.exited(0).trim().parse().expect("a number of KiB");
        let expected = mebibytes * 1024;
        assert!(total < expected && total > expected * 8 / 10, "{memory}: {total} KiB");
    }
}

#[test]
fn programs_run_in_sequence_piped_and_in_background() {
    needs!("busybox");
    let image = bake("sequence", ["/bin/busybox seq 3", "/bin/busybox echo done"]);
    assert_eq!(Guest::new(&image).run().exited(0), "1\n2\n3\ndone\n");
    let image =
        bake("piped", ["/bin/busybox seq 5", "|", "/bin/busybox tail -n 2", "|", "/bin/busybox wc -l"]);
    assert_eq!(Guest::new(&image).run().exited(0), "2\n");
    let image = bake("background", ["/bin/busybox sleep 100", "&", "/bin/busybox echo first"]);
    assert_eq!(Guest::new(&image).run().exited(0), "first\n");
}

#[test]
fn the_console_reads_and_writes() {
    needs!("busybox");
    let guest = busybox("console", &["sh", "-c", "read name; echo \"hello $name\"; cat; echo end"]);
    let outcome = guest.input(b"world\nmore\n").run();
    let console = outcome.exited(0);
    for text in ["hello world\n", "more\n", "end\n"] {
        assert!(console.contains(text), "{console}");
    }
}

#[test]
fn a_stop_is_orderly() {
    needs!("busybox");
    let script = "trap 'echo stopping; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
    let guest = busybox("stop", &["sh", "-c", script]);
    for machine in ["microvm", "q35", "pc"] {
        for signal in ["-TERM", "-INT"] {
            let mut running = guest.clone().machine(machine).start();
            running.wait_for("ready");
            let sent = Command::new("kill").args([signal, &running.id().to_string()]).status();
            assert!(sent.expect("kill starts").success());
            let outcome = running.wait();
            // The shell says that its child was terminated, too.
            assert!(outcome.exited(5).ends_with("stopping\n"), "{machine} {signal}: {}", outcome.console);
        }
    }
}

#[test]
fn an_interactive_shell_works() {
    needs!("busybox");
    let outcome = busybox("shell", &["sh", "-i"]).input(b"echo $((6 * 7)) | cat\nexit 9\n").run();
    assert!(outcome.exited(9).contains("42\n"), "{}", outcome.console);
}

#[test]
fn a_disk_keeps_what_was_written() {
    needs!("busybox", "mkfs.ext4", "e2fsck");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let configuration = folder.path().join("image.toml");
    fs::write(
        &configuration,
        "[[mount]]\nsource = \"/dev/vda\"\ntarget = \"/data\"\ntype = \"ext4\"\nformat = true\n",
    )
    .expect("a configuration");
    let image = bake("disk", ["/bin/busybox".as_ref(), "--config".as_ref(), configuration.as_os_str()]);
    for machine in ["q35", "microvm", "pc"] {
        for blank in [true, false] {
            let disk = folder.path().join(format!("{machine}-{blank}"));
            fs::File::create(&disk).and_then(|file| file.set_len(64 << 20)).expect("a disk");
            if !blank {
                let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk).status();
                assert!(made.expect("mkfs.ext4 starts").success());
            }
            let shell = |script: &str| {
                let guest = Guest::new(&image).machine(machine).disk(&disk).arguments(["sh", "-c", script]);
                guest.run().exited(0).to_owned()
            };
            shell(
                "mkdir /data/folder && seq 10000 > /data/folder/numbers && ln -s folder/numbers /data/link",
            );
            let sum =
                shell("wc -l < /data/link; sha256sum /data/folder/numbers; rm /data/link; sync; ls /data");
            assert!(sum.starts_with("10000\n"), "{sum}");
            let fsck = Command::new("e2fsck").args(["-f", "-n"]).arg(&disk).output().expect("e2fsck starts");
            assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stdout));
        }
    }
}

#[test]
fn a_disk_that_is_missing_is_named() {
    needs!("busybox");
    let outcome = busybox("no-disk", &["true"]).disk(Path::new("/no/such/disk")).run();
    assert_eq!(outcome.ending, Ending::Failed);
    assert!(outcome.messages.contains("/no/such/disk"), "{}", outcome.messages);
}
