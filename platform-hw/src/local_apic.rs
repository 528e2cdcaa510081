//! The local APIC, by MSRs (x2APIC) where the CPU has it, else by memory: timer, interrupts between CPUs,
//! end of interrupt (Intel SDM volume 3, chapter 11).

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bmk::platform::{SPURIOUS_VECTOR, TIMER_VECTOR};

use crate::port;

const APIC_BASE: u32 = 0x1b;
const APIC_BASE_ENABLE: u64 = 1 << 11;
const APIC_BASE_X2APIC: u64 = 1 << 10;
const TSC_DEADLINE: u32 = 0x6e0;
/// Where the registers are in MSR space; a register's MSR is its memory offset / 16 from here.
const X2APIC_MSR: u32 = 0x800;

/// Register offsets in the memory window.
const IDENTIFIER: u32 = 0x20;
const TASK_PRIORITY: u32 = 0x80;
const END_OF_INTERRUPT: u32 = 0xb0;
const DESTINATION_FORMAT: u32 = 0xe0;
const SPURIOUS: u32 = 0xf0;
const ERROR_STATUS: u32 = 0x280;
const COMMAND_LOW: u32 = 0x300;
const COMMAND_HIGH: u32 = 0x310;
const LVT_TIMER: u32 = 0x320;
const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
const LVT_ERROR: u32 = 0x370;
const INITIAL_COUNT: u32 = 0x380;
const CURRENT_COUNT: u32 = 0x390;
const DIVIDE: u32 = 0x3e0;

const SOFTWARE_ENABLE: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const TIMER_BY_TSC: u32 = 2 << 17;
const DIVIDE_BY_1: u32 = 0b1011;
const DELIVER_NMI: u32 = 4 << 8;
const DELIVER_INIT: u32 = 5 << 8;
const DELIVER_STARTUP: u32 = 6 << 8;
const LEVEL_ASSERT: u32 = 1 << 14;
const DELIVERY_PENDING: u32 = 1 << 12;

/// The virtual address of the registers; 0 in x2APIC mode, and before `discover`.
static WINDOW: AtomicUsize = AtomicUsize::new(0);
static X2APIC: AtomicBool = AtomicBool::new(false);
static DEADLINE_TIMER: AtomicBool = AtomicBool::new(false);
/// Timer ticks per TSC tick, 32.32 fixed point.
static TIMER_RATIO: AtomicU64 = AtomicU64::new(0);

fn read(register: u32) -> u32 {
    if X2APIC.load(Ordering::Relaxed) {
        return port::read_msr(X2APIC_MSR + register / 16) as u32;
    }
    let window = WINDOW.load(Ordering::Relaxed);
    if window == 0 {
        return 0;
    }
    // SAFETY: the window is the mapped page of the local APIC, and registers are aligned inside it.
    unsafe { ((window + register as usize) as *const u32).read_volatile() }
}

fn write(register: u32, value: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        return port::write_msr(X2APIC_MSR + register / 16, u64::from(value));
    }
    let window = WINDOW.load(Ordering::Relaxed);
    if window != 0 {
        // SAFETY: as in `read`.
        unsafe { ((window + register as usize) as *mut u32).write_volatile(value) }
    }
}

/// Whether the CPU has a local APIC at all.
fn present() -> bool {
    port::cpuid(1, 0)[3] & 1 << 9 != 0
}

/// Finds out the mode, on the boot CPU. `address` is the registers' physical address.
pub fn discover(address: u64) {
    if !present() {
        return;
    }
    let features = port::cpuid(1, 0)[2];
    DEADLINE_TIMER.store(features & 1 << 24 != 0, Ordering::Relaxed);
    if features & 1 << 21 != 0 {
        X2APIC.store(true, Ordering::Relaxed);
    } else {
        WINDOW.store(bmk::memory::map_device(address, 4096), Ordering::Relaxed);
    }
    enable();
}

/// Turns on the calling CPU's APIC in the chosen mode.
fn enable() {
    let base = port::read_msr(APIC_BASE);
    let mut wanted = base | APIC_BASE_ENABLE;
    if X2APIC.load(Ordering::Relaxed) {
        if base & APIC_BASE_ENABLE == 0 {
            // From "disabled", the CPU goes to x2APIC mode only by way of xAPIC mode.
            port::write_msr(APIC_BASE, wanted);
        }
        wanted |= APIC_BASE_X2APIC;
    }
    if wanted != base {
        port::write_msr(APIC_BASE, wanted);
    }
}

/// Sets up the calling CPU's APIC.
pub fn initialise_cpu() {
    if !present() {
        return;
    }
    enable();
    write(SPURIOUS, SOFTWARE_ENABLE | u32::from(SPURIOUS_VECTOR));
    write(TASK_PRIORITY, 0);
    if !X2APIC.load(Ordering::Relaxed) {
        write(DESTINATION_FORMAT, u32::MAX);
    }
    write(LVT_LINT0, MASKED);
    write(LVT_LINT1, DELIVER_NMI);
    write(LVT_ERROR, MASKED);
    write(ERROR_STATUS, 0);
    if DEADLINE_TIMER.load(Ordering::Relaxed) {
        write(LVT_TIMER, TIMER_BY_TSC | u32::from(TIMER_VECTOR));
        // The memory write above must take effect before the first write of the deadline.
        port::fence();
    } else {
        write(DIVIDE, DIVIDE_BY_1);
        write(LVT_TIMER, u32::from(TIMER_VECTOR));
    }
}

