//! The PC platform on machines of many kinds: the kernel's self-test, booted by QEMU as it is, without an image.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant, SystemTime},
};

use tests::{needs, scratch};
use toolchain::{configs, kernel, report::Silent};

const QEMU: &str = "qemu-system-x86_64";
const DISK_SIZE: u64 = 4 << 20;
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// The kernel with its self-test in place of programs.
fn selftest() -> &'static Path {
    static KERNEL: OnceLock<PathBuf> = OnceLock::new();
    KERNEL.get_or_init(|| {
        let direct = configs::find("hw_direct").expect("the configuration");
        let config = configs::Config { name: "selftest", features: &["selftest"], ..*direct };
        let bytes = kernel::kernel(&config, &Silent).expect("the kernel builds");
        let path = scratch().join("selftest-kernel");
        fs::write(&path, bytes).expect("a scratch file");
        path
    })
}

/// A boot of the self-test.
struct Boot {
    qemu: Child,
    folder: PathBuf,
}

impl Boot {
    /// Boots on `machine` with these further options; `%` in them stands for the boot's own folder.
    fn start(name: &str, machine: &str, command_line: &str, options: &[&str]) -> Boot {
        let folder = scratch().join(format!("platform-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a scratch folder");
        let disk = File::create(folder.join("disk")).expect("a scratch file");
        disk.set_len(DISK_SIZE).expect("room for a disk");
        let inside = |text: &str| text.replace('%', &folder.display().to_string());
        let qemu = Command::new(QEMU)
            .args(["-M", machine, "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "128", "-nodefaults"])
            .args(["-display", "none", "-no-reboot", "-monitor", "none", "-serial", "stdio"])
            .args(["-chardev", &inside("file,id=status,path=%/status")])
            .args(["-device", "isa-debugcon,iobase=0x5f0,chardev=status"])
            .args(["-drive", &inside("file=%/disk,if=none,id=disk,format=raw")])
            .arg("-kernel")
            .arg(selftest())
            .args(["-append", command_line])
            .args(options.iter().map(|option| inside(option)))
            .stdin(Stdio::piped())
            .stdout(File::create(folder.join("console")).expect("a scratch file"))
            .stderr(File::create(folder.join("messages")).expect("a scratch file"))
            .spawn()
            .expect("QEMU starts");
        Boot { qemu, folder }
    }

    fn read(&self, file: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join(file)).unwrap_or_default()).into_owned()
    }

    /// Waits until the console shows `text`.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        let start = Instant::now();
        while !self.read("console").contains(text) {
            let ended = self.qemu.try_wait().expect("QEMU can be waited for").is_some();
            assert!(!ended && start.elapsed() < TIME_LIMIT, "no `{text}`:\n{}", self.read("console"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the end; returns the console and the lines of the status port.
    #[track_caller]
    fn end(mut self) -> (String, String) {
        let start = Instant::now();
        while self.qemu.try_wait().expect("QEMU can be waited for").is_none() {
            if start.elapsed() > TIME_LIMIT {
                let _ = self.qemu.kill();
                let _ = self.qemu.wait();
                panic!("it does not end:\n{}{}", self.read("messages"), self.read("console"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let result = (self.read("console"), self.read("status"));
        let messages = self.read("messages");
        assert!(messages.is_empty(), "{messages}");
        let _ = fs::remove_dir_all(&self.folder);
        result
    }
}

/// Boots with a disk and checks everything that the self-test says of the platform.
#[track_caller]
fn check(name: &str, machine: &str, cpus: usize, options: &[&str]) -> String {
    let processors = cpus.to_string();
    let options = [&["-smp", &processors], options].concat();
    let (console, status) = Boot::start(name, machine, "devices-only scratch-disk", &options).end();
    assert_eq!(status, "exit 0\n", "{name}:\n{console}");
    for text in [
        &format!("{cpus} CPUs"),
        "ok clocks",
        "ok random",
        "disk vda: 8192",
        "ok disk (",
        "ok disk with threads",
    ] {
        assert!(console.contains(text), "{name}: no `{text}`:\n{console}");
    }
    console
}

const PCI_DISK: &str = "virtio-blk-pci,drive=disk";
const MMIO_DISK: &str = "virtio-blk-device,drive=disk";

#[test]
fn the_kernel_core_holds() {
    needs!("qemu-system-x86_64");
    for (machine, cpus) in [("q35", "1"), ("microvm", "2"), ("pc", "4")] {
        let (console, status) = Boot::start("core", machine, "", &["-smp", cpus]).end();
        assert_eq!(status, "exit 0\n", "{machine}:\n{console}");
        // The last of them.
        assert!(console.contains("ok locks"), "{machine}:\n{console}");
    }
}

#[test]
fn machines_with_acpi() {
    needs!("qemu-system-x86_64");
    let random = ["-device", "virtio-rng-pci"];
    check("q35", "q35", 2, &[&["-device", PCI_DISK], &random[..]].concat());
    check("pc", "pc", 4, &["-device", "virtio-blk-pci,drive=disk,num-queues=4"]);
    check("microvm", "microvm", 2, &["-device", MMIO_DISK, "-device", "virtio-rng-device"]);
    let bare = "microvm,pit=off,pic=off,rtc=off";
    check("bare", bare, 2, &["-device", MMIO_DISK, "-global", "virtio-mmio.force-legacy=false"]);
    // Its firmware gives BARs no addresses.
    check("microvm-pci", "microvm,pcie=on", 2, &["-device", PCI_DISK]);
}

#[test]
fn machines_without_acpi() {
    needs!("qemu-system-x86_64");
    check("q35-mp", "q35,acpi=off", 2, &["-device", PCI_DISK]);
    check("pc-mp", "pc,acpi=off", 1, &["-device", PCI_DISK]);
    check("microvm-mp", "microvm,acpi=off", 2, &["-device", MMIO_DISK]);
}

#[test]
fn old_and_plain_parts() {
    needs!("qemu-system-x86_64");
    check("old-cpu", "q35,hpet=off", 2, &["-cpu", "qemu64", "-device", PCI_DISK]);
    check("plain-queue", "pc", 1, &["-device", "virtio-blk-pci,drive=disk,indirect_desc=off,event_idx=off"]);
    check("small-queue", "q35", 2, &["-device", "virtio-blk-pci,drive=disk,queue-size=4,seg-max-adjust=on"]);
    check(
        "large-blocks",
        "q35",
        1,
        &["-device", "virtio-blk-pci,drive=disk,logical_block_size=4096,physical_block_size=4096"],
    );
}

#[test]
fn interrupt_pins_and_bridges() {
    needs!("qemu-system-x86_64");
    check("pin-q35", "q35", 2, &["-device", "virtio-blk-pci,drive=disk,vectors=0"]);
    check("pin-pc", "pc", 2, &["-device", "virtio-blk-pci,drive=disk,vectors=0,addr=7"]);
    let port = ["-device", "pcie-root-port,id=up,chassis=1"];
    check("port", "q35", 2, &[&port[..], &["-device", "virtio-blk-pci,drive=disk,bus=up"]].concat());
    check(
        "port-pin",
        "q35",
        2,
        &[&port[..], &["-device", "virtio-blk-pci,drive=disk,bus=up,vectors=0"]].concat(),
    );
    let bridge = ["-device", "pci-bridge,id=bridge,chassis_nr=1"];
    let behind = ["-device", "virtio-blk-pci,drive=disk,bus=bridge,addr=3,vectors=0"];
    check("bridge-pin", "pc", 2, &[&bridge[..], &behind[..]].concat());
}

#[test]
fn clocks_are_right() {
    needs!("qemu-system-x86_64");
    let number = |console: &str, before: &str| -> f64 {
        let rest = console.split(before).nth(1).expect("the line of the clocks");
        rest.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
    };
    let mut frequencies = Vec::new();
    for (name, machine) in
        [("hpet", "q35"), ("pm-timer", "q35,hpet=off"), ("pit", "microvm"), ("apic", "microvm,pit=off")]
    {
        let (console, _) = Boot::start(name, machine, "devices-only", &[]).end();
        frequencies.push(number(&console, "tsc "));
        if machine != "microvm,pit=off" {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
            let difference = number(&console, "realtime ") / 1e9 - now.as_secs_f64();
            assert!(difference.abs() < 10.0, "{machine}: {difference} s off");
        }
    }
    // QEMU gives the guest the host's counter, so that all must agree. Loaded hosts measure badly.
    let (least, most) =
        frequencies.iter().fold((f64::MAX, 0.0_f64), |(least, most), f| (least.min(*f), most.max(*f)));
    assert!(most / least < 1.02, "{frequencies:?}");
}

#[test]
fn console_input_and_power_button() {
    needs!("qemu-system-x86_64");
    for machine in ["q35", "pc", "microvm"] {
        let options = ["-qmp", "unix:%/qmp,server=on,wait=off"];
        let mut boot = Boot::start(&format!("button-{machine}"), machine, "devices-only wait", &options);
        boot.wait_for("waiting");
        let mut input = boot.qemu.stdin.take().expect("a pipe");
        input.write_all(b"typed").expect("QEMU reads");
        boot.wait_for("typed");
        let mut control = UnixStream::connect(boot.folder.join("qmp")).expect("QEMU listens");
        for command in ["qmp_capabilities", "system_powerdown"] {
            let mut answer = [0; 1024];
            let _ = control.read(&mut answer);
            writeln!(control, "{{\"execute\":\"{command}\"}}").expect("QEMU reads");
        }
        let (console, status) = boot.end();
        assert!(console.contains("stop") && status == "ready\nexit 77\n", "{machine}: {status}\n{console}");
    }
}

#[test]
fn restart_and_panic_are_told() {
    needs!("qemu-system-x86_64");
    for machine in ["q35", "pc,acpi=off", "microvm"] {
        let (_, status) = Boot::start("reboot", machine, "devices-only reboot", &[]).end();
        assert_eq!(status, "reboot\n", "{machine}");
        let (_, status) = Boot::start("panic", machine, "panic", &[]).end();
        assert!(status.starts_with("panic\n"), "{machine}: {status}");
    }
}

#[test]
fn fw_cfg_adds_to_the_command_line() {
    needs!("qemu-system-x86_64");
    let options = ["-fw_cfg", "name=opt/rumprun/cmdline,string=more devices-only"];
    for machine in ["q35", "microvm"] {
        let (console, _) = Boot::start("fw-cfg", machine, "some", &options).end();
        assert!(console.contains("command line \"some more devices-only\""), "{console}");
    }
}
