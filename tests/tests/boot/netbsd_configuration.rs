//! What an image's configuration says is true on a NetBSD component set: addresses, name servers, disks, parameters.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use tests::{
    bake, clients,
    guest::{Guest, Running},
    needs,
    netbsd::{arguments, program, succeed},
    network::{Link, Network},
    rumprun_bake, scratch,
};

/// An image with the web server of `http.c`, which gets its addresses by DHCP.
fn web() -> Option<PathBuf> {
    static IMAGE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let make = || {
        let (set, program) = program("http.c")?;
        Some(bake("netbsd-http", arguments(&set, &[&program])))
    };
    IMAGE.get_or_init(make).clone()
}

/// What the server answers to a path.
fn get(network: &Network, running: &mut Running, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\n\r\n");
    String::from_utf8_lossy(&network.answer(running, 80, request.as_bytes())).into_owned()
}

/// A DHCP server, name server and router on the network's tap.
fn dnsmasq(network: &Network) -> Child {
    let mut command = network.command("dnsmasq");
    command
        .args(["--no-daemon", "--conf-file=/dev/null", "--user=root", "--interface=tap0", "--no-resolv"])
        .args([
            "--bind-interfaces",
            "--pid-file=",
            "--no-hosts",
            "--no-ping",
            "--enable-ra",
            "--leasefile-ro",
        ])
        .args(["--dhcp-range=10.77.0.2,10.77.0.2,2m", "--dhcp-range=fd78::,ra-only,64"])
        .args(["--domain=test.example", "--host-record=far.test.example,192.0.2.7"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().expect("dnsmasq starts")
}

#[test]
fn user_networking_configures_every_nic_that_the_tree_drives() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64");
    let Some(image) = web() else { return };
    for (machine, model, name) in
        [("q35", "virtio", "vioif0"), ("pc", "virtio", "vioif0"), ("q35", "e1000", "wm0")]
    {
        let Some(network) = Network::new(Link::User) else { return };
        let guest =
            Guest::new(&image).machine(machine).cpus(2).option("--net", format!("user,model={model}"));
        let mut running = network.attach(guest, &[80]).start();
        let answer = get(&network, &mut running, "/page");
        assert!(answer.ends_with("this is /page"), "{machine} {model}: {answer}");
        running.wait_for(&format!("{name}: 10.0.2.15/24, gateway 10.0.2.2 (DHCP)"));
        get(&network, &mut running, "/quit");
        running.wait().exited(0);
    }
    let outcome = Guest::new(&image).machine("microvm").option("--net", "user").run();
    assert!(outcome.messages.contains("NetBSD's drivers need PCI"), "{}", outcome.messages);
}

#[test]
fn dhcp_and_routers_give_addresses_and_name_servers() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64", "dnsmasq", "ping");
    let Some(image) = web() else { return };
    let Some(network) = Network::new(Link::Tap { queues: 1 }) else { return };
    // First there is no server: it is said, and asking goes on.
    let guest = Guest::new(&image).machine("q35").cpus(2);
    let mut running = network.attach_with(guest, &[], "mac=52:54:00:00:78:01").start();
    running.wait_for("vioif0: no DHCP server answers");
    network.ip(&["address", "add", "fd78::1/64", "dev", "tap0", "nodad"]);
    let mut server = dnsmasq(&network);
    running.wait_for("vioif0: 10.77.0.2/24, gateway 10.77.0.1 (DHCP)");
    let answer = get(&network, &mut running, "/lookup/far");
    assert!(answer.ends_with("192.0.2.7 "), "{answer}");
    // The address that the router's prefix and the hardware address make.
    let address = "fd78::5054:ff:fe00:7801";
    network.wait(&mut running, "an address by IPv6", || {
        let status = network.command("ping").args(["-c", "1", "-W", "1", address]).output();
        status.is_ok_and(|output| output.status.success()).then_some(())
    });
    let _ = server.kill();
    let _ = server.wait();
    running.kill_qemu();
}

