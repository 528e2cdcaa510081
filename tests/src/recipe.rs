//! Images of the recipes in `packages/`, servers booted from them on a network, and their clients.

use std::{
    ffi::OsStr,
    fs,
    panic::Location,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Guest, checkout,
    guest::Running,
    made::Made,
    network::{Link, Network},
    rumprun_bake, scratch, skip,
};

/// Seconds that a client may take.
const PATIENCE: &str = "180";
/// Exit status of `package bake` when the host lacks what the recipe needs.
const MISSING: i32 = 4;

/// The image of a recipe of the project, baked once per test process; `None`, after a line that says why, if the host
/// lacks its packages.
pub fn image(name: &str) -> Option<PathBuf> {
    bake(name, &checkout().join("packages").join(name), name)
}

/// As [`image`], of a copy of the recipe's folder that `change` has changed. `variant` tells such images apart: it is of
/// one caller.
#[track_caller]
pub fn image_with(name: &str, variant: &str, change: impl FnOnce(&Path)) -> Option<PathBuf> {
    static COPIES: Made<String, (PathBuf, &Location<'_>)> = Made::new();
    let label = format!("{name}-{variant}");
    let caller = Location::caller();
    let (folder, first) = COPIES.get(label.clone(), || {
        let folder = scratch().join(format!("{label}-{}", std::process::id())).join(name);
        copy(&checkout().join("packages").join(name), &folder);
        change(&folder);
        (folder, caller)
    });
    assert_eq!(first, caller, "two variants of {name} are named {variant}");
    bake(name, &folder, &label)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder in the target folder");
    for entry in fs::read_dir(from).expect("the recipe's folder").flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("a file of the recipe");
        }
    }
}

fn bake(name: &str, folder: &Path, label: &str) -> Option<PathBuf> {
    static BAKED: Made<String, Result<PathBuf, String>> = Made::new();
    let baked = BAKED.get(label.to_owned(), || {
        let image = scratch().join(format!("recipe-{label}-{}.elf", std::process::id()));
        let mut command = Command::new(rumprun_bake());
        command.args(["package", "bake", "-q"]).arg(folder).arg("-o").arg(&image);
        let output = command.output().expect("rumprun-bake starts");
        let messages = String::from_utf8_lossy(&output.stderr);
        if output.status.code() == Some(MISSING) {
            return Err(messages.trim().to_owned());
        }
        assert!(output.status.success(), "{name}: {}\n{messages}", output.status);
        Ok(image)
    });
    baked.inspect_err(|missing| skip(missing)).ok()
}

/// A new disk for a server, all zeros; gone when dropped.
pub fn blank_disk(megabytes: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new_in(scratch()).expect("a file in the target folder");
    file.as_file().set_len(megabytes << 20).expect("a sparse file");
    file
}

/// A server that runs, and the network that it is on.
pub struct Server {
    /// The server. Dropped first, it tells of itself if a test fails.
    pub running: Running,
    /// The network, which the clients are on.
    pub network: Network,
}

impl Server {
    /// Boots a server; `ports` are those that clients use. `None`, after a line that says why, without networks.
    pub fn boot(guest: Guest, link: Link, ports: &[u16]) -> Option<Self> {
        let network = Network::new(link)?;
        let running = network.attach(guest.timeout(600), ports).start();
        Some(Server { running, network })
    }

    /// Waits until an answer to `request` at `port` begins with `expected`.
    #[track_caller]
    pub fn wait_for_answer(&mut self, port: u16, request: &[u8], expected: &[u8]) {
        let answer = self.network.answer(&mut self.running, port, request);
        assert!(answer.starts_with(expected), "{}", String::from_utf8_lossy(&answer));
    }

    /// Address and port, for clients.
    pub fn at(&self, port: u16) -> String {
        self.network.endpoint(port).to_string()
    }

    /// The address and the port apart.
    pub fn address(&self, port: u16) -> (String, String) {
        let endpoint = self.network.endpoint(port);
        (endpoint.ip().to_string(), endpoint.port().to_string())
    }

    /// How many connections a client may open at once: user networking's own queue of them takes one at a time
    /// (libslirp listens with a backlog of 1), and those that find it full wait for seconds.
    pub fn connections(&self, most: u32) -> u32 {
        if self.network.device().is_some() { most } else { most.min(4) }
    }

    /// A client in the network's namespace, with a limited time.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.network.command("timeout");
        command.args(["--kill-after=5", PATIENCE, program]);
        command
    }

    /// Runs a client to its end and returns what it printed; panics with everything that is known if it fails.
    #[track_caller]
    pub fn client<A: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = A>) -> String {
        let mut command = self.command(program);
        let output = command.args(arguments).output().expect("ip starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{command:?}: {}\n{text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// As [`Server::client`], returning the bytes.
    #[track_caller]
    pub fn bytes<A: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = A>) -> Vec<u8> {
        let mut command = self.command(program);
        let output = command.args(arguments).output().expect("ip starts");
        assert!(
            output.status.success(),
            "{command:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    }

    /// Kills QEMU as a power cut would, and waits for the launcher's end.
    pub fn cut_power(self) {
        self.network.kill("qemu-system");
        let _ = self.running.wait();
    }
}
