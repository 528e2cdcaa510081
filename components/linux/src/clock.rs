//! System calls: clocks and sleeping.

use alloc::sync::Arc;

use rumpkern::{Errno, Result};
use rumpuser::{
    NEVER, rumpuser_clock_monotonic, rumpuser_clock_realtime, rumpuser_clock_set_realtime,
    rumpuser_interrupted, rumpuser_park,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    process::Process,
    registry, resource,
    task::Task,
    user::{Timespec, Timeval, UserPtr},
};

const CAP_SYS_TIME: u32 = 25;
/// TIMER_ABSTIME.
pub const ABSOLUTE: i32 = 1;

/// What time is measured by.
#[derive(Clone)]
pub enum Clock {
    /// Since 1970 (also CLOCK_TAI: no leap seconds are known).
    Realtime,
    /// Since boot (also CLOCK_BOOTTIME: a machine here never sleeps).
    Monotonic,
    /// CPU time of a process.
    Process(Arc<Process>),
    /// CPU time of a task.
    Task(Arc<Task>),
}

impl Clock {
    /// From a `clockid_t`. EINVAL if there is no such clock.
    pub fn find(task: &Task, id: i32) -> Result<Clock> {
        Ok(match id {
            0 | 5 | 8 | 11 => Clock::Realtime,
            1 | 4 | 6 | 7 | 9 => Clock::Monotonic,
            2 => Clock::Process(task.process().clone()),
            3 => Clock::Task(task.arc()),
            _ if id < 0 && id & 3 != 3 => {
                // The clock of another process or task: its number, inverted, above three bits.
                let number = !(id >> 3);
                if id & 4 != 0 {
                    let other = if number == 0 { Some(task.arc()) } else { registry::task(number) };
                    let own = |other: &Arc<Task>| Arc::ptr_eq(other.process(), task.process());
                    Clock::Task(other.filter(own).ok_or(Errno::EINVAL)?)
                } else {
                    let own = || Some(task.process().clone());
                    let other = if number == 0 { own() } else { registry::process(number) };
                    Clock::Process(other.ok_or(Errno::EINVAL)?)
                }
            }
            _ => return Err(Errno::EINVAL),
        })
    }

    /// What it shows, in nanoseconds.
    pub fn now(&self) -> u64 {
        match self {
            Clock::Realtime => rumpuser_clock_realtime(),
            Clock::Monotonic => rumpuser_clock_monotonic(),
            Clock::Process(process) => {
                let usage = resource::usage_of(process);
                usage.user + usage.system
            }
            Clock::Task(task) => {
                let (user, system) = task.cpu_time();
                user + system
            }
        }
    }

    /// The monotonic time at which it may show `time` at the earliest.
    pub fn deadline(&self, time: u64) -> u64 {
        let left = time.saturating_sub(self.now());
        let left = match self {
            Clock::Process(_) => left / u64::from(rumpuser::rumpuser_cpu_online().count_ones().max(1)),
            _ => left,
        };
        rumpuser_clock_monotonic().saturating_add(left).min(NEVER - 1)
    }
}

/// clock_gettime(2).
pub fn clock_gettime(task: &Task, id: i32, result: UserPtr<Timespec>) -> Result<usize> {
    let now = match id {
        1 => rumpuser_clock_monotonic(),
        0 => rumpuser_clock_realtime(),
        _ => Clock::find(task, id)?.now(),
    };
    result.write(&Timespec::from_nanoseconds(now))?;
    Ok(0)
}

/// clock_getres(2).
pub fn clock_getres(task: &Task, id: i32, result: UserPtr<Timespec>) -> Result<usize> {
    Clock::find(task, id)?;
    // CLOCK_REALTIME_COARSE and CLOCK_MONOTONIC_COARSE claim less.
    let resolution = if id == 5 || id == 6 { 4_000_000 } else { 1 };
    result.write_if_wanted(&Timespec::from_nanoseconds(resolution))?;
    Ok(0)
}

fn set_realtime(task: &Task, time: u64) -> Result<usize> {
    if !task.credentials().capable(CAP_SYS_TIME) {
        return Err(Errno::EPERM);
    }
    rumpuser_clock_set_realtime(time);
    crate::files::timerfd::clock_was_set();
    Ok(0)
}

/// clock_settime(2).
pub fn clock_settime(task: &Task, id: i32, time: UserPtr<Timespec>) -> Result<usize> {
    let time = time.read()?.to_nanoseconds()?;
    if id != 0 {
        return Err(Errno::EINVAL);
    }
    set_realtime(task, time)
}

/// gettimeofday(2).
pub fn gettimeofday(_task: &Task, time: UserPtr<Timeval>, zone: UserPtr<[i32; 2]>) -> Result<usize> {
    time.write_if_wanted(&Timeval::from_nanoseconds(rumpuser_clock_realtime()))?;
    zone.write_if_wanted(&[0; 2])?;
    Ok(0)
}

