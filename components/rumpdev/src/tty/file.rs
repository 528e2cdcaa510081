//! Terminals as open files.

use alloc::{format, string::String, sync::Arc};
use core::{any::Any, sync::atomic::Ordering};

use rumpkern::{
    Errno, Result,
    poll::{Events, Observer},
    uio::{Sink, Source},
};
use rumpvfs::file::{File, OpenFlags};

use super::{Tty, job};

/// A terminal that was opened.
pub struct TtyFile {
    tty: Arc<Tty>,
}

impl TtyFile {
    /// Opens a terminal; it becomes the controlling one of a session leader that has none, unless `flags` or the
    /// kind of device (`may_control`) says otherwise.
    pub fn open(tty: &Arc<Tty>, flags: OpenFlags, may_control: bool) -> Result<Arc<dyn File>> {
        if tty.exclusive.load(Ordering::Relaxed) && !job::jobs().is_privileged() {
            return Err(Errno::EBUSY);
        }
        tty.opens.fetch_add(1, Ordering::SeqCst);
        if may_control && !flags.contains(OpenFlags::NO_CONTROLLING_TTY) {
            tty.acquire_by_open();
        }
        Ok(Arc::new(TtyFile { tty: tty.clone() }))
    }

    /// The terminal.
    pub fn tty(&self) -> &Arc<Tty> {
        &self.tty
    }
}

impl File for TtyFile {
    fn read(&self, sink: &mut Sink<'_>, _offset: u64, flags: OpenFlags) -> Result<usize> {
        self.tty.read(sink, flags)
    }

    fn write(&self, source: &mut Source<'_>, _offset: &mut u64, flags: OpenFlags) -> Result<usize> {
        self.tty.write(source, flags)
    }

    fn poll(&self) -> Events {
        self.tty.events()
    }

    fn observe(&self, observer: &Arc<dyn Observer>) {
        self.tty.changes.observe(observer);
    }

    fn unobserve(&self, observer: &Arc<dyn Observer>) {
        self.tty.changes.unobserve(observer);
    }

    fn ioctl(&self, request: u32, argument: usize) -> Result<usize> {
        self.tty.ioctl(request, argument)
    }

    fn description(&self) -> String {
        match self.tty.device {
            device if device >> 8 == 136 => format!("/dev/pts/{}", device & 0xff),
            _ => String::from("/dev/console"),
        }
    }

    fn close(&self) {
        if self.tty.opens.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.tty.line.closed();
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Opens /dev/tty: the caller's controlling terminal.
pub struct CurrentTerminal;

impl CurrentTerminal {
    /// ENXIO if the caller has none.
    pub fn open(flags: OpenFlags) -> Result<Arc<dyn File>> {
        let session = job::jobs().caller().session;
        let tty = job::terminal_of(session).filter(|_| session > 0).ok_or(Errno::ENXIO)?;
        TtyFile::open(&tty, flags, false)
    }
}
