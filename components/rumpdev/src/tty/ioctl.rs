//! The ioctls of terminals (tty_ioctl(4)).

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use rumpkern::{Errno, Result, poll::Events};
use rumpuser::NEVER;

use super::{
    Tty, WindowSize,
    job::{self, signals},
    termios::{TERMIO_SIZE, TERMIOS_SIZE, TERMIOS2_SIZE, Termios, VSTART, VSTOP},
};
use crate::user;

const TCGETS: u32 = 0x5401;
const TCSETSF: u32 = 0x5404;
const TCGETA: u32 = 0x5405;
const TCSETAF: u32 = 0x5408;
const TCSBRK: u32 = 0x5409;
const TCXONC: u32 = 0x540a;
const TCFLSH: u32 = 0x540b;
const TIOCEXCL: u32 = 0x540c;
const TIOCNXCL: u32 = 0x540d;
const TIOCSCTTY: u32 = 0x540e;
const TIOCGPGRP: u32 = 0x540f;
const TIOCSPGRP: u32 = 0x5410;
const TIOCOUTQ: u32 = 0x5411;
const TIOCSTI: u32 = 0x5412;
const TIOCGWINSZ: u32 = 0x5413;
const TIOCSWINSZ: u32 = 0x5414;
const FIONREAD: u32 = 0x541b;
const TIOCNOTTY: u32 = 0x5422;
const TIOCSETD: u32 = 0x5423;
const TIOCGETD: u32 = 0x5424;
const TCSBRKP: u32 = 0x5425;
const TIOCSBRK: u32 = 0x5427;
const TIOCCBRK: u32 = 0x5428;
const TIOCGSID: u32 = 0x5429;
const TCGETS2: u32 = 0x802c_542a;
const TCSETS2: u32 = 0x402c_542b;
const TCSETSF2: u32 = 0x402c_542d;
const TIOCGDEV: u32 = 0x8004_5432;
const TIOCVHANGUP: u32 = 0x5437;
const TIOCGEXCL: u32 = 0x8004_5440;

