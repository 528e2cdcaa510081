//! POSIX timers: timer_create and its kin.

use alloc::sync::{Arc, Weak};

use rumpkern::{Errno, Result, callout::Callout};
use rumpuser::sync::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{SHORTEST_PERIOD, Setting};
use crate::{
    clock::{ABSOLUTE, Clock},
    process::Process,
    signal::{SignalInfo, number::*, send},
    task::Task,
    user::{Timespec, UserPtr},
};

/// The most timers that a process may have.
const LIMIT: usize = 1024;

/// Who hears of a POSIX timer's expiry.
#[derive(Clone)]
enum Notice {
    None,
    Process(u32),
    Task(u32, Weak<Task>),
}

#[derive(Default)]
struct PosixState {
    setting: Setting,
    /// A signal was sent and not yet taken; the timer waits.
    queued: bool,
    /// Expirations besides the one that is told.
    overrun: u64,
    /// As timer_getoverrun tells.
    last_overrun: i32,
}

/// A timer of timer_create.
pub(super) struct PosixTimer {
    id: i32,
    clock: Clock,
    notice: Notice,
    value: u64,
    process: Weak<Process>,
    state: Mutex<PosixState>,
    callout: Callout,
}

/// `struct sigevent`, the part that is used.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct SigEvent {
    value: u64,
    signal: i32,
    notify: i32,
    tid: i32,
    padding: [u32; 11],
}

/// `struct itimerspec`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct ItimerSpec {
    /// The period; zero for none.
    pub interval: Timespec,
    /// When; zero disarms.
    pub value: Timespec,
}

impl PosixTimer {
    fn arm(&self, state: &PosixState) {
        if state.setting.expires == 0 || matches!(self.notice, Notice::None) {
            self.callout.cancel();
        } else {
            let _ = self.callout.schedule(self.clock.deadline(state.setting.expires));
        }
    }

    fn fire(&self) {
        let Some(process) = self.process.upgrade() else { return };
        let mut state = self.state.lock();
        if state.setting.expires == 0 || state.queued {
            return;
        }
        let now = self.clock.now();
        if now < state.setting.expires {
            self.arm(&state);
            return;
        }
        state.overrun = state.setting.forward(now);
        state.queued = true;
        drop(state);
        let pending = match &self.notice {
            Notice::None => false,
            Notice::Process(signal) => {
                send::to_process(&process, SignalInfo::timer(*signal, self.id, 0, self.value));
                process.pending.lock().set().contains(*signal)
            }
            Notice::Task(signal, task) => task.upgrade().is_some_and(|task| {
                send::to_task(&task, SignalInfo::timer(*signal, self.id, 0, self.value));
                task.signals.lock().pending.set().contains(*signal)
            }),
        };
        if !pending {
            // Ignored, or taken already: the next period must not wait for anybody.
            self.rearm(SHORTEST_PERIOD);
        }
    }

    /// The signal was taken: tells the overrun and goes on with the next period.
    fn taken(&self) -> i32 {
        let overrun = {
            let mut state = self.state.lock();
            if state.queued && state.setting.expires != 0 {
                let now = self.clock.now();
                if now >= state.setting.expires {
                    let missed = state.setting.forward(now) + 1;
                    state.overrun = state.overrun.saturating_add(missed);
                }
            }
            state.last_overrun = i32::try_from(state.overrun).unwrap_or(i32::MAX);
            state.last_overrun
        };
        self.rearm(0);
        overrun
    }

    fn rearm(&self, pause: u64) {
        let mut state = self.state.lock();
        if !state.queued {
            return;
        }
        state.queued = false;
        if state.setting.expires != 0 {
            let earliest = self.clock.now().saturating_add(pause);
            state.setting.expires = state.setting.expires.max(earliest);
            self.arm(&state);
        }
    }
}

/// A timer's signal is taken: completes its information.
pub fn signal_taken(process: &Process, info: &mut SignalInfo) {
    let timer = process.timers.posix.lock().get(&(info.fields[0] as i32)).cloned();
    if let Some(timer) = timer {
        let overrun = timer.taken();
        info.fields[0] = u64::from(timer.id as u32) | u64::from(overrun as u32) << 32;
    }
}

