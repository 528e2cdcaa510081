//! The console: one writer at a time; input and the request to stop, which come from interrupts and go on in a
//! thread to whoever registered with [`crate::hooks`].

use alloc::{boxed::Box, collections::VecDeque, sync::Arc, vec::Vec};
use core::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use rumpuser::{NEVER, OutOfMemory, ThreadOperations, ThreadSpec};

use crate::{
    hooks,
    lock::IrqLock,
    platform::platform,
    schedule::{self, thread::Thread},
};

static WRITE: AtomicBool = AtomicBool::new(false);
/// How long a writer waits for another before it writes anyway, in looks.
const PATIENCE: u32 = 10_000_000;

/// Writes to the console, one writer at a time.
pub fn write(bytes: &[u8]) {
    rumpuser::rumpuser_preempt_disable();
    let mut looks = 0;
    while WRITE.swap(true, Ordering::Acquire) && looks < PATIENCE {
        looks += 1;
        core::hint::spin_loop();
    }
    platform().console_write(bytes);
    WRITE.store(false, Ordering::Release);
    rumpuser::rumpuser_preempt_enable();
}

/// The console for `write!`, without the lock.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        platform().console_write(text.as_bytes());
        Ok(())
    }
}

/// Writes a line about the kernel itself.
#[macro_export]
macro_rules! message {
    ($($argument:tt)*) => {
        $crate::console::write(alloc::format!("{}\n", format_args!($($argument)*)).as_bytes())
    };
}

/// Input that nobody has taken is kept up to this many bytes.
const INPUT: usize = 4096;

static PENDING: IrqLock<VecDeque<u8>> = IrqLock::new(VecDeque::new());
static STOP: AtomicBool = AtomicBool::new(false);
static THREAD: IrqLock<Option<Arc<Thread>>> = IrqLock::new(None);

fn wake() {
    if let Some(thread) = &*THREAD.lock() {
        thread.unpark();
    }
}

/// Takes console input from a driver, in any context.
pub fn input(bytes: &[u8]) {
    let mut pending = PENDING.lock();
    let room = INPUT.saturating_sub(pending.len());
    pending.extend(&bytes[..bytes.len().min(room)]);
    drop(pending);
    wake();
}

/// Asks for an orderly stop (the power button), in any context.
pub fn request_stop() {
    STOP.store(true, Ordering::SeqCst);
    wake();
}

/// Looks again for what waits, as a handler has been registered.
pub(crate) fn registered() {
    wake();
}

/// Starts the thread that calls the handlers.
pub(crate) fn start() -> Result<(), OutOfMemory> {
    PENDING.lock().try_reserve(INPUT).map_err(|_| OutOfMemory)?;
    let spec = ThreadSpec { name: "console".into(), affinity: u64::MAX, main: Box::new(serve) };
    *THREAD.lock() = Some(schedule::spawn(spec)?);
    Ok(())
}

fn serve() {
    loop {
        if hooks::listens() {
            let bytes: Vec<u8> = PENDING.lock().drain(..).collect();
            if !bytes.is_empty() {
                hooks::console_input(&bytes);
            }
        }
        if STOP.load(Ordering::SeqCst) && hooks::stop() {
            STOP.store(false, Ordering::SeqCst);
        }
        schedule::park(NEVER);
    }
}
