//! The console: the terminal on the platform's own line.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use rumpkern::wait::WaitQueue;
use rumpuser::{rumpuser_clock_monotonic, rumpuser_console_set_input, rumpuser_console_write, sync::Mutex};

use super::{
    Line, Tty,
    termios::{ECHO, ONLCR},
};

/// /dev/console, major 5, minor 1.
pub const CONSOLE_DEVICE: u64 = 5 << 8 | 1;

/// How often a full terminal is looked at, in nanoseconds.
const LOOK_AGAIN: u64 = 50_000_000;

/// Waits for room for input.
static ROOM: WaitQueue = WaitQueue::new();

struct PlatformConsole;

impl Line for PlatformConsole {
    fn room(&self) -> usize {
        usize::MAX / 2
    }

    fn transmit(&self, bytes: &[u8]) {
        rumpuser_console_write(bytes);
    }

    fn input_taken(&self) {
        ROOM.wake_all();
    }
}

/// Whether the console begins without echo.
static NO_ECHO: AtomicBool = AtomicBool::new(false);
static CONSOLE: Mutex<Option<Arc<Tty>>> = Mutex::new(None);

/// The console's terminal. The first call connects it to the platform's console input.
pub fn console() -> Arc<Tty> {
    let mut console = CONSOLE.lock();
    if let Some(tty) = &*console {
        return tty.clone();
    }
    let tty = Tty::new(CONSOLE_DEVICE, Arc::new(PlatformConsole), [24, 80, 0, 0]);
    // What the launcher prints goes to a file, or to a terminal that adds carriage returns itself.
    tty.configure(|termios| {
        termios.output &= !ONLCR;
        if NO_ECHO.load(Ordering::Relaxed) {
            termios.local &= !ECHO;
        }
    });
    *console = Some(tty.clone());
    drop(console);
    rumpuser_console_set_input(input);
    tty
}

/// Turns echo off: the input is not typed by anybody who wants to see it.
pub fn disable_echo() {
    // Before the input is connected, if it isn't yet: some may be waiting.
    NO_ECHO.store(true, Ordering::Relaxed);
    console().configure(|termios| termios.local &= !ECHO);
}

/// Hands input on as there is room for it; the platform holds the rest back.
fn input(mut bytes: &[u8]) {
    let tty = console();
    while !bytes.is_empty() {
        let room = tty.input_room();
        if room == 0 {
            // Room comes by reading, which wakes, and by flushing and changing modes, which doesn't.
            let deadline = rumpuser_clock_monotonic().saturating_add(LOOK_AGAIN);
            let _ = ROOM.wait(deadline, || (tty.input_room() > 0).then_some(()));
            continue;
        }
        let (now, later) = bytes.split_at(room.min(bytes.len()));
        tty.receive(now);
        bytes = later;
    }
}
