//! QEMU's monitor (QMP), for what only it can do to a running machine.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{Guest, scratch};

/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(90);

/// A guest whose QEMU has a monitor, and the monitor's socket.
pub fn attach(guest: Guest) -> (Guest, PathBuf) {
    let socket = tempfile::Builder::new().prefix("qmp").tempfile_in(scratch()).expect("a temporary file");
    let path = socket.path().with_extension("socket");
    let words = format!("unix:{},server=on,wait=off", path.display());
    (guest.option("--qemu", "-qmp").option("--qemu", words), path)
}

/// A connection to a monitor.
pub struct Monitor {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    /// Names of the events that came.
    events: Vec<Value>,
}

impl Monitor {
    /// Connects, once the socket is there.
    pub fn open(path: &Path) -> Monitor {
        let start = Instant::now();
        let writer = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) => assert!(start.elapsed() < PATIENCE, "{}: {error}", path.display()),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let _ = std::fs::remove_file(path);
        writer.set_read_timeout(Some(PATIENCE)).expect("set");
        let reader = BufReader::new(writer.try_clone().expect("a socket can be shared"));
        let mut monitor = Monitor { reader, writer, events: Vec::new() };
        monitor.read();
        monitor.execute("qmp_capabilities", json!({}));
        monitor
    }

    #[track_caller]
    fn read(&mut self) -> Value {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => panic!("QEMU closed its monitor"),
            Ok(_) => {}
            Err(error) => panic!("QEMU says nothing for {} s: {error}", PATIENCE.as_secs()),
        }
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("not JSON: {error}: {line}"))
    }

    /// Executes a command; panics if it fails.
    #[track_caller]
    pub fn execute(&mut self, command: &str, arguments: Value) -> Value {
        let text = json!({ "execute": command, "arguments": arguments }).to_string();
        self.writer.write_all(text.as_bytes()).expect("QEMU reads");
        loop {
            let mut answer = self.read();
            if answer.get("event").is_some() {
                self.events.push(answer);
                continue;
            }
            assert!(answer.get("error").is_none(), "{command}: {answer}");
            return answer["return"].take();
        }
    }

    /// Waits for an event that has this name, and data for which `matches` is true.
    #[track_caller]
    pub fn wait_for(&mut self, event: &str, matches: impl Fn(&Value) -> bool) {
        loop {
            if self.events.iter().any(|seen| seen["event"] == event && matches(&seen["data"])) {
                return;
            }
            let next = self.read();
            self.events.push(next);
        }
    }

    /// Plugs the cable of an interface in or out (`set_link`).
    pub fn set_link(&mut self, device: &str, up: bool) {
        self.execute("set_link", json!({ "name": device, "up": up }));
    }

    /// Takes a device out, and waits until the guest let go.
    #[track_caller]
    pub fn remove(&mut self, device: &str) {
        self.execute("device_del", json!({ "id": device }));
        self.wait_for("DEVICE_DELETED", |data| data["device"] == device);
    }
}
