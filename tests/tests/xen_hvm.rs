//! HVM domains: a disk image that hvmloader, SeaBIOS and GRUB start, with Xen's own console, disks and interfaces in place of
//! the emulator's. It takes minutes, and is run with `RUMPRUN_XEN_LONG` set.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::Path,
    process::Command,
};

use tests::{
    bake, needs, rumprun_bake, scratch,
    xen::{Domain, Host},
};

/// Adds a line to a file of a disk that outlives the domain, and serves the disk's files.
const PROGRAM: &str = "\
trap 'sync; exit 5' TERM
echo cpus $(nproc) disks $(cd /dev; echo vd*) >> /data/log; sync
echo started $(grep -c cpus /data/log)
httpd -f -p 80 -h /data &
while :; do wait; done
";

/// `answers COUNT` waits for that many lines of the file from the domain.
const SCRIPT: &str = "\
patience=200
lines() { [ \"$(timeout 9 wget -q -O - http://10.9.0.2/log | grep -c cpus)\" = $1 ]; }
answers() { retry lines $1; }
create first; until_console first 'started 1'; answers 1
xl save first /run/saved >/tmp/log 2>&1 || fail save $(cat /tmp/log)
xl restore /run/saved >/tmp/log 2>&1 || fail restore $(cat /tmp/log)
rm /run/saved; answers 1
xl shutdown first; finish first
create second; until_console second 'started 2'; answers 2
xl reboot second; until_console second 'started 3'; answers 3
section log wget -q -O - http://10.9.0.2/log
xl destroy second
";

/// The configuration that `deploy` writes, with the files' places in dom0.
fn deployed(name: &str, image: &Path, disk: &Path, cpus: &str) -> String {
    let output = Command::new(rumprun_bake())
        .args(["-q", "deploy", "--for", "xl", "--name", name, "--cpus", cpus, "--memory", "96M"])
        .args(["--bridge", "xenbr0,mac=00:16:3e:00:00:01"])
        .args([OsStr::new("--disk"), disk.as_os_str(), image.as_os_str()])
        .output()
        .expect("rumprun-bake starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let folder = format!("target={}/", scratch().canonicalize().expect("the scratch folder").display());
    assert!(text.matches(&folder).count() == 2, "{folder}: {text}");
    text.replace(&folder, "target=/guest/")
}

#[test]
fn a_disk_image_has_xens_devices() {
    needs!("busybox", "grub-mkimage");
    let Some(host) = Host::new_for_long().and_then(Host::with_emulator) else { return };
    let configuration = scratch().join(format!("xen-hvm-{}.toml", std::process::id()));
    let settings = "[[mount]]\nsource = \"/dev/vdb\"\ntarget = \"/data\"\ntype = \"ext4\"\nformat = true\n\
        [[network]]\ninterface = \"eth0\"\naddresses = [\"10.9.0.2/24\"]\n";
    fs::write(&configuration, settings).expect("a configuration");
    let options = ["/bin/busybox", "--format", "raw", "--config"].map(OsStr::new);
    let program = ["--", "sh", "-c", PROGRAM].map(OsStr::new);
    let image = bake("xen-hvm", options.into_iter().chain([configuration.as_os_str()]).chain(program));
    let disk = scratch().join(format!("xen-hvm-{}.disk", std::process::id()));
    File::create(&disk).and_then(|file| file.set_len(32 << 20)).expect("a disk");
    let domain = |name, cpus| {
        Domain::of_configuration(name, &image, deployed(name, &image, &disk, cpus))
            .setting("tsc_mode", "\"native\"")
    };
    let first = domain("first", "2").setting("on_poweroff", "\"preserve\"");
    let report = host.file(&disk).domain(first).domain(domain("second", "1")).run(SCRIPT);
    let _ = (fs::remove_file(&configuration), fs::remove_file(&disk));
    report.exited("first", 5);
    let expected = "cpus 2 disks vda vdb\ncpus 1 disks vda vdb\ncpus 1 disks vda vdb\n";
    assert_eq!(report.section("log"), expected, "{}", report.serial());
}
