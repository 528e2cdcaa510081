//! Pipes: a queue of pages with a reading and a writing end, for pipe(2) and FIFOs.

use alloc::{collections::VecDeque, string::String, sync::Arc};
use core::{
    any::Any,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use rumpkern::{
    Errno, Result,
    poll::{Events, Observer},
    uio::{Sink, Source},
    wait::WaitQueue,
};
use rumpuser::{
    Frame, NEVER,
    memory::PAGE_SIZE,
    rumpuser_copyout, rumpuser_frame_alloc_uninitialised, rumpuser_frame_release,
    sync::{Mutex, MutexGuard},
};

use crate::{
    file::{File, OpenFlags},
    vnode::{AttributeChanges, Attributes, Kind, Statistics, Time, Vnode, now},
};

/// Writes up to this are never mixed with others.
pub const PIPE_BUF: usize = 4096;
/// Capacity at first.
const DEFAULT_CAPACITY: usize = 64 << 10;
/// Most that an unprivileged F_SETPIPE_SZ may ask for (/proc/sys/fs/pipe-max-size).
pub const MAX_CAPACITY: usize = 1 << 20;
/// Most that any may ask for.
const PRIVILEGED_CAPACITY: usize = 1 << 26;
/// ioctl: bytes that can be read.
const FIONREAD: u32 = 0x541b;

/// A part of a frame with data; owns a reference on the frame.
pub struct Segment {
    frame: Frame,
    start: usize,
    end: usize,
    /// Later writes may go behind the data.
    mergeable: bool,
    /// A packet of its own (O_DIRECT): one read takes it.
    packet: bool,
}

impl Segment {
    /// `frame[start..end]`; takes over a reference. Panics if the range leaves the frame.
    pub fn new(frame: Frame, start: usize, end: usize) -> Self {
        assert!(start <= end && end <= PAGE_SIZE);
        Segment { frame, start, end, mergeable: false, packet: false }
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The frame and the offset of the data in it.
    pub fn frame(&self) -> (Frame, usize) {
        (self.frame, self.start)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        rumpuser_frame_release(self.frame);
    }
}

struct State {
    segments: VecDeque<Segment>,
    length: usize,
    capacity: usize,
    readers: usize,
    writers: usize,
    /// Ends opened so far, so that an opener notices a peer that came and went.
    readers_ever: u64,
    writers_ever: u64,
    /// An empty frame, kept for the next write.
    spare: Option<Segment>,
}

impl State {
    fn room(&self) -> usize {
        self.capacity.saturating_sub(self.length)
    }

    /// Whether poll(2) calls the pipe writable.
    fn writable(&self) -> bool {
        self.room() >= PIPE_BUF
    }

    /// Appends up to `limit` bytes.
    fn fill(&mut self, source: &mut Source<'_>, limit: usize, packets: bool) -> Result<usize> {
        let mut done = 0;
        while done < limit {
            let left = limit - done;
            if !packets
                && let Some(last) = self.segments.back_mut()
                && last.mergeable
                && last.end < PAGE_SIZE
            {
                let room = left.min(PAGE_SIZE - last.end);
                match source.take_frame(last.frame, last.end, room) {
                    Ok(0) => break,
                    Ok(taken) => {
                        last.end += taken;
                        self.length += taken;
                        done += taken;
                    }
                    Err(_) if done > 0 => break,
                    Err(error) => return Err(error),
                }
                continue;
            }
            let mut segment = match self.spare.take() {
                Some(spare) => spare,
                None => match rumpuser_frame_alloc_uninitialised() {
                    Ok(frame) => Segment::new(frame, 0, 0),
                    Err(_) if done > 0 => break,
                    Err(error) => return Err(error.into()),
                },
            };
            (segment.start, segment.end, segment.mergeable, segment.packet) = (0, 0, !packets, packets);
            match source.take_frame(segment.frame, 0, left.min(PAGE_SIZE)) {
                Ok(0) => {
                    self.spare = Some(segment);
                    break;
                }
                Ok(taken) => {
                    segment.end = taken;
                    self.length += taken;
                    done += taken;
                    self.segments.push_back(segment);
                }
                Err(error) => {
                    self.spare = Some(segment);
                    if done > 0 {
                        break;
                    }
                    return Err(error);
                }
            }
        }
        Ok(done)
    }

    /// Takes what there is, as far as there is room for it.
    fn drain(&mut self, sink: &mut Sink<'_>) -> Result<usize> {
        let mut done = 0;
        while sink.remaining() > 0 {
            let Some(first) = self.segments.front_mut() else { break };
            match sink.put_frame(first.frame, first.start, first.len()) {
                Ok(taken) => {
                    first.start += taken;
                    self.length -= taken;
                    done += taken;
                }
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
            let packet = first.packet;
            if first.is_empty() || packet {
                self.length -= first.len();
                let segment = self.segments.pop_front();
                // A page that nobody else has is kept: a ping-pong never allocates.
                if self.spare.is_none()
                    && let Some(segment) = segment
                    && segment.mergeable
                {
                    self.spare = Some(segment);
                }
            }
            if packet {
                break;
            }
        }
        Ok(done)
    }
}

/// What both ends share.
pub struct Pipe {
    state: Mutex<State>,
    readable: WaitQueue,
    writable: WaitQueue,
}

impl Default for Pipe {
    fn default() -> Self {
        Self::new()
    }
}

impl Pipe {
    /// A pipe without ends.
    pub fn new() -> Self {
        Pipe {
            state: Mutex::new(State {
                segments: VecDeque::new(),
                length: 0,
                capacity: DEFAULT_CAPACITY,
                readers: 0,
                writers: 0,
                readers_ever: 0,
                writers_ever: 0,
                spare: None,
            }),
            readable: WaitQueue::new(),
            writable: WaitQueue::new(),
        }
    }

    /// Opens an end as FIFOs are opened: waits for the other end unless `flags` say never.
    pub(crate) fn open(self: &Arc<Self>, vnode: Arc<dyn Vnode>, flags: OpenFlags) -> Result<Arc<dyn File>> {
        let (read, write) = (flags.readable(), flags.writable());
        let mut state = self.state.lock();
        if write && !read && flags.contains(OpenFlags::NON_BLOCKING) && state.readers == 0 {
            return Err(Errno::ENXIO);
        }
        let end = self.end(&mut state, vnode, read, write);
        let (readers, writers) = (state.readers_ever, state.writers_ever);
        // Looked up now: a peer that is there may write, close and be gone before this thread looks again.
        let peer = if read { state.writers > 0 } else { state.readers > 0 };
        drop(state);
        self.readable.wake_all();
        self.writable.wake_all();
        if peer || flags.contains(OpenFlags::NON_BLOCKING) {
            return Ok(end);
        }
        let met = if read {
            self.readable.wait(NEVER, || {
                let state = self.state.lock();
                (state.writers > 0 || state.writers_ever != writers).then_some(())
            })
        } else {
            self.writable.wait(NEVER, || {
                let state = self.state.lock();
                (state.readers > 0 || state.readers_ever != readers).then_some(())
            })
        };
        met?;
        Ok(end)
    }

    fn end(
        self: &Arc<Self>,
        state: &mut State,
        vnode: Arc<dyn Vnode>,
        read: bool,
        write: bool,
    ) -> Arc<PipeEnd> {
        state.readers += usize::from(read);
        state.readers_ever += u64::from(read);
        state.writers += usize::from(write);
        state.writers_ever += u64::from(write);
        // Without a writer, the end of the data shows only once one has come.
        let fresh = if state.writers == 0 { state.writers_ever } else { u64::MAX };
        Arc::new(PipeEnd { pipe: self.clone(), vnode, read, write, fresh, closed: AtomicBool::new(false) })
    }

    /// F_SETPIPE_SZ; returns the capacity that it has now.
    pub fn set_capacity(&self, bytes: usize, privileged: bool) -> Result<usize> {
        if bytes > 1 << 31 {
            return Err(Errno::EINVAL);
        }
        let capacity = bytes.max(PAGE_SIZE).next_power_of_two();
        if capacity > MAX_CAPACITY && !privileged {
            return Err(Errno::EPERM);
        }
        if capacity > PRIVILEGED_CAPACITY {
            return Err(Errno::ENOMEM);
        }
        let mut state = self.state.lock();
        if state.length > capacity {
            return Err(Errno::EBUSY);
        }
        state.capacity = capacity;
        drop(state);
        self.writable.notify(Events::OUT | Events::WRNORM);
        Ok(capacity)
    }

    /// F_GETPIPE_SZ.
    pub fn capacity(&self) -> usize {
        self.state.lock().capacity
    }

    /// Bytes in it.
    pub fn length(&self) -> usize {
        self.state.lock().length
    }

    fn wrote(&self, state: MutexGuard<'_, State>) {
        drop(state);
        self.readable.notify_one(Events::IN | Events::RDNORM);
    }

    fn took(&self, state: MutexGuard<'_, State>) {
        let (data_left, writable) = (state.length > 0, state.writable());
        drop(state);
        if data_left {
            self.readable.wake_one();
        }
        if writable {
            self.writable.notify(Events::OUT | Events::WRNORM);
        } else {
            self.writable.wake_all();
        }
    }

    /// Waits until there is data (true), or no writer is left (false).
    fn wait_readable(&self, block: bool) -> Result<bool> {
        let look = || {
            let state = self.state.lock();
            if state.length > 0 { Some(true) } else { (state.writers == 0).then_some(false) }
        };
        match look() {
            Some(found) => Ok(found),
            None if !block => Err(Errno::EAGAIN),
            None => Ok(self.readable.wait(NEVER, look)?),
        }
    }

    /// Waits until there is room for `bytes`, or no reader is left (EPIPE).
    fn wait_writable(&self, bytes: usize, block: bool) -> Result<()> {
        let look = || {
            let state = self.state.lock();
            if state.readers == 0 {
                Some(Err(Errno::EPIPE))
            } else {
                (state.room() >= bytes.min(state.capacity)).then_some(Ok(()))
            }
        };
        if block { self.writable.wait(NEVER, look)? } else { look().unwrap_or(Err(Errno::EAGAIN)) }
    }

    fn read(&self, sink: &mut Sink<'_>, block: bool) -> Result<usize> {
        if sink.remaining() == 0 {
            return Ok(0);
        }
        loop {
            let mut state = self.state.lock();
            if state.length > 0 {
                let done = state.drain(sink)?;
                self.took(state);
                return Ok(done);
            }
            if state.writers == 0 {
                return Ok(0);
            }
            drop(state);
            self.wait_readable(block)?;
        }
    }

    fn write(&self, source: &mut Source<'_>, block: bool, packets: bool) -> Result<usize> {
        let mut done = 0;
        while source.remaining() > 0 {
            let mut state = self.state.lock();
            if state.readers == 0 {
                return if done > 0 { Ok(done) } else { Err(Errno::EPIPE) };
            }
            // Small writes go in whole; large ones, page by page as there is room.
            let wanted = source.remaining().min(PIPE_BUF);
            if state.room() >= wanted {
                let limit = source.remaining().min(state.room());
                let result = state.fill(source, limit, packets);
                match result {
                    Ok(taken) => {
                        done += taken;
                        let stuck = taken == 0;
                        self.wrote(state);
                        if stuck {
                            break;
                        }
                    }
                    Err(error) => return if done > 0 { Ok(done) } else { Err(error) },
                }
                continue;
            }
            drop(state);
            if let Err(error) = self.wait_writable(wanted, block) {
                return if done > 0 { Ok(done) } else { Err(error) };
            }
        }
        Ok(done)
    }

    /// Takes a segment of at most `limit` bytes off the queue, for splice(2); `None` at the end of the data.
    pub fn take(&self, limit: usize, block: bool) -> Result<Option<Segment>> {
        loop {
            if !self.wait_readable(block)? {
                return Ok(None);
            }
            let mut state = self.state.lock();
            let Some(first) = state.segments.front_mut() else { continue };
            let part = if first.len() <= limit {
                let segment = state.segments.pop_front();
                let Some(segment) = segment else { continue };
                segment
            } else {
                first.mergeable = false;
                rumpuser::rumpuser_frame_retain(first.frame);
                let part = Segment::new(first.frame, first.start, first.start + limit);
                first.start += limit;
                part
            };
            state.length -= part.len();
            self.took(state);
            return Ok(Some(part));
        }
    }

    /// Puts a segment back at the front, after a splice that could not use it whole.
    pub fn put_back(&self, segment: Segment) {
        if segment.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        state.length += segment.len();
        state.segments.push_front(segment);
        self.wrote(state);
    }

    /// Appends a segment without a copy, for splice(2). Its frame must not change while it is in the pipe.
    pub fn push(&self, segment: Segment, block: bool) -> Result<usize> {
        let length = segment.len();
        if length == 0 {
            return Ok(0);
        }
        loop {
            self.wait_writable(length, block)?;
            let mut state = self.state.lock();
            if state.readers > 0 && state.room() < length.min(state.capacity) {
                continue;
            }
            state.length += length;
            state.segments.push_back(segment);
            self.wrote(state);
            return Ok(length);
        }
    }

    /// Appends up to `limit` bytes of what this pipe has to another, without taking them (tee(2)).
    pub fn tee(&self, other: &Pipe, limit: usize, block: bool) -> Result<usize> {
        if !self.wait_readable(block)? {
            return Ok(0);
        }
        other.wait_writable(1, block)?;
        let mut copies = VecDeque::new();
        let mut left = limit.min(other.state.lock().room());
        for segment in &mut self.state.lock().segments {
            if left == 0 {
                break;
            }
            let length = segment.len().min(left);
            left -= length;
            segment.mergeable = false;
            rumpuser::rumpuser_frame_retain(segment.frame);
            copies.push_back(Segment::new(segment.frame, segment.start, segment.start + length));
        }
        let mut state = other.state.lock();
        let mut done = 0;
        for copy in copies {
            done += copy.len();
            state.length += copy.len();
            state.segments.push_back(copy);
        }
        other.wrote(state);
        Ok(done)
    }
}

/// One end of a pipe (both, for a FIFO opened for reading and writing).
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    vnode: Arc<dyn Vnode>,
    read: bool,
    write: bool,
    /// How many writers had come when it was opened without any.
    fresh: u64,
    closed: AtomicBool,
}

impl PipeEnd {
    /// The pipe.
    pub fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        self.close();
    }
}

impl File for PipeEnd {
    fn read(&self, sink: &mut Sink<'_>, _offset: u64, flags: OpenFlags) -> Result<usize> {
        if !self.read {
            return Err(Errno::EBADF);
        }
        self.pipe.read(sink, !flags.contains(OpenFlags::NON_BLOCKING))
    }

    fn write(&self, source: &mut Source<'_>, _offset: &mut u64, flags: OpenFlags) -> Result<usize> {
        if !self.write {
            return Err(Errno::EBADF);
        }
        let block = !flags.contains(OpenFlags::NON_BLOCKING);
        self.pipe.write(source, block, flags.contains(OpenFlags::DIRECT))
    }

    fn poll(&self) -> Events {
        let state = self.pipe.state.lock();
        let mut events = Events::empty();
        if self.read {
            if state.length > 0 {
                events |= Events::IN | Events::RDNORM;
            }
            if state.writers == 0 && state.writers_ever != self.fresh {
                events |= Events::HUP;
            }
        }
        if self.write {
            if state.writable() {
                events |= Events::OUT | Events::WRNORM;
            }
            if state.readers == 0 {
                events |= Events::ERR;
            }
        }
        events
    }

    fn observe(&self, observer: &Arc<dyn Observer>) {
        if self.read {
            self.pipe.readable.observe(observer);
        }
        if self.write {
            self.pipe.writable.observe(observer);
        }
    }

    fn unobserve(&self, observer: &Arc<dyn Observer>) {
        self.pipe.readable.unobserve(observer);
        self.pipe.writable.unobserve(observer);
    }

    fn ioctl(&self, request: u32, argument: usize) -> Result<usize> {
        if request != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let length = i32::try_from(self.pipe.length()).unwrap_or(i32::MAX);
        if rumpuser_copyout(&length.to_le_bytes(), argument) > 0 { Err(Errno::EFAULT) } else { Ok(0) }
    }

    fn vnode(&self) -> Option<&Arc<dyn Vnode>> {
        Some(&self.vnode)
    }

    fn pager(&self) -> Result<Arc<dyn rumpkern::vm::Pager>> {
        Err(Errno::ENODEV)
    }

    fn description(&self) -> String {
        let inode = self.vnode.attributes().map_or(0, |attributes| attributes.inode);
        alloc::format!("pipe:[{inode}]")
    }

    fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut state = self.pipe.state.lock();
        state.readers -= usize::from(self.read);
        state.writers -= usize::from(self.write);
        let (no_readers, no_writers) = (state.readers == 0, state.writers == 0);
        drop(state);
        if no_readers {
            self.pipe.writable.notify(Events::OUT | Events::ERR);
        }
        if no_writers {
            self.pipe.readable.notify(Events::IN | Events::HUP);
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The file behind a pipe that pipe(2) made.
struct PipeVnode {
    pipe: Arc<Pipe>,
    inode: u64,
    uid: u32,
    gid: u32,
    born: Time,
}

static INODES: AtomicU64 = AtomicU64::new(1);
/// `st_dev` of pipes.
const DEVICE: u64 = 0xfffe;

impl Vnode for PipeVnode {
    fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes {
            device: DEVICE,
            inode: self.inode,
            kind: Kind::Fifo,
            permissions: 0o600,
            links: 1,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            size: 0,
            blocks: 0,
            block_size: PAGE_SIZE as u32,
            accessed: self.born,
            modified: self.born,
            changed: self.born,
            born: self.born,
        })
    }

    fn kind(&self) -> Kind {
        Kind::Fifo
    }

    fn set_attributes(&self, changes: &AttributeChanges) -> Result<()> {
        if changes.size.is_some() { Err(Errno::EINVAL) } else { Ok(()) }
    }

    fn open(self: Arc<Self>, flags: OpenFlags) -> Result<Arc<dyn File>> {
        let pipe = self.pipe.clone();
        pipe.open(self, flags)
    }

    fn statistics(&self) -> Result<Statistics> {
        Ok(Statistics {
            magic: 0x5049_5045,
            block_size: PAGE_SIZE as u64,
            name_length: 255,
            ..Default::default()
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Makes a pipe: its reading and its writing end.
pub fn pipe(uid: u32, gid: u32) -> (Arc<dyn File>, Arc<dyn File>) {
    let pipe = Arc::new(Pipe::new());
    let inode = INODES.fetch_add(1, Ordering::Relaxed);
    let vnode: Arc<dyn Vnode> = Arc::new(PipeVnode { pipe: pipe.clone(), inode, uid, gid, born: now() });
    let mut state = pipe.state.lock();
    let writer = pipe.end(&mut state, vnode.clone(), false, true);
    let reader = pipe.end(&mut state, vnode, true, false);
    drop(state);
    (reader, writer)
}
