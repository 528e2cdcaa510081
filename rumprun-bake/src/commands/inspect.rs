//! `inspect`.

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use toolchain::{
    inspect::{self, Entry, Inspection},
    launch::ImageKind,
};

use crate::progress::size;

pub fn inspect(image: &Path, json: bool, files: bool) -> Result<ExitCode> {
    let found = inspect::inspect(image)?;
    if json {
        super::print_json(&json_value(&found, files)?)?;
    } else {
        super::print(&text(&found, files))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the bill of materials as it is in the image.
pub fn sbom(image: &Path) -> Result<ExitCode> {
    let bytes = inspect::file(image, toolchain::sbom::PATH)?;
    super::print(&String::from_utf8_lossy(&bytes))?;
    Ok(ExitCode::SUCCESS)
}

fn kind(found: &Inspection) -> &'static str {
    match found.kind {
        ImageKind::Elf => "elf",
        ImageKind::Iso => "iso",
        ImageKind::Disk => "raw",
    }
}

/// The manifest, with what was found out about the file.
fn json_value(found: &Inspection, files: bool) -> Result<serde_json::Value> {
    let mut value = serde_json::to_value(&found.manifest)?;
    value["format"] = kind(found).into();
    value["bytes"] = found.bytes.into();
    value["files"] = found.manifest.rootfs.files.into();
    if files {
        value["entries"] = serde_json::to_value(&found.entries)?;
    }
    Ok(value)
}

fn text(found: &Inspection, files: bool) -> String {
    let mut lines = Vec::new();
    let manifest = &found.manifest;
    lines.push(format!("format       {}, {}", kind(found), size(found.bytes)));
    lines.push(format!("config       {} (rumprun-bake {})", manifest.config, manifest.tool));
    lines.push(format!("host name    {}", manifest.hostname));
    for program in &manifest.programs {
        let separator = if program.then == ";" { "" } else { &program.then };
        lines.push(format!("program      {} {:?} {separator}", program.path, program.arguments));
    }
    for variable in &manifest.environment {
        lines.push(format!("environment  {variable}"));
    }
    for mount in &manifest.mounts {
        lines.push(format!("mount        {mount}"));
    }
    lines.push(format!("kernel       {}, sha256 {}", size(manifest.kernel.bytes), manifest.kernel.sha256));
    lines.push(format!(
        "files        {} in {}, sha256 {}",
        manifest.rootfs.files,
        size(manifest.rootfs.bytes),
        manifest.rootfs.sha256
    ));
    if files {
        lines.push(String::new());
        for entry in &found.entries {
            lines.push(line(entry));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// A file as `ls -l` shows it.
fn line(entry: &Entry) -> String {
    let kind = match entry.mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => '-',
    };
    let target = entry.target.as_ref().map(|target| format!(" -> {target}")).unwrap_or_default();
    format!("{kind}{:04o} {:>10} {}{target}", entry.mode & 0o7777, entry.size, entry.path)
}
