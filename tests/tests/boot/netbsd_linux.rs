//! Linux programs on an installed NetBSD component set: their internet sockets are NetBSD's.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use tests::{
    Guest, bake, checkout,
    clients::{curl, redis, redis_benchmark, redis_pipe},
    needs,
    network::{Link, Network},
    recipe::Server,
    scratch, skip,
};
use toolchain::netbsd::set;

/// An installed set with sockets, by its directory.
fn installed() -> Option<PathBuf> {
    match set::directory(None) {
        Ok(set) if set.join("lib/rump/librumpnet_netinet.a").is_file() => return Some(set),
        Ok(set) => skip(&format!("no NetBSD tree: {} has no network", set.display())),
        Err(error) => skip(&format!("no NetBSD tree: {error}")),
    }
    None
}

fn arguments(set: &Path, words: &[&str]) -> Vec<OsString> {
    let kernel: OsString = format!("netbsd:{}", set.display()).into();
    let words = words.iter().map(OsString::from);
    ["--kernel".into(), kernel].into_iter().chain(words).collect()
}

/// Boots a server on a network; NetBSD's drivers want PCI.
fn boot(image: &Path, cpus: usize, port: u16) -> Option<Server> {
    Server::boot(Guest::new(image).machine("q35").cpus(cpus), Link::Tap { queues: 1 }, &[port])
}

#[test]
fn sockets_behave_as_linux_programs_expect() {
    needs!("/usr/bin/python3", "ld", "objcopy", "qemu-system-x86_64");
    let Some(set) = installed() else { return };
    let programs = format!("{}:/programs", checkout().join("tests/programs/netbsd").display());
    let words = [
        "/usr/bin/python3",
        "--package",
        "python3",
        "--rootfs",
        &programs,
        "--",
        "/programs/linux_sockets.py",
    ];
    let image = bake("netbsd-linux-sockets", arguments(&set, &words));
    for cpus in [1, 2, 4] {
        let outcome = Guest::new(&image).machine("q35").cpus(cpus).run();
        assert!(outcome.exited(0).contains("sockets: passed\n"), "{}", outcome.console);
    }
}

#[test]
fn redis_serves_over_netbsd() {
    const PORT: u16 = 6379;
    needs!("redis-server", "redis-cli", "redis-benchmark", "ld", "objcopy", "qemu-system-x86_64");
    let Some(set) = installed() else { return };
    let server = "/usr/bin/redis-server --save '' --protected-mode no";
    let image = bake("netbsd-linux-redis", arguments(&set, &[server]));
    for cpus in [1, 2, 4] {
        let Some(mut server) = boot(&image, cpus, PORT) else { return };
        server.wait_for_answer(PORT, b"PING\r\nQUIT\r\n", b"+PONG\r\n");
        assert_eq!(redis(&server, PORT, &["SET", "place", "here"]), "OK");
        assert_eq!(redis(&server, PORT, &["GET", "place"]), "here");
        redis_benchmark(&server, PORT, 2000, 1, "set,get");
        redis_pipe(&server, PORT, 3000);
    }
}

#[test]
fn nginx_serves_over_netbsd() {
    const PORT: u16 = 8080;
    needs!("/usr/sbin/nginx", "curl", "ld", "objcopy", "qemu-system-x86_64");
    let Some(set) = installed() else { return };
    let folder = scratch().join(format!("netbsd-linux-nginx-{}", std::process::id()));
    for (path, text) in [
        (
            "etc/site.conf",
            "error_log stderr;\npid /run/nginx.pid;\nworker_processes 2;\nevents {}\n\
             http { access_log off; sendfile on; server { listen 8080; root /site; } }\n",
        ),
        ("etc/passwd", "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"),
        ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ] {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a scratch folder");
        fs::write(path, text).expect("a scratch file");
    }
    let page: Vec<u8> = (0..3_000_000u32).map(|index| (index / 3) as u8).collect();
    for part in ["site", "var/log/nginx", "var/lib/nginx"] {
        fs::create_dir_all(folder.join(part)).expect("a scratch folder");
    }
    fs::write(folder.join("site/page"), &page).expect("a scratch file");
    let tree = format!("{}", folder.display());
    let program = "/usr/sbin/nginx -c /etc/site.conf -g 'daemon off;'";
    let image = bake("netbsd-linux-nginx", arguments(&set, &[program, "--rootfs", &tree]));
    let Some(mut server) = boot(&image, 2, PORT) else { return };
    server.wait_for_answer(PORT, b"GET /none HTTP/1.0\r\n\r\n", b"HTTP/1.1 404");
    let url = format!("http://{}/page", server.at(PORT));
    assert!(curl(&server, &url, &[]) == page, "the page arrives as it is");
}

#[test]
fn interfaces_are_shown_to_linux_programs() {
    needs!("/usr/bin/python3", "ld", "objcopy", "qemu-system-x86_64");
    let Some(set) = installed() else { return };
    let programs = format!("{}:/programs", checkout().join("tests/programs/netbsd").display());
    let words =
        ["/usr/bin/python3", "--package", "python3", "--rootfs", &programs, "--env", "GATEWAY=10.77.0.1"];
    let words = words.into_iter().chain(["--", "/programs/linux_interfaces.py"]).collect::<Vec<_>>();
    let image = bake("netbsd-linux-interfaces", arguments(&set, &words));
    for cpus in [1, 2] {
        let Some(network) = Network::new(Link::Tap { queues: 1 }) else { return };
        let options =
            "address=10.77.0.2/24,address=fd77::2/64,gateway=10.77.0.1,mtu=1400,mac=52:54:00:00:77:01";
        let guest = Guest::new(&image).machine("q35").cpus(cpus);
        let outcome = network.attach_with(guest, &[], options).run();
        let console = outcome.exited(0);
        let expected = "names ['lo', 'eth0']\naddress eth0 10.77.0.2\naddress eth0 fd77::2\nlink-local 1\n\
                        ioctl 10.77.0.2 255.255.255.0\nmtu 1400 1400\n\
                        hardware 52:54:00:00:77:01 52:54:00:00:77:01\nroute eth0 10.77.0.1\ncounted True\n\
                        set ENOTSUP\n";
        assert!(console.contains(expected), "{console}");
    }
}
