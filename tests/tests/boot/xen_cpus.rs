//! CPUs of a running domain of Xen's that the toolstack takes and gives, and that were changed when it was saved.

use tests::{
    bake,
    programs::{Flavour, build},
    xen::{Domain, Host},
};

/// `give COUNT` changes the number of CPUs, and waits until the program goes on with it. Two rest when the domain is saved.
const SCRIPT: &str = "\
log() { grep -c \"^cpus $1 \" /var/log/xen/console/guest-$domain.log; }
shown() { [ $(log $1) -ge $2 ]; }
give() {
  seen=$(log $1); xl vcpu-set --ignore-host $domain $1; retry shown $1 $((seen + 1))
  echo $domain has $1 CPUs after $(cut -d ' ' -f 1 /proc/uptime)
}
for domain in queues bits; do
  create $domain; retry shown 1 1
  for count in 2 1 4 1 3; do give $count; done
  xl pause $domain; sleep 1; xl unpause $domain
  give 2
  save $domain; restore
  for count in 3 1 2; do give $count; done
  xl shutdown $domain; finish $domain
done
";

#[test]
fn cpus_come_and_go() {
    let Some(host) = Host::new() else { return };
    let image = bake("xen-cpus", [&build("cpus.c", Flavour::Dynamic)]);
    let domain = |name| Domain::new(name, &image).cpus(1).setting("maxvcpus", "4");
    // The two ABIs of events.
    let host = host.domain(domain("queues")).domain(domain("bits").command_line("xen.fifo_events=0"));
    let report = host.run(SCRIPT);
    let wanted = [1, 2, 1, 4, 1, 3, 2, 3, 1, 2].map(|count| match count {
        1 => "1 1 0/1-3 of 4",
        2 => "2 2 0-1/2-3 of 4",
        3 => "3 3 0-2/3 of 4",
        _ => "4 4 0-3/ of 4",
    });
    // Two that are taken at once go in any order.
    let on_the_way = ["2 2 0,2/1,3 of 4", "2 2 0,3/1-2 of 4", "3 3 0-1,3/2 of 4", "3 3 0,2-3/1 of 4"];
    for name in ["queues", "bits"] {
        let console = report.exited(name, 7);
        let seen: Vec<&str> = console.lines().filter_map(|line| line.strip_prefix("cpus ")).collect();
        let mut rest = seen.iter();
        assert!(wanted.iter().all(|line| rest.any(|other| other == line)), "{}", report.serial());
        let is_known = |line: &&str| wanted.contains(line) || on_the_way.contains(line);
        assert!(seen.iter().all(is_known), "{}", report.serial());
    }
}
