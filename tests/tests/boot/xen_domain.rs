//! What a running domain of Xen's goes through, in one boot: CPUs and memory go and come, it is saved and restored, its
//! interface's backend closes and begins anew, its interface and a disk are taken away and given. Meanwhile it counts on a
//! disk and over a connection, which both go on. Each by itself, again and again, is in the tests `xen_cpus`, `xen_life` and
//! `xen_connections`.

use std::{fs, path::Path, time::Duration};

use tests::{
    bake, needs,
    xen::{Domain, Host},
};

/// Servers for one client each: one counts, the other one gives back what it gets. Then counts on a disk, shows the state of
/// what may change once it does, and has a file system on a second disk as it comes and goes.
const PROGRAM: &str = "\
nc -l -p 8 -e sh -c 'i=0; while :; do i=$((i+1)); echo $i; usleep 200000; done' &
nc -l -p 7 -e cat &
trap 'sync; awk \"{ if (\\$1 != NR) bad++ } END { print \\\"lines\\\", NR - n, bad + 0 }\" n=$i /data/log; exit 5' TERM
show() { eval \"[ \\\"\\$2\\\" = \\\"\\$$1\\\" ]\" || { eval \"$1=\\\"\\$2\\\"\"; echo \"$1:$2\"; }; }
mkdir -p /mnt
cpus= memory= links= disk= i=0
while :; do
  i=$((i+1)); echo $i >> /data/log; sync
  show cpus $(grep -c ^processor /proc/cpuinfo)
  show memory $(sed -n '/MemTotal/s/[^0-9]//gp' /proc/meminfo)
  now=
  for link in /sys/class/net/eth*; do
    [ -e $link ] && now=\"$now ${link##*/} $(cat $link/operstate)\"
  done
  show links \"$now $(ip -4 -o address show scope global | sed 's/.*inet //;s/ .*//')\"
  if [ -b /dev/vdb ]; then
    [ \"$disk\" = there ] || {
      dd if=/dev/zero of=/dev/vdb bs=4k count=100 conv=fsync && mount -t ext4 -o format /dev/vdb /mnt &&
      echo kept > /mnt/file && sync && show disk there
    }
  else
    # The file system still is where its disk was.
    [ \"$disk\" != there ] || { echo lost > /mnt/other; sync; umount /mnt || exit; }
    show disk gone
  fi
  usleep 300000
done
";

/// `shows NAME VALUE` looks for the last state that the domain has shown.
const SCRIPT: &str = "\
truncate -s 16M /guest/first /guest/second
log=/var/log/xen/console/guest-life.log
shows() { [ \"$(grep \"^$1:\" $log | tail -n 1 | tr -d '\\r')\" = \"$1:$2\" ]; }
net='mac=00:16:3e:00:00:07 bridge=xenbr0 script=vif-test'
create life; until_console life 'listening.*:7'; until_console life 'listening.*:8'; hold
goes_on first
for count in 3 1 2; do xl vcpu-set --ignore-host life $count; retry shows cpus $count; done
xl mem-set life 40; retry memory life 40
goes_on smaller
save life; restore
goes_on restored
xl vcpu-set --ignore-host life 3; retry shows cpus 3
xl mem-set life 46; retry memory life 46
# The backend closes, and begins anew with this frontend.
id=$(xl domid life)
xenstore-write /local/domain/0/backend/vif/$id/0/state 5
retry backs vif/$id/0; goes_on closed
xl network-detach life 0 || fail network-detach
retry shows links ' '
xl network-attach life $net || fail network-attach
retry shows links ' eth0 up 10.9.0.2/24'; goes_on attached
for time in 1 2; do
  xl block-attach life 'format=raw,vdev=xvdb,access=w,script=block-test,target=/guest/second' || fail block-attach
  retry shows disk there
  xl block-detach life xvdb || fail block-detach
  retry shows disk gone
done
section counted awk '$1 != NR { bad++ } END { print bad + 0 }' /tmp/counted
xl shutdown life
finish life
";

#[test]
fn a_domain_changes_while_it_runs() {
    needs!("busybox");
    let Some(host) = Host::new() else { return };
    let folder = tests::scratch().join(format!("xen-domain-{}", std::process::id()));
    let configuration = folder.with_extension("toml");
    let mount = "[[mount]]\nsource = \"/dev/vda\"\ntarget = \"/data\"\ntype = \"ext4\"\nformat = true\n";
    fs::write(&configuration, mount).expect("a configuration");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("program.sh"), PROGRAM).expect("a script");
    let options = [Path::new("--rootfs"), &folder, Path::new("--config"), &configuration];
    let words = ["--", "sh", "/program.sh"].map(Path::new);
    let image = bake("xen-domain", [Path::new("/bin/busybox")].iter().chain(&options).chain(&words));
    let domain = Domain::new("life", &image).cpus(2).setting("maxvcpus", "3").memory(48).disk("/guest/first");
    let domain = domain.interface("00:16:3e:00:00:07").command_line("network=eth0,address=10.9.0.2/24");
    let report = host.domain(domain).patience(Duration::from_secs(600)).run(SCRIPT);
    let console = report.exited("life", 5);
    assert_eq!(report.section("counted").trim(), "0", "{}", report.serial());
    // The signal may come when a number is counted and not yet written.
    assert!(console.contains("\nlines 0 0\n") || console.contains("\nlines -1 0\n"), "{}", report.serial());
    // What the domain sees of its memory.
    let seen = console.lines().filter_map(|line| line.strip_prefix("memory:")?.parse::<u64>().ok());
    let seen: Vec<u64> = seen.collect();
    let least = seen.iter().min().expect("numbers");
    assert!(seen[0] > least + (7 << 10) && seen[seen.len() - 1] > least + (5 << 10), "{seen:?}");
}
