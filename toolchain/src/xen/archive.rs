//! An initramfs in the making.

use std::io::{self, Write};

use cpio::newc;

/// An archive of the kind that Linux unpacks at boot ("newc"). The kernel takes several behind each other.
pub struct Archive<W: Write> {
    writer: W,
    entries: u32,
}

/// The types of `st_mode`, with the usual permissions.
const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

impl<W: Write> Archive<W> {
    /// An empty one.
    pub fn new(writer: W) -> Self {
        Archive { writer, entries: 0 }
    }

    fn add(&mut self, name: &str, mode: u32, data: &[u8]) -> io::Result<()> {
        self.entries += 1;
        let length = u32::try_from(data.len()).map_err(io::Error::other)?;
        let entry = newc::Builder::new(name).ino(self.entries).mode(mode).nlink(1);
        let mut writer = entry.write(&mut self.writer, length);
        writer.write_all(data)?;
        writer.finish()?;
        Ok(())
    }

    /// Adds a folder; its parent must be there.
    pub fn folder(&mut self, name: &str) -> io::Result<()> {
        self.add(name, FOLDER, &[])
    }

    /// Adds a file.
    pub fn file(&mut self, name: &str, data: &[u8]) -> io::Result<()> {
        self.add(name, FILE, data)
    }

    /// Adds a file that can be executed.
    pub fn program(&mut self, name: &str, data: &[u8]) -> io::Result<()> {
        self.add(name, PROGRAM, data)
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.add(name, LINK, target.as_bytes())
    }

    /// Writes the end.
    pub fn finish(mut self) -> io::Result<()> {
        newc::trailer(&mut self.writer)?;
        // The kernel wants the next archive at a multiple of 4.
        self.writer.flush()
    }
}
