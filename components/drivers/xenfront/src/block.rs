//! The block frontend (Xen, public/io/blkif.h): a ring of 32 requests of up to 11 pages, by threads that sleep until the
//! event.

use alloc::{string::ToString, sync::Arc, vec::Vec};

use rumpdev::{
    block::{BlockDevice, SECTOR_SIZE},
    bounce,
};
use rumpkern::{Errno, Result, wait::WaitQueue};
use rumpuser::{
    Frame, Thread,
    device::{GrantReference, XenbusDevice, xenbus_state},
    memory::PAGE_SIZE,
    rumpuser_clock_monotonic, rumpuser_frame_retain, rumpuser_park, rumpuser_thread_current,
    sync::InterruptLock,
};

use crate::{
    Refused, offers,
    ring::{Ring, Violation},
};

const READ: u8 = 0;
const WRITE: u8 = 1;
const FLUSH: u8 = 3;
const DISCARD: u8 = 5;
const OK: i16 = 0;
const UNSUPPORTED: i16 = -2;
/// Bytes of a request, and the pages in one.
const REQUEST: usize = 112;
const SEGMENTS: usize = 11;
/// Bits of the backend's `info`.
const READ_ONLY: u32 = 4;
/// Positions and lengths are counted in these, whatever the sector size.
const UNIT: u64 = 512;
/// How long a request sleeps before it looks for itself. Nanoseconds.
const IMPATIENCE: u64 = 1_000_000_000;

/// One request under way.
#[derive(Default)]
struct Slot {
    busy: bool,
    /// What the backend answered.
    result: Option<i16>,
    thread: Option<Thread>,
}

struct Requests {
    ring: Ring,
    slots: Vec<Slot>,
    /// The backend is gone or broken.
    failed: bool,
}

impl Requests {
    /// Takes the answers there are.
    fn complete(&mut self) {
        loop {
            match self.ring.waiting() {
                Ok(0) => match self.ring.arm(1) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(Violation) => return self.fail(),
                },
                Ok(count) => {
                    for _ in 0..count {
                        if !self.answer() {
                            return self.fail();
                        }
                    }
                }
                Err(Violation) => return self.fail(),
            }
        }
    }

    /// Takes an answer; false if it answers nothing.
    fn answer(&mut self) -> bool {
        let answer = self.ring.take();
        let (identifier, rest) = answer.split_at(8);
        let identifier = identifier.try_into().map_or(u64::MAX, u64::from_le_bytes);
        let status = i16::from_le_bytes([rest[2], rest[3]]);
        let slot = usize::try_from(identifier).ok().and_then(|index| self.slots.get_mut(index));
        let Some(slot) = slot.filter(|slot| slot.busy && slot.result.is_none()) else { return false };
        slot.result = Some(status);
        if let Some(thread) = &slot.thread {
            thread.unpark();
        }
        true
    }

    fn fail(&mut self) {
        self.failed = true;
        for slot in &self.slots {
            if let Some(thread) = &slot.thread {
                thread.unpark();
            }
        }
    }
}

struct Queue {
    requests: InterruptLock<Requests>,
    /// Threads that found no slot.
    room: WaitQueue,
}

/// A disk.
struct Disk {
    device: Arc<dyn XenbusDevice>,
    queue: Arc<Queue>,
    channel: u32,
    handle: u16,
    sectors: u64,
    block_size: usize,
    read_only: bool,
    can_flush: bool,
    can_discard: bool,
}

/// Takes a block device into use.
pub fn attach(device: &Arc<dyn XenbusDevice>) -> core::result::Result<(), Refused> {
    let disk = open(device)?;
    let queue = disk.queue.clone();
    let closing = Arc::downgrade(device);
    device.set_state_handler(alloc::boxed::Box::new(move |state| {
        if !matches!(state, xenbus_state::CONNECTED) {
            queue.requests.lock().fail();
            if let Some(device) = closing.upgrade() {
                device.set_state(xenbus_state::CLOSED);
            }
        }
    }));
    rumpdev::block::register(Arc::new(disk));
    Ok(())
}

