//! What happens to a running domain of Xen's: it is saved and restored and goes on, gives memory back, gets and loses a
//! disk; and what is left of domains when they are gone.
//! `RUMPRUN_XEN_CYCLES` says how often one is created and ended.

use std::{env, fs, path::Path, time::Duration};

use tests::{
    bake, needs,
    xen::{Domain, Host},
};

/// Counts on the console and on a disk, whose lines must be there in the end, while something else uses the CPUs.
const COUNT: &str = "\
trap 'kill %1; sync; awk \"{if (\\$1 != NR) bad++} END {print NR - n, bad + 0, \\\"of\\\", n}\" n=$i /data/log; \
  date +time\\ %s; exit 5' TERM
while :; do :; done &
i=0
while :; do
  i=$((i+1)); echo $i >> /data/log; sync; echo tick $i $(sed -n '/MemTotal/s/[^0-9]//gp' /proc/meminfo); sleep 0.1
done
";

/// Waits for a disk, writes to it until it is gone, and does so once more with the next, which has its name.
const DEVICES: &str = "\
for disk in first second; do
  echo waits for the $disk
  until [ -b /dev/vda ]; do sleep 0.1; done
  exec 3>/dev/vda
  dd if=/dev/zero bs=4k count=300 conv=fsync 2>/dev/null >&3 && echo wrote the $disk
  while dd if=/dev/zero bs=4k count=1 conv=fsync 2>/dev/null >&3; do sleep 0.1; done
  exec 3>&-
  while [ -e /dev/vda ]; do sleep 0.1; done
  echo lost the $disk
done
exit 6
";

/// Functions of the scripts. `go_on` waits until the domain `life` has counted on.
const FUNCTIONS: &str = "\
dd if=/dev/zero of=/guest/disk bs=1 count=1 seek=33554431 2>/dev/null
ticks() { grep -c tick /var/log/xen/console/guest-life.log; }
more() { [ $(ticks) -gt $seen ]; }
go_on() { seen=$(($(ticks) + 3)); retry more; }
";

const LIFE: &str = "\
create life; go_on
save life; sleep 4; restore
go_on
xl mem-set life 36; retry memory life 36
go_on
# Without its end.
save life -c; rm /run/saved
go_on
xl mem-set life 44; retry memory life 44
go_on
date +host\\ %s
xl shutdown life
finish life
";

const ATTACH: &str = "\
create devices
disk() { xl block-attach devices \"format=raw,vdev=xvd$1,access=w,script=block-test,target=/guest/disk\"; }
until_console devices 'waits for the first'; disk a; until_console devices 'wrote the first'
xl block-detach devices xvda; until_console devices 'waits for the second'
disk b; until_console devices 'wrote the second'; xl block-detach devices xvdb
finish devices
";

/// Domains with a disk and an interface come and go, destroyed or shut down in turn; then xenstore holds what it held, and dom0
/// as much memory.
const CYCLES: &str = "\
nodes() { xenstore-ls -f | sed 's/ = .*//' | grep -v '^/tool/xenstored' | sort; }
available() { sed -n '/MemAvailable/s/[^0-9]//gp' /proc/meminfo; }
cycle() {
  create cycle; until_console cycle here
  [ $1 = destroy ] || attempt xl shutdown -w cycle
  xl destroy cycle
  rm /var/log/xen/console/guest-cycle.log
  now moment; echo $1: after $moment s
}
left() { nodes > /tmp/after; cmp -s /tmp/before /tmp/after; }
cycle destroy; cycle shutdown
nodes > /tmp/before; before=$(available)
for number in $(seq $cycles); do
  if [ $((number % 2)) = 0 ]; then cycle destroy; else cycle shutdown; fi
done
retry left
echo cycles $number; echo memory $((before - $(available)))
";

/// How often a domain is created and ended, unless told otherwise.
const CYCLE_COUNT: usize = 3;

fn cycles() -> usize {
    env::var("RUMPRUN_XEN_CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(CYCLE_COUNT)
}

fn number(text: &str, name: &str) -> i64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().parse().ok()).expect("a number")
}

#[test]
fn domains_change_while_they_run() {
    needs!("busybox");
    let Some(host) = Host::new() else { return };
    let folder = tests::scratch().join(format!("xen-life-{}", std::process::id()));
    let configuration = folder.with_extension("toml");
    let mount = "[[mount]]\nsource = \"/dev/vda\"\ntarget = \"/data\"\ntype = \"ext4\"\nformat = true\n";
    fs::write(&configuration, mount).expect("a configuration");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("count.sh"), COUNT).expect("a script");
    fs::write(folder.join("devices.sh"), DEVICES).expect("a script");
    let words = |configured: bool, script: &'static str| {
        let (options, count) = (["--rootfs", "--config"], if configured { 2 } else { 1 });
        let options = options.into_iter().zip([&folder, &configuration]).take(count);
        let options = options.flat_map(|(name, value)| [Path::new(name), value]).collect::<Vec<_>>();
        let words = ["--", "sh", script].map(Path::new);
        [Path::new("/bin/busybox")].into_iter().chain(options).chain(words).collect::<Vec<_>>()
    };
    let counts = bake("xen-life", words(true, "/count.sh"));
    let waits = bake("xen-life-devices", words(false, "/devices.sh"));
    let report = host
        .domain(Domain::new("life", &counts).cpus(2).memory(48).disk("/guest/disk"))
        .domain(Domain::new("devices", &waits).cpus(2))
        .run(&format!("{FUNCTIONS}{LIFE}{ATTACH}"));
    let console = report.exited("life", 5);
    // The signal may come when a number is counted and not yet written.
    assert!(console.contains("\n0 0 of ") || console.contains("\n-1 0 of "), "{}", report.serial());
    // What the domain sees of its memory; the last line may be cut.
    let ticks = console.lines().filter_map(|line| line.strip_prefix("tick "));
    let seen: Vec<u64> = ticks.filter_map(|line| line.split_once(' ')?.1.parse().ok()).collect();
    let least = seen.iter().min().expect("numbers");
    assert!(seen[0] > least + (10 << 10) && seen[seen.len() - 1] > least + (7 << 10), "{seen:?}");
    let devices = report.exited("devices", 6);
    assert!(
        devices.ends_with("lost the second\n") && !devices.contains("does not work"),
        "{}",
        report.serial()
    );
    // A clock that stood still while the domain was saved would be 4 s behind.
    let (there, here) = (number(&console, "time "), number(report.serial(), "host "));
    assert!((here - 2..here + 60).contains(&there), "{there} {here}");
}

#[test]
fn domains_leave_nothing() {
    needs!("busybox");
    let Some(host) = Host::new() else { return };
    let sleeps =
        bake("xen-life-cycle", ["/bin/busybox", "--", "sh", "-c", "echo here; sleep 1000"].map(Path::new));
    let (count, mac) = (cycles(), "00:16:3e:00:00:07");
    let report = host
        .domain(Domain::new("cycle", &sleeps).memory(32).disk("/guest/disk").interface(mac))
        .patience(Duration::from_secs(300 + 20 * count as u64))
        .run(&format!("{FUNCTIONS}cycles={count}\n{CYCLES}"));
    assert_eq!(number(report.serial(), "cycles "), count as i64);
    // The kernel of dom0 grows a little by itself.
    let lost = number(report.serial(), "memory ");
    assert!(lost < 8192 + 16 * count as i64, "dom0 lost {lost} KiB in {count} cycles:\n{}", report.serial());
}
