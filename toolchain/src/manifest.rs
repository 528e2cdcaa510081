//! What an image says of itself: JSON in an ELF note, for `inspect` and for tools of others.

use image::{
    config::{Configuration, Then},
    writer,
};
use serde::{Deserialize, Serialize};

/// The note's name and type.
pub const NOTE_NAME: &[u8] = b"rumprun\0";
/// See [`NOTE_NAME`].
pub const NOTE_TYPE: u32 = 1;

/// An image's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the baker.
    pub tool: String,
    /// Name of the baking configuration.
    pub config: String,
    /// Host name.
    pub hostname: String,
    /// What runs, in order.
    pub programs: Vec<Program>,
    /// Environment, as `NAME=VALUE`.
    pub environment: Vec<String>,
    /// Mounts, as `source on target (kind)`.
    pub mounts: Vec<String>,
    /// The kernel.
    pub kernel: Kernel,
    /// The root file system.
    pub rootfs: RootFs,
    /// Physical address of the payload.
    pub payload_address: u64,
}

/// A program in a manifest. What isn't UTF-8 is shown with replacement characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Path in the image.
    pub path: String,
    /// Arguments, `argv[0]` included.
    pub arguments: Vec<String>,
    /// How the next follows: `;`, `&` or `|`.
    pub then: String,
}

/// The kernel in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Hash of the kernel as it was built.
    pub sha256: String,
    /// Bytes of code and data in the image.
    pub bytes: u64,
    /// Bytes in memory, before it allocates.
    pub memory: u64,
    /// Bytes of function names for backtraces.
    pub symbols: u64,
    /// The NetBSD component set, if it is not the built-in components.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component_set: Option<String>,
}

/// The root file system in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Hash of the packed file system.
    pub sha256: String,
    /// Bytes in the image.
    pub bytes: u64,
    /// Regular files.
    pub files: u64,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Manifest {
    /// Describes an image.
    pub fn new(
        configuration: &Configuration,
        kernel: Kernel,
        rootfs: &writer::Layout<'_>,
        rootfs_hash: String,
        payload_address: u64,
    ) -> Self {
        let programs = configuration.programs.iter().map(|program| Program {
            path: text(&program.path),
            arguments: program.arguments.iter().map(|argument| text(argument)).collect(),
            then: match program.then {
                Then::Wait => ";",
                Then::Background => "&",
                Then::Pipe => "|",
            }
            .into(),
        });
        let environment = configuration.environment.iter();
        let mounts = configuration.mounts.iter();
        Manifest {
            tool: env!("CARGO_PKG_VERSION").into(),
            config: configuration.config.clone(),
            hostname: configuration.hostname.clone(),
            programs: programs.collect(),
            environment: environment.map(|(name, value)| format!("{}={}", text(name), text(value))).collect(),
            mounts: mounts
                .map(|mount| format!("{} on {} ({})", text(&mount.source), text(&mount.target), mount.kind))
                .collect(),
            kernel,
            rootfs: RootFs { sha256: rootfs_hash, bytes: rootfs.length(), files: rootfs.files() as u64 },
            payload_address,
        }
    }
}

/// The manifest as an ELF note.
pub fn note(manifest: &Manifest) -> Vec<u8> {
    // Strings, numbers and lists always encode.
    let json = serde_json::to_vec(manifest).unwrap_or_default();
    let mut note = Vec::new();
    for word in [NOTE_NAME.len() as u32, json.len() as u32, NOTE_TYPE] {
        note.extend(word.to_le_bytes());
    }
    note.extend_from_slice(NOTE_NAME);
    note.extend_from_slice(&json);
    note.resize(note.len().next_multiple_of(4), 0);
    note
}

/// Finds the manifest among notes.
pub fn from_notes(mut notes: &[u8]) -> Option<Manifest> {
    loop {
        let word = |at: usize| Some(u32::from_le_bytes(notes.get(at..at + 4)?.try_into().ok()?) as usize);
        let name_end = 12usize.checked_add(word(0)?)?;
        let start = name_end.checked_next_multiple_of(4)?;
        let end = start.checked_add(word(4)?)?;
        if notes.get(12..name_end)? == NOTE_NAME && word(8)? == NOTE_TYPE as usize {
            return serde_json::from_slice(notes.get(start..end)?).ok();
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_is_found_behind_other_notes() {
        let manifest = Manifest {
            tool: "1".into(),
            config: "hw_direct".into(),
            hostname: "h".into(),
            programs: vec![],
            environment: vec!["A=b".into()],
            mounts: vec![],
            kernel: Kernel { sha256: "ab".into(), bytes: 1, memory: 2, symbols: 3, component_set: None },
            rootfs: RootFs { sha256: "cd".into(), bytes: 4096, files: 1 },
            payload_address: 0x20_0000,
        };
        let mut notes = vec![4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0];
        notes.extend(b"Xen\0\x01\x02\x03\x04");
        assert_eq!(from_notes(&notes), None);
        notes.extend(note(&manifest));
        assert_eq!(from_notes(&notes), Some(manifest));
        for length in 0..notes.len() {
            from_notes(&notes[..length]);
        }
    }
}
