//! The console: the terminal on the platform's own line.

use alloc::sync::Arc;

use rumpuser::{rumpuser_console_set_input, rumpuser_console_write, sync::Mutex};

use super::{Line, Tty};

/// /dev/console, major 5, minor 1.
pub const CONSOLE_DEVICE: u64 = 5 << 8 | 1;

struct PlatformConsole;

impl Line for PlatformConsole {
    fn room(&self) -> usize {
        usize::MAX / 2
    }

    fn transmit(&self, bytes: &[u8]) {
        rumpuser_console_write(bytes);
    }
}

static CONSOLE: Mutex<Option<Arc<Tty>>> = Mutex::new(None);

/// The console's terminal. The first call connects it to the platform's console input.
pub fn console() -> Arc<Tty> {
    let mut console = CONSOLE.lock();
    if let Some(tty) = &*console {
        return tty.clone();
    }
    let tty = Tty::new(CONSOLE_DEVICE, Arc::new(PlatformConsole), [24, 80, 0, 0]);
    *console = Some(tty.clone());
    drop(console);
    rumpuser_console_set_input(input);
    tty
}

fn input(bytes: &[u8]) {
    console().receive(bytes);
}
