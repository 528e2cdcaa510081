//! The developer's commands. They drive `rumprun-bake` and cargo; the work itself is in the libraries.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod demo;
mod host;
mod peer;
mod test;

/// Developer commands of rumprun-bake.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bake Debian's python3, boot it on 2 CPUs, and show what came of it.
    Demo,
    /// Run every test: formatting, lints, unit tests, and the tests that boot images.
    Test {
        /// Only tests whose name contains this.
        filter: Option<String>,
    },
    /// Measure beside a Linux guest, in one run; writes a table, JSON and SVG to target/bench.
    Bench {
        /// Other figures than the kernel's own.
        #[command(subcommand)]
        suite: Option<Suite>,
        /// Measure only the figures whose name contains this.
        filter: Option<String>,
    },
    /// Check formatting and lints.
    Lint,
}

#[derive(Subcommand)]
enum Suite {
    /// Servers and their clients, over a tap in a network namespace.
    Net {
        /// Measure one side only.
        #[arg(long, value_enum)]
        side: Option<bench::Side>,
        /// Measure only the figures whose name contains this.
        filter: Option<String>,
    },
    /// Domains of a real Xen in QEMU, with clients in its dom0.
    Xen {
        /// Measure only the figures whose name contains this.
        filter: Option<String>,
    },
    /// An installed NetBSD component set (RUMPRUN_BAKE_NETBSD_SET names one), beside the built-in set.
    Netbsd {
        /// Measure only the figures whose name contains this.
        filter: Option<String>,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo => demo::run(),
        Command::Test { filter } => test::run(filter.as_deref()),
        Command::Bench { suite: Some(Suite::Net { side, filter }), .. } => {
            bench::net::run(side, filter.as_deref())
        }
        Command::Bench { suite: Some(Suite::Netbsd { filter }), .. } => bench::netbsd::run(filter.as_deref()),
        Command::Bench { suite: Some(Suite::Xen { filter }), .. } => bench::xen::run(filter.as_deref()),
        Command::Bench { suite: None, filter } => bench::run(filter.as_deref()),
        Command::Lint => test::lint(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
