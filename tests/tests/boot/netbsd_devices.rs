//! Pseudo-devices of a NetBSD component set: disks in files, and packets that are looked at and filtered.

use std::{
    ffi::OsString,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
};

use tests::{
    bake, clients,
    guest::Guest,
    needs,
    netbsd::{arguments, program, program_with, succeed},
    network::{Link, Network},
    scratch, skip,
};

const MOUNTS: &str = r#"
    [[mount]]
    source = "/dev/vda"
    target = "/data"
    type = "ext2fs"

    [[mount]]
    source = "/data/inner"
    target = "/inner"
    type = "ext4"
"#;

/// A folder of this test's, and an empty one in it.
fn scratch_folder(name: &str) -> (PathBuf, PathBuf) {
    let folder = scratch().join(format!("{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    let empty = folder.join("empty");
    fs::create_dir_all(&empty).expect("a folder of ours");
    (folder, empty)
}

/// A configuration of the test's, as the words of a bake.
fn configured(folder: &Path, text: &str) -> [OsString; 2] {
    let file = folder.join("configuration.toml");
    fs::write(&file, text).expect("written");
    ["--config".into(), file.into()]
}

fn make_ext2(disk: &Path, content: &Path, size: &str) {
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-t", "ext2", "-O", "none", "-I", "128", "-d"]);
    succeed(command.arg(content).arg(disk).arg(size));
}

#[test]
fn a_file_of_a_disk_is_a_disk() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64", "mke2fs", "e2fsck", "debugfs");
    let Some((set, program)) = program("disks.c") else { return };
    let (folder, empty) = scratch_folder("netbsd-file-disk");
    let content = folder.join("content");
    fs::create_dir_all(&content).expect("a folder of ours");
    make_ext2(&content.join("inner"), &empty, "2M");
    let disk = folder.join("disk");
    make_ext2(&disk, &content, "8M");
    for (runs, cpus) in [(0, 1), (1, 2)] {
        let mut words = arguments(&set, &[&program]);
        words.extend(configured(&folder, MOUNTS));
        words.push("--".into());
        words.extend([format!("/data={runs}").into(), format!("/inner={runs}").into()]);
        let image = bake(&format!("netbsd-file-disk-{runs}"), words);
        let outcome = Guest::new(&image).machine("q35").cpus(cpus).disk(&disk).run();
        let console = outcome.exited(0);
        assert!(!console.contains("not clean"), "{console}");
    }
    let inner = folder.join("inner");
    succeed(Command::new("debugfs").args(["-R", &format!("dump /inner {}", inner.display())]).arg(&disk));
    for disk in [&disk, &inner] {
        succeed(Command::new("e2fsck").args(["-f", "-n"]).arg(disk));
        let said = Command::new("debugfs").args(["-R", "cat /count"]).arg(disk).output().expect("debugfs");
        assert_eq!(String::from_utf8_lossy(&said.stdout), "2\n", "{}", disk.display());
    }
    let _ = fs::remove_dir_all(&folder);
}

const NVME: &str = r#"
    [[mount]]
    source = "/dev/ld0d"
    target = "/data"
    type = "ext2fs"
"#;

#[test]
fn a_disk_is_nvme() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64", "mke2fs", "e2fsck");
    let Some((set, program)) = program("disks.c") else { return };
    if !set.join("lib/rump/librumpdev_pci_nvme.a").is_file() {
        return skip("the NetBSD set has no nvme component");
    }
    let (folder, empty) = scratch_folder("netbsd-nvme");
    let disk = folder.join("disk");
    make_ext2(&disk, &empty, "8M");
    for (runs, (cpus, machine)) in [(1, "q35"), (2, "q35"), (4, "pc")].into_iter().enumerate() {
        let mut words = arguments(&set, &[&program]);
        words.extend(["--components".into(), "rumpdev_pci_nvme".into()]);
        words.extend(configured(&folder, NVME));
        words.extend(["--".into(), format!("/data={runs}").into()]);
        let image = bake(&format!("netbsd-nvme-{runs}"), words);
        let drive = format!("if=none,id=disk,format=raw,file={}", disk.display());
        let guest = Guest::new(&image).machine(machine).cpus(cpus);
        let guest = ["-drive", &drive, "-device", "nvme,serial=one,drive=disk"]
            .into_iter()
            .fold(guest, |guest, word| guest.option("--qemu", word));
        let outcome = guest.run();
        let console = outcome.exited(0);
        assert!(!console.contains("not clean"), "{console}");
    }
    succeed(Command::new("e2fsck").args(["-f", "-n"]).arg(&disk));
    let _ = fs::remove_dir_all(&folder);
}

/// The kernel says what it finds; one of two virtio drivers asks for MSI-X.
const VERBOSE: &str = "[sysctl]\nRUMP_VERBOSE = 1\n";

#[test]
fn interrupts_are_messages_and_can_be_given_up() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64");
    let Some((set, program)) = program("interrupts.c") else { return };
    let (folder, _) = scratch_folder("netbsd-interrupts");
    let mut words = arguments(&set, &[&program]);
    words.extend(configured(&folder, VERBOSE));
    let image = bake("netbsd-interrupts", words);
    for (cpus, machine) in [(1, "pc"), (2, "q35")] {
        let guest =
            Guest::new(&image).machine(machine).cpus(cpus).option("--net", "user,address=10.0.2.15/24");
        let outcome = guest.option("--qemu", "-device").option("--qemu", "edu").run();
        let console = outcome.exited(0);
        for line in ["queues interrupting at", "interrupts begin and end"] {
            assert!(console.contains(line), "{line:?} is not in:\n{console}");
        }
    }
    let _ = fs::remove_dir_all(&folder);
}

#[test]
fn packets_are_seen_and_filtered() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64", "ping");
    let Some((set, program)) = program_with("packets.c", &["-lnpf", "-lpcap", "-lprop"]) else { return };
    let Some(network) = Network::new(Link::Tap { queues: 1 }) else { return };
    let mut words = arguments(&set, &[&program]);
    words.extend(["--components".into(), "rumpnet_npf".into()]);
    let guest = Guest::new(&bake("netbsd-packets", words)).cpus(2);
    let mut running = network.attach_with(guest, &[], "address=10.77.0.2/24").start();
    running.wait_for("capturing");
    let mut hello = |port: u16| network.answer(&mut running, port, b"\n") == b"hello\n";
    assert!(hello(7001) && hello(7002));
    clients::ping(&network, &["-c", "3", "-i", "0.1", "10.77.0.2"]);
    running.wait_for("filtering");
    assert_eq!(running.console().matches("a ping of 98 bytes, type 8\n").count(), 3);
    assert_eq!(network.connect(7001).map_err(|error| error.kind()).err(), Some(ErrorKind::ConnectionRefused));
    assert!(network.answer(&mut running, 7002, b"\n") == b"hello\n");
    network.connect(7003).expect("it listens");
    running.wait().exited(0);
}
