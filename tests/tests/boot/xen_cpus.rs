//! CPUs of a running domain of Xen's that the toolstack takes and gives, and that were changed when it was saved.

use tests::{
    bake,
    programs::{Flavour, build},
    xen::{Domain, Host},
};

/// `give COUNT` changes the number of CPUs, and waits until the program goes on with it. Two rest when the domain is saved.
const SCRIPT: &str = "\
shown() { [ $(grep -c \"^cpus $1 \" /var/log/xen/console/guest-cpus.log) -ge $2 ]; }
more() { seen=$(grep -c \"^cpus $1 \" /var/log/xen/console/guest-cpus.log); }
give() {
  more $1; xl vcpu-set --ignore-host cpus $1; retry shown $1 $((seen + 1))
  echo has $1 CPUs after $(cut -d ' ' -f 1 /proc/uptime)
}
create cpus; retry shown 1 1
for count in 2 1 4 1 3; do give $count; done
xl pause cpus; sleep 1; xl unpause cpus
give 2
save cpus; restore
for count in 3 1 2; do give $count; done
xl shutdown cpus; finish cpus
";

#[test]
fn cpus_come_and_go() {
    let Some(host) = Host::new() else { return };
    let image = bake("xen-cpus", [&build("cpus.c", Flavour::Dynamic)]);
    let report = host.domain(Domain::new("cpus", &image).cpus(1).setting("maxvcpus", "4")).run(SCRIPT);
    let console = report.exited("cpus", 7);
    let seen: Vec<&str> = console.lines().filter_map(|line| line.strip_prefix("cpus ")).collect();
    let online = |count| match count {
        1 => "1 1 0/1-3 of 4",
        2 => "2 2 0-1/2-3 of 4",
        3 => "3 3 0-2/3 of 4",
        _ => "4 4 0-3/ of 4",
    };
    // The script has waited for each; on the way from 4 to 1 there may be 3 or 2 for a moment.
    assert!(seen.len() >= 10, "{}", report.serial());
    assert!(seen.iter().all(|line| (1..=4).any(|count| *line == online(count))), "{}", report.serial());
}
