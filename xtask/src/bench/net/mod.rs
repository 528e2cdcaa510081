//! `cargo xtask bench net`: servers on our kernel beside the same servers on a Linux guest, driven by the same clients
//! over the same tap.

use std::{collections::BTreeMap, fs};

use anyhow::{Result, ensure};

use super::{Figure, figure::Aim, guests::Side, median, report};
use crate::{host, peer};

pub(super) mod appliance;
pub(super) mod client;
mod guest;
mod instructions;
mod memcached;
mod network;

use appliance::{Appliance, IPERF, MEMCACHED, NETPIPE, NGINX_SERVER, REDIS};
use guest::Guests;

/// How often a guest is started for a figure whose median counts.
const STARTS: usize = 3;
/// Requests on each connection when the guest's work is counted.
const ROUNDS: usize = 200;
/// Connections of wrk.
const CONNECTIONS: u32 = 32;

/// The servers and clients, as Debian has them.
const PACKAGES: &[&str] =
    &["gcc", "dpkg", "iproute2", "iperf3", "memcached", "netpipe-tcp", "nginx-light", "redis-server", "wrk"];

/// What is measured on each side: figures by name.
type Measured = BTreeMap<&'static str, f64>;

/// A figure that the table has.
struct Row {
    name: &'static str,
    unit: &'static str,
    aim: Aim,
}

const fn row(name: &'static str, unit: &'static str, aim: Aim) -> Row {
    Row { name, unit, aim }
}

/// A set of figures that one boot (or a few) of a server gives.
struct Suite {
    appliance: &'static Appliance,
    rows: &'static [Row],
    measure: fn(&Guests, Side) -> Result<Measured>,
}

const RATE: Aim = Aim::AtLeast(2.0);

const SUITES: &[Suite] = &[
    Suite {
        appliance: &NGINX_SERVER,
        rows: &[row("nginx, 1 KiB", "/s", RATE)],
        measure: |guests, side| {
            let _guest = guests.serving(side, &NGINX_SERVER, 1)?;
            Ok([("nginx, 1 KiB", client::wrk(CONNECTIONS)?.0)].into())
        },
    },
    Suite {
        appliance: &NGINX_SERVER,
        rows: &[row("start to first HTTP response", "s", Aim::AtMost(0.1))],
        measure: |guests, side| {
            let mut times = Vec::new();
            for _ in 0..STARTS {
                let mut guest = guests.start(side, &NGINX_SERVER, 1, &[])?;
                times.push(guest.wait_until(client::http_answers)?);
            }
            Ok([("start to first HTTP response", median(times))].into())
        },
    },
    Suite {
        appliance: &REDIS,
        rows: &[
            row("redis SET", "/s", RATE),
            row("redis GET", "/s", RATE),
            row("redis SET, pipelined", "/s", RATE),
            row("redis GET, pipelined", "/s", RATE),
            row("redis, memory in use", "MiB", Aim::AtMost(0.25)),
        ],
        measure: |guests, side| {
            let mut guest = guests.serving(side, &REDIS, 1)?;
            let memory = guest.used_memory()?;
            let [set, get] = client::redis(30_000, 1)?;
            let [set_many, get_many] = client::redis(200_000, 16)?;
            Ok([
                ("redis SET", set),
                ("redis GET", get),
                ("redis SET, pipelined", set_many),
                ("redis GET, pipelined", get_many),
                ("redis, memory in use", memory),
            ]
            .into())
        },
    },
    Suite {
        appliance: &MEMCACHED,
        rows: &[row("memcached get", "/s", RATE)],
        measure: |guests, side| {
            let _guest = guests.serving(side, &MEMCACHED, 1)?;
            memcached::prepare()?;
            let (answered, seconds) = memcached::gets(client::SECONDS)?;
            Ok([("memcached get", answered / seconds)].into())
        },
    },
    Suite {
        appliance: &IPERF,
        rows: &[
            row("iperf3 to the guest", "Mb/s", Aim::AtLeast(1.5)),
            row("iperf3 from the guest", "Mb/s", Aim::AtLeast(1.5)),
        ],
        measure: |guests, side| {
            let _guest = guests.serving(side, &IPERF, 1)?;
            Ok([
                ("iperf3 to the guest", client::iperf(false)? / 1e6),
                ("iperf3 from the guest", client::iperf(true)? / 1e6),
            ]
            .into())
        },
    },
    Suite {
        appliance: &NETPIPE,
        rows: &[row("NetPIPE latency, 1 byte", "us", Aim::AtMost(0.7))],
        measure: |guests, side| {
            let _guest = guests.serving(side, &NETPIPE, 1)?;
            Ok([("NetPIPE latency, 1 byte", client::netpipe()?)].into())
        },
    },
    Suite {
        appliance: &NGINX_SERVER,
        rows: &[row("instructions per nginx request", "", Aim::AtMost(0.5))],
        measure: |guests, side| {
            let count = instructions::per_request(guests, side, &NGINX_SERVER, 1, |_| {
                Ok(client::wrk(CONNECTIONS)?.1)
            })?;
            Ok([("instructions per nginx request", count)].into())
        },
    },
    Suite {
        appliance: &REDIS,
        rows: &[row("instructions per redis request", "", Aim::AtMost(0.5))],
        measure: |guests, side| {
            let count = instructions::per_request(guests, side, &REDIS, 1, |_| {
                client::redis(10_000, 1)?;
                Ok(20_000.0)
            })?;
            Ok([("instructions per redis request", count)].into())
        },
    },
    Suite {
        appliance: &MEMCACHED,
        rows: &[row("instructions per memcached get", "", Aim::AtMost(0.5))],
        measure: |guests, side| {
            let count = instructions::per_request(guests, side, &MEMCACHED, 1, |_| {
                memcached::prepare()?;
                Ok(memcached::gets(client::SECONDS)?.0)
            })?;
            Ok([("instructions per memcached get", count)].into())
        },
    },
    Suite {
        appliance: &MEMCACHED,
        rows: &[row("memcached, 2 CPUs against 1", "x", Aim::OursAtLeast(1.8))],
        // Client and guest share the host's CPUs, so that time tells of both. This doesn't: the instructions that a get
        // takes of the only CPU, by those that it takes of the busier of two, while they never lack work. The host may
        // stop one CPU for long, so that the other takes over its thread: the median counts.
        measure: |guests, side| {
            let count = |cpus| {
                instructions::per_request(guests, side, &MEMCACHED, cpus, |guest| {
                    memcached::prepare()?;
                    memcached::rounds(guest, ROUNDS)
                })
            };
            let ratios = (0..STARTS).map(|_| Ok(count(1)? / count(2)?)).collect::<Result<_>>()?;
            Ok([("memcached, 2 CPUs against 1", median(ratios))].into())
        },
    },
];

