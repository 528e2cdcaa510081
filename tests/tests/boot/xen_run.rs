//! `run --on xen` as its user sees it: the console, the exit status, disks, the configuration of a run, a signal. On a
//! host that is no dom0 the same program runs the domain in the dom0 of a Xen in QEMU.

use std::{ffi::OsString, fs, process::Command};

use tests::{Guest, bake, needs, skip};

/// Seconds until a domain has ended.
const LIMIT: u64 = 400;

/// Whether there is a Xen to be had; says why not.
fn has_xen() -> bool {
    toolchain::xen::prepare().inspect_err(|why| skip(why)).is_ok()
}

fn busybox(name: &str, script: &str) -> std::path::PathBuf {
    let words = ["/bin/busybox", "--", "sh", "-c", script].map(OsString::from);
    bake(name, words)
}

#[test]
fn a_run_on_xen_is_like_any_other() {
    needs!("busybox");
    if !has_xen() {
        return;
    }
    let script = "read word; echo got $word $VARIABLE $1; read line < /dev/vda; echo disk $line; \
                  echo new > /dev/vda; sync; exit 3";
    let image = busybox("xen-run", script);
    let disk = tests::scratch().join(format!("xen-run-{}.img", std::process::id()));
    let mut contents = b"old\n".to_vec();
    contents.resize(1 << 20, 0);
    fs::write(&disk, contents).expect("a disk");
    let outcome = Guest::new(&image)
        .option("--on", "xen")
        .memory("128M")
        .disk(&disk)
        .option("--env", "VARIABLE=a b\"c")
        .arguments(["sh", "-c", script, "sh", "x\\y"])
        .input(b"typed\n")
        .timeout(LIMIT)
        .run();
    assert_eq!(outcome.exited(3), "got typed a b\"c x\\y\ndisk old\n");
    assert!(fs::read(&disk).expect("the disk").starts_with(b"new\n"));
    let _ = fs::remove_file(disk);
}

#[test]
fn a_run_of_a_disk_image_is_an_hvm_domains() {
    needs!("busybox", "grub-mkimage");
    if std::env::var_os("RUMPRUN_XEN_LONG").is_none() {
        return skip("takes a minute, and RUMPRUN_XEN_LONG is not set");
    }
    if !has_xen() {
        return;
    }
    let script = "read word; echo got $word, disks $(cd /dev; echo vd*); read line < /dev/vdb; echo disk $line; exit 3";
    let words = ["/bin/busybox", "--format", "raw", "--", "sh", "-c", script].map(OsString::from);
    let image = bake("xen-run-raw", words);
    let disk = tests::scratch().join(format!("xen-run-raw-{}.img", std::process::id()));
    let mut contents = b"old\n".to_vec();
    contents.resize(1 << 20, 0);
    fs::write(&disk, contents).expect("a disk");
    let guest = Guest::new(&image).option("--on", "xen").memory("128M").disk(&disk);
    let outcome = guest.input(b"typed\n").timeout(LIMIT).run();
    let _ = fs::remove_file(disk);
    assert!(outcome.exited(3).ends_with("got typed, disks vda vdb\ndisk old\n"), "{outcome:?}");
    // Nobody could hand it words.
    let refused = Guest::new(&image).option("--on", "xen").arguments(["true"]).timeout(LIMIT).run();
    assert!(refused.messages.contains("bake them"), "{refused:?}");
}

#[test]
fn a_signal_stops_a_domain_in_order() {
    if !has_xen() {
        return;
    }
    let program = ["sh -c 'trap \"echo stopping; exit 9\" TERM; echo up; while :; do sleep 1; done'"];
    let image = bake("console-stop", program.iter().chain(&["--package", "coreutils"]));
    let guest = Guest::new(&image).option("--on", "xen").memory("128M").timeout(LIMIT);
    let mut running = guest.start();
    running.wait_for("up\n");
    let id = running.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill starts").success());
    assert!(running.wait().exited(9).ends_with("stopping\n"));
}
