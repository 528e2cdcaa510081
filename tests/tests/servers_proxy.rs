//! lighttpd and HAProxy from their recipes, alone and one before the other.

use std::{fs, path::Path};

use tests::{
    Guest, needs,
    network::{Link, Network},
    recipe::{Server, image, image_with},
};

fn body() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(3);
    std::iter::repeat_with(|| random.u8(..)).take(700_001).collect()
}

fn lighttpd_image() -> Option<std::path::PathBuf> {
    image_with("lighttpd", "file", |folder: &Path| {
        fs::write(folder.join("rootfs/srv/www/file"), body()).expect("a scratch file");
    })
}

fn fetch(server: &Server, url: &str, options: &[&str]) {
    let common = ["--silent", "--show-error", "--fail", "--insecure", url];
    let got = server.bytes("curl", common.iter().chain(options));
    assert!(got == body(), "{url}: {} bytes", got.len());
}

fn lighttpd(link: Link, cpus: usize) {
    needs!("curl", "ab");
    let Some(image) = lighttpd_image() else { return };
    let Some(mut server) = Server::boot(Guest::new(&image).cpus(cpus), link, &[80, 443]) else { return };
    server.wait_for_answer(80, b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.0 200 OK");
    fetch(&server, &format!("http://{}/file", server.at(80)), &["--http1.1"]);
    fetch(&server, &format!("https://{}/file", server.at(443)), &["--http1.1"]);
    fetch(&server, &format!("https://{}/file", server.at(443)), &["--http2"]);
    let url = format!("http://{}/", server.at(80));
    let report = server.client("ab", ["-q", "-k", "-n", "2000", "-c", "20", &url]);
    assert!(report.contains("Complete requests:      2000"), "{report}");
    assert!(report.contains("Failed requests:        0") && !report.contains("Non-2xx"), "{report}");
}

#[test]
fn lighttpd_with_one_cpu_on_a_tap() {
    lighttpd(Link::Tap { queues: 1 }, 1);
}

#[test]
fn lighttpd_with_two_cpus_on_user_networking() {
    lighttpd(Link::User, 2);
}

#[test]
fn haproxy_with_four_cpus_on_user_networking() {
    needs!("curl");
    let Some(image) = image("haproxy") else { return };
    let Some(mut server) = Server::boot(Guest::new(&image).cpus(4), Link::User, &[80, 8404]) else { return };
    server.wait_for_answer(80, b"GET /haproxy-health HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK");
    let page = server.client("curl", ["--silent", "--fail", &format!("http://{}/", server.at(8404))]);
    assert!(page.contains("Statistics Report"), "{page}");
}

/// Two guests on a bridge: what comes to the one is answered by the other.
#[test]
fn haproxy_before_lighttpd() {
    needs!("curl", "ab");
    let (Some(proxy), Some(server)) = (image("haproxy"), lighttpd_image()) else { return };
    let Some(network) = Network::new(Link::Bridge) else { return };
    let mut behind = network.attach_at(Guest::new(&server).cpus(1), &[80], 3).start();
    behind.wait_for("server started");
    let guest = Guest::new(&proxy).cpus(2).option("--env", "BACKEND=10.77.0.3:80");
    let running = network.attach(guest, &[80]).start();
    let mut server = Server { network, running };
    server.wait_for_answer(80, b"GET /haproxy-health HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK");
    let url = format!("http://{}/file", server.at(80));
    let probe = || {
        let status = server.network.command("curl").args(["-sf", "-o", "/dev/null", &url]).status();
        status.is_ok_and(|status| status.success()).then_some(())
    };
    server.network.wait(&mut server.running, "the server behind the proxy", probe);
    for _ in 0..20 {
        fetch(&server, &url, &["--http1.1"]);
    }
    let url = format!("http://{}/", server.at(80));
    let report = server.client("ab", ["-q", "-k", "-n", "1000", "-c", "10", &url]);
    assert!(report.contains("Failed requests:        0") && !report.contains("Non-2xx"), "{report}");
}
