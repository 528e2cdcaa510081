//! Who sent a signal, as `siginfo_t` tells handlers. Signals don't queue, so of each the last sender counts.

use core::{
    ffi::c_int,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{deliver::Cause, process};

/// `SI_USER`: by kill(2).
pub const USER: i8 = 0;
/// `SI_QUEUE`: by sigqueueinfo(2).
pub const QUEUE: i8 = -1;
/// `SI_LWP`: to a thread.
pub const THREAD: i8 = -5;

/// The code, and above it the process.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sender(u32);

impl Sender {
    /// The kernel, which is no process.
    pub const KERNEL: Self = Sender(0);

    /// The calling program.
    pub fn caller(code: i8) -> Self {
        Self::new(process::getpid_of_caller(), code)
    }

    fn new(pid: c_int, code: i8) -> Self {
        Sender((pid as u32) << 8 | u32::from(code as u8))
    }

    /// What a handler is told.
    fn cause(self, number: usize) -> Cause {
        // The process stands where traps have their address; behind it the user, who is root.
        let (code, pid) = (c_int::from(self.0 as u8 as i8), (self.0 >> 8) as usize);
        Cause { number, code, address: pid, ..Cause::default() }
    }
}

/// The last senders of a program's signals, to it or to a thread of its.
pub struct Senders<const SIGNALS: usize>([AtomicU32; SIGNALS]);

impl<const SIGNALS: usize> Senders<SIGNALS> {
    /// Nobody has sent anything.
    pub(super) const fn new() -> Self {
        Senders([const { AtomicU32::new(0) }; SIGNALS])
    }

    /// Before the signal is noted.
    pub fn note(&self, number: usize, sender: Sender) {
        if let Some(place) = self.0.get(number) {
            place.store(sender.0, Ordering::SeqCst);
        }
    }

    /// Why a signal that was taken came.
    pub fn cause(&self, number: usize) -> Cause {
        let sender = self.0.get(number).map_or(0, |place| place.load(Ordering::SeqCst));
        Sender(sender).cause(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_sender_is_told() {
        let senders = Senders::<4>::new();
        let told = |number| {
            let cause = senders.cause(number);
            (cause.number, cause.code, cause.address)
        };
        assert_eq!(told(2), (2, 0, 0));
        senders.note(2, Sender::new(70_000, USER));
        senders.note(2, Sender::new(12, THREAD));
        senders.note(3, Sender::new(70_000, USER));
        senders.note(9, Sender::KERNEL);
        assert_eq!((told(2), told(3), told(9)), ((2, -5, 12), (3, 0, 70_000), (9, 0, 0)));
    }
}
