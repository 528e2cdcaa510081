//! The block device (virtio 1.2, section 5.2): a queue per CPU where the device has several, requests by threads
//! that sleep until the interrupt.

use alloc::{boxed::Box, sync::Arc, vec::Vec};

use rumpdev::{
    block::{BlockDevice, SECTOR_SIZE},
    bounce,
};
use rumpkern::{Errno, Result, wait::WaitQueue};
use rumpuser::{
    Frame, Thread,
    device::{DmaMemory, InterruptHandler, Registers},
    memory::PAGE_SIZE,
    rumpuser_clock_monotonic, rumpuser_cpu, rumpuser_cpu_count, rumpuser_park, rumpuser_thread_current,
    sync::InterruptLock,
};

use crate::{
    features::{self, Features, Refused},
    queue::{Queue, Segment},
    transport::{Status, Transport, read_config},
};

/// Request types.
const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const DISCARD: u32 = 11;
/// Results.
const OK: u8 = 0;
const UNSUPPORTED: u8 = 2;
const NOT_DONE: u8 = 0xff;

/// What a request shares with the device besides its data: header and status, at these offsets of a
/// record.
const RECORD: usize = 64;
const HEADER_LENGTH: u32 = 16;
const DISCARD_LENGTH: u32 = 16;
const STATUS: usize = 32;

/// How long a request sleeps before it looks for itself, in case an interrupt got lost. Nanoseconds.
const IMPATIENCE: u64 = 1_000_000_000;

/// Where [`BlockQueue::submit`] puts the header and the status.
const PLACE: Segment = (0, 0);

/// One request under way.
#[derive(Default)]
struct Slot {
    busy: bool,
    done: bool,
    thread: Option<Thread>,
}

struct Requests {
    queue: Queue,
    slots: Vec<Slot>,
}

/// A queue of the device with its requests.
struct BlockQueue {
    index: u16,
    transport: Arc<dyn Transport>,
    requests: InterruptLock<Requests>,
    /// A record for each slot.
    records: DmaMemory,
    /// Threads that found no slot or no descriptors.
    room: WaitQueue,
}

impl BlockQueue {
    /// Takes what the device has finished. The interrupt handler, and threads that got impatient.
    fn complete(&self) {
        let mut requests = self.requests.lock();
        let Requests { queue, slots } = &mut *requests;
        // Bounded: a device that always claims to be done must not keep the CPU.
        for _ in 0..4 {
            while let Some(completion) = queue.take() {
                if let Some(slot) = slots.get_mut(usize::from(completion.token)) {
                    slot.done = true;
                    if let Some(thread) = &slot.thread {
                        thread.unpark();
                    }
                }
            }
            if !queue.arm() {
                break;
            }
        }
    }

    fn record(&self, slot: usize) -> Option<Registers> {
        self.records.registers().part(slot * RECORD, RECORD)
    }

    /// Puts a request into the queue and tells the device; `None` if there is no room. `segments` is the data, with
    /// a place before it for the header and one behind it for the status.
    fn submit(&self, kind: u32, sector: u64, segments: &mut [Segment]) -> Option<usize> {
        let thread = rumpuser_thread_current();
        let mut requests = self.requests.lock();
        let Requests { queue, slots } = &mut *requests;
        let slot = slots.iter().position(|slot| !slot.busy)?;
        let record = self.record(slot)?;
        record.write32(0, kind);
        record.write32(4, 0);
        record.write64(8, sector);
        record.write8(STATUS, NOT_DONE);
        let base = self.records.physical() + (slot * RECORD) as u64;
        let last = segments.len().checked_sub(1)?;
        segments[0] = (base, HEADER_LENGTH);
        segments[last] = (base + STATUS as u64, 1);
        // The device reads the header and writes the status; the data goes either way.
        let (readable, writable) = segments.split_at(if kind == READ { 1 } else { last });
        if !queue.add(readable, writable, slot as u16) {
            return None;
        }
        slots[slot] = Slot { busy: true, done: false, thread: Some(thread) };
        let notify = queue.should_notify();
        drop(requests);
        if notify {
            self.transport.notify(self.index);
        }
        Some(slot)
    }

    /// Waits for a request and gives its slot back. `failed` tells whether the device has given up; its argument,
    /// whether to ask the device.
    fn finish(&self, slot: usize, failed: &dyn Fn(bool) -> bool) -> u8 {
        let mut ask = false;
        loop {
            let dead = failed(ask);
            let mut requests = self.requests.lock();
            let Some(state) = requests.slots.get_mut(slot) else { return NOT_DONE };
            // A device that failed was reset, so it won't touch the request's memory any more.
            if state.done || dead {
                let record = self.record(slot).filter(|_| state.done);
                let result = record.map_or(NOT_DONE, |record| record.read8(STATUS));
                let thread = core::mem::take(state).thread;
                drop(requests);
                drop(thread);
                self.room.wake_one();
                return result;
            }
            drop(requests);
            let deadline = rumpuser_clock_monotonic().saturating_add(IMPATIENCE);
            rumpuser_park(deadline);
            ask = rumpuser_clock_monotonic() >= deadline;
            if ask {
                self.complete();
            }
        }
    }
}

