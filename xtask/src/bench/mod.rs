//! `cargo xtask bench`: our figures beside a Linux guest's, in one run.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use crate::host;

mod chart;
mod figure;
mod guests;
pub mod net;
pub mod netbsd;
pub mod xen;

use figure::{Aim, Figure};
use guests::Guests;
pub use guests::Side;

/// Boots per figure and side; the median counts.
const BOOTS: usize = 5;

/// The operations of `tests/programs/microbench.c`, with the aims.
const OPERATIONS: [(&str, Aim); 8] = [
    ("getpid", Aim::AtMost(1.0 / 3.0)),
    ("clock_gettime", Aim::AtMost(1.0)),
    ("pipe-write-read", Aim::AtMost(1.0)),
    ("futex-ping-pong", Aim::AtMost(1.0)),
    ("thread-create-join", Aim::AtMost(1.0)),
    ("fork-wait", Aim::AtMost(1.0)),
    ("mmap-touch-munmap-1MiB", Aim::AtMost(1.0)),
    ("read-4KiB-cached", Aim::AtMost(1.0)),
];

/// Builds a static C program of `tests/programs`.
fn build(name: &str) -> Result<PathBuf> {
    let output = host::target().join("bench").join(name);
    let source = host::checkout().join("tests/programs").join(name).with_extension("c");
    host::run(Command::new("gcc").args(["-O2", "-static", "-pthread", "-o"]).arg(&output).arg(source))?;
    Ok(output)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Measures, prints a table, and writes `target/bench/figures.json` and `figures.svg`.
pub fn run(filter: Option<&str>) -> Result<()> {
    host::install(&[host::DEMO_PACKAGES, &["gcc", "dpkg"]].concat())?;
    fs::create_dir_all(host::target().join("bench"))?;
    let guests = Guests::new()?;
    let wanted = |name: &str| filter.is_none_or(|filter| name.contains(filter));
    let mut figures = Vec::new();
    let mut note = |figure: Figure| {
        println!("{figure}");
        figures.push(figure);
    };

    let hello = build("hello")?;
    for machine in ["microvm", "q35"] {
        if wanted("start") {
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..BOOTS {
                for (side, times) in [Side::Ours, Side::Linux].into_iter().zip(&mut times) {
                    times.push(guests.boot(side, machine, 2, &hello, &[])?.first_output("hello, world")?);
                }
            }
            let [ours, linux] = times.map(median);
            note(Figure::compared(
                &format!("start to first output, {machine}"),
                "s",
                ours,
                linux,
                Aim::AtMost(0.1),
            ));
        }
    }
    if wanted("kernel") {
        note(Figure::alone("kernel in the image", "MiB", guests.kernel_size(&hello)?, Aim::AtMost(1.0)));
    }
    if wanted("memory") {
        note(Figure::alone("least memory for hello", "MiB", guests.least_memory(&hello)?, Aim::AtMost(8.0)));
    }
    if OPERATIONS.iter().any(|(name, _)| wanted(name)) {
        let microbench = build("microbench")?;
        let [ours, linux] = [Side::Ours, Side::Linux].map(|side| -> Result<_> {
            let runs = (0..3).map(|_| guests.boot(side, "q35", 2, &microbench, &[])?.figures());
            let runs = runs.collect::<Result<Vec<_>>>()?;
            Ok(move |name: &str| {
                let values = runs.iter().filter_map(|run| run.get(name).copied());
                values.min_by(f64::total_cmp).with_context(|| format!("the guest did not measure {name}"))
            })
        });
        let (ours, linux) = (ours?, linux?);
        for (name, aim) in OPERATIONS.into_iter().filter(|(name, _)| wanted(name)) {
            note(Figure::compared(name, "ns", ours(name)?, linux(name)?, aim));
        }
    }
    for (kind, aim) in [("compute", 1.9), ("locks", 1.7)] {
        if wanted("speed-up") {
            let program = build("speedup")?;
            // Per side, the best times of one thread and of two: what else the host does only adds.
            let mut best = [[f64::INFINITY; 2]; 2];
            for _ in 0..BOOTS {
                for (side, best) in [Side::Ours, Side::Linux].into_iter().zip(&mut best) {
                    for (threads, best) in ["1", "2"].into_iter().zip(best) {
                        let figures = guests.boot(side, "q35", 2, &program, &[kind, threads])?.figures()?;
                        let time = figures.values().next().copied().context("speedup printed nothing")?;
                        *best = best.min(time);
                    }
                }
            }
            let [ours, linux] = best.map(|[one, two]| one / two);
            note(Figure::compared(
                &format!("2-CPU speed-up, {kind}"),
                "x",
                ours,
                linux,
                Aim::OursAtLeast(aim),
            ));
        }
    }
    if wanted("bake") {
        let cases: [(&str, &[&str], f64); 2] = [
            ("hello", &[hello.to_str().context("the target folder is not UTF-8")?], 0.3),
            ("python3", &["/usr/bin/python3", "--package", "python3"], 2.0),
        ];
        for (name, arguments, aim) in cases {
            let times = (0..BOOTS).map(|_| guests.bake_time(arguments)).collect::<Result<Vec<_>>>()?;
            note(Figure::alone(&format!("bake {name}"), "s", median(times), Aim::AtMost(aim)));
        }
    }
    report(&figures, "figures", filter)
}

/// Writes the figures to `target/bench/NAME.json` and `NAME.svg`; there must be some that the filter left.
fn report(figures: &[Figure], name: &str, filter: Option<&str>) -> Result<()> {
    if figures.is_empty() {
        bail!("no figure's name contains {:?}", filter.unwrap_or_default());
    }
    let folder = host::target().join("bench");
    fs::write(folder.join(format!("{name}.json")), serde_json::to_string_pretty(figures)?)?;
    chart::draw(figures, &folder.join(format!("{name}.svg")))?;
    println!("\nwritten: {0}/{name}.json, {0}/{name}.svg", folder.display());
    Ok(())
}
