//! How fast the time-stamp counter runs: told by the hypervisor or the CPU, else measured against a clock.

use core::sync::atomic::{AtomicU64, Ordering};

use rumpuser::device::Registers;

use crate::{kvm_clock, local_apic, machine, port, register::Register};

/// How long a measurement takes, in microseconds. With the spread of a reading (a fraction of a microsecond),
/// the error stays below 100 parts in a million; the PIT counts less finely than the other clocks.
const WINDOW: u64 = 3_000;
const PIT_WINDOW: u64 = 9_000;
/// Readings of the clock at each end of a measurement, at most; the one that took least counts, and one that took
/// less than [`SHARP`] ticks is good enough.
const READINGS: usize = 32;
const SHARP: u64 = 1_500;
const PIT_FREQUENCY: u64 = 1_193_182;
const PM_TIMER_FREQUENCY: u64 = 3_579_545;
/// What every hypervisor's local APIC counts with, where nothing tells otherwise.
const VIRTUAL_APIC_FREQUENCY: u64 = 1_000_000_000;

static PER_MICROSECOND: AtomicU64 = AtomicU64::new(3000);

/// TSC ticks in a microsecond; a guess until the frequency is known.
pub fn per_microsecond() -> u64 {
    PER_MICROSECOND.load(Ordering::Relaxed)
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
    /// The counter and the TSC at the same time, as nearly as can be told.
    fn sample(&self) -> (u64, u64) {
        let mut best = (0, 0);
        let mut spread = u64::MAX;
        for _ in 0..READINGS {
            let before = port::tsc();
            let count = (self.read)();
            let after = port::tsc();
            if after.wrapping_sub(before) < spread {
                spread = after.wrapping_sub(before);
                best = (count, before.wrapping_add(spread / 2));
            }
            if spread < SHARP {
                break;
            }
        }
        best
    }

    /// Measures the TSC's frequency, and the local APIC timer's if it needs that. `None` if the clock stands still.
    fn measure(&self) -> Option<(u64, u64)> {
        let wanted = self.frequency * self.window / 1_000_000;
        let (start, start_tsc) = self.sample();
        let start_timer = local_apic::counter();
        let mut polls = 0;
        loop {
            let elapsed = (self.read)().wrapping_sub(start) & self.mask;
            if elapsed >= wanted {
                break;
            }
            polls += 1;
            if polls > 1_000_000 || (polls > 1_000 && elapsed == 0) {
                return None;
            }
        }
        let (end, end_tsc) = self.sample();
        let timer = u64::from(local_apic::counter().wrapping_sub(start_timer));
        let elapsed = end.wrapping_sub(start) & self.mask;
        let scale = |ticks: u64| u128::from(ticks) * u128::from(self.frequency) / u128::from(elapsed.max(1));
        let tsc = u64::try_from(scale(end_tsc.wrapping_sub(start_tsc))).ok()?;
        // Slower or faster than any CPU: the clock isn't what it says.
        (10_000_000..=20_000_000_000).contains(&tsc).then(|| (tsc, u64::try_from(scale(timer)).unwrap_or(0)))
    }
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

/// Measures the APIC timer against the TSC: a millisecond is enough for a timer that is checked when it fires.
fn measure_timer(tsc: u64) -> u64 {
    let (start, start_tsc) = (local_apic::counter(), port::tsc());
    port::delay(tsc / 1000);
    let elapsed = port::tsc().wrapping_sub(start_tsc).max(1);
    let ticks = local_apic::counter().wrapping_sub(start);
    u64::try_from(u128::from(ticks) * u128::from(tsc) / u128::from(elapsed)).unwrap_or(VIRTUAL_APIC_FREQUENCY)
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
