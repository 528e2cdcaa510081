//! TCP connections between dom0 and a domain of Xen's outlive what happens to the domain's interface: it is saved and restored
//! with its domain, its backend is bound anew, it is taken away and comes back.

use std::{fs, path::Path};

use tests::{
    bake, needs,
    xen::{Domain, Host},
};

/// Two servers for one client each: one counts, the other one gives back what it gets. Then the state of the links, once it
/// changes.
const SERVE: &str = "\
nc -l -p 8 -e sh -c 'i=0; while :; do i=$((i+1)); echo $i; usleep 200000; done' &
nc -l -p 7 -e cat &
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

/// `hold` opens a connection to each server, `goes_on WORD` waits until each has brought something new.
const FUNCTIONS: &str = "\
hold() {
  mkfifo /tmp/say
  nc 10.9.0.2 7 < /tmp/say > /tmp/heard & exec 3> /tmp/say
  nc 10.9.0.2 8 > /tmp/counted &
}
counted() { wc -l < /tmp/counted; }
more() { [ $(counted) -gt $seen ]; }
say() { echo $1 >&3; }
goes_on() {
  say $1; retry grep -qx $1 /tmp/heard; seen=$(($(counted) + 3)); retry more
  echo goes on: $1 after $(cut -d ' ' -f 1 /proc/uptime)
}
";

const SCRIPT: &str = "\
log=/var/log/xen/console/guest-net.log
links() { [ \"$(grep ^links: $log | tail -n 1 | tr -d '\\r')\" = \"links:$1\" ]; }
create net; until_console net 'up 10.9.0.2/24'
for port in 7 8; do until_console net \"listening.*:$port\"; done
retry ping -c 1 -W 1 10.9.0.2; hold
goes_on first
for save in 1 2; do
  xl save net /run/saved >/tmp/log 2>&1 || fail save $(cat /tmp/log)
  say lost$save; sleep 3
  xl restore /run/saved >/tmp/log 2>&1 || fail restore $(cat /tmp/log)
  rm /run/saved
  goes_on restored$save
done
xl save -c net /run/saved >/tmp/log 2>&1 || fail save -c $(cat /tmp/log)
rm /run/saved
goes_on kept
id=$(xl domid net) vif=/sys/bus/xen-backend/drivers/vif
# The backend closes, and begins anew with this frontend.
xenstore-write /local/domain/0/backend/vif/$id/0/state 5
goes_on closed
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
section counted awk '$1 != NR { bad++ } END { print bad + 0 }' /tmp/counted
xl shutdown net
finish net
";

#[test]
fn connections_go_on() {
    needs!("busybox");
    let Some(host) = Host::new_for_long() else { return };
    let folder = tests::scratch().join(format!("xen-connections-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("serve.sh"), SERVE).expect("a script");
    let words = ["/bin/busybox", "--rootfs", folder.to_str().expect("a name"), "--", "sh", "/serve.sh"];
    let image = bake("xen-connections", words.map(Path::new));
    let domain = Domain::new("net", &image).cpus(2).memory(48).interface("00:16:3e:00:00:07");
    let report = host
        .domain(domain.command_line("network=eth0,address=10.9.0.2/24 network=eth1,address=10.9.1.2/24"))
        .run(&format!("{FUNCTIONS}{SCRIPT}"));
    report.exited("net", 5);
    assert_eq!(report.section("counted").trim(), "0", "{}", report.serial());
}
