//! Clients, with a look at what they report: ping; curl, ab and wrk for HTTP; those of redis and PostgreSQL.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    process::{Command, Stdio},
};

use crate::{network::Network, recipe::Server, scratch};

/// Pings with these arguments, the last of which is the address; every echo must come back. For the last ones ping waits
/// little longer than the others took, which a busy machine may miss: those don't count, and there are three tries.
#[track_caller]
pub fn ping(network: &Network, arguments: &[&str]) {
    let mut reports = String::new();
    for _ in 0..3 {
        let output = network.command("ping").args(arguments).output().expect("ip starts");
        let report = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        // Only floods don't tell of each.
        let numbers = report.split("icmp_seq=").skip(1);
        let answered: BTreeSet<usize> =
            numbers.filter_map(|rest| rest.split(' ').next()?.parse().ok()).collect();
        let sent = number(&report, "ping statistics ---\n") as usize;
        let no_gap = answered.len() > sent / 2 && answered.last() == Some(&answered.len());
        if report.contains(" 0% packet loss") || no_gap {
            return;
        }
        reports += &report;
    }
    panic!("ping {arguments:?}: {reports}");
}

/// The number behind `label` in a client's report.
#[track_caller]
pub fn number(report: &str, label: &str) -> u64 {
    let rest = report.split(label).nth(1).unwrap_or_else(|| panic!("no {label} in {report}"));
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no number behind {label} in {report}"))
}

/// What curl gets from a URL; panics if it is an error. Certificates are not looked at.
#[track_caller]
pub fn curl(server: &Server, url: &str, options: &[&str]) -> Vec<u8> {
    let common = ["--silent", "--show-error", "--fail", "--insecure", url];
    server.bytes("curl", common.iter().chain(options))
}

/// `count` requests by ab over at most `connections` at a time, kept alive or not; every one must succeed.
#[track_caller]
pub fn ab(server: &Server, url: &str, count: u32, connections: u32, keep_alive: bool) {
    let connections = server.connections(connections);
    let (count, connections) = (count.to_string(), connections.to_string());
    let mut words = vec!["-q", "-s", "60", "-n", &count, "-c", &connections, url];
    if keep_alive {
        words.insert(0, "-k");
    }
    let report = server.client("ab", words);
    assert_eq!(number(&report, "Complete requests:").to_string(), count, "{report}");
    assert_eq!(number(&report, "Failed requests:"), 0, "{report}");
    assert!(!report.contains("Non-2xx"), "{report}");
}

/// `seconds` of load by wrk; each response must have the body `page`, which Lua's long brackets can hold.
#[track_caller]
pub fn wrk(server: &Server, url: &str, seconds: u32, connections: u32, page: &str) {
    // Tests run side by side, each in a thread of its name.
    let thread = std::thread::current();
    let test = thread.name().unwrap_or_default().replace(':', "-");
    let script = scratch().join(format!("check-{test}-{}.lua", std::process::id()));
    // `response` runs in each of wrk's threads, `done` in its main program.
    let text = format!(
        "local threads = {{}}\n\
         function setup(thread) table.insert(threads, thread) end\n\
         function init() good = 0; bad = 0 end\n\
         function response(status, headers, body)\n\
           if status == 200 and body == [==[{page}]==] then good = good + 1 else bad = bad + 1 end\n\
         end\n\
         function done()\n\
           local good, bad = 0, 0\n\
           for _, thread in ipairs(threads) do good = good + thread:get('good'); bad = bad + thread:get('bad') end\n\
           print('good: ' .. good .. ' bad: ' .. bad)\n\
         end\n"
    );
    fs::write(&script, text).expect("a scratch file");
    let (connections, duration) = (format!("-c{}", server.connections(connections)), format!("-d{seconds}s"));
    let path = script.to_str().expect("UTF-8");
    let report = server.client("wrk", ["-t2", &connections, &duration, "--timeout", "60s", "-s", path, url]);
    assert!(number(&report, "good:") > 0, "{report}");
    assert_eq!(number(&report, "bad:"), 0, "{report}");
    assert!(!report.contains("Socket errors"), "{report}");
    fs::remove_file(script).expect("ours");
}

/// What redis-cli prints; an error of the server's is one here.
#[track_caller]
pub fn redis(server: &Server, port: u16, words: &[&str]) -> String {
    let (host, port) = server.address(port);
    let options = ["-e", "-h", &host, "-p", &port];
    server.client("redis-cli", options.iter().chain(words)).trim_end().to_owned()
}

/// Sets `count` keys by `redis-cli --pipe`: many commands without waiting, each reply counted.
#[track_caller]
pub fn redis_pipe(server: &Server, port: u16, count: usize) {
    let (host, service) = server.address(port);
    let commands: String = (0..count).map(|index| format!("SET pipe:{index} {}\r\n", index * 3)).collect();
    let mut command = server.command("redis-cli");
    command.args(["-h", &host, "-p", &service, "--pipe"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("ip starts");
    child.stdin.take().expect("a pipe").write_all(commands.as_bytes()).expect("redis-cli reads");
    let output = child.wait_with_output().expect("a child");
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.contains(&format!("errors: 0, replies: {count}")), "{report}");
    assert_eq!(redis(server, port, &["GET", &format!("pipe:{}", count - 1)]), ((count - 1) * 3).to_string());
}

/// redis-benchmark, `count` requests of each of these kinds.
#[track_caller]
pub fn redis_benchmark(server: &Server, port: u16, count: u32, pipeline: u32, kinds: &str) {
    let (host, port) = server.address(port);
    let numbers = [count, server.connections(20), pipeline].map(|number| number.to_string());
    let [count, clients, pipeline] = &numbers;
    let words = ["-h", &host, "-p", &port, "-n", count, "-c", clients, "-P", pipeline, "-d", "100"];
    let report = server.client("redis-benchmark", words.iter().chain(&["--csv", "-t", kinds]));
    let reported = report.lines().filter(|line| line.starts_with('"') && !line.contains("\"test\"")).count();
    assert!(reported >= kinds.split(',').count() && !report.contains("rror"), "{report}");
}

/// The result of a statement by psql, as the superuser.
#[track_caller]
pub fn sql(server: &Server, address: &str, statement: &str) -> String {
    let options = ["--no-psqlrc", "--tuples-only", "--no-align", "--command", statement, address];
    server.client("psql", options).trim_end().to_owned()
}

/// What pgbench reports; Debian has it beside the server's programs.
#[track_caller]
pub fn pgbench(server: &Server, address: &str, options: &[&str]) -> String {
    let output = Command::new("pg_config").arg("--bindir").output();
    let folder = output.ok().filter(|output| output.status.success());
    let folder = folder.map_or("/usr/lib/postgresql/15/bin".into(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    });
    server.client(&format!("{folder}/pgbench"), options.iter().copied().chain([address]))
}
