//! A block device as the ext4 crate wants it, and its errors as the kernel wants them.

use alloc::sync::Arc;

use ext4::{DeviceError, Error};
use rumpdev::block::{BlockDevice, SECTOR_SIZE};
use rumpkern::Errno;

/// See the module.
pub struct Disk(pub Arc<dyn BlockDevice>);

impl Disk {
    /// The device's sector, which counts units of 512 bytes.
    fn sector(&self, block: u64) -> u64 {
        block * (self.0.block_size() / SECTOR_SIZE) as u64
    }
}

fn failure(error: Errno) -> DeviceError {
    match error {
        Errno::EINVAL | Errno::ENXIO => DeviceError::OutOfRange,
        _ => DeviceError::Failed,
    }
}

impl ext4::BlockDevice for Disk {
    fn block_size(&self) -> u32 {
        self.0.block_size() as u32
    }

    fn sectors(&self) -> u64 {
        self.0.sectors() / (self.0.block_size() / SECTOR_SIZE) as u64
    }

    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), DeviceError> {
        self.0.read(self.sector(sector), buffer).map_err(failure)
    }

    fn write(&self, sector: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.0.write(self.sector(sector), data).map_err(failure)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.0.flush().map_err(failure)
    }
}

/// The error number for an error of the file system.
pub fn errno(error: Error) -> Errno {
    match error {
        Error::Device(_) | Error::Corrupt(_) => Errno::EIO,
        Error::NotExt4 | Error::Invalid(_) => Errno::EINVAL,
        Error::UnsupportedFeatures(_) | Error::Unsupported(_) => Errno::EOPNOTSUPP,
        Error::NotFound => Errno::ENOENT,
        Error::Exists => Errno::EEXIST,
        Error::NotDirectory => Errno::ENOTDIR,
        Error::IsDirectory => Errno::EISDIR,
        Error::NotEmpty => Errno::ENOTEMPTY,
        Error::NoSpace => Errno::ENOSPC,
        Error::NameTooLong => Errno::ENAMETOOLONG,
        Error::TooManyLinks => Errno::EMLINK,
        Error::FileTooLarge => Errno::EFBIG,
        Error::ReadOnly | Error::Aborted => Errno::EROFS,
    }
}
