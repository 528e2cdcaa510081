//! `bake`.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use toolchain::{
    bake::{self, BakeRequest, NetbsdRequest, TreeRequest},
    configs, configuration, output, package, programs,
};

use crate::{arguments::BakeArguments, progress::Progress};

pub fn bake(arguments: &BakeArguments, progress: &Progress) -> Result<ExitCode> {
    let words: Vec<Vec<u8>> =
        arguments.programs.iter().map(|word| word.as_encoded_bytes().to_vec()).collect();
    let is_file = |word: &[u8]| PathBuf::from(OsStr::from_bytes(word)).is_file();
    let mut programs = programs::parse(&words, is_file)?;
    if let Some(last) = programs.last_mut() {
        last.words.extend(arguments.arguments.iter().map(|word| word.as_encoded_bytes().to_vec()));
    }
    let loaded = arguments.configuration.as_deref().map(configuration::load).transpose()?.unwrap_or_default();
    let mut configuration = loaded.configuration;
    for word in &arguments.environment {
        let (name, value) = super::variable(word)?;
        configuration.environment.retain(|(present, _)| *present != name);
        configuration.environment.push((name, value));
    }
    if programs.is_empty() && configuration.programs.is_empty() {
        bail!(programs::Error::Empty);
    }
    if programs.is_empty()
        && let Some(last) = configuration.programs.last_mut()
    {
        last.arguments.extend(arguments.arguments.iter().map(|word| word.as_encoded_bytes().to_vec()));
    }
    let mut trees = loaded.trees;
    trees.extend(arguments.rootfs.iter().map(|word| tree(word)));
    let mut packages = loaded.packages;
    packages.extend(arguments.packages.iter().cloned());
    let netbsd = netbsd(arguments)?;
    let compress = loaded.compress || arguments.compress;
    let request = BakeRequest {
        config: configs::find(&arguments.config)?,
        output: arguments.output.clone(),
        format: arguments.format.into(),
        programs,
        trees,
        packages: package::Selection { names: packages, ..Default::default() },
        files: Vec::new(),
        components: Vec::new(),
        netbsd,
        compress,
        configuration,
    };
    output::remove_on_signals().context("cannot catch signals")?;
    let manifest = bake::bake(&request, progress)?;
    progress.finish();
    if arguments.json {
        super::print_json(&manifest)?;
    } else {
        progress.say(&format!(
            "{}: {} files, {} in the root file system, kernel {}",
            arguments.output.display(),
            manifest.rootfs.files,
            crate::progress::size(manifest.rootfs.bytes),
            crate::progress::size(manifest.kernel.bytes),
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// The NetBSD component set that is asked for.
fn netbsd(arguments: &BakeArguments) -> Result<Option<NetbsdRequest>> {
    let name = match arguments.kernel.split_once(':') {
        _ if arguments.kernel == "builtin" => return Ok(None),
        _ if arguments.kernel == "netbsd" => None,
        Some(("netbsd", name)) => Some(name),
        _ => bail!("--kernel {}: there are `builtin`, `netbsd` and `netbsd:SET`", arguments.kernel),
    };
    let set = toolchain::netbsd::set::directory(name)?;
    Ok(Some(NetbsdRequest { set, components: arguments.components.clone() }))
}

/// Reads `DIR[:AT]`. A folder whose name has a colon is meant as it is.
fn tree(word: &OsStr) -> TreeRequest {
    let bytes = word.as_bytes();
    let cut = bytes.iter().rposition(|&byte| byte == b':').filter(|_| !PathBuf::from(word).exists());
    let (host, at) = match cut {
        Some(cut) => (&bytes[..cut], &bytes[cut + 1..]),
        None => (bytes, &b"/"[..]),
    };
    TreeRequest { host: PathBuf::from(OsStr::from_bytes(host)), at: at.to_vec() }
}
