//! HTTP servers, and a proxy before one.

use std::{fs, path::Path};

use tests::{
    Guest,
    clients::{ab, curl, wrk},
    network::{HOST, Link},
    recipe::{Server, image_with},
    scratch,
};

use super::{PLAIN, Recipe, image};

/// A file of many segments that repeats nowhere.
fn file() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(5);
    std::iter::repeat_with(|| random.u8(..)).take(400_001).collect()
}

/// Puts it beside what a recipe serves.
fn add_file(folder: &Path) {
    fs::write(folder.join("rootfs/srv/www/file"), file()).expect("a scratch file");
}

#[track_caller]
fn fetch(server: &Server, url: &str, options: &[&str]) {
    let got = curl(server, url, options);
    assert!(got == file(), "{url}: {} bytes", got.len());
}

/// A server of files: over HTTP/1.1, TLS and HTTP/2.
fn serves_files(server: &mut Server, version: &str) {
    server.wait_for_answer(80, b"GET / HTTP/1.0\r\n\r\n", format!("HTTP/{version} 200 OK").as_bytes());
    let (plain, secure) = (format!("http://{}/", server.at(80)), format!("https://{}/", server.at(443)));
    fetch(server, &format!("{plain}file"), &["--http1.1"]);
    fetch(server, &format!("{secure}file"), &["--http1.1"]);
    fetch(server, &format!("{secure}file"), &["--http2"]);
    ab(server, &plain, 200, 10, false);
    ab(server, &plain, 400, 10, true);
}

fn nginx(server: &mut Server) {
    serves_files(server, "1.1");
    let page = fs::read_to_string(tests::checkout().join("packages/nginx/rootfs/srv/www/index.html"));
    wrk(server, &format!("http://{}/", server.at(80)), 1, 16, &page.expect("the recipe's page"));
}

pub const NGINX: Recipe = Recipe {
    name: "nginx",
    needs: &["curl", "ab", "wrk"],
    image: || image_with("nginx", "file", add_file),
    ports: &[80, 443],
    work: nginx,
    ..PLAIN
};

pub const LIGHTTPD: Recipe = Recipe {
    name: "lighttpd",
    needs: &["curl", "ab"],
    image: || image_with("lighttpd", "file", add_file),
    ports: &[80, 443],
    work: |server| serves_files(server, "1.0"),
    ..PLAIN
};

/// The small applications, which have the same pages.
fn application(server: &mut Server, port: u16, language: &str) {
    server.wait_for_answer(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK");
    let url = format!("http://{}", server.at(port));
    let page = String::from_utf8(curl(server, &format!("{url}/"), &[])).expect("text");
    assert!(page.contains(&format!("Hello from {language}")), "{page}");
    let health: serde_json::Value =
        serde_json::from_slice(&curl(server, &format!("{url}/health"), &[])).expect("JSON");
    assert_eq!(health["status"], "ok");
    let sent = scratch().join(format!("sent-{port}-{}", std::process::id()));
    fs::write(&sent, file()).expect("a scratch file");
    fetch(server, &format!("{url}/echo"), &["--data-binary", &format!("@{}", sent.display())]);
    fs::remove_file(sent).expect("ours");
    ab(server, &format!("{url}/"), 300, 10, true);
}

pub const PYTHON: Recipe = Recipe {
    name: "python-web",
    needs: &["curl", "ab"],
    image: image!("python-web"),
    ports: &[8000],
    work: |server| application(server, 8000, "Python"),
    ..PLAIN
};

pub const GO: Recipe = Recipe {
    name: "go-web",
    needs: &["curl", "ab"],
    image: image!("go-web"),
    ports: &[8001],
    work: |server| application(server, 8001, "Go"),
    ..PLAIN
};

pub const RUST: Recipe = Recipe {
    name: "rust-web",
    needs: &["curl", "ab"],
    image: image!("rust-web"),
    ports: &[8002],
    work: |server| application(server, 8002, "Rust"),
    ..PLAIN
};

/// Where the server behind the proxy listens: on the host.
const BEHIND: u16 = 8080;

fn options_of_haproxy(guest: Guest, link: Link) -> Guest {
    // On user networking the recipe's own value is the host.
    if link == Link::User { guest } else { guest.option("--env", format!("BACKEND={HOST}:{BEHIND}")) }
}

fn haproxy(server: &mut Server) {
    server.wait_for_answer(80, b"GET /haproxy-health HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK");
    let folder = tempfile::tempdir_in(scratch()).expect("a scratch folder");
    fs::write(folder.path().join("file"), file()).expect("a scratch file");
    let mut behind = server.network.command("busybox");
    let mut behind = behind
        .args(["httpd", "-f", "-p", &BEHIND.to_string(), "-h"])
        .arg(folder.path())
        .spawn()
        .expect("ip starts");
    let url = format!("http://{}/file", server.at(80));
    // It looks every 2 s whether the server behind it is there.
    let probe = || {
        let status = server.network.command("curl").args(["-sf", "-o", "/dev/null", &url]).status();
        status.is_ok_and(|status| status.success()).then_some(())
    };
    server.network.wait(&mut server.running, "the server behind the proxy", probe);
    for _ in 0..3 {
        fetch(server, &url, &["--http1.1"]);
    }
    ab(server, &format!("http://{}/haproxy-health", server.at(80)), 300, 10, true);
    let page = String::from_utf8(curl(server, &format!("http://{}/", server.at(8404)), &[])).expect("text");
    assert!(page.contains("Statistics Report"), "{page}");
    let _ = behind.kill();
    let _ = behind.wait();
}

pub const HAPROXY: Recipe = Recipe {
    name: "haproxy",
    needs: &["curl", "ab", "busybox"],
    image: image!("haproxy"),
    ports: &[80, 8404],
    options: options_of_haproxy,
    work: haproxy,
    ..PLAIN
};
