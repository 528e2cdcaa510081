//! How the machine ends: the status for the launcher, then power-off by ACPI, or a reset.

use core::arch::asm;

use image::machine::{STATUS_PORT, Status};
use rumpuser::Halt;

use crate::{machine, port};

const SLEEP_ENABLE: u16 = 1 << 13;
const SLEEP_TYPE_SHIFT: u16 = 10;
const SLEEP_TYPE_MASK: u16 = 7 << SLEEP_TYPE_SHIFT;
/// The same in the sleep control register.
const CONTROL_ENABLE: u8 = 1 << 5;
const CONTROL_TYPE_SHIFT: u8 = 2;

/// Tells the launcher. Lost where nothing listens.
pub fn report(status: Status) {
    for byte in status.line(&mut [0; 16]) {
        port::write8(STATUS_PORT, *byte);
    }
}

/// Ends the machine.
pub fn halt(how: Halt) -> ! {
    match how {
        Halt::PowerOff(status) => {
            report(Status::Exit(status));
            power_off();
        }
        Halt::Reboot => report(Status::Reboot),
    }
    reset();
    loop {
        // SAFETY: nothing runs on this CPU from here on.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Waits long enough for the last write to take effect.
fn settle() {
    port::delay(crate::tsc::per_microsecond().saturating_mul(50_000));
}

/// Enters S5. Returns if the machine doesn't.
fn power_off() {
    let Some(machine) = machine::get() else { return };
    let power = &machine.power;
    if let Some((register, kind)) = power.sleep_control {
        register.write8(kind << CONTROL_TYPE_SHIFT | CONTROL_ENABLE);
        settle();
    }
    for enable in [0, SLEEP_ENABLE] {
        for (register, kind) in power.control.iter().flatten() {
            let others = register.read16() & !(SLEEP_TYPE_MASK | SLEEP_ENABLE);
            register.write16(others | u16::from(*kind) << SLEEP_TYPE_SHIFT | enable);
        }
    }
    if power.control.iter().any(Option::is_some) {
        settle();
    }
}

/// Resets the machine by every way there is.
fn reset() {
    if let Some((register, value)) = machine::get().and_then(|machine| machine.power.reset) {
        register.write8(value);
        settle();
    }
    // The keyboard controller's reset line, then the chipset's reset register.
    for (port, value) in [(0x64, 0xfe), (0xcf9, 0x02), (0xcf9, 0x06)] {
        port::write8(port, value);
        settle();
    }
    let nothing = [0_u8; 10];
    // SAFETY: without an interrupt table, the exception ends in a CPU reset; nothing may run afterwards.
    unsafe { asm!("lidt [{}]", "ud2", in(reg) nothing.as_ptr(), options(noreturn)) }
}