/// Has the calling CPU take interrupts that others than this module set up.
pub fn accept() {
    if present() {
        enable();
        write(SPURIOUS, SOFTWARE_ENABLE | u32::from(SPURIOUS_VECTOR));
    }
}

/// The calling CPU's APIC identifier.
pub fn identifier() -> u32 {
    if X2APIC.load(Ordering::Relaxed) {
        read(IDENTIFIER)
    } else if WINDOW.load(Ordering::Relaxed) != 0 {
        read(IDENTIFIER) >> 24
    } else {
        port::cpuid(1, 0)[1] >> 24
    }
}

/// The highest APIC identifier that an interrupt can be sent to.
pub fn highest_identifier() -> u32 {
    if X2APIC.load(Ordering::Relaxed) { u32::MAX - 1 } else { 0xfe }
}

/// Ends the interrupt in service.
pub fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

/// Whether the timer still has to learn its frequency.
pub fn timer_needs_calibration() -> bool {
    present() && !DEADLINE_TIMER.load(Ordering::Relaxed)
}

/// Starts the timer's counter from its largest value, without an interrupt.
pub fn start_counter() {
    write(SPURIOUS, SOFTWARE_ENABLE | u32::from(SPURIOUS_VECTOR));
    write(DIVIDE, DIVIDE_BY_1);
    write(LVT_TIMER, MASKED | u32::from(TIMER_VECTOR));
    write(INITIAL_COUNT, u32::MAX);
}

/// How far the counter has come since [`start_counter`].
pub fn counter() -> u32 {
    u32::MAX - read(CURRENT_COUNT)
}

/// Learns the timer's frequency, both in Hz.
pub fn set_frequencies(timer: u64, tsc: u64) {
    write(INITIAL_COUNT, 0);
    let ratio = (u128::from(timer) << 32) / u128::from(tsc.max(1));
    TIMER_RATIO.store(u64::try_from(ratio).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
}

/// Arms the timer for a TSC value; `u64::MAX` disarms.
pub fn set_timer(deadline: u64) {
    if DEADLINE_TIMER.load(Ordering::Relaxed) {
        // 0 disarms; a deadline in the past fires at once.
        let value = if deadline == u64::MAX { 0 } else { deadline.max(1) };
        return port::write_msr(TSC_DEADLINE, value);
    }
    if deadline == u64::MAX {
        return write(INITIAL_COUNT, 0);
    }
    let ticks = u128::from(deadline.saturating_sub(port::tsc()));
    // Rounded up, so that the interrupt doesn't come before the deadline; a far deadline takes several shots.
    let count = ((ticks * u128::from(TIMER_RATIO.load(Ordering::Relaxed))) >> 32) + 1;
    write(INITIAL_COUNT, u32::try_from(count).unwrap_or(u32::MAX));
}

/// Issues an interrupt command. Safe with interrupts enabled and disabled.
fn command(target: u32, low: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        // The target must see what this CPU wrote before; an MSR write doesn't order memory.
        port::fence();
        return port::write_msr(X2APIC_MSR + COMMAND_LOW / 16, u64::from(target) << 32 | u64::from(low));
    }
    let state = rumpuser::rumpuser_interrupts_disable();
    wait_until_delivered();
    write(COMMAND_HIGH, target << 24);
    write(COMMAND_LOW, low);
    rumpuser::rumpuser_interrupts_restore(state);
}

fn wait_until_delivered() {
    if X2APIC.load(Ordering::Relaxed) {
        return;
    }
    for _ in 0..1_000_000 {
        if read(COMMAND_LOW) & DELIVERY_PENDING == 0 {
            break;
        }
        core::hint::spin_loop();
    }
}

/// Sends an interrupt to a CPU.
pub fn send_interrupt(target: u32, vector: u8) {
    command(target, LEVEL_ASSERT | u32::from(vector));
}

/// Starts a CPU in real mode at the page of `entry`. `microsecond` is one in TSC ticks.
///
/// The pauses are those that CPUs of this century need; the second startup interrupt is for those that lost the
/// first, and the others ignore it.
pub fn start_cpu(target: u32, entry: u64, microsecond: u64) {
    let page = (entry >> 12) as u32 & 0xff;
    command(target, DELIVER_INIT | LEVEL_ASSERT);
    wait_until_delivered();
    port::delay(10 * microsecond);
    for _ in 0..2 {
        command(target, DELIVER_STARTUP | LEVEL_ASSERT | page);
        wait_until_delivered();
        port::delay(20 * microsecond);
    }
}