/// A disk.
struct Disk {
    transport: Arc<dyn Transport>,
    queues: Vec<Arc<BlockQueue>>,
    failed: InterruptLock<bool>,
    sectors: u64,
    block_size: usize,
    read_only: bool,
    can_flush: bool,
    /// The most sectors in a discard request; 0 if there are none.
    discard_limit: u32,
    /// The most data segments in a request.
    segments: usize,
}

fn field<const LENGTH: usize>(config: &[u8], offset: usize) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    if let Some(source) = config.get(offset..offset + LENGTH) {
        bytes.copy_from_slice(source);
    }
    bytes
}

/// Takes a block device into use.
pub fn attach(transport: Arc<dyn Transport>) -> core::result::Result<(), Refused> {
    rumpdev::block::register(Arc::new(open(transport)?));
    Ok(())
}

/// Sets up the device.
fn open(transport: Arc<dyn Transport>) -> core::result::Result<Disk, Refused> {
    let wanted = Features::BLOCK_SEGMENTS
        | Features::BLOCK_READ_ONLY
        | Features::BLOCK_SIZE
        | Features::BLOCK_FLUSH
        | Features::BLOCK_QUEUES
        | Features::BLOCK_DISCARD;
    let features = features::negotiate(&*transport, wanted)?;
    let config: [u8; 60] = read_config(&*transport);
    let sectors = u64::from_le_bytes(field(&config, 0));
    let segment_limit = u32::from_le_bytes(field(&config, 12)) as usize;
    let block_size = u32::from_le_bytes(field(&config, 20)) as usize;
    let offered_queues = u16::from_le_bytes(field(&config, 34));
    let discard_limit = u32::from_le_bytes(field(&config, 36));

    let has = |feature| features.contains(feature);
    let valid_size =
        has(Features::BLOCK_SIZE) && block_size.is_power_of_two() && (512..=4096).contains(&block_size);
    let block_size = if valid_size { block_size } else { SECTOR_SIZE };
    let count = if has(Features::BLOCK_QUEUES) {
        offered_queues.clamp(1, rumpuser_cpu_count().min(64) as u16)
    } else {
        1
    };

    let mut queues = Vec::new();
    for index in 0..count {
        let limit = transport.queue_limit(index);
        if limit == 0 {
            break;
        }
        let queue = Queue::new(limit, features).map_err(|_| Refused)?;
        let slots = usize::from(queue.addresses().size);
        let records = DmaMemory::new(slots * RECORD).map_err(|_| Refused)?;
        let mut free = Vec::new();
        free.resize_with(slots, Slot::default);
        queues.push(Arc::new(BlockQueue {
            index,
            transport: transport.clone(),
            requests: InterruptLock::new(Requests { queue, slots: free }),
            records,
            room: WaitQueue::new(),
        }));
    }
    let first = queues.first().ok_or(Refused)?;
    // Header and status take a segment each; pages of data take the others.
    let room = first.requests.lock().queue.segment_limit().saturating_sub(2);
    let limit = if has(Features::BLOCK_SEGMENTS) && segment_limit > 0 { segment_limit } else { room };
    let segments = room.min(limit);
    if segments == 0 {
        return Err(Refused);
    }

    let handlers = queues.clone();
    let handler = |index: u16| -> InterruptHandler {
        let queue = handlers[usize::from(index)].clone();
        Box::new(move || queue.complete())
    };
    let established = transport.establish_interrupts(queues.len() as u16, &handler, None);
    let set = queues.iter().all(|queue| {
        let addresses = queue.requests.lock().queue.addresses();
        transport.set_queue(queue.index, Some(queue.index), addresses)
    });
    if !established || !set {
        transport.reset();
        return Err(Refused);
    }
    for queue in &queues {
        queue.requests.lock().queue.arm();
    }
    features::start(&*transport);
    Ok(Disk {
        transport,
        queues,
        failed: InterruptLock::new(false),
        sectors,
        block_size,
        read_only: has(Features::BLOCK_READ_ONLY),
        can_flush: has(Features::BLOCK_FLUSH),
        discard_limit: if has(Features::BLOCK_DISCARD) { discard_limit } else { 0 },
        segments,
    })
}

impl Disk {
    /// Whether the device has given up; if so, it was reset and touches no memory any more. `ask` looks at the
    /// device, which is slow.
    fn failed(&self, ask: bool) -> bool {
        let mut failed = self.failed.lock();
        if ask && !*failed && self.transport.status().contains(Status::NEEDS_RESET) {
            self.transport.reset();
            *failed = true;
        }
        *failed
    }

