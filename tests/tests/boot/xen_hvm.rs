//! HVM domains: a disk image that hvmloader, SeaBIOS and GRUB start, with Xen's own console, disks and interfaces in place of
//! the emulator's; an ISO image on a CD; and PCI devices that are passed through. It takes minutes, and is run with
//! `RUMPRUN_XEN_LONG` set.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::Path,
    process::Command,
    time::Duration,
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
save first; restore; answers 1
xl shutdown first; finish first
create second; until_console second 'started 2'; answers 2
xl reboot second; until_console second 'started 3'; answers 3
section log wget -q -O - http://10.9.0.2/log
xl destroy second
";

/// The configuration that `deploy` writes, with the files' places in dom0.
fn deployed(name: &str, image: &Path, options: &[&OsStr]) -> String {
    let output = Command::new(rumprun_bake())
        .args(["-q", "deploy", "--for", "xl", "--name", name, "--memory", "96M"])
        .arg(image)
        .args(options)
        .output()
        .expect("rumprun-bake starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let folder = format!("={}/", scratch().canonicalize().expect("the scratch folder").display());
    assert!(text.contains(&folder), "{folder}: {text}");
    text.replace(&folder, "=/guest/")
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
        let options = ["--bridge", "xenbr0,mac=00:16:3e:00:00:01", "--cpus", cpus, "--disk"].map(OsStr::new);
        let text = deployed(name, &image, &[&options[..], &[disk.as_os_str()]].concat());
        Domain::of_configuration(name, &image, text).setting("tsc_mode", "\"native\"")
    };
    let first = domain("first", "2").setting("on_poweroff", "\"preserve\"");
    let report = host.file(&disk).domain(first).domain(domain("second", "1")).run(SCRIPT);
    let _ = (fs::remove_file(&configuration), fs::remove_file(&disk));
    report.exited("first", 5);
    let expected = "cpus 2 disks vda vdb\ncpus 1 disks vda vdb\ncpus 1 disks vda vdb\n";
    assert_eq!(report.section("log"), expected, "{}", report.serial());
}

#[test]
fn an_iso_image_starts_from_a_cd() {
    needs!("busybox", "grub-mkimage", "xorriso");
    let Some(host) = Host::new_for_long().and_then(Host::with_emulator) else { return };
    let script = "echo disks $(cd /dev; echo vd*); exit 7";
    let image = bake("xen-cd", ["/bin/busybox", "--format", "iso", "--", "sh", "-c", script].map(OsStr::new));
    let domain = Domain::of_configuration("cd", &image, deployed("cd", &image, &[]))
        .setting("tsc_mode", "\"native\"")
        .setting("on_poweroff", "\"preserve\"");
    let report = host.domain(domain).run("patience=200\ncreate cd; until_console cd disks; finish cd\n");
    // A CD is no disk.
    assert!(report.exited("cd", 7).contains("disks vd*\n"), "{}", report.serial());
}

/// Uses a device whatever the CPUs are, and others as they come and go.
const PASSED: &str = "\
trap 'exit 4' TERM
answers() { until ping -c 1 -w 5 $1 >/dev/null; do sleep 0.1; done; }
while :; do
  until [ -e /sys/class/net/eth1 ]; do cpus=$(nproc); answers 10.0.2.2; echo first answers $cpus; sleep 1; done
  answers 10.0.3.2; echo second answers
  while [ -e /sys/class/net/eth1 ]; do sleep 0.1; done
  echo second is gone
done
";

/// The third device has pins alone. An emulator has its own way to take CPUs, which the domain doesn't know.
const PASS: &str = "\
patience=150
seen() { [ $(grep -c \"$1\" /var/log/xen/console/guest-passed.log) -ge $2 ]; }
more() { count=$(grep -c \"$1\" /var/log/xen/console/guest-passed.log); retry seen \"$1\" $((count + 1)); }
second() { xenstore-write /local/domain/$(xl domid passed)/cpu/1/availability $1; }
insmod /lib/modules/xen-pciback.ko
for place in 05.0 06.0 07.0; do xl pci-assignable-add 00:$place || fail pci-assignable-add; done
create passed; retry seen 'first answers 2' 1
second offline; more 'first answers 1'
second online; more 'first answers 2'
count=0
for place in 06.0 07.0; do
  count=$((count + 1))
  xl pci-attach passed 00:$place || fail pci-attach; retry seen 'second answers' $count
  # It waits for 10 s only, and complains then.
  xl pci-detach passed 00:$place; retry seen 'second is gone' $count
done
xl shutdown passed; finish passed
";

/// A device without messages, whose memory accesses are the IOMMU's.
const PINS: &str = "virtio-net-pci,netdev=third,addr=7,vectors=0,iommu_platform=on,disable-legacy=on";

#[test]
fn devices_are_passed_through() {
    needs!("busybox", "grub-mkimage");
    let Some(host) = Host::new_for_long().and_then(Host::with_emulator) else { return };
    let options = ["/bin/busybox", "--format", "raw", "--", "sh", "-c", PASSED].map(OsStr::new);
    let image = bake("xen-passed", options);
    let text = deployed("passed", &image, &["--cpus", "2", "--pci", "00:05.0"].map(OsStr::new));
    let passed = Domain::of_configuration("passed", &image, text)
        .setting("tsc_mode", "\"native\"")
        .setting("on_poweroff", "\"preserve\"");
    let networks = [
        ["-netdev", "user,id=first", "-device", "e1000e,netdev=first,addr=5"],
        ["-netdev", "user,id=second,net=10.0.3.0/24", "-device", "e1000e,netdev=second,addr=6"],
        ["-netdev", "user,id=third,net=10.0.3.0/24", "-device", PINS],
    ];
    let report = host
        .with_passed_devices(networks.as_flattened())
        .domain(passed)
        .patience(Duration::from_secs(600))
        .run(PASS);
    report.exited("passed", 4);
}
