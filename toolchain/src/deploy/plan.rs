//! What every engine's file says: the machine, with absolute paths, and checks that engines share.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Engine, Error, Request};
use crate::launch::{
    ImageKind, MacAddress, Nic, detect,
    network::{Backend, guest_networks, macs},
};

/// What a boot loader's command line takes in the kernel, in bytes.
const COMMAND_LINE_LIMIT: usize = 2048;

/// A machine to describe.
pub struct Plan {
    /// For whom.
    pub engine: Engine,
    /// Its name: a DNS label.
    pub name: String,
    /// The image's absolute path.
    pub image: String,
    /// The image's kind.
    pub kind: ImageKind,
    /// CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory: u64,
    /// Absolute paths of the disks.
    pub disks: Vec<String>,
    /// The places of PCI devices to pass through.
    pub pci_devices: Vec<String>,
    /// The interfaces with their addresses.
    pub nics: Vec<(Nic, MacAddress)>,
    /// The kernel's command line; empty if everything is as baked.
    pub command_line: String,
}

impl Plan {
    /// Looks at the files.
    pub fn new(engine: Engine, request: &Request) -> Result<Self, Error> {
        let failed = |source| Error::File { path: request.image.clone(), source };
        let kind = detect(&request.image)
            .map_err(failed)?
            .ok_or_else(|| Error::NotAnImage(request.image.clone()))?;
        let file_name = request.image.file_name().unwrap_or_default().to_string_lossy();
        let name = match &request.name {
            Some(name) if *name == label(name) => name.clone(),
            Some(name) => {
                return Err(Error::Options(format!(
                    "--name {name}: at most 63 small letters, digits and `-`, a letter first"
                )));
            }
            None => label(&request.image.file_stem().unwrap_or_default().to_string_lossy()),
        };
        let macs = macs(&request.networks, &file_name);
        let mut command_line = request.command_line.clone();
        command_line.networks.extend(guest_networks(&request.networks, &macs));
        let command_line = command_line.render();
        if command_line.len() > COMMAND_LINE_LIMIT {
            return Err(Error::Options(format!(
                "arguments, environment and addresses take {} bytes; {COMMAND_LINE_LIMIT} is the most here: bake them",
                command_line.len()
            )));
        }
        Ok(Plan {
            engine,
            name,
            image: absolute(&request.image)?,
            kind,
            cpus: request.cpus,
            memory: request.memory.div_ceil(1 << 20),
            disks: request.disks.iter().map(|disk| absolute(disk)).collect::<Result<_, _>>()?,
            pci_devices: request.pci_devices.clone(),
            nics: request.networks.iter().cloned().zip(macs).collect(),
            command_line,
        })
    }

    /// An error about the engine.
    pub fn unsupported<T>(&self, reason: impl Into<String>) -> Result<T, Error> {
        Err(Error::Unsupported { engine: self.engine.name(), reason: reason.into() })
    }

    /// Refuses anything but an ELF image.
    pub fn needs_elf(&self) -> Result<(), Error> {
        match self.kind {
            ImageKind::Elf => Ok(()),
            _ => self.unsupported("starts ELF images: bake with --format elf"),
        }
    }

    /// Refuses words for the kernel, where nothing hands them over.
    pub fn needs_no_words(&self) -> Result<(), Error> {
        match self.command_line.is_empty() {
            true => Ok(()),
            false => self.unsupported(
                "hands no arguments, environment or addresses to a disk image: bake them, or bake with --format elf",
            ),
        }
    }

    /// Refuses an interface.
    pub fn no_link<T>(&self, nic: &Nic, instead: &str) -> Result<T, Error> {
        self.unsupported(format!("has no {}: {instead}", nic.backend.name()))
    }

    /// Refuses models other than virtio.
    pub fn needs_virtio(&self, nic: &Nic) -> Result<(), Error> {
        match nic.model() {
            crate::launch::network::Model::Virtio => Ok(()),
            model => self.unsupported(format!("has virtio NICs only, no {}", model.name())),
        }
    }

    /// The tap of an interface that must have one.
    pub fn tap<'a>(&self, nic: &'a Nic) -> Result<&'a str, Error> {
        match &nic.backend {
            Backend::Tap(name) => Ok(name),
            Backend::Bridge(name) => {
                self.no_link(nic, &format!("make a tap in it (ip link set TAP master {name}) and use --tap"))
            }
            Backend::User(_) | Backend::Socket(_) => self.no_link(nic, "use --tap"),
        }
    }
}

/// A DNS label from any text (RFC 1123, with a letter first as RFC 1035 has it).
fn label(text: &str) -> String {
    let letter = |character: char| match character.to_ascii_lowercase() {
        character @ ('a'..='z' | '0'..='9') => character,
        _ => '-',
    };
    let text: String = text.chars().map(letter).collect();
    let text = text.trim_matches('-');
    let text = if text.starts_with(|first: char| first.is_ascii_lowercase()) {
        text.to_owned()
    } else {
        format!("image-{text}")
    };
    text.get(..63).unwrap_or(&text).trim_end_matches('-').to_owned()
}

fn absolute(path: &Path) -> Result<String, Error> {
    let absolute: PathBuf =
        fs::canonicalize(path).map_err(|source| Error::File { path: path.into(), source })?;
    match absolute.to_str() {
        Some(text) if !text.contains('\n') => Ok(text.into()),
        _ => Err(Error::Options(format!("{}: the path is no line of UTF-8 text", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::label;

    #[test]
    fn names_become_labels() {
        for (text, expected) in [
            ("Web_Server", "web-server"),
            ("-x-", "x"),
            ("7zip", "image-7zip"),
            ("é", "image"),
            ("", "image"),
        ] {
            assert_eq!(label(text), expected);
        }
        assert_eq!(label(&"a".repeat(100)).len(), 63);
        assert_eq!(label(&label("Web_Server")), label("Web_Server"));
    }
}
