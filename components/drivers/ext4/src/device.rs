//! What the file system asks of the disk below it.

/// Why the disk did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The request reaches beyond the end of the disk, or is not a whole number of sectors.
    #[error("request outside the device")]
    OutOfRange,
    /// The disk reported a failure.
    #[error("input/output error")]
    Failed,
}

/// A disk. Requests are whole sectors; several threads may have requests under way at once.
///
/// A completed `write` may be lost, or reordered with others, until a later `flush` completes: the
/// journal relies on nothing but `flush`.
pub trait BlockDevice: Send + Sync {
    /// Bytes in a sector, a power of two from 512 to 4096.
    fn block_size(&self) -> u32;
    /// How many sectors the disk has.
    fn sectors(&self) -> u64;
    /// Reads from `sector` on; `buffer` is a whole number of sectors.
    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), DeviceError>;
    /// Writes from `sector` on; `data` is a whole number of sectors.
    fn write(&self, sector: u64, data: &[u8]) -> Result<(), DeviceError>;
    /// Makes every write that completed before this call durable.
    fn flush(&self) -> Result<(), DeviceError>;
}