/// settimeofday(2).
pub fn settimeofday(task: &Task, time: UserPtr<Timeval>, zone: UserPtr<[i32; 2]>) -> Result<usize> {
    if !zone.is_null() {
        zone.read()?;
    }
    if time.is_null() {
        return Ok(0);
    }
    set_realtime(task, time.read()?.to_nanoseconds()?)
}

/// time(2).
pub fn time(_task: &Task, result: UserPtr<i64>) -> Result<usize> {
    let seconds = (rumpuser_clock_realtime() / 1_000_000_000) as i64;
    result.write_if_wanted(&seconds)?;
    Ok(seconds as usize)
}

/// Sleeps until a monotonic deadline. EINTR if a signal comes first.
fn sleep_until(deadline: u64) -> Result<()> {
    loop {
        if rumpuser_clock_monotonic() >= deadline {
            return Ok(());
        }
        if rumpuser_interrupted() {
            return Err(Errno::EINTR);
        }
        rumpuser_park(deadline);
    }
}

/// nanosleep(2).
pub fn nanosleep(task: &Task, time: UserPtr<Timespec>, left: UserPtr<Timespec>) -> Result<usize> {
    clock_nanosleep(task, 1, 0, time, left)
}

/// clock_nanosleep(2).
pub fn clock_nanosleep(
    task: &Task,
    id: i32,
    flags: i32,
    time: UserPtr<Timespec>,
    left: UserPtr<Timespec>,
) -> Result<usize> {
    let clock = Clock::find(task, id)?;
    if matches!(clock, Clock::Task(_)) {
        return Err(Errno::EINVAL);
    }
    let time = time.read()?.to_nanoseconds()?;
    let absolute = flags & ABSOLUTE != 0;
    if matches!(clock, Clock::Process(_)) {
        let target = if absolute { time } else { clock.now().saturating_add(time) };
        while clock.now() < target {
            sleep_until(clock.deadline(target))?;
        }
        return Ok(0);
    }
    let deadline = if absolute { clock.deadline(time) } else { task.deadline_after(time) };
    let result = sleep_until(deadline);
    if result == Err(Errno::EINTR) && !absolute {
        let remaining = deadline.saturating_sub(rumpuser_clock_monotonic());
        left.write_if_wanted(&Timespec::from_nanoseconds(remaining))?;
    }
    result.map(|()| 0)
}

/// `struct timex`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Timex {
    modes: u32,
    padding: u32,
    offset: i64,
    frequency: i64,
    maximum_error: i64,
    estimated_error: i64,
    status: i32,
    padding2: u32,
    constant: i64,
    precision: i64,
    tolerance: i64,
    time: Timeval,
    tick: i64,
    pps: [i64; 8],
    tai: i32,
    reserved: [u32; 11],
}

/// adjtimex(2): tells the clock's state; the clock is not steered.
pub fn adjtimex(task: &Task, timex: UserPtr<Timex>) -> Result<usize> {
    clock_adjtime(task, 0, timex)
}

/// clock_adjtime(2).
pub fn clock_adjtime(task: &Task, id: i32, timex: UserPtr<Timex>) -> Result<usize> {
    const TIME_OK: usize = 0;
    const ADJ_OFFSET_READONLY: u32 = 0xa001;
    const ADJ_SETOFFSET: u32 = 0x100;
    const ADJ_NANO: u32 = 0x2000;
    const STATUS_UNSYNCHRONISED: i32 = 0x40;
    if id != 0 {
        return Err(Errno::EINVAL);
    }
    let mut state = timex.read()?;
    if state.modes != 0 && state.modes != ADJ_OFFSET_READONLY && !task.credentials().capable(CAP_SYS_TIME) {
        return Err(Errno::EPERM);
    }
    let nanoseconds = state.modes & ADJ_NANO != 0;
    if state.modes & ADJ_SETOFFSET != 0 {
        let unit = if nanoseconds { 1 } else { 1000 };
        let shift = state.time.seconds.saturating_mul(1_000_000_000);
        let shift = shift.saturating_add(state.time.microseconds.saturating_mul(unit));
        rumpuser_clock_set_realtime(rumpuser_clock_realtime().saturating_add_signed(shift));
        crate::files::timerfd::clock_was_set();
    }
    let now = rumpuser_clock_realtime();
    state = Timex {
        modes: state.modes,
        maximum_error: 16_000_000,
        estimated_error: 16_000_000,
        status: STATUS_UNSYNCHRONISED,
        constant: 2,
        precision: 1,
        tolerance: 32_768_000,
        time: Timeval::from_nanoseconds(now),
        tick: 10_000,
        ..Default::default()
    };
    timex.write(&state)?;
    Ok(TIME_OK)
}

#[cfg(test)]
mod tests {
    use super::Timex;

    #[test]
    fn timex_has_linux_s_size() {
        assert_eq!(size_of::<Timex>(), 208);
    }
}
