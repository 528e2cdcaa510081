//! How fast the time-stamp counter runs: told by the hypervisor or the CPU, else measured against a clock.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use rumpuser::device::Registers;

use crate::{kvm_clock, local_apic, machine, port, register::Register};

/// How long a measurement takes, in microseconds. Its many readings are fitted to a line, so that neither the spread
/// of one (a fraction of a microsecond) nor the clock's grain counts: the error stays below 100 parts in a million.
const WINDOW: u64 = 1_500;
/// For the PIT, whose grain is 838 ns.
const PIT_WINDOW: u64 = 3_000;
/// Readings in a measurement, at most.
const READINGS: u64 = 256;
/// How much longer than its window a measurement may take, as a factor.
const MOST_WINDOWS: u64 = 8;
const PIT_FREQUENCY: u64 = 1_193_182;
const PM_TIMER_FREQUENCY: u64 = 3_579_545;
/// What every hypervisor's local APIC counts with, where nothing tells otherwise.
const VIRTUAL_APIC_FREQUENCY: u64 = 1_000_000_000;

static PER_MICROSECOND: AtomicU64 = AtomicU64::new(3000);

/// TSC ticks in a microsecond; a guess until the frequency is known.
pub fn per_microsecond() -> u64 {
    PER_MICROSECOND.load(Ordering::Relaxed)
}

/// A reading of a clock: its count, the TSC just before, and how long the reading took.
#[derive(Clone, Copy)]
struct Reading {
    count: u64,
    tsc: u64,
    spread: u64,
}

impl Reading {
    fn take(read: impl Fn() -> u64) -> Reading {
        let before = port::tsc();
        let count = read();
        // The clock is looked at soon after the start; what takes long is mostly the way back.
        Reading { count, tsc: before, spread: port::tsc().wrapping_sub(before) }
    }

    /// The sharpest of several.
    fn sharpest(read: impl Fn() -> u64) -> Reading {
        let first = Reading::take(&read);
        (0..8)
            .map(|_| Reading::take(&read))
            .fold(first, |best, next| if next.spread < best.spread { next } else { best })
    }
}

/// A clock to measure against.
struct Reference<'a> {
    frequency: u64,
    /// How long to measure, in microseconds.
    window: u64,
    /// The bits that count; the counter wraps there.
    mask: u64,
    read: &'a dyn Fn() -> u64,
}

impl Reference<'_> {
    /// Measures the TSC's frequency, and the local APIC timer's if it needs that. `None` if the clock stands still.
    fn measure(&self) -> Option<(u64, u64)> {
        let window = self.frequency * self.window / 1_000_000;
        let timer_start = timer_reading();
        let first = Reading::take(self.read);
        let mut readings = Vec::from([Reading { count: 0, tsc: 0, spread: first.spread }]);
        let mut polls = 0;
        let mut last = 0;
        loop {
            let reading = Reading::take(self.read);
            let count = reading.count.wrapping_sub(first.count) & self.mask;
            polls += 1;
            if polls > 1_000_000 || (polls > 1_000 && count == 0) {
                return None;
            }
            // Evenly over the window, however fast the clock can be read; and just after it has moved on, so that a
            // coarse grain delays all readings alike.
            if count != last && count >= readings.len() as u64 * window / READINGS {
                readings.push(Reading { count, tsc: reading.tsc.wrapping_sub(first.tsc), ..reading });
            }
            last = count;
            // After a long pause of the hypervisor, there may be few readings yet.
            if count >= window && (readings.len() as u64 >= READINGS / 4 || count >= window * MOST_WINDOWS) {
                break;
            }
        }
        let timer_end = timer_reading();
        let tsc = (slope(&readings)? * self.frequency as f64) as u64;
        // Slower or faster than any CPU: the clock isn't what it says.
        let plausible = (10_000_000..=20_000_000_000).contains(&tsc);
        plausible.then(|| (tsc, timer_frequency(timer_start, timer_end, tsc)))
    }
}

/// The sharper half of the readings: those that nothing got in the way of (a hypervisor, an interrupt of the host, code
/// that runs for the first time).
fn good(readings: &[Reading]) -> impl Iterator<Item = &Reading> + Clone {
    let mut spreads: Vec<u64> = readings.iter().map(|reading| reading.spread).collect();
    spreads.sort_unstable();
    let median = spreads.get(spreads.len() / 2).copied().unwrap_or(0);
    readings.iter().filter(move |reading| reading.spread <= median)
}

/// TSC ticks per tick of the clock: the line through the readings, by least squares.
fn slope(readings: &[Reading]) -> Option<f64> {
    let points = good(readings).map(|reading| (reading.count as f64, reading.tsc as f64));
    let number = points.clone().count() as f64;
    let (sum_x, sum_y) = points.clone().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    let (mean_x, mean_y) = (sum_x / number, sum_y / number);
    let (products, squares) = points.fold((0.0, 0.0), |(products, squares), (x, y)| {
        (products + (x - mean_x) * (y - mean_y), squares + (x - mean_x) * (x - mean_x))
    });
    (squares > 0.0 && products > 0.0).then(|| products / squares)
}

