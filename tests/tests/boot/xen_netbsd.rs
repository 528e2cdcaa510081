//! Images on NetBSD component sets as domains of Xen: programs, its disks and its network, on an installed set where there
//! is one.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tests::{
    Guest, bake, needs,
    netbsd::{arguments, installed, program, succeed},
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

/// Clients of the servers, as functions of dom0's script.
const CLIENTS: &str = r#"
ip addr add fd09::1/64 dev xenbr0
cat > /tmp/udhcpd.conf <<'END'
interface xenbr0
start 10.9.0.20
end 10.9.0.20
option subnet 255.255.255.0
option router 10.9.0.1
END
touch /tmp/leases
page() {
  retry timeout 60 wget -q -O /tmp/page http://$2/page
  section "$1" cat /tmp/page
}
web() {
  page "$1 $2" $2
  page "$1 fd09::2" "[fd09::2]"
  timeout 60 wget -q -O - http://$2/quit
}
redis() {
  retry sh -c 'echo PING | timeout 10 nc 10.9.0.2 6379 | grep PONG'
  # Redis drops what it has not sent when its client closes: this reads until the end.
  cat > /tmp/load <<'END'
awk 'BEGIN { for (i = 0; i < 2000; i++) printf "SET key%d %0512d\r\nGET key%d\r\n", i, i, i; printf "QUIT\r\n" }'
cat > /tmp/loaded
END
  timeout 100 nc 10.9.0.2 6379 -e sh /tmp/load
  awk 'BEGIN { for (i = 0; i < 2000; i++) printf "+OK\r\n$512\r\n%0512d\r\n", i; printf "+OK\r\n" }' > /tmp/values
  cmp /tmp/loaded /tmp/values || fail other values
  timeout 60 sh -c 'echo SHUTDOWN NOSAVE | nc 10.9.0.2 6379'
}
"#;

#[test]
fn programs_of_both_kinds_answer_clients_in_dom0() {
    needs!("gcc", "ld", "objcopy");
    let Some(web) = image("xen-netbsd-http", "http.c", &[]) else { return };
    let Some(set) = installed() else { return };
    let Some(mut host) = Host::new() else { return };
    let mut commands = CLIENTS.to_owned();
    for cpus in [1, 2] {
        let name = format!("web-{cpus}");
        let domain = Domain::new(&name, &web).cpus(cpus).interface("00:16:3e:00:00:01");
        let settings = "network=eth0,address=10.9.0.2/24,address=fd09::2/64";
        host = host.domain(domain.command_line(settings));
        let _ = writeln!(commands, "create {name}; web {name} 10.9.0.2; finish {name}");
    }
    // Its IPv4 address is what dom0 gives it.
    let settings = "network=eth0,address=dhcp,address=fd09::2/64";
    host = host.domain(Domain::new("web-dhcp", &web).interface("00:16:3e:00:00:02").command_line(settings));
    commands +=
        "busybox udhcpd -S /tmp/udhcpd.conf\ncreate web-dhcp; web web-dhcp 10.9.0.20; finish web-dhcp\n";
    let mut names = vec!["web-1", "web-2", "web-dhcp"];
    let redis = Path::new("/usr/bin/redis-server");
    if redis.is_file() {
        let mut words = arguments(&set, &[redis]);
        words.extend(["--", "--save", "", "--protected-mode", "no"].map(Into::into));
        let image = bake("xen-netbsd-redis", words);
        for cpus in [1, 2] {
            let name = format!("redis-{cpus}");
            let domain = Domain::new(&name, &image).cpus(cpus).memory(128).interface("00:16:3e:00:00:03");
            host = host.domain(domain.command_line("network=eth0,address=10.9.0.2/24"));
            let _ = writeln!(commands, "create {name}; redis; finish {name}");
        }
        names.extend(["redis-1", "redis-2"]);
    }
    let report = host.run(&commands);
    for name in names {
        let console = report.exited(name, 0);
        if name.starts_with("web") {
            let address = if name == "web-dhcp" { "10.9.0.20" } else { "10.9.0.2" };
            for address in [address, "fd09::2"] {
                assert_eq!(report.section(&format!("{name} {address}")).trim(), "this is /page", "{console}");
            }
        }
    }
}

