//! nginx from its recipe: files over HTTP/1.1, HTTP/2 and TLS, under load, with every response checked.

use std::{fmt::Write, fs, path::Path, process::Stdio};

use tests::{
    Guest,
    clients::{ab, curl, wrk},
    needs,
    network::Link,
    recipe::{Server, image_with},
    scratch,
};

const SMALL_FILES: usize = 10_000;
const PAGE: &str = "<!doctype html><title>nginx</title><p>It works.</p>\n";

/// What file number `index` of the small files has.
fn small_file(index: usize) -> String {
    format!("file {index} {}\n", "x".repeat(index * 7 % 900))
}

/// A megabyte that repeats nowhere.
fn megabyte() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(1);
    std::iter::repeat_with(|| random.u8(..)).take(1 << 20).collect()
}

/// The recipe with many files to serve, and one of 1 GiB that is made when it starts.
fn image() -> Option<std::path::PathBuf> {
    let add = |folder: &Path| {
        let root = folder.join("rootfs/srv/www");
        fs::write(root.join("megabyte"), megabyte()).expect("a scratch file");
        fs::create_dir(root.join("small")).expect("a scratch folder");
        for index in 0..SMALL_FILES {
            fs::write(root.join(format!("small/{index}")), small_file(index)).expect("a scratch file");
        }
        let recipe = fs::read_to_string(folder.join("recipe.toml")).expect("the recipe");
        let truncate = "[[program]]\nrun = \"/usr/bin/truncate -s 1G /srv/www/gigabyte\"\n\n[[program]]";
        fs::write(folder.join("recipe.toml"), recipe.replacen("[[program]]", truncate, 1))
            .expect("a scratch file");
    };
    image_with("nginx", "files", add)
}

fn boot(link: Link, cpus: usize) -> Option<Server> {
    let guest = Guest::new(&image()?).cpus(cpus).memory("384M");
    let mut server = Server::boot(guest, link, &[80, 443])?;
    server.wait_for_answer(80, b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK");
    Some(server)
}

/// The URLs of all small files but the first; curl writes them to its output, one after the other.
fn urls_of_small_files(base: &str) -> String {
    let mut urls = String::new();
    for index in 1..SMALL_FILES {
        writeln!(urls, "url = \"{base}/small/{index}\"").expect("memory");
    }
    urls
}

/// Fetches all small files over few connections, and compares every byte.
fn fetch_small_files(server: &Server, name: &str, base: &str, options: &[&str]) {
    let list = scratch().join(format!("small-{name}-{}", std::process::id()));
    fs::write(&list, urls_of_small_files(base)).expect("a scratch file");
    let first = format!("{base}/small/0");
    let options = [options, &["--config", list.to_str().expect("UTF-8")]].concat();
    let got = curl(server, &first, &options);
    let expected: String = (0..SMALL_FILES).map(small_file).collect();
    assert!(got == expected.as_bytes(), "{} bytes instead of {}", got.len(), expected.len());
    fs::remove_file(list).expect("ours");
}

fn fetch_megabyte(server: &Server) {
    let expected = megabyte();
    let (plain, secure) =
        (format!("http://{}/megabyte", server.at(80)), format!("https://{}/megabyte", server.at(443)));
    for (options, url) in [(["--http1.1"], &plain), (["--http1.1"], &secure), (["--http2"], &secure)] {
        let got = curl(server, url, &options);
        assert!(got == expected, "{options:?} {url}: {} bytes", got.len());
    }
}

/// Load by wrk and ab; each response is compared.
fn load(server: &Server) {
    let url = format!("http://{}/", server.at(80));
    wrk(server, &url, 3, 32, PAGE);
    ab(server, &url, 1000, 10, false);
    ab(server, &url, 3000, 20, true);
}

#[test]
fn one_cpu_on_a_tap_under_load() {
    needs!("curl", "wrk", "ab");
    let Some(server) = boot(Link::Tap { queues: 1 }, 1) else { return };
    load(&server);
    fetch_megabyte(&server);
    fetch_small_files(&server, "plain", &format!("http://{}", server.at(80)), &["--http1.1"]);
}

#[test]
fn two_cpus_on_user_networking() {
    needs!("curl", "wrk", "ab");
    let Some(server) = boot(Link::User, 2) else { return };
    fetch_megabyte(&server);
    load(&server);
}

#[test]
fn four_cpus_on_a_tap_with_tls() {
    needs!("curl", "wrk", "ab");
    let Some(server) = boot(Link::Tap { queues: 4 }, 4) else { return };
    fetch_megabyte(&server);
    let base = format!("https://{}", server.at(443));
    fetch_small_files(&server, "tls", &base, &["--http1.1"]);
    fetch_small_files(&server, "http2", &base, &["--http2"]);
    load(&server);
}

#[test]
fn a_gigabyte() {
    needs!("curl");
    let Some(server) = boot(Link::Tap { queues: 2 }, 2) else { return };
    let mut command = server.command("curl");
    command.args(["--silent", "--show-error", "--fail", &format!("http://{}/gigabyte", server.at(80))]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("ip starts");
    let mut output = child.stdout.take().expect("a pipe");
    let (mut total, mut buffer) = (0, vec![0; 1 << 20]);
    while let Ok(length @ 1..) = std::io::Read::read(&mut output, &mut buffer) {
        assert!(buffer[..length].iter().all(|byte| *byte == 0), "within 1 MiB of {total}");
        total += length as u64;
    }
    assert!(child.wait().expect("a child").success());
    assert_eq!(total, 1 << 30);
}
