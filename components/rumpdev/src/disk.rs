//! Disks as files: `/dev/vda` and its kin. Reads and writes go straight to the device, past every cache: mount a
//! disk or use its node, not both.

use alloc::{sync::Arc, vec};
use core::any::Any;

use rumpkern::{
    Errno, Result,
    uio::{Sink, Source},
    vm::Pager,
};
use rumpuser::rumpuser_copyout;
use rumpvfs::{
    device,
    file::{File, OpenFlags},
    vnode::{Attributes, Kind, Vnode, device_number},
};

use crate::block::{self, BlockDevice, SECTOR_SIZE};

/// The major number, as Linux often gives virtio disks.
pub const MAJOR: u32 = 254;
/// Minor numbers for a disk, its partitions included.
const MINORS: u32 = 16;
/// Bytes moved at a time.
const CHUNK: usize = 64 << 10;

const BLKGETSIZE: u32 = 0x1260;
const BLKFLSBUF: u32 = 0x1261;
const BLKSSZGET: u32 = 0x1268;
const BLKPBSZGET: u32 = 0x127b;
const BLKGETSIZE64: u32 = 0x8008_1272;

/// The device number of the disk with this index.
pub fn number(index: usize) -> u64 {
    device_number(MAJOR, index as u32 * MINORS)
}

/// Lets device nodes with [`MAJOR`] be opened.
pub fn register() {
    device::register(Kind::Block, MAJOR, None, Arc::new(open));
}

fn open(vnode: &Arc<dyn Vnode>, minor: u32, flags: OpenFlags) -> Result<Arc<dyn File>> {
    if !minor.is_multiple_of(MINORS) {
        return Err(Errno::ENXIO);
    }
    let (_, device) = block::all().into_iter().nth((minor / MINORS) as usize).ok_or(Errno::ENXIO)?;
    if flags.writable() && device.read_only() {
        return Err(Errno::EROFS);
    }
    Ok(Arc::new(Disk { vnode: vnode.clone(), device }))
}

/// An open disk.
struct Disk {
    vnode: Arc<dyn Vnode>,
    device: Arc<dyn BlockDevice>,
}

impl Disk {
    fn size(&self) -> u64 {
        self.device.sectors() * SECTOR_SIZE as u64
    }

    /// The blocks around at most `length` bytes at `offset`: first sector, bytes, where the data starts in them,
    /// and how much of it there is.
    fn around(&self, offset: u64, length: usize) -> (u64, usize, usize, usize) {
        let block = self.device.block_size();
        let skip = (offset % block as u64) as usize;
        let left = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = length.min(left).min(CHUNK - skip);
        ((offset - skip as u64) / SECTOR_SIZE as u64, (skip + length).next_multiple_of(block), skip, length)
    }
}

impl File for Disk {
    fn read(&self, sink: &mut Sink<'_>, mut offset: u64, _flags: OpenFlags) -> Result<usize> {
        let mut done = 0;
        while sink.remaining() > 0 && offset < self.size() {
            let (sector, bytes, skip, length) = self.around(offset, sink.remaining());
            let mut buffer = vec![0; bytes];
            self.device.read(sector, &mut buffer)?;
            let taken = sink.put(&buffer[skip..skip + length])?;
            done += taken;
            offset += taken as u64;
            if taken < length {
                break;
            }
        }
        Ok(done)
    }

