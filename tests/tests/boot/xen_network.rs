//! Xen's network in images, by a real Xen's backend: clients in dom0 ask servers in domains.

use std::{ffi::OsString, fmt::Write as _, fs, path::Path, process::Command};

use tests::{
    bake, checkout, needs, recipe,
    xen::{Domain, Ending, Host},
};

/// 2 MiB that no repetition hides anything of.
fn contents() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(5);
    (0..2 << 20).map(|_| random.u8(..)).collect()
}

/// A server of files on port 80, which also says what the sum is of what it gets on port 5000.
fn file_server(file: &Path) -> std::path::PathBuf {
    let folder = file.parent().expect("a folder");
    bake(
        "xen-server",
        [OsString::from("/bin/busybox"), "--rootfs".into(), format!("{}:/www", folder.display()).into()],
    )
}

/// Clients of each server, as functions of dom0's script. The servers have the address 10.9.0.2.
const CLIENTS: &str = r#"
# As many queues as the domains have CPUs.
echo 2 > /sys/module/xen_netback/parameters/max_queues
files() {
  retry timeout 60 wget -q -O /tmp/down http://10.9.0.2/file
  timeout 60 wget -q -O - http://10.9.0.2/file | cmp - /tmp/down || fail another file
  section sum md5sum /tmp/down
  retry sh -c 'timeout 60 nc 10.9.0.2 5000 < /tmp/down'
  set -- $(md5sum < /tmp/down)
  until_console files $1
  retry sh -c 'ping -c 3 -s 1400 -q 10.9.0.2 | grep "3 packets received"'
}
redis() {
  retry sh -c 'echo PING | timeout 10 nc 10.9.0.2 6379 | grep PONG'
  # Redis drops what it has not sent when its client closes: these read until the end.
  cat > /tmp/store <<'END'
awk 'BEGIN { for (i = 0; i < 2000; i++) printf "SET key%d %0512d\r\n", i, i; printf "QUIT\r\n" }'
grep -c OK > /tmp/stored
END
  cat > /tmp/load <<'END'
awk 'BEGIN { for (i = 0; i < 2000; i++) printf "GET key%d\r\n", i; printf "QUIT\r\n" }'
cat > /tmp/loaded
END
  section queues xenstore-read /local/domain/$(xl domid redis)/device/vif/0/multi-queue-num-queues
  timeout 60 nc 10.9.0.2 6379 -e sh /tmp/store
  section stored cat /tmp/stored
  timeout 60 nc 10.9.0.2 6379 -e sh /tmp/load
  awk 'BEGIN { for (i = 0; i < 2000; i++) printf "$512\r\n%0512d\r\n", i; printf "+OK\r\n" }' > /tmp/values
  cmp /tmp/loaded /tmp/values || fail other values
}
nginx() {
  retry timeout 60 wget -q -O /tmp/page http://10.9.0.2/
  section page cat /tmp/page
}
memcached() {
  retry sh -c 'printf "version\r\nquit\r\n" | timeout 10 nc 10.9.0.2 11211 | grep VERSION'
  section value sh -c 'printf "set key 0 0 5\r\nvalue\r\nget key\r\nquit\r\n" | timeout 60 nc 10.9.0.2 11211'
}
"#;

#[test]
fn servers_answer_clients_in_dom0() {
    needs!("busybox", "md5sum");
    let Some(mut host) = Host::new() else { return };
    let folder = tests::scratch().join(format!("xen-www-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a scratch folder");
    let file = folder.join("file");
    fs::write(&file, contents()).expect("a scratch file");
    let sum = Command::new("md5sum").arg(&file).output().expect("md5sum runs").stdout;
    let sum = String::from_utf8_lossy(&sum).split(' ').next().unwrap_or_default().to_owned();

    let address = "network=eth0,address=10.9.0.2/24";
    let domain = |name: &str, image: &Path| {
        Domain::new(name, image).cpus(2).memory(192).interface("00:16:3e:00:00:01").command_line(address)
    };
    let script = "httpd -p 80 -h /www; while :; do nc -l -p 5000 | md5sum; done".replace(' ', "\\\\ ");
    let files = domain("files", &file_server(&file)).cpus(1);
    host = host.domain(files.command_line(&format!("{address} -- sh -c {script}")));
    let mut names = vec!["files"];
    for name in ["redis", "nginx", "memcached"] {
        let Some(image) = recipe::image(name) else { continue };
        host = host.domain(domain(name, &image).disk("/guest/disk"));
        names.push(name);
    }
    let mut commands = CLIENTS.to_owned();
    for name in &names {
        let _ = writeln!(commands, "rm -f /guest/disk; truncate -s 64M /guest/disk");
        let _ = writeln!(commands, "create {name}; {name}; xl shutdown {name}; finish {name}");
    }
    let report = host.run(&commands);

    assert!(report.section("sum").starts_with(&sum), "{}", report.serial());
    assert!(report.console("files").contains(&sum), "{}", report.serial());
    for name in names {
        assert!(matches!(report.ending(name), Ending::ShutDown(_)), "{name}: {}", report.serial());
        match name {
            "redis" => {
                assert_eq!(report.section("queues").trim(), "2", "{}", report.serial());
                assert_eq!(report.section("stored").trim(), "2001", "{}", report.serial());
            }
            "nginx" => {
                let page = checkout().join("packages/nginx/rootfs/srv/www/index.html");
                assert_eq!(report.section("page"), fs::read_to_string(page).expect("the recipe's page"));
            }
            "memcached" => assert_eq!(report.section("value"), "STORED\nVALUE key 0 5\nvalue\nEND\n"),
            _ => {}
        }
    }
}
