//! NFS on a NetBSD component set: what a server exports is mounted, and mounts are exported, as the configuration says.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tests::{
    bake, checkout,
    guest::{Guest, Outcome},
    needs,
    netbsd::{arguments, installed, program, succeed},
    network::{Link, Network},
    programs::on_host,
    scratch,
};

/// A folder of ours; gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = scratch().join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("export")).expect("a folder of ours");
        Folder(folder)
    }

    fn export(&self) -> PathBuf {
        self.0.join("export")
    }

    /// A file with a text.
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let file = self.0.join(name);
        fs::write(&file, text).expect("written");
        file
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A port mapper and an NFS server on the network, which ends with it.
fn serve(network: &Network, folder: &Folder) -> Child {
    let export = folder.export();
    let export = export.display();
    let configuration = folder.file(
        "ganesha.conf",
        // What changes behind the server's back it knows after a second, not a minute.
        &format!(
            "NFS_CORE_PARAM {{ Protocols = 3; Enable_NLM = false; Enable_RQUOTA = false; }}
             EXPORT {{ Export_Id = 1; Path = {export}; Pseudo = /export; Access_Type = RW; Attr_Expiration_Time = 1;
                       Squash = No_Root_Squash; SecType = sys; FSAL {{ Name = VFS; }} }}
             LOG {{ COMPONENTS {{ DBUS = FATAL; }} }}"
        ),
    );
    // `ip netns exec` gives them mounts of their own, so that they meet no other port mapper in /run.
    let script = format!(
        "set -e; mount -t tmpfs none /run; rpcbind -f -w &
         for i in $(seq 200); do [ -S /run/rpcbind.sock ] && break; sleep 0.05; done
         exec ganesha.nfsd -F -L /dev/stdout -f {} -p /run/ganesha.pid",
        configuration.display()
    );
    let mut server = network
        .command("sh")
        .args(["-c", &script])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut log = BufReader::new(server.stdout.take().expect("a pipe")).lines();
    let found = log.by_ref().map_while(Result::ok).any(|line| line.contains("NFS SERVER INITIALIZED"));
    assert!(found, "the server starts");
    // What it says later is read, or it would wait.
    std::thread::spawn(move || log.for_each(drop));
    server
}

fn mounts(sources: &[(&str, &str)]) -> String {
    sources
        .iter()
        .map(|(source, target)| {
            format!("[[mount]]\ntype = \"nfs\"\nsource = \"{source}\"\ntarget = \"{target}\"\n")
        })
        .collect()
}

fn image(name: &str, folder: &Folder, program: &(PathBuf, PathBuf), mounts: &str, words: &[&str]) -> PathBuf {
    let file = folder.file("mounts.toml", mounts);
    let mut all = arguments(&program.0, &[&program.1]);
    all.extend(["--config".into(), file.into(), "--".into()]);
    all.extend(words.iter().map(Into::into));
    bake(name, all)
}

fn run(network: &Network, image: &Path, cpus: usize) -> Outcome {
    let guest = Guest::new(image).cpus(cpus);
    network.attach_with(guest, &[], "address=10.77.0.2/24,address=fd77::2/64").run()
}