#[test]
fn static_addresses_gateways_and_mtu_are_set() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64", "curl", "ping");
    let Some(image) = web() else { return };
    let Some(network) = Network::new(Link::Tap { queues: 1 }) else { return };
    // A host behind each gateway, which the guest's answers can only reach through it.
    network.ip(&["address", "add", "192.0.2.1/32", "dev", "lo"]);
    network.ip(&["address", "add", "2001:db8::1/128", "dev", "lo", "nodad"]);
    // The launcher knows that this image's drivers need PCI.
    let guest = Guest::new(&image).cpus(2);
    let options = "address=10.77.0.2/24,address=fd77::2/64,gateway=10.77.0.1,gateway=fd77::1,mtu=1300,\
                   nameserver=10.77.0.1,nameserver=fd77::1";
    let mut running = network.attach_with(guest, &[], options).start();
    network.wait_for_port(&mut running, 80);
    running.wait_for("vioif0: 10.77.0.2/24, fd77::2/64, gateway 10.77.0.1, gateway fd77::1");
    for (from, to) in [("192.0.2.1", "10.77.0.2"), ("2001:db8::1", "fd77::2")] {
        clients::ping(&network, &["-c", "2", "-i", "0.1", "-I", from, to]);
    }
    let answer = get(&network, &mut running, "/mtu/vioif0");
    assert!(answer.ends_with("1300"), "{answer}");
    running.kill_qemu();
}

/// A folder of ours with disks: ext2, ffs, ISO 9660 and FAT; their files. One more ext2 is in the image itself.
struct Disks {
    folder: PathBuf,
    disks: [PathBuf; 4],
}

impl Disks {
    fn make() -> Self {
        let folder = scratch().join(format!("netbsd-disks-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let (root, content) = (folder.join("root"), folder.join("content"));
        for part in [&root, &content] {
            fs::create_dir_all(part).expect("a folder of ours");
        }
        fs::write(content.join("text"), "what the CD has\n").expect("written");
        let disks = ["ext2", "ffs", "iso", "fat"].map(|name| folder.join(name));
        let [ext2, ffs, iso, fat] = &disks;
        for disk in [ext2, &root.join("disk")] {
            succeed(
                Command::new("mke2fs")
                    .args(["-q", "-t", "ext2", "-O", "none", "-I", "128"])
                    .arg(disk)
                    .arg("2M"),
            );
        }
        let empty = folder.join("empty");
        fs::create_dir_all(&empty).expect("a folder of ours");
        succeed(
            Command::new("makefs").args(["-t", "ffs", "-s", "4m", "-o", "version=1"]).arg(ffs).arg(&empty),
        );
        succeed(Command::new("xorrisofs").args(["-quiet", "-R", "-o"]).arg(iso).arg(&content));
        fs::File::create(fat).and_then(|file| file.set_len(2 << 20)).expect("written");
        succeed(
            Command::new("mformat").args(["-i"]).arg(fat).args(["-h", "2", "-t", "64", "-s", "32", "::"]),
        );
        Disks { folder, disks }
    }

    fn run(&self, image: &Path, cpus: usize) -> String {
        let guest = Guest::new(image).machine("q35").cpus(cpus);
        let guest = self.disks.iter().fold(guest, |guest, disk| guest.disk(disk));
        guest.run().exited(0).into()
    }
}

const MOUNTS: &str = r#"
    [sysctl]
    net.inet.ip.ttl = 42
    kern.nothing = 1

    [[mount]]
    source = "/dev/vda"
    target = "/data/ext2"
    type = "ext2fs"

    [[mount]]
    source = "/dev/vdb"
    target = "/ffs"
    type = "ffs"

    [[mount]]
    source = "/dev/vdc"
    target = "/iso"
    type = "cd9660"
    read_only = true

    [[mount]]
    source = "/dev/vdd"
    target = "/fat"
    type = "msdos"

    [[mount]]
    source = "/disk"
    target = "/ram"
    type = "ext4"

    [[mount]]
    target = "/scratch"
    type = "tmpfs"
    size = "4M"

    [[mount]]
    target = "/kern"
    type = "kernfs"
"#;

/// The same in rumprun's words, where the disk says what is on it.
const RUMPRUN_MOUNTS: &str = r#"{ "mount": {
    "/data/ext2": { "source": "blk", "path": "/dev/ld0a" },
    "/ffs": { "source": "blk", "path": "/dev/ld1a" },
    "/iso": { "source": "blk", "path": "/dev/ld2a" },
    "/fat": { "source": "blk", "path": "/dev/ld3a" },
    "/kern": { "source": "kernfs" },
    "/scratch": { "source": "tmpfs" }
} }"#;

