//! Guest instructions per request, counted by a plug-in of QEMU's translator.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use super::{
    super::guests::Side,
    appliance::Appliance,
    guest::{Guest, Guests},
};
use crate::host;

/// Bytes from the count of a CPU to the next one's.
const STRIDE: usize = 64;

fn plugin() -> PathBuf {
    host::target().join("bench/net/count.so")
}

/// Compiles the plug-in.
pub fn build() -> Result<()> {
    let source = host::checkout().join("xtask/plugin/count.c");
    host::run(Command::new("gcc").args(["-O2", "-shared", "-fPIC", "-o"]).arg(plugin()).arg(source))
}

/// The most instructions that any of the guest's CPUs takes for each request: `drive` makes requests and returns how many.
pub fn per_request(
    guests: &Guests,
    side: Side,
    appliance: &Appliance,
    cpus: usize,
    drive: impl FnOnce(&Guest) -> Result<f64>,
) -> Result<f64> {
    let file = host::target().join(format!("bench/net/count-{}", std::process::id()));
    let words = ["-plugin".to_owned(), format!("{},cpus={}", plugin().display(), file.display())];
    let read = || -> Result<Vec<u64>> {
        let bytes = fs::read(&file).context("the plug-in did not start")?;
        let counts = bytes.chunks_exact(STRIDE).take(cpus);
        let counts = counts.filter_map(|cpu| cpu.first_chunk()).copied().map(u64::from_le_bytes);
        Ok(counts.collect())
    };
    let measure = || -> Result<f64> {
        let mut guest = guests.start(side, appliance, cpus, &words)?;
        guest.wait_until(|address| std::net::TcpStream::connect(address).is_ok())?;
        let before = read()?;
        let requests = drive(&guest)?;
        let after = read()?;
        let most = after.iter().zip(before).map(|(after, before)| after - before).max();
        Ok(most.context("the plug-in counted nothing")? as f64 / requests)
    };
    let result = measure();
    // There is none if QEMU did not start.
    let _ = fs::remove_file(&file);
    result
}