/// Measures; prints a table, and writes `target/bench/net.json` and `net.svg`.
pub fn run(side: Option<Side>, filter: Option<&str>) -> Result<()> {
    let wanted =
        |suite: &&Suite| filter.is_none_or(|filter| suite.rows.iter().any(|row| row.name.contains(filter)));
    if !network::is_inside() {
        // Everything that needs the host's network.
        host::install(&[host::DEMO_PACKAGES, PACKAGES].concat())?;
        fs::create_dir_all(host::target().join("bench/net"))?;
        let bake = host::rumprun_bake()?;
        peer::kernel()?;
        let init = super::build("peer-server-init")?;
        instructions::build()?;
        for appliance in appliance::ALL {
            if SUITES.iter().filter(wanted).any(|suite| suite.appliance.name == appliance.name) {
                appliance.bake(&bake, &init)?;
            }
        }
        return network::enter();
    }
    let guests = Guests::new(host::rumprun_bake()?, peer::kernel()?);
    let mut figures = Vec::new();
    for suite in SUITES.iter().filter(wanted) {
        let measure = |this: Side| {
            if side.is_some_and(|side| side != this) {
                return Measured::new();
            }
            (suite.measure)(&guests, this).unwrap_or_else(|error| {
                eprintln!("{} in the guest of {this:?}: {error:#}", suite.appliance.name);
                Measured::new()
            })
        };
        let [ours, linux] = [Side::Ours, Side::Linux].map(measure);
        for row in suite.rows {
            let value = |side: &Measured| side.get(row.name).copied().unwrap_or(f64::NAN);
            let figure = Figure::compared(row.name, row.unit, value(&ours), value(&linux), row.aim);
            println!("{figure}");
            figures.push(figure);
        }
    }
    report(&figures, "net", filter)?;
    let measured = |figure: &Figure| figure.ratio().is_some_and(f64::is_finite);
    ensure!(side.is_some() || figures.iter().all(measured), "not every figure could be measured");
    Ok(())
}
