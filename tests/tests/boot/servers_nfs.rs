//! nfs-ganesha from its recipe: files by NFS versions 3 and 4, written, read back, and kept on the disk.

use std::{fs, path::Path};

use tests::{
    Guest, needs,
    network::Link,
    recipe::{Server, blank_disk, image},
    scratch,
};

const NFS: u16 = 2049;
const MOUNTD: u16 = 20048;

fn boot(link: Link, cpus: usize, disk: &Path) -> Option<Server> {
    let guest = Guest::new(&image("nfs-ganesha")?).cpus(cpus).memory("384M").disk(disk);
    let mut server = Server::boot(guest, link, &[NFS, MOUNTD])?;
    server.running.wait_for("NFS SERVER INITIALIZED");
    Some(server)
}

/// The URL of a path of the export; the ports are told, so that nobody asks rpcbind.
fn url(server: &Server, path: &str, version: u32) -> String {
    let (host, nfs) = server.address(NFS);
    let (_, mountd) = server.address(MOUNTD);
    let mountd = if version == 3 { format!("&mountport={mountd}") } else { String::new() };
    format!("nfs://{host}/export{path}?version={version}&uid=0&gid=0&nfsport={nfs}{mountd}")
}

fn work(link: Link, cpus: usize) {
    needs!("nfs-ls", "nfs-cp", "nfs-cat");
    let disk = blank_disk(256);
    let Some(server) = boot(link, cpus, disk.path()) else { return };
    let mut random = fastrand::Rng::with_seed(2);
    let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(3_000_001).collect();
    let file = scratch().join(format!("nfs-{cpus}-{}", std::process::id()));
    fs::write(&file, &content).expect("a scratch file");
    let local = file.to_str().expect("UTF-8");
    for number in 0..5 {
        // libnfs 4 can't write by version 4: its client gives up.
        server.client("nfs-cp", [local, &url(&server, &format!("/file{number}"), 3)]);
    }
    for version in [3, 4] {
        let listing = server.client("nfs-ls", [url(&server, "", version)]);
        for number in 0..5 {
            let shown = listing
                .lines()
                .any(|line| line.contains("3000001") && line.trim_end().ends_with(&format!("file{number}")));
            assert!(shown, "version {version}: {listing}");
        }
        let got = server.bytes("nfs-cat", [url(&server, "/file3", version)]);
        assert!(got == content, "version {version}: {} bytes", got.len());
    }
    server.cut_power();
    let Some(server) = boot(link, cpus, disk.path()) else { return };
    let got = server.bytes("nfs-cat", [url(&server, "/file4", 4)]);
    assert!(got == content, "after a power cut: {} bytes", got.len());
    fs::remove_file(file).expect("ours");
}

#[test]
fn two_cpus_on_a_tap() {
    work(Link::Tap { queues: 2 }, 2);
}