#[test]
fn what_a_server_exports_is_mounted() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64", "rpcbind", "ganesha.nfsd");
    let Some(program) = program("disks.c") else { return };
    let Some(network) = Network::new(Link::Tap { queues: 1 }) else { return };
    let folder = Folder::new("netbsd-nfs");
    let export = folder.export();
    let path = export.to_str().expect("UTF-8");
    // Before there is a server.
    let sources = [format!("10.77.0.1:{path}"), format!("[fd77::1]:{path}")];
    let both = mounts(&[(&sources[0], "/four"), (&sources[1], "/six")]);
    let image_of_both = image("netbsd-nfs", &folder, &program, &both, &["/four=0", "/six=1"]);
    let console = run(&network, &image_of_both, 1).exited(125).to_string();
    assert!(
        console.contains("the port mapper of 10.77.0.1 can't be reached: nobody listens there"),
        "{console}"
    );
    let mut server = serve(&network, &folder);
    let console = run(&network, &image_of_both, 2).exited(0).to_string();
    assert!(console.contains("/four: 1\n") && console.contains("/six: 2\n"), "{console}");
    assert_eq!(fs::read_to_string(export.join("count")).expect("written"), "2\n");
    assert_eq!(fs::read(export.join("folder/large")).expect("written").len(), 300_000);
    let absent = mounts(&[("10.77.0.1:/nothing/there", "/data")]);
    let console = run(&network, &image("netbsd-nfs-absent", &folder, &program, &absent, &[]), 1)
        .exited(125)
        .to_string();
    assert!(console.contains("nfs cannot be mounted at /data: its server"), "{console}");
    let _ = server.kill();
    let _ = server.wait();
}

#[test]
fn linux_programs_have_what_a_server_exports() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64", "rpcbind", "ganesha.nfsd", "/usr/bin/python3");
    let Some(set) = installed() else { return };
    let Some(network) = Network::new(Link::Tap { queues: 1 }) else { return };
    let folder = Folder::new("netbsd-nfs-linux");
    let export = folder.export();
    let root = folder.0.join("root");
    fs::create_dir_all(root.join("scripts")).expect("a folder of ours");
    let programs = checkout().join("tests/programs");
    for name in ["files.py", "netbsd/linux_files.py"] {
        let copy = Path::new(name).file_name().expect("a name");
        fs::copy(programs.join(name), root.join("scripts").join(copy)).expect("a program of ours");
    }
    let source = format!("10.77.0.1:{}", export.display());
    let file = folder.file("mounts.toml", &mounts(&[(&source, "/data")]));
    let mut words: Vec<OsString> = vec!["/usr/bin/python3".into(), "--package".into(), "python3".into()];
    words.extend(arguments(&set, &[]));
    words.extend(["--config".into(), file.into(), "--rootfs".into(), root.into()]);
    let image = bake("netbsd-nfs-linux", words);
    let guest = |words: &[&str], cpus: usize| {
        let guest = Guest::new(&image).machine("q35").cpus(cpus).timeout(120);
        let guest = guest.arguments(words);
        network.attach_with(guest, &[], "address=10.77.0.2/24,address=fd77::2/64")
    };
    let keep = ["/scripts/linux_files.py", "keep", "/data"];
    let outcome = guest(&keep, 1).run();
    let console = outcome.exited(125);
    assert!(console.contains("the port mapper of 10.77.0.1 can't be reached"), "{console}");
    let mut server = serve(&network, &folder);
    let outcome = guest(&keep, 2).run();
    assert!(outcome.exited(0).contains("keep: passed\n"), "{}", outcome.console);
    assert_eq!(fs::read_to_string(export.join("kept")).expect("there"), "kept by a Linux program\n");
    assert_eq!(&fs::read(export.join("mapped")).expect("there")[9_999..10_007], b"-mapped-");
    let (files, mine) = (programs.join("files.py"), folder.0.join("mine"));
    fs::create_dir_all(&mine).expect("a folder of ours");
    let words = [&*files.to_string_lossy(), &*mine.to_string_lossy()];
    let (expected, _) = on_host(Path::new("/usr/bin/python3"), &words);
    // Over NFS, a file that lost its name while it was open keeps its directory: the last step, removing all, fails.
    let expected = expected.strip_suffix("gone True\n").expect("the last line");
    let outcome = guest(&["/scripts/files.py", "/data"], 2).run();
    assert!(outcome.exited(1).contains(expected), "{}", outcome.console);
    let here = export.clone();
    let answer = std::thread::spawn(move || {
        let asked = || fs::metadata(here.join("question")).is_ok_and(|file| file.len() == 100_000);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !asked() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        fs::write(here.join("log"), "guest\nserver\n").expect("written");
        fs::write(here.join("new"), "server\n").expect("written");
        fs::rename(here.join("new"), here.join("replaced")).expect("replaced");
        fs::write(here.join("answer"), "!").expect("written");
    });
    let outcome = guest(&["/scripts/linux_files.py", "remote", "/data"], 1).run();
    answer.join().expect("the server's side");
    assert!(outcome.exited(0).contains("remote: passed\n"), "{}", outcome.console);
    assert_eq!(fs::read_to_string(export.join("log")).expect("there"), "guest\nserver\nguest again\n");
    let _ = server.kill();
    let _ = server.wait();
}

