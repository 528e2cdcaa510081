//! nginx from its recipe: files over HTTP/1.1, HTTP/2 and TLS, under load, with every response checked.

use std::{fmt::Write, fs, path::Path, process::Stdio};

use tests::{
    Guest, needs,
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

/// The URLs of all small files, and where curl writes them: to its output, one after the other.
fn urls_of_small_files(base: &str) -> String {
    let mut urls = String::new();
    for index in 0..SMALL_FILES {
        writeln!(urls, "url = \"{base}/small/{index}\"").expect("memory");
    }
    urls
}

/// Fetches all small files over few connections, and compares every byte.
fn fetch_small_files(server: &Server, name: &str, base: &str, options: &[&str]) {
    let list = scratch().join(format!("small-{name}-{}", std::process::id()));
    fs::write(&list, urls_of_small_files(base)).expect("a scratch file");
    let mut arguments = vec!["--silent", "--show-error", "--fail", "--insecure"];
    arguments.extend(options);
    arguments.extend(["--config", list.to_str().expect("UTF-8")]);
    let got = server.bytes("curl", arguments);
    let expected: String = (0..SMALL_FILES).map(small_file).collect();
    assert!(got == expected.as_bytes(), "{} bytes instead of {}", got.len(), expected.len());
    fs::remove_file(list).expect("ours");
}

fn fetch_megabyte(server: &Server) {
    let expected = megabyte();
    let (plain, secure) =
        (format!("http://{}/megabyte", server.at(80)), format!("https://{}/megabyte", server.at(443)));
    for (options, url) in [(["--http1.1"], &plain), (["--http1.1"], &secure), (["--http2"], &secure)] {
        let common = ["--silent", "--show-error", "--fail", "--insecure", url];
        let got = server.bytes("curl", options.into_iter().chain(common));
        assert!(got == expected, "{options:?} {url}: {} bytes", got.len());
    }
}

/// The number behind `label` in a client's report.
fn number(report: &str, label: &str) -> u64 {
    let rest = report.split(label).nth(1).unwrap_or_else(|| panic!("no {label} in {report}"));
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no number behind {label} in {report}"))
}

/// Load by wrk and ab; each response is compared.
fn load(server: &Server) {
    // Tests run side by side, each in a thread of its name.
    let thread = std::thread::current();
    let test = thread.name().unwrap_or_default();
    let script = scratch().join(format!("check-{test}-{}.lua", std::process::id()));
    // `response` runs in each of wrk's threads, `done` in its main program.
    let text = format!(
        "local threads = {{}}\n\
         function setup(thread) table.insert(threads, thread) end\n\
         function init() good = 0; bad = 0 end\n\
         function response(status, headers, body)\n\
           if status == 200 and body == [==[{PAGE}]==] then good = good + 1 else bad = bad + 1 end\n\
         end\n\
         function done()\n\
           local good, bad = 0, 0\n\
           for _, thread in ipairs(threads) do good = good + thread:get('good'); bad = bad + thread:get('bad') end\n\
           print('good: ' .. good .. ' bad: ' .. bad)\n\
         end\n"
    );
    fs::write(&script, text).expect("a scratch file");
    let url = format!("http://{}/", server.at(80));
    let path = script.to_str().expect("UTF-8");
    let report = server.client("wrk", ["-t2", "-c32", "-d3s", "--timeout", "30s", "-s", path, &url]);
    assert!(number(&report, "good:") > 100, "{report}");
    assert_eq!(number(&report, "bad:"), 0, "{report}");
    assert!(!report.contains("Socket errors"), "{report}");
    for options in [&["-n", "1000", "-c", "10"][..], &["-n", "3000", "-c", "20", "-k"]] {
        let report = server.client("ab", options.iter().copied().chain(["-q", url.as_str()]));
        assert_eq!(
            number(&report, "Complete requests:"),
            options[1].parse::<u64>().expect("a number"),
            "{report}"
        );
        assert_eq!(number(&report, "Failed requests:"), 0, "{report}");
        assert!(!report.contains("Non-2xx"), "{report}");
    }
    fs::remove_file(script).expect("ours");
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
