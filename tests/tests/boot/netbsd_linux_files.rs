//! Linux programs on an installed NetBSD component set: NetBSD's file systems beneath them.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tests::{
    Guest, bake, checkout,
    clients::redis,
    needs,
    netbsd::{arguments, installed, succeed},
    network::Link,
    programs::on_host,
    recipe::Server,
    scratch,
};

/// A folder of ours with an ffs, an ext2 and a FAT, and the configuration that mounts them.
struct Disks {
    folder: PathBuf,
    disks: [PathBuf; 3],
}

const MOUNTS: &str = r#"
    [[mount]]
    source = "/dev/vda"
    target = "/ffs"
    type = "ffs"

    [[mount]]
    source = "/dev/vdb"
    target = "/ext2"
    type = "ext2fs"

    [[mount]]
    source = "/dev/vdc"
    target = "/fat"
    type = "msdos"

    [[mount]]
    source = "/disk"
    target = "/ram"
    type = "ext2fs"
"#;

fn make_ext2(disk: &Path, size: &str) {
    succeed(Command::new("mke2fs").args(["-q", "-t", "ext2", "-O", "none", "-I", "128"]).arg(disk).arg(size));
}

impl Disks {
    fn make(name: &str) -> Self {
        let folder = scratch().join(format!("netbsd-linux-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let (root, empty) = (folder.join("root"), folder.join("empty"));
        for part in [&root, &empty] {
            fs::create_dir_all(part).expect("a folder of ours");
        }
        let disks = ["ffs", "ext2", "fat"].map(|name| folder.join(name));
        let [ffs, ext2, fat] = &disks;
        succeed(
            Command::new("makefs")
                .args(["-t", "ffs", "-s", "16m", "-f", "1000", "-o", "version=1"])
                .arg(ffs)
                .arg(&empty),
        );
        make_ext2(ext2, "16M");
        make_ext2(&root.join("disk"), "1M");
        fs::File::create(fat).and_then(|file| file.set_len(8 << 20)).expect("written");
        succeed(
            Command::new("mformat").args(["-i"]).arg(fat).args(["-h", "2", "-t", "256", "-s", "32", "::"]),
        );
        fs::write(folder.join("mounts.toml"), MOUNTS).expect("written");
        Disks { folder, disks }
    }

    /// What is told to `bake` to have these mounts.
    fn words(&self, set: &Path) -> Vec<OsString> {
        let mut words = arguments(set, &[]);
        words.extend(["--config".into(), self.folder.join("mounts.toml").into()]);
        words.extend(["--rootfs".into(), self.folder.join("root").into()]);
        words
    }

    fn guest(&self, image: &Path, cpus: usize) -> Guest {
        let guest = Guest::new(image).machine("q35").cpus(cpus).timeout(120);
        self.disks.iter().fold(guest, |guest, disk| guest.disk(disk))
    }

    /// Checks what can be checked from here, with the machine off.
    fn check(&self) {
        let [ffs, ext2, _] = &self.disks;
        succeed(Command::new("e2fsck").args(["-f", "-n"]).arg(ext2));
        // `fs_clean` of the superblock, which has 1 when nothing is left to be checked.
        assert_eq!(fs::read(ffs).expect("the disk")[8192 + 209], 1, "the ffs was left clean");
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn files_behave_as_on_linux() {
    needs!(
        "/usr/bin/python3",
        "ld",
        "objcopy",
        "qemu-system-x86_64",
        "mke2fs",
        "e2fsck",
        "makefs",
        "mformat"
    );
    needs!("mtype");
    let Some(set) = installed() else { return };
    let disks = Disks::make("files");
    let program = checkout().join("tests/programs/files.py");
    let here = disks.folder.join("here");
    fs::create_dir_all(&here).expect("a folder of ours");
    let (program, here) = (program.to_string_lossy(), here.to_string_lossy());
    let (expected, status) = on_host(Path::new("/usr/bin/python3"), &[&program, &here]);
    assert_eq!(status, 0, "{expected}");

    let mut words: Vec<OsString> = vec!["/usr/bin/python3".into(), "--package".into(), "python3".into()];
    words.extend(disks.words(&set));
    let scripts = disks.folder.join("root/scripts");
    fs::create_dir_all(&scripts).expect("a folder of ours");
    for (folder, name) in [("programs", "files.py"), ("programs/netbsd", "linux_files.py")] {
        let source = checkout().join("tests").join(folder).join(name);
        fs::copy(source, scripts.join(name)).expect("a program of ours");
    }
    let image = bake("netbsd-linux-files", words);
    for (place, cpus) in [("/ffs", 1), ("/ffs", 2), ("/ext2", 2), ("/ram", 1)] {
        let guest = disks.guest(&image, cpus).memory("256M").arguments(["/scripts/files.py", place]);
        if place == "/ram" {
            // Too small for all of it; that it can be written and is full at some time is tried here.
            let outcome =
                disks.guest(&image, cpus).arguments(["/scripts/linux_files.py", "full", place]).run();
            assert!(outcome.exited(0).contains("full: passed\n"), "{}", outcome.console);
            continue;
        }
        assert_eq!(guest.run().exited(0), expected, "in {place} at {cpus} CPUs");
    }
    for place in ["/ffs", "/ext2", "/fat"] {
        let guest = disks.guest(&image, 2).arguments(["/scripts/linux_files.py", "keep", place]);
        assert!(guest.run().exited(0).contains("keep: passed\n"));
    }
    disks.check();
    let [_, ext2, fat] = &disks.disks;
    let said = Command::new("debugfs").args(["-R", "cat /kept"]).arg(ext2).output().expect("debugfs");
    assert_eq!(String::from_utf8_lossy(&said.stdout), "kept by a Linux program\n");
    let said = Command::new("mtype").arg("-i").arg(fat).arg("::kept").output().expect("mtype");
    assert_eq!(String::from_utf8_lossy(&said.stdout), "kept by a Linux program\n");
    let outcome = disks.guest(&image, 2).arguments(["/scripts/linux_files.py", "found", "/ffs"]).run();
    assert!(outcome.exited(0).contains("found: passed\n"), "{}", outcome.console);
}

#[test]
fn a_database_of_the_guest_is_read_here() {
    needs!(
        "sqlite3",
        "ld",
        "objcopy",
        "qemu-system-x86_64",
        "mke2fs",
        "e2fsck",
        "debugfs",
        "makefs",
        "mformat"
    );
    let Some(set) = installed() else { return };
    let disks = Disks::make("database");
    let mut words: Vec<OsString> = vec!["/usr/bin/sqlite3".into()];
    words.extend(disks.words(&set));
    let image = bake("netbsd-linux-database", words);
    let fill = "pragma journal_mode = wal;
        create table numbers (id integer primary key, text text);
        with recursive counter(n) as (select 1 union all select n + 1 from counter where n < 20000)
        insert into numbers select n, 'text of row ' || n from counter;
        select count(*), sum(id), max(text) from numbers;";
    let guest = disks.guest(&image, 2).arguments(["-bail", "/ext2/test.db", fill]);
    assert_eq!(guest.run().exited(0), "wal\n20000|200010000|text of row 9999\n");

    // What was committed is on the disk when the plug is pulled.
    let endless = "pragma synchronous = full; insert into numbers values (0, 'the last');
        select 'in the middle';
        with recursive counter(n) as (select 1 union all select n + 1 from counter)
        insert into numbers select n + 100000, 'more' from counter where n % 1000 = 0;";
    let mut running = disks.guest(&image, 1).arguments(["-bail", "/ext2/test.db", endless]).start();
    running.wait_for("in the middle");
    running.kill_qemu();
    let [_, ext2, _] = &disks.disks;
    // It was pulled, so there is something to mend.
    let _ = Command::new("e2fsck").args(["-f", "-y"]).arg(ext2).output().expect("e2fsck starts");
    for name in ["test.db", "test.db-wal"] {
        let to = disks.folder.join(name);
        succeed(Command::new("debugfs").arg("-R").arg(format!("dump /{name} {}", to.display())).arg(ext2));
    }
    let said = Command::new("sqlite3")
        .arg(disks.folder.join("test.db"))
        .arg("pragma integrity_check; select count(*), min(id) from numbers;")
        .output()
        .expect("sqlite3 starts");
    assert_eq!(String::from_utf8_lossy(&said.stdout), "ok\n20001|0\n");
}

#[test]
fn redis_finds_its_data_again() {
    const PORT: u16 = 6379;
    needs!("redis-server", "redis-cli", "ld", "objcopy", "qemu-system-x86_64", "mke2fs", "makefs", "mformat");
    let Some(set) = installed() else { return };
    let disks = Disks::make("redis");
    let program =
        "/usr/bin/redis-server --dir /ffs --appendonly yes --appendfsync always --protected-mode no";
    let mut words: Vec<OsString> = vec![program.into()];
    words.extend(disks.words(&set));
    let image = bake("netbsd-linux-appendonly", words);
    for (cpus, before, after) in [(1, "", "one"), (2, "one", "two"), (2, "two", "three")] {
        let Some(mut server) = Server::boot(disks.guest(&image, cpus), Link::Tap { queues: 1 }, &[PORT])
        else {
            return;
        };
        // Before, it refuses questions.
        server.running.wait_for("Ready to accept connections");
        server.wait_for_answer(PORT, b"PING\r\nQUIT\r\n", b"+PONG\r\n");
        assert_eq!(redis(&server, PORT, &["GET", "place"]), before);
        assert_eq!(redis(&server, PORT, &["SET", "place", after]), "OK");
        if cpus == 1 {
            assert_eq!(
                redis(&server, PORT, &["BGREWRITEAOF"]),
                "Background append only file rewriting started"
            );
            server.running.wait_for("Background AOF rewrite finished successfully");
        }
        let _ = redis(&server, PORT, &["SHUTDOWN"]);
        server.running.end().exited(0);
        disks.check();
    }
}
