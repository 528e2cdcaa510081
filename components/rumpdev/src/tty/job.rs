//! Job control: what a terminal must know of the processes that use it. The personality provides it.

use alloc::{collections::BTreeMap, sync::Arc, sync::Weak};

use rumpkern::{Errno, Result};
use rumpuser::sync::{Mutex, SpinLock};

use super::Tty;

/// Signals that terminals send, with Linux's numbers.
pub mod signals {
    #![allow(missing_docs, reason = "the names are POSIX's")]
    pub const SIGHUP: i32 = 1;
    pub const SIGINT: i32 = 2;
    pub const SIGQUIT: i32 = 3;
    pub const SIGCONT: i32 = 18;
    pub const SIGTSTP: i32 = 20;
    pub const SIGTTIN: i32 = 21;
    pub const SIGTTOU: i32 = 22;
    pub const SIGWINCH: i32 = 28;
}

/// Who calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caller {
    /// The process.
    pub process: i32,
    /// Its process group.
    pub group: i32,
    /// Its session; the process that has this number leads it.
    pub session: i32,
}

/// What the personality knows about processes.
pub trait JobControl: Send + Sync {
    /// The calling process.
    fn caller(&self) -> Caller;
    /// Sends a signal to every process of a group.
    fn signal_group(&self, group: i32, signal: i32);
    /// Sends a signal to one process.
    fn signal_process(&self, process: i32, signal: i32);
    /// Whether the caller ignores or blocks a signal.
    fn ignores(&self, signal: i32) -> bool;
    /// Whether a group is orphaned: no member has a parent in another group of the same session.
    fn is_orphaned(&self, group: i32) -> bool;
    /// The session of a group, if the group exists.
    fn session_of_group(&self, group: i32) -> Option<i32>;
    /// Whether the caller may take a terminal from another session (CAP_SYS_ADMIN).
    fn is_privileged(&self) -> bool;
}

struct Nobody;

impl JobControl for Nobody {
    fn caller(&self) -> Caller {
        Caller::default()
    }
    fn signal_group(&self, _group: i32, _signal: i32) {}
    fn signal_process(&self, _process: i32, _signal: i32) {}
    fn ignores(&self, _signal: i32) -> bool {
        true
    }
    fn is_orphaned(&self, _group: i32) -> bool {
        false
    }
    fn session_of_group(&self, _group: i32) -> Option<i32> {
        None
    }
    fn is_privileged(&self) -> bool {
        true
    }
}

static JOB_CONTROL: SpinLock<&'static dyn JobControl> = SpinLock::new(&Nobody);

/// The controlling terminals, by session.
static TERMINALS: Mutex<BTreeMap<i32, Weak<Tty>>> = Mutex::new(BTreeMap::new());

/// Sets who knows about processes. Until then terminals have no job control.
pub fn set_job_control(job_control: &'static dyn JobControl) {
    *JOB_CONTROL.lock() = job_control;
}

pub(super) fn jobs() -> &'static dyn JobControl {
    *JOB_CONTROL.lock()
}

/// The controlling terminal of a session.
pub fn terminal_of(session: i32) -> Option<Arc<Tty>> {
    TERMINALS.lock().get(&session).and_then(Weak::upgrade)
}

/// The leader of a session ended, or gives its terminal up: the foreground group gets SIGHUP and SIGCONT, and
/// the session has no terminal any more.
pub fn session_ended(session: i32) {
    let Some(tty) = TERMINALS.lock().remove(&session).and_then(|tty| tty.upgrade()) else { return };
    let group = {
        let mut control = tty.control.lock();
        if control.session != session {
            return;
        }
        control.session = 0;
        core::mem::take(&mut control.foreground)
    };
    if group > 0 {
        jobs().signal_group(group, signals::SIGHUP);
        jobs().signal_group(group, signals::SIGCONT);
    }
}

/// Who may use a terminal: its session and the foreground process group (0: none).
#[derive(Debug, Default)]
pub struct Control {
    /// The session.
    pub session: i32,
    /// The foreground process group.
    pub foreground: i32,
}

impl Tty {
    /// Makes this the controlling terminal of a session, with `group` in the foreground.
    pub fn acquire(self: &Arc<Self>, session: i32, group: i32) {
        let previous = {
            let mut control = self.control.lock();
            let previous = control.session;
            *control = Control { session, foreground: group };
            previous
        };
        let mut terminals = TERMINALS.lock();
        if previous != session {
            terminals.remove(&previous);
        }
        terminals.insert(session, Arc::downgrade(self));
    }

    /// What opening a terminal does for a session leader that has none.
    pub(super) fn acquire_by_open(self: &Arc<Self>) {
        let caller = jobs().caller();
        if caller.process > 0
            && caller.process == caller.session
            && self.control.lock().session == 0
            && terminal_of(caller.session).is_none()
        {
            self.acquire(caller.session, caller.group);
        }
    }

    /// TIOCSCTTY.
    pub(super) fn set_controlling(self: &Arc<Self>, steal: bool) -> Result<()> {
        let caller = jobs().caller();
        let session = self.control.lock().session;
        let leads = caller.process == caller.session;
        if leads && session == caller.session {
            return Ok(());
        }
        if !leads || terminal_of(caller.session).is_some() {
            return Err(Errno::EPERM);
        }
        if session != 0 && !(steal && jobs().is_privileged()) {
            return Err(Errno::EPERM);
        }
        self.acquire(caller.session, caller.group);
        Ok(())
    }

    /// TIOCNOTTY.
    pub(super) fn give_up(&self) -> Result<()> {
        let caller = jobs().caller();
        if !self.controls(&caller) {
            return Err(Errno::ENOTTY);
        }
        if caller.process == caller.session {
            session_ended(caller.session);
        }
        Ok(())
    }

    pub(super) fn controls(&self, caller: &Caller) -> bool {
        caller.session != 0 && self.control.lock().session == caller.session
    }

    /// Whether a caller in the background may go on: `signal` is SIGTTIN (reading) or SIGTTOU (changing, and
    /// writing if TOSTOP is set). EINTR after the signal was sent to its group.
    pub(super) fn check_foreground(&self, signal: i32) -> Result<()> {
        let control = {
            let control = self.control.lock();
            (control.session, control.foreground)
        };
        if control.0 == 0 || control.1 == 0 {
            return Ok(());
        }
        let caller = jobs().caller();
        if caller.session != control.0 || caller.group == control.1 {
            return Ok(());
        }
        if jobs().ignores(signal) {
            return if signal == signals::SIGTTIN { Err(Errno::EIO) } else { Ok(()) };
        }
        if jobs().is_orphaned(caller.group) {
            return Err(Errno::EIO);
        }
        jobs().signal_group(caller.group, signal);
        Err(Errno::EINTR)
    }

    /// TIOCSPGRP.
    pub(super) fn set_foreground(&self, group: i32) -> Result<()> {
        let caller = jobs().caller();
        if !self.controls(&caller) {
            return Err(Errno::ENOTTY);
        }
        self.check_foreground(signals::SIGTTOU)?;
        if group < 0 {
            return Err(Errno::EINVAL);
        }
        match jobs().session_of_group(group) {
            None => Err(Errno::ESRCH),
            Some(session) if session != caller.session => Err(Errno::EPERM),
            Some(_) => {
                self.control.lock().foreground = group;
                Ok(())
            }
        }
    }

    pub(super) fn signal_foreground(&self, signal: i32) {
        let group = self.control.lock().foreground;
        if group > 0 {
            jobs().signal_group(group, signal);
        }
    }
}
