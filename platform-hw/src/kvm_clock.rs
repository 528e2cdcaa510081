//! KVM's paravirtual clock: the TSC's frequency and the time of day.

use rumpuser::Frame;

use crate::port;

const SIGNATURE: [u32; 3] =
    [u32::from_le_bytes(*b"KVMK"), u32::from_le_bytes(*b"VMKV"), u32::from_le_bytes(*b"M\0\0\0")];
const FEATURES: u32 = 0x4000_0001;
/// The feature bits and the registers (wall clock, system time) that each stands for, newest first.
const VARIANTS: [(u32, u32, u32); 2] = [(1 << 3, 0x4b56_4d00, 0x4b56_4d01), (1 << 0, 0x11, 0x12)];
const ENABLE: u64 = 1;

/// The registers: (wall clock, system time).
fn registers() -> Option<(u32, u32)> {
    let [_, signature @ ..] = port::hypervisor_cpuid(0x4000_0000);
    if signature != SIGNATURE {
        return None;
    }
    let features = port::hypervisor_cpuid(FEATURES)[0];
    VARIANTS.iter().find(|variant| features & variant.0 != 0).map(|variant| (variant.1, variant.2))
}

/// What the hypervisor writes at the frame's start: `pvclock_vcpu_time_info`.
struct SystemTime {
    tsc: u64,
    nanoseconds: u64,
    multiplier: u32,
    shift: i8,
}

fn read32(frame: Frame, offset: usize) -> u32 {
    let mut bytes = [0; 4];
    frame.read(offset, &mut bytes);
    u32::from_le_bytes(bytes)
}

fn read64(frame: Frame, offset: usize) -> u64 {
    u64::from(read32(frame, offset + 4)) << 32 | u64::from(read32(frame, offset))
}

/// Asks for the system time, once.
fn system_time(register: u32, frame: Frame) -> Option<SystemTime> {
    port::write_msr(register, frame.physical() | ENABLE);
    for _ in 0..1_000 {
        let version = read32(frame, 0);
        let time = SystemTime {
            tsc: read64(frame, 8),
            nanoseconds: read64(frame, 16),
            multiplier: read32(frame, 24),
            shift: (read32(frame, 28) & 0xff) as u8 as i8,
        };
        // Odd while the hypervisor writes.
        if version != 0 && version & 1 == 0 && version == read32(frame, 0) && time.multiplier != 0 {
            port::write_msr(register, 0);
            return Some(time);
        }
    }
    port::write_msr(register, 0);
    None
}

fn with_frame<T>(work: impl FnOnce(Frame) -> Option<T>) -> Option<T> {
    let frame = rumpuser::rumpuser_frame_alloc().ok()?;
    let result = work(frame);
    rumpuser::rumpuser_frame_release(frame);
    result
}

/// The TSC's frequency in Hz, if this is KVM.
pub fn tsc_frequency() -> Option<u64> {
    let (_, register) = registers()?;
    let time = with_frame(|frame| system_time(register, frame))?;
    // nanoseconds = (ticks << shift) * multiplier >> 32, so frequency = 10^9 << 32 / multiplier >> shift.
    let frequency = (1_000_000_000_u128 << 32) / u128::from(time.multiplier);
    let shift = u32::from(time.shift.unsigned_abs());
    let frequency = if time.shift >= 0 { frequency.checked_shr(shift) } else { frequency.checked_shl(shift) };
    u64::try_from(frequency?).ok().filter(|frequency| *frequency != 0)
}

/// The time of day in nanoseconds since 1970, if this is KVM.
pub fn realtime() -> Option<u64> {
    let (wall, register) = registers()?;
    with_frame(|frame| {
        let time = system_time(register, frame)?;
        let elapsed = u128::from(port::tsc().saturating_sub(time.tsc));
        let shift = u32::from(time.shift.unsigned_abs()).min(63);
        let scaled = if time.shift >= 0 { elapsed << shift } else { elapsed >> shift };
        let since_boot =
            time.nanoseconds + u64::try_from((scaled * u128::from(time.multiplier)) >> 32).ok()?;
        // The wall clock at boot: version, seconds, nanoseconds.
        frame.fill(0, 16, 0);
        port::write_msr(wall, frame.physical());
        let (seconds, nanoseconds) = (read32(frame, 4), read32(frame, 8));
        (seconds != 0).then(|| u64::from(seconds) * 1_000_000_000 + u64::from(nanoseconds) + since_boot)
    })
}