#[test]
fn mounts_are_exported() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64", "mke2fs", "e2fsck", "debugfs", "rpcinfo");
    needs!("nfs-ls", "nfs-cp", "nfs-cat");
    let Some(program) = program("http.c") else { return };
    let Some(network) = Network::new(Link::Tap { queues: 1 }) else { return };
    let folder = Folder::new("netbsd-nfs-server");
    let disk = folder.0.join("disk");
    succeed(
        Command::new("mke2fs").args(["-q", "-t", "ext2", "-O", "none", "-I", "128"]).arg(&disk).arg("8M"),
    );
    let exports = "[[mount]]\nsource = \"/dev/vda\"\ntarget = \"/data\"\ntype = \"ext2fs\"\n\
                   exported_to = [\"10.77.0.0/24\", \"fd77::/64\"]\n\
                   [[mount]]\ntarget = \"/others\"\ntype = \"tmpfs\"\nexported_to = [\"192.0.2.0/24\"]\n";
    let image = image("netbsd-nfs-server", &folder, &program, exports, &[]);
    let guest = Guest::new(&image).machine("q35").cpus(2).disk(&disk);
    let mut running = network.attach_with(guest, &[80], "address=10.77.0.2/24,address=fd77::2/64").start();
    running.wait_for("nfs: /others for 192.0.2.0/24");
    let client = |program: &str, words: &[&str]| {
        let output = network.command(program).args(words).output().expect("it starts");
        let messages = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), output.stdout, messages)
    };
    for words in
        [["tcp", "10.77.0.2", "100003"], ["udp", "10.77.0.2", "100005"], ["tcp6", "fd77::2", "100003"]]
    {
        let (good, _, messages) = client("rpcinfo", &["-T", words[0], words[1], words[2], "3"]);
        assert!(good, "{words:?}: {messages}");
    }
    let content: Vec<u8> = (0..1_000_003u32).map(|index| (index * 7 + index / 1000) as u8).collect();
    let local = folder.0.join("local");
    fs::write(&local, &content).expect("written");
    let local = local.to_str().expect("UTF-8");
    let (good, _, messages) = client("nfs-cp", &[local, "nfs://10.77.0.2/data/file?version=3&uid=0&gid=0"]);
    assert!(good, "{messages}");
    let (_, got, messages) = client("nfs-cat", &["nfs://10.77.0.2/data/file?version=3"]);
    assert!(got == content, "{} bytes: {messages}", got.len());
    for (path, error) in [("/others", "MNT3ERR_ACCES"), ("/data/lost+found", "MNT3ERR_NOENT")] {
        let (_, listing, messages) = client("nfs-ls", &[&format!("nfs://10.77.0.2{path}?version=3")]);
        assert!(listing.is_empty() && messages.contains(error), "{path}: {messages}");
    }
    network.answer(&mut running, 80, b"GET /quit HTTP/1.1\r\n\r\n");
    running.wait().exited(0);
    succeed(Command::new("e2fsck").args(["-f", "-n"]).arg(&disk));
    let said = Command::new("debugfs").args(["-R", "cat /file"]).arg(&disk).output().expect("debugfs");
    assert!(said.stdout == content, "the file is on the disk");
}