fn timer_reading() -> Reading {
    Reading::sharpest(|| local_apic::counter().into())
}

/// The local APIC timer's frequency, from two readings of it.
fn timer_frequency(start: Reading, end: Reading, tsc: u64) -> u64 {
    let ticks = u128::from(end.count.wrapping_sub(start.count) & u64::from(u32::MAX));
    let elapsed = u128::from(end.tsc.wrapping_sub(start.tsc).max(1));
    u64::try_from(ticks * u128::from(tsc) / elapsed).unwrap_or(VIRTUAL_APIC_FREQUENCY)
}

/// The frequency in Hz. Also teaches the local APIC's timer its own.
pub fn frequency() -> u64 {
    let calibrate_timer = local_apic::timer_needs_calibration();
    if calibrate_timer {
        local_apic::start_counter();
    }
    let (tsc, timer) = match told() {
        Some(tsc) => (tsc, if calibrate_timer { measure_timer(tsc) } else { 0 }),
        None => measured().unwrap_or((2_000_000_000, VIRTUAL_APIC_FREQUENCY)),
    };
    if calibrate_timer {
        local_apic::set_frequencies(timer, tsc);
    }
    PER_MICROSECOND.store((tsc / 1_000_000).max(1), Ordering::Relaxed);
    tsc
}

/// What the hypervisor or the CPU says.
fn told() -> Option<u64> {
    let by_hypervisor = || {
        let [kilohertz, ..] = port::hypervisor_cpuid(0x4000_0010);
        (kilohertz != 0).then(|| u64::from(kilohertz) * 1000)
    };
    let by_cpu = || {
        // The crystal's frequency and the TSC's ratio to it. Leaf 0x16 rounds to MHz, which isn't enough.
        let [denominator, numerator, crystal, _] = port::basic_cpuid(0x15);
        let known = denominator != 0 && numerator != 0 && crystal != 0;
        known.then(|| u64::from(crystal) * u64::from(numerator) / u64::from(denominator))
    };
    kvm_clock::tsc_frequency().or_else(by_cpu).or_else(by_hypervisor)
}

/// Measures the APIC timer against the TSC, whose frequency is known.
fn measure_timer(tsc: u64) -> u64 {
    let start = timer_reading();
    port::delay(tsc / 1000);
    timer_frequency(start, timer_reading(), tsc)
}

fn measured() -> Option<(u64, u64)> {
    by_hpet().or_else(by_pm_timer).or_else(by_pit).or_else(by_local_apic)
}

fn by_hpet() -> Option<(u64, u64)> {
    const CAPABILITIES: usize = 0;
    const CONFIGURATION: usize = 0x10;
    const COUNTER: usize = 0xf0;
    const FEMTOSECONDS: u64 = 1_000_000_000_000_000;
    let registers: Registers = crate::map(machine::get()?.hpet?, 0x100);
    let period = registers.read64(CAPABILITIES) >> 32;
    // The specification allows up to 100 ns.
    if !(1..=100_000_000).contains(&period) {
        return None;
    }
    registers.write64(CONFIGURATION, registers.read64(CONFIGURATION) | 1);
    let read = || u64::from(registers.read32(COUNTER));
    Reference { frequency: FEMTOSECONDS / period, window: WINDOW, mask: u32::MAX.into(), read: &read }
        .measure()
}

fn by_pm_timer() -> Option<(u64, u64)> {
    let (register, wide): (Register, bool) = machine::get()?.pm_timer?;
    let mask = if wide { u32::MAX.into() } else { 0xff_ffff };
    let read = || u64::from(register.read32());
    Reference { frequency: PM_TIMER_FREQUENCY, window: WINDOW, mask, read: &read }.measure()
}

/// The 8254's channel 2, which counts down without an interrupt.
fn by_pit() -> Option<(u64, u64)> {
    const CONTROL: u16 = 0x43;
    const CHANNEL_2: u16 = 0x42;
    const GATE: u16 = 0x61;
    // Gate on, speaker off; then mode 0 (one countdown), from 65535.
    port::write8(GATE, port::read8(GATE) & !2 | 1);
    port::write8(CONTROL, 0xb0);
    port::write8(CHANNEL_2, 0xff);
    port::write8(CHANNEL_2, 0xff);
    let read = || {
        port::write8(CONTROL, 0x80); // latch
        let low = port::read8(CHANNEL_2);
        let high = port::read8(CHANNEL_2);
        !u64::from(u16::from_le_bytes([low, high])) & 0xffff
    };
    Reference { frequency: PIT_FREQUENCY, window: PIT_WINDOW, mask: 0xffff, read: &read }.measure()
}

/// A virtual machine without any clock: its local APIC counts nanoseconds.
fn by_local_apic() -> Option<(u64, u64)> {
    if port::hypervisor_cpuid(0x4000_0000) == [0; 4] || !local_apic::timer_needs_calibration() {
        return None;
    }
    let read = || u64::from(local_apic::counter());
    let (tsc, _) =
        Reference { frequency: VIRTUAL_APIC_FREQUENCY, window: WINDOW, mask: u32::MAX.into(), read: &read }
            .measure()?;
    Some((tsc, VIRTUAL_APIC_FREQUENCY))
}
