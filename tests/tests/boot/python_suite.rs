//! Python's own tests of what waits for sockets, and of clients and servers, in an image: they expect of the
//! system what Linux does. `tests/programs/python_suite.py` names those that are left out, and why.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use tests::{Guest, bake, checkout, needs, scratch};

/// A file of `libpython3.11-testsuite`.
const SUITE: &str = "/usr/lib/python3.11/test/test_socketserver.py";

/// The image of all tests, made once.
fn image() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let folder = scratch().join(format!("python-suite-{}", std::process::id()));
        let programs = folder.join("usr/bin");
        fs::create_dir_all(&programs).expect("a scratch folder");
        fs::copy(checkout().join("tests/programs/python_suite.py"), folder.join("suite.py"))
            .expect("a program of ours");
        // Some tests read what a shell writes now and then.
        fs::copy("/usr/bin/sleep", programs.join("sleep")).expect("a program of Debian's");
        let rootfs = folder.to_str().expect("UTF-8");
        let mut arguments = vec!["/usr/bin/python3.11", "--rootfs", rootfs];
        for package in ["libpython3.11-testsuite", "netbase", "dash"] {
            arguments.extend(["--package", package]);
        }
        bake("python-suite", arguments)
    })
}

fn passes(modules: &[&str]) {
    needs!("/usr/bin/python3.11", SUITE, "/etc/services", "/usr/bin/dash", "/usr/bin/sleep");
    let arguments = ["/suite.py"].iter().chain(modules);
    let outcome = Guest::new(image()).memory("512M").timeout(900).arguments(arguments).run();
    let console = outcome.exited(0);
    assert!(console.contains("failed: none"), "{console}");
}

#[test]
fn waiting_for_many_does_what_python_expects() {
    passes(&[
        "test_select",
        "test_poll",
        "test_epoll",
        "test_asyncio.test_server",
        "test_asyncio.test_unix_events",
    ]);
}

#[test]
fn clients_and_servers_do_what_python_expects() {
    passes(&["test_telnetlib", "test_smtplib", "test_httplib", "test_poplib"]);
}

#[test]
fn socket_servers_do_what_python_expects() {
    passes(&["test_socketserver"]);
}
