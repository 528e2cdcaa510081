//! Xen's devices in images: disks, by a real Xen's backend in dom0.

use std::{ffi::OsString, fs, path::Path};

use tests::{
    bake, needs,
    xen::{Domain, Host},
};

/// A domain that runs a shell script in busybox.
fn domain(name: &str, image: &Path, words: &str, script: &str) -> Domain {
    let script = script.replace('\\', "\\\\").replace(' ', "\\ ").replace('\'', "\\x27");
    let line = format!("{words} -- sh -c {script}");
    Domain::new(name, image).cpus(2).memory(160).command_line(&line.replace('\\', "\\\\"))
}

#[test]
fn a_database_survives_the_end_of_its_domain() {
    needs!("busybox", "sqlite3");
    let Some(host) = Host::new() else { return };
    let configuration = tests::scratch().join(format!("xen-disk-{}.toml", std::process::id()));
    let mount = "[[mount]]\nsource = \"/dev/vda\"\ntarget = \"/data\"\ntype = \"ext4\"\nformat = true\n";
    fs::write(&configuration, mount).expect("a configuration");
    let arguments = ["/bin/busybox", "--package", "sqlite3", "--config"].map(OsString::from);
    let image = bake("xen-disk", arguments.into_iter().chain([configuration.into()]));
    let fill = "sqlite3 /data/db 'create table t (n integer, s text); \
        with recursive c(n) as (select 1 union all select n + 1 from c where n < 20000) \
        insert into t select n, \"row \" || n from c;' && sync && echo committed; sleep 1000";
    let check = "sqlite3 /data/db 'pragma integrity_check; select count(*), sum(n), max(s) from t;'";
    let disk = |name, script| domain(name, &image, "", script).disk("/guest/disk");
    let report = host.domain(disk("fill", fill)).domain(disk("check", check)).run(
        "dd if=/dev/zero of=/guest/disk bs=1 count=1 seek=67108863 2>/dev/null\n\
         create fill; until_console fill committed; xl destroy fill\n\
         create check; finish check\n",
    );
    assert_eq!(report.exited("check", 0), "ok\n20000|200010000|row 9999\n");
}
