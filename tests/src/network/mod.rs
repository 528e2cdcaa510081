//! Networks for the tests: a network namespace of the test's own with a tap, a bridge or a link that loses frames
//! ([`faults`]), or QEMU's user networking. The launcher, QEMU and the clients run in it; nothing outside is touched,
//! and everything goes when the [`Network`] is dropped.
//!
//! ```no_run
//! use tests::{Guest, network::{Link, Network}};
//! let Some(network) = Network::new(Link::Tap { queues: 2 }) else { return };
//! let mut running = network.attach(Guest::new("web.elf".as_ref()), &[80]).start();
//! let answer = network.answer(&mut running, 80, b"GET / HTTP/1.0\r\n\r\n");
//! let url = format!("http://{}/", network.endpoint(80));
//! network.command("curl").arg(url).status().expect("curl starts");
//! ```

pub mod faults;
pub mod tap;

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use faults::{Faults, FaultyLink};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{Guest, guest::Running, have, scratch, skip};

/// The host's addresses on every network but user networking's.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// See [`HOST`].
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
/// The guest's, unless it is attached with another number.
const GUEST_NUMBER: u8 = 2;
/// What the names of the namespaces begin with; the test process's number and a counter follow.
const NAME: &str = "rumprun-test";
/// How long a service may take to answer.
const PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(25);

/// How guest and clients are connected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Link {
    /// QEMU's user networking; clients use published ports.
    User,
    /// The tap `tap0`, on which the host has [`HOST`] and [`HOST6`].
    Tap {
        /// Pairs of queues.
        queues: u16,
    },
    /// The bridge `br0`, on which the host has [`HOST`] and [`HOST6`]; for several guests.
    Bridge,
    /// A tap `tap0` of the host's whose other end loses, delays and reorders what the guest sends and gets.
    Faulty(Faults),
}

/// A network; gone when dropped, with every process in its namespace that [`Network::command`] did not wait for.
pub struct Network {
    name: String,
    link: Link,
    /// Ports of user networking: the guest's and the host's.
    ports: std::sync::Mutex<Vec<(u16, u16)>>,
    socket: Option<PathBuf>,
    faults: Option<FaultyLink>,
}

impl Network {
    /// A network, or `None` after a line that says why this machine can't make one.
    pub fn new(link: Link) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if let Some(why) = lacking() {
            skip(&why);
            return None;
        }
        remove_stale();
        let name = format!("{NAME}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        let mut network = Network { name, link, ports: Default::default(), socket: None, faults: None };
        network.ip(&["link", "set", "lo", "up"]);
        match link {
            Link::User => {}
            Link::Tap { queues } => network.add_tap("tap0", queues),
            Link::Bridge => network.ip(&["link", "add", "br0", "type", "bridge"]),
            Link::Faulty(faults) => {
                let tap = network.inside(|| tap::open("tap0")).expect("a tap in a namespace of our own");
                let socket = scratch().join(format!("{}.socket", network.name));
                network.faults = Some(FaultyLink::start(tap, &socket, faults).expect("a link with faults"));
                network.socket = Some(socket);
            }
        }
        if let Some(device) = network.device() {
            network.ip(&["link", "set", device, "up"]);
            network.ip(&["address", "add", &format!("{HOST}/24"), "dev", device]);
            network.ip(&["address", "add", &format!("{HOST6}/64"), "dev", device, "nodad"]);
        }
        Some(network)
    }

