//! The payload: a header and sections behind it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, little_endian::U32, little_endian::U64};

/// Begins every payload.
pub const MAGIC: [u8; 8] = *b"RUMPRUN1";
/// The payload stands at the first multiple of this behind the kernel's last byte in memory, so the kernel
/// finds it without being told.
pub const ALIGNMENT: u64 = 4096;

/// A byte range, relative to the header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Section {
    /// First byte.
    pub offset: U64,
    /// How many.
    pub length: U64,
}

/// What the payload starts with.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// Format version, [`VERSION`].
    pub version: U32,
    /// 0.
    pub reserved: U32,
    /// Bytes in the payload, header included.
    pub length: U64,
    /// [`crate::config::Configuration`], in postcard encoding.
    pub configuration: Section,
    /// [`crate::symbols`] of the kernel.
    pub symbols: Section,
    /// [`crate::rootfs`]; page-aligned.
    pub rootfs: Section,
}

/// The version of this format.
pub const VERSION: u32 = 1;

/// What is wrong with a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing baked behind this kernel.
    #[error("no payload behind the kernel: bake an image first")]
    Missing,
    /// Baked by another version.
    #[error("payload version {0}, this kernel reads {VERSION}: bake the image again")]
    Version(u32),
    /// A section leaves the payload.
    #[error("payload truncated: a section leaves it")]
    Truncated,
}

/// The start of a payload: everything in front of the root file system, which has `rootfs_length` bytes and
/// follows it. Whole pages.
#[cfg(feature = "std")]
pub fn begin(
    configuration: &crate::config::Configuration,
    symbols: &[u8],
    rootfs_length: u64,
) -> Result<Vec<u8>, postcard::Error> {
    let configuration = postcard::to_stdvec(configuration)?;
    let section =
        |offset: usize, length: u64| Section { offset: U64::new(offset as u64), length: U64::new(length) };
    let configuration_at = size_of::<Header>();
    // The symbol table is read as 32-bit words.
    let symbols_at = (configuration_at + configuration.len()).next_multiple_of(8);
    let rootfs_at = (symbols_at + symbols.len()).next_multiple_of(ALIGNMENT as usize);
    let header = Header {
        magic: MAGIC,
        version: U32::new(VERSION),
        reserved: U32::new(0),
        length: U64::new(rootfs_at as u64 + rootfs_length),
        configuration: section(configuration_at, configuration.len() as u64),
        symbols: section(symbols_at, symbols.len() as u64),
        rootfs: section(rootfs_at, rootfs_length),
    };
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(&configuration);
    bytes.resize(symbols_at, 0);
    bytes.extend_from_slice(symbols);
    bytes.resize(rootfs_at, 0);
    Ok(bytes)
}

/// A checked payload.
#[derive(Debug, Clone, Copy)]
pub struct Payload<'a> {
    bytes: &'a [u8],
    header: Header,
}

impl<'a> Payload<'a> {
    /// Reads the header of `bytes`, which may extend beyond the payload.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let (header, _) = Header::read_from_prefix(bytes).map_err(|_| Error::Missing)?;
        if header.magic != MAGIC {
            return Err(Error::Missing);
        }
        if header.version.get() != VERSION {
            return Err(Error::Version(header.version.get()));
        }
        let length = usize::try_from(header.length.get()).map_err(|_| Error::Truncated)?;
        let payload = Payload { bytes: bytes.get(..length).ok_or(Error::Truncated)?, header };
        for section in [header.configuration, header.symbols, header.rootfs] {
            payload.section(section).ok_or(Error::Truncated)?;
        }
        Ok(payload)
    }

    /// How many bytes the payload that begins in `bytes` says it has; `None` if there is none.
    pub fn length(bytes: &[u8]) -> Option<u64> {
        let (header, _) = Header::read_from_prefix(bytes).ok()?;
        (header.magic == MAGIC).then(|| header.length.get())
    }

    fn section(&self, section: Section) -> Option<&'a [u8]> {
        let start = usize::try_from(section.offset.get()).ok()?;
        let end = start.checked_add(usize::try_from(section.length.get()).ok()?)?;
        self.bytes.get(start..end)
    }

    /// The encoded configuration.
    pub fn configuration(&self) -> &'a [u8] {
        self.section(self.header.configuration).unwrap_or_default()
    }

    /// The symbol table.
    pub fn symbols(&self) -> &'a [u8] {
        self.section(self.header.symbols).unwrap_or_default()
    }

    /// The root file system.
    pub fn rootfs(&self) -> &'a [u8] {
        self.section(self.header.rootfs).unwrap_or_default()
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::config::Configuration;

    #[test]
    fn reads_back() {
        let configuration = Configuration { hostname: "baked".into(), ..Default::default() };
        let mut bytes = begin(&configuration, b"symbols", 4096).expect("encode");
        assert_eq!(bytes.len() % 4096, 0);
        assert_eq!(Payload::parse(&bytes).err(), Some(Error::Truncated));
        bytes.extend([7; 4096 + 100]);
        let payload = Payload::parse(&bytes).expect("parse");
        assert_eq!(payload.symbols(), b"symbols");
        assert_eq!(payload.rootfs(), [7; 4096]);
        assert_eq!(postcard::from_bytes::<Configuration>(payload.configuration()), Ok(configuration));
        assert_eq!(Payload::parse(&[0; 200]).err(), Some(Error::Missing));
        bytes[8] = 9;
        assert_eq!(Payload::parse(&bytes).err(), Some(Error::Version(9)));
    }
}
