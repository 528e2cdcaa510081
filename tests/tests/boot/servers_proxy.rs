//! HAProxy before lighttpd, both from their recipes.

use std::{fs, path::Path};

use tests::{
    Guest,
    clients::{ab, curl},
    needs,
    network::{Link, Network},
    recipe::{Server, image, image_with},
};

fn body() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(3);
    std::iter::repeat_with(|| random.u8(..)).take(700_001).collect()
}

fn lighttpd_image() -> Option<std::path::PathBuf> {
    image_with("lighttpd", "proxied", |folder: &Path| {
        fs::write(folder.join("rootfs/srv/www/file"), body()).expect("a scratch file");
    })
}

fn fetch(server: &Server, url: &str, options: &[&str]) {
    let got = curl(server, url, options);
    assert!(got == body(), "{url}: {} bytes", got.len());
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
    let mut server = Server { running, network };
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
    ab(&server, &url, 1000, 10, true);
}
