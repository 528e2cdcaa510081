//! System calls: interval timers (setitimer, alarm) and POSIX timers (timer_create and its kin).

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use rumpkern::{Errno, Result, callout::Callout};
use rumpuser::{rumpuser_clock_monotonic, sync::Mutex};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    clock::{ABSOLUTE, Clock},
    limits::{INFINITY, Resource},
    process::Process,
    resource,
    signal::{SignalInfo, SignalSet, number::*, send},
    task::Task,
    user::{Timespec, Timeval, UserPtr},
};

/// Periodic timers fire no more often than this.
const SHORTEST_PERIOD: u64 = 50_000;
/// The most timers that a process may have.
const LIMIT: usize = 1024;

/// The timers of a process.
#[derive(Default)]
pub struct Timers {
    /// Real, virtual, profiling, and the limit on CPU time.
    intervals: Mutex<[Option<Arc<IntervalTimer>>; 4]>,
    posix: Mutex<BTreeMap<i32, Arc<PosixTimer>>>,
}

/// When a timer expires next, in its clock's time; 0 is never. Then every `interval`, if that isn't 0.
#[derive(Debug, Clone, Copy, Default)]
struct Setting {
    expires: u64,
    interval: u64,
}

impl Setting {
    /// Moves `expires` beyond `now`; returns how many periods were skipped over.
    fn forward(&mut self, now: u64) -> u64 {
        if self.interval == 0 {
            self.expires = 0;
            return 0;
        }
        let missed = now.saturating_sub(self.expires) / self.interval;
        self.expires = self.expires.saturating_add(self.interval.saturating_mul(missed + 1));
        missed
    }

    /// What is left, as it is reported: a timer that is about to fire has 1 ns.
    fn left(&self, now: u64) -> u64 {
        if self.expires == 0 { 0 } else { self.expires.saturating_sub(now).max(1) }
    }
}

// ---- interval timers

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Real,
    Virtual,
    Profile,
    Limit,
}

struct IntervalTimer {
    kind: Kind,
    process: Weak<Process>,
    setting: Mutex<Setting>,
    callout: Callout,
}

/// `struct itimerval`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct ItimerVal {
    interval: Timeval,
    value: Timeval,
}

impl IntervalTimer {
    fn new(kind: Kind, process: &Arc<Process>) -> Arc<Self> {
        Arc::new_cyclic(|myself: &Weak<IntervalTimer>| {
            let timer = myself.clone();
            let fire = move || {
                if let Some(timer) = timer.upgrade() {
                    timer.fire();
                }
            };
            IntervalTimer {
                kind,
                process: Arc::downgrade(process),
                setting: Mutex::new(Setting::default()),
                callout: Callout::new(fire),
            }
        })
    }

    /// What its clock shows.
    fn now(&self, process: &Process) -> u64 {
        match self.kind {
            Kind::Real => rumpuser_clock_monotonic(),
            Kind::Virtual => resource::usage_of(process).user,
            Kind::Profile | Kind::Limit => {
                let usage = resource::usage_of(process);
                usage.user + usage.system
            }
        }
    }

    fn arm(&self, process: &Process, setting: &Setting) {
        if setting.expires == 0 {
            self.callout.cancel();
            return;
        }
        let deadline = if self.kind == Kind::Real {
            setting.expires
        } else {
            // CPU time passes as fast as there are CPUs, at most.
            let left = setting.expires.saturating_sub(self.now(process));
            rumpuser_clock_monotonic()
                + (left / rumpuser::rumpuser_cpu_count().max(1) as u64).max(SHORTEST_PERIOD)
        };
        // Without memory for the service's thread the timer is lost, as anything else would be.
        let _ = self.callout.schedule(deadline);
    }

    fn fire(&self) {
        let Some(process) = self.process.upgrade() else { return };
        let mut setting = self.setting.lock();
        if setting.expires == 0 {
            return;
        }
        let now = self.now(&process);
        if now < setting.expires {
            self.arm(&process, &setting);
            return;
        }
        setting.forward(now);
        self.arm(&process, &setting);
        drop(setting);
        let signal = match self.kind {
            Kind::Real => SIGALRM,
            Kind::Virtual => SIGVTALRM,
            Kind::Profile => SIGPROF,
            Kind::Limit if now >= seconds(process.limits().0[Resource::Cpu as usize].hard) => SIGKILL,
            Kind::Limit => SIGXCPU,
        };
        send::to_process(&process, SignalInfo::kernel(signal));
    }
}

/// Seconds as nanoseconds; too many are never.
fn seconds(count: u64) -> u64 {
    count.saturating_mul(1_000_000_000)
}

