//! Interval timers: setitimer, getitimer, alarm, and the limit on CPU time.

use alloc::sync::{Arc, Weak};

use rumpkern::{Errno, Result, callout::Callout};
use rumpuser::{rumpuser_clock_monotonic, sync::Mutex};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{SHORTEST_PERIOD, Setting};
use crate::{
    limits::{INFINITY, Resource},
    process::Process,
    resource,
    signal::{SignalInfo, number::*, send},
    task::Task,
    user::{Timeval, UserPtr},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Real,
    Virtual,
    Profile,
    Limit,
}

/// A timer of setitimer, or RLIMIT_CPU.
pub(super) struct IntervalTimer {
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
                + (left / u64::from(rumpuser::rumpuser_cpu_online().count_ones().max(1))).max(SHORTEST_PERIOD)
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