    fn write(&self, source: &mut Source<'_>, offset: &mut u64, flags: OpenFlags) -> Result<usize> {
        let mut done = 0;
        while source.remaining() > 0 {
            if *offset >= self.size() {
                return if done > 0 { Ok(done) } else { Err(Errno::ENOSPC) };
            }
            let (sector, bytes, skip, length) = self.around(*offset, source.remaining());
            let mut buffer = vec![0; bytes];
            if skip > 0 || length < bytes {
                self.device.read(sector, &mut buffer)?;
            }
            let taken = source.take(&mut buffer[skip..skip + length])?;
            if taken < length && skip + taken < bytes {
                // User memory gave less than it promised: the rest of the blocks stays as it was.
                let given = buffer[skip..skip + taken].to_vec();
                self.device.read(sector, &mut buffer)?;
                buffer[skip..skip + taken].copy_from_slice(&given);
            }
            self.device.write(sector, &buffer)?;
            done += taken;
            *offset += taken as u64;
            if taken < length {
                break;
            }
        }
        if flags.intersects(OpenFlags::SYNC | OpenFlags::DATA_SYNC) {
            self.device.flush()?;
        }
        Ok(done)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn ioctl(&self, request: u32, argument: usize) -> Result<usize> {
        let block = self.device.block_size() as u32;
        let missed = match request {
            BLKGETSIZE => rumpuser_copyout(&self.device.sectors().to_le_bytes(), argument),
            BLKGETSIZE64 => rumpuser_copyout(&self.size().to_le_bytes(), argument),
            BLKSSZGET | BLKPBSZGET => rumpuser_copyout(&block.to_le_bytes(), argument),
            BLKFLSBUF => return self.device.flush().map(|()| 0),
            _ => return Err(Errno::ENOTTY),
        };
        if missed > 0 { Err(Errno::EFAULT) } else { Ok(0) }
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        self.device.flush()
    }

    fn vnode(&self) -> Option<&Arc<dyn Vnode>> {
        Some(&self.vnode)
    }

    fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes { size: self.size(), ..self.vnode.attributes()? })
    }

    fn pager(&self) -> Result<Arc<dyn Pager>> {
        Err(Errno::ENODEV)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use rumpuser::{Frame, sync::Mutex};

    use super::*;

    struct Memory(Mutex<Vec<u8>>);

    impl BlockDevice for Memory {
        fn sectors(&self) -> u64 {
            (self.0.lock().len() / SECTOR_SIZE) as u64
        }

        fn block_size(&self) -> usize {
            4096
        }

        fn read_only(&self) -> bool {
            false
        }

        fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<()> {
            assert!(buffer.len().is_multiple_of(4096) && sector.is_multiple_of(8));
            let start = sector as usize * SECTOR_SIZE;
            buffer.copy_from_slice(&self.0.lock()[start..start + buffer.len()]);
            Ok(())
        }

        fn write(&self, sector: u64, buffer: &[u8]) -> Result<()> {
            assert!(buffer.len().is_multiple_of(4096) && sector.is_multiple_of(8));
            let start = sector as usize * SECTOR_SIZE;
            self.0.lock()[start..start + buffer.len()].copy_from_slice(buffer);
            Ok(())
        }

        fn read_frames(&self, _sector: u64, _frames: &[Frame]) -> Result<()> {
            Err(Errno::EIO)
        }

        fn write_frames(&self, _sector: u64, _frames: &[Frame]) -> Result<()> {
            Err(Errno::EIO)
        }

        fn flush(&self) -> Result<()> {
            Ok(())
        }

        fn discard(&self, _sector: u64, _sectors: u64) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn any_bytes_can_be_read_and_written() {
        let size = 256 << 10;
        let device = Arc::new(Memory(Mutex::new(vec![0; size])));
        let vnode: Arc<dyn Vnode> = rumpvfs::vnode::FileSystem::root(
            &*rumpvfs::tmpfs::TmpFs::new(Default::default(), 0o755).expect("tmpfs"),
        );
        let disk = Disk { vnode, device };
        let mut model = vec![0u8; size];
        let mut state = 12345u64;
        for _ in 0..200 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let offset = (state >> 33) as usize % size;
            let length = ((state >> 20) as usize % 100_000).min(size - offset);
            let data: Vec<u8> = (0..length).map(|index| (index as u64 ^ state) as u8).collect();
            let mut position = offset as u64;
            let done = disk.write(&mut Source::kernel(&data), &mut position, OpenFlags::empty());
            assert_eq!((done, position), (Ok(length), (offset + length) as u64));
            model[offset..offset + length].copy_from_slice(&data);
            let mut back = vec![0; length + 10];
            let got = disk.read(&mut Sink::kernel(&mut back), offset as u64, OpenFlags::empty());
            let expected = &model[offset..(offset + length + 10).min(size)];
            assert_eq!(got, Ok(expected.len()));
            assert!(&back[..expected.len()] == expected);
        }
        let end = disk.write(&mut Source::kernel(b"x"), &mut (size as u64), OpenFlags::empty());
        assert_eq!(end, Err(Errno::ENOSPC));
    }
}
