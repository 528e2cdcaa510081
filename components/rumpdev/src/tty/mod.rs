//! Terminals: a line discipline between programs and a line (the console, or a pseudo-terminal's master).

pub mod console;
mod devpts;
pub mod discipline;
mod file;
mod ioctl;
pub mod job;
mod pty;
pub mod termios;

#[cfg(test)]
mod tests;

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rumpkern::{
    Errno, Result,
    poll::Events,
    uio::{Sink, Source},
    wait::WaitQueue,
};
use rumpuser::{
    NEVER, rumpuser_clock_monotonic,
    sync::{Mutex, SpinLock},
};
use rumpvfs::file::OpenFlags;

pub use devpts::{DevPts, devpts};
use discipline::{Discipline, Key};
pub use file::{CurrentTerminal, TtyFile};
use job::{Control, signals};
pub use pty::{PtyMaster, open_master, open_slave};
use termios::{TOSTOP, Termios, VMIN, VTIME};

/// Where a terminal's output goes.
pub trait Line: Send + Sync {
    /// How many bytes [`Line::transmit`] takes now.
    fn room(&self) -> usize;
    /// Puts bytes out; at most [`Line::room`] of them, but echo may exceed it.
    fn transmit(&self, bytes: &[u8]);
    /// Bytes not yet put out (TIOCOUTQ).
    fn queued(&self) -> usize {
        0
    }
    /// Drops what was not yet put out.
    fn flush(&self) {}
    /// Room for input came to be.
    fn input_taken(&self) {}
    /// The last open file on the terminal was closed.
    fn closed(&self) {}
}

/// How much one round of output takes.
const CHUNK: usize = 4096;
/// Output up to this size needs no allocation.
const SMALL: usize = 256;

/// `struct winsize`: rows, columns, and their size in pixels.
pub type WindowSize = [u16; 4];

/// A terminal.
pub struct Tty {
    /// The device number.
    pub device: u64,
    line: Arc<dyn Line>,
    discipline: Mutex<Discipline>,
    /// Held while output is processed and put out, so that writes don't mix.
    output: Mutex<()>,
    window: SpinLock<WindowSize>,
    control: SpinLock<Control>,
    changes: WaitQueue,
    hung_up: AtomicBool,
    exclusive: AtomicBool,
    opens: AtomicUsize,
}

impl Tty {
    /// A terminal with the default settings.
    pub fn new(device: u64, line: Arc<dyn Line>, window: WindowSize) -> Arc<Self> {
        Arc::new(Tty {
            device,
            line,
            discipline: Mutex::new(Discipline::default()),
            output: Mutex::new(()),
            window: SpinLock::new(window),
            control: SpinLock::new(Control::default()),
            changes: WaitQueue::new(),
            hung_up: AtomicBool::new(false),
            exclusive: AtomicBool::new(false),
            opens: AtomicUsize::new(0),
        })
    }

    /// The foreground process group (0: none).
    pub fn foreground(&self) -> i32 {
        self.control.lock().foreground
    }

    /// The settings.
    pub fn termios(&self) -> Termios {
        self.discipline.lock().termios
    }

    /// Changes the settings.
    pub fn configure(&self, change: impl FnOnce(&mut Termios)) {
        let mut discipline = self.discipline.lock();
        let mut termios = discipline.termios;
        change(&mut termios);
        discipline.set_termios(termios);
    }

    /// How much input fits.
    pub fn input_room(&self) -> usize {
        self.discipline.lock().room()
    }

    /// Takes input from the line. What doesn't fit is lost, except for special characters.
    pub fn receive(&self, bytes: &[u8]) {
        let reaction = self.discipline.lock().receive(bytes);
        if reaction.flush_output {
            self.line.flush();
        }
        for key in &reaction.signals {
            self.signal_foreground(match key {
                Key::Interrupt => signals::SIGINT,
                Key::Quit => signals::SIGQUIT,
                Key::Suspend => signals::SIGTSTP,
            });
        }
        if !reaction.echo.is_empty() {
            self.line.transmit(&reaction.echo);
        }
        if reaction.readable {
            self.changes.notify(Events::IN | Events::RDNORM);
        }
        if reaction.restarted {
            self.changes.notify(Events::OUT | Events::WRNORM);
        }
    }

    /// The line has room for output again.
    pub fn output_drained(&self) {
        self.changes.notify(Events::OUT | Events::WRNORM);
    }

    /// The line is gone: readers see the end, writers an error, and the session is told.
    pub fn hang_up(&self) {
        if self.hung_up.swap(true, Ordering::SeqCst) {
            return;
        }
        let session = self.control.lock().session;
        if session > 0 {
            job::jobs().signal_process(session, signals::SIGHUP);
            job::jobs().signal_process(session, signals::SIGCONT);
            job::session_ended(session);
        }
        self.changes.notify(Events::IN | Events::OUT | Events::HUP | Events::ERR);
    }

    fn is_hung_up(&self) -> bool {
        self.hung_up.load(Ordering::SeqCst)
    }

