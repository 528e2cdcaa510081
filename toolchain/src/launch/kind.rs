//! What kind of image a file is.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

/// A kind of image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageKind {
    /// Started by `-kernel`.
    Elf,
    /// A CD-ROM.
    Iso,
    /// A disk with a boot sector.
    Disk,
}

/// Looks at a file; `None` if it is no image.
pub fn detect(path: &Path) -> io::Result<Option<ImageKind>> {
    kind_of(&mut File::open(path)?)
}

/// See [`detect`].
pub fn kind_of(file: &mut (impl Read + Seek)) -> io::Result<Option<ImageKind>> {
    file.seek(SeekFrom::Start(0))?;
    let mut sector = Vec::new();
    file.by_ref().take(512).read_to_end(&mut sector)?;
    if sector.starts_with(b"\x7fELF") {
        return Ok(Some(ImageKind::Elf));
    }
    let mut volume = Vec::new();
    file.seek(SeekFrom::Start(0x8001))?;
    file.by_ref().take(5).read_to_end(&mut volume)?;
    if volume == b"CD001" {
        return Ok(Some(ImageKind::Iso));
    }
    Ok(sector.ends_with(&[0x55, 0xaa]).then_some(ImageKind::Disk))
}