#[test]
fn what_is_written_to_disks_is_there_when_the_machine_is_off() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64", "mke2fs", "e2fsck", "debugfs", "makefs");
    needs!("xorrisofs", "mformat", "mtype");
    let Some((set, program)) = program("disks.c") else { return };
    let disks = Disks::make();
    let image = |name: &str, configuration: &str, words: &[&str]| {
        let file = disks.folder.join(name);
        fs::write(&file, configuration).expect("written");
        let mut all = arguments(&set, &[&program]);
        all.extend(["--config".into(), file.into()]);
        all.extend(["--rootfs".into(), disks.folder.join("root").into(), "--".into()]);
        all.extend(words.iter().map(Into::into));
        bake(name, all)
    };
    let places = ["/data/ext2=0", "/ffs=0", "/fat=0", "/ram=0", "/scratch=0", "/iso=ro"];
    let first = disks.run(&image("netbsd-disks.toml", MOUNTS, &places), 2);
    assert!(first.contains("sysctl kern.nothing: there is no such parameter"), "{first}");
    assert!(first.contains("net.inet.ip.ttl is 42\n"), "{first}");
    let places = ["/data/ext2=1", "/ffs=1", "/fat=1", "/scratch=0", "/iso=ro"];
    let second = disks.run(&image("netbsd-disks.json", RUMPRUN_MOUNTS, &places), 1);
    for console in [&first, &second] {
        assert!(console.contains("/iso: what the CD has\n"), "{console}");
        assert!(!console.contains("not clean") && !console.contains("not properly"), "{console}");
    }
    let [ext2, ffs, _, fat] = &disks.disks;
    succeed(Command::new("e2fsck").args(["-f", "-n"]).arg(ext2));
    let said = Command::new("debugfs").args(["-R", "cat /count"]).arg(ext2).output().expect("debugfs");
    assert_eq!(String::from_utf8_lossy(&said.stdout), "2\n");
    let said = Command::new("mtype").arg("-i").arg(fat).arg("::count").output().expect("mtype");
    assert_eq!(String::from_utf8_lossy(&said.stdout), "2\n");
    // `fs_clean` of the superblock, which has 1 when nothing is left to be checked.
    let bytes = fs::read(ffs).expect("the disk");
    assert_eq!(bytes[8192 + 209], 1, "the disk was left clean");
    let _ = fs::remove_dir_all(&disks.folder);
}

#[test]
fn mounts_that_cannot_be_had_are_refused() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64");
    let Some((set, program)) = program("disks.c") else { return };
    let folder = scratch().join(format!("netbsd-refused-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder of ours");
    let refused = |mount: &str| {
        let file = folder.join("mount.toml");
        fs::write(&file, format!("[[mount]]\ntarget = \"/data\"\n{mount}")).expect("written");
        let mut command = Command::new(rumprun_bake());
        command.args(["bake", "hw_direct"]).arg(folder.join("refused.elf"));
        command.args(arguments(&set, &[&program])).arg("--config").arg(&file);
        let output = command.output().expect("it starts");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let message = refused("source = \"/dev/vda\"\ntype = \"zfs\"");
    assert!(message.contains("`zfs` is not a file system") && message.contains("cd9660"), "{message}");
    let message = refused("source = \"/dev/vda\"\ntype = \"ext4\"\nformat = true");
    assert!(message.contains("format = true"), "{message}");
    // What only the machine knows: there is no disk.
    let file = folder.join("absent.toml");
    let text = "[[mount]]\ntarget = \"/data\"\nsource = \"/dev/vda\"\ntype = \"ext2fs\"";
    fs::write(&file, text).expect("written");
    let mut words = arguments(&set, &[&program]);
    words.extend(["--config".into(), file.into()]);
    let outcome = Guest::new(&bake("netbsd-absent", words)).machine("q35").run();
    let console = outcome.exited(125);
    assert!(console.contains("ext2fs cannot be mounted at /data: there is no disk /dev/vda"), "{console}");
}