    /// Does one request. `segments` is as for [`BlockQueue::submit`].
    fn request(&self, kind: u32, sector: u64, segments: &mut [Segment]) -> Result<()> {
        let queue = &self.queues[rumpuser_cpu() % self.queues.len()];
        let slot = loop {
            if self.failed(false) {
                return Err(Errno::EIO);
            }
            if let Some(slot) = queue.submit(kind, sector, segments) {
                break slot;
            }
            // Without room now, there will be when another request ends.
            let deadline = rumpuser_clock_monotonic().saturating_add(IMPATIENCE);
            if let Ok(slot) = queue.room.wait(deadline, || queue.submit(kind, sector, segments)) {
                break slot;
            }
            queue.complete();
        };
        match queue.finish(slot, &|ask| self.failed(ask)) {
            OK => Ok(()),
            UNSUPPORTED => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::EIO),
        }
    }

    /// Checks that a transfer is aligned and inside the device.
    fn check(&self, sector: u64, bytes: usize) -> Result<()> {
        let blocks = (self.block_size / SECTOR_SIZE) as u64;
        if !bytes.is_multiple_of(self.block_size) || !sector.is_multiple_of(blocks) {
            return Err(Errno::EINVAL);
        }
        self.check_range(sector, (bytes / SECTOR_SIZE) as u64)
    }

    fn check_range(&self, sector: u64, sectors: u64) -> Result<()> {
        let inside = sector.checked_add(sectors).is_some_and(|end| end <= self.sectors);
        if inside { Ok(()) } else { Err(Errno::ENXIO) }
    }

    fn transfer(&self, kind: u32, sector: u64, frames: &[Frame], bytes: usize) -> Result<()> {
        let mut segments = Vec::with_capacity(self.segments.min(frames.len()) + 2);
        let mut sector = sector;
        let mut rest = bytes;
        for run in frames.chunks(self.segments) {
            segments.clear();
            segments.push(PLACE);
            let mut length = 0;
            for frame in run {
                let piece = rest.min(PAGE_SIZE);
                rest -= piece;
                length += piece;
                segments.push((frame.physical(), piece as u32));
            }
            segments.push(PLACE);
            self.request(kind, sector, &mut segments)?;
            sector += (length / SECTOR_SIZE) as u64;
        }
        Ok(())
    }
}

impl BlockDevice for Disk {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn block_size(&self) -> usize {
        self.block_size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<()> {
        self.check(sector, buffer.len())?;
        bounce::read(sector, buffer, self.segments, &|sector, frames, bytes| {
            self.transfer(READ, sector, frames, bytes)
        })
    }

    fn write(&self, sector: u64, buffer: &[u8]) -> Result<()> {
        if self.read_only {
            return Err(Errno::EROFS);
        }
        self.check(sector, buffer.len())?;
        bounce::write(sector, buffer, self.segments, &|sector, frames, bytes| {
            self.transfer(WRITE, sector, frames, bytes)
        })
    }

    fn read_frames(&self, sector: u64, frames: &[Frame]) -> Result<()> {
        self.check(sector, frames.len() * PAGE_SIZE)?;
        self.transfer(READ, sector, frames, frames.len() * PAGE_SIZE)
    }

    fn write_frames(&self, sector: u64, frames: &[Frame]) -> Result<()> {
        if self.read_only {
            return Err(Errno::EROFS);
        }
        self.check(sector, frames.len() * PAGE_SIZE)?;
        self.transfer(WRITE, sector, frames, frames.len() * PAGE_SIZE)
    }

    fn flush(&self) -> Result<()> {
        // Without the request, the device has no volatile cache: what it completed is durable.
        if self.can_flush { self.request(FLUSH, 0, &mut [PLACE; 2]) } else { Ok(()) }
    }

    fn discard(&self, sector: u64, sectors: u64) -> Result<()> {
        if self.read_only {
            return Err(Errno::EROFS);
        }
        self.check_range(sector, sectors)?;
        if self.discard_limit == 0 {
            return Ok(());
        }
        let memory = DmaMemory::new(DISCARD_LENGTH as usize).map_err(|_| Errno::ENOMEM)?;
        let mut start = sector;
        let end = sector + sectors;
        while start < end {
            let count = u32::try_from(end - start).unwrap_or(u32::MAX).min(self.discard_limit);
            let segment = memory.registers();
            segment.write64(0, start);
            segment.write32(8, count);
            segment.write32(12, 0);
            match self.request(DISCARD, 0, &mut [PLACE, (memory.physical(), DISCARD_LENGTH), PLACE]) {
                Ok(()) | Err(Errno::EOPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
            start += u64::from(count);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
