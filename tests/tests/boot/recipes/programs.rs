//! Recipes whose work is files: NFS and SQLite.

use std::fs;

use tests::{
    recipe::{Server, blank_disk},
    scratch,
};

use super::{PLAIN, Recipe, image};

const NFS_PORT: u16 = 2049;
const MOUNTD: u16 = 20048;

/// Writes by version 3 and reads by versions 3 and 4 (libnfs 4 can't write by version 4: its client gives up).
fn nfs(server: &mut Server) {
    server.running.wait_for("NFS SERVER INITIALIZED");
    let (host, nfs) = server.address(NFS_PORT);
    let (_, mountd) = server.address(MOUNTD);
    let url = |path: &str, version: u32| {
        let mountd = if version == 3 { format!("&mountport={mountd}") } else { String::new() };
        format!("nfs://{host}/export{path}?version={version}&uid=0&gid=0&nfsport={nfs}{mountd}")
    };
    let mut random = fastrand::Rng::with_seed(6);
    let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(500_001).collect();
    let file = scratch().join(format!("nfs-{}", std::process::id()));
    fs::write(&file, &content).expect("a scratch file");
    server.client("nfs-cp", [file.to_str().expect("UTF-8"), &url("/file", 3)]);
    for version in [3, 4] {
        let listing = server.client("nfs-ls", [url("", version)]);
        let shown =
            |line: &str| line.contains(&content.len().to_string()) && line.trim_end().ends_with("file");
        assert!(listing.lines().any(shown), "version {version}: {listing}");
        let got = server.bytes("nfs-cat", [url("/file", version)]);
        assert!(got == content, "version {version}: {} bytes", got.len());
    }
    fs::remove_file(file).expect("ours");
}

pub const NFS: Recipe = Recipe {
    name: "nfs-ganesha",
    needs: &["nfs-ls", "nfs-cp", "nfs-cat"],
    image: image!("nfs-ganesha"),
    memory: "384M",
    ports: &[NFS_PORT, MOUNTD],
    disk: || Some(blank_disk(256)),
    work: nfs,
    ..PLAIN
};

/// It makes its database and ends.
fn sqlite(server: &mut Server) {
    let outcome = server.running.end();
    let console = outcome.exited(0);
    assert!(console.contains("starts: 1\nintegrity: ok\n"), "{console}");
}

pub const SQLITE: Recipe =
    Recipe { name: "sqlite", image: image!("sqlite"), disk: || Some(blank_disk(64)), work: sqlite, ..PLAIN };
