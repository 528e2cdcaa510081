//! Time as the hypervisor tells it, and the CPUs' single-shot timers (Xen, public/xen.h and public/vcpu.h).

use core::sync::atomic::{AtomicU32, Ordering};

use crate::{
    hypercall::{self, PlainVcpu, VcpuOperation},
    memory::{self, TimeInformation},
};

/// A CPU's time at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Time {
    tsc: u64,
    system_time: u64,
    multiplier: u32,
    shift: i8,
}

impl Time {
    /// Nanoseconds since the host's start at a value of the time-stamp counter.
    fn at(&self, tsc: u64) -> u64 {
        let ticks = u128::from(tsc.saturating_sub(self.tsc));
        let shift = u32::from(self.shift.unsigned_abs()).min(63);
        let ticks = if self.shift < 0 { ticks >> shift } else { ticks << shift };
        let elapsed = ticks.saturating_mul(u128::from(self.multiplier)) >> 32;
        u64::try_from(elapsed).unwrap_or(u64::MAX).saturating_add(self.system_time)
    }

    /// The counter's frequency in Hz.
    fn frequency(&self) -> Option<u64> {
        let frequency = (1_000_000_000_u128 << 32).checked_div(u128::from(self.multiplier))?;
        let shift = u32::from(self.shift.unsigned_abs()).min(63);
        let frequency = if self.shift < 0 { frequency << shift } else { frequency >> shift };
        u64::try_from(frequency).ok().filter(|frequency| *frequency != 0)
    }
}

/// Reads what the hypervisor may be writing: `version` is odd meanwhile.
fn consistent<T>(version: &AtomicU32, read: impl Fn() -> T) -> T {
    loop {
        let before = version.load(Ordering::Acquire);
        let value = read();
        core::sync::atomic::fence(Ordering::Acquire);
        if before & 1 == 0 && before == version.load(Ordering::Relaxed) {
            return value;
        }
        core::hint::spin_loop();
    }
}

fn read(time: &TimeInformation) -> Time {
    consistent(&time.version, || Time {
        tsc: time.tsc.load(Ordering::Relaxed),
        system_time: time.system_time.load(Ordering::Relaxed),
        multiplier: time.multiplier.load(Ordering::Relaxed),
        shift: time.shift.load(Ordering::Relaxed).cast_signed(),
    })
}

fn here() -> Option<Time> {
    let cpu = crate::current_vcpu();
    memory::cpu(cpu).map(|information| read(&information.time))
}

/// The frequency of the time-stamp counter in Hz.
pub fn tsc_frequency() -> Option<u64> {
    here()?.frequency()
}

/// Nanoseconds since the host's start.
pub fn system_time() -> u64 {
    here().map_or(0, |time| time.at(bmk::machine::rdtsc()))
}

/// Nanoseconds since 1970.
pub fn realtime() -> Option<u64> {
    let page = memory::shared()?.information;
    let (seconds, nanoseconds) = consistent(&page.wall_version, || {
        let high = u64::from(page.wall_seconds_high.load(Ordering::Relaxed));
        let seconds = high << 32 | u64::from(page.wall_seconds.load(Ordering::Relaxed));
        (seconds, u64::from(page.wall_nanoseconds.load(Ordering::Relaxed)))
    });
    let since_start = here()?.at(bmk::machine::rdtsc());
    Some(seconds.wrapping_mul(1_000_000_000).wrapping_add(nanoseconds).wrapping_add(since_start))
}

#[repr(C)]
struct SetTimer {
    deadline: u64,
    flags: u32,
}

// SAFETY: `struct vcpu_set_singleshot_timer` with VCPUOP_set_singleshot_timer.
unsafe impl VcpuOperation for SetTimer {
    const COMMAND: u64 = 8;
}

/// Arms the calling CPU's timer for a value of the time-stamp counter; `u64::MAX` disarms it.
pub fn set_timer(tsc: u64) {
    let cpu = crate::current_vcpu();
    if tsc == u64::MAX {
        let _ = hypercall::vcpu_plain(cpu, PlainVcpu::StopTimer);
    } else if let Some(time) = here() {
        // One more, so that the deadline has passed when the event comes.
        let deadline = time.at(tsc).saturating_add(1);
        let _ = hypercall::vcpu(cpu, &SetTimer { deadline, flags: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_nanoseconds() {
        // 2 GHz: half a nanosecond a tick.
        let time = Time { tsc: 1_000, system_time: 5_000, multiplier: 1 << 31, shift: 0 };
        assert_eq!((time.at(3_000), time.at(0), time.frequency()), (6_000, 5_000, Some(2_000_000_000)));
        // 500 MHz: 2 ns a tick.
        let slow = Time { multiplier: 1 << 31, shift: 2, ..time };
        assert_eq!((slow.at(2_000), slow.frequency()), (7_000, Some(500_000_000)));
        let fast = Time { multiplier: 1 << 31, shift: -1, ..time };
        assert_eq!((fast.at(3_000), fast.frequency()), (5_500, Some(4_000_000_000)));
        // Whatever stands there.
        let wild = Time { tsc: 0, system_time: u64::MAX, multiplier: u32::MAX, shift: i8::MIN };
        assert_eq!((wild.at(u64::MAX), wild.frequency()), (u64::MAX, None));
        assert_eq!(Time { multiplier: 0, ..wild }.frequency(), None);
    }
}