/// `struct winsize` as bytes.
pub(super) fn window_bytes(window: WindowSize) -> [u8; 8] {
    let mut bytes = [0; 8];
    for (chunk, value) in bytes.chunks_exact_mut(2).zip(window) {
        chunk.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

impl Tty {
    /// Changes the window size; a change is told to the foreground group.
    pub fn set_window(&self, window: WindowSize) {
        let old = core::mem::replace(&mut *self.window.lock(), window);
        if old != window {
            self.signal_foreground(signals::SIGWINCH);
        }
    }

    pub(super) fn window(&self) -> WindowSize {
        *self.window.lock()
    }

    /// Waits until everything written was put out (tcdrain).
    fn drain(&self) -> Result<()> {
        Ok(self.changes.wait(NEVER, || (self.is_hung_up() || self.line.queued() == 0).then_some(()))?)
    }

    /// Drops queued input (0), output (1) or both (2), as TCFLSH numbers them.
    fn flush(&self, what: usize) -> Result<()> {
        if what > 2 {
            return Err(Errno::EINVAL);
        }
        if what != 1 {
            self.discipline.lock().flush_input();
            self.line.input_taken();
        }
        if what != 0 {
            self.line.flush();
            self.output_drained();
        }
        Ok(())
    }

    /// Changes the settings: `when` is 0 (now), 1 (after output drained) or 2 (and input flushed).
    pub(super) fn change_termios(&self, when: u32, change: impl FnOnce(Termios) -> Termios) -> Result<()> {
        self.check_foreground(signals::SIGTTOU)?;
        if when > 0 {
            self.drain()?;
        }
        if when == 2 {
            self.flush(0)?;
        }
        {
            let mut discipline = self.discipline.lock();
            let termios = change(discipline.termios);
            discipline.set_termios(termios);
        }
        self.changes.notify(Events::IN | Events::OUT);
        Ok(())
    }

    fn flow(&self, action: usize) -> Result<()> {
        match action {
            0 | 1 => {
                self.discipline.lock().stopped = action == 0;
                if action == 1 {
                    self.output_drained();
                }
            }
            2 | 3 => {
                let characters = self.termios().characters;
                let byte = characters[if action == 2 { VSTOP } else { VSTART }];
                if byte != 0 {
                    self.line.transmit(&[byte]);
                }
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// The requests that change neither job control nor what a master sees differently.
    pub(super) fn ioctl_settings(&self, request: u32, argument: usize) -> Result<usize> {
        match request {
            TCGETS => user::write(argument, &self.termios().to_bytes()[..TERMIOS_SIZE])?,
            TCGETS2 => user::write(argument, &self.termios().to_bytes())?,
            TCGETA => user::write(argument, &self.termios().to_termio())?,
            0x5402..=TCSETSF => {
                let bytes: [u8; TERMIOS_SIZE] = user::read(argument)?;
                self.change_termios(request - 0x5402, |old| old.updated(&bytes))?;
            }
            TCSETS2..=TCSETSF2 => {
                let bytes: [u8; TERMIOS2_SIZE] = user::read(argument)?;
                self.change_termios(request - TCSETS2, |old| old.updated(&bytes))?;
            }
            0x5406..=TCSETAF => {
                let bytes: [u8; TERMIO_SIZE] = user::read(argument)?;
                self.change_termios(request - 0x5406, |old| old.updated_termio(&bytes))?;
            }
            TIOCGWINSZ => user::write(argument, &window_bytes(self.window()))?,
            TIOCSWINSZ => {
                let bytes: [u8; 8] = user::read(argument)?;
                let half = |index: usize| u16::from_le_bytes([bytes[index], bytes[index + 1]]);
                self.set_window([half(0), half(2), half(4), half(6)]);
            }
            TCFLSH => {
                self.check_foreground(signals::SIGTTOU)?;
                self.flush(argument)?;
            }
            TCXONC => {
                self.check_foreground(signals::SIGTTOU)?;
                self.flow(argument)?;
            }
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }

    pub(super) fn ioctl(self: &Arc<Self>, request: u32, argument: usize) -> Result<usize> {
        if self.is_hung_up() {
            return Err(Errno::EIO);
        }
        match request {
            TCSBRK | TCSBRKP => {
                self.check_foreground(signals::SIGTTOU)?;
                self.drain()?;
            }
            TIOCSBRK | TIOCCBRK => {}
            TIOCEXCL | TIOCNXCL => self.exclusive.store(request == TIOCEXCL, Ordering::Relaxed),
            TIOCGEXCL => user::write_int(argument, i32::from(self.exclusive.load(Ordering::Relaxed)))?,
            TIOCSCTTY => self.set_controlling(argument == 1)?,
            TIOCNOTTY => self.give_up()?,
            TIOCGPGRP | TIOCGSID => {
                if !self.controls(&job::jobs().caller()) {
                    return Err(Errno::ENOTTY);
                }
                let (session, group) = {
                    let control = self.control.lock();
                    (control.session, control.foreground)
                };
                user::write_int(argument, if request == TIOCGSID { session } else { group })?;
            }
            TIOCSPGRP => {
                let group = user::read_int(argument)?;
                self.set_foreground(group)?;
            }
            TIOCOUTQ => user::write_int(argument, i32::try_from(self.line.queued()).unwrap_or(i32::MAX))?,
            FIONREAD => {
                let available = self.discipline.lock().available();
                user::write_int(argument, i32::try_from(available).unwrap_or(i32::MAX))?;
            }
            TIOCSTI => {
                let allowed = self.controls(&job::jobs().caller()) || job::jobs().is_privileged();
                if !allowed {
                    return Err(Errno::EPERM);
                }
                let byte: [u8; 1] = user::read(argument)?;
                self.receive(&byte);
            }
            TIOCGETD => user::write_int(argument, i32::from(self.termios().line))?,
            TIOCSETD => {
                if user::read_int(argument)? != 0 {
                    return Err(Errno::EINVAL);
                }
            }
            TIOCGDEV => user::write(argument, &(self.device as u32).to_le_bytes())?,
            TIOCVHANGUP => {
                if !job::jobs().is_privileged() {
                    return Err(Errno::EPERM);
                }
                self.hang_up();
            }
            _ => return self.ioctl_settings(request, argument),
        }
        Ok(0)
    }
}
