//! NetBSD's kernels and their remote clients: servers on this machine that a bus connects, and an image that offers its
//! system calls.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tests::{
    bake, checkout,
    guest::Guest,
    needs,
    network::{Link, Network},
    rumprun_bake, scratch, skip,
};
use toolchain::netbsd::{
    hosted::Hosted,
    set::{self, DATA_VARIABLE},
    wrapper,
};

/// Where the image listens.
const PORT: u16 = 12345;
/// Some more clients than the image serves at a time.
const CLIENTS: usize = 34;
/// How long a step of a client may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn source(name: &str) -> PathBuf {
    checkout().join("tests/programs/netbsd").join(name)
}

#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Rump kernels for this machine: installed ones, or built of the tree.
fn hosted() -> Option<Hosted> {
    let installed = set::folder().and_then(|folder| Hosted::all(&folder)).unwrap_or_default();
    if let Some(hosted) = installed.into_iter().next() {
        return Some(hosted);
    }
    let Some(tree) = env::var_os("NETBSD_SRC").map(PathBuf::from) else {
        skip("no NetBSD tree");
        return None;
    };
    if !tree.join("lib/librumpuser/configure").is_file() {
        skip(&format!("no NetBSD tree for hosts: {} has no lib/librumpuser", tree.display()));
        return None;
    }
    let data = scratch().join("netbsd-host");
    let components = "rumpnet_net,rumpnet_netinet,rumpnet_shmif";
    succeed(
        Command::new(rumprun_bake())
            .args(["netbsd", "host", "--components", components])
            .env(DATA_VARIABLE, &data),
    );
    Hosted::all(&data.join("netbsd")).expect("a folder").into_iter().next()
}

/// The client, compiled for this machine.
fn client(hosted: &Hosted, folder: &Path) -> PathBuf {
    let (directory, client) = (&hosted.directory, folder.join("remote"));
    let mut command = Command::new("gcc");
    command.arg("-O2").arg(source("remote.c")).arg("-I").arg(directory.join("include"));
    command.arg("-L").arg(directory.join("lib")).arg("-lrumpclient");
    command.arg(format!("-Wl,-rpath,{}", directory.join("lib").display())).arg("-o").arg(&client);
    succeed(&mut command);
    client
}

/// A process that is ended with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until `probe` yields something.
#[track_caller]
fn wait<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A server with TCP/IP and a bus, and its URL.
fn server(hosted: &Hosted, folder: &Path, name: &str) -> (Process, String) {
    let socket = folder.join(name);
    let url = format!("unix://{}", socket.display());
    let mut command = Command::new(hosted.directory.join("bin/rump_server"));
    command.args(["-s", "-lrumpnet", "-lrumpnet_net", "-lrumpnet_netinet", "-lrumpnet_shmif"]).arg(&url);
    let process = Process(command.stdin(Stdio::null()).spawn().expect("rump_server starts"));
    wait("the server", || std::os::unix::net::UnixStream::connect(&socket).ok());
    (process, url)
}

#[test]
fn a_datagram_goes_from_kernel_to_kernel_over_a_bus() {
    needs!("gcc");
    let Some(hosted) = hosted() else { return };
    // Paths of sockets are short.
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let (remote, bus) = (client(&hosted, folder), folder.join("bus"));
    let (_one, first) = server(&hosted, folder, "one");
    let (_other, second) = server(&hosted, folder, "two");
    let command = |url: &str| {
        let mut command = Command::new(&remote);
        command.env("RUMP_SERVER", url);
        command
    };
    let said =
        succeed(command(&first).args(["pid", "socket", "fork", "shmif"]).arg(&bus).arg("198.51.100.1"));
    assert_eq!(said, "process of its own\nsocket at 3\nthe child is another process: y\n");
    succeed(command(&second).arg("shmif").arg(&bus).arg("198.51.100.2"));

    // What is sent by a client, and by a program that knows nothing of rump kernels.
    let ordinary = folder.join("ordinary");
    succeed(Command::new("gcc").arg("-O2").arg(source("ordinary.c")).arg("-o").arg(&ordinary));
    for text in ["remote", "hijacked"] {
        let mut receiver =
            command(&second).args(["receive", "7000"]).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut output = BufReader::new(receiver.stdout.take().expect("a pipe"));
        let _receiver = Process(receiver);
        let mut line = String::new();
        output.read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        if text == "remote" {
            let said = succeed(command(&first).args(["send", "198.51.100.2", "7000", text]));
            assert_eq!(said, "sent 6\n");
        } else if hosted.hijacks() {
            let libraries = hosted.directory.join("lib");
            let mut hijacked = Command::new(&ordinary);
            hijacked
                .args(["198.51.100.2", "7000", text])
                .env("RUMP_SERVER", &first)
                .env("RUMPHIJACK", "socket=inet")
                .env("LD_LIBRARY_PATH", &libraries)
                .env("LD_PRELOAD", libraries.join("librumphijack.so"));
            succeed(&mut hijacked);
        } else {
            skip("this tree has no librumphijack");
            break;
        }
        line.clear();
        output.read_line(&mut line).expect("a line");
        assert_eq!(line, format!("received {text}\n"));
    }
    for url in [first, second] {
        assert_eq!(succeed(command(&url).arg("halt")), "halt 0\n");
    }
}