    /// The host's interface on this network.
    pub fn device(&self) -> Option<&'static str> {
        match self.link {
            Link::User => None,
            Link::Tap { .. } | Link::Faulty(_) => Some("tap0"),
            Link::Bridge => Some("br0"),
        }
    }

    /// One more tap, without an address.
    pub fn add_tap(&self, name: &str, queues: u16) {
        let mut words = vec!["tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr"];
        if queues > 1 {
            words.push("multi_queue");
        }
        self.ip(&words);
        self.ip(&["link", "set", name, "up"]);
    }

    /// Runs `ip` in the namespace; panics if it fails.
    #[track_caller]
    pub fn ip(&self, words: &[&str]) {
        ip(&[&["-netns", self.name.as_str()], words].concat());
    }

    /// A command that runs in the namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `work` on a thread in the namespace. Sockets that it opens stay there, wherever they are used.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.name)).expect("our namespace");
        let thread = || {
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network))
                .expect("root may enter a namespace");
            work()
        };
        match std::thread::scope(|scope| scope.spawn(thread).join()) {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// The guest's IPv4 address, as clients see it.
    pub fn guest(&self) -> Ipv4Addr {
        self.guest_at(GUEST_NUMBER)
    }

    /// The IPv4 address of the guest that was attached as `number`.
    pub fn guest_at(&self, number: u8) -> Ipv4Addr {
        match self.link {
            Link::User => Ipv4Addr::LOCALHOST,
            _ => Ipv4Addr::new(10, 77, 0, number),
        }
    }

    /// The guest's IPv6 address; user networking leads none to it.
    pub fn guest6(&self) -> Option<Ipv6Addr> {
        (self.link != Link::User).then(|| Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, GUEST_NUMBER.into()))
    }

    /// Where clients reach a TCP port of the guest (or a UDP port; user networking publishes both).
    pub fn endpoint(&self, port: u16) -> SocketAddr {
        let ports = self.ports.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let published = ports.iter().find(|(guest, _)| *guest == port).map_or(port, |(_, host)| *host);
        SocketAddr::new(IpAddr::V4(self.guest()), published)
    }

    /// The guest on this network, with a static address. `ports` are those that clients use.
    pub fn attach(&self, guest: Guest, ports: &[u16]) -> Guest {
        self.attach_at(guest, ports, GUEST_NUMBER)
    }

    /// As [`Network::attach`], with the address that ends in `number` (2 to 254): for several guests.
    pub fn attach_at(&self, guest: Guest, ports: &[u16], number: u8) -> Guest {
        let options = format!(
            "address={}/24,address=fd77::{number:x}/64,gateway={HOST},gateway={HOST6},nameserver={HOST}",
            Ipv4Addr::new(10, 77, 0, number)
        );
        self.attach_with(guest, ports, &options)
    }

    /// As [`Network::attach`], with options of `--net` of the test's own, between commas; none: as baked, or DHCP.
    pub fn attach_with(&self, guest: Guest, ports: &[u16], options: &str) -> Guest {
        let comma = if options.is_empty() { "" } else { "," };
        let guest = guest.namespace(&self.name);
        match self.link {
            Link::Tap { queues } => {
                let queues = if queues > 1 { format!(",queues={queues}") } else { String::new() };
                guest.option("--net", format!("tap=tap0{queues}{comma}{options}"))
            }
            Link::Bridge => guest.option("--net", format!("bridge=br0{comma}{options}")),
            Link::Faulty(_) => {
                let socket = self.socket.as_deref().unwrap_or(Path::new(""));
                guest.option("--net", format!("socket={}{comma}{options}", socket.display()))
            }
            Link::User => {
                let mut published = self.ports.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                let mut guest = guest;
                for port in ports {
                    let free = self.inside(|| {
                        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
                        Ok::<u16, std::io::Error>(listener.local_addr()?.port())
                    });
                    let free = free.expect("a free port in a namespace of our own");
                    // A later guest takes an earlier one's place.
                    published.retain(|(guest, _)| guest != port);
                    published.push((*port, free));
                    for protocol in ["tcp", "udp"] {
                        guest = guest.option("--publish", format!("127.0.0.1:{free}:{port}/{protocol}"));
                    }
                }
                if published.is_empty() { guest.option("--net", "user") } else { guest }
            }
        }
    }

    /// What a faulty link did so far.
    pub fn counts(&self) -> Option<&faults::Counts> {
        self.faults.as_ref().map(FaultyLink::counts)
    }

    /// Opens a TCP connection to a port of the guest, once; nobody listens yet while the guest starts.
    pub fn connect(&self, port: u16) -> std::io::Result<TcpStream> {
        let endpoint = self.endpoint(port);
        self.inside(|| TcpStream::connect_timeout(&endpoint, Duration::from_secs(5)))
    }

    /// Waits until a service of the guest answers `request` over TCP, and returns the answer's first bytes. Panics
    /// with the console if the guest ends or the time is up.
    #[track_caller]
    pub fn answer(&self, running: &mut Running, port: u16, request: &[u8]) -> Vec<u8> {
        let ask = || {
            let mut stream = self.connect(port).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
            stream.write_all(request).ok()?;
            let mut answer = vec![0; 4096];
            let length = stream.read(&mut answer).ok().filter(|length| *length > 0)?;
            answer.truncate(length);
            Some(answer)
        };
        self.wait(running, &format!("an answer from port {port}"), ask)
    }

    /// Waits until a TCP port of the guest accepts connections. User networking accepts them before the guest does:
    /// use [`Network::answer`] there.
    #[track_caller]
    pub fn wait_for_port(&self, running: &mut Running, port: u16) {
        assert!(self.link != Link::User, "user networking accepts connections by itself");
        self.wait(running, &format!("port {port}"), || self.connect(port).ok());
    }

    /// Waits until `probe` finds something. Panics with the console if the guest ends or the time is up.
    #[track_caller]
    pub fn wait<T>(&self, running: &mut Running, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = probe() {
                return found;
            }
            assert!(
                running.is_running() && start.elapsed() < PATIENCE,
                "waited {:.1} s for {what}, guest running: {}",
                start.elapsed().as_secs_f32(),
                running.is_running()
            );
            std::thread::sleep(POLL);
        }
    }

    /// Kills the processes in the namespace whose names begin with `program`, as `kill -9` does.
    pub fn kill(&self, program: &str) {
        let pids = Command::new("ip").args(["netns", "pids", &self.name]).output();
        let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        for pid in pids.unwrap_or_default().split_whitespace() {
            let name = fs::read_to_string(format!("/proc/{pid}/comm"));
            if name.is_ok_and(|name| name.starts_with(program)) {
                let _ = Command::new("kill").args(["-KILL", pid]).status();
            }
        }
    }

    /// Writes the frames of the host's interface to a file until the capture is dropped. `None` without tcpdump, or
    /// on user networking (where `run --capture` does it).
    pub fn capture(&self, file: &Path) -> Option<Capture> {
        let device = self.device().filter(|_| have("tcpdump"))?;
        let mut command = self.command("tcpdump");
        command.args(["-i", device, "-U", "--immediate-mode", "-s", "0", "-Z", "root", "-w"]).arg(file);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().ok()?;
        // It says so once it sees everything.
        let mut messages = child.stderr.take()?;
        let mut said = Vec::new();
        let mut byte = [0];
        while messages.read(&mut byte).is_ok_and(|length| length == 1) {
            said.push(byte[0]);
            if byte == *b"\n" && String::from_utf8_lossy(&said).contains("listening on") {
                return Some(Capture { child, file: file.to_owned(), _messages: messages });
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        panic!("tcpdump does not start: {}", String::from_utf8_lossy(&said));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What still runs in there would keep the namespace.
        self.kill("");
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
        if let Some(socket) = &self.socket {
            let _ = fs::remove_file(socket);
        }
    }
}

/// A capture in progress; complete once dropped.
pub struct Capture {
    child: Child,
    file: PathBuf,
    _messages: std::process::ChildStderr,
}

impl Drop for Capture {
    fn drop(&mut self) {
        // An interrupted tcpdump leaves frames unread: the file has stopped to grow before.
        let length = || fs::metadata(&self.file).map_or(0, |metadata| metadata.len());
        let mut before = None;
        while before != Some(length()) {
            before = Some(length());
            std::thread::sleep(POLL * 4);
        }
        let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

/// What this machine lacks for networks of its own.
fn lacking() -> Option<String> {
    if !have("ip") && !have("/usr/sbin/ip") {
        return Some("ip (iproute2) is not installed".into());
    }
    if !rustix::process::geteuid().is_root() {
        return Some("only root makes network namespaces".into());
    }
    match fs::OpenOptions::new().read(true).write(true).open(tap::DEVICE) {
        Err(error) if error.kind() == ErrorKind::NotFound => Some(format!("there is no {}", tap::DEVICE)),
        Err(error) => Some(format!("{}: {error}", tap::DEVICE)),
        Ok(_) => may_not_make_namespaces(),
    }
}

/// A container may forbid namespaces even to its root.
fn may_not_make_namespaces() -> Option<String> {
    let works = Command::new("unshare").args(["--net", "true"]).stderr(Stdio::null()).status();
    (!works.is_ok_and(|status| status.success())).then(|| "network namespaces are forbidden here".into())
}

/// Removes what killed test processes left.
fn remove_stale() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(NAME).and_then(|rest| rest.split('-').nth(1));
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = Command::new("ip").args(["netns", "delete", &name]).stderr(Stdio::null()).status();
        }
    }
}

#[track_caller]
fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().expect("ip starts");
    assert!(output.status.success(), "ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
}