fn open(device: &Arc<dyn XenbusDevice>) -> core::result::Result<Disk, Refused> {
    if device.wait_for_backend(&[xenbus_state::INIT_WAIT]) != xenbus_state::INIT_WAIT {
        return Err(Refused);
    }
    let ring = Ring::new(REQUEST).map_err(|_| Refused)?;
    let reference = device.grant(ring.frame(), true).ok_or(Refused)?;
    let mut slots = Vec::new();
    slots.resize_with(ring.size(), Slot::default);
    let queue = Arc::new(Queue {
        requests: InterruptLock::new(Requests { ring, slots, failed: false }),
        room: WaitQueue::new(),
    });
    let interrupted = queue.clone();
    let handler = alloc::boxed::Box::new(move || interrupted.requests.lock().complete());
    let channel = device.establish_event(0, handler).ok_or(Refused)?;
    let published = device.publish(&[
        ("ring-ref", reference.to_string()),
        ("event-channel", channel.to_string()),
        ("protocol", "x86_64-abi".into()),
    ]);
    device.set_state(xenbus_state::INITIALISED);
    let state =
        device.wait_for_backend(&[xenbus_state::CONNECTED, xenbus_state::CLOSING, xenbus_state::CLOSED]);
    let number = |name: &str| device.backend_value(name).and_then(|value| value.trim().parse::<u64>().ok());
    let block_size = number("sector-size").unwrap_or(UNIT);
    let valid = block_size.is_power_of_two() && (512..=4096).contains(&block_size);
    let (true, xenbus_state::CONNECTED, Some(sectors), true) = (published, state, number("sectors"), valid)
    else {
        device.close_event(channel);
        device.set_state(xenbus_state::CLOSED);
        if !device.end_grant(reference) {
            // The backend may still write to the ring.
            core::mem::forget(queue);
        }
        return Err(Refused);
    };
    device.set_state(xenbus_state::CONNECTED);
    Ok(Disk {
        handle: device
            .frontend_value("virtual-device")
            .and_then(|value| value.trim().parse().ok())
            .unwrap_or(0),
        sectors,
        block_size: block_size as usize,
        read_only: number("info").is_some_and(|info| info as u32 & READ_ONLY != 0),
        can_flush: offers(&**device, "feature-flush-cache"),
        can_discard: offers(&**device, "feature-discard"),
        device: device.clone(),
        queue,
        channel,
    })
}

/// What a request is about.
struct Work<'a> {
    kind: u8,
    sector: u64,
    /// Pages and the bytes of them, the last perhaps not whole.
    pages: &'a [Frame],
    bytes: usize,
    /// For [`DISCARD`].
    count: u64,
}

/// The granted pages of a request.
type Grants = [GrantReference; SEGMENTS];

impl Disk {
    /// Writes the request's words; [`Work::pages`] are granted.
    fn encode(&self, work: &Work<'_>, slot: usize, grants: &Grants) -> [u32; REQUEST / 4] {
        let mut words = [0; REQUEST / 4];
        let segments = work.pages.len() as u32;
        words[0] = u32::from(work.kind) | segments << 8 | u32::from(self.handle) << 16;
        words[2] = slot as u32;
        words[4] = work.sector as u32;
        words[5] = (work.sector >> 32) as u32;
        if work.kind == DISCARD {
            words[6] = work.count as u32;
            words[7] = (work.count >> 32) as u32;
        }
        let mut rest = work.bytes;
        for (segment, reference) in words[6..].chunks_exact_mut(2).zip(grants).take(work.pages.len()) {
            let length = rest.min(PAGE_SIZE);
            rest -= length;
            let last = (length / SECTOR_SIZE).saturating_sub(1) as u32;
            segment[0] = *reference;
            segment[1] = last << 8;
        }
        words
    }

    /// Puts a request on the ring; `None` if there is no room.
    fn submit(&self, work: &Work<'_>, grants: &Grants) -> Option<usize> {
        let thread = rumpuser_thread_current();
        let mut requests = self.queue.requests.lock();
        let slot = requests.slots.iter().position(|slot| !slot.busy)?;
        if requests.ring.free() == 0 {
            return None;
        }
        let words = self.encode(work, slot, grants);
        requests.ring.make(&words);
        requests.slots[slot] = Slot { busy: true, result: None, thread: Some(thread) };
        let tell = requests.ring.show();
        drop(requests);
        if tell {
            self.device.notify(self.channel);
        }
        Some(slot)
    }

