//! The serial console: a 16550 at COM1. Output polls, input comes by interrupt.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};

use crate::{interrupts, port};

const BASE: u16 = 0x3f8;
const ISA_INTERRUPT: u8 = 4;
/// Registers of the 16550, as offsets.
const DATA: u16 = 0;
const INTERRUPT_ENABLE: u16 = 1;
const FIFO_CONTROL: u16 = 2;
const INTERRUPT_IDENTIFICATION: u16 = 2;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;
const SCRATCH: u16 = 7;
/// Bits of the line status.
const DATA_READY: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 0x20;

/// The console's state: [`UNKNOWN`], [`ABSENT`], or how many bytes fit when the transmitter is empty.
static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 255;
const ABSENT: u8 = 0;

/// A byte that came before the UART was set up.
static EARLY: AtomicU16 = AtomicU16::new(NOTHING);
const NOTHING: u16 = 0x100;

/// Input waits in the UART, its interrupt is off.
static THROTTLED: AtomicBool = AtomicBool::new(false);

/// Keeps messages of several CPUs apart. A panic doesn't wait for it long.
static BUSY: AtomicBool = AtomicBool::new(false);

/// About a second: what a wait with interrupts disabled may take, in polls of a microsecond or so.
const PATIENCE: u32 = 1_000_000;

fn initialise() -> u8 {
    port::write8(BASE + SCRATCH, 0x5a);
    let absent = port::read8(BASE + SCRATCH) != 0x5a || port::read8(BASE + LINE_STATUS) == 0xff;
    let state = if absent {
        ABSENT
    } else {
        port::write8(BASE + INTERRUPT_ENABLE, 0);
        port::write8(BASE + LINE_CONTROL, 0x80); // the divisor: 1, 115200 baud
        port::write8(BASE + DATA, 1);
        port::write8(BASE + INTERRUPT_ENABLE, 0);
        port::write8(BASE + LINE_CONTROL, 0x03); // 8 bits, no parity, 1 stop bit
        // Turning the FIFO on forgets what came before: the launcher may have said that there is no input.
        if port::read8(BASE + LINE_STATUS) & DATA_READY != 0 {
            EARLY.store(u16::from(port::read8(BASE + DATA)), Ordering::Relaxed);
        }
        port::write8(BASE + FIFO_CONTROL, 0xc7); // enabled, cleared, interrupt at 14 bytes
        port::write8(BASE + MODEM_CONTROL, 0x0b); // DTR, RTS, and OUT2, which lets interrupts through
        if port::read8(BASE + INTERRUPT_IDENTIFICATION) & 0xc0 == 0xc0 { 16 } else { 1 }
    };
    STATE.store(state, Ordering::Relaxed);
    state
}

/// How many bytes fit when the transmitter is empty; [`ABSENT`] without a UART.
fn room() -> u8 {
    match STATE.load(Ordering::Relaxed) {
        UNKNOWN => initialise(),
        state => state,
    }
}

/// Waits until the transmitter is empty. With interrupts disabled it gives up after a while (false).
fn wait_until_empty(patient: bool) -> bool {
    let mut polls = 0;
    while port::read8(BASE + LINE_STATUS) & TRANSMITTER_EMPTY == 0 {
        polls += 1;
        if !patient && polls > PATIENCE {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// Writes to the console. Any context.
pub fn write(bytes: &[u8]) {
    let room = room();
    if room == ABSENT {
        return;
    }
    let patient = port::interrupts_enabled();
    let mut polls = 0;
    let mut owned = true;
    while BUSY.swap(true, Ordering::Acquire) {
        // The holder may be a thread that this CPU just interrupted: garbled output is better than none.
        polls += 1;
        if polls > PATIENCE {
            owned = false;
            break;
        }
        core::hint::spin_loop();
    }
    for chunk in bytes.chunks(usize::from(room)) {
        if !wait_until_empty(patient) {
            break;
        }
        port::write_bytes(BASE + DATA, chunk);
    }
    if owned {
        BUSY.store(false, Ordering::Release);
    }
}

/// Takes what has arrived from the UART. In the interrupt handler.
fn receive() {
    // Reading the identification acknowledges what isn't received data.
    port::read8(BASE + INTERRUPT_IDENTIFICATION);
    let mut bytes = [0; 256];
    let room = bmk::console::room().min(bytes.len());
    let mut count = 0;
    while port::read8(BASE + LINE_STATUS) & DATA_READY != 0 {
        if count == room {
            // The rest stays in the UART, and then with the sender. The line must fall, or it would not rise again.
            THROTTLED.store(true, Ordering::SeqCst);
            port::write8(BASE + INTERRUPT_ENABLE, 0);
            break;
        }
        bytes[count] = port::read8(BASE + DATA);
        count += 1;
    }
    if count > 0 {
        bmk::console::input(&bytes[..count]);
    }
    // Room that came meanwhile was announced too early.
    if bmk::console::room() > 0 {
        resume_input();
    }
}

/// Takes input again, if it was left in the UART.
pub fn resume_input() {
    if THROTTLED.swap(false, Ordering::SeqCst) {
        port::write8(BASE + INTERRUPT_ENABLE, 1);
    }
}

/// Turns on input, once there is someone to read it.
pub fn start_input() {
    static STARTED: AtomicBool = AtomicBool::new(false);
    if room() == ABSENT || STARTED.swap(true, Ordering::AcqRel) {
        return;
    }
    if let Ok(byte) = u8::try_from(EARLY.swap(NOTHING, Ordering::Relaxed)) {
        bmk::console::input(&[byte]);
    }
    if interrupts::establish_isa(ISA_INTERRUPT, Box::new(receive)) {
        port::write8(BASE + INTERRUPT_ENABLE, 1);
    }
}
