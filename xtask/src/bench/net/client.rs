//! Clients that others wrote, and the figures in what they print.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::network::GUEST;
use crate::host;

/// How long a throughput is measured, in seconds.
pub const SECONDS: u32 = 3;

/// How long a server may take to listen.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// The first number behind `label` in a text.
fn number_behind(text: &str, label: &str) -> Result<f64> {
    let rest = text.split_once(label).with_context(|| format!("no {label:?} in:\n{text}"))?.1;
    let word = rest.split_whitespace().next().unwrap_or_default();
    word.parse().with_context(|| format!("{word:?} behind {label:?} is no number"))
}

/// wrk: (requests a second, requests).
pub fn wrk(connections: u32) -> Result<(f64, f64)> {
    let url = format!("http://{GUEST}/page");
    let text = host::output(Command::new("wrk").args([
        "-t1",
        &format!("-c{connections}"),
        &format!("-d{SECONDS}s"),
        &url,
    ]))?;
    for complaint in ["Socket errors", "Non-2xx"] {
        ensure!(!text.contains(complaint), "wrk was not served well:\n{text}");
    }
    let total = text.lines().find(|line| line.contains(" requests in "));
    let total = total.and_then(|line| line.split_whitespace().next()).context("wrk gave no total")?;
    Ok((number_behind(&text, "Requests/sec:")?, total.parse()?))
}

/// redis-benchmark: requests a second of SET and GET.
pub fn redis(requests: u32, pipeline: u32) -> Result<[f64; 2]> {
    let text = host::output(Command::new("redis-benchmark").args([
        "-h",
        &GUEST.to_string(),
        "-t",
        "set,get",
        "-c",
        "50",
        "-n",
        &requests.to_string(),
        "-P",
        &pipeline.to_string(),
        "--csv",
    ]))?;
    parse_redis(&text)
}

/// The rates in what redis-benchmark prints.
pub fn parse_redis(text: &str) -> Result<[f64; 2]> {
    let rate = |name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("\"{name}\",\"")));
        let line = line.with_context(|| format!("redis-benchmark did not measure {name}:\n{text}"))?;
        Ok(line.split('"').next().unwrap_or_default().parse()?)
    };
    Ok([rate("SET")?, rate("GET")?])
}

/// iperf3: bits a second that arrived; `reverse`: from the guest. Between two tests the server may not listen, and
/// before the first its network may not be up.
pub fn iperf(reverse: bool) -> Result<f64> {
    let mut command = Command::new("iperf3");
    command.args(["--client", &GUEST.to_string(), "--json", "--time", &SECONDS.to_string()]);
    if reverse {
        command.arg("--reverse");
    }
    let start = Instant::now();
    loop {
        let output = command.output().context("cannot run iperf3")?;
        let report: Value = serde_json::from_slice(&output.stdout)?;
        let unreached = report["error"].as_str().is_some_and(|error| error.contains("unable to connect"));
        if !unreached || start.elapsed() > CONNECT_LIMIT {
            return received(&report);
        }
    }
}

fn received(report: &Value) -> Result<f64> {
    report["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .with_context(|| format!("iperf3 reported {report}"))
}

/// The bits a second that arrived, in what iperf3 prints.
pub fn parse_iperf(text: &str) -> Result<f64> {
    received(&serde_json::from_str(text).with_context(|| format!("iperf3 printed:\n{text}"))?)
}

/// NetPIPE: microseconds that 1 byte takes one way. Tries again while the server does not listen yet.
pub fn netpipe() -> Result<f64> {
    let guest = GUEST.to_string();
    let start = Instant::now();
    loop {
        let output = Command::new("NPtcp")
            .args(["-h", &guest, "-l", "1", "-u", "1", "-p", "0", "-o", "/dev/null"])
            .output()
            .context("cannot run NPtcp")?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if !text.contains("Cannot Connect") || start.elapsed() > CONNECT_LIMIT {
            return parse_netpipe(&text);
        }
    }
}

fn parse_netpipe(text: &str) -> Result<f64> {
    let line = text.lines().find(|line| line.contains("-->") && line.contains(" 1 bytes"));
    number_behind(line.with_context(|| format!("NetPIPE measured nothing:\n{text}"))?, " in ")
}

/// Whether a GET of the page is answered with it.
pub fn http_answers(address: &SocketAddr) -> bool {
    let get = || -> Result<()> {
        let mut stream = TcpStream::connect_timeout(address, Duration::from_millis(200))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /page HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if !(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("xxx")) {
            bail!("another answer");
        }
        Ok(())
    };
    get().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_what_the_clients_print() {
        let csv =
            "\"test\",\"rps\",\"avg_latency_ms\"\n\"SET\",\"6250.00\",\"7.9\"\n\"GET\",\"6300.5\",\"7.8\"\n";
        assert_eq!(parse_redis(csv).expect("two rates"), [6250.0, 6300.5]);
        assert!(parse_redis("Error from server").is_err());
        let netpipe = "Send and receive buffers are 16384 and 131072 bytes\nNow starting the main loop\n  \
                       0:       1 bytes   1000 times -->      0.07 Mbps in     110.25 usec\n";
        assert_eq!(parse_netpipe(netpipe).expect("a time"), 110.25);
        assert_eq!(number_behind("Requests/sec:  12345.67\n", "Requests/sec:").expect("a rate"), 12345.67);
        assert!(number_behind("nothing", "Requests/sec:").is_err());
    }
}
