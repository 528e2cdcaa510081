//! /dev/null, /dev/zero and /dev/full.

use alloc::{collections::BTreeMap, string::String, sync::Arc};
use core::any::Any;

use rumpkern::{
    Errno, Result,
    uio::{Sink, Source},
    vm::Pager,
};
use rumpuser::{
    Frame, memory::PAGE_SIZE, rumpuser_frame_alloc, rumpuser_frame_release, rumpuser_frame_retain,
    rumpuser_interrupted, sync::Mutex,
};
use rumpvfs::file::{File, OpenFlags};

/// How much is copied between two looks at the interrupt flag.
const SLICE: usize = 64 << 10;

/// Fills `sink` by `fill(sink, at most this many bytes)`, and stops early for a signal or a fault.
pub(crate) fn fill_sink(
    sink: &mut Sink<'_>,
    slice: usize,
    mut fill: impl FnMut(&mut Sink<'_>, usize) -> Result<usize>,
) -> Result<usize> {
    let before = sink.transferred();
    while sink.remaining() > 0 {
        match fill(sink, slice.min(sink.remaining())) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if sink.transferred() == before => return Err(error),
            Err(_) => break,
        }
        if rumpuser_interrupted() {
            break;
        }
    }
    Ok(sink.transferred() - before)
}

/// /dev/null: reads end at once, writes vanish.
pub struct Null;

impl File for Null {
    fn read(&self, _sink: &mut Sink<'_>, _offset: u64, _flags: OpenFlags) -> Result<usize> {
        Ok(0)
    }

    fn write(&self, source: &mut Source<'_>, _offset: &mut u64, _flags: OpenFlags) -> Result<usize> {
        Ok(source.remaining())
    }

    fn pollable(&self) -> bool {
        true
    }

    fn description(&self) -> String {
        String::from("/dev/null")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// /dev/zero: zeros without end. Each mapping of it is fresh memory.
pub struct Zero;

impl File for Zero {
    fn read(&self, sink: &mut Sink<'_>, _offset: u64, _flags: OpenFlags) -> Result<usize> {
        fill_sink(sink, SLICE, |sink, length| sink.put_zeros(length))
    }

    fn write(&self, source: &mut Source<'_>, _offset: &mut u64, _flags: OpenFlags) -> Result<usize> {
        Ok(source.remaining())
    }

    fn pager(&self) -> Result<Arc<dyn Pager>> {
        Ok(Arc::new(FreshPages::default()))
    }

    fn description(&self) -> String {
        String::from("/dev/zero")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// /dev/full: reads as /dev/zero, and has no room for writes.
pub struct Full;

impl File for Full {
    fn read(&self, sink: &mut Sink<'_>, offset: u64, flags: OpenFlags) -> Result<usize> {
        Zero.read(sink, offset, flags)
    }

    fn write(&self, source: &mut Source<'_>, _offset: &mut u64, _flags: OpenFlags) -> Result<usize> {
        if source.remaining() == 0 { Ok(0) } else { Err(Errno::ENOSPC) }
    }

    fn description(&self) -> String {
        String::from("/dev/full")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Pages that are zero until somebody writes to them.
#[derive(Default)]
struct FreshPages {
    pages: Mutex<BTreeMap<u64, Frame>>,
}

impl Pager for FreshPages {
    fn page(&self, index: u64, _write: bool) -> Result<Frame> {
        if index >= 1 << (63 - PAGE_SIZE.trailing_zeros()) {
            return Err(Errno::ENXIO);
        }
        let mut pages = self.pages.lock();
        let frame = match pages.get(&index) {
            Some(&frame) => frame,
            None => {
                let frame = rumpuser_frame_alloc()?;
                pages.insert(index, frame);
                frame
            }
        };
        rumpuser_frame_retain(frame);
        Ok(frame)
    }
}

impl Drop for FreshPages {
    fn drop(&mut self) {
        for &frame in self.pages.get_mut().values() {
            rumpuser_frame_release(frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn read(file: &dyn File, length: usize) -> Result<vec::Vec<u8>> {
        let mut buffer = vec![0xaa; length];
        let size = file.read(&mut Sink::kernel(&mut buffer), 0, OpenFlags::default())?;
        buffer.truncate(size);
        Ok(buffer)
    }

    #[test]
    fn memory_devices_read_and_write() {
        let mut offset = 0;
        assert_eq!(read(&Null, 8), Ok(vec![]));
        assert_eq!(read(&Zero, 5000), Ok(vec![0; 5000]));
        assert_eq!(Null.write(&mut Source::kernel(b"abc"), &mut offset, OpenFlags::default()), Ok(3));
        assert_eq!(
            Full.write(&mut Source::kernel(b"abc"), &mut offset, OpenFlags::default()),
            Err(Errno::ENOSPC)
        );
    }

    #[test]
    fn a_mapping_of_zero_keeps_its_pages() {
        let pager = Zero.pager().unwrap();
        let frame = pager.page(3, true).unwrap();
        frame.write(0, b"kept");
        let mut bytes = [0; 4];
        pager.page(3, false).unwrap().read(0, &mut bytes);
        assert_eq!(&bytes, b"kept");
        rumpuser_frame_release(frame);
        rumpuser_frame_release(frame);
    }
}
