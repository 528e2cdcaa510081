//! A real Xen in QEMU's software emulation: boots Debian's Xen with a small dom0, whose script creates the test's
//! domains, and sorts out what they did. Several domains share a boot, which takes some 8 s.

use std::{
    env,
    fmt::Write as _,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use toolchain::{
    launch::QEMU,
    xen::{Archive, DOM0_MEMORY, EMULATOR_MEMORY, Prepared, emulator, libraries, prepare},
};
use wait_timeout::ChildExt;

/// Functions that every script of dom0 has.
const FUNCTIONS: &str = include_str!("functions.sh");

/// Memory of a machine with an IOMMU, in MiB.
const LEAST_FOR_PASSING: u32 = 1280;
/// How often its messages are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How a domain ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It shut down, after it had written this to xenstore's `data/status`.
    ShutDown(String),
    /// It crashed, or said so.
    Crashed,
    /// It still ran when the script's patience ended.
    Running,
}

/// A domain.
#[derive(Debug, Clone)]
pub struct Domain {
    name: String,
    image: PathBuf,
    settings: String,
}

impl Domain {
    /// A PVH domain of `image` with 64 MiB, and 2 CPUs, an interface or a disk if told so.
    pub fn new(name: &str, image: &Path) -> Self {
        let mut settings = format!("name=\"{name}\"\ntype=\"pvh\"\nkernel=\"/guest/{}\"\n", file_name(image));
        settings += "memory=64\ntsc_mode=\"native\"\n\
            on_poweroff=\"preserve\"\non_crash=\"preserve\"\non_reboot=\"preserve\"\n";
        Domain { name: name.into(), image: image.into(), settings }
    }

    /// A domain of this configuration, of a disk image that is `/guest`'s.
    pub fn of_configuration(name: &str, image: &Path, settings: String) -> Self {
        Domain { name: name.into(), image: image.into(), settings }
    }