/// timer_create(2).
pub fn timer_create(
    task: &Task,
    clock: i32,
    event: UserPtr<SigEvent>,
    result: UserPtr<i32>,
) -> Result<usize> {
    const SIGEV_SIGNAL: i32 = 0;
    const SIGEV_NONE: i32 = 1;
    const SIGEV_THREAD_ID: i32 = 4;
    let clock = Clock::find(task, clock)?;
    let process = task.process();
    let event = match event.non_null() {
        Some(event) => Some(event.read()?),
        None => None,
    };
    let mut timers = process.timers.posix.lock();
    if timers.len() >= LIMIT {
        return Err(Errno::EAGAIN);
    }
    let id = (0..).find(|id| !timers.contains_key(id)).ok_or(Errno::EAGAIN)?;
    let (notice, value) = match event {
        None => (Notice::Process(SIGALRM), id as u64),
        Some(event) => {
            let signal = event.signal as u32;
            let valid = (1..=SIGRTMAX).contains(&signal);
            let notice = match event.notify {
                SIGEV_NONE => Notice::None,
                SIGEV_SIGNAL if valid => Notice::Process(signal),
                SIGEV_THREAD_ID if valid => {
                    let target = crate::registry::task(event.tid).ok_or(Errno::EINVAL)?;
                    if !Arc::ptr_eq(target.process(), process) {
                        return Err(Errno::EINVAL);
                    }
                    Notice::Task(signal, Arc::downgrade(&target))
                }
                _ => return Err(Errno::EINVAL),
            };
            (notice, event.value)
        }
    };
    result.write(&id)?;
    let timer = Arc::new_cyclic(|myself: &Weak<PosixTimer>| {
        let timer = myself.clone();
        let fire = move || {
            if let Some(timer) = timer.upgrade() {
                timer.fire();
            }
        };
        PosixTimer {
            id,
            clock,
            notice,
            value,
            process: Arc::downgrade(process),
            state: Mutex::new(PosixState::default()),
            callout: Callout::new(fire),
        }
    });
    timers.insert(id, timer);
    Ok(0)
}

fn find(task: &Task, id: i32) -> Result<Arc<PosixTimer>> {
    task.process().timers.posix.lock().get(&id).cloned().ok_or(Errno::EINVAL)
}

fn report(timer: &PosixTimer, state: &mut PosixState) -> ItimerSpec {
    let now = timer.clock.now();
    if matches!(timer.notice, Notice::None) && state.setting.expires != 0 && now >= state.setting.expires {
        state.setting.forward(now);
    }
    ItimerSpec {
        interval: Timespec::from_nanoseconds(state.setting.interval),
        value: Timespec::from_nanoseconds(state.setting.left(now)),
    }
}

/// timer_settime(2).
pub fn timer_settime(
    task: &Task,
    id: i32,
    flags: i32,
    new: UserPtr<ItimerSpec>,
    old: UserPtr<ItimerSpec>,
) -> Result<usize> {
    if new.is_null() {
        return Err(Errno::EINVAL);
    }
    let new = new.read()?;
    let (value, interval) = (new.value.to_nanoseconds()?, new.interval.to_nanoseconds()?);
    let timer = find(task, id)?;
    let before = {
        let mut state = timer.state.lock();
        let before = report(&timer, &mut state);
        let expires = match value {
            0 => 0,
            _ if flags & ABSOLUTE != 0 => value,
            _ => timer.clock.now().saturating_add(value),
        };
        *state = PosixState { setting: Setting { expires, interval }, ..Default::default() };
        timer.arm(&state);
        before
    };
    old.write_if_wanted(&before)?;
    Ok(0)
}

/// timer_gettime(2).
pub fn timer_gettime(task: &Task, id: i32, result: UserPtr<ItimerSpec>) -> Result<usize> {
    let timer = find(task, id)?;
    let setting = report(&timer, &mut timer.state.lock());
    result.write(&setting)?;
    Ok(0)
}

/// timer_getoverrun(2).
pub fn timer_getoverrun(task: &Task, id: i32) -> Result<usize> {
    Ok(find(task, id)?.state.lock().last_overrun as usize)
}

/// timer_delete(2).
pub fn timer_delete(task: &Task, id: i32) -> Result<usize> {
    let timer = task.process().timers.posix.lock().remove(&id).ok_or(Errno::EINVAL)?;
    timer.callout.cancel();
    Ok(0)
}
