//! TCP connections between dom0 and a domain of Xen's outlive what happens to the domain's interface: it is saved and restored
//! with its domain, its backend is bound anew, it is taken away and comes back, its domain migrates, the domain that has
//! the backend is destroyed (which takes minutes, and is run with `RUMPRUN_XEN_LONG` set).

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tests::{
    bake, needs,
    xen::{Domain, Host},
};

/// Servers for one client each: one counts, another one gives back what it gets, the third sends as much as it can. Then the
/// state of the links, once it changes.
const SERVE: &str = "\
nc -l -p 8 -e sh -c 'i=0; while :; do i=$((i+1)); echo $i; usleep 200000; done' &
nc -l -p 7 -e cat &
nc -l -p 9 -e cat /dev/zero &
trap 'exit 5' TERM
while :; do
  now=
  for link in /sys/class/net/eth*; do
    [ -e $link ] && now=\"$now ${link##*/} $(cat $link/operstate)\"
  done
  now=\"$now $(ip -4 -o address show scope global | sed 's/.*inet //;s/ .*//')\"
  [ \"$now\" = \"$before\" ] || echo links:$now
  before=$now
  usleep 500000
done
";

const SCRIPT: &str = "\
log=/var/log/xen/console/guest-net.log
links() { [ \"$(grep ^links: $log | tail -n 1 | tr -d '\\r')\" = \"links:$1\" ]; }
create net; until_console net 'up 10.9.0.2/24'
until_console net 'listening.*:7'; until_console net 'listening.*:8'; hold
goes_on first
for time in 1 2; do
  save net; say lost$time; sleep 3; restore
  goes_on restored$time
done
save net -c; rm /run/saved
goes_on kept
id=$(xl domid net) vif=/sys/bus/xen-backend/drivers/vif
# The backend closes, and begins anew with this frontend.
xenstore-write /local/domain/0/backend/vif/$id/0/state 5
retry backs vif/$id/0; goes_on closed
# Its driver goes on with the rings that there are.
echo vif-$id-0 > $vif/unbind; say unbound; sleep 1; echo vif-$id-0 > $vif/bind
retry ip link set dev vif$id.0 up; ip link set dev vif$id.0 master xenbr0
goes_on bound
# The interface goes for good, and another one comes; one beside it has what is configured for its name.
for time in 1 2; do
  xl network-detach net 0 || fail detach
  retry links ''; say away$time
  xl network-attach net mac=00:16:3e:00:00:07 bridge=xenbr0 script=vif-test || fail attach
  retry links ' eth0 up 10.9.0.2/24'; goes_on attached$time
  xl network-attach net mac=00:16:3e:00:00:08 bridge=xenbr0 script=vif-test || fail attach another
  retry links ' eth0 up eth1 up 10.9.0.2/24 10.9.1.2/24'
  xl network-detach net 00:16:3e:00:00:08 || fail detach another
  retry links ' eth0 up 10.9.0.2/24'; goes_on alone$time
done
# To another domain of this host, while it runs.
attempt xl migrate -s '' net 'xl migrate-receive'
goes_on migrated
section counted awk '$1 != NR { bad++ } END { print bad + 0 }' /tmp/counted
xl shutdown net
finish net
";

/// What the driver domain does first: a bridge between its own interface and those that it serves, and xl's daemon for these.
/// Its files are dom0's.
const DRIVER: &str = "\
cat > /etc/driver <<'END'
#!/bin/sh
export PATH=/bin:/usr/bin
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev; mount -t tmpfs t /run
mkdir -p /run/xen /run/lock
for module in xen-privcmd xenfs xen-evtchn xen-gntdev llc stp bridge xen-netback; do
  insmod /lib/modules/$module.ko
done
# It has no device of its own: its frontend has to copy what it sends, as pages of other domains can't be granted further.
insmod /lib/modules/xen-netfront.ko trusted=0
mount -t xenfs x /proc/xen
brctl addbr driven; ip link set driven up
until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
brctl addif driven eth0; ip link set eth0 up
echo serves
exec xl devd -F
END
chmod +x /etc/driver
(cd /; busybox find . -xdev -path ./guest -prune -o -print | busybox cpio -o -H newc) > /guest/driver.cpio 2>/dev/null
";

const DRIVER_SCRIPT: &str = "\
patience=200
# xl waits for the driver domain's kernel and for its daemon for 10 s: on a busy host several times.
serves() { timeout 2 ping -c 1 -W 1 10.9.0.2; }
attaches() {
  for _ in 1 2 3 4 5; do
    xl network-attach net mac=00:16:3e:00:00:07 bridge=driven backend=driver script=vif-test
    for _ in $(seq 30); do serves >/dev/null && return; sleep 1; done
    xl network-detach net 0
  done
}
# All backends' interfaces have the address that the bridge would have, too.
ip link set xenbr0 address 02:00:00:00:00:01
create driver; until_console driver serves
create net; until_console net 'up 10.9.0.2/24'
for port in 7 8 9; do until_console net \"listening.*:$port\"; done
retry ping -c 1 -W 1 10.9.0.2; hold
nc 10.9.0.2 9 > /dev/null &
goes_on first
for time in 1 2 3; do
  xl destroy driver; rm /var/log/xen/console/guest-driver.log
  say destroyed$time
  create driver; until_console driver serves
  xl network-detach net 0 || fail detach
  attaches; goes_on served$time
done
section counted awk '$1 != NR { bad++ } END { print bad + 0 }' /tmp/counted
xl shutdown net
finish net
";

/// The servers.
fn image() -> PathBuf {
    let folder = tests::scratch().join(format!("xen-connections-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("serve.sh"), SERVE).expect("a script");
    let words = ["/bin/busybox", "--rootfs", folder.to_str().expect("a name"), "--", "sh", "/serve.sh"];
    bake("xen-connections", words.map(Path::new))
}

const MAC: &str = "00:16:3e:00:00:07";
const NETWORK: &str = "network=eth0,address=10.9.0.2/24 network=eth1,address=10.9.1.2/24";

#[test]
fn connections_go_on() {
    needs!("busybox");
    let Some(host) = Host::new() else { return };
    let report = host
        .domain(Domain::new("net", &image()).cpus(2).memory(48).interface(MAC).command_line(NETWORK))
        .patience(Duration::from_secs(600))
        .run(SCRIPT);
    report.exited("net", 5);
    assert_eq!(report.section("counted").trim(), "0", "{}", report.serial());
}

#[test]
fn connections_outlive_the_domain_of_the_backend() {
    needs!("busybox", "gzip");
    let Some(host) = Host::new_for_long() else { return };
    // Xen unpacks it.
    let kernel = tests::scratch().join(format!("xen-driver-{}", std::process::id()));
    let packed = File::create(&kernel).expect("a scratch file");
    let status = Command::new("gzip").arg("-1c").arg(host.kernel()).stdout(packed).status();
    assert!(status.expect("gzip runs").success());
    let driver = Domain::new("driver", &kernel)
        .setting("type", "\"pv\"")
        .setting("ramdisk", "\"/guest/driver.cpio\"")
        .setting("extra", "\"console=hvc0 quiet rdinit=/etc/driver\"")
        .setting("driver_domain", "1")
        .memory(160)
        .interface("00:16:3e:00:00:09");
    let served = format!("['mac={MAC},bridge=driven,backend=driver,script=vif-test']");
    let net = Domain::new("net", &image()).cpus(2).memory(48).setting("vif", &served).command_line(NETWORK);
    let report = host
        .machine(1024, 448, Duration::from_secs(900))
        .domain(driver)
        .domain(net)
        .run(&format!("{DRIVER}{DRIVER_SCRIPT}"));
    let _ = fs::remove_file(kernel);
    report.exited("net", 5);
    assert_eq!(report.section("counted").trim(), "0", "{}", report.serial());
}