    /// Adds a line to its configuration (xl.cfg(5)); a later one wins.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        let _ = writeln!(self.settings, "{name}={value}");
        self
    }

    /// CPUs.
    pub fn cpus(self, count: usize) -> Self {
        self.setting("vcpus", &count.to_string())
    }

    /// Memory in MiB.
    pub fn memory(self, size: usize) -> Self {
        self.setting("memory", &size.to_string())
    }

    /// The command line.
    pub fn command_line(self, text: &str) -> Self {
        self.setting("cmdline", &format!("'{text}'"))
    }

    /// An interface on the bridge of dom0, which has 10.9.0.1/24.
    pub fn interface(self, mac: &str) -> Self {
        self.setting("vif", &format!("['mac={mac},bridge=xenbr0,script=vif-test']"))
    }

    /// A disk: a file in dom0.
    pub fn disk(self, file: &str) -> Self {
        self.setting("disk", &format!("['format=raw,vdev=xvda,access=w,script=block-test,target={file}']"))
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A boot of Xen.
#[derive(Debug, Clone)]
pub struct Host {
    prepared: Prepared,
    domains: Vec<Domain>,
    files: Vec<PathBuf>,
    programs: Vec<PathBuf>,
    /// More archives for dom0's root.
    archives: Vec<PathBuf>,
    /// More words for QEMU.
    words: Vec<String>,
    memory: u32,
    dom0_memory: u32,
    timeout: Duration,
}

/// What a boot showed.
#[derive(Debug, Clone)]
pub struct Report {
    serial: String,
}

/// What the hypervisor says of a domain whose CPU found no handler for an exception. Ours have one for each.
const TRIPLE_FAULT: &str = "Triple fault - invoking HVM shutdown action";

impl Host {
    /// Xen, if it can be had here; says why not otherwise.
    pub fn new() -> Option<Host> {
        match prepare() {
            Ok(prepared) => Some(Host {
                prepared,
                domains: Vec::new(),
                files: Vec::new(),
                programs: Vec::new(),
                archives: Vec::new(),
                words: Vec::new(),
                memory: 768,
                dom0_memory: DOM0_MEMORY,
                timeout: Duration::from_secs(400),
            }),
            Err(why) => {
                crate::skip(&why);
                None
            }
        }
    }

    /// The same for a test that takes minutes: only if `RUMPRUN_XEN_LONG` is set.
    pub fn new_for_long() -> Option<Host> {
        if env::var_os("RUMPRUN_XEN_LONG").is_none() {
            crate::skip("takes minutes, and RUMPRUN_XEN_LONG is not set");
            return None;
        }
        Host::new()
    }

    /// The same with what HVM domains need in dom0.
    pub fn with_emulator(mut self) -> Option<Host> {
        match emulator(&self.prepared) {
            Ok(archive) => {
                self.archives.push(archive);
                self.memory += EMULATOR_MEMORY;
                self.dom0_memory += EMULATOR_MEMORY;
                Some(self)
            }
            Err(why) => {
                crate::skip(&why);
                None
            }
        }
    }

    /// Adds an IOMMU, and devices that can be passed to domains; words for QEMU.
    pub fn with_passed_devices(mut self, words: &[&str]) -> Host {
        let iommu = ["-device", "amd-iommu,intremap=on"];
        self.words.extend(iommu.iter().chain(words).map(|word| (*word).to_owned()));
        // Xen gives its tables as many levels as memory needs, and puts devices in them that are above 1 GiB.
        self.memory = self.memory.max(LEAST_FOR_PASSING);
        self
    }

    /// Waits so long for the script's end, instead of 400 s.
    pub fn patience(mut self, time: Duration) -> Self {
        self.timeout = time;
        self
    }

    /// dom0's kernel, which a domain can have too.
    pub fn kernel(&self) -> &Path {
        &self.prepared.kernel
    }

    /// Adds a domain that the script may create.
    pub fn domain(mut self, domain: Domain) -> Self {
        self.domains.push(domain);
        self
    }

    /// Memory of the machine and of dom0 in MiB, and how long a boot may take.
    pub fn machine(self, memory: u32, dom0_memory: u32, timeout: Duration) -> Self {
        Host { memory, dom0_memory, timeout, ..self }
    }

    /// Adds a file to `/guest` of dom0.
    pub fn file(mut self, path: &Path) -> Self {
        if !self.files.iter().any(|known| known == path) {
            self.files.push(path.into());
        }
        self
    }

    /// Adds a program of this machine's to dom0.
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.programs.push(path.into());
        self
    }

    /// Boots; dom0 runs every domain in turn.
    #[track_caller]
    pub fn run_each(&self) -> Report {
        let script: String =
            self.domains.iter().map(|domain| format!("create {0}\nfinish {0}\n", domain.name)).collect();
        self.run(&script)
    }

    /// Boots; dom0 runs this shell script, which has the functions of `functions.sh`. Panics if it doesn't reach its end, and at a
    /// triple fault of a domain.
    #[track_caller]
    pub fn run(&self, script: &str) -> Report {
        let folder = tempfile::tempdir_in(crate::scratch()).expect("a scratch folder");
        let initramfs = folder.path().join("initramfs");
        self.write_files(&initramfs, script).expect("dom0's files");
        let serial = self.boot(&initramfs, &folder.path().join("serial"));
        assert!(!serial.contains(TRIPLE_FAULT), "a domain had a triple fault:\n{serial}");
        assert!(serial.contains("\n@@ done\n"), "dom0 did not come to its end:\n{serial}");
        assert!(!serial.contains("@@ failed"), "{serial}");
        Report { serial }
    }

    /// What the serial line showed.
    fn boot(&self, initramfs: &Path, serial: &Path) -> String {
        let mut qemu = self.start(initramfs, serial);
        let read = || String::from_utf8_lossy(&fs::read(serial).unwrap_or_default()).replace('\r', "");
        let begin = Instant::now();
        loop {
            match qemu.wait_timeout(LOOK).expect("QEMU can be waited for") {
                Some(_) => break,
                None if read().contains(TRIPLE_FAULT) => {
                    // The script would wait for what does not come. The registers are shown behind the message.
                    let _ = qemu.wait_timeout(LOOK);
                    break;
                }
                None if begin.elapsed() > self.timeout => break,
                None => {}
            }
        }
        let _ = (qemu.kill(), qemu.wait());
        read()
    }

    fn write_files(&self, path: &Path, script: &str) -> io::Result<()> {
        fs::copy(&self.prepared.root, path)?;
        let mut file = File::options().append(true).open(path)?;
        for more in &self.archives {
            file.set_len(file.metadata()?.len().next_multiple_of(512))?;
            io::copy(&mut File::open(more)?, &mut file)?;
        }
        file.set_len(file.metadata()?.len().next_multiple_of(512))?;
        let mut archive = Archive::new(io::BufWriter::new(file));
        let images = self.domains.iter().map(|domain| domain.image.as_path());
        let mut images: Vec<&Path> = images.chain(self.files.iter().map(PathBuf::as_path)).collect();
        images.sort();
        images.dedup();
        for image in images {
            archive.file(&format!("guest/{}", file_name(image)), &fs::read(image)?)?;
        }
        if !self.programs.is_empty() {
            for program in &self.programs {
                archive.program(&format!("bin/{}", file_name(program)), &fs::read(program)?)?;
            }
            for library in libraries(Path::new("/"), &self.programs).map_err(io::Error::other)? {
                let name = format!("lib/x86_64-linux-gnu/{}", file_name(&library));
                archive.program(&name, &fs::read(&library)?)?;
            }
        }
        for domain in &self.domains {
            archive.file(&format!("guest/{}.cfg", domain.name), domain.settings.as_bytes())?;
        }
        archive.file("guest/run.sh", format!("{FUNCTIONS}{script}").as_bytes())?;
        archive.finish()
    }

    fn start(&self, initramfs: &Path, serial: &Path) -> Child {
        let mut qemu = Command::new(QEMU);
        qemu.args(self.prepared.words(initramfs, 2, self.memory, self.dom0_memory))
            .arg("-serial")
            .arg(format!("file:{}", serial.display()))
            .args(&self.words)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        qemu.spawn().expect("QEMU starts")
    }
}

