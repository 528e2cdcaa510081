//! Images as guests of a real Xen: the same files that boot on a PC. With `RUMPRUN_XEN_LONG` set, every kind of program
//! is run there, not just a few.

use std::{env, path::Path};

use tests::{
    bake, needs,
    programs::{Flavour, build, on_host},
    xen::{Domain, Ending, Host},
};

#[test]
fn programs_run_as_on_the_host() {
    let Some(mut host) = Host::new() else { return };
    let mut programs = vec![
        ("hello.c", Flavour::Static),
        ("libc.c", Flavour::Dynamic),
        ("threads.rs", Flavour::Rust),
        ("semaphores.c", Flavour::Dynamic),
    ];
    if env::var_os("RUMPRUN_XEN_LONG").is_some() {
        programs.extend([
            ("libc.c", Flavour::Static),
            ("libc.c", Flavour::StaticPie),
            ("memory.c", Flavour::Static),
            ("memory.c", Flavour::Dynamic),
        ]);
        programs.extend(tests::have("musl-gcc").then_some(("libc.c", Flavour::Musl)));
        programs.extend(tests::have("go").then_some(("goroutines.go", Flavour::Go)));
    }
    let mut expected = Vec::new();
    for (source, flavour) in programs {
        let program = build(source, flavour);
        let title = format!("{}-{flavour:?}", source.replace('.', "-"));
        let image = bake(&format!("xen-{title}"), [&program]);
        for cpus in [1, 2] {
            let name = format!("{title}-{cpus}");
            host = host.domain(Domain::new(&name, &image).cpus(cpus).memory(128));
            expected.push((name, on_host(&program, &[])));
        }
    }
    // The older ABI of events.
    let image = bake("xen-threads-rs-Rust", [&build("threads.rs", Flavour::Rust)]);
    host = host.domain(Domain::new("bits", &image).cpus(2).memory(128).command_line("xen.fifo_events=0"));
    expected.push(("bits".into(), on_host(&build("threads.rs", Flavour::Rust), &[])));
    let report = host.run_each();
    for (name, (output, status)) in expected {
        assert_eq!(report.exited(&name, status as u8), output, "{name}");
    }
}

const SCRIPT: &str = "\
create stop; create restart; create type; create panic
until_console type ready
echo typed > $(xenstore-read /local/domain/$(xl domid type)/console/tty)
finish type
create words; finish words
finish panic
until_console stop up
for key in h m z; do xl sysrq stop $key; until_console stop \"sysrq $key:\"; done
xl shutdown stop
finish stop
until_console restart up
xl reboot restart
retry sh -c '[ $(grep -c up /var/log/xen/console/guest-restart.log) = 2 ]'
xl shutdown restart
finish restart
";

#[test]
fn the_toolstack_stops_and_restarts_domains() {
    needs!("busybox");
    let Some(host) = Host::new() else { return };
    let waits = ["sh -c 'trap \"echo stopping; exit 9\" TERM; echo up; while :; do sleep 1; done'"];
    let waits = bake("console-stop", waits.iter().chain(&["--package", "coreutils"]));
    let reads = ["/bin/busybox", "--", "sh", "-c", "echo ready; read word; echo got $word; exit 3"];
    let reads = bake("xen-read", reads.map(Path::new));
    let panics = bake("panic", ["/bin/busybox", "--", "sh", "-c", "echo c > /proc/sysrq-trigger"]);
    let domain = |name: &str, image: &Path| Domain::new(name, image).cpus(2);
    let report = host
        .domain(domain("stop", &waits))
        .domain(domain("restart", &waits).setting("on_reboot", "'restart'"))
        .domain(domain("type", &reads))
        .domain(domain("panic", &panics))
        .domain(domain("words", &reads).command_line(
            "hostname=named mount=/scratch,type=tmpfs,size=65536 env=NAME=value -- sh -c hostname;mount;env",
        ))
        .run(SCRIPT);
    let stopped = report.exited("stop", 9);
    assert!(stopped.ends_with("stopping\n") && stopped.contains("sysrq z: means nothing here"), "{stopped}");
    assert!(report.exited("type", 3).ends_with("got typed\n"), "{}", report.console("type"));
    // The configuration by the command line.
    let words = report.exited("words", 0);
    for line in ["named\n", " on /scratch type tmpfs ", "NAME=value\n"] {
        assert!(words.contains(line), "{line:?} is not in:\n{words}");
    }
    let restarted = report.exited("restart", 9);
    assert_eq!(restarted.matches("stopping").count(), 2, "{restarted}");
    assert_eq!(report.ending("panic"), Ending::Crashed);
    assert!(report.console("panic").contains("kernel panic"), "{}", report.console("panic"));
}
