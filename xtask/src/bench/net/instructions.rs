//! Guest instructions per request, counted by a plug-in of QEMU's translator.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use super::{super::guests::Side, appliance::Appliance, guest::Guests};
use crate::host;

fn plugin() -> PathBuf {
    host::target().join("bench/net/count.so")
}

/// Compiles the plug-in.
pub fn build() -> Result<()> {
    let source = host::checkout().join("xtask/plugin/count.c");
    host::run(Command::new("gcc").args(["-O2", "-shared", "-fPIC", "-o"]).arg(plugin()).arg(source))
}

/// The guest's instructions for each request; `drive` makes requests and returns how many. One CPU.
pub fn per_request(
    guests: &Guests,
    side: Side,
    appliance: &Appliance,
    drive: impl FnOnce() -> Result<f64>,
) -> Result<f64> {
    let file = host::target().join(format!("bench/net/count-{}", std::process::id()));
    let words = ["-plugin".to_owned(), format!("{},count={}", plugin().display(), file.display())];
    let read = || -> Result<f64> {
        let bytes = fs::read(&file).context("the plug-in did not start")?;
        let word = bytes.get(..8).context("the plug-in's file is too short")?;
        Ok(u64::from_le_bytes(word.try_into()?) as f64)
    };
    let measure = || -> Result<f64> {
        let mut guest = guests.start(side, appliance, 1, &words)?;
        guest.wait_until(|address| std::net::TcpStream::connect(address).is_ok())?;
        let before = read()?;
        let requests = drive()?;
        Ok((read()? - before) / requests)
    };
    let result = measure();
    // There is none if QEMU did not start.
    let _ = fs::remove_file(&file);
    result
}
