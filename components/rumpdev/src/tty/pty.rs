//! Pseudo-terminals (pty(7)): a terminal whose line is a file, the master.

use alloc::{
    collections::{BTreeMap, VecDeque},
    string::String,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    any::Any,
    sync::atomic::{AtomicBool, Ordering},
};

use rumpkern::{
    Errno, Result,
    poll::{Events, Observer},
    uio::{Sink, Source},
    wait::WaitQueue,
};
use rumpuser::{NEVER, sync::Mutex};
use rumpvfs::file::{File, OpenFlags};

use super::{Line, Tty, TtyFile, job};
use crate::user;

/// What the master may leave unread.
const CAPACITY: usize = 16 << 10;
/// How many pseudo-terminals may exist (Linux's default for kernel.pty.max).
const MOST: u32 = 4096;
/// The major number of /dev/pts/N.
const PTS_MAJOR: u64 = 136;

const FIONREAD: u32 = 0x541b;
const TIOCOUTQ: u32 = 0x5411;
const TIOCGPGRP: u32 = 0x540f;
const TIOCGSID: u32 = 0x5429;
const TIOCPKT: u32 = 0x5420;
const TIOCGPTN: u32 = 0x8004_5430;
const TIOCSPTLCK: u32 = 0x4004_5431;
const TIOCSIG: u32 = 0x4004_5436;
const TIOCGPKT: u32 = 0x8004_5438;
const TIOCGPTLCK: u32 = 0x8004_5439;

/// What master and slave share: the slave's output and the state of the pair.
#[derive(Default)]
struct Channel {
    output: Mutex<VecDeque<u8>>,
    changes: WaitQueue,
    /// The slave was opened and all its files were closed again.
    slave_closed: AtomicBool,
    master_closed: AtomicBool,
    locked: AtomicBool,
    packets: AtomicBool,
}

impl Line for Channel {
    fn room(&self) -> usize {
        CAPACITY.saturating_sub(self.output.lock().len())
    }

    fn transmit(&self, bytes: &[u8]) {
        {
            let mut output = self.output.lock();
            // Echo isn't held back by the limit, but it has an end.
            let room = (2 * CAPACITY).saturating_sub(output.len());
            output.extend(&bytes[..bytes.len().min(room)]);
        }
        self.changes.notify(Events::IN | Events::RDNORM);
    }

    fn queued(&self) -> usize {
        self.output.lock().len()
    }

    fn flush(&self) {
        self.output.lock().clear();
    }

    fn input_taken(&self) {
        self.changes.notify(Events::OUT | Events::WRNORM);
    }

    fn closed(&self) {
        self.slave_closed.store(true, Ordering::SeqCst);
        self.changes.notify(Events::IN | Events::HUP);
    }
}

/// A pair, as devpts knows it.
struct Pair {
    tty: Weak<Tty>,
    channel: Weak<Channel>,
    /// When it was made, nanoseconds since 1970.
    made: i64,
}

static PAIRS: Mutex<BTreeMap<u32, Pair>> = Mutex::new(BTreeMap::new());

/// The numbers of the pseudo-terminals that exist, from `from` on.
pub(super) fn numbers(from: u32) -> Vec<u32> {
    PAIRS.lock().range(from..).map(|(&number, _)| number).collect()
}

/// When a pseudo-terminal was made, if it exists.
pub(super) fn made(number: u32) -> Option<i64> {
    PAIRS.lock().get(&number).map(|pair| pair.made)
}

/// The device number of a slave.
pub(super) fn slave_device(number: u32) -> u64 {
    let minor = u64::from(number);
    PTS_MAJOR << 8 | minor & 0xff | (minor & !0xff) << 12
}

/// Opens /dev/ptmx: makes a new pair.
pub fn open_master() -> Result<Arc<dyn File>> {
    let channel = Arc::new(Channel::default());
    channel.locked.store(true, Ordering::Relaxed);
    let mut pairs = PAIRS.lock();
    let number = (0..MOST).find(|number| !pairs.contains_key(number)).ok_or(Errno::ENOSPC)?;
    let tty = Tty::new(slave_device(number), channel.clone(), [0; 4]);
    let made = rumpuser::rumpuser_clock_realtime() as i64;
    pairs.insert(number, Pair { tty: Arc::downgrade(&tty), channel: Arc::downgrade(&channel), made });
    Ok(Arc::new(PtyMaster { number, tty, channel }))
}

/// Opens /dev/pts/`number`.
pub fn open_slave(number: u32, flags: OpenFlags) -> Result<Arc<dyn File>> {
    let (tty, channel) = {
        let pairs = PAIRS.lock();
        let pair = pairs.get(&number).ok_or(Errno::ENXIO)?;
        (pair.tty.upgrade(), pair.channel.upgrade())
    };
    let (Some(tty), Some(channel)) = (tty, channel) else { return Err(Errno::EIO) };
    if channel.locked.load(Ordering::Relaxed) {
        return Err(Errno::EIO);
    }
    open_slave_of(&tty, &channel, flags)
}

fn open_slave_of(tty: &Arc<Tty>, channel: &Channel, flags: OpenFlags) -> Result<Arc<dyn File>> {
    if channel.master_closed.load(Ordering::SeqCst) {
        return Err(Errno::EIO);
    }
    let file = TtyFile::open(tty, flags, true)?;
    channel.slave_closed.store(false, Ordering::SeqCst);
    Ok(file)
}