impl Report {
    /// Everything on the serial line: Xen's messages and dom0's.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// What a command of the script wrote between the marks of `section`.
    #[track_caller]
    pub fn section(&self, title: &str) -> String {
        let begin = format!("@@ begin {title}\n");
        let Some((_, rest)) = self.serial.split_once(&begin) else {
            panic!("no section {title:?}:\n{}", self.serial)
        };
        let end = format!("@@ end {title} ");
        let text = rest.split_once(&end).map_or(rest, |(text, _)| text);
        text.lines().filter(|line| !line.starts_with("(XEN)")).flat_map(|line| [line, "\n"]).collect()
    }

    /// A domain's console.
    #[track_caller]
    pub fn console(&self, domain: &str) -> String {
        self.section(&format!("console {domain}"))
    }

    /// How a domain ended.
    #[track_caller]
    pub fn ending(&self, domain: &str) -> Ending {
        let start = format!("@@ ended {domain} ");
        let Some(line) = self.serial.lines().find_map(|line| line.strip_prefix(&start)) else {
            panic!("no end of {domain:?}:\n{}", self.serial)
        };
        match line.split_once(' ') {
            Some(("shutdown", status)) => Ending::ShutDown(status.to_owned()),
            Some(("crashed", _)) => Ending::Crashed,
            _ => Ending::Running,
        }
    }

    /// The console of a domain that ended in order with `status`; panics with everything that is known otherwise.
    #[track_caller]
    pub fn exited(&self, domain: &str, status: u8) -> String {
        let wanted = Ending::ShutDown(format!("exit {status}"));
        assert_eq!(self.ending(domain), wanted, "{domain}:\n{}", self.serial);
        self.console(domain)
    }
}
