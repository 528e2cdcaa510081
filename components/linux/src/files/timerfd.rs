//! timerfd_create(2): timers that are read and polled.

use alloc::{
    string::String,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::any::Any;

use rumpkern::{
    Errno, Result,
    callout::Callout,
    poll::{Events, Observer},
    uio::Sink,
    wait::WaitQueue,
};
use rumpuser::{NEVER, rumpuser_clock_monotonic, rumpuser_clock_realtime, sync::SpinLock};
use rumpvfs::file::{File, OpenFlags};

use crate::{
    task::Task,
    user::{Timespec, UserPtr},
};

use super::open::install_anonymous;

const CLOCK_REALTIME: i32 = 0;
const CLOCK_MONOTONIC: i32 = 1;
const CLOCK_BOOTTIME: i32 = 7;
const CLOCK_REALTIME_ALARM: i32 = 8;
const CLOCK_BOOTTIME_ALARM: i32 = 9;
const TFD_TIMER_ABSTIME: u32 = 1;
const TFD_TIMER_CANCEL_ON_SET: u32 = 2;

/// Intervals are not shorter than this, so that nobody counts expirations for ever.
const SHORTEST: u64 = 1;

#[derive(Default)]
struct State {
    /// On the clock of `on_realtime`; [`NEVER`] while disarmed.
    expiry: u64,
    interval: u64,
    /// Expirations not yet read.
    ticks: u64,
    /// The expiry is a time of the day: it moves when the clock is set.
    on_realtime: bool,
    cancel_on_set: bool,
    cancelled: bool,
}

impl State {
    fn now(&self) -> u64 {
        if self.on_realtime { rumpuser_clock_realtime() } else { rumpuser_clock_monotonic() }
    }

    /// Counts the expirations up to now.
    fn advance(&mut self) {
        let now = self.now();
        if self.expiry == NEVER || now < self.expiry {
            return;
        }
        if self.interval == 0 {
            self.ticks += 1;
            self.expiry = NEVER;
            return;
        }
        let more = (now - self.expiry) / self.interval + 1;
        self.ticks = self.ticks.saturating_add(more);
        self.expiry = self.expiry.saturating_add(more.saturating_mul(self.interval)).min(NEVER - 1);
    }

    /// When to look again, on the monotonic clock.
    fn deadline(&self) -> u64 {
        if self.expiry == NEVER {
            return NEVER;
        }
        let left = self.expiry.saturating_sub(self.now());
        rumpuser_clock_monotonic().saturating_add(left).min(NEVER - 1)
    }

    fn ready(&self) -> bool {
        self.ticks > 0 || self.cancelled
    }
}

/// See the module.
pub struct TimerFd {
    clock: i32,
    state: SpinLock<State>,
    changes: WaitQueue,
    callout: Callout,
}

/// Those that must hear when the time of day is set.
static ON_REALTIME: SpinLock<Vec<Weak<TimerFd>>> = SpinLock::new(Vec::new());

/// The time of day was set: timers that depend on it are looked at anew.
pub fn clock_was_set() {
    let timers: Vec<_> = {
        let mut list = ON_REALTIME.lock();
        list.retain(|timer| timer.strong_count() > 0);
        list.iter().filter_map(Weak::upgrade).collect()
    };
    for timer in timers {
        {
            let mut state = timer.state.lock();
            if state.cancel_on_set && state.expiry != NEVER {
                state.cancelled = true;
            }
        }
        timer.look();
    }
}

impl TimerFd {
    /// A disarmed timer.
    pub fn new(clock: i32) -> Arc<Self> {
        Arc::new_cyclic(|myself: &Weak<TimerFd>| {
            let target = myself.clone();
            TimerFd {
                clock,
                state: SpinLock::new(State { expiry: NEVER, ..State::default() }),
                changes: WaitQueue::new(),
                callout: Callout::new(move || {
                    if let Some(timer) = target.upgrade() {
                        timer.look();
                    }
                }),
            }
        })
    }

    /// Counts expirations, tells who waits, and comes back for the next. Nobody needs to be told twice before
    /// the count is read.
    fn look(&self) {
        let (ready, deadline) = {
            let mut state = self.state.lock();
            state.advance();
            (state.ready(), state.deadline())
        };
        if ready {
            self.changes.notify(Events::IN | Events::RDNORM);
        } else {
            self.arm(deadline);
        }
    }

    fn arm(&self, deadline: u64) {
        // Without the thread that serves callouts, reads still see the time.
        let _ = self.callout.schedule(deadline);
    }

    /// timerfd_settime(2): returns what was left, and the interval.
    pub fn set(self: &Arc<Self>, value: u64, interval: u64, flags: u32) -> (u64, u64) {
        let absolute = flags & TFD_TIMER_ABSTIME != 0;
        let on_realtime = absolute && matches!(self.clock, CLOCK_REALTIME | CLOCK_REALTIME_ALARM);
        if on_realtime {
            let mut list = ON_REALTIME.lock();
            list.retain(|timer| timer.strong_count() > 0);
            if !list.iter().any(|timer| core::ptr::eq(timer.as_ptr(), Arc::as_ptr(self))) {
                list.push(Arc::downgrade(self));
            }
        }
        let (old, deadline) = {
            let mut state = self.state.lock();
            state.advance();
            let old = Self::left(&state);
            let cancel_on_set = on_realtime && flags & TFD_TIMER_CANCEL_ON_SET != 0;
            let interval = if interval == 0 { 0 } else { interval.max(SHORTEST) };
            *state = State { expiry: NEVER, interval, on_realtime, cancel_on_set, ..State::default() };
            if value > 0 {
                let base = if absolute { 0 } else { state.now() };
                state.expiry = base.saturating_add(value).min(NEVER - 1);
            }
            state.advance();
            (old, if state.ready() { rumpuser_clock_monotonic() } else { state.deadline() })
        };
        self.arm(deadline);
        old
    }

    fn left(state: &State) -> (u64, u64) {
        let left = if state.expiry == NEVER { 0 } else { state.expiry.saturating_sub(state.now()).max(1) };
        (left, state.interval)
    }

    /// timerfd_gettime(2).
    pub fn get(&self) -> (u64, u64) {
        let mut state = self.state.lock();
        state.advance();
        Self::left(&state)
    }

    fn take(&self) -> Option<Result<u64>> {
        let (ticks, deadline) = {
            let mut state = self.state.lock();
            state.advance();
            if core::mem::take(&mut state.cancelled) {
                state.ticks = 0;
                return Some(Err(Errno::ECANCELED));
            }
            if state.ticks == 0 {
                return None;
            }
            (core::mem::take(&mut state.ticks), state.deadline())
        };
        self.arm(deadline);
        Some(Ok(ticks))
    }
}

impl File for TimerFd {
    fn read(&self, sink: &mut Sink<'_>, _offset: u64, flags: OpenFlags) -> Result<usize> {
        if sink.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let ticks = match self.take() {
            Some(result) => result?,
            None if flags.contains(OpenFlags::NON_BLOCKING) => return Err(Errno::EAGAIN),
            None => self.changes.wait(NEVER, || self.take())??,
        };
        sink.put(&ticks.to_le_bytes())
    }

    fn poll(&self) -> Events {
        let mut state = self.state.lock();
        state.advance();
        if state.ready() { Events::IN | Events::RDNORM } else { Events::empty() }
    }

    fn observe(&self, observer: &Arc<dyn Observer>) {
        self.changes.observe(observer);
    }

    fn unobserve(&self, observer: &Arc<dyn Observer>) {
        self.changes.unobserve(observer);
    }

    fn description(&self) -> String {
        String::from("anon_inode:[timerfd]")
    }

    fn close(&self) {
        self.callout.cancel();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// timerfd_create(2).
pub fn timerfd_create(task: &Task, clock: i32, flags: u32) -> Result<usize> {
    let flags = OpenFlags::from_bits(flags)
        .filter(|&flags| (OpenFlags::CLOSE_ON_EXEC | OpenFlags::NON_BLOCKING).contains(flags))
        .ok_or(Errno::EINVAL)?;
    match clock {
        CLOCK_REALTIME | CLOCK_MONOTONIC | CLOCK_BOOTTIME | CLOCK_REALTIME_ALARM | CLOCK_BOOTTIME_ALARM => {}
        _ => return Err(Errno::EINVAL),
    }
    install_anonymous(task, TimerFd::new(clock), flags | OpenFlags::READ_WRITE)
}

/// The fields of `struct itimerspec`.
type IntervalTimer = [Timespec; 2];

fn timer_spec((left, interval): (u64, u64)) -> [i64; 4] {
    let (interval, left) = (Timespec::from_nanoseconds(interval), Timespec::from_nanoseconds(left));
    [interval.seconds, interval.nanoseconds, left.seconds, left.nanoseconds]
}

/// Runs `f` with the timer of a descriptor. EINVAL if it is none.
fn with_timer<T>(task: &Task, descriptor: i32, f: impl FnOnce(&Arc<TimerFd>) -> T) -> Result<T> {
    let file = task.files().get_io(descriptor)?;
    let any: Arc<dyn File> = file.file().clone();
    let any: Arc<dyn Any + Send + Sync> = any;
    Arc::downcast::<TimerFd>(any).map(|timer| f(&timer)).map_err(|_| Errno::EINVAL)
}

/// timerfd_settime(2).
pub fn timerfd_settime(
    task: &Task,
    descriptor: i32,
    flags: u32,
    new: UserPtr<IntervalTimer>,
    old: UserPtr<[i64; 4]>,
) -> Result<usize> {
    let [interval, value] = new.read()?;
    if flags & !(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL);
    }
    let (interval, value) = (interval.to_nanoseconds()?, value.to_nanoseconds()?);
    let before = with_timer(task, descriptor, |timer| timer.set(value, interval, flags))?;
    old.write_if_wanted(&timer_spec(before))?;
    Ok(0)
}

/// timerfd_gettime(2).
pub fn timerfd_gettime(task: &Task, descriptor: i32, to: UserPtr<[i64; 4]>) -> Result<usize> {
    let left = with_timer(task, descriptor, |timer| timer.get())?;
    to.write(&timer_spec(left))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(timer: &TimerFd, flags: OpenFlags) -> Result<u64> {
        let mut bytes = [0; 8];
        timer.read(&mut Sink::kernel(&mut bytes), 0, flags)?;
        Ok(u64::from_le_bytes(bytes))
    }

    #[test]
    fn a_timer_expires_once_or_again_and_again() {
        let timer = TimerFd::new(CLOCK_MONOTONIC);
        assert_eq!(read(&timer, OpenFlags::NON_BLOCKING), Err(Errno::EAGAIN));
        timer.set(1_000_000_000_000, 0, 0);
        assert!(timer.get().0 > 0);
        timer.set(2_000_000, 0, 0);
        assert_eq!(read(&timer, OpenFlags::default()), Ok(1));
        assert_eq!(timer.get(), (0, 0));
        timer.set(1, 1_000_000, 0);
        let first = read(&timer, OpenFlags::default()).unwrap();
        let second = read(&timer, OpenFlags::default()).unwrap();
        assert!(first >= 1 && second >= 1);
        assert_eq!(timer.get().1, 1_000_000);
        timer.set(0, 0, 0);
        assert_eq!(read(&timer, OpenFlags::NON_BLOCKING), Err(Errno::EAGAIN));
    }

    #[test]
    fn absolute_times_in_the_past_have_expired() {
        let timer = TimerFd::new(CLOCK_REALTIME);
        timer.set(1, 0, TFD_TIMER_ABSTIME);
        assert!(timer.poll().contains(Events::IN));
        assert_eq!(read(&timer, OpenFlags::NON_BLOCKING), Ok(1));
        timer.set(
            rumpuser_clock_realtime() + 1_000_000_000_000,
            0,
            TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET,
        );
        clock_was_set();
        assert_eq!(read(&timer, OpenFlags::NON_BLOCKING), Err(Errno::ECANCELED));
    }
}
