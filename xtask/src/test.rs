//! `cargo xtask test` and `lint`.

use anyhow::Result;

use crate::host::{self, cargo};

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
    host::run(
        cargo(["test", "--no-fail-fast", "--workspace", "--exclude", "kernel", "--exclude", "kernel-netbsd"])
            .args(filter)
            .env("RUMPRUN_BAKE", binary),
    )
}