/// The master's side.
pub struct PtyMaster {
    number: u32,
    tty: Arc<Tty>,
    channel: Arc<Channel>,
}

impl PtyMaster {
    /// TIOCGPTPEER: opens the slave without its path.
    pub fn peer(&self, flags: OpenFlags) -> Result<Arc<dyn File>> {
        open_slave_of(&self.tty, &self.channel, flags)
    }

    /// N of /dev/pts/N.
    pub fn number(&self) -> u32 {
        self.number
    }

    fn slave_gone(&self) -> bool {
        self.channel.slave_closed.load(Ordering::SeqCst)
    }
}

impl File for PtyMaster {
    fn read(&self, sink: &mut Sink<'_>, _offset: u64, flags: OpenFlags) -> Result<usize> {
        if sink.remaining() == 0 {
            return Ok(0);
        }
        let packets = self.channel.packets.load(Ordering::Relaxed);
        let limit = (sink.remaining() - usize::from(packets)).min(CAPACITY);
        let attempt = || -> Option<Result<Vec<u8>>> {
            let mut output = self.channel.output.lock();
            if output.is_empty() {
                return self.slave_gone().then_some(Err(Errno::EIO));
            }
            let length = output.len().min(limit);
            Some(Ok(output.drain(..length).collect()))
        };
        let data = if flags.contains(OpenFlags::NON_BLOCKING) {
            attempt().unwrap_or(Err(Errno::EAGAIN))?
        } else {
            self.channel.changes.wait(NEVER, attempt)??
        };
        self.tty.output_drained();
        let mut done = if packets { sink.put(&[0])? } else { 0 };
        let header = done;
        while done - header < data.len() {
            match sink.put(&data[done - header..]) {
                Ok(0) => break,
                Ok(size) => done += size,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn write(&self, source: &mut Source<'_>, _offset: &mut u64, flags: OpenFlags) -> Result<usize> {
        let before = source.transferred();
        let mut buffer = [0; 256];
        while source.remaining() > 0 {
            let room = || {
                if self.slave_gone() {
                    return Some(Err(Errno::EIO));
                }
                let room = self.tty.input_room();
                (room > 0).then_some(Ok(room))
            };
            let room = if flags.contains(OpenFlags::NON_BLOCKING) {
                room().unwrap_or(Err(Errno::EAGAIN))
            } else {
                self.channel.changes.wait(NEVER, room).unwrap_or_else(|error| Err(error.into()))
            };
            let size = room.and_then(|room| source.take(&mut buffer[..room.min(256)]));
            match size {
                Ok(size) => self.tty.receive(&buffer[..size]),
                Err(error) if source.transferred() == before => return Err(error),
                Err(_) => break,
            }
        }
        Ok(source.transferred() - before)
    }

    fn poll(&self) -> Events {
        let mut events = Events::empty();
        if !self.channel.output.lock().is_empty() {
            events |= Events::IN | Events::RDNORM;
        }
        if self.tty.input_room() > 0 {
            events |= Events::OUT | Events::WRNORM;
        }
        if self.slave_gone() {
            events |= Events::HUP;
        }
        events
    }

    fn observe(&self, observer: &Arc<dyn Observer>) {
        self.channel.changes.observe(observer);
    }

    fn unobserve(&self, observer: &Arc<dyn Observer>) {
        self.channel.changes.unobserve(observer);
    }

    fn ioctl(&self, request: u32, argument: usize) -> Result<usize> {
        let channel = &self.channel;
        match request {
            TIOCGPTN => user::write(argument, &self.number.to_le_bytes())?,
            TIOCSPTLCK => channel.locked.store(user::read_int(argument)? != 0, Ordering::Relaxed),
            TIOCGPTLCK => user::write_int(argument, i32::from(channel.locked.load(Ordering::Relaxed)))?,
            TIOCPKT => channel.packets.store(user::read_int(argument)? != 0, Ordering::Relaxed),
            TIOCGPKT => user::write_int(argument, i32::from(channel.packets.load(Ordering::Relaxed)))?,
            TIOCSIG => {
                let signal = i32::try_from(argument).unwrap_or(0);
                if ![job::signals::SIGINT, job::signals::SIGQUIT, job::signals::SIGTSTP].contains(&signal) {
                    return Err(Errno::EINVAL);
                }
                self.tty.signal_foreground(signal);
            }
            FIONREAD => {
                let queued = channel.output.lock().len();
                user::write_int(argument, i32::try_from(queued).unwrap_or(i32::MAX))?;
            }
            TIOCOUTQ => {
                let queued = self.tty.discipline.lock().available();
                user::write_int(argument, i32::try_from(queued).unwrap_or(i32::MAX))?;
            }
            // The master may ask without being in the session.
            TIOCGPGRP => user::write_int(argument, self.tty.foreground())?,
            TIOCGSID => {
                let session = self.tty.control.lock().session;
                if session == 0 {
                    return Err(Errno::ENOTTY);
                }
                user::write_int(argument, session)?;
            }
            _ => return self.tty.ioctl_settings(request, argument),
        }
        Ok(0)
    }

    fn description(&self) -> String {
        String::from("/dev/ptmx")
    }

    fn close(&self) {
        self.channel.master_closed.store(true, Ordering::SeqCst);
        PAIRS.lock().remove(&self.number);
        self.tty.hang_up();
        self.channel.changes.notify(Events::HUP);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