    /// read(2).
    fn read(&self, sink: &mut Sink<'_>, flags: OpenFlags) -> Result<usize> {
        if sink.remaining() == 0 {
            return Ok(0);
        }
        if self.is_hung_up() {
            return Ok(0);
        }
        self.check_foreground(signals::SIGTTIN)?;
        let (canonical, least, time) = {
            let termios = self.termios();
            let characters = termios.characters;
            (termios.local(termios::ICANON), usize::from(characters[VMIN]), u64::from(characters[VTIME]))
        };
        let limit = sink.remaining();
        let no_wait = flags.contains(OpenFlags::NON_BLOCKING);
        let data = if canonical || (no_wait && (least, time) != (0, 0)) {
            self.wait_for_input(1, if no_wait { 0 } else { NEVER }, no_wait, limit)?
        } else {
            self.read_raw(least, time * 100_000_000, limit)?
        };
        self.line.input_taken();
        let mut done = 0;
        while done < data.len() {
            match sink.put(&data[done..]) {
                Ok(0) => break,
                Ok(size) => done += size,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// The cases of VMIN and VTIME (termios(3)).
    fn read_raw(&self, least: usize, time: u64, limit: usize) -> Result<Vec<u8>> {
        let wanted = least.min(limit);
        let after = || rumpuser_clock_monotonic().saturating_add(time);
        match (least, time) {
            (0, 0) => Ok(self.discipline.lock().take(limit).unwrap_or_default()),
            (0, _) => match self.wait_for_input(1, after(), false, limit) {
                Err(Errno::ETIMEDOUT) => Ok(Vec::new()),
                other => other,
            },
            (_, 0) => self.wait_for_input(wanted, NEVER, false, limit),
            // The timer runs between bytes, from the first on.
            (_, _) => {
                let mut data = self.wait_for_input(1, NEVER, false, limit)?;
                while data.len() < wanted {
                    match self.wait_for_input(1, after(), false, limit - data.len()) {
                        Ok(more) if more.is_empty() => break,
                        Ok(more) => data.extend(more),
                        Err(_) => break,
                    }
                }
                Ok(data)
            }
        }
    }

    /// Waits until `least` bytes (or a line) are there, and takes them.
    fn wait_for_input(&self, least: usize, deadline: u64, no_wait: bool, limit: usize) -> Result<Vec<u8>> {
        let attempt = || {
            let mut discipline = self.discipline.lock();
            if discipline.readable(least) {
                return discipline.take(limit);
            }
            self.is_hung_up().then(Vec::new)
        };
        if no_wait {
            return attempt().ok_or(Errno::EAGAIN);
        }
        Ok(self.changes.wait(deadline, attempt)?)
    }

    /// write(2).
    fn write(&self, source: &mut Source<'_>, flags: OpenFlags) -> Result<usize> {
        if self.is_hung_up() {
            return Err(Errno::EIO);
        }
        if self.termios().local(TOSTOP) {
            self.check_foreground(signals::SIGTTOU)?;
        }
        let before = source.transferred();
        let mut small = [0; SMALL];
        let mut large = Vec::new();
        let buffer: &mut [u8] = if source.remaining() <= SMALL {
            &mut small
        } else {
            large.resize(source.remaining().min(CHUNK), 0);
            &mut large
        };
        let mut out = Vec::new();
        let mut written = 0;
        while source.remaining() > 0 {
            let size = match source.take(buffer) {
                Ok(size) => size,
                Err(error) if source.transferred() == before => return Err(error),
                Err(_) => break,
            };
            let mut taken = 0;
            while taken < size {
                match self.put_out(&buffer[taken..size], &mut out, flags) {
                    Ok(length) => taken += length,
                    Err(error) if written + taken == 0 => return Err(error),
                    Err(_) => return Ok(written + taken),
                }
            }
            written += size;
        }
        Ok(written)
    }

    /// Processes and puts out a part of `bytes`, at least one; waits for room.
    fn put_out(&self, bytes: &[u8], out: &mut Vec<u8>, flags: OpenFlags) -> Result<usize> {
        let attempt = || -> Option<Result<usize>> {
            if self.is_hung_up() {
                return Some(Err(Errno::EIO));
            }
            let _turn = self.output.lock();
            out.clear();
            let taken = {
                let mut discipline = self.discipline.lock();
                if discipline.stopped { 0 } else { discipline.process(bytes, out, self.line.room()) }
            };
            if taken > 0 {
                self.line.transmit(out);
            }
            (taken > 0).then_some(Ok(taken))
        };
        let mut attempt = attempt;
        if flags.contains(OpenFlags::NON_BLOCKING) {
            return attempt().unwrap_or(Err(Errno::EAGAIN));
        }
        self.changes.wait(NEVER, attempt)?
    }

    fn events(&self) -> Events {
        let mut events = Events::empty();
        let (readable, stopped) = {
            let discipline = self.discipline.lock();
            let least = match discipline.termios.characters {
                characters if characters[VTIME] == 0 => usize::from(characters[VMIN]),
                _ => 1,
            };
            (discipline.readable(least), discipline.stopped)
        };
        if readable {
            events |= Events::IN | Events::RDNORM;
        }
        if !stopped && self.line.room() > 0 {
            events |= Events::OUT | Events::WRNORM;
        }
        if self.is_hung_up() {
            events |= Events::IN | Events::OUT | Events::RDNORM | Events::WRNORM | Events::HUP | Events::ERR;
        }
        events
    }
}