#[test]
fn an_image_serves_remote_clients() {
    needs!("gcc", "ld", "objcopy", "qemu-system-x86_64");
    let set = match set::directory(None) {
        Ok(set) if set.join("lib/rump/librumpkern_sysproxy.a").is_file() => set,
        Ok(set) => return skip(&format!("no NetBSD tree: {} has no proxy", set.display())),
        Err(error) => return skip(&format!("no NetBSD tree: {error}")),
    };
    let Some(hosted) = hosted() else { return };
    let Some(network) = Network::new(Link::Tap { queues: 1 }) else { return };
    let folder = scratch().join(format!("remote-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a scratch folder");
    let remote = client(&hosted, &folder);
    let tools = folder.join("tools");
    succeed(Command::new(rumprun_bake()).args(["netbsd", "tools", "--set"]).arg(&set).arg(&tools));
    let program = folder.join("wait");
    let compiler = tools.join(format!("{}cc", wrapper::PREFIX));
    succeed(Command::new(compiler).arg("-O2").arg(source("wait.c")).arg("-o").arg(&program));
    let kernel = format!("netbsd:{}", set.display());
    let variable = format!("RUMPRUN_SYSPROXY=tcp://0.0.0.0:{PORT}/");
    let program = program.to_str().expect("text");
    let image = bake("netbsd-remote", ["--kernel", &kernel, "--env", &variable, program]);
    for cpus in [1, 4] {
        let guest = network.attach_with(Guest::new(&image), &[PORT], "address=10.77.0.2/24");
        let mut running = guest.machine("q35").cpus(cpus).start();
        running.wait_for("sysproxy listening at: tcp://0.0.0.0:12345/\n");
        network.wait_for_port(&mut running, PORT);
        // Others than clients are turned away, and do no harm.
        for noise in [&b"GET / HTTP/1.1\r\nHost: guest\r\n\r\n"[..], &[0xff; 200], &[0; 24], &[1, 0]] {
            let mut stream = network.connect(PORT).expect("a connection");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            stream.write_all(noise).expect("it takes that");
            stream.shutdown(std::net::Shutdown::Write).expect("a connection");
            // The banner and maybe a refusal, then the end; a reset is one, too.
            let _ = stream.read_to_end(&mut Vec::new());
        }
        let command = |words: &[&str]| {
            let mut command = network.command("env");
            command.arg(format!("RUMP_SERVER=tcp://{}/", network.endpoint(PORT)));
            succeed(command.arg(&remote).args(words))
        };
        let said = command(&["pid", "socket", "file", "/tmp/remote"]);
        assert_eq!(said, "process of its own\nsocket at 3\n/tmp/remote: from afar, right\n");
        assert_eq!(command(&["fork"]), "the child is another process: y\n");
        // Clients that are killed while they wait leave nothing behind: neither the port nor, being more than are served
        // at a time, their places.
        for _ in 0..CLIENTS {
            wait("the port", || {
                let mut client = network.command("env");
                client.arg(format!("RUMP_SERVER=tcp://{}/", network.endpoint(PORT)));
                client.arg(&remote).args(["receive", "7000"]).stdout(Stdio::piped()).stderr(Stdio::null());
                let mut client = Process(client.spawn().expect("it starts"));
                let mut line = String::new();
                let output = client.0.stdout.take().expect("a pipe");
                BufReader::new(output).read_line(&mut line).expect("a line");
                (line == "ready\n").then_some(())
            });
        }
        assert_eq!(command(&["pid"]), "process of its own\n");
        assert_eq!(command(&["halt"]), "halt 0\n");
        running.wait().exited(0);
    }
}