    /// Waits for a request's answer; `None` if there will be none.
    fn finish(&self, slot: usize) -> Option<i16> {
        loop {
            let mut requests = self.queue.requests.lock();
            let failed = requests.failed;
            let state = requests.slots.get_mut(slot)?;
            if state.result.is_some() || failed {
                let result = state.result.take();
                let thread = state.thread.take();
                // An answer that still comes must not meet another request.
                state.busy = failed;
                drop(requests);
                drop(thread);
                self.queue.room.wake_one();
                return result;
            }
            drop(requests);
            rumpuser_park(rumpuser_clock_monotonic().saturating_add(IMPATIENCE));
            self.queue.requests.lock().complete();
        }
    }

    fn failed(&self) -> bool {
        self.queue.requests.lock().failed
    }

    fn request(&self, work: &Work<'_>) -> Result<()> {
        let mut grants: Grants = [0; SEGMENTS];
        let mut granted = 0;
        for (place, frame) in grants.iter_mut().zip(work.pages) {
            match self.device.grant(*frame, work.kind == READ) {
                Some(reference) => *place = reference,
                None => break,
            }
            granted += 1;
        }
        let result =
            if granted == work.pages.len() { self.do_request(work, &grants) } else { Err(Errno::ENOMEM) };
        for (reference, frame) in grants.iter().zip(work.pages).take(granted) {
            if !self.device.end_grant(*reference) {
                // The backend keeps the page, so nobody else may have it.
                rumpuser_frame_retain(*frame);
                self.queue.requests.lock().fail();
            }
        }
        result
    }

