//! PostgreSQL from its recipe: queries, pgbench, and databases that survive a power cut.

use std::path::Path;

use tests::{
    Guest,
    clients::{pgbench, sql},
    needs,
    network::Link,
    recipe::{Server, blank_disk, image},
};

const PORT: u16 = 5432;

fn boot(link: Link, cpus: usize, disk: &Path) -> Option<Server> {
    let guest = Guest::new(&image("postgresql")?).cpus(cpus).memory("512M").disk(disk);
    let guest = guest.option("--env", "POSTGRES_PASSWORD=secret");
    let mut server = Server::boot(guest, link, &[PORT])?;
    server.running.wait_for("database system is ready to accept connections");
    Some(server)
}

fn address(server: &Server, password: &str) -> String {
    format!("postgresql://postgres:{password}@{}/postgres", server.at(PORT))
}

fn query(server: &Server, statement: &str) -> String {
    sql(server, &address(server, "secret"), statement)
}

fn bench(server: &Server, options: &[&str]) -> String {
    pgbench(server, &address(server, "secret"), options)
}

fn work(link: Link, cpus: usize) {
    needs!("psql");
    let disk = blank_disk(512);
    let Some(server) = boot(link, cpus, disk.path()) else { return };
    assert_eq!(query(&server, "select sum(n) from generate_series(1, 10000) n"), "50005000");
    let mut wrong = server.command("psql");
    let output = wrong.args(["-c", "select 1", &address(&server, "wrong")]).output().expect("ip starts");
    assert!(String::from_utf8_lossy(&output.stderr).contains("password authentication failed"));
    bench(&server, &["--initialize", "--scale=1", "--quiet"]);
    let report = bench(&server, &["--client=4", "--jobs=2", "--transactions=50"]);
    assert!(report.contains("processed: 200/200"), "{report}");
    assert!(report.contains("failed transactions: 0"), "{report}");
    let report = bench(&server, &["--client=4", "--select-only", "--no-vacuum", "--transactions=200"]);
    assert!(report.contains("processed: 800/800"), "{report}");
    let parallel = "set parallel_setup_cost = 0; set parallel_tuple_cost = 0; \
                    set min_parallel_table_scan_size = 0; set max_parallel_workers_per_gather = 2; \
                    select count(*), sum(aid) from pgbench_accounts";
    assert!(query(&server, parallel).ends_with("100000|5000050000"));
    let history = query(&server, "select count(*) from pgbench_history");
    assert_eq!(history, "200");
    server.cut_power();
    let Some(server) = boot(link, cpus, disk.path()) else { return };
    assert_eq!(query(&server, "select count(*) from pgbench_history"), history);
    let sums =
        "select (select sum(abalance) from pgbench_accounts) = (select sum(tbalance) from pgbench_tellers)";
    assert_eq!(query(&server, sums), "t");
}

#[test]
fn two_cpus_on_a_tap() {
    work(Link::Tap { queues: 2 }, 2);
}
