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

use crate::{
    block::{self, BlockDevice, SECTOR_SIZE},
    blocks::Blocks,
};

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
    let index = (minor / MINORS) as usize;
    let device = block::all().into_iter().find(|disk| disk.index == index).ok_or(Errno::ENXIO)?.device;
    if flags.writable() && device.read_only() {
        return Err(Errno::EROFS);
    }
    Ok(Arc::new(Disk { vnode: vnode.clone(), blocks: Blocks::new(device) }))
}

/// An open disk.
struct Disk {
    vnode: Arc<dyn Vnode>,
    blocks: Blocks,
}

impl Disk {
    fn device(&self) -> &dyn BlockDevice {
        self.blocks.device()
    }

    fn size(&self) -> u64 {
        self.device().sectors() * SECTOR_SIZE as u64
    }

    /// How many of `length` bytes at `offset` are moved at once; the next ones begin with a block.
    fn part(&self, offset: u64, length: usize) -> usize {
        let skip = (offset % self.device().block_size() as u64) as usize;
        let left = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        length.min(left).min(CHUNK - skip)
    }
}

impl File for Disk {
    fn read(&self, sink: &mut Sink<'_>, mut offset: u64, _flags: OpenFlags) -> Result<usize> {
        let mut done = 0;
        while sink.remaining() > 0 && offset < self.size() {
            let mut buffer = vec![0; self.part(offset, sink.remaining())];
            self.blocks.read(offset, &mut buffer)?;
            let taken = sink.put(&buffer)?;
            done += taken;
            offset += taken as u64;
            if taken < buffer.len() {
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
            let mut buffer = vec![0; self.part(*offset, source.remaining())];
            let taken = source.take(&mut buffer)?;
            self.blocks.write(*offset, &buffer[..taken])?;
            done += taken;
            *offset += taken as u64;
            if taken < buffer.len() {
                break;
            }
        }
        if flags.intersects(OpenFlags::SYNC | OpenFlags::DATA_SYNC) {
            self.device().flush()?;
        }
        Ok(done)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn ioctl(&self, request: u32, argument: usize) -> Result<usize> {
        let block = self.device().block_size() as u32;
        let missed = match request {
            BLKGETSIZE => rumpuser_copyout(&self.device().sectors().to_le_bytes(), argument),
            BLKGETSIZE64 => rumpuser_copyout(&self.size().to_le_bytes(), argument),
            BLKSSZGET | BLKPBSZGET => rumpuser_copyout(&block.to_le_bytes(), argument),
            BLKFLSBUF => return self.device().flush().map(|()| 0),
            _ => return Err(Errno::ENOTTY),
        };
        if missed > 0 { Err(Errno::EFAULT) } else { Ok(0) }
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        self.device().flush()
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

    use super::*;
    use crate::model::Memory;

    #[test]
    fn any_bytes_can_be_read_and_written() {
        let size = 256 << 10;
        let device = Arc::new(Memory::new(vec![0; size], 4096));
        let vnode: Arc<dyn Vnode> = rumpvfs::vnode::FileSystem::root(
            &*rumpvfs::tmpfs::TmpFs::new(Default::default(), 0o755).expect("tmpfs"),
        );
        let disk = Disk { vnode, blocks: Blocks::new(device) };
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
