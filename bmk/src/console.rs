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

/// What is written in one go, in bytes: a serial line takes a while for it.
const PIECE: usize = 256;

/// Writes to the console, one writer at a time. Between pieces of a long text, others have their turn, on the CPU
/// and on the console.
pub fn write(bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let limit = rest.len().min(PIECE);
        // Whole lines, if there are any.
        let end =
            rest[..limit].iter().rposition(|byte| *byte == b'\n').map_or(limit, |position| position + 1);
        let (piece, more) = rest.split_at(end);
        write_piece(piece);
        rest = more;
    }
}

fn write_piece(bytes: &[u8]) {
    alone(|| platform().console_write(bytes));
}

/// Calls `f` while nobody else writes.
fn alone<T>(f: impl FnOnce() -> T) -> T {
    rumpuser::rumpuser_preempt_disable();
    let mut looks = 0;
    while WRITE.swap(true, Ordering::Acquire) && looks < PATIENCE {
        looks += 1;
        core::hint::spin_loop();
    }
    let result = f();
    WRITE.store(false, Ordering::Release);
    rumpuser::rumpuser_preempt_enable();
    result
}

/// Writes lines of a trace: beside the console, or to it, marked.
pub fn write_trace(lines: &str) {
    if alone(|| platform().trace_write(lines.as_bytes())) {
        return;
    }
    for line in lines.lines() {
        write(alloc::format!("[trace] {line}\r\n").as_bytes());
    }
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
/// The threads that hand on input, and the request to stop: whoever takes input may make it wait.
static INPUT_THREAD: IrqLock<Option<Arc<Thread>>> = IrqLock::new(None);
static STOP_THREAD: IrqLock<Option<Arc<Thread>>> = IrqLock::new(None);

fn wake(thread: &IrqLock<Option<Arc<Thread>>>) {
    if let Some(thread) = &*thread.lock() {
        thread.unpark();
    }
}

/// How many bytes of input are kept if they come now. A driver leaves others where they are, until
/// [`crate::platform::Platform::console_room`].
pub fn room() -> usize {
    INPUT.saturating_sub(PENDING.lock().len())
}

/// Takes console input from a driver, in any context.
pub fn input(bytes: &[u8]) {
    let mut pending = PENDING.lock();
    let room = INPUT.saturating_sub(pending.len());
    pending.extend(&bytes[..bytes.len().min(room)]);
    drop(pending);
    wake(&INPUT_THREAD);
}

/// Asks for an orderly stop (the power button), in any context.
pub fn request_stop() {
    STOP.store(true, Ordering::SeqCst);
    wake(&STOP_THREAD);
}

/// Looks again for what waits, as a handler has been registered.
pub(crate) fn registered() {
    wake(&INPUT_THREAD);
    wake(&STOP_THREAD);
}

/// Starts the threads that call the handlers.
pub(crate) fn start() -> Result<(), OutOfMemory> {
    PENDING.lock().try_reserve(INPUT).map_err(|_| OutOfMemory)?;
    let spawn = |name: &str, main: fn()| {
        schedule::spawn(ThreadSpec { name: name.into(), affinity: u64::MAX, main: Box::new(main) })
    };
    *INPUT_THREAD.lock() = Some(spawn("console", serve_input)?);
    *STOP_THREAD.lock() = Some(spawn("stop", serve_stop)?);
    Ok(())
}

fn serve_input() {
    loop {
        while hooks::listens() {
            let bytes: Vec<u8> = PENDING.lock().drain(..).collect();
            if bytes.is_empty() {
                break;
            }
            platform().console_room();
            hooks::console_input(&bytes);
        }
        schedule::park(NEVER);
    }
}

fn serve_stop() {
    loop {
        if STOP.load(Ordering::SeqCst) && hooks::stop() {
            STOP.store(false, Ordering::SeqCst);
        }
        schedule::park(NEVER);
    }
}
