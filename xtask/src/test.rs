//! `cargo xtask test` and `lint`.

use std::{env, thread};

use anyhow::Result;

use crate::host::{self, cargo};

/// How many tests run side by side. Those that boot images wait more than they compute: one more than there are CPUs.
const THREADS: &str = "RUST_TEST_THREADS";

/// Formatting and lints of every crate.
pub fn lint() -> Result<()> {
    host::run(&mut cargo(["fmt", "--all", "--check"]))?;
    host::run(&mut cargo([
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--exclude",
        "kernel",
        "--exclude",
        "kernel-netbsd",
        "--",
        "-D",
        "warnings",
    ]))?;
    let kernels =
        ["clippy", "--quiet", "--package", "kernel", "--package", "kernel-netbsd", "--", "-D", "warnings"];
    host::run(&mut cargo(kernels))?;
    let linux_on_netbsd =
        ["clippy", "--quiet", "--package", "kernel-netbsd", "--features", "linux", "--", "-D", "warnings"];
    host::run(&mut cargo(linux_on_netbsd))
}

/// Lints, unit tests, then the tests that boot images.
pub fn run(filter: Option<&str>) -> Result<()> {
    if let Err(error) = host::install(&[host::DEMO_PACKAGES, host::TEST_PACKAGES].concat()) {
        eprintln!("{error}\ntests that need them will be skipped");
    }
    if filter.is_none() {
        lint()?;
    }
    let binary = host::rumprun_bake()?;
    let mut tests =
        cargo(["test", "--no-fail-fast", "--workspace", "--exclude", "kernel", "--exclude", "kernel-netbsd"]);
    tests.args(filter).env("RUMPRUN_BAKE", binary);
    if env::var_os(THREADS).is_none() {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        tests.env(THREADS, (cpus + 1).to_string());
    }
    host::run(&mut tests)
}
