//! Time: monotonic from the time-stamp counter, and the page from which the vDSO computes the same.

use core::sync::atomic::{AtomicI64, AtomicPtr, AtomicU64, Ordering};

use rumpuser::{Frame, memory::PAGE_SIZE, user::ClockPage};

use crate::{
    lock::IrqLock,
    machine,
    memory::{frames, layout},
    platform::platform,
};

const SECOND: u64 = 1_000_000_000;
/// Monotonic time at the machine's start. Programs take a time of 0 s for none at all (lighttpd 1.4.69 so refuses a
/// client's HTTP/2 settings), as no system that they knew started them within its first second.
const START: u64 = SECOND;

static BASE: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds per tick, 32.32 fixed point.
static MULTIPLIER: AtomicU64 = AtomicU64::new(0);
static FREQUENCY: AtomicU64 = AtomicU64::new(0);
static REALTIME_OFFSET: AtomicI64 = AtomicI64::new(0);
static PAGE: AtomicPtr<ClockPage> = AtomicPtr::new(core::ptr::null_mut());
static PAGE_WRITE: IrqLock<()> = IrqLock::new(());

/// Starts the clock, with the counter's frequency in Hz.
pub fn initialise(frequency: u64) {
    set_frequency(frequency);
    BASE.store(machine::rdtsc(), Ordering::Relaxed);
    REALTIME_OFFSET.store(platform().realtime() as i64 - now() as i64, Ordering::Relaxed);
    if let Ok(frame) = frames::allocate(0, frames::For::Kernel) {
        frames::zero(frame, 1);
        PAGE.store(layout::direct(frame.physical()) as *mut ClockPage, Ordering::Release);
    }
    write_page();
}

fn set_frequency(frequency: u64) {
    let frequency = frequency.max(1_000_000);
    FREQUENCY.store(frequency, Ordering::Relaxed);
    MULTIPLIER.store((u128::from(SECOND) << 32).div_ceil(u128::from(frequency)) as u64, Ordering::Relaxed);
}

/// The clocks at a moment at which the machine stops.
#[derive(Debug, Clone, Copy)]
pub struct Stopped {
    monotonic: u64,
    /// The time of day against the platform's.
    ahead: u64,
}

/// Reads the clocks, for [`resume`].
pub fn stop() -> Stopped {
    Stopped { monotonic: now(), ahead: realtime().wrapping_sub(platform().realtime()) }
}

/// Goes on where the clocks stopped, with a counter of `frequency` Hz that may be another: monotonic time has stood still,
/// the time of day is the platform's, as far ahead of it as it was. While the other CPUs stand still.
pub fn resume(stopped: Stopped, frequency: u64) {
    set_frequency(frequency);
    let ticks = tsc_at(stopped.monotonic).wrapping_sub(BASE.load(Ordering::Relaxed));
    BASE.store(machine::rdtsc().saturating_sub(ticks), Ordering::Relaxed);
    // Writes the page, too.
    set_realtime(platform().realtime().wrapping_add(stopped.ahead));
}

/// Monotonic time in nanoseconds.
#[inline]
pub fn now() -> u64 {
    let ticks = machine::rdtsc().saturating_sub(BASE.load(Ordering::Relaxed));
    START + ((u128::from(ticks) * u128::from(MULTIPLIER.load(Ordering::Relaxed))) >> 32) as u64
}

/// The counter's value at a monotonic time.
pub fn tsc_at(time: u64) -> u64 {
    let ticks = u128::from(time.saturating_sub(START)) * u128::from(FREQUENCY.load(Ordering::Relaxed))
        / u128::from(SECOND);
    // One more, so that the time has come when the counter shows it.
    u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(BASE.load(Ordering::Relaxed)).saturating_add(1)
}

/// Nanoseconds since 1970.
pub fn realtime() -> u64 {
    (now() as i64).saturating_add(REALTIME_OFFSET.load(Ordering::Relaxed)) as u64
}

/// Sets the time of day.
pub fn set_realtime(time: u64) {
    REALTIME_OFFSET.store((time as i64).saturating_sub(now() as i64), Ordering::Relaxed);
    write_page();
}

/// The counter's frequency in Hz.
pub fn frequency() -> u64 {
    FREQUENCY.load(Ordering::Relaxed)
}

/// Waits busily, for hardware that needs a pause. Works once the frequency is known.
pub fn delay(nanoseconds: u64) {
    let end = now().saturating_add(nanoseconds);
    while now() < end {
        core::hint::spin_loop();
    }
}

/// The frame with the [`ClockPage`].
pub fn page() -> Frame {
    Frame(layout::physical(PAGE.load(Ordering::Acquire) as usize) / PAGE_SIZE as u64)
}

fn write_page() {
    // SAFETY: the page is allocated for ever, zeroed, and all its fields are atomic.
    let Some(page) = (unsafe { PAGE.load(Ordering::Acquire).as_ref() }) else { return };
    let _guard = PAGE_WRITE.lock();
    page.sequence.fetch_add(1, Ordering::SeqCst);
    page.base_tsc.store(BASE.load(Ordering::Relaxed), Ordering::SeqCst);
    page.base_ns.store(START, Ordering::SeqCst);
    page.multiplier.store(MULTIPLIER.load(Ordering::Relaxed), Ordering::SeqCst);
    page.realtime_offset.store(REALTIME_OFFSET.load(Ordering::Relaxed), Ordering::SeqCst);
    page.tsc_aux_is_cpu.store(machine::has_rdtscp().into(), Ordering::SeqCst);
    page.usable.store(1, Ordering::SeqCst);
    page.sequence.fetch_add(1, Ordering::SeqCst);
}