    fn do_request(&self, work: &Work<'_>, grants: &Grants) -> Result<()> {
        let slot = loop {
            if self.failed() {
                return Err(Errno::EIO);
            }
            if let Some(slot) = self.submit(work, grants) {
                break slot;
            }
            let deadline = rumpuser_clock_monotonic().saturating_add(IMPATIENCE);
            if let Ok(slot) = self.queue.room.wait(deadline, || self.submit(work, grants)) {
                break slot;
            }
            self.queue.requests.lock().complete();
        };
        match self.finish(slot) {
            Some(OK) => Ok(()),
            Some(UNSUPPORTED) => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::EIO),
        }
    }

    /// Checks that a transfer is aligned and inside the device.
    fn check(&self, sector: u64, bytes: usize) -> Result<()> {
        let blocks = (self.block_size / SECTOR_SIZE) as u64;
        if !bytes.is_multiple_of(self.block_size) || !sector.is_multiple_of(blocks) {
            return Err(Errno::EINVAL);
        }
        let end = sector.checked_add((bytes / SECTOR_SIZE) as u64);
        if end.is_some_and(|end| end <= self.sectors) { Ok(()) } else { Err(Errno::ENXIO) }
    }

    fn transfer(&self, kind: u8, mut sector: u64, frames: &[Frame], bytes: usize) -> Result<()> {
        if kind == WRITE && self.read_only {
            return Err(Errno::EROFS);
        }
        self.check(sector, bytes)?;
        let mut rest = bytes;
        for pages in frames.chunks(SEGMENTS) {
            let length = rest.min(pages.len() * PAGE_SIZE);
            self.request(&Work { kind, sector, pages, bytes: length, count: 0 })?;
            rest -= length;
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
        bounce::read(sector, buffer, SEGMENTS, &|sector, frames, bytes| {
            self.transfer(READ, sector, frames, bytes)
        })
    }

    fn write(&self, sector: u64, buffer: &[u8]) -> Result<()> {
        self.check(sector, buffer.len())?;
        bounce::write(sector, buffer, SEGMENTS, &|sector, frames, bytes| {
            self.transfer(WRITE, sector, frames, bytes)
        })
    }

    fn read_frames(&self, sector: u64, frames: &[Frame]) -> Result<()> {
        self.transfer(READ, sector, frames, frames.len() * PAGE_SIZE)
    }

    fn write_frames(&self, sector: u64, frames: &[Frame]) -> Result<()> {
        self.transfer(WRITE, sector, frames, frames.len() * PAGE_SIZE)
    }

    fn flush(&self) -> Result<()> {
        // Without the request, the backend has no volatile cache: what it completed is durable.
        let work = Work { kind: FLUSH, sector: 0, pages: &[], bytes: 0, count: 0 };
        if self.can_flush { self.request(&work) } else { Ok(()) }
    }

    fn discard(&self, sector: u64, sectors: u64) -> Result<()> {
        if self.read_only {
            return Err(Errno::EROFS);
        }
        if sector.checked_add(sectors).is_none_or(|end| end > self.sectors) {
            return Err(Errno::ENXIO);
        }
        if !self.can_discard || sectors == 0 {
            return Ok(());
        }
        self.request(&Work { kind: DISCARD, sector, pages: &[], bytes: 0, count: sectors })
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, vec, vec::Vec};

    use super::*;
    use crate::model::Model;

    /// A backend with a disk of 64 KiB.
    fn model() -> Arc<Model> {
        Model::new("vbd", &[("sectors", "128"), ("sector-size", "512"), ("feature-flush-cache", "1")])
    }

    fn disk(model: &Arc<Model>) -> Disk {
        let device: Arc<dyn XenbusDevice> = model.clone();
        open(&device).expect("a disk")
    }

    #[test]
    fn transfers_reach_the_disk() {
        let model = model();
        let disk = disk(&model);
        let mut contents = vec![0_u8; 65536];
        model.serve_in_thread(REQUEST, move |model, words| {
            let kind = words[0] as u8;
            let mut at = words[4] as usize * 512;
            for segment in words[6..].chunks(2).take((words[0] >> 8 & 0xff) as usize) {
                let length = ((segment[1] >> 8 & 0xff) as usize + 1) * 512;
                let frame = model.frame(segment[0]).expect("granted");
                let part = &mut contents[at..at + length];
                if kind == READ {
                    frame.write(0, part)
                } else {
                    frame.read(0, part)
                }
                at += length;
            }
            vec![vec![words[2], words[3], u32::from(kind)]]
        });
        let bytes: Vec<u8> = (0..50_176_u32).map(|index| (index / 7) as u8).collect();
        assert_eq!(disk.write(1, &bytes), Ok(()));
        assert_eq!(disk.flush(), Ok(()));
        let mut back = vec![0; bytes.len()];
        assert_eq!(disk.read(1, &mut back), Ok(()));
        assert!(back == bytes);
        assert_eq!(disk.read(128, &mut [0; 512]), Err(Errno::ENXIO));
        assert_eq!(disk.read(0, &mut [0; 100]), Err(Errno::EINVAL));
        // Nothing but the ring stays granted.
        assert_eq!(model.granted(), 1);
        model.stop();
    }

    #[test]
    fn answers_that_answer_nothing_end_the_disk() {
        for wild in [[32, 0, 0], [0, 1, 0], [5, 0, 0], [u32::MAX, u32::MAX, 0]] {
            let model = model();
            let disk = disk(&model);
            model.serve_in_thread(REQUEST, move |_, _| vec![wild.to_vec()]);
            assert_eq!(disk.write(0, &[1; 512]), Err(Errno::EIO));
            assert_eq!(disk.read(0, &mut [1; 512]), Err(Errno::EIO));
            model.stop();
        }
    }

    #[test]
    fn a_page_that_the_backend_keeps_stays_its_own() {
        let model = model();
        let disk = disk(&model);
        model.keep_grants();
        model.serve_in_thread(REQUEST, |_, words| vec![vec![words[2], words[3], 0]]);
        let frame = rumpuser::rumpuser_frame_alloc_uninitialised().expect("memory");
        assert_eq!(disk.write_frames(0, &[frame]), Ok(()));
        assert_eq!(rumpuser::rumpuser_frame_references(frame), 2);
        assert_eq!(disk.flush(), Err(Errno::EIO));
        model.stop();
    }
}
