//! What is measured: servers, each baked into an image, and the same files and programs for the Linux guest.

use std::{
    borrow::Cow,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use image::{
    config::Configuration,
    payload::{self, Payload},
    rootfs::{Inode, RootFs},
};

use super::{super::build, network::GUEST};
use crate::{
    host,
    peer::{self, Archive},
};

/// A server.
pub struct Appliance {
    /// Its name.
    pub name: &'static str,
    /// The command, as a shell would split it.
    pub command: &'static str,
    /// The port that it listens on.
    pub port: u16,
    /// How to see that it listens.
    pub ready: Ready,
    /// Files of its root file system: (path, contents).
    pub files: &'static [(&'static str, &'static str)],
}

/// How a server shows that it is ready.
#[derive(Clone, Copy)]
pub enum Ready {
    /// It takes connections.
    Connects,
    /// Its console has this. For those that mind a connection without a conversation.
    Says(&'static str),
}

/// Bytes of the page that nginx serves.
const PAGE: usize = 1024;

const NGINX: &str = "\
daemon off;
user root;
worker_processes 1;
error_log stderr crit;
pid /run/nginx.pid;
events { worker_connections 4096; }
http {
    access_log off;
    sendfile on;
    keepalive_requests 100000000;
    client_body_temp_path /tmp/body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;
    server { listen 80; root /srv; }
}
";

/// nginx with one worker and a page of 1 KiB.
pub const NGINX_SERVER: Appliance = Appliance {
    name: "nginx",
    command: "nginx -c /etc/nginx.conf -e stderr",
    port: 80,
    ready: Ready::Connects,
    files: &[("etc/nginx.conf", NGINX)],
};
/// redis without persistence.
pub const REDIS: Appliance = Appliance {
    name: "redis",
    command: "redis-server --save '' --appendonly no --protected-mode no --bind 0.0.0.0",
    port: 6379,
    ready: Ready::Connects,
    files: &[],
};
/// memcached with two threads.
pub const MEMCACHED: Appliance = Appliance {
    name: "memcached",
    command: "memcached -u root -t 2 -c 1024 -m 64 -U 0",
    port: 11211,
    ready: Ready::Connects,
    files: &[],
};
/// iperf3.
pub const IPERF: Appliance = Appliance {
    name: "iperf3",
    command: "iperf3 --server --forceflush",
    port: 5201,
    ready: Ready::Says("Server listening"),
    files: &[],
};
/// NetPIPE's receiver.
pub const NETPIPE: Appliance = Appliance {
    name: "netpipe",
    command: "NPtcp",
    port: 5002,
    // Just before.
    ready: Ready::Says("free-memory"),
    files: &[("etc/protocols", "tcp\t6\tTCP\n")],
};

/// All of them.
pub const ALL: [&Appliance; 5] = [&NGINX_SERVER, &REDIS, &MEMCACHED, &IPERF, &NETPIPE];

/// Files that the guests of an appliance boot.
pub struct Baked {
    /// Our image.
    pub image: PathBuf,
    /// The Linux guest's initramfs.
    pub initramfs: PathBuf,
}

fn folder() -> PathBuf {
    host::target().join("bench/net")
}

impl Appliance {
    /// Where the files are once [`Appliance::bake`] has made them.
    pub fn baked(&self) -> Baked {
        let file = |suffix: &str| folder().join(format!("{}.{suffix}", self.name));
        Baked { image: file("elf"), initramfs: file("initramfs") }
    }

    /// Bakes the image, and makes the initramfs from what is in it.
    pub fn bake(&self, bake: &Path, init: &Path) -> Result<()> {
        let tree = folder().join(format!("{}.rootfs", self.name));
        fs::create_dir_all(tree.join("srv"))?;
        fs::write(tree.join("srv/page"), vec![b'x'; PAGE])?;
        for (path, contents) in self.files {
            let path = tree.join(path);
            fs::create_dir_all(path.parent().context("a file in a folder")?)?;
            fs::write(path, contents)?;
        }
        let configuration = folder().join(format!("{}.toml", self.name));
        let report = build("memory-report")?;
        let text = format!(
            "[[rootfs]]\ndirectory = {tree:?}\nat = \"/\"\n\n[[network]]\ninterface = \"eth0\"\n\
             addresses = [\"{GUEST}/24\"]\n\n[[program]]\nrun = {report:?}\nthen = \"background\"\n\n\
             [[program]]\nrun = {:?}\n",
            self.command
        );
        fs::write(&configuration, text)?;
        let Baked { image, initramfs } = self.baked();
        let mut command = Command::new(bake);
        command.args(["-q", "bake", "hw_direct"]).arg(&image).arg("--config").arg(configuration);
        host::run(&mut command)?;
        unpack(&image, &initramfs, init).with_context(|| format!("cannot make an initramfs of {}", self.name))
    }
}

/// Makes the Linux guest's initramfs of an image's files and programs.
fn unpack(image: &Path, initramfs: &Path, init: &Path) -> Result<()> {
    let bytes = fs::read(image)?;
    let is_payload = |at: &usize| bytes[*at..].starts_with(&payload::MAGIC);
    let payload = (0..bytes.len())
        .step_by(8)
        .filter(is_payload)
        .find_map(|at| Payload::parse(&bytes[at..]).ok())
        .context("the image has no payload")?;
    let configuration: Configuration = postcard::from_bytes(payload.configuration())?;
    let mut programs = String::new();
    for program in &configuration.programs {
        ensure!(program.arguments.len() < 60, "too many arguments for the peer's init");
        let arguments = program.arguments.iter().skip(1);
        for word in std::iter::once(&program.path).chain(arguments) {
            writeln!(programs, " {}", str::from_utf8(word)?)?;
        }
        programs.push('\n');
    }
    let mut archive = Archive::create(initramfs)?;
    let rootfs = RootFs::parse(payload.rootfs())?;
    add_tree(&mut archive, &rootfs, 0, "")?;
    archive.add("init", 0o100_755, &fs::read(init)?)?;
    archive.add("peer", 0o040_755, &[])?;
    archive.add("peer/programs", 0o100_644, programs.as_bytes())?;
    archive.add("peer/network", 0o100_644, GUEST.to_string().as_bytes())?;
    let mut modules = String::new();
    for module in peer::network_modules()? {
        let name = module.file_name().context("a module's name")?.to_string_lossy().into_owned();
        writeln!(modules, "/peer/{name}")?;
        archive.add(&format!("peer/{name}"), 0o100_644, &fs::read(&module)?)?;
    }
    archive.add("peer/modules", 0o100_644, modules.as_bytes())?;
    archive.finish()
}

/// What a file or a symbolic link holds.
fn contents<'a>(rootfs: &RootFs<'a>, inode: &Inode) -> Result<Cow<'a, [u8]>> {
    match rootfs.data(inode) {
        Some(data) => Ok(data.bytes()?),
        None => Ok(rootfs.target(inode).unwrap_or_default().into()),
    }
}

fn add_tree(archive: &mut Archive, rootfs: &RootFs<'_>, number: u32, path: &str) -> Result<()> {
    let inode = rootfs.inode(number).context("an inode is missing")?;
    if !path.is_empty() {
        archive.add(path, inode.mode.get(), &contents(rootfs, inode)?)?;
    }
    for entry in rootfs.entries(inode) {
        let name = str::from_utf8(rootfs.name(entry))?;
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
        add_tree(archive, rootfs, entry.inode.get(), &path)?;
    }
    Ok(())
}