/// Puts RLIMIT_CPU into force: SIGXCPU every second from the soft limit on, SIGKILL at the hard one.
pub fn limit_cpu(process: &Arc<Process>) {
    const INDEX: usize = 3;
    let limit = process.limit(Resource::Cpu);
    let mut timers = process.timers.intervals.lock();
    if limit == INFINITY && timers[INDEX].is_none() {
        return;
    }
    let timer = timers[INDEX].get_or_insert_with(|| IntervalTimer::new(Kind::Limit, process)).clone();
    drop(timers);
    let mut setting = timer.setting.lock();
    let expires = if limit == INFINITY { 0 } else { seconds(limit).max(1) };
    *setting = Setting { expires, interval: seconds(1) };
    timer.arm(process, &setting);
}

/// Sets an interval timer; returns what was left of the old setting and its interval.
fn set_interval(task: &Task, which: i32, value: u64, interval: u64) -> Result<Setting> {
    let kind = [Kind::Real, Kind::Virtual, Kind::Profile].get(which as usize).ok_or(Errno::EINVAL)?;
    let process = task.process();
    let timer = {
        let mut timers = process.timers.intervals.lock();
        if timers[which as usize].is_none() && value == 0 {
            return Ok(Setting::default());
        }
        timers[which as usize].get_or_insert_with(|| IntervalTimer::new(*kind, process)).clone()
    };
    let mut setting = timer.setting.lock();
    let now = timer.now(process);
    let old = Setting { expires: setting.left(now), interval: setting.interval };
    let expires = if value == 0 { 0 } else { now.saturating_add(value) };
    let interval = if interval == 0 { 0 } else { interval.max(SHORTEST_PERIOD) };
    *setting = Setting { expires, interval };
    timer.arm(process, &setting);
    Ok(old)
}

impl From<Setting> for ItimerVal {
    fn from(setting: Setting) -> Self {
        // What is left is rounded up, so that an armed timer never looks disarmed.
        ItimerVal {
            interval: Timeval::from_nanoseconds(setting.interval),
            value: Timeval::from_nanoseconds(setting.expires.div_ceil(1000) * 1000),
        }
    }
}

/// setitimer(2).
pub fn setitimer(task: &Task, which: i32, new: UserPtr<ItimerVal>, old: UserPtr<ItimerVal>) -> Result<usize> {
    let new = if new.is_null() { ItimerVal::default() } else { new.read()? };
    let (value, interval) = (new.value.to_nanoseconds()?, new.interval.to_nanoseconds()?);
    let before = set_interval(task, which, value, interval)?;
    old.write_if_wanted(&before.into())?;
    Ok(0)
}

/// getitimer(2).
pub fn getitimer(task: &Task, which: i32, result: UserPtr<ItimerVal>) -> Result<usize> {
    let timers = task.process().timers.intervals.lock();
    let slot = timers[..3].get(which as usize).ok_or(Errno::EINVAL)?.clone();
    drop(timers);
    let setting = slot.map_or_else(Setting::default, |timer| {
        let setting = *timer.setting.lock();
        Setting { expires: setting.left(timer.now(task.process())), interval: setting.interval }
    });
    result.write(&setting.into())?;
    Ok(0)
}

/// alarm(2).
pub fn alarm(task: &Task, seconds: u32) -> Result<usize> {
    let old = set_interval(task, 0, u64::from(seconds) * 1_000_000_000, 0)?;
    let rounded = (old.expires + 500_000_000) / 1_000_000_000;
    Ok(if old.expires == 0 { 0 } else { rounded.max(1) as usize })
}

// ---- POSIX timers

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

struct PosixTimer {
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

/// execve: POSIX timers go, interval timers stay.
pub fn process_executes(process: &Process) {
    let gone = core::mem::take(&mut *process.timers.posix.lock());
    drop(gone);
}

/// The process ends: all timers go.
pub fn process_ends(process: &Process) {
    process_executes(process);
    let gone = core::mem::take(&mut *process.timers.intervals.lock());
    drop(gone);
    process.pending.lock().discard(SignalSet::EMPTY.with(SIGALRM));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_that_was_missed_is_counted() {
        let mut setting = Setting { expires: 100, interval: 10 };
        assert_eq!(setting.forward(100), 0);
        assert_eq!(setting.expires, 110);
        assert_eq!(setting.forward(135), 2);
        assert_eq!(setting.expires, 140);
        assert_eq!(setting.left(139), 1);
        let mut once = Setting { expires: 100, interval: 0 };
        assert_eq!((once.forward(500), once.expires, once.left(500)), (0, 0, 0));
    }

    #[test]
    fn structures_have_linux_s_sizes() {
        assert_eq!(size_of::<SigEvent>(), 64);
        assert_eq!(size_of::<ItimerSpec>(), 32);
        assert_eq!(size_of::<ItimerVal>(), 32);
    }
}