/// It is asked for a page after each change. dom0 learns from announcements alone where an address is again.
const CHANGES: &str = r#"
page() { retry timeout 20 wget -q -O /tmp/page http://$2/page; section "$1" cat /tmp/page; }
known() { grep -q '^10.9.0.2 .* 0x2 .*00:16:3e:00:00:01' /proc/net/arp; }
forget() { ip neigh flush dev xenbr0; known && fail flush; }
attach() { xl network-attach web mac=00:16:3e:00:00:0$1 bridge=xenbr0 script=vif-test || fail attach; }
gone() { [ $(grep -c "virt$1: its device is gone" /var/log/xen/console/guest-web.log) = $2 ]; }
echo 1 > /proc/sys/net/ipv4/conf/xenbr0/arp_accept
ip addr add 10.9.1.1/24 dev xenbr0
create web; page first 10.9.0.2
xl mem-set web 56; retry memory web 56; page smaller 10.9.0.2
save web
forget
restore
retry known; page restored 10.9.0.2
xl mem-set web 62; retry memory web 62; page larger 10.9.0.2
# The backend closes, and begins anew with this frontend.
forget
xenstore-write /local/domain/0/backend/vif/$(xl domid web)/0/state 5
retry known; page reconnected 10.9.0.2
# A second interface comes, goes and comes back; then the first.
attach 2; page second 10.9.1.2
xl network-detach web 00:16:3e:00:00:02 || fail detach; retry gone 1 1; page alone 10.9.0.2
attach 2; page again 10.9.1.2
xl network-detach web 00:16:3e:00:00:01 || fail detach; retry gone 0 1; page other 10.9.1.2
attach 1; page back 10.9.0.2
timeout 20 wget -q -O - http://10.9.0.2/quit
finish web
"#;

#[test]
fn a_domain_of_the_tree_changes_while_it_runs() {
    needs!("gcc", "ld", "objcopy");
    let Some(image) = image("xen-netbsd-http", "http.c", &[]) else { return };
    let Some(host) = Host::new() else { return };
    let domain = Domain::new("web", &image).cpus(2).interface("00:16:3e:00:00:01");
    let words = "network=eth0,address=10.9.0.2/24 network=eth1,address=10.9.1.2/24";
    let report = host.domain(domain.command_line(words)).run(CHANGES);
    report.exited("web", 0);
    let before = ["first", "smaller", "restored", "larger", "reconnected"];
    for title in before.into_iter().chain(["second", "alone", "again", "other", "back"]) {
        assert_eq!(report.section(title).trim(), "this is /page", "{title}: {}", report.serial());
    }
}

/// The first disk is there at the start. Each has the program's bytes afterwards, in dom0's file.
const ATTACH: &str = r#"
for name in a b c; do dd if=/dev/zero of=/guest/disk$name bs=1 count=1 seek=8388607 2>/dev/null; done
attach() {
  xl block-attach disks "format=raw,vdev=xvd$1,access=w,script=block-test,target=/guest/disk$1" || fail attach
}
lose() { until_console disks "wrote /dev/vd$1"; xl block-detach disks xvd$1; until_console disks "lost /dev/vd$1"; }
create disks
lose a
until_console disks "waits for /dev/vdb"; attach b; lose b
attach c; lose c
finish disks
for name in a b c; do section $name sh -c "dd if=/guest/disk$name bs=8192 skip=63 count=1 2>/dev/null | tr -d l | wc -c"; done
"#;

#[test]
fn disks_come_while_a_domain_of_the_tree_runs() {
    needs!("gcc", "ld", "objcopy");
    let words = ["--", "/dev/vda", "/dev/vdb", "/dev/vdc"];
    let Some(image) = image("xen-netbsd-attached", "attached.c", &words) else { return };
    let Some(host) = Host::new() else { return };
    let report = host.domain(Domain::new("disks", &image).cpus(2).disk("/guest/diska")).run(ATTACH);
    let console = report.exited("disks", 4);
    for name in ["a", "b", "c"] {
        assert_eq!(report.section(name).trim(), "0", "{name}: {console}");
    }
}

/// A file system of the tree whose disk goes is unmounted, and another disk's takes its place.
const PROGRAM: &str = "\
use() {
  until [ -b /dev/$1 ]; do sleep 0.1; done
  mount -t $2 /dev/$1 /data && echo $1 > /data/name && sync && echo mounted $1
  while dd if=/dev/zero of=/data/file bs=4k count=1 conv=fsync 2>/dev/null; do sleep 0.1; done
  umount /data && echo unmounted $1
}
mkdir -p /data
use vda ext2; use vdb ufs
exit 3
";

const LOSE: &str = r#"
lose() { until_console disks "mounted $1"; xl block-detach disks $2; until_console disks "unmounted $1"; }
create disks
lose vda xvda
xl block-attach disks format=raw,vdev=xvdb,access=w,script=block-test,target=/guest/second || fail attach
lose vdb xvdb
finish disks
"#;

#[test]
fn a_file_system_of_the_tree_outlives_its_disk() {
    needs!("gcc", "ld", "objcopy", "mke2fs", "makefs", "busybox");
    let Some(set) = installed() else { return };
    let Some(host) = Host::new() else { return };
    let folder = scratch().join(format!("xen-netbsd-lost-{}", std::process::id()));
    let disks = ["first", "second"].map(|name| folder.join(name));
    let empty = folder.join("empty");
    fs::create_dir_all(&empty).expect("a folder");
    fs::write(&disks[0], vec![0; 4 << 20]).expect("a disk");
    succeed(Command::new("mke2fs").args(["-q", "-t", "ext2", "-O", "none", "-I", "128"]).arg(&disks[0]));
    succeed(
        Command::new("makefs").args(["-t", "ffs", "-s", "4m", "-o", "version=1"]).args([&disks[1], &empty]),
    );
    let mut words = arguments(&set, &[Path::new("/bin/busybox")]);
    words.extend(["--", "sh", "-c", PROGRAM].map(Into::into));
    let image = bake("xen-netbsd-lost", words);
    let host = disks.iter().fold(host, |host, disk| host.file(disk));
    let report = host.domain(Domain::new("disks", &image).cpus(2).memory(96).disk("/guest/first")).run(LOSE);
    let console = report.exited("disks", 3);
    assert!(console.contains("unmounted vdb\n"), "{console}");
    let _ = fs::remove_dir_all(&folder);
}
