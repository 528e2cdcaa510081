//! What a process does on each signal (sigaction(2)).

use rumpuser::sync::SpinLock;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{SignalSet, number::*};

/// The kernel's `struct sigaction` (x86-64).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Action {
    /// [`Action::DEFAULT`], [`Action::IGNORE`], or the handler's address.
    pub handler: usize,
    /// `SA_*`.
    pub flags: u64,
    /// Where the handler returns to (SA_RESTORER).
    pub restorer: usize,
    /// Blocked while the handler runs.
    pub mask: SignalSet,
}

/// What a signal does without a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// Ends the process.
    Terminate,
    /// Ends it; the wait status says that core was dumped.
    Core,
    /// Nothing.
    Ignore,
    /// Stops it.
    Stop,
    /// Continues it.
    Continue,
}

#[allow(missing_docs, reason = "the names are sigaction(2)'s, without SA_")]
impl Action {
    pub const DEFAULT: usize = 0;
    pub const IGNORE: usize = 1;
    pub const NOCLDSTOP: u64 = 1;
    pub const NOCLDWAIT: u64 = 2;
    pub const SIGINFO: u64 = 4;
    pub const RESTORER: u64 = 0x0400_0000;
    pub const ONSTACK: u64 = 0x0800_0000;
    pub const RESTART: u64 = 0x1000_0000;
    pub const NODEFER: u64 = 0x4000_0000;
    pub const RESETHAND: u64 = 0x8000_0000;
    /// The flags that are kept; others are cleared, so that a program can tell what is supported.
    pub const SUPPORTED: u64 = Self::NOCLDSTOP
        | Self::NOCLDWAIT
        | Self::SIGINFO
        | Self::RESTORER
        | Self::ONSTACK
        | Self::RESTART
        | Self::NODEFER
        | Self::RESETHAND;
}

/// The default action of a signal.
pub fn default_of(signal: u32) -> Default {
    match signal {
        SIGCHLD | SIGURG | SIGWINCH => Default::Ignore,
        SIGCONT => Default::Continue,
        SIGSTOP | SIGTSTP | SIGTTIN | SIGTTOU => Default::Stop,
        SIGQUIT | SIGILL | SIGTRAP | SIGABRT | SIGBUS | SIGFPE | SIGSEGV | SIGXCPU | SIGXFSZ | SIGSYS => {
            Default::Core
        }
        _ => Default::Terminate,
    }
}

/// The actions of a process; shared between processes with CLONE_SIGHAND.
pub struct Actions(SpinLock<[Action; 64]>);

impl core::default::Default for Actions {
    fn default() -> Self {
        Actions(SpinLock::new([Action::default(); 64]))
    }
}

impl Actions {
    /// A copy, for fork.
    pub fn duplicate(&self) -> Self {
        Actions(SpinLock::new(*self.0.lock()))
    }

    /// The action of a signal (1 to 64).
    pub fn get(&self, signal: u32) -> Action {
        self.0.lock()[signal as usize - 1]
    }

    /// Sets it; returns the old one.
    pub fn set(&self, signal: u32, action: Action) -> Action {
        core::mem::replace(&mut self.0.lock()[signal as usize - 1], action)
    }

    /// Whether the signal would do nothing now: ignored, or by default nothing.
    pub fn ignores(&self, signal: u32) -> bool {
        match self.get(signal).handler {
            Action::IGNORE => true,
            Action::DEFAULT => default_of(signal) == Default::Ignore,
            _ => false,
        }
    }

    /// What execve does: handlers go back to the default, ignored signals stay ignored.
    pub fn reset_handlers(&self) {
        for action in self.0.lock().iter_mut() {
            if action.handler != Action::IGNORE {
                *action = Action::default();
            } else {
                *action = Action { handler: Action::IGNORE, ..Action::default() };
            }
        }
    }
}
