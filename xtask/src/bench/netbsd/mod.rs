//! `cargo xtask bench netbsd`: programs on a NetBSD component set, beside the same programs on the built-in set.

use std::fs;

use anyhow::Result;

use super::{
    figure::{Aim, Figure},
    median, report,
};
use crate::host;

mod client;
mod guest;

use guest::{Guests, Set};

/// Boots for a figure whose median, or best, counts.
const BOOTS: usize = 5;
/// Requests on each connection when the guest's work is counted.
const ROUNDS: usize = 60;
/// Connections of the HTTP client, with the least requests a second.
const CONNECTIONS: [(usize, f64); 3] = [(1, 7800.0), (8, 16_800.0), (64, 18_300.0)];

/// Measures; prints a table, and writes `target/bench/netbsd.json`.
pub fn run(filter: Option<&str>) -> Result<()> {
    host::install(&["gcc", "binutils", "qemu-system-x86"])?;
    fs::create_dir_all(host::target().join("bench/netbsd"))?;
    let bench = Bench { guests: Guests::new()?, filter, figures: Vec::new() };
    bench.run()
}

struct Bench<'a> {
    guests: Guests,
    filter: Option<&'a str>,
    figures: Vec<Figure>,
}

impl Bench<'_> {
    fn wants(&self, names: &[&str]) -> bool {
        self.filter.is_none_or(|filter| names.iter().any(|name| name.contains(filter)))
    }

    /// Notes a figure of the NetBSD set and of the built-in one.
    fn note(&mut self, name: &str, unit: &str, [netbsd, built_in]: [f64; 2], aim: Aim) {
        let figure = Figure::alone(name, unit, netbsd, aim);
        println!("{figure}  (built-in set: {built_in:.3} {unit}, ratio {:.3})", netbsd / built_in);
        self.figures.push(figure);
    }

    /// Measures on both sets.
    fn both<T>(&self, measure: impl Fn(&Guests, Set) -> Result<T>) -> Result<[T; 2]> {
        Ok([measure(&self.guests, Set::NetBsd)?, measure(&self.guests, Set::BuiltIn)?])
    }

    fn run(mut self) -> Result<()> {
        if self.wants(&["bake hello"]) {
            let times = self.both(|guests, set| {
                let times = (0..BOOTS).map(|_| guests.bake_time(set, "hello")).collect::<Result<Vec<_>>>()?;
                Ok(median(times))
            })?;
            self.note("bake hello", "s", times, Aim::AtMost(0.33));
        }
        if self.wants(&["size of hello"]) {
            let sizes =
                self.both(|guests, set| Ok(fs::metadata(guests.image(set, "hello")?)?.len() as f64 / 1e6))?;
            self.note("size of hello", "MB", sizes, Aim::AtMost(2.88));
        }
        if self.wants(&["least memory for hello"]) {
            let least = self.both(|guests, set| guests.least_memory(&guests.image(set, "hello")?))?;
            self.note("least memory for hello", "MB", least, Aim::AtMost(8.0));
        }
        if self.wants(&["start to hello"]) {
            let times = self.both(|guests, set| {
                let image = guests.image(set, "hello")?;
                let boots = (0..BOOTS).map(|_| guests.first_output(&image, "hello from"));
                Ok(median(boots.collect::<Result<_>>()?))
            })?;
            self.note("start to hello", "s", times, Aim::AtMost(0.25));
        }
        if self.wants(&["start to first HTTP reply"]) {
            let times = self.both(|guests, set| {
                let image = guests.image(set, "server")?;
                let boots = (0..BOOTS).map(|_| Ok(guests.serve(&image, 1, 1, false)?.started));
                Ok(median(boots.collect::<Result<_>>()?))
            })?;
            self.note("start to first HTTP reply", "s", times, Aim::AtMost(0.39));
        }
        self.http()?;
        self.streams()?;
        self.sleeps()?;
        self.speed_up()?;
        if self.wants(&["idle, 2 CPUs"]) {
            let shares = self
                .both(|guests, set| guests.serve(&guests.image(set, "server")?, 2, 2, false)?.idle_share())?;
            self.note("idle, 2 CPUs", "%", shares, Aim::AtMost(2.0));
        }
        report(&self.figures, "netbsd", self.filter)
    }

    fn http(&mut self) -> Result<()> {
        for (connections, least) in CONNECTIONS {
            let name = |what: &str| format!("HTTP, {connections} connections, {what}");
            let names = ["rate", "99 % within", "slowest"].map(name);
            if !self.wants(&names.each_ref().map(String::as_str)) {
                continue;
            }
            let [netbsd, built_in] = self.both(|guests, set| {
                let guest = guests.serve(&guests.image(set, "server")?, 1, 1, false)?;
                client::load(guest.address(80), connections)
            })?;
            self.note(&names[0], "/s", [netbsd.rate, built_in.rate], Aim::AtLeast(least));
            self.note(&names[1], "ms", [netbsd.tail, built_in.tail], Aim::AtMost(10.0));
            self.note(&names[2], "ms", [netbsd.worst, built_in.worst], Aim::AtMost(100.0));
        }
        Ok(())
    }

    fn streams(&mut self) -> Result<()> {
        if self.wants(&["stream to the guest", "stream from the guest"]) {
            let [netbsd, built_in] = self.both(|guests, set| {
                let guest = guests.serve(&guests.image(set, "server")?, 1, 1, false)?;
                Ok((client::send(guest.address(9))?, client::receive(guest.address(19))?))
            })?;
            self.note("stream to the guest", "MB/s", [netbsd.0, built_in.0], Aim::AtLeast(60.0));
            self.note("stream from the guest", "MB/s", [netbsd.1, built_in.1], Aim::AtLeast(45.0));
        }
        Ok(())
    }

    fn sleeps(&mut self) -> Result<()> {
        if self.wants(&["10 ms sleep, late by"]) {
            for (cpus, words) in [(1, ["1"]), (2, ["2"])] {
                let late = self.both(|guests, set| {
                    let figures = guests.figures(&guests.image(set, "sleeper")?, cpus, &words)?;
                    Ok(figures.get("late-median").copied().unwrap_or(f64::NAN) / 1e6)
                })?;
                let name = format!("10 ms sleep, late by, {cpus} CPU");
                self.note(&name, "ms", late, Aim::AtMost(1.0));
            }
        }
        Ok(())
    }

    fn speed_up(&mut self) -> Result<()> {
        if self.wants(&["2-CPU speed-up, compute"]) {
            let ratios = self.both(|guests, set| {
                let image = guests.image(set, "speedup")?;
                // What else the host does only adds.
                let mut best = [f64::INFINITY; 2];
                for _ in 0..BOOTS {
                    for (threads, best) in ["1", "2"].into_iter().zip(&mut best) {
                        let figures = guests.figures(&image, 2, &["compute", threads])?;
                        *best = figures.values().copied().fold(*best, f64::min);
                    }
                }
                Ok(best[0] / best[1])
            })?;
            self.note("2-CPU speed-up, compute", "x", ratios, Aim::AtLeast(1.9));
        }
        if self.wants(&["2-CPU speed-up, HTTP"]) {
            guest::build_plugin()?;
            // Client and guest share the host's CPUs, so that time tells of both. This doesn't: the instructions that a
            // request takes of the only CPU, by those that it takes of the busier of two, while they never lack work.
            let ratios = self.both(|guests, set| {
                let image = guests.image(set, "server")?;
                let count = |cpus| -> Result<f64> {
                    let guest = guests.serve(&image, cpus, 2, true)?;
                    let before = guest.instructions()?;
                    let requests = client::rounds(&guest, ROUNDS)?;
                    let after = guest.instructions()?;
                    let most = after.iter().zip(before).map(|(after, before)| after - before).max();
                    Ok(most.unwrap_or_default() as f64 / requests)
                };
                let ratios = (0..3).map(|_| Ok(count(1)? / count(2)?)).collect::<Result<_>>()?;
                Ok(median(ratios))
            })?;
            self.note("2-CPU speed-up, HTTP", "x", ratios, Aim::AtLeast(1.6));
        }
        Ok(())
    }
}
