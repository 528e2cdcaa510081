//! Sockets as Linux programs use them, over the loopback: what they do in an image is what they do on the host.

use std::{fs, path::Path};

use tests::{Guest, bake, checkout, needs, programs::on_host, scratch};

/// A folder for the image with programs of `tests/programs`.
fn folder_with(name: &str, files: &[&str]) -> String {
    let folder = scratch().join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a scratch folder");
    for file in files {
        fs::copy(checkout().join("tests/programs").join(file), folder.join(file)).expect("a program of ours");
    }
    folder.into_os_string().into_string().expect("UTF-8")
}

/// The program's own lines, without those by which the kernel tells of ports.
fn own_lines(console: &str) -> String {
    console
        .lines()
        .filter(|line| !line.starts_with("listening on "))
        .map(|line| line.to_owned() + "\n")
        .collect()
}

#[test]
fn python_uses_sockets_as_on_the_host() {
    needs!("/usr/bin/python3");
    let files = folder_with("sockets", &["sockets.py"]);
    let script = format!("{files}/sockets.py");
    let (expected, status) = on_host(Path::new("/usr/bin/python3"), &[&script]);
    assert_eq!(status, 0, "the host itself fails: {expected}");
    let rootfs = format!("{files}:/scripts");
    let arguments =
        ["/usr/bin/python3", "--package", "python3", "--rootfs", &rootfs, "--", "/scripts/sockets.py"];
    let image = bake("sockets", arguments);
    for cpus in [1, 2, 4] {
        let outcome = Guest::new(&image).memory("512M").timeout(300).cpus(cpus).run();
        assert_eq!(own_lines(outcome.exited(0)), expected, "{cpus} CPUs");
    }
}
