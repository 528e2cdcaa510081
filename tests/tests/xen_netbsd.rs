//! Images on NetBSD component sets as domains of Xen: programs, and its disks, on an installed set where there is one.

use std::{fs, path::PathBuf, process::Command};

use tests::{
    Guest, bake, needs,
    netbsd::{arguments, program, succeed},
    scratch, skip,
    xen::{Domain, Host},
};

/// An image of a program for the set.
fn image(name: &str, source: &str, more: &[&str]) -> Option<PathBuf> {
    let (set, program) = program(source)?;
    let mut words = arguments(&set, &[&program]);
    words.extend(more.iter().map(Into::into));
    Some(bake(name, words))
}

#[test]
fn programs_of_the_tree_run_in_domains() {
    needs!("gcc", "ld", "objcopy");
    let Some(hello) = image("xen-netbsd-hello", "hello.c", &["--env", "PLACE=here"]) else { return };
    let Some(threads) = image("xen-netbsd-threads", "threads.c", &[]) else { return };
    let Some(mut host) = Host::new() else { return };
    for cpus in [1, 2] {
        host = host.domain(Domain::new(&format!("hello-{cpus}"), &hello).cpus(cpus));
    }
    let report = host.domain(Domain::new("threads", &threads)).run_each();
    for cpus in [1, 2] {
        let console = report.exited(&format!("hello-{cpus}"), 7);
        assert!(console.contains("hello from rumprun: 1 arguments, PLACE=here, pi is 3.142\n"), "{console}");
    }
    let console = report.exited("threads", 0);
    for line in ["counted 800000, sum 36\n", "slept beside a spinning thread\n", "echoed 5000\n"] {
        assert!(console.contains(line), "{line:?} is not in:\n{console}");
    }
}

#[test]
fn the_tree_keeps_files_on_a_disk_of_xen() {
    needs!("gcc", "ld", "objcopy", "mke2fs", "e2fsck");
    let configuration = scratch().join(format!("xen-netbsd-{}.toml", std::process::id()));
    let mount = "[[mount]]\nsource = \"/dev/vda\"\ntarget = \"/data\"\ntype = \"ext2fs\"\n";
    fs::write(&configuration, mount).expect("a configuration");
    let words = ["--config", configuration.to_str().expect("text")];
    let Some(image) = image("xen-netbsd-disks", "disks.c", &words) else { return };
    if let Err(why) = toolchain::xen::prepare() {
        return skip(&why);
    }
    let disk = configuration.with_extension("img");
    fs::write(&disk, vec![0; 8 << 20]).expect("a disk");
    succeed(Command::new("mke2fs").args(["-q", "-t", "ext2", "-O", "none,filetype"]).arg(&disk));
    for run in [0, 1] {
        let guest = Guest::new(&image).option("--on", "xen").memory("64M").disk(&disk).timeout(400);
        let outcome = guest.arguments([format!("/data={run}")]).run();
        let console = outcome.exited(0);
        assert!(console.contains(&format!("/data: {}\n", run + 1)), "{console}");
    }
    succeed(Command::new("e2fsck").args(["-f", "-n"]).arg(&disk));
    let _ = (fs::remove_file(disk), fs::remove_file(configuration));
}
